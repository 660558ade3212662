"""Why, what would happen, is it a policy: through the real host, with a ledger of its own and no worker."""

import uuid
from collections.abc import Callable

import pytest

from core.ledger import EventOutcome, EventRecord, State
from core.policy import Trigger
from tests import models
from tests.e2e.test_realtime import register
from tests.functions.api import Answer, Api, fetch
from tests.local import REPOSITORY
from tests.unit.builders import DEV, TEST

SAMPLE = (REPOSITORY / "promotion.sample.yaml").read_bytes()
Register = Callable[..., str]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> models.SavedModel:
    return models.regression_with_example(tmp_path_factory.mktemp("models"))


@pytest.fixture
def registered(api: Api, saved: models.SavedModel) -> Register:
    """Registers a version of a new model whose name begins so, in the source; its name. No event is delivered."""

    def register_one(prefix: str, **tags: str) -> str:
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        assert register(api.azure, name, saved, **tags) == "1"
        return name

    return register_one


def read_by_people(api: Api, method: str, path: str, body: bytes | None = None) -> str:
    headers = {"x-functions-key": api.key, "Accept": "text/html, text/plain;q=0.9"}
    found = fetch(f"{api.url}/api/{path}", headers, method, body)
    assert (found.status, found.headers.get_content_type()) == (200, "text/plain")
    return found.body.decode()


def steps(found: Answer) -> list[str]:
    return [each["step"] for each in found["steps"]]


ALL = ["copy artifacts", "register model", "create endpoint", "create deployment", "smoke request", "move traffic"]


def test_of_a_version_that_nobody_knows_it_says_so(api: Api) -> None:
    found = api.get("explain?source=dev&model=nobody&version=7")
    assert (found.status, found["answer"]) == (200, "nothing is known of nobody:7 of dev")
    assert found["remedy"]


def test_a_promotion_is_explained_with_all_that_is_written_about_it(api: Api) -> None:
    row = api.promotion(State.PARKED)
    found = api.get(f"explain?model={row.model}&version={row.version}")
    assert found.status == 200, "the policy has one source, so it need not be named"
    assert found["answer"].startswith(f"{row.model}:{row.version} of dev is parked on endpoint {row.endpoint} of prod")
    (told,) = found["promotions"]
    assert told["promotion"]["id"] == row.id
    assert told["promotion"]["command"] is None


def test_an_explanation_can_be_read_by_people(api: Api) -> None:
    row = api.promotion(State.PARKED)
    text = read_by_people(api, "GET", f"explain?model={row.model}&version={row.version}")
    assert text.startswith(f"{row.model}:{row.version} of dev is parked")
    assert "Rules of the policy as it is now:" in text


def test_of_a_version_without_an_event_it_says_which_rule_waits_for_one(api: Api, registered: Register) -> None:
    name = registered("secret", **{"team": "risk"})
    found = api.get(f"explain?source=dev&model={name}&version=1")
    assert found["answer"] == f"no event has arrived for {name}:1 of dev, which rule events-only would promote"
    assert "Event Grid subscription" in found["remedy"]
    assert found["in_source"].endswith("; team: risk")
    assert (found["origin"], found["evidence"].startswith("notebook (")) == ("notebook", True)
    assert {each["rule"]: (each["decides"], each["why"]) for each in found["rules"]} == {
        "events-only": (True, ""),
        "people-only": (False, f"model '{name}' does not match 'asked-*'"),
        "guarded": (False, f"model '{name}' does not match 'guarded-*'"),
    }
    assert [each["what"] for each in found["happened"]] == ["registered in the source"]


def test_an_event_that_promoted_nothing_is_what_explains_it(api: Api) -> None:
    api.ledger.record_event(
        EventRecord(
            event_id=uuid.uuid4().hex,
            event_type="Microsoft.MachineLearningServices.ModelRegistered",
            source=DEV.arm_id,
            subject="models/explained:1",
            outcome=EventOutcome.REFUSED,
            why="there is no score.py",
            remedy="Add one.",
            received_at=api.azure.control.now(),
        )
    )
    found = api.get("explain?model=explained&version=1")
    assert (found["answer"], found["remedy"]) == ("explained:1 of dev was refused: there is no score.py", "Add one.")
    assert [each["what"] for each in found["happened"]] == ["event ModelRegistered"]


def test_the_event_of_a_run_belongs_to_what_was_promoted_from_it(api: Api) -> None:
    row = api.promotion(State.PARKED, trigger=Trigger.RUN_COMPLETED, run_id="nightly-7")
    for promotion_id, source in ((row.id, DEV.arm_id), ("another", DEV.arm_id), (row.id, TEST.arm_id)):
        api.ledger.record_event(
            EventRecord(
                event_id=uuid.uuid4().hex,
                event_type="Microsoft.MachineLearningServices.RunCompleted",
                source=source,
                subject="experiments/nightly/runs/nightly-7",
                outcome=EventOutcome.ACCEPTED,
                promotion_id=promotion_id,
                received_at=api.azure.control.now(),
            )
        )
    found = api.get(f"explain?model={row.model}&version={row.version}")
    assert [each["what"] for each in found["happened"] if "event" in each["what"]] == ["event RunCompleted"]


def test_it_answers_while_the_source_cannot_be_read(api: Api) -> None:
    row = api.promotion(State.PARKED)
    api.azure.control.plant(service="arm", path=f"/models/{row.model}/", status=503, times=10)
    found = api.get(f"explain?model={row.model}&version={row.version}")
    assert (found.status, found["in_source"].startswith("it cannot be read: ")) == (200, True)
    assert f"is parked on endpoint {row.endpoint}" in found["answer"]


@pytest.mark.parametrize("name", ["..%2F..%2Fworkspaces", "a%2Fversions%2F1%3Fx%3D", "%00", "a'%20or%20'1'%20eq%20'1"])
def test_a_name_is_never_part_of_a_path(api: Api, name: str) -> None:
    """Whatever is asked for: no other resource is read in its place."""
    since = max((each["number"] for each in api.azure.control.requests()), default=0)
    found = api.get(f"explain?source=dev&model={name}&version=1")
    assert (found.status, found["answer"].startswith("nothing is known of ")) == (200, True)
    assert api.get(f"explain?source=dev&model=a&version={name}")["answer"].startswith("nothing is known of ")
    assert api.azure.control.requests(since, service="arm") == []


@pytest.mark.parametrize(
    "query",
    ["", "model=a", "version=1", "model=a&version=1&limit=1", f"model={'x' * 256}&version=1", "model=&version=1"],
)
def test_an_explanation_is_of_one_version(api: Api, query: str) -> None:
    assert api.get(f"explain?{query}").status == 400


def test_a_source_that_the_policy_does_not_have_is_told(api: Api) -> None:
    found = api.get("explain?source=moon&model=a&version=1")
    assert (found.status, found["detail"]) == (400, "source must be one of dev")


# ---------------------------------------------------------------------------------------------------------------- plan


def test_a_plan_of_a_model_that_is_not_there_is_refused(api: Api) -> None:
    found = api.post("plan", {"source": "dev", "model": "asked-nobody", "version": "1"})
    assert (found.status, found["reason"]) == (422, "model_not_found")
    found = api.post("plan", {"source": "dev", "model": "secret-1", "version": "1"})
    assert (found.status, found["reason"]) == (422, "not_allowed")
    assert api.get("promotions/nobody/plan").status == 404


def test_a_plan_names_every_step_and_what_it_changes(api: Api, registered: Register) -> None:
    name = registered("asked")
    found = api.post("plan", {"source": "dev", "model": name, "version": "1"})
    assert (found.status, found["outcome"], found["changes"]) == (200, "done", True)
    assert (found["target"], found["serve"], found["endpoint"]) == ("prod", "realtime", name)
    assert steps(found) == ALL
    assert found["differences"][0] == {"what": "model", "shown": "none", "wanted": f"{name}:1"}
    assert api.ledger.promotion(found["promotion_id"]) is None
    body = f'{{"model": "{name}", "version": "1"}}'.encode()
    text = read_by_people(api, "POST", "plan", body)
    assert text.startswith(f"{name}:1 on realtime endpoint {name} of prod: done\n")


def test_a_plan_of_stages_shows_the_first_and_names_the_others(api: Api, registered: Register) -> None:
    name = registered("guarded")
    found = api.post("plan", {"source": "dev", "model": name, "version": "1", "rule": "guarded"})
    assert (found["target"], found["later"]) == ("test", [f"realtime endpoint {name} of prod"])
    other = api.post("plan", {"source": "dev", "model": name, "version": "1", "rule": "people-only"})
    assert (other.status, other["reason"]) == (422, "not_allowed")


def test_a_plan_is_of_the_promotion_that_there_is(api: Api, registered: Register) -> None:
    asked = {"source": "dev", "model": registered("asked"), "version": "1"}
    row = api.now(api.post("promotions", asked)["id"])
    for found in (api.post("plan", asked), api.get(f"promotions/{row.id}/plan")):
        assert (found["promotion_id"], steps(found)) == (row.id, ALL)
        assert found["about"] == f"promotion {row.id}, which is requested"

    api.ledger.save(row.model_copy(update={"state": State.REFUSED}))
    assert api.get(f"promotions/{row.id}/plan")["about"] == f"a retry of promotion {row.id}, which is refused"
    about = f"a new attempt of promotion {row.id}, which is refused, that somebody asks for now"
    assert api.post("plan", asked)["about"] == about
    assert api.now(row.id).attempt == 1


def test_a_plan_writes_nothing(api: Api, registered: Register) -> None:
    """Of all requests that it makes, to whomever."""
    asked = {"source": "dev", "model": registered("asked"), "version": "1"}
    row = api.now(api.post("promotions", asked)["id"])
    since = max(each["number"] for each in api.azure.control.requests())
    assert api.post("plan", asked).status == api.get(f"promotions/{row.id}/plan").status == 200
    made = [each for each in api.azure.control.requests(since) if each["service"] != "identity"]
    assert {each["service"] for each in made} >= {"arm", "blob"}
    assert [each for each in made if each["method"] not in ("GET", "HEAD")] == []


def test_what_bars_the_way_is_told_without_a_plan(api: Api, registered: Register) -> None:
    asked = {"source": "dev", "model": registered("asked"), "version": "1"}
    api.azure.control.plant(service="arm", path="/onlineEndpoints/", status=403)
    found = api.post("plan", asked)
    assert (found.status, found["outcome"], found["reason"]) == (200, "parked", "permission_missing")
    assert found["remedy"]
    api.azure.control.plant(service="arm", path="/onlineEndpoints/", status=503, times=2)
    found = api.post("plan", asked)
    assert (found.status, found.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    "body",
    [
        {"source": "dev", "model": "a"},
        {"source": "dev", "version": "1"},
        {"source": "moon", "model": "a", "version": "1"},
        {"source": "dev", "model": "a", "version": 1},
        {"source": "dev", "model": "a", "version": "1", "force": True},
    ],
)
def test_a_plan_is_of_what_is_said(api: Api, body: dict[str, object]) -> None:
    assert api.post("plan", body).status == 400


# -------------------------------------------------------------------------------------------------------------- policy


def test_a_policy_is_checked_against_the_models_that_are_known(api: Api, registered: Register) -> None:
    """From the ledger and from the source, which shows their tags."""
    row = api.promotion(State.PARKED)
    asked, untagged = registered("listed", **{"promote-to": "prod"}), registered("listed")

    def checked(models: str) -> Answer:
        """With rules about these models alone: of many, only some are looked at."""
        about = f'      source: dev\n      model: "{models}"\n'.encode()
        policy = SAMPLE.replace(b'      model: "*"\n', b"").replace(b"      source: dev\n", about)
        found = api.call("POST", "policy/validate", policy, headers={"Content-Type": "application/yaml"})
        assert (found.status, found["valid"], found["mistakes"]) == (200, True, [])
        return found

    found = checked("listed-*")
    matches = {each["model"]: each for rule in found["rules"] for each in rule["matches"] if each["decides"]}
    assert matches[asked] | {"rule": ""} == {
        "source": "dev",
        "model": asked,
        "version": "1",
        "decides": True,
        "by_name": False,
        "rule": "",
    }
    assert untagged not in matches
    assert row.model in {each["model"] for rule in checked(row.model)["rules"] for each in rule["matches"]}


@pytest.mark.parametrize(
    ("content", "line", "field"),
    [
        (SAMPLE.replace(b"serve: realtime", b"serve: sometimes"), 44, "rules.1.stages.0"),
        (b"version: 1\nversion: 1\n", 2, "version"),
        (b"a: &a [*a]", None, ""),
        (b"\xff", None, ""),
        (b"", None, ""),
    ],
)
def test_mistakes_of_a_policy_are_told_by_line_and_field(
    api: Api, content: bytes, line: int | None, field: str
) -> None:
    found = api.call("POST", "policy/validate", content)
    assert (found.status, found["valid"]) == (200, False)
    if line is not None:
        assert line in [each["line"] for each in found["mistakes"]]
        assert field in [each["field"] for each in found["mistakes"]]


def test_a_policy_has_its_limits(api: Api) -> None:
    assert api.call("POST", "policy/validate", b"#" * (256 * 1024 + 1)).status == 413


def test_a_backfill_is_of_a_rule_that_is_there(api: Api) -> None:
    found = api.post("backfill", {"rule": "nobody"})
    assert (found.status, "Name one of" in found["detail"]) == (422, True)
    assert api.get("reconcile").status == 200


def test_refused_promotions_are_failed_work(api: Api) -> None:
    row = api.promotion(State.REFUSED)
    found = api.get("failed?group=reason&limit=1000")
    assert row.id in [each["id"] for each in found["failed"]]
    assert {"reason": "refused", "count": 1} in found["groups"] or found["groups"]
    for body in ({}, {"all": True, "reason": "x"}, {"ids": [], "all": True}):
        assert api.post("failed/retry", body).status == 400
    assert api.post("failed/retry", {"ids": [row.id]})["retried"] == [row.id]
    assert api.now(row.id).attempt == 2
    assert api.get("dead-letters/999999").status == 404
    assert api.post("dead-letters/999999/resubmit").status == 404
    assert api.post("dead-letters/999999/drop", {"reason": "x"}).status == 404
