"""Every route of the HTTP API: keys, methods, bodies, states, who may, and orders that come again."""

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.ledger import EventOutcome, EventRecord, Promotion, State, StepRecord
from tests import models
from tests.functions.api import Answer, Api, local_azure, running, signed_in
from tests.unit.builders import NOON, a_stage

ADA = signed_in("Ada", "Promotion.Approver")
BOB = signed_in("Bob", "Promotion.Approver")
APPROVED: dict[str, Any] = {"stages": (a_stage(approval={}),)}
PLACE = "endpoints/prod/realtime"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("api")
    with local_azure(directory / "azure") as azure, running(azure, directory / "host") as app:
        yield app


@pytest.fixture(autouse=True)
def _no_faults(api: Api) -> Iterator[None]:
    yield
    api.azure.control.clear_faults()


def shown(row: Promotion, **more: str) -> dict[str, Any]:
    return {"manifest_digest": row.manifest_digest, "recipe_digest": row.recipe_digest, **more}


def operations(api: Api, method: str) -> list[str]:
    """The routes with this method, with something that does not exist in the place of their parameters."""
    routes = [route for route, described in api.document["paths"].items() if method.lower() in described]
    return [re.sub(r"\{\w+\}", "nobody", route.strip("/").replace("{serve}", "realtime")) for route in routes]


def takes_json(api: Api) -> list[str]:
    """The routes of orders whose body is JSON."""
    described = api.document["paths"]
    other = {route for route in described if "application/json" not in str(described[route].get("post"))}
    return [path for path in operations(api, "POST") if f"/{path}" not in other]


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


# ----------------------------------------------------------------------------------------------------------- approvals


def test_a_decision_is_one_person_s_and_wakes_the_promotion(api: Api) -> None:
    row = api.promotion(**APPROVED)
    for _ in range(2):  # the second time it is the same decision
        given = api.post(f"promotions/{row.id}/approve", shown(row, comment="fine"), **ADA)
        assert (given.status, given["by"], given["decision"], given["comment"]) == (200, "Ada", "approved", "fine")
    late = api.post(f"promotions/{row.id}/reject", shown(row), **BOB)
    assert (late.status, late["detail"]) == (409, "Ada has approved it already")
    assert api.post(f"promotions/{row.id}/reject", shown(row), **ADA).status == 409
    assert api.actions(row) == ["approved"]
    assert api.sent(row) == [f"wake:{row.id}:1:0"]


def test_of_many_approvers_at_once_one_decides(api: Api) -> None:
    row = api.promotion(**APPROVED)
    answers: list[tuple[str, Answer]] = []
    start = threading.Barrier(8)

    def decide(name: str, verb: str) -> None:
        start.wait()
        who = signed_in(name, "Promotion.Approver")
        answers.append((f"{name} {verb}", api.post(f"promotions/{row.id}/{verb}", shown(row), **who)))

    asked = [(f"Approver {number}", ("approve", "reject")[number % 2]) for number in range(8)]
    threads = [threading.Thread(target=decide, args=each) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stands,) = api.ledger.approvals(row.id)
    accepted = [who for who, answer in answers if answer.status == 200]
    assert accepted == [f"{stands.by} {'approve' if stands.decision == 'approved' else 'reject'}"]
    assert sorted(answer.status for _, answer in answers) == [200] + 7 * [409]
    assert len(api.actions(row)) == 1


@pytest.mark.parametrize(
    ("who", "asked_by", "decision", "status", "detail"),
    [
        ({}, "Data Scientist", "approve", 403, "a function key alone approves nothing"),
        ({}, "Data Scientist", "reject", 403, "a function key alone approves nothing"),
        ({"X-MS-CLIENT-PRINCIPAL": "nonsense"}, "Data Scientist", "approve", 403, "a function key alone"),
        ({"X-MS-CLIENT-PRINCIPAL-NAME": "Ada"}, "Data Scientist", "approve", 403, "a function key alone"),
        (signed_in("Ada"), "Data Scientist", "approve", 403, "Ada does not have the role Promotion.Approver"),
        (signed_in("Ada", "Other"), "Data Scientist", "approve", 403, "does not have the role"),
        (ADA, "Ada", "approve", 403, "asked for it and may not approve it"),
        (ADA, "ADA@example.com", "approve", 403, "asked for it and may not approve it"),
        (ADA, "unknown", "approve", 403, "is not known"),
        (ADA, "", "approve", 403, "is not known"),
        (ADA, "the holder of a function key", "approve", 403, "is not known"),
        (ADA, "Ada", "reject", 200, ""),
        (ADA, "unknown", "reject", 200, ""),
        (ADA, "Data Scientist", "approve", 200, ""),
    ],
)
def test_who_may_decide(api: Api, who: dict[str, str], asked_by: str, decision: str, status: int, detail: str) -> None:
    row = api.promotion(requested_by=asked_by, **APPROVED)
    answer = api.post(f"promotions/{row.id}/{decision}", shown(row), **who)
    assert (answer.status, detail in str(answer.json)) == (status, True), answer.json
    assert bool(api.ledger.approvals(row.id)) == (status == 200)


def test_who_asks_by_key_alone_cannot_approve_it_later_under_a_name(api: Api) -> None:
    row = api.promotion(State.REFUSED, **APPROVED)
    assert api.post(f"promotions/{row.id}/retry").status == 202
    answer = api.post(f"promotions/{row.id}/approve", shown(row), **ADA)
    assert (answer.status, "is not known" in answer["detail"]) == (403, True)


def test_the_requester_may_approve_where_the_policy_says_so(api: Api) -> None:
    row = api.promotion(requested_by="Ada", stages=(a_stage(approval={"requester_may_approve": True}),))
    assert api.post(f"promotions/{row.id}/approve", shown(row), **ADA).status == 200


def test_an_approval_binds_what_was_shown(api: Api) -> None:
    row = api.promotion(**APPROVED)
    for other in ({"manifest_digest": "other"}, {"recipe_digest": "other"}):
        answer = api.post(f"promotions/{row.id}/approve", shown(row) | other, **ADA)
        assert (answer.status, "other content than was shown" in answer["detail"]) == (409, True)
    assert api.post(f"promotions/{row.id}/approve", {"manifest_digest": row.manifest_digest}, **ADA).status == 400
    assert api.ledger.approvals(row.id) == ()


def test_only_what_waits_for_an_approval_is_approved(api: Api) -> None:
    plain, ended = api.promotion(), api.promotion(State.REFUSED, **APPROVED)
    assert "needs no approval" in api.post(f"promotions/{plain.id}/approve", shown(plain), **ADA)["detail"]
    answer = api.post(f"promotions/{ended.id}/approve", shown(ended), **ADA)
    assert (answer.status, "is refused already" in answer["detail"]) == (409, True)


def test_an_approval_that_is_repeated_after_the_end_is_still_that_approval(api: Api) -> None:
    row = api.promotion(**APPROVED)
    first = api.post(f"promotions/{row.id}/approve", shown(row), **ADA).json
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.SUCCEEDED}))
    again = api.post(f"promotions/{row.id}/approve", shown(row), **ADA)
    assert (again.status, again.json) == (200, first)


def test_identity_is_ignored_where_the_platform_does_not_vouch_for_it(api: Api, tmp_path: Path) -> None:
    row = api.promotion(**APPROVED)
    with running(api.azure, tmp_path, PROMOTION_PLATFORM_AUTHENTICATION="false") as open_to_all:
        answer = open_to_all.post(f"promotions/{row.id}/approve", shown(row), **ADA)
        assert (answer.status, "a function key alone" in answer["detail"]) == (403, True)
        assert open_to_all.post(f"promotions/{row.id}/cancel", **ADA).status == 202
    assert api.ledger.trail(row.session_id)[0].actor == "the holder of a function key"


# ------------------------------------------------------------------------------------------------------ orders and states

FINAL = [state for state in State if state.is_final]
OPEN = [state for state in State if not state.is_final]


@pytest.mark.parametrize("state", State)
def test_what_can_be_ordered_in_which_state(api: Api, state: State) -> None:
    statuses = {
        verb: api.post(f"promotions/{api.promotion(state).id}/{verb}", {}, **ADA).status
        for verb in ("cancel", "wake", "retry", "redeploy")
    }
    assert statuses == {
        "cancel": 202 if state in OPEN else 409,
        "wake": 202 if state in OPEN else 409,
        "retry": 202 if state in (State.REFUSED, State.CANCELLED, State.SUPERSEDED) else 409,
        "redeploy": 202 if state in FINAL else 409,
    }


@pytest.mark.parametrize(("verb", "state"), [("retry", State.REFUSED), ("redeploy", State.SUCCEEDED)])
def test_a_new_attempt(api: Api, verb: str, state: State) -> None:
    row = api.promotion(state)
    answer = api.post(f"promotions/{row.id}/{verb}", {"reason": "because"}, **ADA)
    assert answer.status == 202
    assert (answer["id"], answer["state"], answer["attempt"]) == (row.id, "requested", 2)
    assert (answer["order"]["by"], answer["order"]["verb"], answer["order"]["reason"]) == ("Ada", verb, "because")
    assert api.sent(row) == [f"{row.id}:2:0"]
    assert api.actions(row) == [verb]
    command = api.command(row)
    assert (command.generation_time is None) == (verb == "retry")
    listed = api.get(f"promotions?model={row.model}")["promotions"]
    assert [(each["id"], each["attempt"]) for each in listed] == [(row.id, 2)]


def test_a_retry_repeats_what_was_asked_for(api: Api) -> None:
    """A retirement that failed is retried as a retirement: nothing is deployed instead."""
    row = api.promotion(State.SUCCEEDED)
    api.live(row)
    assert api.post(f"{PLACE}/{row.endpoint}/retire", {}, **ADA).status == 202
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.REFUSED}))
    assert api.post(f"promotions/{row.id}/retry", {}, **BOB).status == 202
    command = api.command(row)
    assert (command.goal, command.attempt) == ("retired", 3)
    assert command.order is not None
    assert (command.order.verb, command.order.by, command.order.overrides_hold) == ("retire", "Bob", True)
    assert sorted(api.actions(row)) == ["hold", "live", "retire", "retry"]


def test_a_fresh_redeployment_has_a_deployment_of_its_own(api: Api) -> None:
    row = api.promotion(State.SUCCEEDED)
    before = api.command(row).deployment
    api.post(f"promotions/{row.id}/redeploy", {"fresh": True, "overrides_hold": True})
    command = api.command(row)
    assert command.deployment != before
    assert command.order is not None
    assert command.order.overrides_hold


def test_a_redeployment_elsewhere_is_a_promotion_of_its_own(api: Api) -> None:
    row = api.promotion(State.SUCCEEDED)
    answers = [api.post(f"promotions/{row.id}/redeploy", {"target": "test"}, **{"Idempotency-Key": "k"}) for _ in "12"]
    assert [answer.status for answer in answers] == [202, 202]
    assert answers[0]["id"] == answers[1]["id"] != row.id
    there = api.now(answers[0]["id"])
    assert (there.target, there.redeployed_from, there.attempt) == ("test", row.id, 1)
    assert api.sent(there) == [f"{there.id}:0"]
    assert api.actions(there) == ["redeploy"]
    assert api.post(f"promotions/{row.id}/redeploy", {"target": "test"}).status == 409, "it is under way"
    unknown = api.post(f"promotions/{row.id}/redeploy", {"target": "moon"})
    assert (unknown.status, "none of the policy's targets: prod, test" in unknown["detail"]) == (400, True)
    assert api.post(f"promotions/{api.promotion(State.WAITING).id}/redeploy", {"target": "test"}).status == 409


def test_a_redeployment_elsewhere_asks_for_the_approval_that_is_asked_for_there(api: Api) -> None:
    row = api.promotion(State.SUCCEEDED, rule="guarded", stages=(a_stage(target="test"),))
    there = api.now(api.post(f"promotions/{row.id}/redeploy", {"target": "prod"}, **ADA)["id"])
    approval = api.command(there).stage.approval
    assert approval is not None
    assert approval.role == "Risk.Approver"


def test_a_cancellation_and_a_wake_up_are_words_in_the_session(api: Api) -> None:
    row = api.promotion(State.WAITING)
    key = {"Idempotency-Key": "c", **ADA}
    for _ in range(2):
        assert api.post(f"promotions/{row.id}/cancel", {"reason": "no"}, **key).status == 202
    assert api.actions(row) == ["cancel"]
    (sent,) = api.sent(row)
    assert sent.startswith("cancel:")
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.CANCELLED}))
    assert api.post(f"promotions/{row.id}/cancel", {"reason": "no"}, **key).status == 202, "the same order"
    assert api.post(f"promotions/{row.id}/cancel", {"reason": "no"}, **ADA).status == 409, "another one"
    assert len(api.sent(row)) == 1
    other = api.promotion(State.WAITING)
    assert api.post(f"promotions/{other.id}/wake").status == 202
    assert [name.partition(":")[0] for name in api.sent(other)] == ["wake"]


def test_a_hold_and_its_release(api: Api) -> None:
    row = api.promotion(State.SUCCEEDED)
    place = f"{PLACE}/{row.endpoint}"
    assert api.post(f"{place}/hold").status == 400, "a hold has a reason"
    held = api.post(f"{place}/hold", {"reason": "audit week"}, **{"Idempotency-Key": "h", **ADA})
    assert (held.status, held["endpoint"], held["order"]["by"]) == (202, row.endpoint, "Ada")
    assert api.post(f"{place}/release").json == {"target": "prod", "serve": "realtime", "endpoint": row.endpoint}
    again = api.post(f"{place}/hold", {"reason": "audit week"}, **{"Idempotency-Key": "h", **ADA})
    assert (again.status, again["order"]) == (202, held["order"])
    assert [name.partition(":")[0] for name in api.sent(row)] == ["hold", "release"], "an old hold does not come back"
    assert api.actions(row) == ["hold", "release"]


# -------------------------------------------------------------------------------------------------- roll-back and retire


def versions(api: Api, *states: State) -> list[Promotion]:
    """Versions of one model that were live one after the other, in the state that each is in now."""
    model = f"m{uuid.uuid4().hex[:10]}"
    rows = [api.promotion(state, model=model, version=str(number)) for number, state in enumerate(states)]
    api.live(*rows)
    return rows


def test_a_roll_back_brings_the_version_before_back_and_holds(api: Api) -> None:
    _, bad, before, current = versions(api, State.SUCCEEDED, State.ROLLED_BACK, State.SUCCEEDED, State.SUCCEEDED)
    answer = api.post(f"{PLACE}/{current.endpoint}/rollback", {"reason": "wrong"}, **ADA)
    assert (answer.status, answer["id"], answer["order"]["replaces"]) == (202, before.id, current.id)
    assert sorted(api.actions(current)[-2:]) == ["hold", "roll_back"]
    assert [name.partition(":")[0] for name in api.sent(current)] == ["hold", before.id]
    assert api.command(before).generation_time == api.now(before.id).order.at  # type: ignore[union-attr]
    assert bad.id != before.id


def test_a_roll_back_that_is_repeated_later_rolls_nothing_more_back(api: Api) -> None:
    oldest, before, current = versions(api, State.SUCCEEDED, State.SUCCEEDED, State.SUCCEEDED)
    key, path = {"Idempotency-Key": "back"}, f"{PLACE}/{current.endpoint}/rollback"
    assert api.post(path, **key)["id"] == before.id
    done = api.ledger.save(api.now(before.id).model_copy(update={"state": State.SUCCEEDED}))
    api.live(done)  # it is what is live now
    assert api.post(path, **key)["id"] == before.id
    assert api.now(oldest.id).attempt == 1
    assert api.now(before.id).attempt == 2
    assert len(api.sent(current)) == 2


def test_a_roll_back_to_a_promotion_of_choice(api: Api) -> None:
    oldest, before, current = versions(api, State.SUCCEEDED, State.SUCCEEDED, State.SUCCEEDED)
    never = api.promotion(State.REFUSED, model=current.model, version="9")
    path = f"{PLACE}/{current.endpoint}/rollback"
    for wrong, status in [
        (current.id, 409),
        (never.id, 409),
        (api.promotion(State.SUCCEEDED).id, 400),
        ("nobody", 404),
    ]:
        assert api.post(path, {"to": wrong}).status == status
    assert api.sent(current) == [], "nothing was done, nothing is on hold"
    assert api.post(path, {"to": oldest.id})["id"] == oldest.id
    assert api.now(before.id).attempt == 1


def test_what_cannot_be_rolled_back(api: Api) -> None:
    alone, busy = versions(api, State.SUCCEEDED), versions(api, State.WAITING, State.SUCCEEDED)
    nothing = api.promotion()
    for row, status, detail in [
        (nothing, 404, "nothing that was promoted is live"),
        (alone[0], 409, "no version that was live"),
        (busy[1], 409, "is waiting: wait for its end"),
    ]:
        answer = api.post(f"{PLACE}/{row.endpoint}/rollback")
        assert (answer.status, detail in answer["detail"]) == (status, True)
        assert api.sent(row) == [], "nothing was done, nothing is on hold"


def test_an_endpoint_is_retired_once(api: Api) -> None:
    (row,) = versions(api, State.SUCCEEDED)
    key, path = {"Idempotency-Key": "gone"}, f"{PLACE}/{row.endpoint}/retire"
    assert api.post(path, **key)["id"] == row.id
    assert api.command(row).goal == "retired"
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.RETIRED}))
    newer = api.promotion(State.SUCCEEDED, model=row.model, version="9")
    api.live(newer)
    assert api.post(path, **key)["id"] == row.id, "the same order, late: the newer one stays"
    assert api.now(newer.id).attempt == 1
    assert api.post(f"{PLACE}/{api.promotion().endpoint}/retire").status == 404


# -------------------------------------------------------------------------------------- crashes, and the same order again

Case = tuple[str, Callable[[Api], tuple[Promotion, str]], list[str]]


def _retry(api: Api) -> tuple[Promotion, str]:
    row = api.promotion(State.REFUSED)
    return row, f"promotions/{row.id}/retry"


def _redeploy(api: Api) -> tuple[Promotion, str]:
    row = api.promotion(State.SUCCEEDED)
    return row, f"promotions/{row.id}/redeploy"


def _cancel(api: Api) -> tuple[Promotion, str]:
    row = api.promotion(State.WAITING)
    return row, f"promotions/{row.id}/cancel"


def _roll_back(api: Api) -> tuple[Promotion, str]:
    row = versions(api, State.SUCCEEDED, State.SUCCEEDED)[0]
    return row, f"{PLACE}/{row.endpoint}/rollback"


def _retire(api: Api) -> tuple[Promotion, str]:
    (row,) = versions(api, State.SUCCEEDED)
    return row, f"{PLACE}/{row.endpoint}/retire"


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize(
    ("asked", "done", "sent"),
    [
        (_retry, ["retry"], ["ID:2:0"]),
        (_redeploy, ["redeploy"], ["ID:2:0"]),
        (_cancel, ["cancel"], ["cancel"]),
        (_roll_back, ["hold", "roll_back"], ["hold", "ID:2:0"]),
        (_retire, ["hold", "retire"], ["hold", "ID:2:0"]),
    ],
)
def test_an_order_that_broke_off_anywhere_is_completed_by_repeating_it(
    api: Api, asked: Callable[[Api], tuple[Promotion, str]], done: list[str], sent: list[str], phase: str
) -> None:
    """Each write in turn fails, or is done without anybody hearing of it."""
    for fault in ({"service": "table", "method": "PUT"}, {"service": "service_bus", "method": "SEND"}):
        for skip in range(20):
            row, path = asked(api)
            began = len(api.actions(row))
            number = api.azure.control.plant(**fault, phase=phase, skip=skip, status=503)
            first = api.post(path, {"reason": "r"}, **{"Idempotency-Key": "once", **ADA})
            is_past_the_end = not api.azure.control.fault(number)["met"]
            api.azure.control.clear_faults()
            again = api.post(path, {"reason": "r"}, **{"Idempotency-Key": "once", **ADA})

            assert (first.status, again.status) in ((503, 202), (202, 202)), (first.json, again.json)
            assert sorted(api.actions(row)[began:]) == done, (fault, skip)
            messages = [name.replace(row.id, "ID") for name in api.sent(row)]
            assert [name if name.startswith("ID") else name.partition(":")[0] for name in messages] == sent
            assert api.now(row.id).attempt == (1 if done == ["cancel"] else 2)
            if is_past_the_end:
                break
        else:
            pytest.fail(f"{path} never came to its end")


def test_keys_that_differ_and_callers_that_differ_are_different_orders(api: Api) -> None:
    row = api.promotion(State.WAITING)
    for headers in ({"Idempotency-Key": "1"}, {"Idempotency-Key": "2"}, {"Idempotency-Key": "1", **ADA}, {}, {}):
        assert api.post(f"promotions/{row.id}/cancel", **headers).status == 202
    assert len(set(api.sent(row))) == 5


def test_of_two_orders_at_once_one_is_accepted(api: Api) -> None:
    row = api.promotion(State.REFUSED)
    start, statuses = threading.Barrier(4), []

    def retry() -> None:
        start.wait()
        statuses.append(api.post(f"promotions/{row.id}/retry").status)

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(202) == 1
    assert set(statuses) <= {202, 409, 503}
    assert api.now(row.id).attempt == 2
    assert api.sent(row) == [f"{row.id}:2:0"]


# --------------------------------------------------------------------------------------------- promotions that are asked for


@pytest.fixture(scope="module")
def registered(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Registers a model in the source, with the real SDK."""
    saved = models.regression_with_example(tmp_path_factory.mktemp("models"))

    def register(name: str) -> dict[str, str]:
        from azure.ai.ml.entities import Model

        client = api.azure.ml_client(api.azure.endpoints["source"])
        model = client.models.create_or_update(Model(name=name, path=str(saved.folder), type="mlflow_model"))
        return {"source": "dev", "model": name, "version": str(model.version)}

    return register


def test_a_person_asks_for_a_promotion(api: Api, registered: Callable[[str], dict[str, str]]) -> None:
    asked = registered("asked-once") | {"reason": "we need it", "rule": "people-only"}
    answers = [api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA}) for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202], answers
    row = api.now(answers[0]["id"])
    assert (row.trigger, row.rule, row.requested_by, row.attempt) == ("requested", "people-only", "Ada", 1)
    assert row.order is not None
    assert (row.order.verb, row.order.reason) == ("promote", "we need it")
    assert api.sent(row) == [f"{row.id}:0"]
    assert api.actions(row) == ["promote"]
    assert api.command(row).generation_time == row.order.at

    under_way = api.post("promotions", asked, **BOB)
    assert (under_way.status, under_way["id"], under_way["order"]["by"]) == (202, row.id, "Ada")
    assert api.actions(row) == ["promote"]

    api.ledger.save(api.now(row.id).model_copy(update={"state": State.REFUSED}))
    assert api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})["state"] == "refused", "the same order"
    anew = api.post("promotions", asked, **{"Idempotency-Key": "q", **BOB})
    assert (anew["id"], anew["attempt"], anew["state"], anew["order"]["by"]) == (row.id, 2, "requested", "Bob")
    assert api.sent(row) == [f"{row.id}:0", f"{row.id}:2:0"]
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.REFUSED}))
    late = api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})
    assert (late["attempt"], api.now(row.id).attempt) == (2, 2), "an old order that comes late"


@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_request_that_broke_off_anywhere_is_completed_by_repeating_it(
    api: Api, registered: Callable[[str], dict[str, str]], phase: str
) -> None:
    for fault in (
        {"service": "table", "method": "POST"},
        {"service": "table", "method": "PUT"},
        {"service": "service_bus", "method": "SEND"},
    ):
        for skip in range(9):
            asked = registered(f"asked-{phase}-{fault['method'].lower()}-{skip}")
            number = api.azure.control.plant(**fault, phase=phase, skip=skip, status=503)
            first = api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})
            is_past_the_end = not api.azure.control.fault(number)["met"]
            api.azure.control.clear_faults()
            row = api.now(api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})["id"])
            assert first.status in (202, 503)
            assert (row.attempt, api.actions(row), api.sent(row)) == (1, ["promote"], [f"{row.id}:0"])
            if is_past_the_end:
                break


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"source": "moon"}, "source_unknown", "none of the policy's sources: dev"),
        ({"model": "nobody-s"}, "not_allowed", "no rule is about models named"),
        ({"model": "secret-one"}, "not_allowed", "no rule is about models named"),
        ({"model": "asked-never"}, "model_not_found", "asked-never"),
        ({"version": "99"}, "model_not_found", "99"),
        ({"rule": "guarded"}, "not_allowed", "rule 'guarded' is not the one that decides"),
    ],
)
def test_what_nobody_can_ask_for(
    api: Api, registered: Callable[[str], dict[str, str]], changes: dict[str, str], reason: str, detail: str
) -> None:
    asked = registered("asked-in-vain") | changes
    answer = api.post("promotions", asked)
    assert (answer.status, answer["reason"], detail in answer["detail"]) == (422, reason, True), answer.json
