"""The promotion policy: every mistake is told by line and field; which rule decides; names of endpoints."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.origin import Origin
from core.policy import (
    Match,
    ModelFacts,
    Trigger,
    Verdict,
    could_concern,
    judge,
)
from core.policy_file import PolicyInvalid, PolicyProblem, load, parse
from core.stages import ENDPOINT_NAME, endpoint_name, seconds
from tests.unit.builders import DEV, POLICY, PROD, a_policy_with

REPOSITORY = Path(__file__).parents[2]


def problems(content: bytes) -> list[str]:
    with pytest.raises(PolicyInvalid) as caught:
        parse(content)
    return [str(problem) for problem in caught.value.problems]


# ----------------------------------------------------------------------------------------------------------------- load


def test_the_sample_is_valid() -> None:
    assert [rule.name for rule in load(REPOSITORY / "promotion.sample.yaml").policy.rules] == [
        "tagged-for-prod-as-batch",
        "tagged-for-prod",
    ]


def test_the_digest_is_that_of_the_file() -> None:
    assert parse(POLICY).digest == hashlib.sha256(POLICY).hexdigest()


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse(b"\xef\xbb\xbf" + POLICY).policy == parse(POLICY).policy


def test_anchors_and_merge_keys_are_understood() -> None:
    """Sections that repeat themselves are written once."""
    shared = a_policy_with(
        '      - target: prod\n        serve: realtime\n        endpoint: "{model}"\n        instance_count: 1\n',
        "      - &stage {target: prod, serve: realtime}\n      - <<: *stage\n        endpoint: second\n",
    )
    stages = parse(shared).policy.rules[0].stages
    assert [(stage.target, stage.endpoint) for stage in stages] == [("prod", "{model}"), ("prod", "second")]


def test_defaults_are_those_of_the_reference() -> None:
    stage = (
        parse(a_policy_with('        endpoint: "{model}"\n        instance_count: 1\n', "")).policy.rules[0].stages[0]
    )
    assert stage.model_dump() == {
        "target": "prod",
        "serve": "realtime",
        "endpoint": "{model}",
        "target_model_name": None,
        "instance_type": "Standard_DS3_v2",
        "instance_count": 1,
        "auth_mode": "key",
        "request_settings": None,
        "environment_variables": {},
        "verification": None,
        "rollout": {"steps": (), "bake": "10m", "soak": "0s", "analysis": None, "failed_deployment": "delete"},
        "adopt": False,
        "preflight": True,
        "deadlines": {"artifacts": "6h", "deploy": "60m", "smoke": "10m", "test": "2h", "park": "7d", "approval": "7d"},
        "approval": None,
        "gates": None,
        "freeze": (),
    }


COUNT = "        instance_count: 1\n"
TAG = "        promote-to: prod\n"
SOURCE = "      source: dev\n"
ENDPOINT = 'endpoint: "{model}"'


def stage_with(line: str) -> bytes:
    """The stage, with this in line 22 instead of the number of instances."""
    return a_policy_with(COUNT, f"        {line}\n")


def match_with(line: str) -> bytes:
    """The match, with this in line 15 instead of the source."""
    return a_policy_with(SOURCE, f"      {line}\n")


def tag_with(value: str) -> bytes:
    """The tag in line 17, with this value."""
    return a_policy_with(TAG, f"        promote-to: {value}\n")


QUOTES = "is no text for YAML; put it in quotes"
STAGE = "rules.0.stages.0"
TAGGED = "line 17: rules.0.match.tags.promote-to"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Names that nobody knows, and what is missing
        (
            stage_with("instance_cout: 2"),
            f"line 22: {STAGE}.instance_cout: unknown field; check its spelling against the policy reference",
        ),
        (
            POLICY + b"rule: []\n",
            "line 23: rule: unknown field; check its spelling against the policy reference",
        ),
        (a_policy_with("      - target: prod\n        serve", "      - serve"), f"line 19: {STAGE}.target: is required"),
        (a_policy_with("        serve: realtime\n", ""), f"line 19: {STAGE}: must say its 'serve'"),
        (a_policy_with("version: 1\n", ""), "line 1: version: is required"),
        (a_policy_with("      - target: prod", "      - target: prd"), f"line 19: {STAGE}.target: 'prd' is none of the targets"),
        (
            POLICY + b"      - {target: prod, serve: realtime}\n",
            "line 23: rules.0.stages.1.endpoint: stage 1 has the same endpoint in the same target",
        ),
        (match_with("source: dve"), "line 15: rules.0.match.source: 'dve' is none of the sources"),
        # Wrong types
        (stage_with("instance_count: two"), f"line 22: {STAGE}.instance_count: Input should be a valid integer"),
        (stage_with('instance_count: "2"'), f"line 22: {STAGE}.instance_count: Input should be a valid integer"),
        (stage_with("instance_count: 1.5"), f"line 22: {STAGE}.instance_count: Input should be a valid integer"),
        (stage_with("instance_count: 0"), f"line 22: {STAGE}.instance_count: Input should be greater than or equal to 1"),
        (stage_with("environment_variables: [a]"), f"line 22: {STAGE}.environment_variables: must hold fields of its own"),
        (stage_with("environment_variables: {A: 1}"), f"line 22: {STAGE}.environment_variables.A: {QUOTES}"),
        (stage_with("instance_type:"), f"line 22: {STAGE}.instance_type: is empty"),
        (stage_with("auth_mode: none"), f"line 22: {STAGE}.auth_mode: Input should be 'key', 'aml_token' or 'aad_token'"),
        (
            a_policy_with("serve: realtime", "serve: streaming"),
            f"line 19: {STAGE}: is 'streaming', none of 'realtime', 'batch'",
        ),
        (a_policy_with("version: 1", "version: 2"), "line 1: version: Input should be 1"),
        (POLICY.partition(b"rules:")[0] + b"rules:\n", "line 12: rules: must be a list"),
        (POLICY.partition(b"rules:")[0] + b"rules: []\n", "line 12: rules: must not be empty"),
        (POLICY.partition(b"rules:")[0] + b"rules:\n  - x\n", "line 13: rules.0: must hold fields of its own"),
        (a_policy_with("name: everything", "name: 7"), f"line 13: rules.0.name: {QUOTES}"),
        (match_with("origin: desinger"), "line 15: rules.0.match.origin.0: Input should be 'designer', 'notebook' or 'automl'"),
        (match_with("origin: [automl, x]"), "line 15: rules.0.match.origin.1: Input should be 'designer', 'notebook' or 'automl'"),
        (match_with("origin: []"), "line 15: rules.0.match.origin: must not be empty"),
        (match_with("trigger: model_registered"), "line 15: rules.0.match.trigger: must be a list"),
        (match_with("trigger: [tuesday]"), "line 15: rules.0.match.trigger.0: Input should be 'model_registered', 'run_completed', 'requested' or 'tagged'"),
        # Durations and endpoint names
        (
            stage_with("deadlines: {deploy: 1 hour}"),
            f"line 22: {STAGE}.deadlines.deploy: '1 hour' is no duration: write a number and s, m, h or d, such as 60m",
        ),
        (
            stage_with("deadlines: {deploy: 99999999999999d}"),
            f"line 22: {STAGE}.deadlines.deploy: '99999999999999d' is no duration: "
            "write a number and s, m, h or d, such as 60m",
        ),
        (
            a_policy_with(ENDPOINT, "endpoint: 1-churn"),
            f"line 21: {STAGE}.endpoint: '1-churn' is no valid endpoint name: "
            "3 to 32 letters, digits and hyphens, starting with a letter",
        ),
        (
            a_policy_with(ENDPOINT, 'endpoint: "{name}"'),
            f"line 21: {STAGE}.endpoint: unknown placeholder {{name}}: only {{model}} can be used in an endpoint name",
        ),
        # What YAML makes of plain words
        (tag_with("no"), f"{TAGGED}: {QUOTES}"),
        (tag_with("1.0"), f"{TAGGED}: {QUOTES}"),
        (tag_with("007"), f"{TAGGED}: {QUOTES}"),
        (tag_with("12:30:45"), f"{TAGGED}: {QUOTES}"),
        (tag_with("2026-03-04"), f"{TAGGED}: {QUOTES}"),
        (tag_with(""), f"{TAGGED}: is empty"),
        (tag_with("~"), f"{TAGGED}: is empty"),
        (tag_with("{a: b}"), f"{TAGGED}: {QUOTES}"),
        (
            tag_with("2026-13-01"),
            f"{TAGGED}: cannot be read (month must be in 1..12); put it in quotes if it is meant as text",
        ),
        (
            tag_with("!secret x"),
            f"{TAGGED}: cannot be read (could not determine a constructor for the tag '!secret'); "
            "put it in quotes if it is meant as text",
        ),
        (stage_with("instance_count: yes"), f"line 22: {STAGE}.instance_count: Input should be a valid integer"),
        (stage_with("deadlines: {deploy: 60}"), f"line 22: {STAGE}.deadlines.deploy: {QUOTES}"),
        # Keys that stand twice
        (stage_with("serve: realtime"), f"line 22: {STAGE}.serve: stands here twice"),
        (POLICY + b"version: 1\n", "line 23: version: stands here twice"),
        (match_with("tags: {a: b}"), "line 16: rules.0.match.tags: stands here twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_line_and_field(content: bytes, expected: str) -> None:
    assert problems(content) == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file: must hold version, sources, targets and rules; it is empty"),
        (b"# only a comment\n", "the file: must hold version, sources, targets and rules; it is empty"),
        (b"- version: 1\n", "line 1: must hold fields of its own"),
        (b"promotion\n", "line 1: must hold fields of its own"),
        (b"version: 1\n\tsources: {}\n", "line 2: not YAML: found character '\\t' that cannot start any token"),
        (b"version: 1\nsources: {dev: {\n", "line 3: not YAML: expected the node content, but found '<stream end>'"),
        (b"version: *nobody\n", "line 1: not YAML: found undefined alias 'nobody'"),
        (POLICY + b"---\nversion: 1\n", "line 23: not YAML: but found another document"),
        ("version: é\n".encode("latin-1"), "the file: not UTF-8: 'utf-8' codec can't decode byte 0xe9 in position 9"),
        (POLICY.decode().encode("utf-16"), "the file: not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0"),
        (b"version: &self [*self]\n", "the file: is nested too deeply, or refers to itself"),
        (b"version: \x00\n", "the file: not YAML: unacceptable character #x0000"),
    ],
)
def test_a_file_that_is_no_policy_at_all_says_what_it_is(content: bytes, expected: str) -> None:
    (problem,) = problems(content)
    assert problem[: len(expected)] == expected


def test_all_mistakes_are_told_at_once() -> None:
    content = a_policy_with(COUNT, "        instance_count: none\n        nonsense: 1\n")
    content = content.replace(b"workspace: ml-prod", b"workspace:").replace(b"version: 1", b"version: 3")
    assert problems(content) == [
        "line 1: version: Input should be 1",
        "line 11: targets.prod.workspace: is empty",
        f"line 22: {STAGE}.instance_count: Input should be a valid integer",
        f"line 23: {STAGE}.nonsense: unknown field; check its spelling against the policy reference",
    ]


SECOND_SOURCE = """\
  "{name}":
    subscription_id: 11111111-1111-4111-8111-111111111111
    resource_group: RG-ML-Dev
    workspace: ml-dev
targets:
"""


@pytest.mark.parametrize("name", ["other", "a.b", "a; b: c"])
def test_one_workspace_under_two_names_is_a_mistake_of_the_second(name: str) -> None:
    """However it is spelled: resource names have no case."""
    content = a_policy_with("targets:\n", SECOND_SOURCE.replace("{name}", name))
    assert problems(content) == [f"line 7: sources.{name}: the same workspace as 'dev'; name each workspace once"]


def test_a_workspace_may_be_source_and_target() -> None:
    """Somebody's target is somebody else's source."""
    content = a_policy_with("    workspace: ml-prod\n", "    workspace: ml-prod\n  dev: *dev\n")
    assert set(parse(content.replace(b"  dev:\n", b"  dev: &dev\n", 1)).policy.targets) == {"dev", "prod"}


def test_two_rules_of_one_name_are_a_mistake_of_the_second() -> None:
    """Ids of promotions are made from the rule's name."""
    rule = "  - name: everything\n    stages: [{target: prod, serve: realtime}]\n"
    assert problems(POLICY + rule.encode()) == [
        "line 23: rules.1.name: 'everything' is the name of another rule already"
    ]


def test_a_problem_without_line_still_reads_well() -> None:
    assert str(PolicyProblem(line=None, field="rules", message="is required")) == "the file: rules: is required"


def test_the_error_names_the_file_and_every_problem() -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse(b"version: 1\n", name="other.yaml")
    assert str(caught.value) == (
        "other.yaml is not a valid promotion policy:\n"
        "  line 1: sources: is required\n"
        "  line 1: targets: is required\n"
        "  line 1: rules: is required"
    )


@given(st.binary(max_size=60) | st.text(alphabet="abc:-[]{}&*!#'\"\n 01\t<>|%@", max_size=60).map(str.encode))
@example(b"? [a]\n: b\n")
@example(b"<<: 1\n")
@example(b"!!python/object:os.system {}\n")
@example(b"a: 0b_\n")
def test_no_file_whatsoever_makes_the_reader_crash(content: bytes) -> None:
    with pytest.raises(PolicyInvalid):
        parse(content)


def test_a_policy_knows_its_sources_however_they_are_spelled() -> None:
    policy = parse(POLICY).policy
    shouted = DEV.model_copy(update={"resource_group": "RG-ML-DEV"})
    assert [policy.source_name(workspace) for workspace in (DEV, shouted, PROD)] == ["dev", "dev", None]


@pytest.mark.parametrize(
    ("text", "expected"), [("0s", 0), ("90s", 90), ("60m", 3600), ("6 h", 21_600), ("7d", 604_800)]
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "60", "60M", "1h30m", "-1h", "1.5h", "٣m", "9999999999d", "60m\n"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


# ---------------------------------------------------------------------------------------------------------------- match


def facts(**changes: Any) -> ModelFacts:
    values = {"source": "dev", "name": "churn-eu", "origin": Origin.AUTOML, "tags": {"promote-to": "prod", "team": "x"}}
    return ModelFacts.model_validate(values | {"trigger": Trigger.MODEL_REGISTERED} | changes)


def verdict(match: dict[str, Any], **changes: Any) -> str:
    """Why a rule that matches so does not apply; empty if it does."""
    rule = {"name": "r", "match": match, "stages": [{"target": "prod", "serve": "realtime"}]}
    workspace = DEV.model_dump()
    policy = {"version": 1, "sources": {"dev": workspace}, "targets": {"prod": workspace}, "rules": [rule]}
    content = re.sub("'", '"', str(policy)).encode()
    _, (found,) = judge(parse(content).policy, facts(**changes))
    assert found.matches == (found.why == "")
    return found.why


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, ""),
        ({"source": "dev"}, ""),
        ({"model": "churn-*"}, ""),
        ({"model": "churn-[ef]?"}, ""),
        ({"model": "Churn-*"}, "model 'churn-eu' does not match 'Churn-*'"),
        ({"model": "churn"}, "model 'churn-eu' does not match 'churn'"),
        ({"origin": "automl"}, ""),
        ({"origin": ["designer", "automl"]}, ""),
        ({"origin": "designer"}, "origin automl is not designer"),
        ({"origin": ["designer", "notebook"]}, "origin automl is not designer or notebook"),
        ({"tags": {"promote-to": "prod"}}, ""),
        ({"tags": {"promote-to": "p*"}}, ""),
        ({"tags": {"promote-to": "*", "team": "x"}}, ""),
        ({"tags": {"promote-to": "test"}}, "tag promote-to is 'prod', not 'test'"),
        ({"tags": {"promote-to": "Prod"}}, "tag promote-to is 'prod', not 'Prod'"),
        ({"tags": {"Promote-To": "prod"}}, "tag Promote-To is missing"),
        ({"tags": {"stage": "*"}}, "tag stage is missing"),
        ({"trigger": ["model_registered"]}, ""),
        ({"model": "nothing", "origin": "designer"}, "model 'churn-eu' does not match 'nothing'"),
    ],
)
def test_a_rule_applies_where_everything_holds_that_it_asks_for(match: dict[str, Any], expected: str) -> None:
    assert verdict(match) == expected


def test_a_rule_for_another_source_does_not_apply() -> None:
    assert verdict({"source": "dev"}, source="lab") == "source lab is not dev"


def test_an_origin_that_is_not_known_yet_speaks_against_no_rule() -> None:
    assert verdict({"origin": "designer"}, origin=None) == ""


THREE_RULES = POLICY.partition(b"rules:")[0] + (
    b"rules:\n"
    b"  - {name: a, match: {model: other}, stages: [{target: prod, serve: realtime}]}\n"
    b"  - {name: b, match: {tags: {promote-to: prod}}, stages: [{target: prod, serve: realtime}]}\n"
    b"  - {name: c, stages: [{target: prod, serve: realtime}]}\n"
)


def test_the_first_rule_that_applies_decides() -> None:
    rule, verdicts = judge(parse(THREE_RULES).policy, facts())
    assert rule is not None
    assert (rule.name, verdicts) == (
        "b",
        (
            Verdict(rule="a", matches=False, why="model 'churn-eu' does not match 'other'"),
            Verdict(rule="b", matches=True),
        ),
    )


def test_where_no_rule_applies_each_says_why() -> None:
    rule, verdicts = judge(parse(POLICY).policy, facts(tags={}))
    assert (rule, verdicts) == (None, (Verdict(rule="everything", matches=False, why="tag promote-to is missing"),))


@pytest.mark.parametrize(
    ("source", "model", "expected"), [("dev", "churn", True), ("lab", "churn", False), ("dev", "other", True)]
)
def test_what_no_rule_could_want_is_not_even_read(source: str, model: str, expected: bool) -> None:
    """Tags and origin cost requests; name and source stand in the event."""
    assert could_concern(parse(POLICY).policy, source, model, Trigger.MODEL_REGISTERED) is expected


@given(st.text(max_size=8), st.sampled_from(["*", "a*", "[ab]", "?", ""]))
def test_what_a_rule_matches_could_always_concern(name: str, glob: str) -> None:
    """The free filter before the reading never loses a model."""
    policy = parse(THREE_RULES).policy
    rule = policy.rules[0].model_copy(update={"match": Match(model=glob)})
    only = policy.model_copy(update={"rules": (rule,)})
    matched, _ = judge(only, facts(name=name))
    assert could_concern(only, "dev", name, Trigger.MODEL_REGISTERED) == (matched is not None)


# ------------------------------------------------------------------------------------------------------ endpoint names


@pytest.mark.parametrize(
    ("template", "model", "expected"),
    [
        ("{model}", "churn", "churn"),
        ("{model}", "churn-2026", "churn-2026"),
        ("{model}-prod", "churn", "churn-prod"),
        ("shared", "churn", "shared"),
        ("Shared", "churn", "shared"),
        ("a--b", "churn", "a--b"),
        ("{model}", "Churn", "churn-2b58f5"),
        ("{model}", "churn_eu", "churn-eu-25459a"),
        ("{model}", "churn.eu", "churn-eu-64c0c1"),
        ("{model}", "2026-churn", "m-2026-churn-69c7a9"),
        ("{model}", "a", "a-ca9781"),
        ("{model}", "a" * 32, "a" * 32),
        ("{model}", "a" * 33, "a" * 25 + "-852785"),
    ],
)
def test_endpoint_names(template: str, model: str, expected: str) -> None:
    """A name is kept where it can be: else it ends in a hash of what it was made from."""
    assert endpoint_name(template, model) == expected


_MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", fullmatch=True)
_TEMPLATES = st.sampled_from(
    ["{model}", "{model}-prod", "ml-{model}", "{model}-and-{model}", "{model}-" + "x" * 40, "1{model}"]
)


@given(_TEMPLATES, _MODELS)
def test_endpoint_names_are_always_valid(template: str, model: str) -> None:
    name = endpoint_name(template, model)
    assert (ENDPOINT_NAME.fullmatch(name) is not None, name) == (True, name.lower())


@given(_TEMPLATES, _MODELS, _MODELS)
@example("{model}", "Churn", "churn")
@example("{model}", "churn.eu", "churn-eu")
@example("{model}", "churn_eu", "churn.eu")
@example("{model}", "a" * 40 + "b", "a" * 40 + "c")
def test_two_models_never_share_an_endpoint_by_accident(template: str, one: str, other: str) -> None:
    assert (endpoint_name(template, one) == endpoint_name(template, other)) == (one == other)
