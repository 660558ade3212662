"""Which permission of Azure's role-based access control a request needs. Pure.

Resource Manager's rule: the operation is the resource type and `read`, `write` or `delete`; of a POST, the last part of the path
and `action` (Azure custom roles, "Custom role properties"). Storage names the permission of each of its operations (REST API of
Blob Storage, "Authorize with Microsoft Entra ID" and the pages of the operations). Of Azure ML's own hosts no page tells which
permission a request needs: what is said of them here is inferred, and docs/security.md marks it so.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PROVIDER = "Microsoft.MachineLearningServices"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices"
_VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}
_SUBSCRIPTION = re.compile(r"/subscriptions/[^/]+", re.IGNORECASE)
_WORKSPACE = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(rf"(?:{_WORKSPACE.pattern}|{_SUBSCRIPTION.pattern})", re.IGNORECASE)


@dataclass(frozen=True)
class Permission:
    """An operation, and the scope at which a role must allow it: an ARM id, or `storage:` and the account's name."""

    operation: str
    scope: str
    is_data: bool = False


@dataclass(frozen=True)
class Role:
    """A custom role definition, as `az role definition create` takes it."""

    name: str
    actions: frozenset[str]
    data_actions: frozenset[str]

    @classmethod
    def from_json(cls, definition: Mapping[str, Any]) -> "Role":
        return cls(definition["Name"], _lower(definition["Actions"]), _lower(definition["DataActions"]))

    def allows(self, permission: Permission) -> bool:
        """Operations are compared without regard to case, as Azure does."""
        return permission.operation.lower() in (self.data_actions if permission.is_data else self.actions)


@dataclass
class Assignments:
    """Roles of one identity, by scope in lower case. A role counts at its scope and below.

    `free` are scopes at which roles of Azure's own allow everything.
    """

    roles: dict[str, list[Role]] = field(default_factory=dict)
    free: frozenset[str] = frozenset()

    def assign(self, scope: str, role: Role) -> None:
        self.roles.setdefault(scope.lower(), []).append(role)

    def at(self, scope: str) -> list[Role]:
        scope = scope.lower()
        return [
            role
            for above, roles in self.roles.items()
            if scope == above or scope.startswith(f"{above}/")
            for role in roles
        ]

    def allow(self, permission: Permission) -> bool:
        return permission.scope.lower() in self.free or any(
            role.allows(permission) for role in self.at(permission.scope)
        )


def needed(method: str, host: str, path: str, query: Mapping[str, str] | None = None) -> Permission | None:
    """The permission that a request needs; None where none is needed, or where another service is asked."""
    path = path.partition("?")[0]
    if host == "management.azure.com":
        return _of_resource_manager(method, path)
    if host.endswith(".api.azureml.ms"):
        return _of_azure_ml(method, path)
    if host.endswith(".metrics.monitor.azure.com"):
        return Permission("Microsoft.Insights/metrics/read", _found(_SUBSCRIPTION, path))
    account, _, rest = host.partition(".blob.")
    return _of_blobs(method, account, path, query or {}) if rest else None


def _of_resource_manager(method: str, path: str) -> Permission:
    scope = _found(_ASSIGNED, path)
    provider, *parts = path.rpartition("/providers/")[2].strip("/").split("/")
    if method == "POST":
        *parts, action = parts
        return Permission("/".join([provider, *parts[::2], action, "action"]), scope)
    return Permission("/".join([provider, *parts[::2], _VERBS[method]]), scope)


def _of_azure_ml(method: str, path: str) -> Permission | None:
    scope = _found(_WORKSPACE, path)
    if path.startswith("/history/") or path.endswith("/mlflow/runs/get"):
        return Permission(f"{PROVIDER}/workspaces/experiments/runs/{_VERBS.get(method, 'write')}", scope)
    if path.endswith("/mlflow/model-versions/set-tag"):
        return Permission(f"{PROVIDER}/workspaces/models/write", scope)
    return None


def _of_blobs(method: str, account: str, path: str, query: Mapping[str, str]) -> Permission:
    """Creating a blob asks for `add`, replacing one for `write`: the service never replaces, so `write` is never needed.

    (Put Blob and Copy Blob: "write, or add to create a new blob".) Blocks and properties of blobs that are there want `write`.
    """
    scope, command = f"storage:{account}", query.get("comp", "").lower()
    if command == "userdelegationkey":
        return Permission(f"{BLOBS}/generateUserDelegationKey/action", scope)
    if query.get("restype", "").lower() == "container" and method != "GET":
        return Permission(f"{BLOBS}/containers/{_VERBS[method]}", scope)
    if method == "PUT" and not command:
        return Permission(f"{BLOBS}/containers/blobs/add/action", scope, is_data=True)
    return Permission(f"{BLOBS}/containers/blobs/{_VERBS[method]}", scope, is_data=True)


def _found(pattern: re.Pattern[str], path: str) -> str:
    found = pattern.search(path)
    return found[0] if found else path


def _lower(operations: Iterable[str]) -> frozenset[str]:
    return frozenset(each.lower() for each in operations)
