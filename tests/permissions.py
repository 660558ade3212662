"""The custom roles of infra/roles held against what the service has asked of the local Azure."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from emulator.access import MISSING, SERVICES, assignments
from emulator.permissions import Role, needed
from emulator.topology import PROMOTION_SERVICE, Topology

SECURITY = Path(__file__).parent.parent / "docs" / "security.md"
_UNEXERCISED = re.compile(r"^\| \*(Model promotion [a-z ]+)\* \| `(\S+)` \| (.+) \|$", re.MULTILINE)


def refused(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Operations for which the service had no permission, so that the local Azure refused them."""
    return {entry["detail"][MISSING] for entry in entries if MISSING in entry["detail"]}


def used(entries: Iterable[Mapping[str, Any]], policy: Path) -> set[str]:
    """Permissions that requests of the service have needed, each with every role that had it where it was asked for.

    (Where a workspace is target and source, both roles have what they share.)
    """
    assigned = assignments(yaml.safe_load(policy.read_text(encoding="utf-8")), Topology())
    asked = {
        permission
        for entry in entries
        if entry["principal"] == PROMOTION_SERVICE.name and entry["service"] in SERVICES
        if (permission := needed(entry["method"], entry["host"], entry["path"], entry["query"]))
    }
    return {
        named(role, permission.operation)
        for permission in asked
        for role in assigned.at(permission.scope)
        if role.allows(permission)
    }


def named(role: Role, operation: str) -> str:
    return f"{role.name}: {operation.lower()}"


def unused(found: Iterable[str], policy: Path) -> set[str]:
    """Permissions that no request has needed, of the roles that this policy makes infra/ assign."""
    assigned = assignments(yaml.safe_load(policy.read_text(encoding="utf-8")), Topology())
    roles = {role for each in assigned.roles.values() for role in each}
    return {named(role, operation) for role in roles for operation in role.actions | role.data_actions} - {*found}


def unexercised() -> dict[str, str]:
    """Those of which docs/security.md says why the service has them although no test needs them, and its reasons."""
    found = _UNEXERCISED.findall(SECURITY.read_text(encoding="utf-8"))
    return {
        f"{role}: {operation.replace('ML/', 'Microsoft.MachineLearningServices/').lower()}": why
        for role, operation, why in found
    }


def disagreements(found: Iterable[str], policy: Path) -> list[str]:
    """What a run of all tests, which used these permissions, says against the roles and docs/security.md."""
    idle, excused = unused(found, policy), {*unexercised()}
    return sorted(
        [
            f"{each}: no test needs it; take it out of infra/roles, or say in docs/security.md why it is there"
            for each in idle - excused
        ]
        + [
            f"{each}: docs/security.md says that no test needs it, but one does, or no role has it"
            for each in excused - idle
        ]
    )
