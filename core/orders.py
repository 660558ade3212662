"""What people ask of promotions, endpoints and schedules: checked, written down, and put into the endpoint's session.

Nothing here writes to a target. Whatever may be repeated carries an order id: the same order twice is one order.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from core.callers import Caller
from core.commands import EndpointCommand, Order, PromoteModel, Verb, path_id, promotion_id, session_id
from core.events import WorkspaceId
from core.ledger import LIVE, Approval, AuditRecord, Decision, Hold, Promotion, State
from core.policy import Policy
from core.ports import CommandQueue, Ledger


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

    def retry(self, promotion: str, caller: Caller, *, order_id: str, reason: str = "") -> Promotion:
        """Try again what was refused, cancelled or superseded: a new attempt, of the same age as before."""
        row = self._row(promotion)
        if row.order is not None and row.order.id == order_id:
            return self._sent(row)
        if row.state not in (State.REFUSED, State.CANCELLED, State.SUPERSEDED):
            hint = "redeploy it for a fresh deployment" if row.state.is_final else "it is still under way"
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is {row.state}: {hint}")
        return self._again(row, self._order(Verb.RETRY, caller, order_id, reason))

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
        row = self._row(promotion)
        order = self._order(Verb.REDEPLOY, caller, order_id, reason, overrides_hold=overrides_hold)
        if target is not None and target != row.target:
            return self._elsewhere(row, target, order)
        if row.order is not None and row.order.id == order_id:
            return self._sent(row)
        return self._again(row, order, generation_time=order.at, fresh=row.attempt + 1 if fresh else None)

    def cancel(self, promotion: str, caller: Caller, *, order_id: str, reason: str = "") -> Promotion:
        """End a promotion that is under way, and take away what it has made."""
        row = self._row(promotion)
        if row.state.is_final:
            hint = "; roll the endpoint back instead" if row.state is State.SUCCEEDED else ""
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is {row.state} already{hint}")
        order = self._order(Verb.CANCEL, caller, order_id, reason)
        self._audit(row, order)
        self._queue.send(_word(row, _target(row), order))
        return row

    def wake(self, promotion: str, caller: Caller, *, order_id: str) -> Promotion:
        """Look at a waiting promotion now instead of when it is due."""
        row = self._row(promotion)
        if not row.state.is_final:
            self._queue.send(_word(row, _target(row), self._order(Verb.WAKE, caller, order_id, "")))
        return row

    # ---------------------------------------------------------------------------------------------------- approvals

    def decide(
        self,
        promotion: str,
        caller: Caller,
        decision: Decision,
        *,
        manifest_digest: str,
        recipe_digest: str,
        comment: str = "",
    ) -> Approval:
        """Approve or reject what was shown: the digests say which files and which recipe that was."""
        row = self._row(promotion)
        wanted = _command(row).stage.approval
        if wanted is None:
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} needs no approval")
        self._may_decide(row, caller, decision, wanted.role, wanted.requester_may_approve)
        if (row.manifest_digest, row.recipe_digest) != (manifest_digest, recipe_digest):
            raise OrderRefused(
                OrderProblem.CONFLICT,
                f"promotion {row.id} has other content than was shown: look at it again (GET /api/promotions/{row.id})",
            )
        given = Approval(
            promotion_id=row.id,
            attempt=row.attempt,
            decision=decision,
            by=caller.name,
            at=self._now(),
            comment=comment,
            manifest_digest=manifest_digest,
            recipe_digest=recipe_digest,
        )
        if row.state.is_final:
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is {row.state} already")
        stands = self._ledger.decide(given)
        if (stands.decision, stands.by) != (decision, caller.name):
            raise OrderRefused(OrderProblem.CONFLICT, f"{stands.by} has {stands.decision} it already")
        order = Order(id=f"{row.id}:{row.attempt}"[-80:], verb=Verb.WAKE, by=caller.name, at=stands.at, reason=comment)
        self._audit(row, order, action=decision)
        self._queue.send(_word(row, _target(row), order))
        return stands

    def _may_decide(
        self, row: Promotion, caller: Caller, decision: Decision, role: str, requester_may_approve: bool
    ) -> None:
        if not caller.is_known:
            raise OrderRefused(
                OrderProblem.FORBIDDEN,
                "a function key alone approves nothing: sign in, with platform authentication on (docs/operations.md)",
            )
        if role not in caller.roles:
            raise OrderRefused(OrderProblem.FORBIDDEN, f"{caller.name} does not have the role {role}")
        if requester_may_approve or decision is Decision.REJECTED:
            return
        asked_by = row.order.by if row.order else row.requested_by
        if not asked_by or asked_by == "unknown":
            raise OrderRefused(
                OrderProblem.FORBIDDEN,
                f"who asked for promotion {row.id} is not known, and the requester may not approve it; "
                "retry it, so that somebody has asked",
            )
        if caller.is_called(asked_by):
            raise OrderRefused(OrderProblem.FORBIDDEN, f"{caller.name} asked for it and may not approve it")

    # ---------------------------------------------------------------------------------------------------- endpoints

    def hold(self, target: str, serve: str, endpoint: str, caller: Caller, *, order_id: str, reason: str) -> Hold:
        """Keep automatic promotions away from an endpoint until it is released."""
        order = self._order(Verb.HOLD, caller, order_id, reason)
        word = self._endpoint_word(target, serve, endpoint, order)
        self._audit_endpoint(word)
        self._queue.send(word)
        return Hold(session_id=word.session_id, target=target, serve=serve, endpoint=word.endpoint, order=order)

    def release(self, target: str, serve: str, endpoint: str, caller: Caller, *, order_id: str, reason: str) -> None:
        order = self._order(Verb.RELEASE, caller, order_id, reason)
        word = self._endpoint_word(target, serve, endpoint, order)
        self._audit_endpoint(word)
        self._queue.send(word)

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
        live = [found for found in self._ledger.trail(self._session(target, serve, endpoint)) if found.action == LIVE]
        if live and live[0].id.startswith(f"{live[0].promotion_id}:") and live[0].after:
            current = live[0].promotion_id
        else:
            raise OrderRefused(OrderProblem.NOT_FOUND, f"nothing that was promoted is live on {endpoint} of {target}")
        row = self._row(to) if to else self._before(live, str(current), endpoint, order_id)
        if row.order is not None and row.order.id == order_id:
            return self._sent(row)
        if row.id == current:
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is what is live")
        if row.session_id != live[0].session_id:
            raise OrderRefused(OrderProblem.INVALID, f"promotion {row.id} is of another endpoint")
        order = self._order(Verb.ROLL_BACK, caller, order_id, reason, overrides_hold=True, replaces=current)
        hold = order.model_copy(update={"verb": Verb.HOLD, "reason": reason or "rolled back", "replaces": None})
        self._queue.send(self._endpoint_word(target, serve, endpoint, hold))
        return self._again(row, order, generation_time=order.at)

    def retire(
        self, target: str, serve: str, endpoint: str, caller: Caller, *, order_id: str, reason: str = ""
    ) -> Promotion:
        """Delete an endpoint or schedule with all that belongs to it, and put a hold on its name."""
        live = [found for found in self._ledger.trail(self._session(target, serve, endpoint)) if found.action == LIVE]
        if not live or live[0].promotion_id is None:
            raise OrderRefused(OrderProblem.NOT_FOUND, f"nothing was ever promoted to {endpoint} of {target}")
        row = self._row(live[0].promotion_id)
        if row.order is not None and row.order.id == order_id:
            return self._sent(row)
        if live[0].after is None:
            raise OrderRefused(OrderProblem.CONFLICT, f"{endpoint} of {target} is retired already")
        order = self._order(Verb.RETIRE, caller, order_id, reason, overrides_hold=True)
        hold = order.model_copy(update={"verb": Verb.HOLD, "reason": reason or "retired"})
        self._queue.send(self._endpoint_word(target, serve, endpoint, hold))
        return self._again(row, order, generation_time=order.at, goal="retired")

    def _before(self, live: list[AuditRecord], current: str, endpoint: str, order_id: str) -> Promotion:
        """The version that was live before and was not taken off by a roll-back since; this order's own on a repeat."""
        for found in live[1:]:
            if found.promotion_id in (None, current) or found.after is None:
                continue
            row = self._ledger.promotion(str(found.promotion_id))
            if row is not None and (row.state is State.SUCCEEDED or (row.order and row.order.id == order_id)):
                return row
        raise OrderRefused(OrderProblem.CONFLICT, f"no version that was live on {endpoint} before can be brought back")

    # ------------------------------------------------------------------------------------------------------ helpers

    def _row(self, promotion: str) -> Promotion:
        row = self._ledger.promotion(promotion)
        if row is None:
            raise OrderRefused(OrderProblem.NOT_FOUND, f"there is no promotion {promotion!r}")
        return row

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

    def _again(
        self,
        row: Promotion,
        order: Order,
        *,
        generation_time: datetime | None = None,
        fresh: int | None = None,
        goal: str = "live",
    ) -> Promotion:
        """A new attempt. The row first, then the message: a crash between them is mended by whoever repeats the order."""
        if not row.state.is_final:
            raise OrderRefused(
                OrderProblem.CONFLICT, f"promotion {row.id} is {row.state}: wait for its end, or cancel it first"
            )
        before = _command(row)
        command = _renewed(before).model_copy(
            update={
                "attempt": row.attempt + 1,
                "order": order,
                "generation_time": generation_time or before.generation_time,
                "fresh": before.fresh if fresh is None else fresh,
                "goal": goal,
            }
        )
        opened = row.model_copy(
            update={
                "state": State.REQUESTED,
                "why": "",
                "reason": None,
                "remedy": None,
                "attempt": command.attempt,
                "hop": 0,
                "due": None,
                "updated_at": self._now(),
                "order": order,
                "command": command.encode().decode(),
            }
        )
        saved = self._ledger.save(opened)
        self._audit(saved, order)
        return self._sent(saved)

    def _elsewhere(self, row: Promotion, target: str, order: Order) -> Promotion:
        """The same content in another target: a promotion of its own, with its origin in `redeployed_from`."""
        workspace = self._workspace(target)
        before = _command(row)
        stage = before.stage.model_copy(update={"target": target})
        path = path_id(before.source, before.model, before.version, f"{before.rule}\n{row.id}\n{target}")
        command = _renewed(before).model_copy(
            update={
                "promotion_id": promotion_id(path, 0),
                "stages": (stage,),
                "stage_number": 0,
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
        if there is not None and there.order is not None and there.order.id != order.id:
            return self._again(there, order, generation_time=order.at)
        opened = self._ledger.open(Promotion.requested(command, now=self._now(), evidence=row.evidence))
        self._audit(opened, order)
        return self._sent(opened)

    def _sent(self, row: Promotion) -> Promotion:
        """Sent as long as no delivery has been seen: an earlier try may have died before."""
        if row.state is State.REQUESTED:
            self._queue.send(_command(row))
        return row

    def _audit(self, row: Promotion, order: Order, *, action: str | None = None) -> None:
        self._ledger.audit(
            AuditRecord(
                id=f"{order.verb}:{order.id}",
                at=order.at,
                actor=order.by,
                action=action or order.verb,
                target=row.target,
                serve=row.serve,
                endpoint=row.endpoint,
                session_id=row.session_id,
                promotion_id=row.id,
                reason=order.reason,
            )
        )

    def _audit_endpoint(self, word: EndpointCommand) -> None:
        order = word.order
        self._ledger.audit(
            AuditRecord(
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
        )

    def _workspace(self, target: str) -> WorkspaceId:
        found = self._policy.targets.get(target)
        if found is None:
            known = ", ".join(self._policy.targets)
            raise OrderRefused(OrderProblem.INVALID, f"{target!r} is none of the policy's targets: {known}")
        return found.id

    def _session(self, target: str, serve: str, endpoint: str) -> str:
        return session_id(self._workspace(target), "batch" if serve == "batch" else "online", endpoint)

    def _endpoint_word(self, target: str, serve: str, endpoint: str, order: Order) -> EndpointCommand:
        return EndpointCommand.model_validate(
            {
                "order": order,
                "target_name": target,
                "target": self._workspace(target),
                "serve": serve,
                "endpoint": endpoint.lower(),
            }
        )


def order_id(caller: Caller, idempotency_key: str, *what: str) -> str:
    """The id of an order that the caller names by a key of its own: the same key for the same thing is the same order."""
    return hashlib.sha256("\n".join((caller.name, idempotency_key, *what)).encode()).hexdigest()[:40]


def _command(row: Promotion) -> PromoteModel:
    """The last message of a promotion: what it was asked to do, with its frozen recipe."""
    if row.command is None:
        raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} has no command to repeat")
    return PromoteModel.model_validate_json(row.command)


def _target(row: Promotion) -> WorkspaceId:
    return _command(row).target


def _renewed(command: PromoteModel) -> PromoteModel:
    """Without what belongs to one delivery or one attempt."""
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
        }
    )


def _word(row: Promotion, target: WorkspaceId, order: Order) -> EndpointCommand:
    return EndpointCommand.model_validate(
        {
            "order": order,
            "target_name": row.target,
            "target": target,
            "serve": row.serve,
            "endpoint": row.endpoint,
            "promotion_id": row.id,
        }
    )
