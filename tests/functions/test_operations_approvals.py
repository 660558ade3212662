"""Approving and rejecting over HTTP: who may, what of, and that one decision stands."""

import threading
from pathlib import Path
from typing import Any

import pytest

from core.ledger import State
from tests.functions.api import ADA, BOB, Answer, Api, running, shown, signed_in
from tests.unit.builders import a_stage

APPROVED: dict[str, Any] = {"stages": (a_stage(approval={}),)}


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


def test_who_is_asked_in_doubt_answers_that_question_alone(api: Api) -> None:
    """Without an approval in the policy the default one says who may; another question of the same attempt is another."""
    row = api.promotion(State.PARKED, stages=(a_stage(verification={}),))
    refused = api.post(f"promotions/{row.id}/approve", shown(row), **ADA)
    assert (refused.status, refused["detail"]) == (409, f"promotion {row.id} needs no approval")
    for number, question in enumerate(("verification", "analysis at 20 %"), 1):
        row = api.ledger.save(row.model_copy(update={"question": question}))
        assert api.post(f"promotions/{row.id}/approve", shown(row)).status == 403
        given = api.post(f"promotions/{row.id}/approve", shown(row, comment="seen"), **ADA)
        assert (given.status, given["question"], given["comment"]) == (200, question, "seen")
        assert len(api.ledger.approvals(row.id)) == number
        assert len(api.sent(row)) == number
    late = api.post(f"promotions/{row.id}/reject", shown(row), **BOB)
    assert (late.status, late["detail"]) == (409, "Ada has approved it already")
    api.ledger.save(row.model_copy(update={"question": ""}))
    assert api.post(f"promotions/{row.id}/approve", shown(row), **ADA).status == 200, "the same answer again"
    assert api.post(f"promotions/{row.id}/reject", shown(row), **BOB).status == 409


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
