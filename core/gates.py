"""What must be said before an endpoint is claimed: an approval, and that it is not on hold. Pure.

Both are asked only of a promotion that has not claimed its endpoint yet: one under way is not stopped by them.
"""

from core.commands import Phase, PromoteModel
from core.errors import Reason
from core.ledger import Approval, Decision, Hold
from core.outcomes import Parked, Refused
from core.steps import Wanted


def gate(wanted: Wanted) -> Parked | Refused | None:
    """None when the promotion may claim its endpoint."""
    return _approval(wanted.command, wanted.approvals) or _hold(wanted.command, wanted.hold)


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
    content = (command.manifest_digest, command.recipe_digest)
    return (approval.manifest_digest, approval.recipe_digest) == content and approval.attempt <= command.attempt


def _hold(command: PromoteModel, hold: Hold | None) -> Parked | None:
    if hold is None or (command.order is not None and command.order.overrides_hold):
        return None
    reason = f": {hold.order.reason}" if hold.order.reason else ""
    return Parked(
        Reason.ON_HOLD,
        f"endpoint {command.endpoint} is on hold since {hold.order.at:%Y-%m-%d %H:%M} UTC, by {hold.order.by}{reason}",
        remedy=f"Release it: POST /api/endpoints/{hold.target}/{hold.serve}/{hold.endpoint}/release.",
    )
