"""How a whole run is held against the roles, and what docs/security.md excuses (tests/conftest.py does it at the end of a run)."""

from typing import Any

import pytest

from emulator.access import ROLES, role
from emulator.topology import DATA_SCIENTIST, DEV, PROD, PROMOTION_SERVICE
from tests.conftest import POLICY
from tests.permissions import disagreements, unexercised, unused, used

TARGET, TAGGING = "Model promotion target", "Model promotion source with status tags"
READS = "microsoft.machinelearningservices/workspaces/models/versions/read"


def asked(method: str, path: str, principal: str = PROMOTION_SERVICE.name, service: str = "arm") -> dict[str, Any]:
    host = "management.azure.com"
    return {"method": method, "host": host, "path": path, "query": {}, "principal": principal, "service": service}


@pytest.mark.parametrize(
    ("entry", "permissions"),
    [
        (asked("GET", f"{PROD.arm_id}/models/m/versions/1"), {f"{TARGET}: {READS}"}),
        (asked("GET", f"{DEV.arm_id.lower()}/models/m/versions/1"), {f"{TAGGING}: {READS}"}),
        (asked("DELETE", f"{PROD.arm_id}/models/m/versions/1"), set()),
        (asked("GET", f"{PROD.arm_id}/models/m/versions/1", principal=DATA_SCIENTIST.name), set()),
        (asked("GET", f"{PROD.arm_id}/models/m/versions/1", service="table"), set()),
    ],
)
def test_a_permission_is_used_by_the_role_that_has_it_there(entry: dict[str, Any], permissions: set[str]) -> None:
    assert used([entry], POLICY) == permissions


def test_a_run_must_use_all_but_what_is_excused() -> None:
    everything = unused([], POLICY)
    needed = everything - {*unexercised()}
    assert len(needed) > 40
    assert disagreements(needed, POLICY) == []

    (missed,) = disagreements(needed - {f"{TARGET}: {READS}"}, POLICY)
    assert missed.startswith(f"{TARGET}: {READS}: no test needs it")
    more = disagreements(everything, POLICY)
    assert len(more) == len(unexercised())
    assert all("docs/security.md says that no test needs it" in each for each in more)


def test_the_roles_of_the_tests_are_those_of_infra() -> None:
    """But the one of a source without status tags, which has less than the one with them (test_roles)."""
    held = {each.partition(": ")[0] for each in unused([], POLICY)}
    assert held == {role(path.stem).name for path in ROLES.glob("*.json")} - {role("source").name}


def test_each_excuse_says_why() -> None:
    assert all(len(why.split()) >= 5 for why in unexercised().values())
