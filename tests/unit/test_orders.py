"""What is decided about an order from values alone; its way through ledger and queue is in tests/functions."""

from typing import Any

import pytest

from core.approvals import check_who
from core.callers import KEY_HOLDER, NOBODY, Caller
from core.commands import Order, Verb
from core.ledger import AuditRecord, Decision, Promotion, State
from core.orders import OrderProblem, OrderRefused, order_id
from core.stages import Approval
from tests.unit.builders import NOON, a_command

ROLE = "Promotion.Approver"
ADA = Caller(name="Ada", names=frozenset({"ada", "ada@example.com"}), roles=frozenset({ROLE}))
BOB = Caller(name="Bob", names=frozenset({"bob"}))


def a_row(*, requested_by: str = "Carol", ordered_by: str | None = None) -> Promotion:
    order = None if ordered_by is None else Order(id="o", verb=Verb.RETRY, by=ordered_by, at=NOON)
    return Promotion.requested(a_command(requested_by=requested_by, order=order), now=NOON)


@pytest.mark.parametrize(
    ("caller", "row", "refused"),
    [
        (ADA, a_row(), None),
        (ADA, a_row(ordered_by="Bob"), None),
        (NOBODY, a_row(), "a function key alone approves nothing"),
        (BOB, a_row(), "does not have the role"),
        (ADA, a_row(requested_by="Ada"), "asked for it"),
        (ADA, a_row(requested_by="ADA@example.com"), "asked for it"),
        (ADA, a_row(requested_by="unknown"), "is not known"),
        (ADA, a_row(requested_by=""), "is not known"),
        (ADA, a_row(requested_by=KEY_HOLDER), "is not known"),
        (ADA, a_row(ordered_by="Ada"), "asked for it"),
        (ADA, a_row(ordered_by=KEY_HOLDER), "is not known"),
        # Whoever asked last counts as well as whoever it was opened for, who may not come back through another's retry.
        (ADA, a_row(requested_by="Ada", ordered_by="Bob"), "asked for it"),
        (ADA, a_row(requested_by="unknown", ordered_by="Bob"), None),
    ],
)
def test_who_may_approve(caller: Caller, row: Promotion, refused: str | None) -> None:
    if refused is None:
        check_who(row, caller, Decision.APPROVED, Approval())
        return
    with pytest.raises(OrderRefused, match=refused) as caught:
        check_who(row, caller, Decision.APPROVED, Approval())
    assert caught.value.problem is OrderProblem.FORBIDDEN


@pytest.mark.parametrize(
    ("caller", "decision", "approval", "allowed"),
    [
        (ADA, Decision.REJECTED, Approval(), True),
        (BOB, Decision.REJECTED, Approval(), False),
        (NOBODY, Decision.REJECTED, Approval(), False),
        (ADA, Decision.APPROVED, Approval(requester_may_approve=True), True),
        (BOB, Decision.APPROVED, Approval(requester_may_approve=True), False),
        (ADA, Decision.APPROVED, Approval(role="Other"), False),
    ],
)
def test_who_may_decide_about_what_is_their_own(
    caller: Caller, decision: Decision, approval: Approval, allowed: bool
) -> None:
    row = a_row(requested_by=caller.name)
    if allowed:
        check_who(row, caller, decision, approval)
    else:
        with pytest.raises(OrderRefused):
            check_who(row, caller, decision, approval)


def test_an_order_is_the_same_for_the_same_caller_key_and_request_only() -> None:
    same = order_id(ADA, "key", "retry", "promotion")
    assert same == order_id(ADA, "key", "retry", "promotion")
    others = [
        order_id(BOB, "key", "retry", "promotion"),
        order_id(ADA, "other", "retry", "promotion"),
        order_id(ADA, "key", "cancel", "promotion"),
        order_id(ADA, "key", "retry", "another"),
        order_id(ADA, "key\nretry", "promotion"),
    ]
    assert len({same, *others}) == 6
    assert len(same) == 40


def test_a_promotion_that_is_asked_for_again_keeps_its_place_and_begins_anew() -> None:
    first = Promotion.requested(a_command(), now=NOON, evidence="files")
    ended = {
        "state": State.REFUSED,
        "why": "w",
        "remedy": "r",
        "hop": 7,
        "result": {"log": "l"},
        "etag": "e",
        "due": NOON,
    }
    order = Order(id="o", verb=Verb.RETRY, by="Ada", at=NOON)
    changes: dict[str, Any] = {
        "attempt": 2,
        "order": order,
        "requested_by": "Ada",
        "requested_at": NOON.replace(hour=13),
    }
    again = first.model_copy(update=ended).again(a_command(**changes), now=NOON.replace(hour=14))
    assert (again.state, again.attempt, again.hop, again.order) == (State.REQUESTED, 2, 0, order)
    assert (again.why, again.reason, again.remedy, again.due, again.result) == ("", None, None, None, None)
    assert (again.requested_at, again.requested_by) == (first.requested_at, first.requested_by), "its place in the list"
    assert (again.etag, again.evidence) == ("e", "files"), "it replaces what was read"
    assert again.updated_at == NOON.replace(hour=14)


def test_an_order_is_audited_as_the_same_record_however_often() -> None:
    row = a_row(ordered_by="Bob")
    assert row.order is not None
    record = AuditRecord.of(row, row.order, Verb.RETRY)
    assert record == AuditRecord.of(row, row.order, Verb.RETRY)
    assert (record.id, record.actor, record.at, record.action) == ("retry:o", "Bob", NOON, "retry")
