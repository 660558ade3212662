"""The heart: one delivery of a command advances its promotion as far as it can go without waiting.

A delivery observes what the target shows, lets `endpoints.decide` name the next step, carries it out, and goes on until
something must be waited for or its time is up. Then it sends its own successor, to be delivered later, and returns. So
nothing waits inside a function, and a delivery that comes twice, late or after a crash starts from what is there.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from core.archive import bundle, bundle_name
from core.commands import EndpointCommand, Operation, Order, Phase, PromoteModel, Verb, decode
from core.effects import explain_failure, look, perform
from core.endpoints import decide
from core.errors import Blocked, PromotionError, Reason, Refusal, Transient
from core.events import WorkspaceId
from core.ledger import LIVE, AuditRecord, Hold, Promotion, State, StepRecord
from core.orders import winning_time
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.packaging import Manifest, Recipe
from core.ports import Archive, CommandQueue, Ledger, News, Target
from core.said import QUALITY_DIGEST, said_about
from core.stages import Deadlines, asks_people, seconds
from core.steps import Do, Effect, Look, Seen, Wanted
from core.telemetry import span

log = logging.getLogger(__name__)

# A delivery does bounded work, well within the lock of its message.
DELIVERY_SECONDS = 60.0
# Unknown exceptions are met with this many looks more; then the dead-letter queue has the message.
UNKNOWN_FAULT_LIMIT = 5
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 60.0
PARKED_WAIT = 900.0
SERVICE = "the service"
# What is parked until a known time is looked at then; messages must not outlive their time in the queue.
LONGEST_PARKED_WAIT = 86_400.0
LONGEST_BACK_OFF = 300.0
# What somebody asks of one endpoint concerns neither the stage before nor the one behind.
_OF_ONE_STAGE = frozenset({Verb.REDEPLOY, Verb.ROLL_BACK, Verb.RETIRE, Verb.REPAIR})
_ENDED_AS = {Reason.SUPERSEDED: State.SUPERSEDED, Reason.CANCELLED: State.CANCELLED}


@dataclass(frozen=True)
class Budget:
    """The time that one delivery may take; asked before every step."""

    ends: float

    @classmethod
    def of(cls, seconds_from_now: float) -> "Budget":
        return cls(time.monotonic() + seconds_from_now)

    def is_left(self) -> bool:
        return time.monotonic() < self.ends


class Promoter:
    """Advances promotions. `target_for` gives the workspace that a command names; `now` is the current time (UTC)."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        queue: CommandQueue,
        archive: Archive,
        target_for: Callable[[WorkspaceId], Target],
        now: Callable[[], datetime],
        news: Iterable[News] = (),
        delivery_seconds: float = DELIVERY_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._archive = archive
        self._target_for = target_for
        self._now = now
        self._news = tuple(news)
        self._delivery_seconds = delivery_seconds

    def deliver(self, body: bytes) -> None:
        """One delivery of one message. Returning completes the message; raising gives it back to the queue.

        Raises UndecodableMessage for a body that is no command; whatever keeps the successor from being sent; and an
        unknown exception once it has come more than UNKNOWN_FAULT_LIMIT times in a row.
        """
        command = decode(body)
        if isinstance(command, EndpointCommand):
            verb = command.order.verb.value
            with span("word", verb=verb, endpoint=command.endpoint, target=command.target_name, hop=command.hop):
                self._heed(command)
        else:
            self._deliver(command)

    def _deliver(self, command: PromoteModel) -> None:
        with span(
            "delivery",
            command.traceparent,
            promotion_id=command.promotion_id,
            endpoint=command.endpoint,
            target=command.stage.target,
            hop=command.hop,
            attempt=command.attempt,
        ):
            self._deliver_hop(command)

    def _deliver_hop(self, command: PromoteModel) -> None:
        try:
            self._advance_and_conclude(command)
        except (Transient, Blocked) as fault:
            # Blocked can only be the ledger here: what blocks a target is parked in there.
            self._back_off(command, fault)
        except Exception as fault:
            if command.faults >= UNKNOWN_FAULT_LIMIT:
                self._note_dead_letter(command, fault)
                raise
            log.exception("unknown fault %d in promotion %s", command.faults + 1, command.promotion_id)
            successor = _next_hop(command, faults=command.faults + 1)
            wait = _back_off_seconds(successor.faults, None)
            self._postpone(successor, wait, State.WAITING, f"unknown fault: {type(fault).__name__}: {fault}"[:500])

    def _note_dead_letter(self, command: PromoteModel, fault: Exception) -> None:
        """Say in the row what the dead-letter queue has, as far as that can be written."""
        why = f"gave up: {type(fault).__name__}: {fault}"[:500]
        remedy = "The message goes to the dead-letter queue. Correct the cause, then resubmit it: docs/operations.md."
        try:
            row = self._ledger.promotion(command.promotion_id)
            if row is not None and not _is_stale(command, row):
                changes = {"why": why, "remedy": remedy, "due": None, "updated_at": self._now()}
                changes |= {"reason": Reason.DEAD_LETTERED}
                self._ledger.save(row.model_copy(update=changes))
        except Exception:  # whatever it is, the message must still be raised for what is wrong with it
            log.exception("could not write down why promotion %s gave up", command.promotion_id)

    # --------------------------------------------------------------------------------------- words to an endpoint

    def _heed(self, word: EndpointCommand) -> None:
        """Carry out what somebody asked of an endpoint or of one of its promotions. Safe to repeat."""
        try:
            following = self._follow(word)
        except Transient as fault:
            again = word.model_copy(update={"hop": word.hop + 1})
            wait = _back_off_seconds(again.hop, fault.retry_after)
            self._queue.send(again, not_before=self._now() + timedelta(seconds=wait))
            log.warning("%s of %s is tried again in %.0f s: %s", word.order.verb, word.endpoint, wait, fault)
            return
        for command in following:
            self._deliver(command)

    def _follow(self, word: EndpointCommand) -> tuple[PromoteModel, ...]:
        """Write down what was asked; the promotions that go on at once because of it."""
        order = word.order
        if word.hop and self._is_overtaken(word):
            log.info("%s of %s is no longer wanted: a newer word came before it", order.verb, word.endpoint)
            return ()
        match order.verb:
            case Verb.HOLD:
                self._ledger.set_hold(
                    Hold(
                        session_id=word.session_id,
                        target=word.target_name,
                        serve=word.serve,
                        endpoint=word.endpoint,
                        order=order,
                    )
                )
                return ()
            case Verb.RELEASE:
                self._ledger.release_hold(word.session_id)
                held = [row.id for row in self._ledger.parked(word.session_id, Reason.ON_HOLD)]
                return tuple(command for each in held if (command := self._woken(each)))
            case Verb.WAKE | Verb.CANCEL:
                command = self._woken(word.promotion_id or "")
                if command is None:
                    return ()
                return (command.model_copy(update={"cancel": order}) if order.verb is Verb.CANCEL else command,)
            case _:
                raise ValueError(f"{order.verb} is no word to an endpoint")

    def _is_overtaken(self, word: EndpointCommand) -> bool:
        """Whether a hold or release that was sent again after a fault has been followed by a newer one meanwhile."""
        holds = (Verb.HOLD, Verb.RELEASE)
        if word.order.verb not in holds:
            return False
        return any(found.action in holds and found.at > word.order.at for found in self._ledger.trail(word.session_id))

    def _woken(self, promotion_id: str) -> PromoteModel | None:
        """The next hop of a promotion, ahead of its time: the message that is due becomes a stale one."""
        row = self._ledger.promotion(promotion_id)
        if row is None or row.state.is_final or row.command is None:
            return None
        due = PromoteModel.model_validate_json(row.command)
        return due.model_copy(update={"hop": row.hop + 1})

    # ------------------------------------------------------------------------------------------------ one delivery

    def _advance_and_conclude(self, command: PromoteModel) -> None:
        row = self._ledger.promotion(command.promotion_id)
        if row is None:
            row = self._ledger.open(Promotion.requested(command, now=self._now()))
        if _is_stale(command, row):
            log.info("stale delivery of %s, hop %d: %s at hop %d", row.id, command.hop, row.state, row.hop)
            return
        if row.state is State.REQUESTED:
            row = self._ledger.save(row.model_copy(update={"state": State.RUNNING, "updated_at": self._now()}))
            self._tell(row, command)
        try:
            outcome = self._advance(command)
        except Refusal as refusal:
            outcome = Refused(refusal.reason, str(refusal), refusal.remedy)
        except Blocked as blocked:
            outcome = Parked(blocked.reason, str(blocked), blocked.remedy)
        self._conclude(command, row, self._within_deadline(command, outcome))

    def _advance(self, command: PromoteModel) -> Outcome:
        """Observe, decide, act, and again."""
        gone = stage_before_is_gone(self._ledger, command)
        if gone is not None:
            # What it has made and nobody uses goes with it; what is live already stays, and is told so.
            order = Order(id="stage-before", verb=Verb.CANCEL, by=SERVICE, at=self._now(), reason=gone.why)
            command = command.model_copy(update={"cancel": order})
        budget = Budget.of(self._delivery_seconds)
        target = self._target_for(command.target)
        wanted = self._wanted(command)
        seen = Seen(operation=command.operation)
        number = 0
        while True:
            wanted = replace(wanted, now=self._now())
            step = decide(wanted, seen)
            if isinstance(step, Look):
                seen = look(target, wanted, seen, step)
            elif isinstance(step, Do):
                if not budget.is_left():
                    phase = Phase.ARTIFACTS if step.effect is Effect.COPY else Phase.DEPLOY
                    return Waiting(phase, "going on in the next delivery", retry_after=0.0)
                with span(step.effect.value, effect=step.effect.value):
                    performed = perform(target, wanted, seen, step, may_go_on=budget.is_left)
                seen = performed.seen
                self._note(command, number, step.effect.value, performed.detail)
                number += 1
            elif gone is not None and isinstance(step, Refused) and step.reason is Reason.CANCELLED:
                return gone
            elif isinstance(step, Refused):
                return explain_failure(target, wanted, step, seen.operation)
            else:
                return step

    def _wanted(self, command: PromoteModel) -> Wanted:
        return Wanted(
            command,
            Manifest.model_validate_json(self._ledger.kept("manifest", command.manifest_digest)),
            Recipe.model_validate_json(self._ledger.kept("recipe", command.recipe_digest)),
            hold=self._ledger.hold(command.session_id),
            approvals=self._ledger.approvals(command.promotion_id) if asks_people(command.stage) else (),
            said=said_about(self._ledger, command, self._now()),
        )

    def _within_deadline(self, command: PromoteModel, outcome: Outcome) -> Outcome:
        """Nothing waits for ever: past the deadline of its phase, a promotion is refused."""
        if not isinstance(outcome, Waiting | Parked):
            return outcome
        phase = _phase(outcome)
        if phase in (Phase.BAKE, Phase.FREEZE):
            return outcome  # it waits for the policy's own bake or soak time or for the end of a freeze, however long
        since = command.phase_since if command.phase is phase and command.phase_since else self._now()
        limit = _deadline(command.stage.deadlines, phase)
        if (self._now() - since).total_seconds() <= limit:
            return outcome
        return Refused(
            Reason.DEADLINE_EXCEEDED,
            f"gave up after {limit / 60:.0f} minutes of waiting: {outcome.why}",
            remedy=outcome.remedy
            if isinstance(outcome, Parked)
            else f"Find out in the target workspace why it takes so long, or raise `deadlines.{phase}` in the policy.",
        )

    def _left(self, command: PromoteModel) -> float:
        """The seconds until the deadline of what it waits for."""
        since, phase = command.phase_since or self._now(), command.phase or Phase.PARK
        return _deadline(command.stage.deadlines, phase) - (self._now() - since).total_seconds()

    # ------------------------------------------------------------------------------------------------- its outcome

    def _conclude(self, command: PromoteModel, row: Promotion, outcome: Outcome) -> None:
        match outcome:
            case Waiting():
                if outcome.live is not None:
                    self._record_live(command, outcome.live)
                successor = self._successor(command, outcome.operation, Phase(outcome.phase))
                wait = _poll_seconds(self._now() - (successor.phase_since or self._now()), outcome.retry_after)
                self._postpone(successor, wait, State.WAITING, outcome.why, row=row)
            case Parked():
                successor = self._successor(command, None, outcome.phase)
                wait = _parked_seconds(outcome, self._now())
                if outcome.phase is not Phase.FREEZE:
                    wait = min(wait, max(SHORTEST_WAIT, self._left(successor)))
                self._postpone(successor, wait, State.PARKED, outcome.why, parked=outcome, row=row)
            case Refused():
                if outcome.reason is Reason.ANALYSIS_FAILED:
                    self._record_taken_back(command)
                self._finish(command, row, _ENDED_AS.get(outcome.reason, State.REFUSED), outcome)
            case Done() if command.goal == "retired":
                self._record_live(command, None)
                self._finish(command, row, State.RETIRED, outcome)
            case Done():
                name = bundle_name(command.promotion_id, command.attempt)
                self._archive.store(name, bundle(self._wanted(command), outcome.result))
                self._record_live(command, outcome.result)
                self._mark_rolled_back(command)
                self._send_following_stages(command)
                self._finish(command, row, State.SUCCEEDED, outcome)
            case _:
                assert_never(outcome)

    def _record_taken_back(self, command: PromoteModel) -> None:
        """What is live again after a roll-back by itself; nothing if this promotion had not been live alone."""
        last = next((found for found in self._ledger.trail(command.session_id) if found.action == LIVE), None)
        if last is None or last.id != f"{command.promotion_id}:{command.attempt}:{LIVE}":
            return
        again = {"id": f"{command.promotion_id}:{command.attempt}:taken_back", "at": self._now(), "actor": SERVICE}
        again |= {"before": last.after, "after": last.before, "reason": "rolled back by itself: its analysis failed"}
        self._ledger.audit(last.model_copy(update=again))

    def _record_live(self, command: PromoteModel, result: Mapping[str, Any] | None) -> None:
        """What is live on the endpoint from now on; None if it is no more. Once for each attempt, also when repeated."""
        last = next((found for found in self._ledger.trail(command.session_id) if found.action == LIVE), None)
        record_id = f"{command.promotion_id}:{command.attempt}:{LIVE}"
        if last is not None and last.id == record_id:
            return
        after = {
            "promotion_id": command.promotion_id,
            "model": command.model,
            "version": command.version,
            "deployment": command.deployment,
            "attempt": command.attempt,
            QUALITY_DIGEST: command.quality_digest,
        }
        self._ledger.audit(
            AuditRecord(
                id=record_id,
                at=self._now(),
                actor=command.order.by if command.order else command.requested_by,
                action=LIVE,
                target=command.stage.target,
                serve=command.stage.serve,
                endpoint=command.endpoint,
                session_id=command.session_id,
                promotion_id=command.promotion_id,
                reason=command.order.reason if command.order else "",
                before=last.after if last else None,
                after=after if result is not None else None,
            )
        )

    def _mark_rolled_back(self, command: PromoteModel) -> None:
        order = command.order
        if order is None or order.replaces is None:
            return
        row = self._ledger.promotion(order.replaces)
        if row is None or row.state is not State.SUCCEEDED:
            return
        why = f"rolled back by {order.by} to {command.model}:{command.version}"
        why += f": {order.reason}" if order.reason else ""
        changes = {"state": State.ROLLED_BACK, "why": why, "updated_at": self._now()}
        self._tell(self._ledger.save(row.model_copy(update=changes)), command)

    def _successor(self, command: PromoteModel, operation: Operation | None, phase: Phase) -> PromoteModel:
        since = command.phase_since if command.phase is phase and command.phase_since else self._now()
        changes = {"operation": operation, "phase": phase, "phase_since": since}
        return _next_hop(command, faults=0, transients=0, failing_since=None, **changes)

    def _back_off(self, command: PromoteModel, fault: Transient | Blocked) -> None:
        """Look again later; a fault that stays for as long as a promotion may be parked ends it."""
        since = command.failing_since or self._now()
        limit = seconds(command.stage.deadlines.park)
        row = self._ledger.promotion(command.promotion_id) if (self._now() - since).total_seconds() > limit else None
        if row is not None:
            remedy = "Find out why Azure keeps failing; then ask again."
            gave_up = f"gave up after {limit / 3600:.0f} hours of: {fault}"[:500]
            self._finish(command, row, State.REFUSED, Refused(Reason.DEADLINE_EXCEEDED, gave_up, remedy))
            return
        successor = _next_hop(command, transients=command.transients + 1, failing_since=since)
        wait = _back_off_seconds(successor.transients, fault.retry_after if isinstance(fault, Transient) else None)
        self._postpone(successor, wait, State.WAITING, f"transient fault: {fault}"[:500])

    def _postpone(
        self,
        successor: PromoteModel,
        wait: float,
        state: State,
        why: str,
        *,
        parked: Parked | None = None,
        row: Promotion | None = None,
    ) -> None:
        """Send the successor, then write down that it is due. In this order: a crash between them repeats this hop."""
        due = self._now() + timedelta(seconds=wait)
        self._queue.send(successor, not_before=due)
        log.info("promotion %s waits until %s: %s", successor.promotion_id, due.isoformat(), why)
        try:
            row = row or self._ledger.promotion(successor.promotion_id)
            if row is None or _is_stale(successor, row):
                return
            changes: dict[str, object] = {"state": state, "why": why, "due": due}
            changes |= {"reason": parked.reason if parked else None, "remedy": parked.remedy if parked else None}
            changes |= {"question": parked.question if parked else ""}
            changes |= {"hop": successor.hop, "updated_at": self._now(), "command": successor.encode().decode()}
            changes |= {"attempt": successor.attempt}
            self._tell(self._ledger.save(row.model_copy(update=changes)), successor)
        except PromotionError as fault:
            # The successor is on its way, so nothing is lost: it will write the row itself.
            log.warning("could not record the wait of promotion %s: %s", successor.promotion_id, fault)

    def _send_following_stages(self, command: PromoteModel) -> None:
        """All of them, each with a row of its own. Whoever dies between two of them has not ended, and comes again."""
        if command.order and command.order.verb in _OF_ONE_STAGE:
            return
        for number in command.following:
            self._send_stage(command.at_stage(number))

    def _send_stage(self, command: PromoteModel) -> None:
        following = command.model_copy(
            update={
                "attempt": 1,
                "fresh": 0,
                "hop": 0,
                "faults": 0,
                "transients": 0,
                "failing_since": None,
                "operation": None,
                "phase": None,
                "phase_since": None,
            }
        )
        row = self._ledger.open(Promotion.requested(following, now=self._now()))
        if (order := following.order) is not None and row.state.is_final and row.order != order:
            # Somebody has asked for the whole path anew: a stage that has ended begins again with it.
            wins = winning_time(self._ledger, following.session_id, order.at)
            changes = {"attempt": row.attempt + 1, "generation_time": wins}
            row = self._ledger.save(row.again(following.model_copy(update=changes), now=self._now()))
        if row.state is State.REQUESTED and row.command is not None:
            self._queue.send(PromoteModel.model_validate_json(row.command))

    def _finish(self, command: PromoteModel, row: Promotion, state: State, outcome: Done | Refused) -> None:
        changes: dict[str, object] = {"state": state, "updated_at": self._now(), "due": None, "hop": command.hop}
        changes |= {"attempt": command.attempt, "question": ""}
        if isinstance(outcome, Done):
            changes |= {"why": "", "reason": None, "remedy": None, "result": dict(outcome.result)}
        else:
            result = dict(outcome.detail) or None
            changes |= {"why": outcome.why, "reason": outcome.reason, "remedy": outcome.remedy, "result": result}
        self._tell(self._ledger.save(row.model_copy(update=changes)), command)
        log.info("promotion %s: %s %s", row.id, state, changes["why"])

    def _tell(self, row: Promotion, command: PromoteModel) -> None:
        for each in self._news:
            try:
                each.tell(row, command.source)
            except Exception:  # whoever listens must not keep a promotion from going on
                log.exception("promotion %s: could not tell %s", row.id, type(each).__name__)

    def _note(self, command: PromoteModel, number: int, step: str, detail: str) -> None:
        log.info("promotion %s: %s: %s", command.promotion_id, step, detail)
        at = self._now()
        self._ledger.note(
            StepRecord(
                promotion_id=command.promotion_id, hop=command.hop, number=number, step=step, detail=detail, at=at
            )
        )


def stage_before_is_gone(ledger: Ledger, command: PromoteModel) -> Refused | None:
    """A stage is only worth promoting to while the one before it stands. Raises Transient if that is not written yet."""
    is_own_will = command.order is not None and command.order.verb in _OF_ONE_STAGE
    before = command.before
    if before is None or command.cancel is not None or is_own_will:
        return None
    row = ledger.promotion(command.at_stage(before).promotion_id)
    if row is not None and row.state is State.SUCCEEDED:
        return None
    if row is not None and not row.state.is_final:
        # It sends us before it writes its own end, so that a crash between the two loses neither.
        raise Transient(f"stage {before + 1} of this path has not written its end yet")
    return Refused(
        Reason.SUPERSEDED,
        f"stage {before + 1} of this path is {row.state if row else 'unknown'}, no longer succeeded",
        remedy="Promote the model again from the first stage.",
    )


def _is_stale(command: PromoteModel, row: Promotion) -> bool:
    """Whether this delivery belongs to the past: its promotion has ended, or a later hop is already on its way."""
    if command.attempt != row.attempt:
        return command.attempt < row.attempt
    return row.state.is_final or command.hop < row.hop


def _next_hop(command: PromoteModel, **changes: object) -> PromoteModel:
    return command.model_copy(update={"hop": command.hop + 1, **changes})


def _phase(outcome: Waiting | Parked) -> Phase:
    return Phase(outcome.phase)


def _deadline(deadlines: Deadlines, phase: Phase) -> float:
    limit: str = getattr(deadlines, phase.value)
    return seconds(limit)


def _poll_seconds(waited: timedelta, retry_after: float | None) -> float:
    """Look again after as long again as it has taken so far: soon at first, seldom for what takes long.

    The service's own Retry-After is the least; without one a second is. Never more than a minute.
    """
    least = SHORTEST_WAIT if retry_after is None else retry_after
    return max(least, min(waited.total_seconds(), LONGEST_WAIT))


def _parked_seconds(outcome: Parked, now: datetime) -> float:
    """Until the time that is known, and a second more: clocks differ."""
    if outcome.until is None:
        return PARKED_WAIT if outcome.retry_after is None else outcome.retry_after
    return min(max((outcome.until - now).total_seconds(), 0.0) + 1.0, LONGEST_PARKED_WAIT)


def _back_off_seconds(times: int, retry_after: float | None) -> float:
    return max(retry_after or 0.0, min(2.0**times, LONGEST_BACK_OFF))
