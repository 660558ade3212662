"""How a promotion is taken back: cancelled while it is under way, or retired with its endpoint. Pure.

Both leave nothing of ours behind that costs money or takes up a name, and touch nothing that others made. What is shared
by content (model, code, environment, component) stays.
"""

from core import batch, tags
from core.commands import Phase
from core.errors import Reason
from core.outcomes import Done, Refused, Waiting
from core.ports import Deployment, Endpoint, JobStatus, Schedule
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Unseen, Wanted, wait


def cancel(wanted: Wanted, seen: Seen, endpoint: Endpoint | None, ours: Deployment | None) -> Step:
    """Take away what this promotion has made and nobody uses. The caller knows that it has no traffic."""
    return (
        _cancel_test_job(wanted, seen)
        or _delete_leftover(wanted, seen, endpoint, ours)
        or _delete_empty_endpoint(wanted, seen, endpoint)
        or _cancelled(wanted)
    )


def _cancelled(wanted: Wanted) -> Refused:
    order = wanted.command.cancel
    assert order is not None  # noqa: S101 - decide() asked
    return Refused(
        Reason.CANCELLED,
        f"cancelled by {order.by}" + (f": {order.reason}" if order.reason else ""),
        remedy="Nothing to do. Retry it if it is wanted after all.",
    )


def _cancel_test_job(wanted: Wanted, seen: Seen) -> Step | None:
    if not wanted.command.is_batch:
        return None
    if seen.test_job is UNSEEN:
        return Look.TEST_JOB
    is_running = seen.test_job is not None and seen.test_job.status is JobStatus.RUNNING
    return Do(Effect.CANCEL_TEST_JOB, batch.test_job_name(wanted.command)) if is_running else None


def _delete_leftover(wanted: Wanted, seen: Seen, endpoint: Endpoint | None, ours: Deployment | None) -> Step | None:
    if endpoint is None or ours is None or ours.tags.get(tags.PROMOTION) != wanted.command.promotion_id:
        return None
    if not endpoint.provisioning.is_settled or not ours.provisioning.is_settled:
        return wait(Phase.DEPLOY, f"cancelled; deployment {ours.name} can be deleted once it has settled", seen)
    return Do(Effect.CLEAN_UP, ours.name)


def _delete_empty_endpoint(wanted: Wanted, seen: Seen, endpoint: Endpoint | None) -> Step | None:
    """An endpoint that this promotion created and that never had a deployment with traffic."""
    if endpoint is None or endpoint.tags.get(tags.PROMOTION) != wanted.command.promotion_id:
        return None
    if tags.STABLE in endpoint.tags or endpoint.traffic or seen.deployments:
        return None
    if not endpoint.provisioning.is_settled:
        return wait(Phase.DEPLOY, f"cancelled; endpoint {endpoint.name} can be deleted once it has settled", seen)
    return Do(Effect.DELETE_ENDPOINT, endpoint.name)


def retire(wanted: Wanted, seen: Seen) -> Step:
    """The schedule, then the endpoint with its deployments; Done when neither is there."""
    if seen.endpoint is UNSEEN:
        return Look.ENDPOINT
    if seen.endpoint is None:
        return _retire_schedule(wanted, seen) or Done(_retired(wanted))
    if seen.deployments is UNSEEN:
        return Look.DEPLOYMENTS
    return _not_to_retire(seen.endpoint, seen.deployments) or (
        wait(Phase.DEPLOY, f"endpoint {seen.endpoint.name} is being changed", seen)
        if not seen.endpoint.provisioning.is_settled
        else _retire_schedule(wanted, seen) or Do(Effect.DELETE_ENDPOINT, seen.endpoint.name)
    )


def _retired(wanted: Wanted) -> dict[str, object]:
    return {"endpoint": wanted.command.endpoint, "retired": True}


def _not_to_retire(endpoint: Endpoint, deployments: tuple[Deployment, ...] | Unseen) -> Refused | None:
    assert not isinstance(deployments, Unseen)  # noqa: S101 - retire() looked before
    if tags.generation(endpoint.tags) is None:
        return Refused(
            Reason.ENDPOINT_NOT_OURS,
            f"endpoint {endpoint.name} was not created by this service",
            remedy="Delete it in the target workspace, if it is of no use there.",
        )
    if others := [found.name for found in deployments if not tags.is_copy(found.tags)]:
        return Refused(
            Reason.ENDPOINT_NOT_OURS,
            f"endpoint {endpoint.name} also has deployments that others made: {', '.join(others)}",
            remedy="Delete those in the target workspace first; deleting the endpoint would delete them.",
        )
    return None


def _retire_schedule(wanted: Wanted, seen: Seen) -> Step | Waiting | None:
    """None when no schedule of ours is left."""
    if not wanted.command.is_batch:
        return None
    if seen.schedule is UNSEEN:
        return Look.SCHEDULE
    found = seen.schedule
    if not isinstance(found, Schedule) or not tags.is_copy(found.tags):
        return None
    if not found.provisioning.is_settled:
        return wait(Phase.DEPLOY, f"schedule {found.name} is being changed", seen)
    return Do(Effect.PAUSE_SCHEDULE if found.enabled else Effect.DELETE_SCHEDULE, found.name)
