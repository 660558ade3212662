"""The custom roles of infra/roles held against what the service has asked of the local Azure."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from emulator.access import MISSING, SERVICES, assignments
from emulator.permissions import needed
from emulator.topology import PROMOTION_SERVICE, Topology


def refused(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Operations for which the service had no permission, so that the local Azure refused them."""
    return {entry["detail"][MISSING] for entry in entries if MISSING in entry["detail"]}


def unused(entries: Iterable[Mapping[str, Any]], policy: Path) -> list[str]:
    """Permissions of the roles that no request has needed, each with its role. Those of a full run are worth a look."""
    asked = {
        permission.operation.lower()
        for entry in entries
        if entry["principal"] == PROMOTION_SERVICE.name and entry["service"] in SERVICES
        if (permission := needed(entry["method"], entry["host"], entry["path"], entry["query"]))
    }
    assigned = assignments(yaml.safe_load(policy.read_text(encoding="utf-8")), Topology())
    roles = {role.name: role for each in assigned.roles.values() for role in each}
    return sorted(
        f"{role.name}: {operation}"
        for role in roles.values()
        for operation in role.actions | role.data_actions
        if operation not in asked
    )
