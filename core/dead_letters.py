"""What a dead letter is, whether anybody still has a use for it, and what is sent in its place. Pure."""

import base64
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from core.commands import Command, EndpointCommand, PromoteModel, Verb, decode
from core.errors import Reason, UndecodableMessage
from core.ledger import AuditRecord, Promotion

UNDECODABLE = "undecodable"
# Of a body that is no command, so much is shown, and kept when it is dropped; of what is wrong with it, so much is told.
BODY_SHOWN, PROBLEM_SHOWN, NAME_KEPT = 8000, 1000, 200
# Dead letters that are no command belong to no endpoint: what was done to them is audited under this name.
NO_SESSION = "dead-letters"
_HOLDS = (Verb.HOLD, Verb.RELEASE)
_PROMOTION_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeadLetter(_Value):
    """A message in the dead-letter queue, as the broker tells it.

    `promotion_id` and `endpoint` are application properties, which can be read however bad the body is.
    """

    sequence_number: int
    message_id: str
    session_id: str | None
    dead_letter_reason: str
    dead_letter_description: str
    delivery_count: int
    enqueued_at: datetime
    promotion_id: str | None = None
    endpoint: str | None = None
    body: bytes


class Opened(_Value):
    """A dead letter and the command in it; `problem` says why there is none."""

    letter: DeadLetter
    command: Command | None
    problem: str = ""

    @property
    def reason(self) -> str:
        """By which dead letters are grouped: the broker's reason, unless it is plain that no repeat would help."""
        return self.letter.dead_letter_reason if self.command else UNDECODABLE

    @property
    def promotion_id(self) -> str | None:
        """None also if it could be no promotion's: it comes from outside, and is looked up in the ledger."""
        found = self.command.promotion_id if self.command else self.letter.promotion_id
        return found if found and _PROMOTION_ID.fullmatch(found) else None

    @property
    def target(self) -> str | None:
        if isinstance(self.command, PromoteModel):
            return self.command.stage.target
        return self.command.target_name if self.command else None

    @property
    def serve(self) -> str | None:
        if isinstance(self.command, PromoteModel):
            return self.command.stage.serve
        return self.command.serve if self.command else None

    @property
    def endpoint(self) -> str | None:
        return self.command.endpoint if self.command else self.letter.endpoint


class Letter(_Value):
    """A dead letter for people: what is in it, why it is there, and where its promotion stands now.

    `body` is the command, or as much of the text (base64, if it is none) as there is place for. `stale` says that nobody has
    a use for it any more.
    """

    sequence_number: int
    message_id: str
    reason: str
    why: str
    remedy: str
    stale: bool
    promotion_id: str | None
    endpoint: str | None
    target: str | None
    state: str | None
    dead_letter_reason: str
    dead_letter_description: str
    delivery_count: int
    enqueued_at: datetime
    body: Any


def opened(letter: DeadLetter) -> Opened:
    try:
        return Opened(letter=letter, command=decode(letter.body))
    except UndecodableMessage as error:
        return Opened(letter=letter, command=None, problem=str(error)[:PROBLEM_SHOWN])


def why_stale(command: Command, row: Promotion | None, trail: Iterable[AuditRecord] = ()) -> str | None:
    """Why nobody has a use for this command any more; None if it is as good as when it was sent.

    `row` is that of its promotion, `trail` what was done to its endpoint.
    """
    if isinstance(command, EndpointCommand):
        return _why_word_is_stale(command, row, trail)
    if row is None:
        return None
    if command.attempt < row.attempt:
        return f"promotion {row.id} is at attempt {row.attempt} by now"
    if command.attempt > row.attempt:
        return None
    if row.state.is_final:
        return f"promotion {row.id} is {row.state}"
    if command.hop < row.hop:
        return f"promotion {row.id} has gone on: it is {row.state}, at hop {row.hop}"
    return None


def _why_word_is_stale(word: EndpointCommand, row: Promotion | None, trail: Iterable[AuditRecord]) -> str | None:
    order = word.order
    if order.verb in _HOLDS:
        newer = next((found for found in trail if found.action in _HOLDS and found.at > order.at), None)
        return f"a newer {newer.action} of {word.endpoint} has followed, by {newer.actor}" if newer else None
    if row is None:
        return f"there is no promotion {word.promotion_id}"
    return f"promotion {row.id} is {row.state}" if row.state.is_final else None


def again(command: Command) -> Command:
    """What is sent in the place of a dead letter: faults are counted anew, and the time that it lay there is not counted.

    A word counts as one that comes again, so that the worker looks whether a newer one has followed meanwhile.
    """
    if isinstance(command, EndpointCommand):
        return command.model_copy(update={"hop": command.hop + 1})
    return rested(command)


def rested(command: PromoteModel) -> PromoteModel:
    """Without what the deliveries before have counted."""
    return command.model_copy(
        update={"faults": 0, "transients": 0, "failing_since": None, "phase": None, "phase_since": None}
    )


def described(found: Opened, row: Promotion | None, stale: str | None) -> Letter:
    letter, command = found.letter, found.command
    return Letter(
        sequence_number=letter.sequence_number,
        message_id=letter.message_id,
        reason=found.reason,
        why=_why(found, row, stale),
        remedy=_remedy(found, stale),
        stale=stale is not None,
        promotion_id=found.promotion_id,
        endpoint=found.endpoint,
        target=found.target,
        state=row.state if row else None,
        dead_letter_reason=letter.dead_letter_reason,
        dead_letter_description=letter.dead_letter_description,
        delivery_count=letter.delivery_count,
        enqueued_at=letter.enqueued_at,
        body=command.model_dump(mode="json", exclude_none=True) if command else shown(letter.body),
    )


def _why(found: Opened, row: Promotion | None, stale: str | None) -> str:
    if found.command is None:
        return found.problem
    if stale:
        return f"stale: {stale}"
    if row is not None and row.reason is Reason.DEAD_LETTERED and row.why:
        return row.why
    return found.letter.dead_letter_description or found.letter.dead_letter_reason


def _remedy(found: Opened, stale: str | None) -> str:
    if found.command is None:
        return "Drop it, with a reason; find out who sent it."
    if stale:
        return "Drop it. Retry or redeploy the promotion if it is wanted."
    return "Correct the cause, then resubmit it."


def kept(letter: DeadLetter) -> dict[str, Any]:
    """What stays in the audit of a dead letter that is dropped; it fits into a row of the ledger whatever it holds."""
    return {
        "sequence_number": letter.sequence_number,
        "message_id": letter.message_id,
        "dead_letter_reason": letter.dead_letter_reason[:NAME_KEPT],
        "dead_letter_description": letter.dead_letter_description[:PROBLEM_SHOWN],
        "enqueued_at": letter.enqueued_at.isoformat(),
        "bytes": len(letter.body),
        "body": shown(letter.body),
    }


def shown(body: bytes) -> str:
    """The beginning of a body as text; as base64 if it is none, or has characters that a row could not hold."""
    text = body.decode("utf-8", errors="replace")
    return base64.b64encode(body[:BODY_SHOWN]).decode() if _CONTROL.search(text) else text[:BODY_SHOWN]
