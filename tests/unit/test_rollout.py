"""How traffic moves to a new deployment: in steps, with bake time and analysis, and back by itself."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core import rollout, tags
from core.commands import Order, Phase, PromoteModel, Verb
from core.errors import Reason
from core.ledger import Decision
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.ports import Metrics
from core.stages import Analysis, Latency, Rollout, seconds
from core.steps import Wanted
from tests.unit.builders import NOON, a_command, a_stage, a_wanted, an_approval
from tests.unit.world import World, deliver, deliveries, end

CANARY = Rollout(steps=(10, 50), bake="90s", soak="2m", analysis=Analysis(minimum_requests=20))
GOOD, BAD, NONE = Metrics(requests=100, failed=0), Metrics(requests=50, failed=7), Metrics(requests=3, failed=3)


def command(version: int, plan: Rollout = CANARY, **changes: Any) -> PromoteModel:
    created = NOON + timedelta(hours=version)
    stages = (a_stage(rollout=plan),)
    return a_command(version=str(version), model_created_at=created, stages=stages, **changes)


def live_world(plan: Rollout = CANARY) -> World:
    """Version 1 is live alone."""
    world = World()
    end(world, a_wanted(command(1, plan)))
    return world


def told(outcome: Outcome | None) -> str:
    return outcome.why if isinstance(outcome, Waiting | Parked | Refused) else type(outcome).__name__


# ------------------------------------------------------------------------------------------------------------ shares


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "new"]), st.integers(0, 100), max_size=4),
    st.integers(0, 100),
)
def test_shares_are_100_in_all_and_keep_the_proportion_of_the_others(traffic: dict[str, int], share: int) -> None:
    found = rollout.shared(traffic, "new", share)
    others = {name: weight for name, weight in traffic.items() if name != "new" and weight > 0}
    assert sum(found.values()) == 100
    assert all(weight > 0 for weight in found.values())
    assert found.get("new", 0) == (share if others else 100)
    total = sum(others.values())
    for name, weight in others.items():
        assert abs(found.get(name, 0) - (100 - found.get("new", 0)) * weight / total) < 1


@pytest.mark.parametrize("steps", [(0,), (100,), (50, 10), (10, 10), (-1, 5)])
def test_steps_grow_from_1_to_99(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="each larger than the one before"):
        Rollout(steps=steps)


@pytest.mark.parametrize("below", ["fast", "10", "10m", "-5ms"])
def test_a_latency_is_in_milliseconds_or_seconds(below: str) -> None:
    with pytest.raises(ValidationError, match="such as 250ms"):
        Latency(below=below)


# ---------------------------------------------------------------------------------------------------------- analysis


@pytest.mark.parametrize(
    ("analysis", "metrics", "is_over", "why"),
    [
        (Analysis(), Metrics(requests=100, failed=1), False, None),
        (Analysis(), Metrics(requests=100, failed=2), False, "2.0 % of its 100 requests failed, more than 1 %"),
        (Analysis(maximum_error_rate=100), Metrics(requests=100, failed=100), True, None),
        (Analysis(maximum_error_rate=0), Metrics(requests=20, failed=0), True, None),
        (Analysis(), Metrics(requests=19, failed=19), False, None),
        (Analysis(), Metrics(requests=19, failed=0), True, "it had 19 of the 20 requests that it takes to judge it"),
        (Analysis(latency=Latency(below="200ms")), Metrics(requests=20, failed=0, latency=200), True, None),
        (
            Analysis(latency=Latency(below="200ms")),
            Metrics(requests=20, failed=0, latency=201),
            False,
            "its latency (P95) is 201 ms, more than 200ms",
        ),
        (Analysis(latency=Latency(percentile=99, below="1s")), Metrics(requests=20, failed=0), False, None),
        (
            Analysis(latency=Latency(percentile=99, below="1s")),
            Metrics(requests=20, failed=0),
            True,
            "its latency (P99) is not known",
        ),
    ],
)
def test_what_metrics_say(analysis: Analysis, metrics: Metrics, is_over: bool, why: str | None) -> None:
    found = rollout.judged(analysis, metrics, is_over=is_over)
    assert (found.why if found else None) == why
    if found is not None:
        assert found.is_failure == ("more than" in found.why), "doubt is no failure"


# ---------------------------------------------------------------------------------------------- from beginning to end


def test_a_canary_from_beginning_to_end() -> None:
    world, new = live_world(), command(2)
    old, name = command(1).deployment, new.deployment
    world.metrics = {name: GOOD}
    story, traffic = [], []
    for outcome in deliveries(world, a_wanted(new)):
        story.append(told(outcome))
        assert world.endpoint is not None
        if world.endpoint.traffic not in traffic:
            traffic.append(world.endpoint.traffic)
    assert traffic == [{old: 100}, {old: 90, name: 10}, {old: 50, name: 50}, {name: 100}]
    assert [each for each in story if "bakes" in each or "soaks" in each] == [
        f"{name} has 10 % of the traffic and bakes for 0:00:30 more",
        f"{name} has 50 % of the traffic and bakes for 0:00:30 more",
        f"{name} has 100 % of the traffic and soaks: the deployment before it is kept for 0:01:00 more",
    ]
    assert (story[-1], set(world.deployments)) == ("Done", {name})


def test_what_is_first_on_its_endpoint_takes_all_traffic_at_once() -> None:
    world = World()
    story = [told(outcome) for outcome in deliveries(world, a_wanted(command(1)))]
    assert not [each for each in story if "bakes" in each or "soaks" in each]


def test_without_a_rollout_the_old_deployment_goes_at_once() -> None:
    world = live_world(Rollout())
    story = [told(outcome) for outcome in deliveries(world, a_wanted(command(2, Rollout())))]
    assert story[-2:] == [f"old deployment {command(1, Rollout()).deployment} is deleting", "Done"]


@pytest.mark.parametrize("failed_deployment", ["delete", "keep"])
def test_a_canary_that_goes_bad_comes_back_by_itself(failed_deployment: Any) -> None:
    plan = CANARY.model_copy(update={"failed_deployment": failed_deployment})
    world, new, old = live_world(plan), command(2, plan), command(1, plan).deployment
    world.metrics = {new.deployment: BAD}
    outcome = end(world, a_wanted(new))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.ANALYSIS_FAILED
    assert outcome.why == (
        "rolled back by itself: at 10 % of the traffic, 14.0 % of its 50 requests failed, more than 1 %"
    )
    assert outcome.detail == {"log": "log"}
    assert world.endpoint is not None
    assert (world.endpoint.traffic, world.endpoint.tags[tags.STABLE]) == ({old: 100}, old)
    world.settle()
    assert set(world.deployments) == ({old} if failed_deployment == "delete" else {old, new.deployment})
    assert end(world, a_wanted(new)) == replace(outcome, detail=outcome.detail if failed_deployment == "keep" else {})

    world.metrics = {new.deployment: GOOD}
    retried = new.model_copy(update={"attempt": 2})
    assert isinstance(end(world, a_wanted(retried)), Done), "a new attempt begins anew"
    assert set(world.deployments) == {new.deployment}


def test_what_goes_bad_while_it_soaks_is_replaced_by_what_was_before() -> None:
    world, new, old = live_world(), command(2), command(1).deployment
    world.metrics = {new.deployment: GOOD}
    for outcome in deliveries(world, a_wanted(new)):
        if isinstance(outcome, Waiting) and outcome.live is not None:
            assert outcome.live["deployment"] == new.deployment
            world.metrics = {new.deployment: BAD}
    assert isinstance(outcome, Refused)
    assert outcome.why.startswith("rolled back by itself: at 100 % of the traffic, ")
    assert world.endpoint is not None
    assert (world.endpoint.traffic, world.endpoint.tags[tags.STABLE]) == ({old: 100}, old)


@pytest.mark.parametrize(
    ("inconclusive", "state", "traffic"),
    [("pause", "Parked", (90, 10)), ("proceed", "Done", (None, 100)), ("roll_back", "Refused", (100, None))],
)
def test_too_few_requests_do_what_the_policy_says(
    inconclusive: Any, state: str, traffic: tuple[int | None, int | None]
) -> None:
    plan = CANARY.model_copy(update={"analysis": Analysis(inconclusive=inconclusive)})
    world, new, old = live_world(plan), command(2, plan), command(1, plan).deployment
    world.metrics = {new.deployment: NONE}
    outcome = end(world, a_wanted(new))
    assert type(outcome).__name__ == state
    assert world.endpoint is not None
    assert (world.endpoint.traffic.get(old), world.endpoint.traffic.get(new.deployment)) == traffic
    if isinstance(outcome, Parked):
        assert outcome.reason is Reason.ANALYSIS_INCONCLUSIVE
        world.metrics = {new.deployment: GOOD}
        assert isinstance(end(world, a_wanted(new)), Done), "it goes on once there are requests"


@pytest.mark.parametrize(
    ("decision", "share", "outcome", "why"),
    [
        (Decision.APPROVED, 10, Parked, "the next step is another question"),
        (Decision.REJECTED, 10, Refused, "at 10 % of the traffic, Ada rejected it: odd"),
        (Decision.APPROVED, 50, Parked, "another step was approved"),
    ],
)
def test_somebody_decides_where_nothing_can_be_told(decision: Decision, share: int, outcome: type, why: str) -> None:
    plan = CANARY.model_copy(update={"steps": (10, 50), "analysis": Analysis()})
    world, new, old = live_world(plan), command(2, plan), command(1, plan).deployment
    world.metrics = {new.deployment: NONE}
    wanted = a_wanted(new)
    first = end(world, wanted)
    assert isinstance(first, Parked)
    assert first.question == "analysis at 10 %"

    said = (an_approval(new, decision, f"analysis at {share} %"),)
    found = end(world, replace(wanted, approvals=said))
    world.settle()
    assert world.endpoint is not None
    assert isinstance(found, outcome)
    if isinstance(found, Refused):
        assert why in found.why
        assert world.endpoint.traffic == {old: 100}
    elif share == 10:
        assert world.endpoint.traffic == {old: 50, new.deployment: 50}
        others = [an_approval(new, decision, f"analysis at {each} %") for each in (50, 100)]
        assert isinstance(end(world, replace(wanted, approvals=(*said, *others))), Done)
    else:
        assert world.endpoint.traffic == {old: 90, new.deployment: 10}


@pytest.mark.parametrize("share", [10, 100])
def test_what_nobody_decides_about_does_not_stay_between_two_versions(share: int) -> None:
    """A canary goes back; what has all traffic already, and no failed request to its name, has succeeded."""
    plan = CANARY.model_copy(update={"steps": (10,), "analysis": Analysis()})
    world, new, old = live_world(plan), command(2, plan), command(1, plan).deployment
    world.metrics = {new.deployment: NONE}
    said = (an_approval(new, Decision.APPROVED, "analysis at 10 %"),) if share == 100 else ()
    parked = end(world, replace(a_wanted(new), approvals=said))
    assert isinstance(parked, Parked)
    assert parked.question == f"analysis at {share} %"
    since = world.now - timedelta(seconds=seconds(new.stage.deadlines.park))
    late = new.model_copy(update={"phase": Phase.PARK, "phase_since": since})
    found = end(world, replace(a_wanted(late), approvals=said))
    world.settle()
    assert world.endpoint is not None
    if share == 100:
        assert isinstance(found, Done)
        assert world.endpoint.traffic == {new.deployment: 100}
    else:
        assert isinstance(found, Refused)
        assert found.why.endswith("and nobody said what to do")
        assert world.endpoint.traffic == {old: 100}


def test_a_canary_that_is_cancelled_gives_the_traffic_back() -> None:
    world, new, old = live_world(), command(2), command(1).deployment
    for outcome in deliveries(world, a_wanted(new)):
        if "bakes" in told(outcome):
            break
    who = Order(id="c", verb=Verb.CANCEL, by="Ops", at=NOON)
    outcome = end(world, a_wanted(new.model_copy(update={"cancel": who})))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.CANCELLED
    world.settle()
    assert world.endpoint is not None
    assert (world.endpoint.traffic, set(world.deployments)) == ({old: 100}, {old})


def test_traffic_that_somebody_changed_is_left_as_it_is() -> None:
    world, new, old = live_world(), command(2), command(1).deployment
    for outcome in deliveries(world, a_wanted(new)):
        if "bakes" in told(outcome):
            break
    assert world.endpoint is not None
    by_hand = {old: 100}
    world.endpoint = world.endpoint.model_copy(update={"traffic": by_hand})
    outcome = end(world, a_wanted(new))
    assert isinstance(outcome, Parked)
    assert (outcome.reason, world.endpoint.traffic) == (Reason.TRAFFIC_CHANGED, by_hand)


def test_a_roll_back_is_not_baked() -> None:
    world, new = live_world(), command(2)
    world.metrics = {new.deployment: GOOD}
    for outcome in deliveries(world, a_wanted(new)):
        if "soaks" in told(outcome):
            break
    back = Order(id="r", verb=Verb.ROLL_BACK, by="Ops", at=NOON + timedelta(days=1))
    again = command(1).model_copy(update={"order": back, "attempt": 2, "generation_time": back.at})
    story = [told(outcome) for outcome in deliveries(world, a_wanted(again))]
    assert story[0] == "endpoint churn is being changed", "the deployment is still there: nothing is copied or created"
    assert not [each for each in story if "bakes" in each or "soaks" in each or "created" in each]
    assert world.endpoint is not None
    assert world.endpoint.traffic == {command(1).deployment: 100}


def test_what_soaks_when_a_newer_one_comes_has_succeeded() -> None:
    world, second, third = live_world(), command(2), command(3)
    world.metrics = {second.deployment: GOOD, third.deployment: GOOD}
    for outcome in deliveries(world, a_wanted(second)):
        if "soaks" in told(outcome):
            break
    deliver(world, a_wanted(third))
    world.settle()
    assert isinstance(deliver(world, a_wanted(second)), Done)
    assert isinstance(end(world, a_wanted(third)), Done)
    assert set(world.deployments) == {third.deployment}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.booleans()), max_size=40),
    st.tuples(*[st.sampled_from([GOOD, BAD, NONE])] * 3),
)
def test_superseding_at_any_step_never_drops_traffic_and_ends(
    turns: list[tuple[int, int, bool]], metrics: tuple[Metrics, Metrics, Metrics]
) -> None:
    """The world checks after every write that the traffic sums to 100 and that nothing with traffic is deleted."""
    world = live_world()
    promotions: list[Wanted] = [a_wanted(command(version)) for version in (2, 3, 4)]
    world.metrics = {p.command.deployment: found for p, found in zip(promotions, metrics, strict=True)}
    for number, effects, settling in turns:
        deliver(world, promotions[number], effects=effects)
        if settling:
            world.settle()
    outcomes = [end_of(world, promotion) for promotion in (*promotions[::-1], *promotions)]
    newest = promotions[-1].command.deployment
    assert world.endpoint is not None
    assert sum(world.endpoint.traffic.values()) == 100
    last = outcomes[-1]
    if metrics[-1] is GOOD:
        assert isinstance(last, Done)
        assert world.endpoint.traffic == {newest: 100}
        assert set(world.deployments) == {newest}, "nothing is left over"
    elif metrics[-1] is BAD:
        assert isinstance(last, Refused)
        assert newest not in world.endpoint.traffic
    else:
        assert isinstance(last, Parked)


def end_of(world: World, wanted: Wanted) -> Outcome | None:
    found = end(world, wanted)
    for _ in range(3):
        world.settle()
    return found


@given(st.lists(st.integers(0, 3), max_size=10).map(tuple), st.sampled_from([GOOD, BAD]))
def test_a_rollout_ends_the_same_however_often_it_dies(deaths: tuple[int, ...], metrics: Metrics) -> None:
    world, new, old = live_world(), command(2), command(1).deployment
    world.metrics = {new.deployment: metrics}
    outcome = end(world, a_wanted(new), deaths=deaths)
    world.settle()
    assert world.endpoint is not None
    assert isinstance(outcome, Done if metrics is GOOD else Refused)
    assert world.endpoint.traffic == {new.deployment if metrics is GOOD else old: 100}
    assert len(world.deployments) == 1
