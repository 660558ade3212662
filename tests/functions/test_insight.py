"""Why, what would happen, is it a policy: through the real host, with a ledger of its own and no worker."""

import pytest

from core.ledger import State
from tests.functions.api import Api, fetch
from tests.local import REPOSITORY

SAMPLE = (REPOSITORY / "promotion.sample.yaml").read_bytes()


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
    headers = {"x-functions-key": api.key, "Accept": "text/plain"}
    found = fetch(f"{api.url}/api/explain?model={row.model}&version={row.version}", headers)
    assert found.headers.get_content_type() == "text/plain"
    assert found.body.decode().startswith(f"{row.model}:{row.version} of dev is parked")


def test_a_source_that_the_policy_does_not_have_is_told(api: Api) -> None:
    found = api.get("explain?source=moon&model=a&version=1")
    assert (found.status, found["detail"]) == (400, "source must be one of dev")


def test_a_plan_of_a_model_that_is_not_there_is_refused(api: Api) -> None:
    found = api.post("plan", {"source": "dev", "model": "asked-nobody", "version": "1"})
    assert (found.status, found["reason"]) == (422, "model_not_found")
    found = api.post("plan", {"source": "dev", "model": "secret-1", "version": "1"})
    assert (found.status, found["reason"]) == (422, "not_allowed")
    assert api.get("promotions/nobody/plan").status == 404


def test_a_policy_is_checked_against_the_models_that_are_known(api: Api) -> None:
    row = api.promotion(State.PARKED)
    found = api.call("POST", "policy/validate", SAMPLE)
    assert (found.status, found["valid"], found["mistakes"]) == (200, True, [])
    matches = {each["rule"]: each["matches"] for each in found["rules"]}
    known = {"source": "dev", "model": row.model, "version": row.version}
    assert known in matches["tagged-for-prod"]


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
