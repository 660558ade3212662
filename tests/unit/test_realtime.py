"""Decisions about an online endpoint: which step follows from what is seen."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core import tags
from core.commands import Operation, Phase, PromoteModel
from core.endpoints import decide
from core.errors import Reason
from core.outcomes import Done, Parked, Refused, Waiting
from core.packaging import FROM_SIGNATURE, Recipe
from core.ports import CopyState, CopyStatus, Deployment, Endpoint, Provisioning, TargetAsset
from core.realtime import UNVERIFIED
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Wanted
from tests.unit.builders import (
    NOON,
    a_command,
    a_copy,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_recipe,
    a_stage,
    a_wanted,
    an_answer,
    an_endpoint,
    cleared,
)

COMMAND = a_command()
OURS = COMMAND.deployment
OLDER = a_command(version="2", model_created_at=NOON - timedelta(days=1))
NEWER = a_command(version="4", model_created_at=NOON + timedelta(days=1))
ADOPTING = a_command(stages=(a_stage(adopt=True),))
AGAIN = a_command(attempt=2)
WITHOUT_SAMPLE = a_recipe(sample_request=None, sample_source=None)
COPY = TargetAsset(id="/models/churn/versions/3", tags=tags.provenance(COMMAND))
BY_HAND = Deployment(name="blue", tags={"team": "x"}, provisioning=Provisioning.SUCCEEDED)
MD5 = "XUFAKrxLKna5cZ2REBfFkg=="
CHANGING, DELETING, FAILED = Provisioning.CHANGING, Provisioning.DELETING, Provisioning.FAILED


def at(endpoint: Endpoint | None, *deployments: Deployment, **changes: Any) -> Seen:
    """What a delivery has seen when it has looked at endpoint, deployments and model."""
    return replace(cleared(endpoint=endpoint, deployments=deployments, model=COPY), **changes)


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
        pytest.param(cleared(endpoint=None), Look.MODEL, id="no endpoint: is the model there?"),
        pytest.param(cleared(endpoint=None, model=None), Look.COPIES, id="no model: are its files there?"),
        pytest.param(
            cleared(endpoint=None, model=None, copies=(a_copy(status=CopyStatus.MISSING), a_copy("model.pkl"))),
            Do(Effect.COPY),
            id="a file is missing",
        ),
        pytest.param(
            cleared(endpoint=None, model=None, copies=(a_copy(status=CopyStatus.FAILED), a_copy("model.pkl"))),
            Do(Effect.COPY),
            id="a copy has failed",
        ),
        pytest.param(
            cleared(
                endpoint=None, model=None, copies=(a_copy(), a_copy("model.pkl", status=CopyStatus.PENDING, bytes_copied=9))
            ),
            Waiting(Phase.ARTIFACTS, "copying artifacts: 1 of 2 files, 654 of 4824 bytes"),
            id="files are on their way",
        ),
        pytest.param(
            cleared(endpoint=None, model=None, copies=(a_copy(), a_copy("model.pkl"))),
            Do(Effect.REGISTER_MODEL),
            id="all files are there",
        ),
        pytest.param(
            cleared(endpoint=None, model=None, copies=(a_copy(md5=MD5), a_copy("model.pkl", md5="unknown at the source"))),
            Do(Effect.REGISTER_MODEL),
            id="checksums are compared where both sides have one",
        ),
        pytest.param(cleared(endpoint=None, model=COPY), Do(Effect.CREATE_ENDPOINT), id="the model is there"),
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
            at(an_endpoint(), a_deployment(), smoke=an_answer(200)), Do(Effect.SHIFT_TRAFFIC, OURS), id="it has answered"
        ),
        pytest.param(
            at(an_endpoint(traffic={OURS: 100}), a_deployment()),
            Do(Effect.SMOKE, OURS),
            id="traffic that somebody moved is no verification",
        ),
        pytest.param(
            at(a_live_endpoint(traffic={OURS: 90, "blue": 10}), a_deployment(), BY_HAND, smoke=an_answer(200)),
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


def test_the_result_says_what_was_verified_as_the_endpoint_does() -> None:
    """The tag was written with the traffic; a later delivery has not asked the deployment itself."""
    live = a_live_endpoint()
    unverified = live.model_copy(update={"tags": {**live.tags, tags.VERIFIED: UNVERIFIED}})
    step = next_step(at(unverified, a_deployment()))
    assert isinstance(step, Done)
    assert step.result["verified_with"] == UNVERIFIED


def test_a_made_up_request_that_is_refused_says_nothing_against_the_model() -> None:
    made_up = a_recipe(sample_source=FROM_SIGNATURE)
    seen = at(an_endpoint(), a_deployment(), smoke=an_answer(424, "unknown fruit"))
    assert next_step(seen, recipe=made_up) == Do(Effect.SHIFT_TRAFFIC, OURS)


def test_azures_operation_goes_with_the_wait() -> None:
    """Its URL is where Azure says later what went wrong."""
    operation = Operation(url="https://management.azure.com/operations/1", retry_after=15)
    step = next_step(at(an_endpoint(provisioning=CHANGING), operation=operation))
    assert step == Waiting(Phase.DEPLOY, "endpoint churn is being changed", operation=operation, retry_after=15)


# --------------------------------------------------------------------------------------------- refused, parked, waiting


@pytest.mark.parametrize("status", [None, 404, 408, 429, 502, 503, 504])
def test_an_answer_that_says_nothing_about_the_model_is_waited_out(status: int | None) -> None:
    step = next_step(at(an_endpoint(), a_deployment(), smoke=an_answer(status, "not yet")))
    said = f" ({status})" if status else ""
    assert step == Waiting(Phase.SMOKE, f"deployment {OURS} does not answer yet{said}: not yet")


@pytest.mark.parametrize("recipe", [a_recipe(), a_recipe(sample_source=FROM_SIGNATURE)], ids=["example", "made up"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_deployment_that_may_not_be_asked_parks(status: int, recipe: Recipe) -> None:
    """It says nothing about the model: neither a refusal nor a reason to give it traffic."""
    step = next_step(at(an_endpoint(), a_deployment(), smoke=an_answer(status, "no")), recipe=recipe)
    assert isinstance(step, Parked)
    assert step.reason is Reason.PERMISSION_MISSING


@pytest.mark.parametrize("status", [201, 400, 424, 500])
def test_an_answer_other_than_200_is_refused(status: int) -> None:
    found = refusal(at(an_endpoint(), a_deployment(), smoke=an_answer(status, "a column is missing")))
    assert (found.reason, found.why) == (
        Reason.SMOKE_FAILED,
        f"deployment {OURS} answered {status} to a request made from input_example.json: a column is missing",
    )


@pytest.mark.parametrize(
    "copy",
    [a_copy(size=644), a_copy(md5="another"), a_copy(size=None)],
    ids=["another size", "another checksum", "no size at all"],
)
def test_a_copy_that_differs_from_its_source_is_refused(copy: CopyState) -> None:
    manifest = a_manifest(files=(a_manifest().files[0].model_copy(update={"md5": MD5}), a_manifest().files[1]))
    step = decide(
        Wanted(COMMAND, manifest, a_recipe()), cleared(endpoint=None, model=None, copies=(copy, a_copy("model.pkl")))
    )
    assert isinstance(step, Refused)
    assert (step.reason, "MLmodel" in step.why) == (Reason.COPY_MISMATCH, True)


@pytest.mark.parametrize("found", [{}, {"team": "x"}, tags.provenance(OLDER)])
def test_a_name_that_another_model_has_is_refused(found: dict[str, str]) -> None:
    taken = TargetAsset(id="x", tags=found)
    assert refusal(cleared(endpoint=None, model=taken)).reason is Reason.MODEL_NAME_TAKEN


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
