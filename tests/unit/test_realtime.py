"""Decisions about an online endpoint: each step of a promotion, then what holds from any start whatsoever."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import tags
from core.commands import Operation, Phase, PromoteModel
from core.errors import Reason
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.ports import CopyState, CopyStatus, Deployment, Endpoint, Provisioning, ScoringAnswer, TargetModel
from core.realtime import UNSEEN, Do, Effect, Look, Seen, Step, Wanted, decide
from tests.unit.builders import (
    NOON,
    a_command,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_recipe,
    a_stage,
    a_wanted,
    an_endpoint,
)

COMMAND = a_command()
OURS = COMMAND.deployment
OLDER = a_command(version="2", model_created_at=NOON - timedelta(days=1))
NEWER = a_command(version="4", model_created_at=NOON + timedelta(days=1))
ADOPTING = a_command(stages=(a_stage(adopt=True),))
AGAIN = a_command(attempt=2)
WITHOUT_SAMPLE = a_recipe(sample_request=None, sample_source=None)
COPY = TargetModel(id="/models/churn/versions/3", tags=tags.provenance(COMMAND))
BY_HAND = Deployment(name="blue", tags={"team": "x"}, provisioning=Provisioning.SUCCEEDED)
MD5 = "XUFAKrxLKna5cZ2REBfFkg=="
CHANGING, DELETING, FAILED = Provisioning.CHANGING, Provisioning.DELETING, Provisioning.FAILED


def copied(path: str = "MLmodel", **changes: Any) -> CopyState:
    size = {"MLmodel": 645, "model.pkl": 4179}[path]
    values = {"path": path, "status": CopyStatus.COPIED, "size": size, "bytes_copied": size}
    return CopyState.model_validate(values | changes)


def answer(status: int | None, text: str = "[1]") -> ScoringAnswer:
    return ScoringAnswer(status=status, text=text, seconds=0.1)


def at(endpoint: Endpoint | None, *deployments: Deployment, **changes: Any) -> Seen:
    """What a delivery has seen when it has looked at endpoint, deployments and model."""
    return replace(Seen(endpoint=endpoint, deployments=deployments, model=COPY), **changes)


def next_step(seen: Seen, command: PromoteModel = COMMAND, **changes: Any) -> Step:
    return decide(a_wanted(command, **changes), seen)


def refusal(seen: Seen, command: PromoteModel = COMMAND) -> Refused | Parked:
    step = next_step(seen, command)
    assert isinstance(step, Refused | Parked), step
    assert step.remedy
    return step


# ---------------------------------------------------------------------------------------------------- the way of things


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(Seen(), Look.ENDPOINT, id="nothing is known"),
        pytest.param(Seen(endpoint=None), Look.MODEL, id="no endpoint: is the model there?"),
        pytest.param(Seen(endpoint=None, model=None), Look.COPIES, id="no model: are its files there?"),
        pytest.param(
            Seen(endpoint=None, model=None, copies=(copied(status=CopyStatus.MISSING), copied("model.pkl"))),
            Do(Effect.COPY),
            id="a file is missing",
        ),
        pytest.param(
            Seen(endpoint=None, model=None, copies=(copied(status=CopyStatus.FAILED), copied("model.pkl"))),
            Do(Effect.COPY),
            id="a copy has failed",
        ),
        pytest.param(
            Seen(
                endpoint=None, model=None, copies=(copied(), copied("model.pkl", status=CopyStatus.PENDING, bytes_copied=9))
            ),
            Waiting(Phase.ARTIFACTS, "copying artifacts: 1 of 2 files, 654 of 4824 bytes"),
            id="files are on their way",
        ),
        pytest.param(
            Seen(endpoint=None, model=None, copies=(copied(), copied("model.pkl"))),
            Do(Effect.REGISTER_MODEL),
            id="all files are there",
        ),
        pytest.param(
            Seen(endpoint=None, model=None, copies=(copied(md5=MD5), copied("model.pkl", md5="unknown at the source"))),
            Do(Effect.REGISTER_MODEL),
            id="checksums are compared where both sides have one",
        ),
        pytest.param(Seen(endpoint=None, model=COPY), Do(Effect.CREATE_ENDPOINT), id="the model is there"),
        pytest.param(Seen(endpoint=an_endpoint()), Look.DEPLOYMENTS, id="an endpoint: what is in it?"),
        pytest.param(
            at(an_endpoint(provisioning=CHANGING)),
            Waiting(Phase.DEPLOY, "endpoint churn is being changed"),
            id="the endpoint is being made",
        ),
        pytest.param(
            at(an_endpoint(provisioning=DELETING)),
            Waiting(Phase.DEPLOY, "endpoint churn is being changed"),
            id="the endpoint is being deleted",
        ),
        pytest.param(at(an_endpoint(OLDER)), Do(Effect.CLAIM_ENDPOINT), id="the endpoint is an older promotion's"),
        pytest.param(at(an_endpoint(OLDER), model=UNSEEN), Look.MODEL, id="it is claimed only once the model is there"),
        pytest.param(at(an_endpoint()), Do(Effect.CREATE_DEPLOYMENT, OURS), id="the endpoint is ours"),
        pytest.param(
            at(an_endpoint(), a_deployment(provisioning=CHANGING)),
            Waiting(Phase.DEPLOY, f"deployment {OURS} is being created"),
            id="the deployment is being made",
        ),
        pytest.param(
            at(an_endpoint(), a_deployment(provisioning=DELETING)),
            Waiting(Phase.DEPLOY, f"deployment {OURS} is being deleted"),
            id="the deployment is being deleted",
        ),
        pytest.param(at(an_endpoint(), a_deployment()), Do(Effect.SMOKE, OURS), id="the deployment is up"),
        pytest.param(
            at(an_endpoint(), a_deployment(), model=UNSEEN),
            Do(Effect.SMOKE, OURS),
            id="with a deployment nobody asks for the model any more",
        ),
        pytest.param(
            at(an_endpoint(), a_deployment(), smoke=answer(200)), Do(Effect.SHIFT_TRAFFIC, OURS), id="it has answered"
        ),
        pytest.param(
            at(an_endpoint(traffic={OURS: 100}), a_deployment()),
            Do(Effect.SMOKE, OURS),
            id="traffic that somebody moved is no verification",
        ),
        pytest.param(
            at(a_live_endpoint(traffic={OURS: 90, "blue": 10}), a_deployment(), BY_HAND, smoke=answer(200)),
            Do(Effect.SHIFT_TRAFFIC, OURS),
            id="traffic has not moved whole",
        ),
        pytest.param(
            at(a_live_endpoint(), a_deployment(), a_deployment(OLDER)),
            Do(Effect.RETIRE, OLDER.deployment),
            id="the deployment before is still there",
        ),
        pytest.param(
            at(a_live_endpoint(), a_deployment(), a_deployment(OLDER, provisioning=FAILED)),
            Do(Effect.RETIRE, OLDER.deployment),
            id="a failed one is retired as well",
        ),
        pytest.param(
            at(a_live_endpoint(), a_deployment(), a_deployment(OLDER, provisioning=DELETING)),
            Waiting(Phase.DEPLOY, f"old deployment {OLDER.deployment} is deleting"),
            id="the deployment before is going",
        ),
    ],
)  # fmt: skip
def test_one_step_follows_from_what_is_seen(seen: Seen, expected: Step) -> None:
    assert next_step(seen) == expected


def test_without_anything_to_ask_the_traffic_moves_unasked() -> None:
    seen = at(an_endpoint(), a_deployment())
    assert next_step(seen, recipe=WITHOUT_SAMPLE) == Do(Effect.SHIFT_TRAFFIC, OURS)


def test_it_is_done_when_the_traffic_is_there_and_nothing_old_is_left() -> None:
    """What others have deployed on the endpoint is theirs."""
    step = next_step(at(a_live_endpoint(), a_deployment(), BY_HAND))
    uri = "https://churn.northeurope.inference.ml.azure.com/score"
    assert step == Done(
        {
            "endpoint": "churn",
            "deployment": OURS,
            "scoring_uri": uri,
            "auth_mode": "key",
            "get_credentials": "az ml online-endpoint get-credentials --name churn --resource-group rg-ml-prod "
            "--workspace-name ml-prod --subscription 22222222-2222-4222-8222-222222222222",
            "example_request": {
                "method": "POST",
                "url": uri,
                "headers": {"Authorization": "Bearer <key or token>", "Content-Type": "application/json"},
                "body": {"input_data": {"columns": ["a"], "index": [0], "data": [[1.5]]}},
            },
            "verified_with": "input_example.json",
        }
    )


def test_what_was_verified_with_nothing_says_so() -> None:
    step = next_step(at(a_live_endpoint(), a_deployment()), recipe=WITHOUT_SAMPLE)
    assert isinstance(step, Done)
    assert step.result["verified_with"] == "nothing: the model has neither input example nor signature"


def test_azures_operation_goes_with_the_wait() -> None:
    """Its URL is where Azure says later what went wrong."""
    operation = Operation(url="https://management.azure.com/operations/1", retry_after=15)
    step = next_step(at(an_endpoint(provisioning=CHANGING), operation=operation))
    assert step == Waiting(Phase.DEPLOY, "endpoint churn is being changed", operation=operation, retry_after=15)


# --------------------------------------------------------------------------------------------- refused, parked, waiting


@pytest.mark.parametrize("status", [None, 429, 502, 503, 504])
def test_an_answer_that_says_nothing_about_the_model_is_waited_out(status: int | None) -> None:
    step = next_step(at(an_endpoint(), a_deployment(), smoke=answer(status, "not yet")))
    assert step == Waiting(Phase.SMOKE, f"deployment {OURS} does not answer yet: not yet")


@pytest.mark.parametrize("status", [201, 400, 401, 404, 424, 500])
def test_an_answer_other_than_200_is_refused(status: int) -> None:
    found = refusal(at(an_endpoint(), a_deployment(), smoke=answer(status, "a column is missing")))
    assert (found.reason, found.why) == (
        Reason.SMOKE_FAILED,
        f"deployment {OURS} answered {status} to a request made from input_example.json: a column is missing",
    )


@pytest.mark.parametrize(
    "copy",
    [copied(size=644), copied(md5="another"), copied(size=None)],
    ids=["another size", "another checksum", "no size at all"],
)
def test_a_copy_that_differs_from_its_source_is_refused(copy: CopyState) -> None:
    manifest = a_manifest(files=(a_manifest().files[0].model_copy(update={"md5": MD5}), a_manifest().files[1]))
    step = decide(
        Wanted(COMMAND, manifest, a_recipe()), Seen(endpoint=None, model=None, copies=(copy, copied("model.pkl")))
    )
    assert isinstance(step, Refused)
    assert (step.reason, "MLmodel" in step.why) == (Reason.COPY_MISMATCH, True)


@pytest.mark.parametrize("found", [{}, {"team": "x"}, tags.provenance(OLDER)])
def test_a_name_that_another_model_has_is_refused(found: dict[str, str]) -> None:
    taken = TargetModel(id="x", tags=found)
    assert refusal(Seen(endpoint=None, model=taken)).reason is Reason.MODEL_NAME_TAKEN


@pytest.mark.parametrize("found", [{}, {"team": "x"}, {tags.GENERATION: "edited by hand"}])
@pytest.mark.parametrize("provisioning", list(Provisioning))
def test_an_endpoint_of_somebody_else_is_left_alone(found: dict[str, str], provisioning: Provisioning) -> None:
    parked = refusal(at(an_endpoint(tags=found, provisioning=provisioning), BY_HAND))
    assert (type(parked), parked.reason) == (Parked, Reason.ENDPOINT_NOT_OURS)


def test_an_endpoint_of_somebody_else_can_be_adopted() -> None:
    assert next_step(at(an_endpoint(tags={"team": "x"}), BY_HAND), ADOPTING) == Do(Effect.CLAIM_ENDPOINT)


def test_a_failed_endpoint_is_refused() -> None:
    assert refusal(at(an_endpoint(provisioning=FAILED))).reason is Reason.ENDPOINT_FAILED


def test_a_failed_endpoint_is_written_again_when_asked_again() -> None:
    assert next_step(at(an_endpoint(provisioning=FAILED)), AGAIN) == Do(Effect.CLAIM_ENDPOINT)


def test_a_failed_deployment_is_refused() -> None:
    assert refusal(at(an_endpoint(), a_deployment(provisioning=FAILED))).reason is Reason.DEPLOYMENT_FAILED


def test_a_failed_deployment_is_made_anew_when_asked_again() -> None:
    seen = at(an_endpoint(AGAIN), a_deployment(provisioning=FAILED))
    assert next_step(seen, AGAIN) == Do(Effect.DELETE_FAILED_DEPLOYMENT, OURS)


@pytest.mark.parametrize(
    "endpoint",
    [
        a_live_endpoint(AGAIN),
        a_live_endpoint(AGAIN, traffic={OURS: 10, "blue": 90}),
        a_live_endpoint(AGAIN, traffic={"blue": 100}),
    ],
    ids=["all traffic", "some traffic", "stable"],
)
def test_a_failed_deployment_that_is_live_is_not_deleted(endpoint: Endpoint) -> None:
    """An update of it may have failed; it may still answer."""
    seen = at(endpoint, a_deployment(provisioning=FAILED), BY_HAND)
    assert refusal(seen, AGAIN).reason is Reason.DEPLOYMENT_FAILED


@pytest.mark.parametrize("provisioning", list(Provisioning))
@pytest.mark.parametrize(
    "found", [{}, tags.provenance(COMMAND), tags.deployment(OLDER), tags.deployment(COMMAND) | {tags.RECIPE: "other"}]
)
def test_a_deployment_that_only_has_our_name_is_left_alone(found: dict[str, str], provisioning: Provisioning) -> None:
    seen = at(an_endpoint(AGAIN), a_deployment(tags=found, provisioning=provisioning))
    assert refusal(seen, AGAIN).reason is Reason.DEPLOYMENT_NAME_TAKEN


# ----------------------------------------------------------------------------------------------------------- superseded

SUPERSEDED = Refused(
    Reason.SUPERSEDED,
    f"promotion {NEWER.promotion_id}, which is newer, has endpoint churn",
    remedy="Nothing to do: the newest version wins. Redeploy this version if it is the one you want.",
)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(at(an_endpoint(NEWER)), SUPERSEDED, id="nothing was left there"),
        pytest.param(at(an_endpoint(NEWER), model=UNSEEN), SUPERSEDED, id="nothing is copied any more"),
        pytest.param(at(an_endpoint(NEWER), a_deployment()), Do(Effect.CLEAN_UP, OURS), id="a deployment was left"),
        pytest.param(
            at(an_endpoint(NEWER), a_deployment(provisioning=FAILED)), Do(Effect.CLEAN_UP, OURS), id="a failed one was"
        ),
        pytest.param(
            at(an_endpoint(NEWER), a_deployment(provisioning=CHANGING)),
            Waiting(
                Phase.DEPLOY,
                f"superseded by {NEWER.promotion_id}; deployment {OURS} can be deleted once it has settled",
            ),
            id="one is still being made",
        ),
        pytest.param(at(an_endpoint(NEWER), a_deployment(provisioning=DELETING)), SUPERSEDED, id="it is going"),
        pytest.param(
            at(an_endpoint(NEWER, provisioning=DELETING), a_deployment()), SUPERSEDED, id="all of it is going"
        ),
        pytest.param(at(an_endpoint(NEWER, traffic={OURS: 100}), a_deployment()), SUPERSEDED, id="it has the traffic"),
        pytest.param(at(an_endpoint(NEWER, traffic={OURS: 1}), a_deployment()), SUPERSEDED, id="it has some traffic"),
        pytest.param(
            at(an_endpoint(tags=tags.claim(NEWER) | {tags.STABLE: OURS}), a_deployment()), SUPERSEDED, id="it is stable"
        ),
        pytest.param(at(an_endpoint(NEWER), a_deployment(tags={})), SUPERSEDED, id="it is somebody else's"),
    ],
)
def test_the_newer_promotion_has_the_endpoint(seen: Seen, expected: Step) -> None:
    assert next_step(seen) == expected


# ------------------------------------------------------------------------------------------------- from whatever start


Settling = TypeVar("Settling", Endpoint, Deployment)


@dataclass
class World:
    """A target workspace as a value: every effect has its plain result at once or after `settle`."""

    endpoint: Endpoint | None = None
    deployments: dict[str, Deployment] = field(default_factory=dict)
    models: dict[tuple[str, str], TargetModel] = field(default_factory=dict)
    copies: dict[str, CopyStatus] = field(default_factory=dict)
    fails: frozenset[str] = frozenset()
    refusals_to_copy: int = 0
    answers: tuple[int | None, ...] = (200,)
    asked: set[str] = field(default_factory=set)

    @property
    def live(self) -> int:
        return sum(self.endpoint.traffic.values()) if self.endpoint else 0

    def is_live(self, deployment: str) -> bool:
        return self.endpoint is not None and (
            self.endpoint.traffic.get(deployment, 0) > 0 or self.endpoint.tags.get(tags.STABLE) == deployment
        )

    def settle(self) -> None:
        """What is under way comes to its end."""
        if self.endpoint is not None and self.endpoint.provisioning is DELETING:
            self.endpoint, self.deployments = None, {}
        if self.endpoint is not None:
            self.endpoint = self._settled(self.endpoint, "endpoint")
        left = {name: found for name, found in self.deployments.items() if found.provisioning is not DELETING}
        self.deployments = {name: self._settled(found, name) for name, found in left.items()}
        for key in [key for key, status in self.copies.items() if status is CopyStatus.PENDING]:
            failed = self.refusals_to_copy > 0
            self.refusals_to_copy -= failed
            self.copies[key] = CopyStatus.FAILED if failed else CopyStatus.COPIED
        self.answers = self.answers[1:] or self.answers

    def _settled(self, found: Settling, name: str) -> Settling:
        if found.provisioning is not CHANGING:
            return found
        return found.model_copy(update={"provisioning": FAILED if name in self.fails else Provisioning.SUCCEEDED})

    def look(self, wanted: Wanted, seen: Seen, at: Look) -> Seen:
        command = wanted.command
        match at:
            case Look.ENDPOINT:
                return replace(seen, endpoint=self.endpoint)
            case Look.DEPLOYMENTS:
                return replace(seen, deployments=tuple(self.deployments.values()))
            case Look.MODEL:
                return replace(seen, model=self.models.get((command.target_model_name, command.version)))
            case Look.COPIES:
                states = tuple(
                    copied(file.path, status=self.copies.get(file.path, CopyStatus.MISSING))
                    for file in wanted.manifest.files
                )
                return replace(seen, copies=states)

    def perform(self, wanted: Wanted, seen: Seen, do: Do) -> Seen:
        """The effect, after a check that Azure would take it and that nothing of value is lost."""
        command, live_before = wanted.command, self.live
        unseen = replace(seen, endpoint=UNSEEN, deployments=UNSEEN)
        match do.effect:
            case Effect.COPY:
                for path in wanted.manifest.paths():
                    if self.copies.get(path, CopyStatus.MISSING) in (CopyStatus.MISSING, CopyStatus.FAILED):
                        self.copies[path] = CopyStatus.PENDING
                return replace(seen, copies=UNSEEN)
            case Effect.REGISTER_MODEL:
                key = (command.target_model_name, command.version)
                assert key not in self.models
                self.models[key] = TargetModel(id="/".join(key), tags=tags.provenance(command))
                return replace(seen, model=UNSEEN)
            case Effect.SMOKE:
                assert self.deployments[do.name].provisioning is Provisioning.SUCCEEDED
                status = self.answers[0]
                if status == 200:
                    self.asked.add(do.name)
                return replace(seen, smoke=answer(status))
            case Effect.CREATE_ENDPOINT:
                assert self.endpoint is None
                self.endpoint = an_endpoint(command, provisioning=CHANGING)
                return unseen
        assert self.endpoint is not None
        assert self.endpoint.provisioning not in (CHANGING, DELETING), "Azure answers 409"
        match do.effect:
            case Effect.CLAIM_ENDPOINT:
                claimed = {**self.endpoint.tags, **tags.claim(command)}
                self.endpoint = self.endpoint.model_copy(update={"tags": claimed, "provisioning": CHANGING})
            case Effect.CREATE_DEPLOYMENT:
                assert do.name not in self.deployments
                assert tags.is_copy_of(self.models[command.target_model_name, command.version].tags, command)
                self.deployments[do.name] = a_deployment(command, provisioning=CHANGING)
            case Effect.SHIFT_TRAFFIC:
                assert self.deployments[do.name] == a_deployment(command, tags=self.deployments[do.name].tags)
                assert do.name in self.asked or wanted.recipe.sample_request is None, "traffic for what did not answer"
                stable = {**self.endpoint.tags, **tags.claim(command), tags.STABLE: do.name}
                changes = {"tags": stable, "traffic": {do.name: 100}, "provisioning": CHANGING}
                self.endpoint = self.endpoint.model_copy(update=changes)
            case Effect.RETIRE | Effect.CLEAN_UP | Effect.DELETE_FAILED_DEPLOYMENT:
                assert not self.is_live(do.name), "a live deployment would be deleted"
                assert tags.is_copy(self.deployments[do.name].tags), "what somebody else deployed would be deleted"
                gone = self.deployments[do.name].model_copy(update={"provisioning": DELETING})
                self.deployments[do.name] = gone
            case _:
                raise AssertionError(do)
        assert self.live > 0 or live_before == 0, "a live endpoint lost all its traffic"
        return unseen


def deliver(world: World, wanted: Wanted, *, effects: int = 99) -> Outcome | None:
    """One delivery; None if it dies after so many effects."""
    seen = Seen()
    for _ in range(60):
        step = decide(wanted, seen)
        if isinstance(step, Look):
            seen = world.look(wanted, seen, step)
        elif isinstance(step, Do):
            if effects == 0:
                return None
            effects -= 1
            seen = world.perform(wanted, seen, step)
        else:
            return step
    raise AssertionError(f"a delivery that does not end: {step}")


def deliveries(world: World, wanted: Wanted, *, deaths: tuple[int, ...] = ()) -> Iterator[Outcome | None]:
    """Deliveries, and time between them, until the promotion has ended. The first ones die after so many effects."""
    for number in range(40):
        outcome = deliver(world, wanted, effects=deaths[number] if number < len(deaths) else 99)
        yield outcome
        if isinstance(outcome, Done | Refused | Parked):
            return
        world.settle()
    raise AssertionError(f"a promotion that does not end: {outcome}")


def end(world: World, wanted: Wanted, *, deaths: tuple[int, ...] = ()) -> Outcome | None:
    return [*deliveries(world, wanted, deaths=deaths)][-1]


_WELL = Provisioning.SUCCEEDED
_PROVISIONING = st.sampled_from([_WELL, _WELL, _WELL, FAILED, FAILED, CHANGING, DELETING])
_DEPLOYMENT_TAGS = st.sampled_from(
    [tags.deployment(command) for command in (COMMAND, COMMAND, AGAIN, OLDER, NEWER)] + [{}, tags.provenance(COMMAND)]
)
_ENDPOINT_TAGS = st.sampled_from([tags.claim(command) for command in (COMMAND, COMMAND, AGAIN, OLDER, NEWER)] + [{}])
_COMMANDS = st.builds(
    a_command, attempt=st.integers(1, 2), stages=st.builds(lambda a: (a_stage(adopt=a),), st.booleans())
)
_WANTED = st.builds(a_wanted, _COMMANDS, st.sampled_from([a_recipe(), WITHOUT_SAMPLE]))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any state in which a target may be found, whoever made it so."""
    names = [name for name in (OURS, OLDER.deployment, NEWER.deployment, "blue") if draw(st.booleans())]
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
    model = draw(st.sampled_from([None, COPY, TargetModel(id="x", tags={})]))
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


@given(worlds(), _WANTED, _DEATHS)
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
