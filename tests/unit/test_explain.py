"""Why a version was or was not promoted: from what is known of it, as tables."""

from datetime import timedelta
from typing import Any

import pytest

from core.errors import Blocked, PromotionError, Reason, Refusal, Transient
from core.explain import Explanation, Known, Told, explain
from core.ledger import Approval, AuditRecord, Decision, EventOutcome, EventRecord, Promotion, State, StepRecord
from core.origin import Classification, Origin
from core.policy import Policy, Trigger
from core.policy_file import parse
from core.ports import SourceModel
from tests.unit.builders import DEV, NOON, POLICY, a_command

GONE = Refusal(Reason.MODEL_NOT_FOUND, "workspace ml-dev has no model churn:3", remedy="Register it again.")
CLOSED = Blocked(Reason.PERMISSION_MISSING, "ml-dev says 403", remedy="Give the service the role.")


def a_model(**changes: Any) -> SourceModel:
    values = {
        "name": "churn",
        "version": "3",
        "model_type": "mlflow_model",
        "uri": "azureml://x",
        "tags": {"promote-to": "prod"},
        "properties": {},
        "job_name": None,
        "archived": False,
        "created_at": NOON,
        "created_by": "Ada",
    }
    return SourceModel.model_validate(values | changes)


def a_row(state: State = State.SUCCEEDED, **changes: Any) -> Promotion:
    command = {name: changes.pop(name) for name in ("stages", "stage_number", "rule", "trigger") if name in changes}
    row = Promotion.requested(a_command(**command), now=NOON, evidence="notebook (its run is a job)")
    return row.model_copy(update={"state": state, "updated_at": NOON + timedelta(minutes=9)} | changes)


def an_event(outcome: EventOutcome = EventOutcome.ACCEPTED, why: str = "", **changes: Any) -> EventRecord:
    values = {
        "event_id": "e1",
        "event_type": "Microsoft.MachineLearningServices.ModelRegistered",
        "source": DEV.arm_id,
        "subject": "models/churn:3",
        "outcome": outcome,
        "why": why,
        "received_at": NOON + timedelta(minutes=1),
    }
    return EventRecord.model_validate(values | changes)


def a_policy(*rules: dict[str, Any]) -> Policy:
    stages = [{"target": "prod", "serve": "realtime"}]
    policy = parse(POLICY).policy
    given = [{"name": f"rule-{number}", "stages": stages} | rule for number, rule in enumerate(rules, 1)]
    return Policy.model_validate(policy.model_dump() | {"rules": given}) if rules else policy


def explained(policy: Policy | None = None, **known: Any) -> Explanation:
    return explain(policy or a_policy(), Known(source="dev", model="churn", version="3", **known))


# ------------------------------------------------------------------------------------------------------------- answer


@pytest.mark.parametrize(
    ("known", "answer", "remedy"),
    [
        ({"problem": GONE}, "nothing is known of churn:3 of dev", "Check the name"),
        (
            {"problem": CLOSED},
            "no event has arrived for churn:3 of dev, and its source cannot be read: ml-dev says 403",
            "Give the service the role.",
        ),
        ({"problem": Transient("ml-dev is busy")}, "cannot be read: ml-dev is busy", "Ask again in a moment."),
        (
            {"found": a_model()},
            "no event has arrived for churn:3 of dev, which rule everything would promote",
            "Event Grid subscription",
        ),
        ({"found": a_model(tags={})}, "no event has arrived for churn:3 of dev, and no rule would", "tags of the"),
        ({"found": a_model(archived=True)}, "is archived, and archived versions are not promoted", "Restore it"),
        (
            {"found": a_model(tags={"promotion-source": "x", "promotion-manifest": "y"})},
            "was put there by a promotion",
            None,
        ),
        (
            {"found": a_model(), "events": (an_event(EventOutcome.IGNORED, "no rule matches"),)},
            "churn:3 of dev was ignored: no rule matches",
            None,
        ),
        (
            {"problem": GONE, "events": (an_event(EventOutcome.REFUSED, "no score.py", remedy="Add it."),)},
            "churn:3 of dev was refused: no score.py",
            "Add it.",
        ),
        (
            {"problem": GONE, "told": (Told(promotion=a_row()),), "events": (an_event(),)},
            "churn:3 of dev is succeeded on endpoint churn of prod",
            None,
        ),
        (
            {"told": (Told(promotion=a_row(target="test")), Told(promotion=a_row(State.PARKED, why="on hold", remedy="R")))},
            "is succeeded on endpoint churn of test; is parked on endpoint churn of prod: on hold",
            "R",
        ),
        (
            {"told": (Told(promotion=a_row(), replaced_by="churn-4-1"),)},
            "of prod, where promotion churn-4-1 is live now",
            None,
        ),
    ],
)  # fmt: skip
def test_the_answer_is_one_sentence_with_what_to_do(known: dict[str, Any], answer: str, remedy: str | None) -> None:
    found = explained(**known)
    assert answer in found.answer
    assert (remedy in found.remedy) if remedy and found.remedy else found.remedy == remedy
    assert found.text().startswith(found.answer)


# -------------------------------------------------------------------------------------------------------------- rules

AUTOML, UNKNOWN = Classification(origin=Origin.AUTOML, because=("MLmodel says so",)), Classification(origin=None)
RUN = {"trigger": ["run_completed"], "experiment": "nightly-*"}


@pytest.mark.parametrize(
    ("match", "known", "matches", "why"),
    [
        ({}, {}, True, ""),
        ({"model": "fraud-*"}, {}, False, "model 'churn' does not match 'fraud-*'"),
        ({"tags": {"promote-to": "test"}}, {}, False, "tag promote-to is 'prod', not 'test'"),
        ({"tags": {"team": "*"}}, {}, False, "tag team is missing"),
        ({"origin": "designer"}, {"origin": AUTOML}, False, "origin automl is not designer"),
        ({"origin": "automl"}, {"origin": AUTOML}, True, ""),
        ({"origin": "automl"}, {"origin": UNKNOWN}, True, "if its origin, which is not known, is automl"),
        ({"trigger": ["requested"]}, {}, False, "trigger model_registered is not requested; all else matches"),
        ({"trigger": ["requested"], "model": "x"}, {}, False, "model 'churn' does not match 'x'"),
        (
            {"trigger": ["requested"]},
            {"told": (Told(promotion=a_row(trigger=Trigger.REQUESTED)),)},
            True,
            "",
        ),
        ({"origin": "designer"}, {"told": (Told(promotion=a_row()),)}, False, "origin notebook is not designer"),
        (RUN, {}, False, "trigger model_registered is not run_completed; all else matches"),
        (
            RUN,
            {"told": (Told(promotion=a_row(trigger=Trigger.RUN_COMPLETED, rule="rule-1")),)},
            True,
            "",
        ),
        (
            RUN,
            {"told": (Told(promotion=a_row(trigger=Trigger.RUN_COMPLETED, rule="another")),)},
            False,
            "it is about runs of experiment nightly-*",
        ),
        ({"tags": {"team": "*"}}, {"found": None}, False, "it asks for tags, and those of the version cannot be read"),
        ({"tags": {"team": "*"}, "model": "x"}, {"found": None}, False, "model 'churn' does not match 'x'"),
        ({}, {"found": None}, True, ""),
    ],
)
def test_each_rule_says_whether_it_matches_and_why_not(
    match: dict[str, Any], known: dict[str, Any], matches: bool, why: str
) -> None:
    named = {"register_as": "churn"} if match is RUN else {}
    (verdict,) = explained(a_policy({"match": match, **named}), **{"found": a_model(), "problem": GONE} | known).rules
    assert (verdict.matches, verdict.decides, verdict.why) == (matches, matches, why)


def test_of_the_rules_that_match_the_first_decides_and_those_behind_it_are_told() -> None:
    found = explained(a_policy({"match": {"model": "x"}}, {}, {"match": {"model": "y"}}, {}), found=a_model())
    assert [(each.matches, each.decides) for each in found.rules] == [
        (False, False),
        (True, True),
        (False, False),
        (True, False),
    ]
    assert [str(each) for each in found.rules] == [
        "rule-1: model 'churn' does not match 'x'",
        "rule-2: decides",
        "rule-3: model 'churn' does not match 'y'",
        "rule-4: matches, behind the one that decides",
    ]


# ---------------------------------------------------------------------------------------------------- what happened


def test_origin_and_evidence_are_those_of_the_decision_or_what_they_would_be_now() -> None:
    now = explained(found=a_model(), origin=AUTOML)
    assert (now.origin, now.evidence) == ("automl", "automl (MLmodel says so)")
    then = explained(found=a_model(), told=(Told(promotion=a_row()),))
    assert (then.origin, then.evidence) == ("notebook", "notebook (its run is a job)")


def a_story() -> Known:
    row = a_row(State.REFUSED, why="no", remedy="Again.")
    at = [NOON + timedelta(minutes=number) for number in range(9)]
    decided = {"promotion_id": row.id, "attempt": 1, "manifest_digest": "m", "recipe_digest": "r"}
    audit = {
        "target": "prod",
        "serve": "realtime",
        "endpoint": "churn",
        "session_id": row.session_id,
        "promotion_id": row.id,
    }
    return Known(
        source="dev",
        model="churn",
        version="3",
        found=a_model(),
        events=(an_event(why="notebook"),),
        told=(
            Told(
                promotion=row,
                steps=(
                    StepRecord(promotion_id=row.id, hop=3, number=0, step="register model", detail="churn:3", at=at[6]),
                    StepRecord(promotion_id=row.id, hop=2, number=0, step="copy artifacts", at=at[5]),
                ),
                approvals=(Approval(by="Bob", at=at[4], comment="fine", decision=Decision.APPROVED, **decided),),
                audit=(
                    AuditRecord(id="1", at=at[2], actor="Ada", action="requested", reason="rule everything", **audit),
                    AuditRecord(id="2", at=at[4], actor="Bob", action="approved", reason="fine", **audit),
                ),
            ),
        ),
    )


def test_what_happened_is_told_in_its_order_and_once() -> None:
    known = a_story()
    row = known.told[0].promotion
    assert explain(a_policy(), known).text().splitlines() == [
        "churn:3 of dev is refused on endpoint churn of prod: no",
        "What to do: Again.",
        "In the source: registered 2026-03-04 12:00:00 by Ada; promote-to: prod",
        "Origin: notebook (its run is a job)",
        "What happened (UTC):",
        "  2026-03-04 12:00:00  registered in the source: by Ada",
        "  2026-03-04 12:01:00  event ModelRegistered: accepted: notebook",
        f"  2026-03-04 12:02:00  [{row.id}]  requested: by Ada: rule everything",
        f"  2026-03-04 12:04:00  [{row.id}]  approved: by Bob: fine",
        f"  2026-03-04 12:05:00  [{row.id}]  copy artifacts",
        f"  2026-03-04 12:06:00  [{row.id}]  register model: churn:3",
        f"  2026-03-04 12:09:00  [{row.id}]  refused: no",
        "Rules of the policy as it is now:",
        "  everything: decides",
    ]


@pytest.mark.parametrize("problem", [GONE, CLOSED, Transient("busy")])
def test_without_the_source_the_ledger_still_tells(problem: PromotionError) -> None:
    known = a_story()
    found = explained(problem=problem, events=known.events, told=known.told)
    assert found.answer == explain(a_policy(), known).answer
    assert found.in_source == f"it cannot be read: {problem}"
    assert [each.what for each in found.happened][:2] == ["event ModelRegistered", "requested"]


def test_nothing_at_all_is_said_plainly() -> None:
    found = explained(problem=GONE)
    assert found.happened == ()
    assert "Nothing is written down about it." in found.text()
