"""Who may do what. The service has the custom roles of infra/roles, where infra/main.bicep assigns them for its policy; others may
do everything. A request without permission is refused at the door, as Resource Manager and Blob Storage refuse it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from emulator.mounts import error_body
from emulator.permissions import Assignments, Permission, Role, needed
from emulator.request_log import Entry
from emulator.topology import PROMOTION_SERVICE, Identity, Topology

ROLES = Path(__file__).parent.parent / "infra" / "roles"
# Where the custom roles are at work; other services have roles of Azure's own.
SERVICES = frozenset({"arm", "azureml", "blob", "monitor"})
MISSING = "missing_permission"


def role(name: str) -> Role:
    return Role.from_json(json.loads((ROLES / f"{name}.json").read_text(encoding="utf-8")))


def assignments(policy: Mapping[str, Any], topology: Topology) -> Assignments:
    """What infra/main.bicep assigns for a policy, and the service's own storage account."""
    found = Assignments(free=frozenset({f"storage:{topology.service_storage_account}"}))
    accounts = {each.arm_id.lower(): each.storage_account for each in topology.workspaces}

    def assign(workspace: str, name: str) -> None:
        found.assign(workspace, role(name))
        if account := accounts.get(workspace.lower()):
            found.assign(f"storage:{account}", role(name))

    for source in policy["sources"].values():
        more = source.get("status_tags") or source.get("register_models")
        assign(_arm_id(source), "source-with-status-tags" if more else "source")
    for target in policy["targets"].values():
        assign(_arm_id(target), "target")
        found.assign(f"/subscriptions/{target['subscription_id']}", role("target-subscription"))
    return found


def _arm_id(workspace: Mapping[str, str]) -> str:
    return (
        f"/subscriptions/{workspace['subscription_id']}/resourceGroups/{workspace['resource_group']}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{workspace['workspace']}"
    )


class Access:
    """Looks at each request before its service does. Without assignments, everybody may do everything."""

    def __init__(self, service: Assignments | None = None) -> None:
        self._assigned = {} if service is None else {PROMOTION_SERVICE.name: service}

    @classmethod
    def of(cls, policy: Path | None, topology: Topology) -> "Access":
        """That of a policy file. What is no policy is for the app to find: then nothing is held to anything."""
        if policy is None:
            return cls()
        try:
            return cls(assignments(yaml.safe_load(policy.read_text(encoding="utf-8")), topology))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError):
            return cls()

    def roles(self, identity: Identity, scope: str) -> list[Role] | None:
        """The roles of an identity at a scope; None for one that may do everything."""
        assigned = self._assigned.get(identity.name)
        return None if assigned is None else assigned.at(scope)

    def refusal(self, entry: Entry, identity: Identity | None) -> web.Response | None:
        """The refusal of a request, if its caller lacks the permission. The entry tells which: `missing_permission`."""
        assigned = self._assigned.get(identity.name) if identity and entry.service in SERVICES else None
        if identity is None or assigned is None:
            return None
        permission = needed(entry.method, entry.host, entry.path, entry.query)
        if permission is None or assigned.allow(permission):
            return None
        entry.detail[MISSING] = permission.operation
        return _of_storage() if entry.service == "blob" else _of_resource_manager(identity, permission, entry.path)


def refusal_text(identity: Identity, operation: str, scope: str) -> str:
    """In Resource Manager's words."""
    return (
        f"The client '{identity.client_id}' with object id '{identity.object_id}' does not have authorization to perform "
        f"action '{operation}' over scope '{scope}' or the scope is invalid. If access was recently granted, please "
        "refresh your credentials."
    )


def _of_resource_manager(identity: Identity, permission: Permission, path: str) -> web.Response:
    text = refusal_text(identity, permission.operation, path)
    return web.json_response(error_body("AuthorizationFailed", text), status=403)


def _of_storage() -> web.Response:
    code = "AuthorizationPermissionMismatch"
    message = "This request is not authorized to perform this operation using this permission."
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(
        status=403, body=body.encode(), content_type="application/xml", headers={"x-ms-error-code": code}
    )
