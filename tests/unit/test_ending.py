"""Taking a promotion back: cancelled under way, or retired; nothing of ours is left, and nothing of others is touched."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import tags
from core.commands import Order, PromoteModel, Verb
from core.errors import Reason
from core.outcomes import Done, Refused
from core.ports import Deployment, JobStatus, Provisioning
from core.steps import Wanted
from tests.unit.builders import (
    NOON,
    a_batch_command,
    a_batch_recipe,
    a_command,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_recipe,
    a_schedule,
    an_endpoint,
)
from tests.unit.world import CHANGING, World, deliver, end

CANCEL = Order(id="9", verb=Verb.CANCEL, by="Operator", at=NOON, reason="wrong data")
RETIRE = Order(id="10", verb=Verb.RETIRE, by="Operator", at=NOON, overrides_hold=True)
OTHERS = Deployment(name="blue", tags={}, provisioning=Provisioning.SUCCEEDED)


def wanted(command: PromoteModel, **changes: Any) -> Wanted:
    recipe = a_batch_recipe() if command.is_batch else a_recipe()
    return Wanted(command.model_copy(update=changes), a_manifest(), recipe)


@given(st.integers(0, 12), st.sampled_from([a_command(), a_batch_command()]), st.lists(st.integers(0, 3), max_size=3))
def test_a_promotion_that_is_cancelled_at_any_point_leaves_nothing_or_is_live(
    done: int, command: PromoteModel, deaths: list[int]
) -> None:
    """After so many effects of it somebody cancels; deliveries of the cancellation may die as well."""
    world = World()
    for _ in range(done + 1):
        deliver(world, wanted(command), effects=1)
        world.settle()
    live = world.live

    outcome = end(world, wanted(command, cancel=CANCEL), deaths=tuple(deaths))

    if live:
        assert isinstance(outcome, Done), "it was too late: it is live, and stays so"
        assert world.live == 100
        return
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.why) == (Reason.CANCELLED, "cancelled by Operator: wrong data")
    for _ in range(2):
        world.settle()
    assert (world.endpoint, world.deployments) == (None, {})
    assert JobStatus.RUNNING not in world.jobs.values()


def test_cancelling_a_second_version_leaves_the_first_one_alone() -> None:
    first, second = a_command(version="2", model_created_at=NOON - timedelta(days=1)), a_command()
    world = World(endpoint=a_live_endpoint(first), deployments={first.deployment: a_deployment(first)})
    for _ in range(4):
        deliver(world, wanted(second), effects=1)
        world.settle()
    assert world.endpoint is not None
    assert second.promotion_id in world.endpoint.tags[tags.GENERATION], "it had begun"

    outcome = end(world, wanted(second, cancel=CANCEL))

    assert isinstance(outcome, Refused)
    world.settle()
    assert (world.endpoint.traffic, set(world.deployments)) == ({first.deployment: 100}, {first.deployment})


def test_cancelling_leaves_an_endpoint_that_others_use() -> None:
    command = a_command()
    world = World(endpoint=an_endpoint(command), deployments={"blue": OTHERS})
    assert isinstance(end(world, wanted(command, cancel=CANCEL)), Refused)
    assert world.endpoint is not None
    assert set(world.deployments) == {"blue"}


@pytest.mark.parametrize("command", [a_command(), a_batch_command()], ids=["realtime", "batch"])
@given(deaths=st.lists(st.integers(0, 2), max_size=3))
def test_retiring_takes_the_endpoint_and_its_schedule(command: PromoteModel, deaths: list[int]) -> None:
    world = World(
        endpoint=a_live_endpoint(command),
        deployments={command.deployment: a_deployment(command)},
        schedule=a_schedule(command) if command.is_batch else None,
    )
    outcome = end(world, wanted(command, goal="retired", order=RETIRE), deaths=tuple(deaths))
    assert isinstance(outcome, Done)
    assert outcome.result["retired"] is True
    assert (world.endpoint, world.deployments, world.schedule) == (None, {}, None)


def test_a_schedule_of_others_is_not_retired() -> None:
    command = a_batch_command()
    world = World(endpoint=a_live_endpoint(command), schedule=a_schedule(command, tags={}))
    assert isinstance(end(world, wanted(command, goal="retired", order=RETIRE)), Done)
    assert world.endpoint is None
    assert world.schedule is not None


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (World(endpoint=an_endpoint(tags={})), "was not created by this service"),
        (World(endpoint=a_live_endpoint(), deployments={"blue": OTHERS}), "deployments that others made: blue"),
    ],
    ids=["an endpoint of others", "deployments of others"],
)
def test_what_is_not_ours_is_not_retired(world: World, words: str) -> None:
    outcome = end(world, wanted(a_command(), goal="retired", order=RETIRE))
    assert isinstance(outcome, Refused)
    assert words in outcome.why
    assert world.endpoint is not None


def test_retiring_waits_for_what_is_under_way() -> None:
    command = a_command()
    live = a_live_endpoint(command, provisioning=CHANGING)
    world = World(endpoint=live, deployments={command.deployment: a_deployment(command)})
    assert isinstance(end(world, wanted(command, goal="retired", order=RETIRE)), Done)
    assert world.endpoint is None
