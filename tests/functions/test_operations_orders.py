"""Orders over HTTP: in which state what can be asked for, and what is written and sent."""

import pytest
from azure.identity import ManagedIdentityCredential

from core.adapters.archive_storage import StorageArchive
from core.adapters.service_bus import ServiceBusCommandQueue
from core.ledger import State
from core.promotion import Promoter
from core.settings import ServiceBusConnection
from tests.functions.api import ADA, BOB, PLACE, Api, signed_in
from tests.unit.builders import a_stage

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
    given = {"fresh": True, "overrides_hold": True, "reason": "it must go out"}
    assert api.post(f"promotions/{row.id}/redeploy", given, **signed_in("Eve", "Promotion.Operator")).status == 202
    command = api.command(row)
    assert command.deployment != before
    assert command.order is not None
    assert command.order.overrides_hold


@pytest.mark.parametrize(
    ("headers", "reason", "status", "says"),
    [
        ({}, "urgent", 403, "does not have the role Promotion.Operator"),
        (ADA, "urgent", 403, "Ada does not have the role Promotion.Operator"),
        (signed_in("Eve", "Promotion.Operator"), " ", 400, "needs a reason"),
    ],
)
def test_a_hold_is_overridden_by_who_may_and_says_why(
    api: Api, headers: dict[str, str], reason: str, status: int, says: str
) -> None:
    row = api.promotion(State.SUCCEEDED)
    given = {"overrides_hold": True, "reason": reason}
    new = given | {"source": "dev", "model": row.model, "version": row.version}
    for path, body in ((f"promotions/{row.id}/redeploy", given), ("promotions", new)):
        answer = api.post(path, body, **headers)
        assert (answer.status, says in answer["detail"]) == (status, True), answer
    assert api.now(row.id).attempt == 1
    assert api.actions(row) == []


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


def test_a_redeployment_elsewhere_meets_the_approval_gates_and_freezes_of_there(api: Api) -> None:
    row = api.promotion(State.SUCCEEDED, rule="guarded", stages=(a_stage(target="test"),))
    there = api.now(api.post(f"promotions/{row.id}/redeploy", {"target": "prod"}, **ADA)["id"])
    stage = api.command(there).stage
    assert stage.approval is not None
    assert stage.gates is not None
    assert (stage.approval.role, stage.gates.maximum_age) == ("Risk.Approver", "5d")
    assert [freeze.start for freeze in stage.freeze] == ["2020-12-18"]


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


@pytest.mark.parametrize(("hop", "is_held"), [(0, True), (1, False)])
def test_a_hold_that_was_delayed_by_a_fault_does_not_undo_its_release(api: Api, hop: int, is_held: bool) -> None:
    """The worker sends a word again after a fault: then it comes after those that were sent behind it."""
    row = api.promotion(State.SUCCEEDED)
    place = f"{PLACE}/{row.endpoint}"
    api.post(f"{place}/hold", {"reason": "r"})
    api.post(f"{place}/release")
    hold = api.words(row)[0]
    promoter = Promoter(
        ledger=api.ledger,
        queue=ServiceBusCommandQueue(
            ServiceBusConnection(None, "never used"), "never used", ManagedIdentityCredential()
        ),
        archive=StorageArchive(api.azure.endpoints["ledger"]["blob_url"], ManagedIdentityCredential()),
        target_for=lambda _: pytest.fail("a word to an endpoint needs no target"),
        now=api.azure.control.now,
    )
    promoter.deliver(hold.model_copy(update={"hop": hop}).encode())
    assert (api.ledger.hold(row.session_id) is not None) == is_held


# -------------------------------------------------------------------------------------------------- roll-back and retire


def test_a_roll_back_brings_the_version_before_back_and_holds(api: Api) -> None:
    _, bad, before, current = api.live_versions(State.SUCCEEDED, State.ROLLED_BACK, State.SUCCEEDED, State.SUCCEEDED)
    answer = api.post(f"{PLACE}/{current.endpoint}/rollback", {"reason": "wrong"}, **ADA)
    assert (answer.status, answer["id"], answer["order"]["replaces"]) == (202, before.id, current.id)
    assert sorted(api.actions(current)[-2:]) == ["hold", "roll_back"]
    assert [name.partition(":")[0] for name in api.sent(current)] == ["hold", before.id]
    assert api.command(before).generation_time == api.now(before.id).order.at  # type: ignore[union-attr]
    assert bad.id != before.id


def test_a_roll_back_that_is_repeated_later_rolls_nothing_more_back(api: Api) -> None:
    oldest, before, current = api.live_versions(State.SUCCEEDED, State.SUCCEEDED, State.SUCCEEDED)
    key, path = {"Idempotency-Key": "back"}, f"{PLACE}/{current.endpoint}/rollback"
    assert api.post(path, **key)["id"] == before.id
    done = api.ledger.save(api.now(before.id).model_copy(update={"state": State.SUCCEEDED}))
    api.live(done)  # it is what is live now
    assert api.post(path, **key)["id"] == before.id
    assert api.now(oldest.id).attempt == 1
    assert api.now(before.id).attempt == 2
    assert len(api.sent(current)) == 2


def test_a_roll_back_to_a_promotion_of_choice(api: Api) -> None:
    oldest, before, current = api.live_versions(State.SUCCEEDED, State.SUCCEEDED, State.SUCCEEDED)
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
    alone, busy = api.live_versions(State.SUCCEEDED), api.live_versions(State.WAITING, State.SUCCEEDED)
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
    (row,) = api.live_versions(State.SUCCEEDED)
    key, path = {"Idempotency-Key": "gone"}, f"{PLACE}/{row.endpoint}/retire"
    assert api.post(path, **key)["id"] == row.id
    assert api.command(row).goal == "retired"
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.RETIRED}))
    newer = api.promotion(State.SUCCEEDED, model=row.model, version="9")
    api.live(newer)
    assert api.post(path, **key)["id"] == row.id, "the same order, late: the newer one stays"
    assert api.now(newer.id).attempt == 1
    assert api.post(f"{PLACE}/{api.promotion().endpoint}/retire").status == 404
