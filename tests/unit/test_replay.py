"""What is decided about a dead letter: whether anybody still has a use for it, what is sent in its place, what is shown."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from core.commands import EndpointCommand, Order, PromoteModel, Verb, decode
from core.dead_letters import BODY_SHOWN, UNDECODABLE, DeadLetter, again, described, kept, opened, shown, why_stale
from core.errors import Reason
from core.ledger import AuditRecord, Promotion, State
from core.promotion import _is_stale
from tests.unit.builders import NOON, PROD, a_batch_command, a_command

HELD_AT = NOON


def a_row(command: PromoteModel | None = None, **changes: Any) -> Promotion:
    row = Promotion.requested(command or a_command(), now=NOON)
    return row.model_copy(update={"state": State.WAITING} | changes)


def a_word(verb: Verb, **changes: Any) -> EndpointCommand:
    values: dict[str, Any] = {
        "order": Order(id="o", verb=verb, by="Ada", at=HELD_AT),
        "target_name": "prod",
        "target": PROD,
        "serve": "realtime",
        "endpoint": "churn",
        "promotion_id": a_command().promotion_id if verb in (Verb.WAKE, Verb.CANCEL) else None,
    }
    return EndpointCommand.model_validate(values | changes)


def a_letter(body: bytes, **changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "sequence_number": 7,
        "message_id": "m",
        "session_id": "s",
        "dead_letter_reason": "MaxDeliveryCountExceeded",
        "dead_letter_description": "could not be consumed",
        "delivery_count": 3,
        "enqueued_at": NOON,
        "body": body,
    }
    return DeadLetter.model_validate(values | changes)


# ---------------------------------------------------------------------------------------------------------------- stale


@pytest.mark.parametrize(
    ("command", "row", "why"),
    [
        ({"hop": 3}, {"hop": 3}, None),
        ({"hop": 3}, {"hop": 2}, None),
        ({"hop": 3}, {"hop": 3, "state": State.REQUESTED}, None),
        ({"hop": 3}, {"hop": 3, "state": State.RUNNING}, None),
        ({"hop": 3}, {"hop": 3, "state": State.PARKED}, None),
        ({"hop": 3}, {"hop": 4}, "has gone on: it is waiting, at hop 4"),
        ({"hop": 3}, {"hop": 3, "state": State.SUCCEEDED}, "is succeeded"),
        ({"hop": 9}, {"hop": 3, "state": State.REFUSED}, "is refused"),
        ({"hop": 9}, {"hop": 3, "state": State.CANCELLED}, "is cancelled"),
        ({"hop": 9}, {"hop": 0, "attempt": 2}, "is at attempt 2 by now"),
        ({"hop": 0, "attempt": 2}, {"hop": 9, "attempt": 1}, None),
        ({"hop": 0, "attempt": 2}, {"hop": 9, "attempt": 1, "state": State.REFUSED}, None),
    ],
)
def test_a_promotion_that_has_moved_on_has_no_use_for_it(
    command: dict[str, Any], row: dict[str, Any], why: str | None
) -> None:
    sent, there = a_command(**command), a_row(**row)
    found = why_stale(sent, there)
    assert (found is None) is (why is None)
    assert (why or "") in (found or "")
    assert _is_stale(sent, there) is (found is not None), "what is told is what the worker does"


def test_a_promotion_without_a_row_begins_with_it() -> None:
    assert why_stale(a_command(), None) is None


@pytest.mark.parametrize("verb", [Verb.HOLD, Verb.RELEASE])
def test_a_hold_is_stale_once_a_newer_word_has_followed(verb: Verb) -> None:
    def said(action: str, seconds: int) -> AuditRecord:
        at = HELD_AT + timedelta(seconds=seconds)
        place = {"target": "prod", "serve": "realtime", "endpoint": "churn", "session_id": "s"}
        return AuditRecord.model_validate({"id": action, "at": at, "actor": "Bob", "action": action} | place)

    word = a_word(verb)
    assert why_stale(word, None, [said("live", 9), said(verb, 0), said("release", -1), said("hold", -2)]) is None
    for action in ("hold", "release"):
        newer = why_stale(word, None, [said("live", 9), said(action, 1), said(verb, 0)])
        assert newer == f"a newer {action} of churn has followed, by Bob"


@pytest.mark.parametrize("verb", [Verb.WAKE, Verb.CANCEL])
def test_a_word_about_a_promotion_is_stale_once_that_has_ended(verb: Verb) -> None:
    assert why_stale(a_word(verb), a_row(hop=99)) is None
    assert why_stale(a_word(verb), a_row(state=State.SUCCEEDED)) == f"promotion {a_row().id} is succeeded"
    assert "there is no promotion" in str(why_stale(a_word(verb), None))


# ------------------------------------------------------------------------------------------------------ what is sent again


def test_a_command_goes_again_as_it_was_with_its_faults_counted_anew() -> None:
    given: dict[str, Any] = {"hop": 9, "attempt": 2, "faults": 5, "transients": 3, "failing_since": NOON}
    given |= {"phase": "deploy", "phase_since": NOON, "operation": {"url": "https://management.azure.com/o"}}
    before = a_command(**given)
    sent = again(before)
    assert isinstance(sent, PromoteModel)
    assert (sent.faults, sent.transients, sent.failing_since, sent.phase, sent.phase_since) == (0, 0, None, None, None)
    assert (sent.hop, sent.attempt, sent.operation, sent.session_id) == (9, 2, before.operation, before.session_id)
    row = a_row(before, hop=9, attempt=2)
    assert not _is_stale(sent, row), "the worker takes it"
    assert again(sent) == sent


def test_a_word_goes_again_as_one_that_comes_again() -> None:
    """From then on the worker looks whether a newer one has followed."""
    word = a_word(Verb.HOLD)
    sent = again(word)
    assert isinstance(sent, EndpointCommand)
    assert (sent.hop, sent.order, sent.session_id) == (1, word.order, word.session_id)
    assert sent.message_id != word.message_id


# ------------------------------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "body: Invalid JSON"),
        (b"\xff\xfe", "body: Invalid JSON"),
        (b"[]", "body: "),
        (b"null", "body: "),
        (b'{"kind": "teapot"}', "kind: "),
        (b'{"kind": "promote_model"}', "promotion_id: Field required"),
        (b"[" * 100_000, "body: "),
        (b"9" * 100_000, "body: "),
        (json.dumps({"kind": "promote_model", "x" * 20_000: 1}).encode(), "no promotion command"),
        (a_command().encode().replace(b'"stage_number":0', b'"stage_number":7'), "stage number 7"),
        (a_command().encode().replace(b'"schema_version":1', b'"schema_version":2'), "schema_version"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_told_with_what_is_wrong(body: bytes, problem: str) -> None:
    found = opened(a_letter(body, promotion_id="churn-3", endpoint="churn"))
    assert (found.command, found.reason) == (None, UNDECODABLE)
    assert problem in found.problem
    assert len(found.problem) <= 1000
    letter = described(found, a_row(), None)
    assert (letter.promotion_id, letter.endpoint, letter.state) == ("churn-3", "churn", "waiting")
    assert (letter.reason, letter.dead_letter_reason) == (UNDECODABLE, "MaxDeliveryCountExceeded")
    assert "Drop it" in letter.remedy
    assert letter.model_dump_json()


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a#b", "a?b", "x" * 201, "a\x00b", "ä", "a' or 'b"])
def test_names_that_no_promotion_has_are_not_looked_up(name: str) -> None:
    assert opened(a_letter(b"", promotion_id=name)).promotion_id is None
    forged = a_command().model_copy(update={"promotion_id": name})
    assert opened(a_letter(forged.encode())).promotion_id is None


@pytest.mark.parametrize("command", [a_command(), a_batch_command(), a_word(Verb.HOLD), a_word(Verb.WAKE)])
def test_a_command_is_shown_with_its_place(command: PromoteModel | EndpointCommand) -> None:
    found = opened(a_letter(command.encode(), promotion_id="other", endpoint="other"))
    assert found.command == command == decode(command.encode())
    serve = "batch" if isinstance(command, PromoteModel) and command.is_batch else "realtime"
    assert (found.target, found.serve, found.endpoint) == ("prod", serve, "churn")
    assert found.promotion_id == command.promotion_id
    letter = described(found, None, None)
    assert letter.body["kind"] == command.kind
    assert letter.why == "could not be consumed"


def test_the_row_says_why_it_gave_up_and_a_stale_one_says_that() -> None:
    found = opened(a_letter(a_command().encode()))
    gave_up = a_row(why="gave up: KeyError: 'id'", reason=Reason.DEAD_LETTERED)
    assert described(found, gave_up, None).why == "gave up: KeyError: 'id'"
    assert described(found, a_row(why="deployment is being created"), None).why == "could not be consumed"
    stale = described(found, gave_up, "promotion churn is succeeded")
    assert (stale.stale, stale.why) == (True, "stale: promotion churn is succeeded")
    assert "Drop it" in stale.remedy


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"plain\ttext\r\n", "plain\ttext\r\n"),
        ("ä€😀".encode(), "ä€😀"),
        (b"\xff\xfe", base64.b64encode(b"\xff\xfe").decode()),
        (b"a\x00b", base64.b64encode(b"a\x00b").decode()),
        (b"x" * 20_000, "x" * BODY_SHOWN),
        (b"\x01" * 20_000, base64.b64encode(b"\x01" * BODY_SHOWN).decode()),
    ],
)
def test_bodies_are_shown_as_text_or_base64_and_cut(body: bytes, expected: str) -> None:
    assert shown(body) == expected


@pytest.mark.parametrize("piece", [b"x", b'"', b"\\", b"\n", b"\x01", b"\xff", "😀".encode(), "\u2028".encode()])
def test_what_is_kept_of_a_dropped_letter_fits_into_a_row(piece: bytes) -> None:
    """A string of Table Storage has at most 32 Ki characters, in units of UTF-16."""
    text = piece.decode(errors="replace")
    letter = a_letter(
        piece * 100_000, dead_letter_reason=text * 4096, dead_letter_description=text * 4096, message_id=text * 64
    )
    written = json.dumps(kept(letter), ensure_ascii=False)
    assert len(written.encode("utf-16-le")) // 2 < 32_000
    assert json.loads(written)["bytes"] == len(piece) * 100_000
