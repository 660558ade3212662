"""A plan is what the engine would do: held against the model of a target, from many starts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core import plan as planning
from core.commands import Order, PromoteModel, Verb
from core.endpoints import decide
from core.errors import Reason
from core.ledger import Hold
from core.outcomes import Done
from core.plan import plan
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
from tests.unit.world import FAILED, World

OLD = a_command(version="2", model_created_at=NOON.replace(year=2025))
NEW = a_command(version="4", model_created_at=NOON.replace(year=2027))
ORDER = Order(id="1", verb=Verb.RETIRE, by="Operator", at=NOON)
HOLD = Hold(session_id="s", target="prod", serve="realtime", endpoint="churn", order=ORDER)


def wanted(command: PromoteModel, **more: Any) -> Wanted:
    return Wanted(command, a_manifest(), a_batch_recipe() if command.is_batch else a_recipe(), **more)


def carried_out(world: World, asked: Wanted) -> list[str]:
    """The effects of the engine in this world, where everything is done at once."""
    done, seen = [], Seen()
    for _ in range(200):
        step = decide(asked, seen)
        if isinstance(step, Look):
            world.settle()
            seen = world.look(asked, seen, step)
        elif isinstance(step, Do):
            done.append(step.effect.value)
            seen = world.perform(asked, seen, step)
        elif isinstance(step, Done):
            return done
        else:
            world.settle()
            seen = Seen()
    raise AssertionError(f"no end: {done}")


STARTS: dict[str, tuple[Callable[[], World], Wanted]] = {
    "nothing there": (lambda: World(), wanted(a_command())),
    "an older version live": (
        lambda: World(endpoint=a_live_endpoint(OLD), deployments={OLD.deployment: a_deployment(OLD)}),
        wanted(a_command()),
    ),
    "claimed and half done": (lambda: World(endpoint=an_endpoint()), wanted(a_command())),
    "failed before, and retried": (
        lambda: World(
            endpoint=an_endpoint(),
            deployments={a_command().deployment: a_deployment(provisioning=FAILED)},
        ),
        wanted(a_command(attempt=2)),
    ),
    "batch, nothing there": (lambda: World(), wanted(a_batch_command())),
    "batch, the schedule is to go": (
        lambda: World(schedule=a_schedule()),
        wanted(a_batch_command(stages=(a_batch_stage(schedule=None),))),
    ),
    "retired": (
        lambda: World(endpoint=a_live_endpoint(), deployments={a_command().deployment: a_deployment()}),
        wanted(a_command(goal="retired", order=ORDER)),
    ),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_plan_names_what_the_engine_does(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, asked = STARTS[start]
    looked = make()
    monkeypatch.setattr(planning, "look", lambda _, wanted, seen, at: looked.look(wanted, seen, at))
    found = plan(object(), asked)  # type: ignore[arg-type] # the world is looked at instead
    assert looked == make(), "a plan changes nothing"
    assert found.outcome == "done"
    assert [step.step for step in found.steps] == carried_out(make(), asked)


@pytest.fixture
def seen_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    def planned(world: World, asked: Wanted) -> planning.Plan:
        monkeypatch.setattr(planning, "look", lambda _, wanted, seen, at: world.look(wanted, seen, at))
        return plan(object(), asked)  # type: ignore[arg-type] # the world is looked at instead

    return planned


def test_what_is_there_needs_nothing(seen_in: Any) -> None:
    live = World(endpoint=a_live_endpoint(), deployments={a_command().deployment: a_deployment()})
    found = seen_in(live, wanted(a_command()))
    assert (found.outcome, found.changes, found.steps, found.differences) == ("nothing_to_do", False, (), ())


def test_a_claim_alone_is_nothing_to_do(seen_in: Any) -> None:
    live = World(endpoint=a_live_endpoint(), deployments={a_command().deployment: a_deployment()})
    again = a_command(generation_time=NOON.replace(year=2027), order=ORDER.model_copy(update={"verb": Verb.PROMOTE}))
    found = seen_in(live, wanted(again))
    assert (found.outcome, found.changes, found.steps) == ("nothing_to_do", False, ())


def test_differences_are_what_is_shown_and_what_would_be(seen_in: Any) -> None:
    world = World(endpoint=a_live_endpoint(OLD), deployments={OLD.deployment: a_deployment(OLD)})
    found = seen_in(world, wanted(a_command()))
    traffic = next(each for each in found.differences if each.what == "traffic")
    assert (traffic.shown, traffic.wanted) == (f"100 % to {OLD.deployment}", f"100 % to {a_command().deployment}")
    assert f"traffic: {traffic.shown} -> {traffic.wanted}" in found.text()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (wanted(a_command(stages=(a_stage(approval={}),))), Reason.APPROVAL_WANTED),
        (replace(wanted(a_command()), hold=HOLD), Reason.ON_HOLD),
    ],
)
def test_behind_a_gate_stands_what_would_follow(seen_in: Any, asked: Wanted, reason: Reason) -> None:
    found = seen_in(World(), asked)
    assert (found.outcome, found.reason) == ("parked", reason)
    assert Effect.CREATE_ENDPOINT.value in [step.step for step in found.steps]


def test_what_a_newer_promotion_has_is_superseded(seen_in: Any) -> None:
    world = World(endpoint=a_live_endpoint(NEW), deployments={NEW.deployment: a_deployment(NEW)})
    found = seen_in(world, wanted(a_command()))
    assert (found.outcome, found.changes) == ("superseded", False)


def test_later_stages_are_told(seen_in: Any) -> None:
    found = seen_in(World(), wanted(a_command(stages=(a_stage(target="test"), a_stage()))))
    assert found.later == ("realtime in prod, once this has succeeded",)


def test_every_effect_has_what_it_would_leave_behind() -> None:
    assert set(planning._SIMULATED) == set(Effect)
