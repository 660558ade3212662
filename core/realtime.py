"""A managed online endpoint: what to do next, given what the target shows; and the doing.

The order of a promotion, each step safe to repeat and safe to die in:

1. copy the artifacts, check them against the manifest
2. register the model in the target, with its provenance
3. create or claim the endpoint
4. create the deployment, at 0 % of the traffic
5. smoke request to that deployment, with the model's own input example
6. move the traffic to it, and read back that it moved
7. retire the deployments that this service created before

`decide` is pure and reads like that list, last step first: the further a promotion is, the less there is to look at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final, TypeVar, assert_never

from core import tags
from core.commands import Operation, Phase, PromoteModel
from core.errors import PromotionError, Reason
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.packaging import Manifest, Recipe
from core.ports import (
    CopyState,
    CopyStatus,
    Deployment,
    DeploymentSpec,
    Endpoint,
    Provisioning,
    ScoringAnswer,
    Target,
    TargetModel,
)

LOG_TAIL = 4000
UNVERIFIED = "nothing: the model has no input example, only that it starts is known"
# A fresh deployment may answer with these for a moment; they say nothing about the model.
# (429: rate limit; 502, 503, 504: the container is not reached yet.)
PASSING_STATUSES = frozenset({429, 502, 503, 504})


class Unseen(Enum):
    """Not looked at yet in this delivery: not the same as absent."""

    UNSEEN = auto()


UNSEEN: Final = Unseen.UNSEEN
T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """What this delivery has looked at. An effect makes what it touched unseen again."""

    endpoint: Endpoint | Unseen | None = UNSEEN
    deployments: tuple[Deployment, ...] | Unseen = UNSEEN
    copies: tuple[CopyState, ...] | Unseen = UNSEEN
    model: TargetModel | Unseen | None = UNSEEN
    smoke: ScoringAnswer | Unseen = UNSEEN
    operation: Operation | None = None


class Look(Enum):
    """Something to look at before the next decision."""

    ENDPOINT = "look at the endpoint"
    DEPLOYMENTS = "look at its deployments"
    COPIES = "look at the copied artifacts"
    MODEL = "look at the model in the target"


class Effect(Enum):
    """Something to do to the target."""

    COPY = "copy artifacts"
    REGISTER_MODEL = "register model"
    CREATE_ENDPOINT = "create endpoint"
    CLAIM_ENDPOINT = "claim endpoint"
    CREATE_DEPLOYMENT = "create deployment"
    DELETE_FAILED_DEPLOYMENT = "delete failed deployment"
    SMOKE = "smoke request"
    SHIFT_TRAFFIC = "move traffic"
    RETIRE = "retire old deployment"
    CLEAN_UP = "delete superseded deployment"


@dataclass(frozen=True)
class Do:
    """An effect, and the name of what it is done to where that is not plain."""

    effect: Effect
    name: str = ""


Step = Look | Do | Outcome


@dataclass(frozen=True)
class Wanted:
    """What the command asks for, with its documents."""

    command: PromoteModel
    manifest: Manifest
    recipe: Recipe


# -------------------------------------------------------------------------------------------------------------- decide


def decide(wanted: Wanted, seen: Seen) -> Step:
    """The next step towards what is wanted. Pure."""
    endpoint = seen.endpoint
    if endpoint is UNSEEN:
        return Look.ENDPOINT
    if endpoint is None:
        return _prepare(wanted, seen) or Do(Effect.CREATE_ENDPOINT)
    if seen.deployments is UNSEEN:
        return Look.DEPLOYMENTS
    claimed = tags.generation(endpoint.tags)
    if claimed is None and not wanted.command.stage.adopt:
        return _not_ours(endpoint)
    if claimed is not None and claimed.is_newer_than(wanted.command.generation):
        return _superseded(wanted, endpoint, seen.deployments, claimed.promotion_id)
    if endpoint.provisioning in (Provisioning.CHANGING, Provisioning.DELETING):
        return _wait(Phase.DEPLOY, f"endpoint {endpoint.name} is being changed", seen)
    ours = _ours(wanted, seen.deployments)
    if ours is None and (step := _prepare(wanted, seen)):
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


def _prepare(wanted: Wanted, seen: Seen) -> Step | None:
    """Steps 1 and 2; None when the model is in the target."""
    if seen.model is UNSEEN:
        return Look.MODEL
    if seen.model is None:
        return _copy(wanted, seen) or Do(Effect.REGISTER_MODEL)
    if not tags.is_copy_of(seen.model.tags, wanted.command):
        name = f"{wanted.command.target_model_name}:{wanted.command.version}"
        return Refused(
            Reason.MODEL_NAME_TAKEN,
            f"the target already has a model {name} that is not a copy of this one",
            remedy="Set `target_model_name` in the stage, or archive and rename the other model.",
        )
    return None


def _copy(wanted: Wanted, seen: Seen) -> Step | None:
    """Step 1; None when every file is there and is what the manifest says."""
    if seen.copies is UNSEEN:
        return Look.COPIES
    by_status = {status: [copy for copy in seen.copies if copy.status is status] for status in CopyStatus}
    if by_status[CopyStatus.MISSING] or by_status[CopyStatus.FAILED]:
        return Do(Effect.COPY)
    if pending := by_status[CopyStatus.PENDING]:
        done = len(by_status[CopyStatus.COPIED])
        copied = sum(copy.bytes_copied or 0 for copy in seen.copies)
        total = wanted.manifest.size
        return _wait(
            Phase.ARTIFACTS,
            f"copying artifacts: {done} of {done + len(pending)} files, {copied} of {total} bytes",
            seen,
        )
    copies = {copy.path: copy for copy in seen.copies}
    for file in wanted.manifest.files:
        copy = copies[file.path]
        if copy.size != file.size or (file.md5 and copy.md5 and file.md5 != copy.md5):
            return Refused(
                Reason.COPY_MISMATCH,
                f"the copy of {file.path} differs from the source: {copy.size} of {file.size} bytes, "
                f"MD5 {copy.md5} instead of {file.md5}",
                remedy="Somebody wrote to the target's storage: delete the copy there, then ask again.",
            )
    return None


def _deploy(wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment | None) -> Step:
    """Steps 4 to 7, on an endpoint that this promotion has claimed."""
    if ours is None:
        return Do(Effect.CREATE_DEPLOYMENT, wanted.command.deployment)
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
            return _wait(Phase.DEPLOY, f"deployment {ours.name} is being created", seen)
        case Provisioning.DELETING:
            return _wait(Phase.DEPLOY, f"deployment {ours.name} is being deleted", seen)
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
    if endpoint.traffic.get(ours.name) != 100 or endpoint.tags.get(tags.STABLE) != ours.name:
        return _verify(wanted, seen, ours) or Do(Effect.SHIFT_TRAFFIC, ours.name)
    return _retire(seen, ours) or Done(_result(wanted, endpoint, ours))


def _verify(wanted: Wanted, seen: Seen, ours: Deployment) -> Step | None:
    """Step 5; None when the deployment has answered, or when there is nothing to ask it with."""
    if wanted.recipe.sample_request is None:
        return None
    if seen.smoke is UNSEEN:
        return Do(Effect.SMOKE, ours.name)
    answer = seen.smoke
    if answer.status == 200:
        return None
    if answer.status is None or answer.status in PASSING_STATUSES:
        return Waiting(Phase.SMOKE, f"deployment {ours.name} does not answer yet: {answer.text[:300]}")
    if answer.status in (401, 403):
        return Parked(
            Reason.PERMISSION_MISSING,
            f"deployment {ours.name} answered {answer.status}: this service may not ask it",
            remedy="Give the service's managed identity the right to score with this endpoint; see docs/operations.md.",
        )
    if wanted.recipe.is_sample_made_up:
        return None  # a model may well refuse values that nobody would send it; that says nothing against it
    return Refused(
        Reason.SMOKE_FAILED,
        f"deployment {ours.name} answered {answer.status} to a request made from {wanted.recipe.sample_source}: "
        f"{answer.text[:500]}",
        remedy="It has no traffic. Read its log below, correct the model or its input example, and register it again.",
    )


def _retire(seen: Seen, ours: Deployment) -> Step | None:
    """Step 7; None when no other deployment of ours is left. What others deployed here is theirs."""
    assert not isinstance(seen.deployments, Unseen)  # noqa: S101 - decide() looked before
    for old in seen.deployments:
        if old.name == ours.name or not tags.is_copy(old.tags):
            continue
        if old.provisioning in (Provisioning.CHANGING, Provisioning.DELETING):
            return _wait(Phase.DEPLOY, f"old deployment {old.name} is {old.provisioning.lower()}", seen)
        return Do(Effect.RETIRE, old.name)
    return None


def _superseded(wanted: Wanted, endpoint: Endpoint, deployments: tuple[Deployment, ...], by: str) -> Step:
    """A newer promotion has the endpoint: take away what this one left there, unless it serves traffic."""
    ours = _ours(wanted, deployments)
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
        remedy="Set `adopt: true` in the stage to take it over, choose another `endpoint`, or delete it.",
    )


def _ours(wanted: Wanted, deployments: tuple[Deployment, ...]) -> Deployment | None:
    return next((found for found in deployments if found.name == wanted.command.deployment), None)


def _is_live(endpoint: Endpoint, deployment: Deployment) -> bool:
    """Has traffic, or had all of it last: such a deployment is never deleted, whatever state it is in."""
    return bool(endpoint.traffic.get(deployment.name)) or endpoint.tags.get(tags.STABLE) == deployment.name


def _wait(phase: Phase, why: str, seen: Seen) -> Waiting:
    operation = seen.operation
    return Waiting(phase, why, operation=operation, retry_after=operation.retry_after if operation else None)


def _result(wanted: Wanted, endpoint: Endpoint, ours: Deployment) -> Mapping[str, Any]:
    """How to call the endpoint. Keys and tokens are fetched by the caller; they never stand here."""
    target = wanted.command.target
    return {
        "endpoint": endpoint.name,
        "deployment": ours.name,
        "scoring_uri": endpoint.scoring_uri,
        "auth_mode": endpoint.auth_mode,
        "get_credentials": (
            f"az ml online-endpoint get-credentials --name {endpoint.name} --resource-group {target.resource_group} "
            f"--workspace-name {target.workspace} --subscription {target.subscription_id}"
        ),
        "example_request": {
            "method": "POST",
            "url": endpoint.scoring_uri,
            "headers": {"Authorization": "Bearer <key or token>", "Content-Type": "application/json"},
            "body": wanted.recipe.sample_request,
        },
        "verified_with": endpoint.tags.get(tags.VERIFIED, UNVERIFIED),
    }


# ------------------------------------------------------------------------------------------------------------- perform


@dataclass(frozen=True)
class Performed:
    """What is known after a step, and what an operator shall read about it."""

    seen: Seen
    detail: str = ""


def look(target: Target, wanted: Wanted, seen: Seen, at: Look) -> Seen:
    command = wanted.command
    match at:
        case Look.ENDPOINT:
            return replace(seen, endpoint=target.endpoint(command.endpoint))
        case Look.DEPLOYMENTS:
            return replace(seen, deployments=target.deployments(command.endpoint))
        case Look.COPIES:
            return replace(seen, copies=target.copy_states(wanted.manifest))
        case Look.MODEL:
            return replace(seen, model=target.model(command.target_model_name, command.version))
        case _:
            assert_never(at)


def perform(target: Target, wanted: Wanted, seen: Seen, do: Do, *, may_go_on: Callable[[], bool]) -> Performed:
    """Carry out one effect. Whatever it touched has to be looked at again."""
    command = wanted.command
    match do.effect:
        case Effect.COPY:
            return _perform_copy(target, wanted, seen, may_go_on)
        case Effect.REGISTER_MODEL:
            target.register_model(
                wanted.manifest,
                name=command.target_model_name,
                version=command.version,
                model_type="mlflow_model",
                flavors=wanted.recipe.flavors,
                tags=tags.provenance(command),
            )
            return Performed(replace(seen, model=UNSEEN), f"{command.target_model_name}:{command.version}")
        case Effect.CREATE_ENDPOINT:
            operation = target.create_endpoint(
                command.endpoint, auth_mode=command.stage.auth_mode, tags=tags.claim(command)
            )
            return Performed(_changed(seen, operation), command.endpoint)
        case Effect.CLAIM_ENDPOINT:
            endpoint = _known(seen.endpoint)
            operation = target.update_endpoint(
                endpoint, tags={**endpoint.tags, **tags.claim(command)}, traffic=endpoint.traffic
            )
            return Performed(_changed(seen, operation), endpoint.name)
        case Effect.CREATE_DEPLOYMENT:
            operation = target.create_deployment(_spec(wanted, seen))
            return Performed(_changed(seen, operation), f"{do.name} at 0 % traffic")
        case Effect.SMOKE:
            request = wanted.recipe.sample_request or {}
            answer = target.score(_known(seen.endpoint), do.name, request)
            text = answer.text[:200]
            return Performed(replace(seen, smoke=answer), f"{answer.status} in {answer.seconds:.2f} s: {text}")
        case Effect.SHIFT_TRAFFIC:
            operation = target.update_endpoint(
                endpoint := _known(seen.endpoint),
                tags={**endpoint.tags, **tags.claim(command), **_stable(wanted, seen, do.name)},
                traffic={do.name: 100},
            )
            return Performed(_changed(seen, operation), f"100 % to {do.name}")
        case Effect.DELETE_FAILED_DEPLOYMENT | Effect.RETIRE | Effect.CLEAN_UP:
            operation = target.delete_deployment(command.endpoint, do.name)
            return Performed(_changed(seen, operation), do.name)
        case _:
            assert_never(do.effect)


def _perform_copy(target: Target, wanted: Wanted, seen: Seen, may_go_on: Callable[[], bool]) -> Performed:
    """Start what is not yet there, as far as this delivery's time allows; the next one sees the rest."""
    copies = () if seen.copies is UNSEEN else seen.copies
    to_start = [copy for copy in copies if copy.status in (CopyStatus.MISSING, CopyStatus.FAILED)]
    started = 0
    for copy in to_start:
        if not may_go_on():
            break
        target.start_copy(wanted.manifest, copy)
        started += 1
    return Performed(replace(seen, copies=UNSEEN), f"{started} of {len(wanted.manifest.files)} files started")


def _spec(wanted: Wanted, seen: Seen) -> DeploymentSpec:
    command, stage = wanted.command, wanted.command.stage
    model = _known(seen.model)
    settings = stage.request_settings
    return DeploymentSpec(
        endpoint=command.endpoint,
        name=command.deployment,
        model_id=model.id,
        instance_type=stage.instance_type,
        instance_count=stage.instance_count,
        request_timeout_ms=settings.request_timeout_ms if settings else None,
        max_concurrent_requests_per_instance=settings.max_concurrent_requests_per_instance if settings else None,
        environment_variables=stage.environment_variables,
        tags=tags.deployment(command),
    )


def _stable(wanted: Wanted, seen: Seen, deployment: str) -> dict[str, str]:
    """What stands on the endpoint from now on: which deployment has the traffic, and what it has been verified with."""
    has_answered = isinstance(seen.smoke, ScoringAnswer) and seen.smoke.status == 200
    source = wanted.recipe.sample_source if has_answered else None
    return {tags.STABLE: deployment, tags.VERIFIED: (source or UNVERIFIED)[: tags.VALUE_LIMIT]}


def _changed(seen: Seen, operation: Operation | None) -> Seen:
    return replace(seen, endpoint=UNSEEN, deployments=UNSEEN, operation=operation)


def _known(value: T | Unseen | None) -> T:
    """An effect is only decided on after a look; anything else is a mistake in `decide`."""
    if value is None or isinstance(value, Unseen):
        raise TypeError("decided on an effect before looking at what it changes")
    return value


# ------------------------------------------------------------------------------------------------------------- explain


def explain_failure(target: Target, wanted: Wanted, refused: Refused, operation: Operation | None) -> Refused:
    """Add what Azure knows about a failed deployment: the operation's error, and the end of the container's log."""
    if refused.reason not in (Reason.DEPLOYMENT_FAILED, Reason.SMOKE_FAILED, Reason.ENDPOINT_FAILED):
        return refused
    detail = dict(refused.detail)
    if operation and (error := _tolerant(lambda: target.operation_error(operation))):
        detail["azure_error"] = error
    if refused.reason is not Reason.ENDPOINT_FAILED:
        command = wanted.command
        if log := _tolerant(lambda: target.deployment_log(command.endpoint, command.deployment)):
            detail["log"] = log[-LOG_TAIL:]
    return replace(refused, detail=detail)


def _tolerant(ask: Callable[[], str | None]) -> str | None:
    """A log that cannot be had must not keep a refusal from being told."""
    try:
        return ask()
    except PromotionError:
        return None
