"""A plan is what the engine would do: held against the model of a target, from many starts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from core import batch, tags
from core import plan as planning
from core.commands import Order, PromoteModel, Verb
from core.endpoints import decide
from core.errors import Reason
from core.ledger import Hold
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.plan import WAIT, Plan, plan
from core.ports import CopyStatus, JobStatus, TargetAsset
from core.simulated import SIMULATED
from core.steps import Do, Effect, Look, Seen, Wanted
from tests.unit.builders import (
    NOON,
    a_batch_command,
    a_batch_recipe,
    a_batch_stage,
    a_command,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_recipe,
    a_schedule,
    a_stage,
    an_endpoint,
)
from tests.unit.test_realtime_from_any_start import _WANTED, worlds
from tests.unit.world import CHANGING, DELETING, FAILED, World

OURS = a_command().deployment
OLD = a_command(version="2", model_created_at=NOON.replace(year=2025))
NEW = a_command(version="4", model_created_at=NOON.replace(year=2027))
OLD_BATCH = a_batch_command(version="2", model_created_at=NOON.replace(year=2025))
ORDER = Order(id="1", verb=Verb.RETIRE, by="Operator", at=NOON)
CANCEL = Order(id="2", verb=Verb.CANCEL, by="Operator", at=NOON)
HOLD = Hold(session_id="s", target="prod", serve="realtime", endpoint="churn", order=ORDER)
APPROVED = {"stages": (a_stage(approval={}),)}


def wanted(command: PromoteModel, **more: Any) -> Wanted:
    return Wanted(command, a_manifest(), a_batch_recipe() if command.is_batch else a_recipe(), **more)


def planned(world: World, asked: Wanted) -> Plan:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "look", lambda _, wanted, seen, at: world.look(wanted, seen, at))
        return plan(object(), asked, about="a test")  # type: ignore[arg-type] # the world is looked at instead


def carried_out(world: World, asked: Wanted) -> tuple[list[str], Outcome]:
    """The effects of the engine in this world, delivery after delivery, and what they come to."""
    done, seen = [], Seen()
    for _ in range(400):
        step = decide(asked, seen)
        match step:
            case Look():
                seen = world.look(asked, seen, step)
            case Do():
                done.append(step.effect.value)
                seen = world.perform(asked, seen, step)
            case Waiting():
                world.settle()
                seen = Seen()
            case _:
                return done, step
    raise AssertionError(f"no end: {done}")


def effects(found: Plan) -> list[str]:
    return [each.step for each in found.steps if each.step != WAIT]


def changing(done: list[str]) -> bool:
    """A claim alone says who was last."""
    return bool(set(done) - {Effect.CLAIM_ENDPOINT.value})


def kind(outcome: Outcome, done: list[str]) -> str:
    match outcome:
        case Done():
            return "done" if changing(done) else "nothing_to_do"
        case Parked():
            return "parked"
        case Refused(reason=Reason.SUPERSEDED):
            return "superseded"
        case _:
            return type(outcome).__name__.lower()


def live(command: PromoteModel, **more: Any) -> World:
    return World(endpoint=a_live_endpoint(command), deployments={command.deployment: a_deployment(command)}, **more)


def deployed_for_batch(test: JobStatus) -> World:
    """All that a batch deployment needs, and its test job."""
    command = a_batch_command()
    copy = TargetAsset(id="a copy", tags=tags.provenance(command))
    return World(
        endpoint=an_endpoint(command),
        deployments={command.deployment: a_deployment(command)},
        models={("churn", "3"): copy},
        assets={"code", "environment"},
        components={command.deployment: copy},
        jobs={batch.test_job_name(command): test},
    )


STARTS: dict[str, tuple[Callable[[], World], Wanted]] = {
    "nothing there": (World, wanted(a_command())),
    "an older version live": (lambda: live(OLD), wanted(a_command())),
    "claimed and half done": (lambda: World(endpoint=an_endpoint()), wanted(a_command())),
    "under way": (
        lambda: World(endpoint=an_endpoint(), deployments={OURS: a_deployment(provisioning=CHANGING)}),
        wanted(a_command()),
    ),
    "being copied": (lambda: World(copies={"MLmodel": CopyStatus.PENDING}), wanted(a_command())),
    "failed before": (
        lambda: World(endpoint=an_endpoint(), deployments={OURS: a_deployment(provisioning=FAILED)}),
        wanted(a_command()),
    ),
    "failed before, and retried": (
        lambda: World(endpoint=an_endpoint(), deployments={OURS: a_deployment(provisioning=FAILED)}),
        wanted(a_command(attempt=2)),
    ),
    "being deleted": (lambda: World(endpoint=an_endpoint(provisioning=DELETING)), wanted(a_command())),
    "not ours": (lambda: World(endpoint=an_endpoint(tags={})), wanted(a_command())),
    "not ours, and adopted": (
        lambda: World(endpoint=an_endpoint(tags={})),
        wanted(a_command(stages=(a_stage(adopt=True),))),
    ),
    "superseded": (lambda: live(NEW), wanted(a_command())),
    "superseded, with a leftover": (
        lambda: World(endpoint=a_live_endpoint(NEW), deployments={OURS: a_deployment(provisioning=CHANGING)}),
        wanted(a_command()),
    ),
    "cancelled": (
        lambda: World(endpoint=an_endpoint(), deployments={OURS: a_deployment()}),
        wanted(a_command(cancel=CANCEL)),
    ),
    "live": (lambda: live(a_command()), wanted(a_command())),
    "live, and asked for again": (
        lambda: live(a_command()),
        wanted(a_command(generation_time=NOON.replace(year=2027))),
    ),
    "retired": (lambda: live(a_command()), wanted(a_command(goal="retired", order=ORDER))),
    "retired already": (World, wanted(a_command(goal="retired", order=ORDER))),
    "batch, nothing there": (World, wanted(a_batch_command())),
    "batch, an older version live": (
        lambda: live(OLD_BATCH, schedule=a_schedule(OLD_BATCH)),
        wanted(a_batch_command()),
    ),
    "batch, paused by hand": (
        lambda: live(OLD_BATCH, schedule=a_schedule(OLD_BATCH, enabled=False)),
        wanted(a_batch_command()),
    ),
    "batch, tested just now": (
        lambda: deployed_for_batch(JobStatus.RUNNING),
        wanted(a_batch_command()),
    ),
    "batch, the test failed": (
        lambda: deployed_for_batch(JobStatus.FAILED),
        wanted(a_batch_command()),
    ),
    "batch, the schedule is to go": (
        lambda: World(schedule=a_schedule()),
        wanted(a_batch_command(stages=(a_batch_stage(schedule=None),))),
    ),
    "batch, a schedule of others": (lambda: World(schedule=a_schedule(tags={})), wanted(a_batch_command())),
    "batch, retired": (
        lambda: live(a_batch_command(), schedule=a_schedule()),
        wanted(a_batch_command(goal="retired", order=ORDER)),
    ),
}
# Where something would be done, and where not.
NOTHING_DONE = {
    "failed before",
    "not ours",
    "superseded",
    "live",
    "live, and asked for again",
    "retired already",
    "batch, the test failed",
}  # fmt: skip


@pytest.mark.parametrize("start", STARTS)
def test_a_plan_names_what_the_engine_does(start: str) -> None:
    make, asked = STARTS[start]
    looked = make()
    found = planned(looked, asked)
    assert looked == make(), "a plan changes nothing"
    done, outcome = carried_out(make(), asked)
    assert effects(found) == (done if changing(done) else [])
    assert found.outcome == kind(outcome, done)
    assert found.changes == changing(done) == (start not in NOTHING_DONE)
    if isinstance(outcome, Parked | Refused):
        assert (found.why, found.reason, found.remedy) == (outcome.why, outcome.reason, outcome.remedy)


@given(worlds(), _WANTED)
def test_a_plan_names_what_the_engine_does_from_any_start_where_all_goes_well(world: World, asked: Wanted) -> None:
    well = replace(world, fails=frozenset(), refusals_to_copy=0, answers=(200,))
    copies: dict[str, CopyStatus] = {
        path: status for path, status in well.copies.items() if status is not CopyStatus.FAILED
    }
    found = planned(replace(well, copies=copies), asked)
    done, outcome = carried_out(replace(well, copies=dict(copies), deployments=dict(well.deployments)), asked)
    assert (effects(found), found.outcome) == (done if changing(done) else [], kind(outcome, done))


def test_what_is_waited_for_is_a_step() -> None:
    world = World(endpoint=an_endpoint(), deployments={OURS: a_deployment(provisioning=CHANGING)})
    found = planned(world, wanted(a_command()))
    assert str(found.steps[0]) == f"wait: deployment {OURS} is being created"
    assert found.outcome == "done"


# ------------------------------------------------------------------------------------------------------- differences


def differences(world: World, asked: Wanted) -> dict[str, tuple[str, str]]:
    return {each.what: (each.shown, each.wanted) for each in planned(world, asked).differences}


def test_differences_are_what_is_shown_and_what_would_be() -> None:
    assert differences(live(OLD), wanted(a_command())) == {
        "model": ("none", "churn:3"),
        "promotion of the endpoint": (OLD.promotion_id, a_command().promotion_id),
        "deployments": (OLD.deployment, OURS),
        "traffic": (f"100 % to {OLD.deployment}", f"100 % to {OURS}"),
    }


def test_what_is_as_wanted_has_no_differences() -> None:
    found = planned(live(a_command()), wanted(a_command()))
    assert (found.outcome, found.steps, found.differences) == ("nothing_to_do", (), ())


def test_a_schedule_is_looked_at_last_and_shown_as_it_is_now() -> None:
    before = live(OLD_BATCH, schedule=a_schedule(OLD_BATCH, enabled=False))
    command = a_batch_command()
    assert differences(before, wanted(command))["schedule"] == (
        f"paused, runs {OLD_BATCH.component}:{OLD_BATCH.deployment}",
        f"paused, runs {command.component}:{command.deployment}",
    )
    without = wanted(a_batch_command(stages=(a_batch_stage(schedule=None),)))
    shown, then = differences(World(schedule=a_schedule()), without)["schedule"]
    assert (shown.partition(",")[0], then.partition(",")[0]) == ("enabled", "paused")


def test_what_is_retired_is_gone() -> None:
    found = differences(live(a_command()), wanted(a_command(goal="retired", order=ORDER)))
    assert (found["endpoint"], found["traffic"]) == (("churn", "none"), (f"100 % to {OURS}", "none"))


# ------------------------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    ("asked", "reasons"),
    [
        (wanted(a_command(**APPROVED)), [Reason.APPROVAL_WANTED]),
        (wanted(a_command(), hold=HOLD), [Reason.ON_HOLD]),
        (wanted(a_command(**APPROVED), hold=HOLD), [Reason.APPROVAL_WANTED, Reason.ON_HOLD]),
    ],
)
def test_behind_a_gate_stands_what_would_follow(asked: Wanted, reasons: list[Reason]) -> None:
    found = planned(World(), asked)
    open_door = planned(World(), wanted(a_command()))
    assert (found.outcome, found.reason, found.changes) == ("parked", reasons[0], True)
    assert [each.step for each in found.steps[: len(reasons)]] == [WAIT] * len(reasons)
    assert found.steps[len(reasons) :] == open_door.steps
    assert found.then is not None
    assert found.then.outcome == "done"


def test_what_an_approval_would_be_in_vain_for_is_told() -> None:
    found = planned(live(OLD, models={("churn", "3"): TargetAsset(id="x", tags={})}), wanted(a_command(**APPROVED)))
    assert (found.outcome, found.changes) == ("parked", False)
    assert found.then is not None
    assert (found.then.outcome, found.then.reason) == ("refused", Reason.MODEL_NAME_TAKEN)
    assert "Then: refused (the target already has a model churn:3" in found.text()


def test_later_stages_are_told_unless_this_one_does_not_succeed() -> None:
    stages = (a_stage(target="test"), a_stage(endpoint="{model}-prod"))
    found = planned(World(), wanted(a_command(stages=stages)))
    assert found.later == ("realtime endpoint churn-prod of prod",)
    assert planned(live(NEW), wanted(a_command(stages=stages))).later == ()


# -------------------------------------------------------------------------------------------------------------- text


def test_a_plan_reads_like_this() -> None:
    asked = wanted(a_command(stages=(a_stage(approval={}), a_stage(target="test"))))
    assert planned(live(OLD), asked).text().splitlines() == [
        "churn:3 on realtime endpoint churn of prod: parked (waits for the approval of somebody with the role "
        "Promotion.Approver)",
        "  This is a test.",
        f"  What to do: Approve or reject it: POST /api/promotions/{asked.command.promotion_id}/approve (or .../reject).",
        "Steps:",
        "  1. wait: waits for the approval of somebody with the role Promotion.Approver",
        "  2. copy artifacts: 2 files, 4824 bytes",
        "  3. register model: churn:3",
        "  4. claim endpoint: churn",
        f"  5. create deployment: {OURS}, 1 x Standard_DS3_v2",
        f"  6. smoke request: {OURS}, with input_example.json",
        f"  7. move traffic: 100 % to {OURS}",
        f"  8. retire old deployment: {OLD.deployment}",
        "Then: done",
        "Differences, from what is shown to what would be:",
        "  model: none -> churn:3",
        f"  promotion of the endpoint: {OLD.promotion_id} -> {asked.command.promotion_id}",
        f"  deployments: {OLD.deployment} -> {OURS}",
        f"  traffic: 100 % to {OLD.deployment} -> 100 % to {OURS}",
        "Later: realtime endpoint churn of test",
    ]


def test_every_effect_has_what_it_would_leave_behind() -> None:
    assert set(SIMULATED) == set(Effect)
