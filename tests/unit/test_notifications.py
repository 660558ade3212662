"""What people are told about a promotion: the life of a row as a table of changes and the notices that they owe."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from core.commands import Order, Verb
from core.errors import Reason
from core.ledger import NoticeType, Promotion, State
from core.notifications import (
    DATA,
    KEPT,
    TEXT_LIMIT,
    Notification,
    PromotionData,
    noted,
    noted_drift,
    noted_overdue,
    notifications,
)
from tests.unit.builders import NOON, a_command

SCHEMAS = Path(__file__).parents[2] / "docs" / "contracts" / "schemas"
HOUR = timedelta(hours=1)
REMEDY = "do something"
RUNNING = {"state": State.RUNNING}
WAITING = {"state": State.WAITING, "reason": None}
SUCCEEDED = {"state": State.SUCCEEDED, "reason": None}
REFUSED = {"state": State.REFUSED, "reason": Reason.SMOKE_FAILED}
DEAD = {"state": State.WAITING, "reason": Reason.DEAD_LETTERED}


def parked(reason: Reason) -> dict[str, Any]:
    return {"state": State.PARKED, "reason": reason}


HELD, DENIED = parked(Reason.ON_HOLD), parked(Reason.PERMISSION_MISSING)
ASKS = parked(Reason.APPROVAL_WANTED)
# A hop that met a fault: it says that the promotion waits, and knows nothing of how it stands.
FAULT = WAITING | {"command": a_command(transients=1).encode().decode()}
UNKNOWN_FAULT = WAITING | {"command": a_command(faults=1).encode().decode()}


def a_row(**changes: Any) -> Promotion:
    return Promotion.requested(a_command(), now=NOON).model_copy(update=changes)


def lived(*changes: dict[str, Any]) -> Promotion:
    """A row after these changes, a minute and a hop apart, each saved as the ledger saves it."""
    row = noted(a_row())
    for number, change in enumerate(changes, start=1):
        usual = {"command": None, "remedy": REMEDY, "hop": number, "updated_at": NOON + number * timedelta(minutes=1)}
        row = noted(row.model_copy(update=usual | change))
    return row


def told(row: Promotion) -> list[str]:
    return [notice.type.removeprefix("Promotion.") for notice in row.notices]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], []),
        ([RUNNING, WAITING, WAITING], []),
        ([RUNNING, FAULT, UNKNOWN_FAULT], []),
        ([RUNNING, WAITING, SUCCEEDED], ["Live"]),
        ([SUCCEEDED, SUCCEEDED], ["Live"]),
        ([REFUSED], ["Refused"]),
        # Parked
        ([HELD, HELD, HELD], ["Parked"]),
        ([HELD, DENIED], ["Parked", "Parked"]),
        ([HELD, WAITING, WAITING], ["Parked", "Recovered"]),
        ([HELD, WAITING, HELD], ["Parked", "Recovered", "Parked"]),
        ([HELD, FAULT, HELD, UNKNOWN_FAULT, HELD], ["Parked"]),
        ([HELD, FAULT, WAITING], ["Parked", "Recovered"]),
        ([HELD, RUNNING], ["Parked"]),
        ([HELD, SUCCEEDED], ["Parked", "Recovered", "Live"]),
        ([HELD, {"state": State.CANCELLED, "reason": Reason.CANCELLED}], ["Parked", "Cancelled"]),
        ([HELD, REFUSED], ["Parked", "Refused"]),
        # Approvals
        ([ASKS, ASKS, WAITING, SUCCEEDED], ["ApprovalWanted", "Approved", "Live"]),
        ([ASKS, SUCCEEDED], ["ApprovalWanted", "Approved", "Live"]),
        ([ASKS, HELD, WAITING], ["ApprovalWanted", "Parked", "Recovered"]),
        ([ASKS, {"state": State.REFUSED, "reason": Reason.REJECTED}], ["ApprovalWanted", "Refused"]),
        # Dead letters
        ([WAITING, DEAD, DEAD], ["DeadLettered"]),
        ([DEAD, WAITING, SUCCEEDED], ["DeadLettered", "Recovered", "Live"]),
        # Once more
        ([REFUSED, {"attempt": 2} | SUCCEEDED], ["Refused", "Recovered", "Live"]),
        ([REFUSED, {"attempt": 2} | WAITING, {"attempt": 2} | REFUSED], ["Refused", "Refused"]),
        ([SUCCEEDED, {"attempt": 2} | SUCCEEDED], ["Live", "Live"]),
        ([ASKS, {"attempt": 2} | ASKS], ["ApprovalWanted", "ApprovalWanted"]),
        # After it was live
        ([SUCCEEDED, {"state": State.ROLLED_BACK}], ["Live", "RolledBack"]),
        ([SUCCEEDED, {"state": State.ROLLED_BACK}, {"attempt": 2} | SUCCEEDED], ["Live", "RolledBack", "Live"]),
        ([SUCCEEDED, {"state": State.RETIRED}], ["Live", "Retired"]),
        ([{"state": State.SUPERSEDED, "reason": Reason.SUPERSEDED}], ["Superseded"]),
    ],
)
def test_each_change_that_a_person_cares_about_is_owed_once(changes: list[dict[str, Any]], expected: list[str]) -> None:
    row = lived(*changes)
    assert told(row) == expected
    assert row.owed == len(expected)
    assert noted(row) == row, "saved again, it has no news"
    assert len({notice.id for notice in row.notices}) == len(expected), "each has its own id"
    assert [event.type.removeprefix("Promotion.") for event in notifications(row)] == expected
    assert notifications(row.model_copy(update={"owed": 0})) == ()


def test_the_same_news_has_the_same_id_however_often_the_hop_is_repeated() -> None:
    once, later = lived(WAITING, HELD), lived(WAITING, HELD | {"updated_at": NOON + HOUR})
    assert once.notices[0].at != later.notices[0].at
    assert once.notices[0].id == later.notices[0].id == f"{once.id}:1:2:Parked"


def test_a_state_that_is_final_owes_something() -> None:
    for state in State:
        assert bool(lived({"state": state, "reason": Reason.SMOKE_FAILED}).owed) == (
            state.is_final or state is State.PARKED
        )


def test_what_was_published_is_not_owed_with_what_comes_next() -> None:
    row = noted(lived(HELD).model_copy(update={"owed": 0}))
    row = noted(row.model_copy(update=SUCCEEDED | {"hop": 9}))
    assert [event.type for event in notifications(row)] == [NoticeType.RECOVERED, NoticeType.LIVE]


def test_a_new_attempt_still_owes_what_the_one_before_did() -> None:
    row = lived(REFUSED)
    again = row.again(a_command(attempt=2), now=NOON + HOUR)
    assert (again.attempt, again.notices, again.owed) == (2, row.notices, 1)


def test_a_topic_that_is_down_for_long_leaves_the_newest_and_rows_that_fit() -> None:
    flapping = lived(*[HELD | {"why": "w" * 9999, "remedy": "r" * 9999}, WAITING] * KEPT, SUCCEEDED)
    assert len(flapping.notices) == flapping.owed == KEPT
    assert told(flapping)[-2:] == ["Recovered", "Live"]
    parked_ones = [notice for notice in flapping.notices if notice.type is NoticeType.PARKED]
    assert all(len(notice.why) == len(notice.remedy or "") == TEXT_LIMIT for notice in parked_ones)
    worst = lived(*[HELD | {"why": "\U0001f600" * 9999, "remedy": "\U0001f600" * 9999}, DENIED] * KEPT)
    text = json.dumps([notice.model_dump(mode="json") for notice in worst.notices], ensure_ascii=False)
    assert len(text.encode("utf-16-le")) // 2 < 32_000, "a property of a table takes no more"


def test_a_command_that_nobody_understands_keeps_no_row_from_being_saved() -> None:
    assert told(lived(HELD, WAITING | {"command": '{"from": "another version"}'})) == ["Parked", "Recovered"]


# --------------------------------------------------------------------------------------------------------------- overdue

ORDER = Order(id="o", verb=Verb.REDEPLOY, by="Operator", at=NOON + 5 * HOUR)


@pytest.mark.parametrize(
    ("row", "hours", "expected"),
    [
        (a_row(), 0.99, False),
        (a_row(), 1, True),
        (lived(RUNNING), 1, True),
        (lived(WAITING), 1, True),
        (lived(HELD), 1, True),
        (lived(DEAD), 1, True),
        (lived(ASKS), 1000, False),
        (lived(SUCCEEDED), 1000, False),
        (lived(REFUSED), 1000, False),
        (lived(ASKS, {"updated_at": NOON + 72 * HOUR} | WAITING), 72.99, False),
        (lived(ASKS, {"updated_at": NOON + 72 * HOUR} | WAITING), 73, True),
        (lived(HELD, {"updated_at": NOON + 3 * HOUR} | WAITING), 3.99, False),
        (lived(WAITING, {"attempt": 2, "order": ORDER} | WAITING), 5.99, False),
        (lived(WAITING, {"attempt": 2, "order": ORDER} | WAITING), 6, True),
    ],
)
def test_overdue(row: Promotion, hours: float, expected: bool) -> None:
    assert (noted_overdue(row, NOON + hours * HOUR, HOUR) != row) is expected


def test_overdue_is_told_once_for_each_attempt_and_hides_no_other_news() -> None:
    late = noted_overdue(lived(HELD), NOON + HOUR, HOUR)
    assert told(late) == ["Parked", "Overdue"]
    assert late.notices[-1].id == f"{late.id}:1:Overdue"
    assert late.notices[-1].why.startswith("not live after 60 minutes; parked: ")
    assert noted(late) == late
    assert noted_overdue(late, NOON + 9 * HOUR, HOUR) == late
    assert told(noted(late.model_copy(update={"hop": 9} | SUCCEEDED))) == ["Parked", "Overdue", "Recovered", "Live"]
    again = late.model_copy(update={"attempt": 2})
    assert told(noted_overdue(again, NOON + 9 * HOUR, HOUR)) == ["Parked", "Overdue", "Overdue"]


def test_drift_is_told_once_under_each_id_and_is_no_other_news() -> None:
    gone = noted_drift(lived(SUCCEEDED), "n1", "the endpoint is gone", NOON + HOUR)
    assert told(gone) == ["Live", "Drifted"]
    assert (gone.notices[-1].why, gone.notices[-1].at) == ("the endpoint is gone", NOON + HOUR)
    assert noted_drift(gone, "n1", "the endpoint is gone", NOON + 9 * HOUR) == gone
    assert noted(gone) == gone
    back = noted_drift(gone, "n2", "", NOON + 2 * HOUR)
    assert told(noted(back)) == ["Live", "Drifted", "DriftResolved"]


# ---------------------------------------------------------------------------------------------------------- notifications


def all_kinds() -> list[Notification]:
    lives = [
        lived(ASKS, WAITING, HELD, WAITING, SUCCEEDED, {"state": State.ROLLED_BACK}),
        lived(DEAD, REFUSED),
        lived({"state": State.RETIRED}),
        lived({"state": State.SUPERSEDED, "reason": Reason.SUPERSEDED}),
        lived({"state": State.CANCELLED, "reason": Reason.CANCELLED}),
        noted_overdue(lived(RUNNING), NOON + HOUR, HOUR),
        noted_drift(lived(SUCCEEDED), "n1", "the endpoint is gone", NOON),
        noted_drift(lived(SUCCEEDED), "n2", "", NOON),
    ]
    return [event for row in lives for event in notifications(row)]


def test_all_types_are_met_here_and_have_data() -> None:
    assert {event.type for event in all_kinds()} == set(NoticeType) == set(DATA)


@pytest.mark.parametrize("event", all_kinds(), ids=lambda event: str(event.type))
def test_a_notification_follows_the_schema_of_its_type_and_tells_what_it_is_about(event: Notification) -> None:
    schema = json.loads((SCHEMAS / f"{event.type}.json").read_text(encoding="utf-8"))
    data = event.data.model_dump(mode="json")
    Draft202012Validator(schema).validate(data)
    row = a_row()
    assert event.subject == "targets/prod/realtime/churn/models/churn:3"
    assert event.source == "/promotion-service"
    assert (data["promotion_id"], data["requested_by"], data["endpoint"]) == (row.id, "Data Scientist", "churn")
    assert set(data) <= set(Promotion.model_fields) | {"promotion_id"}, "what the ledger shows, and no more"


def test_data_of_another_state_is_none_of_this_type() -> None:
    (live,) = notifications(lived(SUCCEEDED))
    with pytest.raises(ValidationError):
        DATA[NoticeType.PARKED].model_validate(live.data.model_dump())


# -------------------------------------------------------------------------------------------------------------- contract

CONTRACT = (SCHEMAS.parent / "notifications.md").read_text(encoding="utf-8")


def test_every_type_is_described() -> None:
    _, _, types = CONTRACT.partition("\n## Types\n")
    assert set(re.findall(r"^\| `(Promotion\.\w+)` \|", types, re.MULTILINE)) == set(NoticeType)


def test_every_field_of_the_data_is_described() -> None:
    rows = [line.split("|")[1] for line in CONTRACT.partition("\n## Data\n")[2].splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(PromotionData.model_fields)


def test_the_example_is_one() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", CONTRACT, re.DOTALL)
    event = json.loads(example)
    Draft202012Validator(json.loads((SCHEMAS / f"{event['type']}.json").read_text())).validate(event["data"])
    found = Notification.model_validate({name: event[name] for name in Notification.model_fields})
    assert DATA[found.type].model_validate(event["data"]).model_dump(mode="json") == event["data"]
    assert f"last {KEPT} notices" in CONTRACT
    assert f"after {TEXT_LIMIT} characters" in CONTRACT
