"""What must be so before an endpoint is claimed: quality, an approval, no hold, no freeze. Pure.

All are asked only of a promotion that has not claimed its endpoint yet: one under way is not stopped by them.
"""

from core.commands import Order, Phase, PromoteModel, Verb
from core.errors import Reason
from core.ledger import Approval, Decision, Hold
from core.outcomes import Parked, Refused
from core.quality import Verdict, comparisons, remedy, verdicts, why_failed
from core.said import Said
from core.steps import Wanted

# What repairs an endpoint: a freeze does not keep it away either.
_REPAIRS = (Verb.ROLL_BACK, Verb.RETIRE)
_BRING_BACK = (Verb.REDEPLOY, Verb.ROLL_BACK, Verb.REPAIR)


def gate(wanted: Wanted) -> Parked | Refused | None:
    """None when the promotion may claim its endpoint."""
    command = wanted.command
    return (
        _quality(command, wanted.said)
        or _approval(command, wanted.approvals)
        or _hold(command, wanted.hold)
        or _freeze(command, wanted.said)
    )


def _quality(command: PromoteModel, said: Said) -> Refused | None:
    """Nobody is asked to approve what the policy does not let pass. What was live here before may come back as it is."""
    if said.was_live and command.order is not None and command.order.verb in _BRING_BACK:
        return None
    failed = [each for each in gate_verdicts(command, said) if not each.holds]
    return Refused(Reason.GATE_FAILED, why_failed(failed), remedy(said.quality)) if failed else None


def gate_verdicts(command: PromoteModel, said: Said) -> tuple[Verdict, ...]:
    """On the gates of the rule and of the stage. A version is not compared with itself."""
    live = said.live if said.live is not None and said.live.promotion_id != command.promotion_id else None
    return tuple(
        verdict
        for gates in (command.gates, command.stage.gates)
        if gates is not None
        for verdict in (*verdicts(gates, said.quality), *comparisons(gates, said.quality, live))
    )


def _approval(command: PromoteModel, approvals: tuple[Approval, ...]) -> Parked | Refused | None:
    wanted = command.stage.approval
    if wanted is None:
        return None
    last = next((found for found in reversed(approvals) if _is_about(found, command)), None)
    if last is not None and last.decision is Decision.APPROVED:
        return None
    if last is not None and last.attempt == command.attempt:
        comment = f": {last.comment}" if last.comment else ""
        return Refused(
            Reason.REJECTED,
            f"{last.by} rejected it{comment}",
            remedy="Talk to them; then retry the promotion, which asks for an approval again.",
        )
    return Parked(
        Reason.APPROVAL_WANTED,
        f"waits for the approval of somebody with the role {wanted.role}",
        remedy=f"Approve or reject it: POST /api/promotions/{command.promotion_id}/approve (or .../reject).",
        phase=Phase.APPROVAL,
    )


def _is_about(approval: Approval, command: PromoteModel) -> bool:
    """An approval binds what was shown: other files or another recipe are another question."""
    if approval.question:
        return False
    content = (command.manifest_digest, command.recipe_digest)
    return (approval.manifest_digest, approval.recipe_digest) == content and approval.attempt <= command.attempt


def _hold(command: PromoteModel, hold: Hold | None) -> Parked | None:
    if hold is None or (command.order is not None and _overrides(command.order, hold)):
        return None
    reason = f": {hold.order.reason}" if hold.order.reason else ""
    return Parked(
        Reason.ON_HOLD,
        f"endpoint {command.endpoint} is on hold since {hold.order.at:%Y-%m-%d %H:%M} UTC, by {hold.order.by}{reason}",
        remedy=f"Release it: POST /api/endpoints/{hold.target}/{hold.serve}/{hold.endpoint}/release.",
    )


def _overrides(order: Order, hold: Hold) -> bool:
    """A hold that came after the order was not known to who gave it: a retirement, say, that followed a roll-back."""
    return order.overrides_hold and hold.order.at <= order.at


def _freeze(command: PromoteModel, said: Said) -> Parked | None:
    order, until = command.order, said.frozen_until
    if until is None or (order is not None and _breaks_the_glass(order)):
        return None
    because = f" ({'; '.join(said.frozen_because)})" if said.frozen_because else ""
    return Parked(
        Reason.FROZEN,
        f"{command.stage.target} is frozen until {until:%Y-%m-%d %H:%M} UTC{because}",
        remedy="Nothing to do: it goes on by itself then. To go on now, cancel it and ask for it again with "
        "`overrides_hold` and a `reason`.",
        phase=Phase.FREEZE,
        until=until,
    )


def _breaks_the_glass(order: Order) -> bool:
    return order.overrides_hold and (bool(order.reason.strip()) or order.verb in _REPAIRS)
