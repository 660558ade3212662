"""The contracts in docs/contracts against the code: schemas, states, reasons, tags, fields and examples."""

import json
import re
import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from core import asks, tags
from core.adapters import ledger_storage
from core.commands import MESSAGE_LIMIT, EndpointCommand, Order, PromoteModel, Verb, decode
from core.errors import Reason
from core.explain import Explanation
from core.freeze import Freeze
from core.ledger import AuditRecord, EventOutcome, EventRecord, Promotion, State, StepRecord
from core.origin import OVERRIDE_TAG
from core.plan import Plan, What
from core.policy import EnvironmentFile, Match, Policy, Rule, Scoring, SourceWorkspace, TargetWorkspace
from core.policy_check import LOOKED_AT, MISTAKES, Checked
from core.policy_file import VALUE_LIMIT, parse
from core.quality import Gates, MetricGate
from core.schedules import CronTrigger, JobSchedule, RecurrenceTrigger
from core.stages import Analysis, BatchStage, RealtimeStage, Rollout, Verification
from functions.http import DEFAULT_LIMIT, LARGEST_LIMIT
from tests.unit.builders import NOON, POLICY, PROD, a_batch_command, a_batch_stage, a_command

REPOSITORY = Path(__file__).parents[2]
CONTRACTS = REPOSITORY / "docs" / "contracts"
SCHEMAS = CONTRACTS / "schemas"
GENERATOR = runpy.run_path(str(CONTRACTS / "generate.py"))
GENERATED: dict[str, str] = GENERATOR["schemas"]()


def document(name: str) -> str:
    return (CONTRACTS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The text below a heading, down to the next one of its level."""
    _, found, below = document(name).partition(f"\n## {heading}\n")
    assert found, f"{name} has no heading {heading!r}"
    return below.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of all tables in a text, without heads and rules; `\\|` is no border."""
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    heads = [index - 1 for index, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for index, row in enumerate(cells) if index not in heads and index - 1 not in heads]


def names(text: str) -> list[str]:
    """What stands in backticks in the first column of the tables."""
    return [name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


def examples(name: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", document(name), re.DOTALL)]


def mistakes(schema: str, value: Any) -> list[str]:
    validator = Draft202012Validator(json.loads((SCHEMAS / schema).read_text(encoding="utf-8")))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


# -------------------------------------------------------------------------------------------------------------- schemas


@pytest.mark.parametrize("name", GENERATED)
def test_a_schema_is_what_its_model_says(name: str) -> None:
    """If not: `python docs/contracts/generate.py`, and look at what changed for those who rely on it."""
    assert (SCHEMAS / name).read_text(encoding="utf-8") == GENERATED[name]


def test_the_reference_of_the_policy_is_what_its_models_say() -> None:
    assert GENERATOR["REFERENCE"].read_text(encoding="utf-8") == GENERATOR["reference"]()


def test_every_field_of_the_policy_has_its_row_in_the_reference_with_its_meaning() -> None:
    text = GENERATOR["reference"]()
    schema = Policy.model_json_schema()
    models = {"Policy": schema} | {name: each for name, each in schema["$defs"].items() if "properties" in each}
    told = {
        name: {row[0].strip("`"): row[4] for row in rows(text.partition(f"\n## {name}\n")[2].partition("\n## ")[0])}
        for name in models
    }
    assert {name: [*fields] for name, fields in told.items()} == {
        name: [*each["properties"]] for name, each in models.items()
    }
    assert all(meaning for fields in told.values() for meaning in fields.values())


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("request_timeout_ms", ["integer", "`5000`", "1 to 180000"]),
        ("overlap_timeout", ["duration", "`24h`", ""]),
        ("retry_settings", ["[RetrySettings](#retrysettings)", "its defaults", ""]),
        ("compute", ["text", "required", "not empty"]),
        ("month_days", ["list of integer", "none", "not empty; 1 to 31"]),
    ],
)
def test_a_row_of_the_reference_has_type_default_and_bounds(row: str, cells: list[str]) -> None:
    (found,) = [each for each in rows(GENERATOR["reference"]()) if each[0] == f"`{row}`"]
    assert found[1:4] == cells


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {*GENERATED, "report.json", "endpoints.json"}


@pytest.mark.parametrize("path", sorted(SCHEMAS.iterdir()), ids=lambda path: path.name)
def test_a_schema_is_one(path: Path) -> None:
    Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


PROMOTION = Promotion.requested(a_command(), now=NOON, evidence="files")
STEP = StepRecord(promotion_id=PROMOTION.id, hop=0, number=0, step="create endpoint", at=NOON)
AN_ENDPOINT_COMMAND = EndpointCommand(
    order=Order(id="1", verb=Verb.HOLD, by="Operator", at=NOON),
    target_name="prod",
    target=PROD,
    serve="realtime",
    endpoint="churn",
)
EVENT = EventRecord(
    event_id="1", event_type="t", source="s", subject="models/a:1", outcome=EventOutcome.ACCEPTED, received_at=NOON
)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("policy.json", yaml.safe_load(POLICY)),
        ("policy.json", yaml.safe_load((REPOSITORY / "promotion.sample.yaml").read_text(encoding="utf-8"))),
        ("policy.json", yaml.safe_load((REPOSITORY / "tests" / "promotion.yaml").read_text(encoding="utf-8"))),
        ("command.json", json.loads(a_command().encode())),
        ("promotion.json", PROMOTION.model_dump(mode="json")),
        ("step.json", STEP.model_dump(mode="json")),
        ("word.json", json.loads(AN_ENDPOINT_COMMAND.encode())),
        ("audit.json", AuditRecord.requested(PROMOTION).model_dump(mode="json")),
        ("event.json", EVENT.model_dump(mode="json")),
    ],
)
def test_what_exists_follows_its_schema(schema: str, value: Any) -> None:
    assert mistakes(schema, value) == []


@pytest.mark.parametrize(
    ("schema", "value"),
    [("commands.md", "command.json"), ("ledger.md", "promotion.json"), ("report.md", "report.json"), ("endpoints.md", "endpoints.json")],
)  # fmt: skip
def test_an_example_follows_its_schema(schema: str, value: str) -> None:
    (example,) = examples(schema)
    assert mistakes(value, example) == []


REPORT = json.loads(re.findall(r"```json\n(.*?)```", document("report.md"), re.DOTALL)[0])[0]
ENDPOINTS = json.loads(re.findall(r"```json\n(.*?)```", document("endpoints.md"), re.DOTALL)[0])


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        *[("report.json", [{key: REPORT[key] for key in REPORT if key != missing}]) for missing in REPORT],
        ("report.json", [REPORT | {"extra": 1}]),
        ("report.json", [REPORT | {"origin": "magic"}]),
        ("report.json", [REPORT | {"state": "refused"}]),
        ("report.json", REPORT),
        *[("endpoints.json", {key: ENDPOINTS[key] for key in ENDPOINTS if key != missing}) for missing in ENDPOINTS],
        ("endpoints.json", ENDPOINTS | {"extra": 1}),
        ("endpoints.json", ENDPOINTS | {"https_proxy": "http://0.0.0.0:1"}),
        (
            "endpoints.json",
            ENDPOINTS | {"service_bus_connection_string": "Endpoint=sb://real.servicebus.windows.net/;"},
        ),
        ("endpoints.json", ENDPOINTS | {"targets": {}}),
        ("endpoints.json", ENDPOINTS | {"source": {"workspace": "ml-dev"}}),
    ],
)
def test_a_schema_by_hand_refuses_what_is_not_in_the_contract(schema: str, value: Any) -> None:
    assert mistakes(schema, value) != []


def test_the_states_of_a_report_are_those_of_promotions_and_events() -> None:
    known = json.loads((SCHEMAS / "report.json").read_text())["items"]["properties"]["state"]["enum"]
    assert set(known) == {*map(str, State), *map(str, EventOutcome), "still running"}


# ------------------------------------------------------------------------------------------------------------ documents


def test_every_state_is_described() -> None:
    assert names(section("promotions.md", "States")) == [*State]


def test_final_states_are_those_at_the_end() -> None:
    final = [row[0].strip("`") for row in rows(section("promotions.md", "States")) if not row[2]]
    assert final == [state for state in State if state.is_final]


def test_every_reason_is_described() -> None:
    assert sorted(names(section("promotions.md", "Reasons"))) == sorted(Reason)


def test_the_outcomes_and_states_of_reasons_exist() -> None:
    outcomes = {row[1] for row in rows(section("promotions.md", "Reasons"))}
    assert outcomes <= {*State, *EventOutcome}


def test_every_tag_is_described() -> None:
    named = {value for name, value in vars(tags).items() if name.isupper() and isinstance(value, str)}
    written = named - {tags.ENABLED, tags.PAUSED}
    assert set(names(section("tags.md", "Written in targets"))) == written
    assert names(section("tags.md", "Read in sources")) == [OVERRIDE_TAG, asks.PROMOTE_TO, asks.PROMOTE_AS]


@pytest.mark.parametrize(
    ("column", "written"),
    [
        (1, {*tags.provenance(a_command())}),
        (2, {*tags.claim(a_command()), tags.STABLE, tags.VERIFIED, tags.PREVIOUS, tags.ROLLOUT, tags.FAILED_ROLLOUT}),
        (3, {*tags.deployment(a_command())}),
        (4, {*tags.schedule(a_batch_command(), a_batch_stage())}),
    ],
    ids=["model", "endpoint", "deployment", "schedule"],
)
def test_tags_are_described_where_they_are_written(column: int, written: set[str]) -> None:
    described = {row[0].strip("`") for row in rows(section("tags.md", "Written in targets")) if row[column] == "yes"}
    assert described == written


class Common(BaseModel):
    """The fields that all stages have."""

    target: str
    serve: str
    endpoint: str
    target_model_name: str
    adopt: bool
    preflight: bool
    approval: str
    gates: str
    freeze: str
    deadlines: str


class Triggers(CronTrigger, RecurrenceTrigger):
    """The fields of both triggers."""


@pytest.mark.parametrize(
    ("heading", "model", "prefix"),
    [
        ("The file", Policy, ""),
        ("A source", SourceWorkspace, ""),
        ("A target", TargetWorkspace, ""),
        ("Gates", Gates, ""),
        ("A metric", MetricGate, ""),
        ("A freeze window", Freeze, ""),
        ("A rule", Rule, ""),
        ("A rule", Match, "match."),
        ("A scoring script", Scoring, ""),
        ("A scoring script", EnvironmentFile, "environment."),
        ("Every stage", Common, ""),
        ("A real-time stage", RealtimeStage, ""),
        ("A verification", Verification, ""),
        ("A rollout", Rollout, ""),
        ("A rollout", Analysis, "analysis."),
        ("A batch stage", BatchStage, ""),
        ("A schedule", JobSchedule, ""),
        ("A schedule", Triggers, "trigger."),
    ],
)
def test_every_field_of_the_policy_is_described(heading: str, model: type[BaseModel], prefix: str) -> None:
    described = {name for row in rows(section("policy.md", heading)) for name in re.findall(r"`([a-z_.]+)`", row[0])}
    nested = set() if prefix else {"match", "environment", "trigger"}
    nested |= {*Common.model_fields} if issubclass(model, RealtimeStage | BatchStage) else set()
    fields = {f"{prefix}{name}" for name in model.model_fields if name not in nested}
    assert {name for name in described if ("." in name) == bool(prefix)} == fields


@pytest.mark.parametrize("name", ["endpoint", "target_model_name", "instance_type", "instance_count", "auth_mode"])
def test_defaults_of_a_stage_are_as_described(name: str) -> None:
    text = section("policy.md", "Every stage") + section("policy.md", "A real-time stage")
    (described,) = [row[1].strip("`") for row in rows(text) if row[0] == f"`{name}`"]
    default = RealtimeStage.model_fields[name].default
    assert described == ("the source's" if default is None else str(default))


def test_the_example_of_a_policy_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", document("policy.md"), re.DOTALL)
    assert [rule.name for rule in parse(example.encode()).policy.rules] == ["tagged-for-prod"]


def test_the_example_of_gates_and_freezes_is_a_policy() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (CONTRACTS.parent / "gates.md").read_text(), re.DOTALL)
    policy = parse(POLICY.partition(b"targets:")[0] + example.encode()).policy
    (rule,) = policy.rules
    assert rule.gates is not None
    assert (rule.gates.maximum_age, rule.stages[1].gates is not None) == ("30d", True)
    assert [freeze.start for freeze in policy.targets["prod"].freeze] == ["friday 16:00", "2026-12-18"]


def test_the_example_of_a_command_is_one() -> None:
    (example,) = examples("commands.md")
    assert decode(json.dumps(example).encode()).message_id == "churn-3-85a7c13200-1:4"


def test_the_fields_of_a_command_that_are_described_exist() -> None:
    described = set(names(document("commands.md").partition("```\n\n")[2]))
    assert described - PromoteModel.model_fields.keys() == set()


def test_the_largest_message_is_as_described() -> None:
    assert f"at most {MESSAGE_LIMIT} bytes" in document("commands.md")


def test_the_places_of_the_ledger_are_as_described() -> None:
    places = [
        name for row in rows(document("ledger.md")) for name in re.findall(r"(?:table|container) `([^`]+)`", row[0])
    ]
    written = {"PROMOTIONS", "EVENTS", "ENDPOINTS", "MEMOS", "DOCUMENTS"}
    assert {*places} == {getattr(ledger_storage, name) for name in written}
    found = json.loads((SCHEMAS / "endpoints.json").read_text())["properties"]["ledger"]["properties"]
    assert [found[key]["const"] for key in ("promotions_table", "events_table", "documents_container")] == [
        ledger_storage.PROMOTIONS,
        ledger_storage.EVENTS,
        ledger_storage.DOCUMENTS,
    ]


# The sections of http.md, and the module whose routes each has; a module that is not there yet has none.
SECTIONS = {
    "Promotions": "operations",
    "Endpoints": "operations",
    "Everything": "operations",
    "Failed work": "failed",
    "Explain and plan": "insight",
    "Reconcile": "reconcile",
}


def test_the_routes_are_as_described() -> None:
    there = [heading for heading, module in SECTIONS.items() if (REPOSITORY / "functions" / f"{module}.py").is_file()]
    described = [name.partition("[")[0] for heading in there for name in names(section("http.md", heading))]
    registered = [
        f"{operation.method} /api/{re.sub(r':[a-z]+', '', operation.route)}"
        for module in GENERATOR["function_app"]()["API"]
        for operation in module.operations
    ]
    assert sorted(described) == sorted(registered)


def test_the_limits_of_a_list_are_as_described() -> None:
    sentence = f"`limit` is {DEFAULT_LIMIT} unless given, and {LARGEST_LIMIT} at most"
    assert sentence in " ".join(document("http.md").split())


@pytest.mark.parametrize(
    ("heading", "model"), [("Plan", Plan), ("Explanation", Explanation), ("Policy check", Checked)]
)
def test_the_fields_of_an_insight_are_described(heading: str, model: type[BaseModel]) -> None:
    described = {name for name in names(section("insight.md", heading)) if name not in get_args(What)}
    assert described == set(model.model_fields)


def test_the_outcomes_of_a_plan_and_the_limits_of_a_check_are_described() -> None:
    text = " ".join(document("insight.md").split())
    assert set(get_args(What)) <= set(names(section("insight.md", "Plan")))
    assert f"The tags of the {LOOKED_AT} that were seen last are read." in text
    assert f"at most {MISTAKES}, each" in text
    assert f"stands for {VALUE_LIMIT} values at most" in text


def test_the_fields_of_a_report_are_described() -> None:
    assert names(document("report.md")) == list(REPORT)


def test_the_keys_of_endpoints_are_described() -> None:
    assert set(names(section("control-api.md", "endpoints.json"))) == set(ENDPOINTS)


def test_every_link_between_the_contracts_leads_somewhere() -> None:
    """Files are named as seen from docs/contracts."""
    mentioned = {
        name for path in CONTRACTS.glob("*.md") for name in re.findall(r"`([a-z/-]+\.(?:md|json))`", path.read_text())
    }
    own = {name for name in mentioned if name.startswith("schemas/") or name.endswith(".md")}
    assert {name for name in own if not (CONTRACTS / name).is_file()} == set()
