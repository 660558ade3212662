"""Failed work goes again: dead letters of the queue, and promotions that were refused. None is lost on the way.

A dead letter is resubmitted in the order peek-lock, send, complete, under an id that follows from its sequence number: a crash
in between leaves it where it is, and the repeat is the same message. What the ledger says decides whether it is worth
sending: a promotion that has ended or begun anew since has no use for it.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from core.callers import Caller
from core.commands import Command, EndpointCommand, PromoteModel, decode
from core.errors import Reason, UndecodableMessage
from core.ledger import AuditRecord, Promotion, State
from core.orders import OrderProblem, OrderRefused, Orders
from core.ports import Ledger

BODY_SHOWN = 8000
AT_ONCE = 50
UNDECODABLE = "undecodable"
NOBODYS_SESSION = "none"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeadLetter(_Value):
    """A message in the dead-letter queue, as the broker tells it."""

    sequence_number: int
    message_id: str
    session_id: str | None
    dead_letter_reason: str
    dead_letter_description: str
    delivery_count: int
    enqueued_at: datetime
    body: bytes


class Letter(_Value):
    """A dead letter for people: its body as far as it can be read, and where its promotion stands now."""

    sequence_number: int
    message_id: str
    reason: str
    why: str
    remedy: str
    promotion_id: str | None
    endpoint: str | None
    target: str | None
    state: str | None
    delivery_count: int
    enqueued_at: datetime
    body: Any


class Failed(_Value):
    """Work that failed: a dead letter or a refused promotion. `id` names it in a retry."""

    kind: Literal["dead_letter", "refused"]
    id: str
    promotion_id: str | None
    endpoint: str | None
    target: str | None
    reason: str
    why: str
    remedy: str | None
    at: datetime
    sequence_number: int | None = None


class Taken(Protocol):
    """A dead letter under lock. What is not completed is there again when the block ends."""

    @property
    def letter(self) -> DeadLetter: ...

    def resend(self, command: Command, *, not_before: datetime | None) -> None: ...

    def complete(self) -> None: ...


class DeadLetters(Protocol):
    def peek(self, limit: int) -> tuple[DeadLetter, ...]:
        """The oldest, without a lock."""
        ...

    def taken(self, wanted: frozenset[int]) -> AbstractContextManager[tuple[Taken, ...]]:
        """Lock these, by sequence number, as far as they are there. The queue is gone through from its beginning."""
        ...


class History(Ledger, Protocol):
    def promotions(
        self, *, state: State | None = None, reason: Reason | None = None, limit: int = 100
    ) -> tuple[Promotion, ...]: ...


class Replay:
    """Shows failed work and sends it again. `now` is the current time (UTC)."""

    def __init__(self, *, ledger: History, letters: DeadLetters, orders: Orders, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._letters = letters
        self._orders = orders
        self._now = now

    # ----------------------------------------------------------------------------------------------------------- look

    def letters(self, limit: int) -> tuple[Letter, ...]:
        return tuple(self._described(letter) for letter in self._letters.peek(limit))

    def letter(self, sequence_number: int) -> Letter:
        found = next((each for each in self._letters.peek(10_000) if each.sequence_number == sequence_number), None)
        if found is None:
            raise _not_there(sequence_number)
        return self._described(found)

    def failed(self, limit: int) -> tuple[Failed, ...]:
        """Both kinds, what failed last first."""
        dead = [_as_failed(letter) for letter in self.letters(limit)]
        refused = [_refused(row) for row in self._ledger.promotions(state=State.REFUSED, limit=limit)]
        return tuple(sorted([*dead, *refused], key=lambda each: each.at, reverse=True)[:limit])

    def _described(self, letter: DeadLetter) -> Letter:
        command = _read(letter)
        row = self._ledger.promotion(command.promotion_id) if command and command.promotion_id else None
        why = row.why if row and row.why else letter.dead_letter_description or letter.dead_letter_reason
        return Letter(
            sequence_number=letter.sequence_number,
            message_id=letter.message_id,
            reason=letter.dead_letter_reason if command else UNDECODABLE,
            why=why if command else _problem(letter),
            remedy=_remedy(command, row),
            promotion_id=command.promotion_id if command else None,
            endpoint=command.endpoint if command else None,
            target=row.target if row else None,
            state=row.state if row else None,
            delivery_count=letter.delivery_count,
            enqueued_at=letter.enqueued_at,
            body=command.model_dump(mode="json", exclude_none=True) if command else _shown(letter.body),
        )

    # ------------------------------------------------------------------------------------------------------------- act

    def resubmit(self, sequence_number: int, caller: Caller, *, reason: str = "") -> Letter:
        """Send a dead letter again. Raises OrderRefused if it is not there, or if nobody has a use for it any more."""
        with self._letters.taken(frozenset({sequence_number})) as taken:
            if not taken:
                raise _not_there(sequence_number)
            return self._resubmit(taken[0], caller, reason, not_before=None)

    def _resubmit(self, taken: Taken, caller: Caller, reason: str, *, not_before: datetime | None) -> Letter:
        letter = taken.letter
        described = self._described(letter)
        command = _read(letter)
        row = self._ledger.promotion(command.promotion_id) if command and command.promotion_id else None
        again = resubmission(command, row, letter.sequence_number)
        self._audit(letter, described, caller, "resubmit", reason)
        taken.resend(again, not_before=not_before)
        taken.complete()
        return described

    def drop(self, sequence_number: int, caller: Caller, *, reason: str) -> Letter:
        """Take a dead letter away for good. What it was is kept in the audit before that."""
        with self._letters.taken(frozenset({sequence_number})) as taken:
            if not taken:
                raise _not_there(sequence_number)
            described = self._described(taken[0].letter)
            self._audit(taken[0].letter, described, caller, "drop", reason, {"body": _shown(taken[0].letter.body)})
            taken[0].complete()
            return described

    def retry(
        self,
        ids: Iterable[str],
        caller: Caller,
        *,
        order_id: str,
        per_minute: int,
        note: str = "",
    ) -> tuple[list[str], dict[str, str]]:
        """Send these again, so many in a minute; those that went, and why others did not."""
        chosen = list(ids)
        done: list[str] = []
        problems: dict[str, str] = {}
        times = self._times(per_minute)
        numbers = {int(each.removeprefix("dead-letter-")): each for each in chosen if _is_letter(each)}
        with self._letters.taken(frozenset(numbers)) as taken:
            there = {each.letter.sequence_number: each for each in taken}
            for number, name in numbers.items():
                try:
                    if number not in there:
                        raise _not_there(number)
                    self._resubmit(there[number], caller, note, not_before=next(times))
                    done.append(name)
                except OrderRefused as refused:
                    problems[name] = str(refused)
        for name in (each for each in chosen if not _is_letter(each)):
            try:
                self._orders.retry(name, caller, order_id=f"{order_id[:60]}-{_short(name)}", reason=note)
                done.append(name)
            except OrderRefused as refused:
                problems[name] = str(refused)
        return done, problems

    def _times(self, per_minute: int) -> Iterator[datetime]:
        at, step = self._now(), timedelta(minutes=1) / per_minute
        while True:
            yield at
            at += step

    def _audit(
        self,
        letter: DeadLetter,
        described: Letter,
        caller: Caller,
        action: str,
        reason: str,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        """The same letter once more at the same time is the same record."""
        self._ledger.audit(
            AuditRecord(
                id=f"{action}:{letter.sequence_number}",
                at=self._now(),
                actor=caller.name,
                action=action,
                target=described.target or "",
                serve=str((described.body or {}).get("serve", "")) if isinstance(described.body, dict) else "",
                endpoint=described.endpoint or "",
                session_id=letter.session_id or NOBODYS_SESSION,
                promotion_id=described.promotion_id,
                reason=reason,
                before=before,
            )
        )


def resubmission(command: Command | None, row: Promotion | None, sequence_number: int) -> Command:
    """What is sent again for a dead letter. Raises OrderRefused for what nobody has a use for."""
    if command is None:
        raise OrderRefused(
            OrderProblem.CONFLICT, f"dead letter {sequence_number} is no command: drop it, with a reason"
        )
    if isinstance(command, EndpointCommand):
        return command
    if row is not None and (row.state.is_final or row.attempt != command.attempt):
        raise OrderRefused(
            OrderProblem.CONFLICT,
            f"dead letter {sequence_number} is stale: promotion {row.id} is {row.state}, at attempt {row.attempt}; "
            "drop it, and retry or redeploy the promotion instead",
        )
    hop = max(command.hop, row.hop + 1) if row is not None else command.hop
    return command.model_copy(update={"hop": hop, "faults": 0, "transients": 0, "failing_since": None})


def _read(letter: DeadLetter) -> Command | None:
    try:
        return decode(letter.body)
    except UndecodableMessage:
        return None


def _problem(letter: DeadLetter) -> str:
    try:
        decode(letter.body)
    except UndecodableMessage as error:
        return str(error)
    return ""


def _remedy(command: Command | None, row: Promotion | None) -> str:
    if command is None:
        return "Drop it, with a reason; find out who sent it."
    if isinstance(command, PromoteModel) and row is not None and (row.state.is_final or row.attempt != command.attempt):
        return "It is stale: drop it. Retry or redeploy the promotion if it is wanted."
    return "Correct the cause, then resubmit it."


def _shown(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace")
    return text[:BODY_SHOWN] if "\ufffd" not in text else base64.b64encode(body[:BODY_SHOWN]).decode()


def _as_failed(letter: Letter) -> Failed:
    return Failed(
        kind="dead_letter",
        id=f"dead-letter-{letter.sequence_number}",
        promotion_id=letter.promotion_id,
        endpoint=letter.endpoint,
        target=letter.target,
        reason=letter.reason,
        why=letter.why,
        remedy=letter.remedy,
        at=letter.enqueued_at,
        sequence_number=letter.sequence_number,
    )


def _refused(row: Promotion) -> Failed:
    return Failed(
        kind="refused",
        id=row.id,
        promotion_id=row.id,
        endpoint=row.endpoint,
        target=row.target,
        reason=row.reason or "refused",
        why=row.why,
        remedy=row.remedy,
        at=row.updated_at,
    )


def _is_letter(name: str) -> bool:
    number = name.removeprefix("dead-letter-")
    return number != name and number.isdecimal()


def _short(name: str) -> str:
    return name[-18:]


def _not_there(sequence_number: int) -> OrderRefused:
    return OrderRefused(OrderProblem.NOT_FOUND, f"there is no dead letter {sequence_number} (or somebody has it now)")
