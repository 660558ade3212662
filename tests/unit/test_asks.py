"""What tags ask for, and what of it the policy allows; what a status tag says."""

import pytest

from core import asks, status_tags
from core.errors import Reason, Refusal
from core.events import written_model
from core.ledger import Promotion, State
from core.policy import Policy
from core.policy_file import parse
from tests.unit.builders import DEV, NOON, a_batch_command, a_command

POLICY: Policy = parse(
    b"""\
version: 1
sources: {dev: {subscription_id: "1", resource_group: r, workspace: dev}}
targets:
  test: {subscription_id: "1", resource_group: r, workspace: test}
  prod: {subscription_id: "1", resource_group: r, workspace: prod}
rules:
  - name: only-registered
    match: {trigger: [model_registered]}
    stages: [{target: prod, serve: realtime}]
  - name: both
    stages:
      - {target: test, serve: realtime}
      - {target: prod, serve: realtime}
  - name: batch
    stages:
      - target: prod
        serve: batch
        compute: c
        input: azureml://datastores/a/paths/in/
        output: azureml://datastores/a/paths/out/
"""
).policy


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, ""),
        ({"promote-to": " "}, ""),
        ({"promote-as": "batch"}, ""),
        ({"promote-to": "prod"}, "prod|"),
        ({"Promote-To": " prod "}, "prod|"),
        ({"promote-to": "prod", "promote-as": "Batch"}, "prod|batch"),
        ({"promote-to": "prod", "other": "x"}, "prod|"),
    ],
)
def test_an_ask_changes_only_with_its_words(tags: dict[str, str], expected: str) -> None:
    assert asks.text_of(tags) == expected


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("prod|", {"both": 2, "batch": 1}),
        ("PROD|realtime", {"both": 2}),
        ("prod|batch", {"batch": 1}),
        ("test|", {"both": 1}),
        ("test|batch", {}),
    ],
)
def test_the_policy_has_the_path_up_to_what_is_asked_for(text: str, rules: dict[str, int]) -> None:
    """A rule that does not let tags ask is none of them."""
    found = asks.allowed(POLICY, asks.read(text, POLICY))
    assert {rule.name: len(rule.stages) for rule in found.rules} == rules


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("prod|", 1, True),
        ("Test|realtime", 1, True),
        ("prod|batch", 1, False),
        ("prod|batch", 2, True),
        ("test|", 2, False),
        ("", 1, False),
        ("none|", 1, False),
    ],
)
def test_a_promotion_fulfils_an_ask_that_it_leads_to(text: str, rule: int, expected: bool) -> None:
    assert asks.is_fulfilled(text, POLICY.rules[rule]) is expected


def test_none_asks_for_the_roll_back() -> None:
    assert asks.read("None|", POLICY).target is None


@pytest.mark.parametrize(
    ("text", "words"), [("moon|", "targets (test, prod)"), ("prod|stream", "not realtime or batch")]
)
def test_words_that_mean_nothing_are_refused(text: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        asks.read(text, POLICY)
    assert caught.value.reason is Reason.TAG_NOT_UNDERSTOOD
    assert words in str(caught.value)


WRITE = f"{DEV.arm_id}/models/churn/versions/3"


@pytest.mark.parametrize(
    ("envelope", "found"),
    [
        ({"subject": WRITE}, ("churn", "3")),
        ({"subject": "x", "data": {"resourceUri": WRITE}}, ("churn", "3")),
        ({"subject": WRITE.replace("/models/", "/MODELS/")}, ("churn", "3")),
        ({"subject": f"{DEV.arm_id}/models/churn"}, None),
        ({"subject": f"{DEV.arm_id}/environments/churn/versions/3"}, None),
        ({"subject": f"{DEV.arm_id}/models/ch%2Furn/versions/3"}, None),
        ({"subject": WRITE + "/more"}, None),
        ({"data": {"resourceUri": 7}}, None),
        ({}, None),
    ],
)
def test_a_write_of_a_model_version_is_told_from_all_others(
    envelope: dict[str, object], found: tuple[str, str] | None
) -> None:
    written = written_model(envelope)
    assert (written and (written.model, written.version)) == found
    assert written is None or written.source.key == DEV.key


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "in progress"),
        ({"state": State.WAITING, "why": "deployment v3 is being created"}, "in progress"),
        ({"state": State.PARKED, "reason": Reason.APPROVAL_WANTED}, "waiting for approval"),
        ({"state": State.PARKED, "reason": Reason.ON_HOLD}, "waiting: the endpoint is on hold"),
        ({"state": State.PARKED, "reason": Reason.PERMISSION_MISSING, "why": "no role"}, "waiting: no role"),
        ({"state": State.SUCCEEDED}, "live at 100 %"),
        ({"state": State.REFUSED, "why": "x" * 900}, "refused: " + "x" * 247),
        ({"state": State.ROLLED_BACK}, "rolled back"),
        ({"state": State.RETIRED}, "retired"),
    ],
)
def test_a_status_tag_says_where_it_stands(changes: dict[str, object], expected: str) -> None:
    row = Promotion.requested(a_command(), now=NOON).model_copy(update=changes)
    assert status_tags.text_of(row) == expected
    assert len(status_tags.text_of(row)) <= 256


def test_a_batch_promotion_is_live_without_traffic() -> None:
    row = Promotion.requested(a_batch_command(), now=NOON).model_copy(update={"state": State.SUCCEEDED})
    assert status_tags.text_of(row) == "live"
