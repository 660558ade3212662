"""Every route of the HTTP API: keys, methods, bodies, names, queries; and what is shown."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest

from core.ledger import EventOutcome, EventRecord, State, StepRecord
from tests.functions.api import ADA, PLACE, Api, shown
from tests.unit.builders import NOON, a_stage


def filled(route: str) -> str:
    """A path, with something that does not exist in the place of the route's parameters."""
    path = route.strip("/").replace("{serve}", "realtime").replace("{sequence_number}", "999999")
    return re.sub(r"\{\w+\}", "nobody", path)


def operations(api: Api, method: str) -> list[str]:
    """The routes with this method."""
    return [filled(route) for route, described in api.document["paths"].items() if method.lower() in described]


def takes_json(api: Api) -> list[str]:
    """The routes of orders whose body is JSON."""
    posts = {route: described.get("post", {}) for route, described in api.document["paths"].items()}
    return [filled(route) for route, post in posts.items() if "application/json" in str(post.get("requestBody"))]


APPROVED: dict[str, Any] = {"stages": (a_stage(approval={}),)}


# ------------------------------------------------------------------------------------------------- the edge of all routes


@pytest.mark.parametrize("key", ["", "wrong"])
def test_without_the_right_key_there_is_no_answer(api: Api, key: str) -> None:
    for method in ("GET", "POST"):
        for path in operations(api, method):
            assert api.call(method, path, b"{}" if method == "POST" else None, key=key).status == 401


def test_a_method_that_a_route_does_not_take_is_404(api: Api) -> None:
    taken = {(method, path) for method in ("GET", "POST") for path in operations(api, method)}
    paths = {path for _, path in taken}
    wrong = [(m, p) for m in ("GET", "POST", "PUT", "PATCH", "DELETE") for p in sorted(paths) if (m, p) not in taken]
    assert {(m, p): api.call(m, p, b"{}" if m != "GET" else None).status for m, p in wrong} == dict.fromkeys(wrong, 404)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"not json", 400, "JSON"),
        (b"[]", 400, "body: Input should be an object"),
        (b"\xff\xfe", 400, "body: "),
        (b'{"nonsense": 1}', 400, "nonsense: Extra inputs are not permitted"),
        (b'{"reason": "' + b"x" * 65_536 + b'"}', 413, "65536 are the most"),
    ],
)
def test_a_body_that_is_not_what_the_route_takes_is_told(api: Api, body: bytes, status: int, detail: str) -> None:
    for path in takes_json(api):
        answer = api.call("POST", path, body)
        assert (answer.status, answer["status"]) == (status, status), path
        assert detail in answer["detail"]


def test_what_is_not_there_is_404(api: Api) -> None:
    bodies: dict[str, Any] = {
        "approve": {"manifest_digest": "m", "recipe_digest": "r"},
        "reject": {"manifest_digest": "m", "recipe_digest": "r"},
        "hold": {"reason": "r"},
    }
    ours = ("promotions/", "endpoints/")
    paths = [path for path in operations(api, "POST") if path.startswith(ours)]
    found = {path: api.post(path, bodies.get(path.rpartition("/")[2]), **ADA) for path in paths}
    found |= {path: api.get(path) for path in operations(api, "GET") if path.startswith(ours)}
    assert {path: answer.status for path, answer in found.items()} == dict.fromkeys(found, 404)
    assert len(found) > 13


@pytest.mark.parametrize(
    "name", ["%27%20or%20%271%27%20eq%20%271", "a%23b", "a%3Fb", "%5C", "%00", "x" * 2000, "%C3%A4"]
)
def test_names_of_any_kind_are_only_names(api: Api, name: str) -> None:
    for path in (f"promotions/{name}", f"promotions/{name}/bundle", f"{PLACE}/{name}"):
        assert api.get(path).status in ((200,) if path.startswith(PLACE) else (404,)), path
    assert api.post(f"promotions/{name}/retry").status == 404
    assert api.post(f"{PLACE}/{name}/hold", {"reason": "r"}).status == 404


@pytest.mark.parametrize("serve", ["online", "Realtime", "x"])
def test_an_endpoint_is_realtime_or_batch(api: Api, serve: str) -> None:
    for answer in (
        api.get(f"endpoints/prod/{serve}/churn"),
        api.get(f"endpoints/prod/{serve}/churn/history"),
        api.post(f"endpoints/prod/{serve}/churn/hold", {"reason": "r"}),
        api.post(f"endpoints/prod/{serve}/churn/rollback"),
    ):
        assert (answer.status, "realtime or batch" in answer["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("promotions?state=lost", "state: Input should be 'requested'"),
        ("promotions?reason=lost", "reason: Input should be"),
        ("promotions?version=3", "give model as well"),
        ("promotions?limit=0", "limit: "),
        ("promotions?limit=many", "limit: "),
        ("promotions?sate=parked", "sate: Extra inputs are not permitted"),
        ("promotions?continuation=elsewhere", "continuation: "),
        ("events?outcome=lost", "outcome: "),
        ("events?version=3", "give model as well"),
        ("audit?limit=-1", "limit: "),
        (f"{PLACE}/churn/history?at=yesterday", "at: "),
        (f"{PLACE}/churn/history?at=2026-03-04T12:00:00", "at: "),
        ("promotions/x/bundle?attempt=0", "attempt: "),
    ],
)
def test_a_query_that_is_not_understood_is_told(api: Api, query: str, detail: str) -> None:
    answer = api.get(query)
    assert (answer.status, detail in answer["detail"]) == (400, True), answer.json


def test_a_fault_of_the_ledger_is_503_and_says_when_to_ask_again(api: Api) -> None:
    api.azure.control.plant(service="table", method="GET", status=503)
    answer = api.get("promotions/any")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


def test_an_idempotency_key_has_its_limits(api: Api) -> None:
    row = api.promotion()
    assert api.post(f"promotions/{row.id}/wake", **{"Idempotency-Key": "x" * 201}).status == 400


# ------------------------------------------------------------------------------------------------------------- reading


def test_promotions_are_listed_page_by_page(api: Api) -> None:
    model = f"paged-{uuid.uuid4().hex[:8]}"
    for version in range(5):
        api.promotion(model=model, version=str(version), requested_at=NOON + timedelta(seconds=version))
    first = api.get(f"promotions?model={model}&limit=2").json
    second = api.get(f"promotions?model={model}&limit=2&continuation={first['continuation']}").json
    third = api.get(f"promotions?model={model}&limit=2&continuation={second['continuation']}").json
    listed = [row["version"] for page in (first, second, third) for row in page["promotions"]]
    assert listed == ["4", "3", "2", "1", "0"]
    assert third["continuation"] is None
    assert not {"command", "etag"} & first["promotions"][0].keys()


def test_promotions_are_listed_by_all_that_is_given(api: Api) -> None:
    model = f"listed-{uuid.uuid4().hex[:8]}"
    api.promotion(State.PARKED, model=model, version="1")
    api.promotion(State.REFUSED, model=model, version="2", stages=(a_stage(target="test", endpoint="elsewhere"),))

    def versions(**query: str) -> list[str]:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return [row["version"] for row in api.get(f"promotions?model={model}&{asked}")["promotions"]]

    assert versions(state="parked") == ["1"]
    assert versions(target="test") == ["2"]
    assert versions(endpoint="elsewhere") == ["2"]
    assert versions(version="1") == ["1"]
    assert versions(target="test", state="parked") == []
    assert versions(reason="on_hold") == []


def test_a_promotion_is_shown_with_its_steps_and_approvals(api: Api) -> None:
    row = api.promotion(**APPROVED)
    api.ledger.note(StepRecord(promotion_id=row.id, hop=0, number=0, step="look", at=NOON))
    assert api.post(f"promotions/{row.id}/approve", shown(row), **ADA).status == 200
    found = api.get(f"promotions/{row.id}").json
    assert [step["step"] for step in found["steps"]] == ["look"]
    assert [(each["by"], each["decision"]) for each in found["approvals"]] == [("Ada", "approved")]
    assert not {"command", "etag"} & found.keys()
    bundle = api.get(f"promotions/{row.id}/bundle?attempt=7")
    assert (bundle.status, "no bundle of attempt 7" in bundle["detail"]) == (404, True)


def test_events_are_listed(api: Api) -> None:
    model = f"heard-{uuid.uuid4().hex[:8]}"
    event = EventRecord(
        event_id="e",
        event_type="t",
        source="s",
        subject=f"models/{model}:1",
        outcome=EventOutcome.IGNORED,
        received_at=NOON,
    )
    api.ledger.record_event(event)
    assert [found["event_id"] for found in api.get(f"events?model={model}&outcome=ignored")["events"]] == ["e"]
    assert api.get(f"events?model={model}&outcome=refused")["events"] == []


def test_an_endpoint_shows_what_is_live_now_and_what_was_live_then(api: Api) -> None:
    first = api.promotion(State.SUCCEEDED)
    second = api.promotion(State.SUCCEEDED, model=first.model, version="4")
    place = f"{PLACE}/{first.endpoint}"
    assert api.get(place).json == {
        "target": "prod", "serve": "realtime", "endpoint": first.endpoint, "live": None, "hold": None,
    }  # fmt: skip
    before = api.azure.control.now().isoformat().replace("+", "%2B")
    api.live(first)
    between = api.azure.control.now().isoformat().replace("+", "%2B")
    api.live(second)
    assert api.get(place.upper().replace("ENDPOINTS/PROD/REALTIME", PLACE))["live"]["version"] == "4"
    assert api.get(f"{place}/history?at={before}").json == {"history": [], "live": None}
    past = api.get(f"{place}/history?at={between}").json
    assert ([entry["promotion_id"] for entry in past["history"]], past["live"]["version"]) == ([first.id], "3")
    assert [entry["promotion_id"] for entry in api.get(f"{place}/history?limit=1")["history"]] == [second.id]
    assert second.id in [entry["promotion_id"] for entry in api.get("audit?limit=5")["audit"]]
