"""What is counted: the records, and that queries, alerts and their pages speak of what is there."""

import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core import monitoring
from core.adapters.service_bus import message_of
from core.errors import Reason
from core.ledger import Promotion, State
from core.monitoring import Changes, queue_age
from core.orders import renewed
from core.telemetry import on_every_record, span
from tests.unit.builders import DEV, NOON, a_command
from tests.unit.test_frozen_deliveries import FROZEN, Ports

REPOSITORY = Path(__file__).parents[2]
QUERIES = sorted((REPOSITORY / "infra" / "queries").glob("*.kql"))
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PARKED = Promotion.requested(a_command(), now=NOON).model_copy(
    update={"state": State.PARKED, "reason": Reason.APPROVAL_WANTED, "hop": 3}
)


@pytest.fixture(autouse=True)
def _fields() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(on_every_record(before))
    yield
    logging.setLogRecordFactory(before)


def told(caplog: pytest.LogCaptureFixture, kind: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if getattr(record, "record", None) == kind]


# --------------------------------------------------------------------------------------------------------------- records


def test_a_change_is_told_with_all_that_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Changes(lambda: NOON + timedelta(minutes=2)).tell(PARKED, DEV)

    (found,) = told(caplog, monitoring.CHANGE)
    assert (found["state"], found["reason"], found["origin"]) == ("parked", "approval_wanted", "notebook")
    assert (found["promotion_id"], found["seconds"]) == (PARKED.id, 120.0)


@pytest.mark.parametrize(
    ("changes", "age"),
    [
        ({"due": NOON - timedelta(seconds=90)}, 90.0),
        ({"due": NOON + timedelta(seconds=90)}, 0.0),
        ({"state": State.REQUESTED, "updated_at": NOON - timedelta(seconds=30)}, 30.0),
        ({"state": State.RUNNING, "updated_at": NOON - timedelta(seconds=30)}, 0.0),
    ],
)
def test_the_queue_is_as_old_as_its_most_overdue_message(changes: dict[str, Any], age: float) -> None:
    row = PARKED.model_copy(update={"due": None} | changes)
    assert queue_age([row, PARKED.model_copy(update={"due": None})], NOON) == age


def test_records_of_a_delivery_bear_promotion_endpoint_and_hop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ports = Ports()
    ports.deliver(FROZEN.model_copy(update={"hop": 7, "traceparent": TRACEPARENT}))

    mine = [vars(record) for record in caplog.records if record.name.startswith("core")]
    assert mine
    expected = (FROZEN.promotion_id, FROZEN.endpoint, 7)
    assert {(each["promotion_id"], each["endpoint"], each["hop"]) for each in mine} == {expected}


# ----------------------------------------------------------------------------------------------------------------- traces


def test_the_trace_goes_from_hop_to_hop_and_is_no_part_of_any_id() -> None:
    ports = Ports()
    command = FROZEN.model_copy(update={"traceparent": TRACEPARENT})
    ports.deliver(command)

    (successor, _) = ports.sent[0]
    assert successor.traceparent == TRACEPARENT
    assert command.message_id == FROZEN.message_id
    assert command.deployment == FROZEN.deployment
    assert (message_of(successor).application_properties or {})["Diagnostic-Id"] == TRACEPARENT


def test_a_message_from_before_has_no_trace() -> None:
    assert "Diagnostic-Id" not in (message_of(a_command()).application_properties or {})


def test_an_attempt_has_the_trace_of_what_asked_for_it() -> None:
    command = a_command(traceparent=TRACEPARENT)
    with span("intake", TRACEPARENT.replace("0af7", "ffff")):
        again = renewed(command)
    assert again.traceparent == TRACEPARENT.replace("0af7", "ffff")
    assert renewed(command).traceparent not in (None, TRACEPARENT)


# ------------------------------------------------------------------------------------------------------ queries and alerts


def documented() -> list[str]:
    return re.findall(r"```kusto\n(.*?)```", OPERATIONS, re.DOTALL)


def test_queries_ask_for_fields_that_records_have(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Changes(lambda: NOON).tell(PARKED, DEV)
    monitoring.tick([], NOON, woken=0, problems=0, drifted=0)
    with span("delivery", promotion_id="p", endpoint="e", target="t", hop=0, attempt=1):
        logging.getLogger("core").info("something")
    there = {name for record in caplog.records for name in vars(record)}
    texts = [path.read_text(encoding="utf-8") for path in QUERIES] + documented()
    asked = {name for text in texts for name in re.findall(r"Properties\.(\w+)", text)}

    assert len(texts) >= 8
    assert asked - there == {"effect"}, "effect is a field of spans alone"
    assert {value for text in texts for value in re.findall(r'Properties\.record == "(\w+)"', text)} == {
        monitoring.CHANGE,
        monitoring.TICK,
    }
    states = {value for text in texts for value in re.findall(r'state [=!]= "(\w+)"', text)}
    assert states <= {state.value for state in State}
