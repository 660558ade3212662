"""SIGKILL of the host at each point of a resubmission: no message is lost, and no effect is doubled."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.e2e.test_dead_letters import dead_letters
from tests.e2e.test_realtime import register
from tests.faults.killing import effective_writes, last_number
from tests.local import LocalAzure

# One in each state that a kill can leave; writes that are half done are in tests/functions/test_failed.py.
POINTS = [
    pytest.param({"service": "table", "method": "PUT", "phase": "after", "skip": 1}, id="audited"),
    pytest.param(
        {"service": "service_bus", "method": "SEND", "phase": "before"}, id="the row says it, before it is sent"
    ),
    pytest.param({"service": "service_bus", "method": "COMPLETE", "phase": "before"}, id="sent, and not completed"),
    pytest.param({"service": "service_bus", "method": "COMPLETE", "phase": "after"}, id="completed, and not told"),
]


def dead_letter(azure: LocalAzure, model: str, directory: Path) -> dict[str, Any]:
    """A promotion that has met an unknown fault until its message was given up; the fault is gone."""
    path = f"workspaces/ml-prod/models/{model}/versions/"
    number = azure.control.plant(service="arm", method="GET", path=path, status=200, body={"a": "b"}, times=1000)
    register(azure, model, models.regression_with_example(directory), **{"promote-to": "prod"})
    faults: set[str] = set()

    def given_up() -> dict[str, Any] | None:
        for row in azure.promotions_of(model):
            if "fault" in row["why"] and row["why"] not in faults:
                faults.add(row["why"])
                azure.control.advance(60)
        return next((each for each in dead_letters(azure) if each["endpoint"] == model), None)

    found = azure.wait_for(given_up, what="a dead letter")
    azure.control.remove(number)
    return found


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_during_a_resubmission_loses_and_doubles_nothing(
    local_azure: LocalAzure, tmp_path: Path, point: dict[str, Any]
) -> None:
    model = f"killed-letter-{POINTS.index(next(each for each in POINTS if each.values[0] == point))}"
    letter = dead_letter(local_azure, model, tmp_path)
    place = f"dead-letters/{letter['sequence_number']}/resubmit"
    before = last_number(local_azure)
    number = local_azure.control.plant(**point, hold=True, times=1)

    def ask() -> None:
        try:
            local_azure.order(place, {"reason": "killed"})
        except OSError:
            return  # the host is dead

    asking = threading.Thread(target=ask)
    asking.start()
    local_azure.wait_for(lambda: local_azure.control.fault(number)["met"] or None, what="the point of the kill")
    local_azure.control.post("/function-app/kill")
    local_azure.control.remove(number)
    asking.join()
    local_azure.control.post("/function-app/start")
    local_azure.control.advance(61)  # the lock of the dead letter is over

    def there_or_done() -> bool | None:
        rows = [row for row in local_azure.promotions_of(model) if row["state"] == "succeeded"]
        return True if rows or any(each["endpoint"] == model for each in dead_letters(local_azure)) else None

    local_azure.wait_for(there_or_done, what="the letter, or its end")
    again = local_azure.order(place, {"reason": "once more"})
    assert again["status_code"] in (202, 404, 409), again

    row = local_azure.wait_for_end(model)
    assert row["state"] == "succeeded"
    written = effective_writes(local_azure, before)
    deployments = [path for path in written if "/deployments/" in path]
    assert [written[path] for path in deployments] == [1], "one deployment, made once"
    left = [each for each in dead_letters(local_azure) if each["endpoint"] == model]
    for each in left:
        assert (
            local_azure.order(f"dead-letters/{each['sequence_number']}/drop", {"reason": "done"})["status_code"] == 200
        )
