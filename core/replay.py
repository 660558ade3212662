"""Failed work goes again: dead letters of the queue, and promotions that were refused. None is lost on the way.

A dead letter is resubmitted in this order: peek-lock, audit, row, send, complete. Its message id follows from its sequence
number. So a crash in between leaves it where it is, and the repeat is the same message: the broker drops it within its
window, and after that the promotion has gone on and the letter is stale. A stale one is told, and never sent.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from core.callers import Caller
from core.commands import Command, EndpointCommand, PromoteModel
from core.dead_letters import (
    NO_SESSION,
    DeadLetter,
    Letter,
    Opened,
    again,
    described,
    kept,
    opened,
    rested,
    why_stale,
)
from core.errors import PromotionError, Transient
from core.ledger import AuditRecord, Memo, Promotion, State
from core.orders import OrderProblem, OrderRefused, Orders, command_of
from core.ports import Ledger

# The view has so many of each kind: the oldest dead letters, and the promotions that were asked for last.
VIEW = 1000
# So much goes again in one call.
AT_ONCE = 50
RESUBMIT, DROP = "resubmit", "drop"
LETTER = "dead-letter-"
_LARGEST_NUMBER = 2**63 - 1
_TRIES = 5


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


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


class Retried(_Value):
    """What went again, why others did not, and how many are left for another call."""

    done: tuple[str, ...]
    problems: dict[str, str]
    remaining: int


class Taken(Protocol):
    """A dead letter under lock. What is not completed is there again when the block ends."""

    @property
    def letter(self) -> DeadLetter: ...

    def resend(self, command: Command, *, not_before: datetime | None) -> None:
        """Under the id `<message id>:r<sequence number>`: duplicate detection drops any id that it has seen lately."""
        ...

    def complete(self) -> None: ...


class DeadLetters(Protocol):
    def peek(self, limit: int) -> tuple[DeadLetter, ...]:
        """The oldest, without a lock."""
        ...

    def find(self, sequence_number: int) -> DeadLetter | None:
        """This one, without a lock."""
        ...

    def taken(self, wanted: frozenset[int]) -> AbstractContextManager[tuple[Taken, ...]]:
        """Lock these, by sequence number, as far as they can be had: all others in front of them are locked meanwhile."""
        ...


class History(Ledger, Protocol):
    def promotions(self, *, state: State | None = None, limit: int = 100) -> tuple[Promotion, ...]: ...


class Replay:
    """Shows failed work and sends it again. `now` is the current time (UTC)."""

    def __init__(self, *, ledger: History, letters: DeadLetters, orders: Orders, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._letters = letters
        self._orders = orders
        self._now = now

    # ----------------------------------------------------------------------------------------------------------- look

    def letters(self, limit: int) -> tuple[Letter, ...]:
        """The oldest dead letters."""
        return tuple(self._described(opened(letter)) for letter in self._letters.peek(limit))

    def letter(self, sequence_number: int) -> Letter:
        found = self._letters.find(sequence_number)
        if found is None:
            raise _not_there(sequence_number)
        return self._described(opened(found))

    def failed(self, limit: int) -> tuple[Failed, ...]:
        """Both kinds, what failed last first."""
        letters = sorted(self._letters.peek(VIEW), key=lambda letter: letter.enqueued_at, reverse=True)[:limit]
        dead = [_as_failed(self._described(opened(letter))) for letter in letters]
        refused = [_refused(row) for row in self._ledger.promotions(state=State.REFUSED, limit=VIEW)]
        return tuple(sorted([*dead, *refused], key=lambda each: each.at, reverse=True)[:limit])

    def reasons(self) -> list[str]:
        """The reason of each, whether it is shown or not."""
        dead = [opened(letter).reason for letter in self._letters.peek(VIEW)]
        return dead + [_reason(row) for row in self._ledger.promotions(state=State.REFUSED, limit=VIEW)]

    def _described(self, found: Opened) -> Letter:
        row = self._row(found)
        return described(found, row, self._why_stale(found.command, row) if found.command else None)

    def _row(self, found: Opened) -> Promotion | None:
        return self._ledger.promotion(found.promotion_id) if found.promotion_id else None

    def _why_stale(self, command: Command, row: Promotion | None) -> str | None:
        trail = self._ledger.trail(command.session_id) if isinstance(command, EndpointCommand) else ()
        return why_stale(command, row, trail)

    # ------------------------------------------------------------------------------------------------------ one letter

    def resubmit(self, sequence_number: int, caller: Caller, *, reason: str = "") -> Letter:
        """Send a dead letter again. Raises OrderRefused if it is not there, or if nobody has a use for it any more."""
        with self._letters.taken(frozenset({sequence_number})) as taken:
            return self._resubmit(self._only(taken, sequence_number), caller, reason, not_before=None)

    def drop(self, sequence_number: int, caller: Caller, *, reason: str) -> Letter:
        """Take a dead letter away for good. What it was is kept in the audit before that."""
        with self._letters.taken(frozenset({sequence_number})) as taken:
            held = self._only(taken, sequence_number)
            found = opened(held.letter)
            letter = self._described(found)
            self._audit(found, caller, DROP, reason, before=kept(held.letter))
            row = self._row(found)
            if row is not None and isinstance(found.command, PromoteModel) and not letter.stale:
                why = f"its dead letter was dropped by {caller.name}: {reason}"
                remedy = "Wake it to go on where it was, or cancel it."
                self._save(row, {"why": why, "remedy": remedy, "due": None})
            held.complete()
            return letter

    def _only(self, taken: tuple[Taken, ...], sequence_number: int) -> Taken:
        if not taken:
            raise self._absent(sequence_number)
        return taken[0]

    def _absent(self, sequence_number: int) -> OrderRefused | Transient:
        if self._letters.find(sequence_number) is None:
            return _not_there(sequence_number)
        return Transient(
            f"somebody else has dead letter {sequence_number} at the moment, or too many are in front of it"
        )

    def _resubmit(self, taken: Taken, caller: Caller, reason: str, *, not_before: datetime | None) -> Letter:
        found = opened(taken.letter)
        row = self._row(found)
        command = self._to_send(found, row)
        letter = described(found, row, None)
        self._audit(found, caller, RESUBMIT, reason)
        if row is not None:
            renewed = command if isinstance(command, PromoteModel) else rested(command_of(row))
            why = f"resubmitted by {caller.name}" + (f": {reason}" if reason else "")
            changes: dict[str, object] = {"why": why, "reason": None, "remedy": None, "due": not_before or self._now()}
            self._save(row, changes | {"command": renewed.encode().decode()})
        taken.resend(command, not_before=not_before)
        taken.complete()
        return letter

    def _to_send(self, found: Opened, row: Promotion | None) -> Command:
        number = found.letter.sequence_number
        if found.command is None:
            raise OrderRefused(OrderProblem.CONFLICT, f"dead letter {number} is no command: drop it, with a reason")
        if stale := self._why_stale(found.command, row):
            text = (
                f"dead letter {number} is stale: {stale}; drop it, and retry or redeploy the promotion if it is wanted"
            )
            raise OrderRefused(OrderProblem.CONFLICT, text)
        return again(found.command)

    def _save(self, row: Promotion, changes: dict[str, object]) -> None:
        self._ledger.save(row.model_copy(update=changes | {"updated_at": self._now()}))

    def _audit(
        self, found: Opened, caller: Caller, action: str, reason: str, *, before: dict[str, Any] | None = None
    ) -> None:
        self._ledger.audit(
            AuditRecord(
                id=f"{action}:{found.letter.sequence_number}",
                at=self._now(),
                actor=caller.name,
                action=action,
                target=found.target or "",
                serve=found.serve or "",
                endpoint=found.endpoint or "",
                session_id=found.command.session_id if found.command else NO_SESSION,
                promotion_id=found.promotion_id,
                reason=reason,
                before=before,
            )
        )

    # ------------------------------------------------------------------------------------------------------------ many

    def retry(self, ids: Iterable[str], caller: Caller, *, order_id: str, per_minute: int, note: str = "") -> Retried:
        """Send these again, so many in a minute; those behind the first `AT_ONCE` remain."""
        names = list(dict.fromkeys(ids))
        chosen = names[:AT_ONCE]
        numbers = [int(name.removeprefix(LETTER)) for name in chosen if _is_letter(name)]
        promotions = [name for name in chosen if not _is_letter(name)]
        times = self._times(len(chosen), per_minute)
        done, problems = self._retry(numbers, promotions, caller, order_id, times, note)
        return Retried(done=tuple(done), problems=problems, remaining=len(names) - len(chosen))

    def retry_all(
        self, reason: str | None, caller: Caller, *, order_id: str, per_minute: int, note: str = ""
    ) -> Retried:
        """Send all again that failed for this reason (None: for any), the oldest dead letters first.

        What cannot go (no command, or stale) is told, and keeps nobody else from going: so calls that are repeated come to
        an end, when nothing remains.
        """
        letters = [each for each in map(opened, self._letters.peek(VIEW)) if reason in (None, each.reason)]
        rows = [
            row for row in self._ledger.promotions(state=State.REFUSED, limit=VIEW) if reason in (None, _reason(row))
        ]
        problems: dict[str, str] = {}
        going: list[int] = []
        looked_at = 0
        for found in letters:
            if len(going) == AT_ONCE:
                break
            looked_at += 1
            try:
                self._to_send(found, self._row(found))
                going.append(found.letter.sequence_number)
            except OrderRefused as refused:
                problems[_name(found.letter.sequence_number)] = str(refused)
        names = [row.id for row in reversed(rows)]
        times = self._times(min(AT_ONCE, len(going) + len(names)), per_minute)
        done, more = self._retry(going, names, caller, order_id, times, note)
        untried = set(names) - set(done) - set(more)
        return Retried(done=tuple(done), problems=problems | more, remaining=len(letters) - looked_at + len(untried))

    def _retry(
        self,
        numbers: list[int],
        promotions: Iterable[str],
        caller: Caller,
        order_id: str,
        times: Iterator[datetime],
        note: str,
    ) -> tuple[list[str], dict[str, str]]:
        """At most `AT_ONCE` of them: a problem with one keeps no other from going."""
        done: list[str] = []
        problems: dict[str, str] = {}

        def tried(name: str, act: Callable[[], object]) -> None:
            try:
                act()
                done.append(name)
            except (OrderRefused, PromotionError) as problem:
                problems[name] = str(problem)

        with self._letters.taken(frozenset(numbers)) as taken:
            held = {each.letter.sequence_number: each for each in taken}
            for number in numbers:
                tried(_name(number), lambda number=number: self._go(held, number, caller, note, times))  # type: ignore[misc]
        for name in promotions:
            if len(done) == AT_ONCE:
                break
            tried(name, lambda name=name: self._retry_promotion(name, caller, order_id, note, times))  # type: ignore[misc]
        return done, problems

    def _go(self, held: dict[int, Taken], number: int, caller: Caller, note: str, times: Iterator[datetime]) -> None:
        if number not in held:
            raise self._absent(number)
        self._resubmit(held[number], caller, note, not_before=next(times))

    def _retry_promotion(
        self, promotion: str, caller: Caller, order_id: str, note: str, times: Iterator[datetime]
    ) -> None:
        own = f"{order_id[:60]}-{promotion[-18:]}"  # an order is known by its id in the audit of an endpoint, which others share
        self._orders.retry(promotion, caller, order_id=own, reason=note, not_before=next(times))

    def _times(self, count: int, per_minute: int) -> Iterator[datetime]:
        """When each of so many may go. The turns are kept in the ledger: calls one after the other, or at once, share them."""
        step = timedelta(minutes=1) / per_minute
        for tries_left in reversed(range(_TRIES)):
            memo = self._ledger.memo("replay", "turns") or Memo(kind="replay", key="turns", value={})
            begins = max(self._now(), datetime.fromisoformat(memo.value.get("next", self._now().isoformat())))
            following = begins + count * step
            try:
                self._ledger.save_memo(memo.model_copy(update={"value": {"next": following.isoformat()}}))
                break
            except Transient:
                if not tries_left:
                    raise
        return (begins + number * step for number in itertools.count())


def _as_failed(letter: Letter) -> Failed:
    return Failed(
        kind="dead_letter",
        id=_name(letter.sequence_number),
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
        reason=_reason(row),
        why=row.why,
        remedy=row.remedy,
        at=row.updated_at,
    )


def _reason(row: Promotion) -> str:
    return row.reason or "refused"


def _name(sequence_number: int) -> str:
    return f"{LETTER}{sequence_number}"


def _is_letter(name: str) -> bool:
    number = name.removeprefix(LETTER)
    return (
        number != name
        and number.isdecimal()
        and number.isascii()
        and len(number) <= 19
        and int(number) <= _LARGEST_NUMBER
    )


def _not_there(sequence_number: int) -> OrderRefused:
    return OrderRefused(OrderProblem.NOT_FOUND, f"there is no dead letter {sequence_number}")
