"""What holds of a promotion from any start whatsoever, in a pure model of the target."""

from datetime import timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import tags
from core.errors import Reason
from core.outcomes import Done, Parked, Refused, Waiting
from core.ports import CopyStatus, Deployment, Provisioning, TargetAsset
from core.steps import Wanted
from tests.unit.builders import NOON, a_command, a_deployment, a_recipe, a_stage, a_wanted, an_endpoint
from tests.unit.world import CHANGING, DELETING, FAILED, World, deliver, deliveries, end

COMMAND = a_command()
OURS = COMMAND.deployment
OLDER = a_command(version="2", model_created_at=NOON - timedelta(days=1))
NEWER = a_command(version="4", model_created_at=NOON + timedelta(days=1))
AGAIN = a_command(attempt=2)
WITHOUT_SAMPLE = a_recipe(sample_request=None, sample_source=None)
COPY = TargetAsset(id="/models/churn/versions/3", tags=tags.provenance(COMMAND))

# What is likely stands more than once: most of the interesting starts are nearly right.
_WELL = Provisioning.SUCCEEDED
_PROVISIONING = st.sampled_from([_WELL, _WELL, _WELL, FAILED, FAILED, CHANGING, DELETING])
_CLAIMANTS = [COMMAND, COMMAND, COMMAND, AGAIN, OLDER, NEWER]
_DEPLOYMENT_TAGS = st.sampled_from([*map(tags.deployment, _CLAIMANTS), {}, tags.provenance(COMMAND)])
_ENDPOINT_TAGS = st.sampled_from([*map(tags.claim, _CLAIMANTS), {}])
_COMMANDS = st.builds(
    a_command, attempt=st.integers(1, 2), stages=st.builds(lambda a: (a_stage(adopt=a),), st.booleans())
)
_WANTED = st.builds(a_wanted, _COMMANDS, st.sampled_from([a_recipe(), WITHOUT_SAMPLE]))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any state in which a target may be found, whoever made it so."""
    others = (OLDER.deployment, NEWER.deployment, "blue")
    names = [OURS] * draw(st.sampled_from([0, 1, 1])) + [name for name in others if draw(st.booleans())]
    deployments = {
        name: Deployment(name=name, tags=draw(_DEPLOYMENT_TAGS), provisioning=draw(_PROVISIONING)) for name in names
    }
    endpoint = None
    if bool(deployments) or draw(st.booleans()):
        shares = draw(st.sampled_from([(0, 0), (100, 0), (0, 100), (10, 90), (90, 10)]))
        traffic = dict(zip(draw(st.permutations(names)), shares, strict=False))
        stable = draw(st.sampled_from([None, "gone", *names]))
        found = draw(_ENDPOINT_TAGS) | ({tags.STABLE: stable} if stable else {})
        endpoint = an_endpoint(tags=found, traffic=traffic, provisioning=draw(_PROVISIONING))
    model = draw(st.sampled_from([None, COPY, TargetAsset(id="x", tags={})]))
    return World(
        endpoint=endpoint,
        deployments=deployments,
        models={("churn", "3"): model} if model else {},
        copies=draw(st.dictionaries(st.sampled_from(["MLmodel", "model.pkl"]), st.sampled_from(list(CopyStatus)))),
        fails=draw(st.frozensets(st.sampled_from(["endpoint", OURS]))),
        refusals_to_copy=draw(st.integers(0, 3)),
        answers=(*draw(st.lists(st.sampled_from([None, 503, 429]), max_size=3)), draw(st.sampled_from([200, 500]))),
    )


_DEATHS = st.lists(st.integers(0, 3), max_size=6).map(tuple)


_FAILED_BUT_LIVE = World(
    endpoint=an_endpoint(AGAIN, traffic={OURS: 100}), deployments={OURS: a_deployment(COMMAND, provisioning=FAILED)}
)


@given(worlds(), _WANTED, _DEATHS)
@example(_FAILED_BUT_LIVE, a_wanted(AGAIN), ())
@settings(max_examples=5 * settings().max_examples)
def test_a_promotion_ends_from_any_start_and_does_no_harm_on_its_way(
    world: World, wanted: Wanted, deaths: tuple[int, ...]
) -> None:
    """However often a delivery dies between two lines. What never settles is ended by the deadlines of the policy."""
    before = world.endpoint
    outcome = end(world, wanted, deaths=deaths)
    if isinstance(outcome, Done):
        assert world.endpoint is not None
        shares = {name: share for name, share in world.endpoint.traffic.items() if share}
        assert (shares, world.endpoint.tags[tags.STABLE]) == ({OURS: 100}, OURS)
        assert [name for name, found in world.deployments.items() if tags.is_copy(found.tags)] == [OURS]
    elif isinstance(outcome, Parked):
        assert before is not None
        assert tags.generation(before.tags) is None


@given(worlds(), _WANTED)
def test_nothing_is_done_to_an_endpoint_that_is_not_ours(world: World, wanted: Wanted) -> None:
    if world.endpoint is None or tags.GENERATION in world.endpoint.tags or wanted.command.stage.adopt:
        return
    before = (world.endpoint, dict(world.deployments), dict(world.models))
    assert isinstance(deliver(world, wanted), Parked)
    assert (world.endpoint, world.deployments, world.models) == before


@given(worlds(), _WANTED)
def test_a_promotion_that_is_done_stays_done(world: World, wanted: Wanted) -> None:
    """A delivery that comes once more looks and does nothing."""
    if not isinstance(end(world, wanted), Done):
        return
    before = (world.endpoint, dict(world.deployments), dict(world.models), dict(world.copies))
    assert isinstance(deliver(world, wanted, effects=0), Done)
    assert (world.endpoint, world.deployments, world.models, world.copies) == before


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=30), st.booleans())
def test_the_newest_version_wins_in_whatever_order_they_come(turns: list[tuple[int, int]], recording: bool) -> None:
    """Three versions at once, a delivery of one after a delivery of another, some of which die."""
    world = World()
    promotions = [a_wanted(command) for command in (OLDER, COMMAND, NEWER)]
    for number, effects in turns:
        deliver(world, promotions[number], effects=effects)
        if recording:
            world.settle()
    outcomes = [end(world, wanted) for wanted in promotions]
    outcomes += [end(world, wanted) for wanted in promotions[:2]]
    assert isinstance(outcomes[2], Done)
    assert world.endpoint is not None
    assert world.endpoint.traffic == {NEWER.deployment: 100}
    world.settle()
    assert set(world.deployments) == {NEWER.deployment}
    assert [outcome.reason for outcome in outcomes[3:] if isinstance(outcome, Refused)] == [Reason.SUPERSEDED] * 2


def test_a_first_promotion_and_the_next_one_from_beginning_to_end() -> None:
    """The whole way, as an operator reads it."""
    world, story = World(), []
    for command in (OLDER, COMMAND):
        outcomes = deliveries(world, a_wanted(command))
        story += [outcome.why if isinstance(outcome, Waiting) else type(outcome).__name__ for outcome in outcomes]
    assert story == [
        "copying artifacts: 0 of 2 files, 4824 of 4824 bytes",
        "endpoint churn is being changed",
        f"deployment {OLDER.deployment} is being created",
        "endpoint churn is being changed",
        "Done",
        "endpoint churn is being changed",
        f"deployment {OURS} is being created",
        "endpoint churn is being changed",
        f"old deployment {OLDER.deployment} is deleting",
        "Done",
    ]
