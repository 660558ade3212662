"""What people ask of promotions, endpoints and schedules: checked, written down, and put into the endpoint's session.

Nothing here writes to a target. Every order has an id, and the same order twice is one order, whenever it comes again: it is
known by its row or by its record in the audit of the endpoint. A new attempt is written in this order, and what a crash left
out is made up for by whoever repeats the order: row, audit, message; a word to an endpoint: audit, message.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import ValidationError

from core.callers import Caller
from core.commands import EndpointCommand, Order, PromoteModel, Verb, path_id, promotion_id, session_id
from core.events import WorkspaceId
from core.ledger import LIVE, AuditRecord, Hold, Promotion, State
from core.policy import Policy
from core.ports import CommandQueue, Ledger
from core.stages import ENDPOINT_NAME
from core.telemetry import traceparent

# What can be tried again as it was asked; anything else that has ended is redeployed.
RETRIED = (State.REFUSED, State.CANCELLED, State.SUPERSEDED)
# What a retry repeats: it is still that which was asked for, not a promotion along its path.
_REPEATED = (Verb.REDEPLOY, Verb.ROLL_BACK, Verb.RETIRE, Verb.REPAIR)
_HOLDS = (Verb.HOLD, Verb.RELEASE)
# App role of those who may go on in spite of a hold or a freeze.
OVERRIDE_ROLE = "Promotion.Operator"


class OrderProblem(StrEnum):
    """Why an order was not accepted."""

    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    INVALID = "invalid"


class OrderRefused(Exception):
    """The order was not accepted, and nothing was done; the message says why and what to do."""

    def __init__(self, problem: OrderProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class Orders:
    """Accepts orders. `now` is the current time (UTC)."""

    def __init__(self, *, policy: Policy, ledger: Ledger, queue: CommandQueue, now: Callable[[], datetime]) -> None:
        self._policy = policy
        self._ledger = ledger
        self._queue = queue
        self._now = now

    # --------------------------------------------------------------------------------------------------- promotions

    def retry(
        self, promotion: str, caller: Caller, *, order_id: str, reason: str = "", not_before: datetime | None = None
    ) -> Promotion:
        """Try again what was refused, cancelled or superseded, as it was asked for: a new attempt, as old as before."""
        row = row_of(self._ledger, promotion)
        if accepted := self._accepted(row, Verb.RETRY, order_id):
            return accepted
        if row.state not in RETRIED:
            hint = "redeploy it for a fresh deployment" if row.state.is_final else "it is still under way"
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is {row.state}: {hint}")
        order = self._order(Verb.RETRY, caller, order_id, reason)
        if row.order is not None:
            asked: dict[str, object] = {"overrides_hold": row.order.overrides_hold, "replaces": row.order.replaces}
            asked |= {"verb": row.order.verb} if row.order.verb in _REPEATED else {}
            order = order.model_copy(update=asked)
        return self._again(row, order, Verb.RETRY, goal=command_of(row).goal, not_before=not_before)

    def redeploy(
        self,
        promotion: str,
        caller: Caller,
        *,
        order_id: str,
        reason: str = "",
        target: str | None = None,
        fresh: bool = False,
        overrides_hold: bool = False,
    ) -> Promotion:
        """Deploy a past promotion again, from its frozen recipe: it wins over what is live now.

        `target` names another target of the policy; `fresh` asks for a deployment of its own though one like it is there.
        """
        row = row_of(self._ledger, promotion)
        check_override(caller, overrides_hold, reason)
        order = self._order(Verb.REDEPLOY, caller, order_id, reason, overrides_hold=overrides_hold)
        if target is not None and target != row.target:
            return self._elsewhere(row, target, order)
        return self._anew(row, order, fresh=fresh)

    def repair(self, promotion: str, caller: Caller, *, order_id: str, reason: str, fresh: bool) -> Promotion:
        """Bring back what is live by the ledger and not in the target. As `redeploy`, without a rollout in steps."""
        row = row_of(self._ledger, promotion)
        return self._anew(row, self._order(Verb.REPAIR, caller, order_id, reason), fresh=fresh)

    def cancel(self, promotion: str, caller: Caller, *, order_id: str, reason: str = "") -> Promotion:
        """End a promotion that is under way, and take away what it has made."""
        row = row_of(self._ledger, promotion)
        before = self._record(row.session_id, Verb.CANCEL, order_id)
        if row.state.is_final and before is not None:
            return row
        if row.state.is_final:
            hint = "; roll the endpoint back instead" if row.state is State.SUCCEEDED else ""
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is {row.state} already{hint}")
        word = word_about(row, _as_accepted(self._order(Verb.CANCEL, caller, order_id, reason), before))
        self._ledger.audit(AuditRecord.of(row, word.order, Verb.CANCEL))
        self._queue.send(word)
        return row

    def wake(self, promotion: str, caller: Caller, *, order_id: str) -> Promotion:
        """Look at a waiting promotion now instead of when it is due."""
        row = row_of(self._ledger, promotion)
        if row.state.is_final:
            raise OrderRefused(
                OrderProblem.CONFLICT, f"promotion {row.id} is {row.state}: there is nothing to look at any more"
            )
        self._queue.send(word_about(row, self._order(Verb.WAKE, caller, order_id, "")))
        return row

    # ---------------------------------------------------------------------------------------------------- endpoints

    def session(self, target: str, serve: str, endpoint: str) -> str:
        """The session of an endpoint, under which the ledger keeps its hold and audit. OrderRefused if there is none."""
        return session_id(self._endpoint_target(target), "batch" if _serve(serve) == "batch" else "online", endpoint)

    def hold(self, target: str, serve: str, endpoint: str, caller: Caller, *, order_id: str, reason: str) -> Hold:
        """Keep automatic promotions away from an endpoint until it is released."""
        word = self._say(target, serve, endpoint, self._order(Verb.HOLD, caller, order_id, reason))
        return Hold(session_id=word.session_id, target=target, serve=serve, endpoint=word.endpoint, order=word.order)

    def release(self, target: str, serve: str, endpoint: str, caller: Caller, *, order_id: str, reason: str) -> None:
        self._say(target, serve, endpoint, self._order(Verb.RELEASE, caller, order_id, reason))

    def roll_back(
        self,
        target: str,
        serve: str,
        endpoint: str,
        caller: Caller,
        *,
        order_id: str,
        reason: str = "",
        to: str | None = None,
    ) -> Promotion:
        """Bring the last version that was live before back, or the one of promotion `to`, and put a hold on the endpoint.

        It goes fast while the old deployment is still there, and makes it again from its frozen recipe otherwise.
        """
        session = self.session(target, serve, endpoint)
        if before := self._record(session, Verb.ROLL_BACK, order_id):
            return self._completed(row_of(self._ledger, str(before.promotion_id)), Verb.ROLL_BACK, order_id)
        live = [found for found in self._ledger.trail(session) if found.action == LIVE]
        if not live or live[0].after is None:
            raise OrderRefused(OrderProblem.NOT_FOUND, f"nothing that was promoted is live on {endpoint} of {target}")
        current = str(live[0].promotion_id)
        row = row_of(self._ledger, to) if to else self._before(live, current, endpoint, order_id)
        if accepted := self._accepted(row, Verb.ROLL_BACK, order_id):
            return accepted
        if row.id == current:
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is what is live")
        if row.session_id != session:
            raise OrderRefused(OrderProblem.INVALID, f"promotion {row.id} is of another endpoint")
        if row.id not in {found.promotion_id for found in live}:
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} was never live: redeploy or retry it")
        order = self._order(Verb.ROLL_BACK, caller, order_id, reason, overrides_hold=True, replaces=current)
        _check_it_has_ended(row)
        self._hold_for(target, serve, endpoint, order, "rolled back")
        wins = winning_time(self._ledger, session, order.at)
        return self._again(row, order, Verb.ROLL_BACK, generation_time=wins)

    def retire(
        self, target: str, serve: str, endpoint: str, caller: Caller, *, order_id: str, reason: str = ""
    ) -> Promotion:
        """Delete an endpoint or schedule with all that belongs to it, and put a hold on its name."""
        session = self.session(target, serve, endpoint)
        if before := self._record(session, Verb.RETIRE, order_id):
            return self._completed(row_of(self._ledger, str(before.promotion_id)), Verb.RETIRE, order_id)
        live = next((found for found in self._ledger.trail(session) if found.action == LIVE), None)
        if live is None or live.promotion_id is None:
            raise OrderRefused(OrderProblem.NOT_FOUND, f"nothing was ever promoted to {endpoint} of {target}")
        row = row_of(self._ledger, live.promotion_id)
        if accepted := self._accepted(row, Verb.RETIRE, order_id):
            return accepted
        if live.after is None:
            raise OrderRefused(OrderProblem.CONFLICT, f"{endpoint} of {target} is retired already")
        order = self._order(Verb.RETIRE, caller, order_id, reason, overrides_hold=True)
        _check_it_has_ended(row)
        self._hold_for(target, serve, endpoint, order, "retired")
        return self._again(row, order, Verb.RETIRE, generation_time=order.at, goal="retired")

    def _before(self, live: list[AuditRecord], current: str, endpoint: str, order_id: str) -> Promotion:
        """The version that was live before and was not taken off since; this order's own if it is repeated."""
        for name in dict.fromkeys(found.promotion_id for found in live if found.promotion_id not in (None, current)):
            row = self._ledger.promotion(str(name))
            if row is None:
                continue
            if row.state is State.SUCCEEDED or not row.state.is_final or _is_of(row, order_id):
                return row
        raise OrderRefused(OrderProblem.CONFLICT, f"no version that was live on {endpoint} before can be brought back")

    # ------------------------------------------------------------------------------------------- the same order again

    def _record(self, session: str, verb: Verb, order_id: str) -> AuditRecord | None:
        """What stands in the audit about an order that was accepted."""
        return _find(self._ledger.trail(session), verb, order_id)

    def _accepted(self, row: Promotion, verb: Verb, order_id: str) -> Promotion | None:
        """The row, if this order has been accepted before; what a crash may have left out is done now."""
        if _is_of(row, order_id) or self._record(row.session_id, verb, order_id):
            return self._completed(row, verb, order_id)
        return None

    def _completed(self, row: Promotion, verb: Verb, order_id: str) -> Promotion:
        """Nothing is left to do for an order that a newer one has followed."""
        return self._sent(row, verb) if _is_of(row, order_id) else row

    def _sent(self, row: Promotion, verb: Verb) -> Promotion:
        """Audited, and sent as long as no delivery has been seen."""
        assert row.order is not None  # noqa: S101 - it was opened by one
        self._ledger.audit(AuditRecord.of(row, row.order, verb))
        if row.state is State.REQUESTED:
            self._queue.send(command_of(row), not_before=row.due)
        return row

    # ------------------------------------------------------------------------------------------------- new attempts

    def _again(
        self,
        row: Promotion,
        order: Order,
        verb: Verb,
        *,
        generation_time: datetime | None = None,
        fresh: int | None = None,
        goal: Literal["live", "retired"] = "live",
        not_before: datetime | None = None,
    ) -> Promotion:
        """A new attempt of a promotion that has ended, with the content that it had."""
        _check_it_has_ended(row)
        before = command_of(row)
        changes = {
            "attempt": row.attempt + 1,
            "order": order,
            "generation_time": generation_time or before.generation_time,
            "fresh": before.fresh if fresh is None else fresh,
            "goal": goal,
        }
        command = renewed(before).model_copy(update=changes)
        opened = row.again(command, now=self._now()).model_copy(update={"due": not_before})
        return self._sent(self._ledger.save(opened), verb)

    def _anew(self, row: Promotion, order: Order, *, fresh: bool) -> Promotion:
        """A new attempt that wins over what is live now; once for each order."""
        if accepted := self._accepted(row, order.verb, order.id):
            return accepted
        wins = winning_time(self._ledger, row.session_id, order.at)
        return self._again(row, order, order.verb, generation_time=wins, fresh=row.attempt + 1 if fresh else None)

    def _elsewhere(self, row: Promotion, target: str, order: Order) -> Promotion:
        """The same content in another target: a promotion of its own, with its origin in `redeployed_from`."""
        workspace = self._workspace(target, OrderProblem.INVALID)
        before = command_of(row)
        asked = self._asked_in(before, target)
        stage = before.stage.model_copy(update={"target": target} | asked)
        path = path_id(before.source, before.model, before.version, f"{before.rule}\n{row.id}\n{target}")
        command = renewed(before).model_copy(
            update={
                "promotion_id": promotion_id(path, 0),
                "stages": (stage,),
                "stage_number": 0,
                "fan_out": 1,
                "alone": False,
                "targets": {target: workspace},
                "attempt": 1,
                "fresh": 0,
                "order": order,
                "generation_time": order.at,
                "redeployed_from": row.id,
                "requested_by": order.by,
                "requested_at": order.at,
            }
        )
        there = self._ledger.promotion(command.promotion_id)
        if there is None:
            _check_it_has_ended(row)
            there = self._ledger.open(Promotion.requested(command, now=self._now(), evidence=row.evidence))
        if accepted := self._accepted(there, Verb.REDEPLOY, order.id):
            return accepted
        return self._again(there, order, Verb.REDEPLOY, generation_time=order.at)

    def _asked_in(self, command: PromoteModel, target: str) -> dict[str, object]:
        """What must be so in another target: as the policy has it there, first of all by the same rule."""
        rules = sorted(self._policy.rules, key=lambda rule: rule.name != command.rule)
        stages = [stage for rule in rules for stage in rule.stages if stage.target == target]
        approval = next((stage.approval for stage in stages if stage.approval is not None), None)
        gates = next((stage.gates for stage in stages if stage.gates is not None), None)
        return {
            "approval": command.stage.approval or approval,
            "gates": gates or command.stage.gates,
            "freeze": self._policy.targets[target].freeze,
        }

    # ---------------------------------------------------------------------------------------------------- words

    def _say(self, target: str, serve: str, endpoint: str, order: Order) -> EndpointCommand:
        """A word to an endpoint. One that comes again is not sent again once a newer one has followed."""
        trail = self._ledger.trail(self.session(target, serve, endpoint))
        before = _find(trail, order.verb, order.id)
        word = EndpointCommand.model_validate(
            {
                "order": _as_accepted(order, before),
                "target_name": target,
                "target": self._endpoint_target(target),
                "serve": _serve(serve),
                "endpoint": _endpoint(endpoint),
            }
        )
        if before is None or not any(found.action in _HOLDS and found.at > before.at for found in trail):
            self._ledger.audit(_audit(word))
            self._queue.send(word)
        return word

    def _hold_for(self, target: str, serve: str, endpoint: str, order: Order, otherwise: str) -> None:
        """Before the order itself, so that nothing automatic can come between."""
        changes = {"verb": Verb.HOLD, "reason": order.reason or otherwise, "replaces": None}
        self._say(target, serve, endpoint, order.model_copy(update=changes))

    # ------------------------------------------------------------------------------------------------------- values

    def _order(
        self,
        verb: Verb,
        caller: Caller,
        order_id: str,
        reason: str,
        *,
        overrides_hold: bool = False,
        replaces: str | None = None,
    ) -> Order:
        return Order(
            id=order_id,
            verb=verb,
            by=caller.name,
            at=self._now(),
            reason=reason,
            overrides_hold=overrides_hold,
            replaces=replaces,
        )

    def _endpoint_target(self, target: str) -> WorkspaceId:
        return self._workspace(target, OrderProblem.NOT_FOUND)

    def _workspace(self, target: str, problem: OrderProblem) -> WorkspaceId:
        found = self._policy.targets.get(target)
        if found is None:
            known = ", ".join(self._policy.targets)
            raise OrderRefused(problem, f"{target!r} is none of the policy's targets: {known}")
        return found.id


def check_override(caller: Caller, overrides_hold: bool, reason: str) -> None:
    """Who goes on in spite of a hold or a freeze has the role for it, and says why."""
    if not overrides_hold:
        return
    if OVERRIDE_ROLE not in caller.roles:
        why = f"{caller.name} does not have the role {OVERRIDE_ROLE}, which overriding a hold or a freeze needs"
        raise OrderRefused(OrderProblem.FORBIDDEN, why)
    if not reason.strip():
        raise OrderRefused(OrderProblem.INVALID, "overriding a hold or a freeze needs a reason: it is in the audit")


def winning_time(ledger: Ledger, session: str, at: datetime) -> datetime:
    """When an order counts as given: now, and in any case after what is live on the endpoint.

    That has the time of the source's clock, which may be ahead of ours; the order came after it all the same.
    """
    live = next((found for found in ledger.trail(session) if found.action == LIVE), None)
    row = ledger.promotion(live.promotion_id) if live is not None and live.promotion_id else None
    if row is None or row.command is None:
        return at
    return max(at, command_of(row).generation.time + timedelta(microseconds=1))


def order_id(caller: Caller, idempotency_key: str, *what: str) -> str:
    """The id of an order that the caller names by a key of its own: the same key for the same thing is the same order."""
    return hashlib.sha256(json.dumps((caller.name, idempotency_key, *what)).encode()).hexdigest()[:40]


def row_of(ledger: Ledger, promotion: str) -> Promotion:
    row = ledger.promotion(promotion)
    if row is None:
        raise OrderRefused(OrderProblem.NOT_FOUND, f"there is no promotion {promotion!r}")
    return row


def _check_it_has_ended(row: Promotion) -> None:
    if not row.state.is_final:
        raise OrderRefused(
            OrderProblem.CONFLICT, f"promotion {row.id} is {row.state}: wait for its end, or cancel it first"
        )


def _is_of(row: Promotion, order_id: str) -> bool:
    return row.order is not None and row.order.id == order_id


def _find(trail: Iterable[AuditRecord], verb: Verb, order_id: str) -> AuditRecord | None:
    return next((found for found in trail if found.id == f"{verb}:{order_id}"), None)


def _as_accepted(order: Order, before: AuditRecord | None) -> Order:
    """An order that comes again is as old as when it came first."""
    return order if before is None else order.model_copy(update={"at": before.at, "reason": before.reason})


def _serve(serve: str) -> str:
    if serve not in ("realtime", "batch"):
        raise OrderRefused(OrderProblem.NOT_FOUND, f"an endpoint is realtime or batch, not {serve!r}")
    return serve


def _endpoint(name: str) -> str:
    if not ENDPOINT_NAME.fullmatch(name):
        raise OrderRefused(
            OrderProblem.NOT_FOUND,
            f"no endpoint can be called {name!r}: 3 to 32 letters, digits and hyphens, starting with a letter",
        )
    return name.lower()


def command_of(row: Promotion) -> PromoteModel:
    """The last message of a promotion: what it was asked to do, with its frozen recipe."""
    if row.command is None:
        raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} has no command to repeat")
    try:
        return PromoteModel.model_validate_json(row.command)
    except ValidationError as error:
        text = f"the command of promotion {row.id} was written by another version of this service, and cannot be read"
        raise OrderRefused(OrderProblem.CONFLICT, text) from error


def renewed(command: PromoteModel) -> PromoteModel:
    """Without what belongs to one delivery or one attempt; an attempt has a trace of its own."""
    return command.model_copy(
        update={
            "hop": 0,
            "faults": 0,
            "transients": 0,
            "failing_since": None,
            "operation": None,
            "phase": None,
            "phase_since": None,
            "cancel": None,
            "goal": "live",
            "traceparent": traceparent(),
        }
    )


def word_about(row: Promotion, order: Order) -> EndpointCommand:
    """About one promotion."""
    return EndpointCommand.model_validate(
        {
            "order": order,
            "target_name": row.target,
            "target": command_of(row).target,
            "serve": row.serve,
            "endpoint": row.endpoint,
            "promotion_id": row.id,
        }
    )


def _audit(word: EndpointCommand) -> AuditRecord:
    order = word.order
    return AuditRecord(
        id=f"{order.verb}:{order.id}",
        at=order.at,
        actor=order.by,
        action=order.verb,
        target=word.target_name,
        serve=word.serve,
        endpoint=word.endpoint,
        session_id=word.session_id,
        reason=order.reason,
    )
