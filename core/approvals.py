"""Approving and rejecting: who may, what of, and that one decision stands for each attempt.

What an approval does to a promotion is in `core/gates.py`.
"""

from collections.abc import Callable
from datetime import datetime

from core.callers import KEY_HOLDER, Caller
from core.commands import Order, Verb
from core.ledger import Approval, AuditRecord, Decision, Promotion
from core.orders import OrderProblem, OrderRefused, command_of, row_of, word_about
from core.ports import CommandQueue, Ledger
from core.stages import Approval as Wanted

# Requesters of whom nobody can say that they are not the approver.
UNKNOWN = ("", "unknown", KEY_HOLDER)


class Approvals:
    """Accepts decisions. `now` is the current time (UTC)."""

    def __init__(self, *, ledger: Ledger, queue: CommandQueue, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._queue = queue
        self._now = now

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
        """Approve or reject what was shown: the digests say which files and which recipe that was.

        It answers what the promotion asks: whether it may be promoted, or, parked in doubt, its `question`.

        The decision that stands. Of two people at once one decides; the same decision again by the same person is one.
        """
        row = row_of(self._ledger, promotion)
        wanted, question = command_of(row).stage.approval, row.question
        if wanted is None and not question:
            return self._decided_before(row, caller, decision)
        wanted = wanted or Wanted()
        check_who(row, caller, decision, wanted)
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
            question=question,
            manifest_digest=manifest_digest,
            recipe_digest=recipe_digest,
        )
        stands = self._standing(row, given)
        if (stands.decision, stands.by) != (decision, caller.name):
            raise OrderRefused(OrderProblem.CONFLICT, f"{stands.by} has {stands.decision} it already")
        self._tell(row, stands)
        return stands

    def _decided_before(self, row: Promotion, caller: Caller, decision: Decision) -> Approval:
        """The same answer again to a question that is not asked any more; there is nothing else to decide."""
        for found in reversed(self._ledger.approvals(row.id)):
            if (found.attempt, found.decision, found.by) == (row.attempt, decision, caller.name):
                return found
        raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} needs no approval")

    def _standing(self, row: Promotion, given: Approval) -> Approval:
        """What was decided about this attempt; only what is under way can still be decided."""
        if not row.state.is_final:
            return self._ledger.decide(given)
        found = next((each for each in self._ledger.approvals(row.id) if each.attempt == row.attempt), None)
        if found is None:
            raise OrderRefused(OrderProblem.CONFLICT, f"promotion {row.id} is {row.state} already")
        return found

    def _tell(self, row: Promotion, stands: Approval) -> None:
        """Into the audit, and to the promotion, which looks again. Each is the same when it is done again."""
        name = f"{row.id}:{row.attempt}"
        name = (f"{name}:{stands.question}" if stands.question else name)[-80:]
        order = Order(id=name, verb=Verb.WAKE, by=stands.by, at=stands.at, reason=stands.comment)
        self._ledger.audit(AuditRecord.of(row, order, stands.decision))
        if not row.state.is_final:
            self._queue.send(word_about(row, order))


def check_who(row: Promotion, caller: Caller, decision: Decision, wanted: Wanted) -> None:
    """OrderRefused unless this caller may decide: known, with the role, and not who asked. What is not known fails."""
    if not caller.is_known:
        raise OrderRefused(
            OrderProblem.FORBIDDEN,
            "a function key alone approves nothing: sign in, with platform authentication on (docs/operations.md)",
        )
    if wanted.role not in caller.roles:
        raise OrderRefused(OrderProblem.FORBIDDEN, f"{caller.name} does not have the role {wanted.role}")
    if wanted.requester_may_approve or decision is Decision.REJECTED:
        return
    asked_by = row.order.by if row.order else row.requested_by
    if asked_by in UNKNOWN:
        raise OrderRefused(
            OrderProblem.FORBIDDEN,
            f"who asked for promotion {row.id} is not known, and the requester may not approve it: "
            "cancel it, and let somebody who is signed in retry it",
        )
    if caller.is_called(asked_by) or caller.is_called(row.requested_by):
        raise OrderRefused(OrderProblem.FORBIDDEN, f"{caller.name} asked for it and may not approve it")
