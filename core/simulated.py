"""What a target would show after an effect, or once what is under way has ended: the effects of a plan. Pure.

Everything is taken to go well. Whether a deployment starts and a model answers, only trying it tells.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from core import batch, rollout, tags
from core.ports import (
    CopyState,
    CopyStatus,
    Deployment,
    Endpoint,
    Job,
    JobStatus,
    Provisioning,
    Schedule,
    ScoringAnswer,
    TargetAsset,
)
from core.steps import Do, Effect, Seen, Unseen, Wanted, known
from core.verification import Verdict

NEW = "(new)"
_WELL = Provisioning.SUCCEEDED
_Settling = TypeVar("_Settling", Endpoint, Deployment, Schedule)


def simulate(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    """What would be seen after an effect.

    Operations on an endpoint take minutes, in which whatever else was under way has ended as well.
    """
    after = SIMULATED[do.effect](wanted, seen, do)
    is_operation = (after.endpoint, after.deployments) != (seen.endpoint, seen.deployments)
    return settled(wanted, after) if is_operation else after


def settled(wanted: Wanted, seen: Seen) -> Seen:
    """What would be seen once whatever is under way has come to its end."""
    endpoint = _settled(seen.endpoint)
    deployments, copies = seen.deployments, seen.copies
    if not isinstance(deployments, Unseen):
        kept = tuple(left for each in deployments if isinstance(left := _settled(each), Deployment))
        deployments = kept if endpoint is not None else ()
    if not isinstance(copies, Unseen) and any(copy.status is CopyStatus.PENDING for copy in copies):
        there = {copy.path: copy for copy in _copies(wanted)}
        copies = tuple(there[copy.path] if copy.status is CopyStatus.PENDING else copy for copy in copies)
    job = seen.test_job
    if isinstance(job, Job) and job.status is JobStatus.RUNNING:
        job = job.model_copy(update={"status": JobStatus.COMPLETED})
    return replace(
        seen,
        endpoint=endpoint,
        deployments=deployments,
        copies=copies,
        test_job=job,
        schedule=_settled(seen.schedule),
        operation=None,
    )


def _settled(found: _Settling | Unseen | None) -> _Settling | Unseen | None:
    """As it is once it no longer changes; None if it is on its way out."""
    if found is None or isinstance(found, Unseen) or found.provisioning in (_WELL, Provisioning.FAILED):
        return found
    if found.provisioning is Provisioning.DELETING:
        return None
    return found.model_copy(update={"provisioning": _WELL})


# ---------------------------------------------------------------------------------------------------- the effects


def _asset(wanted: Wanted) -> TargetAsset:
    return TargetAsset(id=NEW, tags=tags.provenance(wanted.command))


def _copies(wanted: Wanted) -> tuple[CopyState, ...]:
    return tuple(
        CopyState(path=file.path, status=CopyStatus.COPIED, size=file.size, bytes_copied=file.size, md5=file.md5)
        for file in wanted.manifest.files
    )


def _created_endpoint(wanted: Wanted, seen: Seen, _: Do) -> Seen:
    command = wanted.command
    endpoint = Endpoint(
        name=command.endpoint,
        tags=tags.claim(command),
        traffic={},
        provisioning=_WELL,
        scoring_uri=None,
        body={},
    )
    return replace(seen, endpoint=endpoint, deployments=())


def _endpoint_with(seen: Seen, *, tags: Mapping[str, str], traffic: Mapping[str, int] | None = None) -> Seen:
    before: Endpoint = known(seen.endpoint)
    changes = {"tags": {**before.tags, **tags}, "provisioning": _WELL}
    changes |= {"traffic": dict(traffic)} if traffic is not None else {}
    return replace(seen, endpoint=before.model_copy(update=changes))


def _created_deployment(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    made = Deployment(name=do.name, tags=tags.deployment(wanted.command), provisioning=_WELL)
    return replace(seen, deployments=(*_deployments(seen), made))


def _deployments(seen: Seen) -> tuple[Deployment, ...]:
    return () if isinstance(seen.deployments, Unseen) else seen.deployments


def _deleted_deployment(_: Wanted, seen: Seen, do: Do) -> Seen:
    return replace(seen, deployments=tuple(each for each in _deployments(seen) if each.name != do.name))


def _deleted_failed_deployment(_: Wanted, seen: Seen, do: Do) -> Seen:
    """What our own deployment had taken of a quota is free again, so what is shown now no longer counts."""
    return replace(_deleted_deployment(_, seen, do), quotas=())


def _tested(_: Wanted, seen: Seen, do: Do) -> Seen:
    return replace(seen, test_job=Job(name=do.name, status=JobStatus.COMPLETED, detail="Completed"))


def _shifted(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    before: Endpoint = known(seen.endpoint)
    marks = rollout.shifted_tags(wanted, seen, do, before.tags.get(tags.VERIFIED, ""))
    return _endpoint_with(seen, tags=marks, traffic=rollout.shared(before.traffic, do.name, do.share))


def _taken_back(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    before: Endpoint = known(seen.endpoint)
    traffic, marks = rollout.restored(wanted, before, do)
    changes = {"tags": marks, "traffic": traffic, "provisioning": _WELL}
    return replace(seen, endpoint=before.model_copy(update=changes))


def _written_schedule(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    stage = wanted.batch_stage
    enabled = batch.is_to_run(wanted.command, stage, seen.schedule)
    written = tags.schedule(wanted.command, stage)
    return replace(seen, schedule=Schedule(name=do.name, tags=written, enabled=enabled, provisioning=_WELL, body={}))


def _paused(_: Wanted, seen: Seen, __: Do) -> Seen:
    return replace(seen, schedule=known(seen.schedule).model_copy(update={"enabled": False}))


SIMULATED: Mapping[Effect, Callable[[Wanted, Seen, Do], Seen]] = {
    Effect.COPY: lambda wanted, seen, _: replace(seen, copies=_copies(wanted)),
    Effect.REGISTER_MODEL: lambda wanted, seen, _: replace(seen, model=_asset(wanted)),
    Effect.CREATE_CODE: lambda wanted, seen, _: replace(seen, code=_asset(wanted)),
    Effect.CREATE_ENVIRONMENT: lambda wanted, seen, _: replace(seen, environment=_asset(wanted)),
    Effect.CREATE_COMPONENT: lambda wanted, seen, _: replace(seen, component=_asset(wanted)),
    Effect.CREATE_ENDPOINT: _created_endpoint,
    Effect.CLAIM_ENDPOINT: lambda wanted, seen, _: _endpoint_with(seen, tags=tags.claim(wanted.command)),
    Effect.CREATE_DEPLOYMENT: _created_deployment,
    Effect.DELETE_FAILED_DEPLOYMENT: _deleted_failed_deployment,
    Effect.SMOKE: lambda _, seen, __: replace(seen, smoke=ScoringAnswer(status=200, text="[]", seconds=0.0)),
    Effect.VERIFY: lambda _, seen, __: replace(seen, verdict=Verdict("all requests answered")),
    Effect.START_TEST_JOB: _tested,
    Effect.SHIFT_TRAFFIC: _shifted,
    Effect.TAKE_TRAFFIC_BACK: _taken_back,
    Effect.KEEP_LOG: lambda _, seen, __: replace(seen, log=""),
    Effect.WRITE_SCHEDULE: _written_schedule,
    Effect.PAUSE_SCHEDULE: _paused,
    Effect.RETIRE: _deleted_deployment,
    Effect.CLEAN_UP: _deleted_deployment,
    Effect.CANCEL_TEST_JOB: lambda _, seen, __: replace(seen, test_job=None),
    Effect.DELETE_SCHEDULE: lambda _, seen, __: replace(seen, schedule=None),
    Effect.DELETE_ENDPOINT: lambda _, seen, __: replace(seen, endpoint=None, deployments=()),
}
