"""The custom roles of infra/roles held against what the service has asked of the local Azure."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.policy import Policy
from emulator.permissions import Assignments, Permission, Role, needed
from emulator.topology import PROMOTION_SERVICE, Topology

ROLES = Path(__file__).parent.parent / "infra" / "roles"
# Where roles of infra/ are at work; its own storage, queue and topic the service reaches with roles of Azure's.
SERVICES = ("arm", "azureml", "blob", "monitor")


def role(name: str) -> Role:
    return Role.from_json(json.loads((ROLES / f"{name}.json").read_text(encoding="utf-8")))


def assignments(policy: Policy, topology: Topology) -> Assignments:
    """What infra/main.bicep assigns for a policy."""
    found = Assignments()
    accounts = {workspace.arm_id.lower(): workspace.storage_account for workspace in topology.workspaces}
    for source in policy.sources.values():
        name = "source-with-status-tags" if source.status_tags or source.register_models else "source"
        _assign(found, source.id.arm_id, accounts, name)
    for target in policy.targets.values():
        _assign(found, target.id.arm_id, accounts, "target")
        found.assign(f"/subscriptions/{target.id.subscription_id}", role("target-subscription"))
    return found


def _assign(found: Assignments, workspace: str, accounts: Mapping[str, str], name: str) -> None:
    found.assign(workspace, role(name))
    found.assign(f"storage:{accounts[workspace.lower()]}", role(name))


def missing(entries: Iterable[Mapping[str, Any]], assigned: Assignments, topology: Topology) -> set[Permission]:
    """Permissions that requests of the service needed and that no role gives it."""
    own = f"{topology.service_storage_account}.blob."
    asked = {
        needed(entry["method"], entry["host"], entry["path"], entry["query"])
        for entry in entries
        if entry["principal"] == PROMOTION_SERVICE.name
        and entry["service"] in SERVICES
        and not entry["host"].startswith(own)
    }
    return {permission for permission in asked if permission is not None and not assigned.allow(permission)}
