"""What to do next with an endpoint, given what the target shows. Pure, and the same for online and batch endpoints.

The order of a promotion, each step safe to repeat and safe to die in:

1. make the assets that the deployment needs (`assets`)
2. create or claim the endpoint
3. create the deployment, which nobody is sent to yet
4. verify it: a smoke request, or a test job (`realtime`, `batch`)
5. move the traffic to it, at once or in steps (`rollout`), and read back that it moved; a batch endpoint's traffic is
   its default deployment
6. write the schedule, if there is one (`batch`)
7. retire the deployments that this service created before

`decide` reads like that list: the further a promotion is, the less there is to look at. Before step 1, what people must
say is asked (`gates`), and what would keep it from ending well is looked at (`preflight`); how a promotion is taken back is in `ending`.
"""

from typing import assert_never

from core import batch, ending, realtime, rollout, tags
from core.assets import prepare
from core.commands import Phase
from core.errors import Reason
from core.gates import gate
from core.outcomes import Done, Parked, Refused, Waiting
from core.ports import Deployment, Endpoint, Provisioning
from core.preflight import preflight
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Unseen, Wanted, wait


def decide(wanted: Wanted, seen: Seen) -> Step:
    """The next step towards what is wanted."""
    if wanted.command.goal == "retired":
        return ending.retire(wanted, seen)
    endpoint = seen.endpoint
    if endpoint is UNSEEN:
        return Look.ENDPOINT
    if endpoint is None:
        barred = _cancel(wanted, seen, None) or gate(wanted) or preflight(wanted, seen)
        return barred or prepare(wanted, seen) or Do(Effect.CREATE_ENDPOINT)
    if seen.deployments is UNSEEN:
        return Look.DEPLOYMENTS
    claimed = tags.generation(endpoint.tags)
    if claimed is None and not wanted.command.stage.adopt:
        return _cancel(wanted, seen, endpoint) or _not_ours(endpoint)
    if claimed is not None and claimed.is_newer_than(wanted.command.generation):
        return _superseded(wanted, endpoint, seen.deployments, claimed.promotion_id)
    if step := _cancel(wanted, seen, endpoint):
        return step
    if claimed != wanted.command.generation and (barred := gate(wanted)):
        return barred
    if not endpoint.provisioning.is_settled:
        return wait(Phase.DEPLOY, f"endpoint {endpoint.name} is being changed", seen)
    ours = _ours(wanted, seen.deployments)
    if ours is None and (step := preflight(wanted, seen) or prepare(wanted, seen)):
        return step
    is_new_attempt = tags.attempt(endpoint.tags) < wanted.command.attempt
    if claimed != wanted.command.generation or (endpoint.provisioning is Provisioning.FAILED and is_new_attempt):
        return Do(Effect.CLAIM_ENDPOINT)
    if endpoint.provisioning is Provisioning.FAILED:
        return Refused(
            Reason.ENDPOINT_FAILED,
            f"endpoint {endpoint.name} could not be set up",
            remedy="Look at the endpoint in the target workspace; delete it there if it is of no use, then ask again.",
        )
    return _deploy(wanted, seen, endpoint, ours)


def _deploy(wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment | None) -> Step:
    """Steps 3 to 7, on an endpoint that this promotion has claimed."""
    if step := rollout.taken_back(wanted, seen, endpoint, ours) or rollout.abandoned(
        endpoint, wanted.command.deployment
    ):
        return step
    if ours is None:
        return _component(wanted, seen) or Do(Effect.CREATE_DEPLOYMENT, wanted.command.deployment)
    if not (tags.is_copy_of(ours.tags, wanted.command) and ours.tags.get(tags.RECIPE) == wanted.command.recipe_digest):
        return Refused(
            Reason.DEPLOYMENT_NAME_TAKEN,
            f"deployment {ours.name} exists but was not made by this service from this model",
            remedy="Delete it in the target workspace, then ask again.",
        )
    is_new_attempt = tags.attempt(ours.tags) < wanted.command.attempt
    if is_new_attempt and ours.provisioning is Provisioning.FAILED and not _is_live(endpoint, ours):
        return Do(Effect.DELETE_FAILED_DEPLOYMENT, ours.name)
    match ours.provisioning:
        case Provisioning.CHANGING:
            return wait(Phase.DEPLOY, f"deployment {ours.name} is being created", seen)
        case Provisioning.DELETING:
            return wait(Phase.DEPLOY, f"deployment {ours.name} is being deleted", seen)
        case Provisioning.FAILED:
            return Refused(
                Reason.DEPLOYMENT_FAILED,
                f"deployment {ours.name} could not be started",
                remedy="Read its log below: most often a package is missing or the model cannot be loaded. "
                "Register a corrected version.",
            )
        case Provisioning.SUCCEEDED:
            pass
        case _:
            assert_never(ours.provisioning)
    return (
        _move_traffic(wanted, seen, endpoint, ours)
        or _schedule(wanted, seen)
        or _retire(seen, ours)
        or Done(_result(wanted, seen, endpoint, ours))
    )


def _move_traffic(wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment) -> Step | None:
    """None once the deployment has all of it, for good. What has none yet is verified first."""
    is_stable = endpoint.tags.get(tags.STABLE) == ours.name
    if wanted.command.is_batch:
        if is_stable and endpoint.traffic.get(ours.name) == 100:
            return None
        return batch.verify(wanted, seen, endpoint) or Do(Effect.SHIFT_TRAFFIC, ours.name)
    is_verified = (is_stable and endpoint.traffic.get(ours.name) == 100) or rollout.position(endpoint, ours) is not None
    if not is_verified and (step := realtime.verify(wanted, seen, ours)):
        return step
    return rollout.advance(wanted, seen, endpoint, ours, _result(wanted, seen, endpoint, ours))


# ------------------------------------------------------------------------------------- where the two kinds differ


def _component(wanted: Wanted, seen: Seen) -> Step | None:
    return batch.component(wanted, seen) if wanted.command.is_batch else None


def _schedule(wanted: Wanted, seen: Seen) -> Step | None:
    return batch.schedule(wanted, seen) if wanted.command.is_batch else None


def _result(wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment) -> dict[str, object]:
    if wanted.command.is_batch:
        return batch.result(wanted, seen, endpoint, ours)
    return realtime.result(wanted, endpoint, ours)


# ------------------------------------------------------------------------------------------- old, newer and foreign


def _retire(seen: Seen, ours: Deployment) -> Step | None:
    """None when no other deployment of ours is left. What others deployed here is theirs."""
    assert not isinstance(seen.deployments, Unseen)  # noqa: S101 - decide() looked before
    for old in seen.deployments:
        if old.name == ours.name or not tags.is_copy(old.tags):
            continue
        if not old.provisioning.is_settled:
            return wait(Phase.DEPLOY, f"old deployment {old.name} is {old.provisioning.lower()}", seen)
        return Do(Effect.RETIRE, old.name)
    return None


def _cancel(wanted: Wanted, seen: Seen, endpoint: Endpoint | None) -> Step | None:
    """None if nobody wants it to end, or if it is live already: then it is too late, and a roll-back is what helps."""
    if wanted.command.cancel is None:
        return None
    deployments = () if isinstance(seen.deployments, Unseen) else seen.deployments
    ours = _ours(wanted, deployments)
    if endpoint is not None and ours is not None and _is_live(endpoint, ours):
        if endpoint.tags.get(tags.STABLE) == ours.name or endpoint.traffic.get(ours.name) == 100:
            return None
        if not endpoint.provisioning.is_settled:
            return wait(Phase.DEPLOY, f"cancelled; endpoint {endpoint.name} is being changed", seen)
        return Do(Effect.TAKE_TRAFFIC_BACK, ours.name, why="cancelled")
    return ending.cancel(wanted, seen, endpoint, ours)


def _superseded(wanted: Wanted, endpoint: Endpoint, deployments: tuple[Deployment, ...], by: str) -> Step:
    """A newer promotion has the endpoint: take away what this one left there, unless it serves traffic."""
    ours = _ours(wanted, deployments)
    if ours is not None and (at := rollout.position(endpoint, ours)) and not wanted.command.is_batch:
        if at.share == 100 and endpoint.tags.get(tags.STABLE) == ours.name:
            return Done(realtime.result(wanted, endpoint, ours))  # it was live, and only soaked
        if 0 < endpoint.traffic.get(ours.name, 0) < 100:
            return Waiting(Phase.DEPLOY, f"superseded by {by}, which takes the traffic of {ours.name} back first")
    is_leftover = (
        ours is not None
        and ours.tags.get(tags.PROMOTION) == wanted.command.promotion_id
        and not _is_live(endpoint, ours)
        and Provisioning.DELETING not in (endpoint.provisioning, ours.provisioning)
    )
    if ours is not None and is_leftover:
        if ours.provisioning is Provisioning.CHANGING or endpoint.provisioning is Provisioning.CHANGING:
            return Waiting(
                Phase.DEPLOY, f"superseded by {by}; deployment {ours.name} can be deleted once it has settled"
            )
        return Do(Effect.CLEAN_UP, ours.name)
    return Refused(
        Reason.SUPERSEDED,
        f"promotion {by}, which is newer, has endpoint {endpoint.name}",
        remedy="Nothing to do: the newest version wins. Redeploy this version if it is the one you want.",
    )


def _not_ours(endpoint: Endpoint) -> Parked:
    return Parked(
        Reason.ENDPOINT_NOT_OURS,
        f"endpoint {endpoint.name} exists in the target and was not created by this service",
        remedy="Delete it, and it goes on by itself; or cancel the promotion, set `adopt: true` or another `endpoint` in the "
        "stage, and promote again.",
    )


def _ours(wanted: Wanted, deployments: tuple[Deployment, ...]) -> Deployment | None:
    return next((found for found in deployments if found.name == wanted.command.deployment), None)


def _is_live(endpoint: Endpoint, deployment: Deployment) -> bool:
    """Has traffic, or had all of it last: such a deployment is never deleted, whatever state it is in."""
    return bool(endpoint.traffic.get(deployment.name)) or endpoint.tags.get(tags.STABLE) == deployment.name
