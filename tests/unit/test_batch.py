"""Decisions about batch endpoints and schedules: the test job before the switch, the schedule after it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core import batch, tags
from core.commands import Phase, PromoteModel
from core.endpoints import decide
from core.errors import Reason
from core.outcomes import Done, Parked, Refused, Waiting
from core.ports import Job, JobStatus, Provisioning, Schedule, TargetAsset, TestSummary
from core.stages import Comparison
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Unseen
from tests.unit.builders import (
    NOON,
    a_batch_command,
    a_batch_recipe,
    a_batch_stage,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_recipe,
    a_schedule,
    a_wanted,
    an_endpoint,
    cleared,
)
from tests.unit.world import World, deliver, deliveries, end

COMMAND = a_batch_command()
OURS = COMMAND.deployment
OLDER = a_batch_command(version="2", model_created_at=NOON - timedelta(days=1))
NEWER = a_batch_command(version="4", model_created_at=NOON + timedelta(days=1))
MODEL = TargetAsset(id="model", tags=tags.provenance(COMMAND))
PART = TargetAsset(id="part")
COMPONENT = TargetAsset(id="component", tags=tags.provenance(COMMAND))
TEST_JOB = f"churn-{OURS}-test-1"
WITHOUT_SCHEDULE = a_batch_command(stages=(a_batch_stage(schedule=None),))


def wanted_for(command: PromoteModel = COMMAND, **changes: Any) -> Any:
    return a_wanted(command, a_batch_recipe(**changes))


def next_step(seen: Seen, command: PromoteModel = COMMAND, **changes: Any) -> Step:
    return decide(wanted_for(command, **changes), seen)


def a_job(status: JobStatus, detail: str = "Running") -> Job:
    return Job(name=TEST_JOB, status=status, detail=detail)


READY = cleared(endpoint=an_endpoint(COMMAND), deployments=(), model=MODEL, code=PART, environment=PART)
DEPLOYED = replace(READY, deployments=(a_deployment(COMMAND),), component=COMPONENT)
LIVE = replace(DEPLOYED, endpoint=a_live_endpoint(COMMAND))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(replace(READY, code=UNSEEN), Look.CODE, id="is the scoring code there?"),
        pytest.param(replace(READY, code=None), Do(Effect.CREATE_CODE), id="it is not"),
        pytest.param(replace(READY, environment=UNSEEN), Look.ENVIRONMENT, id="is the environment there?"),
        pytest.param(replace(READY, environment=None), Do(Effect.CREATE_ENVIRONMENT), id="it is not either"),
        pytest.param(READY, Look.COMPONENT, id="is the component there?"),
        pytest.param(replace(READY, component=None), Do(Effect.CREATE_COMPONENT), id="nor is that"),
        pytest.param(replace(READY, component=COMPONENT), Do(Effect.CREATE_DEPLOYMENT, OURS), id="all is there"),
        pytest.param(DEPLOYED, Look.TEST_JOB, id="has the test job run?"),
        pytest.param(replace(DEPLOYED, test_job=None), Do(Effect.START_TEST_JOB, TEST_JOB), id="it has not"),
        pytest.param(
            replace(DEPLOYED, test_job=None, component=UNSEEN), Look.COMPONENT, id="a job needs the component's id"
        ),
        pytest.param(
            replace(DEPLOYED, test_job=a_job(JobStatus.RUNNING, "Queued")),
            Waiting(Phase.TEST, f"test job {TEST_JOB} is queued"),
            id="it is under way",
        ),
        pytest.param(
            replace(DEPLOYED, test_job=a_job(JobStatus.COMPLETED)),
            Do(Effect.SHIFT_TRAFFIC, OURS),
            id="it has succeeded",
        ),
        pytest.param(LIVE, Look.SCHEDULE, id="is the schedule there?"),
        pytest.param(replace(LIVE, schedule=None), Do(Effect.WRITE_SCHEDULE, "churn"), id="it is not yet"),
        pytest.param(replace(LIVE, schedule=None, component=UNSEEN), Look.COMPONENT, id="nor the component's id"),
        pytest.param(
            replace(LIVE, schedule=a_schedule(OLDER)),
            Do(Effect.WRITE_SCHEDULE, "churn"),
            id="it runs the version before",
        ),
        pytest.param(
            replace(LIVE, schedule=a_schedule(provisioning=Provisioning.CHANGING)),
            Waiting(Phase.DEPLOY, "schedule churn is being changed"),
            id="it is being written",
        ),
        pytest.param(
            replace(LIVE, schedule=a_schedule(), deployments=(a_deployment(COMMAND), a_deployment(OLDER))),
            Do(Effect.RETIRE, OLDER.deployment),
            id="the version before is retired last",
        ),
    ],
)
def test_one_step_follows_from_what_is_seen(seen: Seen, expected: Step) -> None:
    assert next_step(seen) == expected


def test_it_is_done_when_the_schedule_runs_this_version() -> None:
    step = next_step(replace(LIVE, schedule=a_schedule()))
    assert isinstance(step, Done)
    shown = {key: step.result[key] for key in ("endpoint", "schedule", "schedule_enabled", "component", "output")}
    assert shown == {
        "endpoint": "churn",
        "schedule": "churn",
        "schedule_enabled": True,
        "component": f"churn:{OURS}",
        "output": "azureml://datastores/workspaceblobstore/paths/out/churn/",
    }


def test_a_failed_test_job_switches_nothing() -> None:
    step = next_step(replace(DEPLOYED, test_job=a_job(JobStatus.FAILED, "Failed")))
    assert isinstance(step, Refused)
    assert (step.reason, step.why) == (Reason.TEST_JOB_FAILED, f"test job {TEST_JOB} ended as Failed")


def test_a_new_attempt_has_a_test_job_of_its_own() -> None:
    again = a_batch_command(attempt=2)
    step = next_step(replace(DEPLOYED, endpoint=an_endpoint(again), test_job=None), again)
    assert step == Do(Effect.START_TEST_JOB, f"churn-{OURS}-test-2")


def test_a_component_of_somebody_else_is_left_alone() -> None:
    step = next_step(replace(READY, component=TargetAsset(id="x", tags={"team": "y"})))
    assert isinstance(step, Refused)
    assert step.reason is Reason.COMPONENT_NAME_TAKEN


def test_a_schedule_of_somebody_else_is_left_alone_unless_it_is_adopted() -> None:
    theirs = a_schedule(tags={"team": "y"})
    step = next_step(replace(LIVE, schedule=theirs))
    assert isinstance(step, Parked)
    assert step.reason is Reason.SCHEDULE_NOT_OURS
    adopting = a_batch_command(stages=(a_batch_stage(adopt=True),))
    assert next_step(replace(LIVE, schedule=theirs), adopting) == Do(Effect.WRITE_SCHEDULE, "churn")


def test_a_schedule_that_azure_could_not_set_up_is_refused() -> None:
    step = next_step(replace(LIVE, schedule=a_schedule(provisioning=Provisioning.FAILED)))
    assert isinstance(step, Refused)
    assert step.reason is Reason.SCHEDULE_FAILED


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        (a_schedule(), Do(Effect.PAUSE_SCHEDULE, "churn")),
        (a_schedule(enabled=False), None),
        (a_schedule(tags={"team": "y"}), None),
    ],
    ids=["there is none", "ours is on", "ours is off", "somebody else's"],
)
def test_a_stage_without_a_schedule_pauses_the_one_it_had(found: Schedule | None, expected: Step | None) -> None:
    step = next_step(replace(LIVE, schedule=found), WITHOUT_SCHEDULE)
    assert isinstance(step, Done) if expected is None else step == expected


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ({"schedule": {"trigger": {"type": "cron", "expression": "0 4 * * *"}}}, True),
        ({"input": "azureml://datastores/other/paths/in/"}, True),
        ({"output": "azureml://datastores/other/paths/out/"}, True),
        ({"schedule": {"trigger": {"type": "cron", "expression": "0 3 * * *"}, "enabled": False}}, True),
        ({"deadlines": {"deploy": "5m"}}, False),
    ],
)
def test_a_schedule_is_written_again_when_what_it_says_changes(change: dict[str, Any], is_another: bool) -> None:
    command = a_batch_command(stages=(a_batch_stage(**change),))
    step = next_step(replace(LIVE, schedule=a_schedule()), command)
    assert (step == Do(Effect.WRITE_SCHEDULE, "churn")) is is_another


@pytest.mark.parametrize(
    ("enabled", "state", "paused_by_hand"),
    [(True, tags.ENABLED, False), (False, tags.ENABLED, True), (False, tags.PAUSED, False), (True, tags.PAUSED, False)],
)
def test_a_pause_by_hand_is_told_from_one_of_the_policy(enabled: bool, state: str, paused_by_hand: bool) -> None:
    found = a_schedule(enabled=enabled, tags=tags.schedule(COMMAND, a_batch_stage()) | {tags.SCHEDULE_STATE: state})
    assert batch.is_paused_by_hand(found) is paused_by_hand


COMPARED = a_batch_command(
    stages=(a_batch_stage(test_data="azureml://datastores/d/paths/t/", comparison=Comparison(rows=10, failed_files=1)),)
)
BEFORE = TestSummary(files=4, failed_files=1, rows=100, data="d")


def compared(summary: TestSummary | Unseen | None, before: str = str(BEFORE)) -> Step:
    command = COMPARED
    endpoint = an_endpoint(command, tags=tags.claim(command) | {tags.TESTED: before})
    job = Job(name=batch.test_job_name(command), status=JobStatus.COMPLETED, detail="Completed")
    seen = Seen(
        endpoint=endpoint, deployments=(a_deployment(command),), component=COMPONENT, test_job=job, summary=summary
    )
    return decide(a_wanted(command, a_batch_recipe()), seen)


@pytest.mark.parametrize(
    ("changes", "before", "why"),
    [
        ({}, str(BEFORE), None),
        ({"failed_files": 2, "rows": 90}, str(BEFORE), None),
        ({"failed_files": 3}, str(BEFORE), "3 of its files failed, 1 of the version that is live"),
        ({"rows": 89}, str(BEFORE), "it made 89 predictions, the version that is live 100"),
        ({"rows": 111}, str(BEFORE), "it made 111 predictions, the version that is live 100"),
        ({"rows": 1, "data": "other"}, str(BEFORE), None),
        ({"rows": 1}, "", None),
        ({"rows": 1}, "nonsense", None),
    ],
)
def test_a_test_job_is_compared_with_that_of_the_live_version(
    changes: dict[str, Any], before: str, why: str | None
) -> None:
    step = compared(BEFORE.model_copy(update=changes), before)
    if why is None:
        assert step == Do(Effect.SHIFT_TRAFFIC, COMPARED.deployment)
    else:
        assert isinstance(step, Refused)
        assert (step.reason, why in step.why) == (Reason.COMPARISON_FAILED, True)


def test_what_is_compared_is_looked_at_and_must_be_there() -> None:
    assert compared(UNSEEN) == Look.SUMMARY
    step = compared(None)
    assert isinstance(step, Refused)
    assert "no summary.json" in step.why


def test_a_comparison_needs_data_that_stays_the_same() -> None:
    with pytest.raises(ValidationError, match="comparison needs test_data"):
        a_batch_stage(comparison=Comparison())


@pytest.mark.parametrize(
    ("stage", "recipe", "data"),
    [
        (a_batch_stage(test_data="azureml://datastores/d/paths/t/"), a_batch_recipe(), batch.POLICY_DATA),
        (a_batch_stage(), a_batch_recipe(), "input_example.json"),
        (a_batch_stage(), a_batch_recipe(sample_rows=None), batch.SCHEDULE_DATA),
        (a_batch_stage(), a_batch_recipe(sample_source="signature"), batch.SCHEDULE_DATA),
    ],
    ids=["the policy's", "the model's example", "no rows to make one of", "made-up rows say nothing"],
)
def test_what_the_test_job_scores(stage: Any, recipe: Any, data: str) -> None:
    assert batch.data_to_test_with(a_wanted(a_batch_command(stages=(stage,)), recipe)) == data


def test_batch_and_online_endpoints_of_one_name_are_two_things() -> None:
    from tests.unit.builders import a_command

    assert a_command().session_id != COMMAND.session_id


def test_a_recipe_without_the_mode_of_the_stage_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="nothing for batch"):
        decide(a_wanted(COMMAND, a_recipe()), replace(READY, code=UNSEEN))


# --------------------------------------------------------------------------------------------- from beginning to end


def test_a_first_promotion_and_the_next_one_from_beginning_to_end() -> None:
    """The whole way, as an operator reads it."""
    world, story = World(), []
    for command in (OLDER, COMMAND):
        outcomes = deliveries(world, wanted_for(command))
        story += [outcome.why if isinstance(outcome, Waiting) else type(outcome).__name__ for outcome in outcomes]
    assert story == [
        f"copying artifacts: 0 of 2 files, {a_manifest().size} of {a_manifest().size} bytes",
        "endpoint churn is being changed",
        f"deployment {OLDER.deployment} is being created",
        f"test job churn-{OLDER.deployment}-test-1 is x",
        "endpoint churn is being changed",
        "schedule churn is being changed",
        "Done",
        "endpoint churn is being changed",
        f"deployment {OURS} is being created",
        f"test job {TEST_JOB} is x",
        "endpoint churn is being changed",
        "schedule churn is being changed",
        f"old deployment {OLDER.deployment} is deleting",
        "Done",
    ]
    assert world.schedule is not None
    assert world.schedule.tags[tags.COMPONENT] == f"churn:{OURS}"


@given(
    st.lists(st.integers(0, 3), max_size=8).map(tuple),
    st.frozensets(st.sampled_from(["job", "schedule", "endpoint", OURS])),
)
def test_a_promotion_ends_however_often_it_dies(deaths: tuple[int, ...], fails: frozenset[str]) -> None:
    """The world checks that nothing is switched to what was not tested, and no schedule runs what is not the default."""
    world = World()
    end(world, wanted_for(OLDER))
    world.fails = fails
    outcome = end(world, wanted_for(), deaths=deaths)
    assert world.endpoint is not None
    assert isinstance(outcome, Refused if fails else Done), outcome
    if not fails:
        assert (world.endpoint.traffic, set(world.deployments)) == ({OURS: 100}, {OURS})
    elif "schedule" not in fails:
        assert world.endpoint.traffic == {OLDER.deployment: 100}, "a failure before the switch leaves the old version"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=30), st.booleans())
def test_the_newest_version_wins_in_whatever_order_they_come(turns: list[tuple[int, int]], settling: bool) -> None:
    world = World()
    promotions = [wanted_for(command) for command in (OLDER, COMMAND, NEWER)]
    for number, effects in turns:
        deliver(world, promotions[number], effects=effects)
        if settling:
            world.settle()
    for promotion in promotions:
        end(world, promotion)
    assert world.endpoint is not None
    assert world.schedule is not None
    assert world.endpoint.traffic == {NEWER.deployment: 100}
    assert world.schedule.tags[tags.VERSION] == "4"
