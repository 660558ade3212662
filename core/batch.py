"""What is particular to batch: the component, its test job, and the schedule that runs it. Pure."""

from core import tags
from core.commands import Phase, PromoteModel, Verb
from core.errors import Reason
from core.outcomes import Parked, Refused, Waiting
from core.ports import Deployment, Endpoint, JobStatus, Provisioning, Schedule, TestSummary
from core.stages import BatchStage
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Unseen, Wanted, wait

POLICY_DATA = "test_data of the policy"
SCHEDULE_DATA = "input of the policy"


def component(wanted: Wanted, seen: Seen) -> Step | None:
    """None when the pipeline component that scores with this very model version is in the target."""
    if seen.component is UNSEEN:
        return Look.COMPONENT
    if seen.component is None:
        # Its parts are named in it by ARM id, so they have to be known, whichever delivery made them.
        return _unknown_part(seen) or Do(Effect.CREATE_COMPONENT)
    if not tags.is_copy_of(seen.component.tags, wanted.command):
        return Refused(
            Reason.COMPONENT_NAME_TAKEN,
            f"the target already has a component {wanted.command.component}:{wanted.command.deployment} "
            "that was not made by this service from this model",
            remedy="Archive it and choose another `endpoint` for this stage.",
        )
    return None


def _unknown_part(seen: Seen) -> Look | None:
    parts = {Look.MODEL: seen.model, Look.CODE: seen.code, Look.ENVIRONMENT: seen.environment}
    return next((look for look, part in parts.items() if part is UNSEEN), None)


def verify(wanted: Wanted, seen: Seen, endpoint: Endpoint) -> Step | None:
    """None when the test job has succeeded, and compares well: only then does anything run with the new version."""
    if seen.test_job is UNSEEN:
        return Look.TEST_JOB
    if seen.test_job is None:
        return component(wanted, seen) or Do(Effect.START_TEST_JOB, test_job_name(wanted.command))
    job = seen.test_job
    match job.status:
        case JobStatus.COMPLETED:
            return _compare(wanted, seen, endpoint)
        case JobStatus.RUNNING:
            return Waiting(Phase.TEST, f"test job {job.name} is {job.detail.lower()}")
        case _:
            return Refused(
                Reason.TEST_JOB_FAILED,
                f"test job {job.name} ended as {job.detail}",
                remedy="Nothing was switched. Read its log below, correct the model or its input, and register it again.",
            )


def _compare(wanted: Wanted, seen: Seen, endpoint: Endpoint) -> Step | None:
    """None unless what the test job counted is worse than what that of the live version did, on the same data."""
    allowed = wanted.batch_stage.comparison
    if allowed is None:
        return None
    if seen.summary is UNSEEN:
        return Look.SUMMARY
    name = test_job_name(wanted.command)
    if seen.summary is None:
        return _worse(name, "it left no summary.json")
    before = TestSummary.parse(endpoint.tags.get(tags.TESTED, ""))
    if before is None or before.data != seen.summary.data:
        return None  # the first one, or other data: there is nothing to compare with
    if seen.summary.failed_files - before.failed_files > allowed.failed_files:
        return _worse(
            name, f"{seen.summary.failed_files} of its files failed, {before.failed_files} of the version that is live"
        )
    if abs(seen.summary.rows - before.rows) * 100 > allowed.rows * before.rows:
        return _worse(name, f"it made {seen.summary.rows} predictions, the version that is live {before.rows}")
    return None


def _worse(job: str, why: str) -> Refused:
    return Refused(
        Reason.COMPARISON_FAILED,
        f"test job {job} compares badly: {why}",
        remedy="Nothing was switched. Correct the model, or if that is meant, raise `comparison` in the policy.",
    )


def test_job_name(command: PromoteModel) -> str:
    """Job names are unique in a workspace; one for each attempt, so that a repeat finds its own."""
    return f"{command.endpoint}-{command.deployment}-test-{command.attempt}"


def schedule(wanted: Wanted, seen: Seen) -> Step | None:
    """None when the schedule is as the policy wants it and runs this version."""
    stage, command = wanted.batch_stage, wanted.command
    if seen.schedule is UNSEEN:
        return Look.SCHEDULE
    found = seen.schedule
    if found is None:
        return None if stage.schedule is None else _write(wanted, seen)
    if stage.schedule is None:
        is_on = tags.is_copy(found.tags) and found.enabled
        return Do(Effect.PAUSE_SCHEDULE, found.name) if is_on else None
    if not tags.is_copy(found.tags) and not stage.adopt:
        return Parked(
            Reason.SCHEDULE_NOT_OURS,
            f"schedule {found.name} exists in the target and was not created by this service",
            remedy="Delete it, and it goes on by itself; or cancel the promotion, set `adopt: true` or another `endpoint` in the "
            "stage, and promote again.",
        )
    if not found.provisioning.is_settled:
        return wait(Phase.DEPLOY, f"schedule {found.name} is being changed", seen)
    if not is_as_wanted(command, stage, found) or (is_repair(command) and is_paused_by_hand(found)):
        return _write(wanted, seen)
    if found.provisioning is Provisioning.FAILED:
        return Refused(
            Reason.SCHEDULE_FAILED,
            f"Azure could not set up schedule {found.name}",
            remedy="Look at the schedule in the target workspace; correct `schedule` in the policy, then ask again.",
        )
    return None


def _write(wanted: Wanted, seen: Seen) -> Step:
    return component(wanted, seen) or Do(Effect.WRITE_SCHEDULE, wanted.command.endpoint)


def is_as_wanted(command: PromoteModel, stage: BatchStage, found: Schedule) -> bool:
    """Whether the schedule was written by this promotion, for this stage; a pause by hand changes nothing of that."""
    wanted = tags.schedule(command, stage)
    return all(found.tags.get(key) == value for key, value in wanted.items())


def is_paused_by_hand(found: Schedule | Unseen | None) -> bool:
    """Somebody switched the schedule off: a promotion gives it the new version, and leaves it off."""
    return isinstance(found, Schedule) and not found.enabled and found.tags.get(tags.SCHEDULE_STATE) == tags.ENABLED


def is_to_run(command: PromoteModel, stage: BatchStage, found: Schedule | Unseen | None) -> bool:
    """Whether a schedule that is written over this one shall be enabled."""
    rests = is_paused_by_hand(found) and not is_repair(command)
    return stage.schedule is not None and stage.schedule.enabled and not rests


def is_repair(command: PromoteModel) -> bool:
    """Whether the service brings back what was promoted, because the policy says so: a pause by hand is drift then."""
    return command.order is not None and command.order.verb is Verb.REPAIR


def data_to_test_with(wanted: Wanted) -> str:
    """What the test job scores, in words: data that the policy names, the model's own example, or the schedule's input."""
    if wanted.batch_stage.test_data:
        return POLICY_DATA
    if wanted.recipe.sample_rows and not wanted.recipe.is_sample_made_up:
        return wanted.recipe.sample_source or "the model's example"
    return SCHEDULE_DATA


def result(wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment) -> dict[str, object]:
    """Where predictions come from and go to, and how to ask for some now."""
    stage, target = wanted.batch_stage, wanted.command.target
    place = f"--resource-group {target.resource_group} --workspace-name {target.workspace}"
    found = seen.schedule if isinstance(seen.schedule, Schedule) and stage.schedule else None
    return {
        "endpoint": endpoint.name,
        "deployment": ours.name,
        "component": f"{wanted.command.component}:{wanted.command.deployment}",
        "invoke": f"az ml batch-endpoint invoke --name {endpoint.name} --input {stage.input_for(wanted.command.model)} {place}",
        "schedule": found.name if found else None,
        "schedule_enabled": found.enabled if found else None,
        "trigger": stage.schedule.trigger.model_dump(mode="json", exclude_none=True) if stage.schedule else None,
        "input": stage.input_for(wanted.command.model),
        "output": stage.output_for(wanted.command.model),
        "test_job": test_job_name(wanted.command),
        "verified_with": endpoint.tags.get(tags.VERIFIED, ""),
    }
