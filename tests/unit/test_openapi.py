"""The OpenAPI document: of the routes that are registered, valid, and the one in docs/contracts."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

REPOSITORY = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(REPOSITORY / "docs" / "contracts" / "generate.py"))
TEXT: str = GENERATOR["api"]()
DOCUMENT: dict[str, Any] = json.loads(TEXT)
OPERATIONS = [
    (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]  # fmt: skip

# What OpenAPI 3.1 demands of the parts that are used here; its schemas are JSON Schema 2020-12 as they are.
SCHEMA = {"type": ["object", "boolean"]}
CONTENT = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["schema"],
        "properties": {"schema": SCHEMA},
        "additionalProperties": False,
    },
}
PARAMETER = {
    "type": "object",
    "required": ["name", "in", "schema"],
    "properties": {
        "name": {"type": "string"},
        "in": {"enum": ["path", "query", "header"]},
        "required": {"type": "boolean"},
        "description": {"type": "string"},
        "schema": SCHEMA,
    },
    "additionalProperties": False,
    "if": {"properties": {"in": {"const": "path"}}},
    "then": {"required": ["required"], "properties": {"required": {"const": True}}},
}
RESPONSES = {
    "type": "object",
    "minProperties": 1,
    "patternProperties": {
        "^([1-5][0-9]{2}|default)$": {
            "type": "object",
            "required": ["description"],
            "properties": {"description": {"type": "string"}, "content": CONTENT},
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
OPERATION = {
    "type": "object",
    "required": ["operationId", "responses"],
    "properties": {
        "operationId": {"type": "string", "pattern": "^[a-z_]+$"},
        "summary": {"type": "string", "pattern": r"^[A-Z].*\.$"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "parameters": {"type": "array", "items": PARAMETER},
        "requestBody": {
            "type": "object",
            "required": ["content"],
            "properties": {"content": CONTENT, "required": {"type": "boolean"}},
            "additionalProperties": False,
        },
        "responses": RESPONSES,
    },
    "additionalProperties": False,
}
OPENAPI = {
    "type": "object",
    "required": ["openapi", "info", "paths"],
    "properties": {
        "openapi": {"type": "string", "pattern": r"^3\.1\.\d+$"},
        "info": {
            "type": "object",
            "required": ["title", "version"],
            "properties": {name: {"type": "string"} for name in ("title", "version", "description")},
            "additionalProperties": False,
        },
        "servers": {"type": "array", "items": {"type": "object", "required": ["url"]}},
        "security": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "array"}}},
        "paths": {
            "type": "object",
            "patternProperties": {
                "^/": {
                    "type": "object",
                    "properties": dict.fromkeys(("get", "post"), OPERATION),
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
        "components": {
            "type": "object",
            "properties": {
                "schemas": {"type": "object", "additionalProperties": SCHEMA},
                "securitySchemes": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["type"],
                        "properties": {"type": {"enum": ["apiKey", "http", "oauth2", "openIdConnect"]}},
                    },
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def inside(value: Any, key: str) -> list[Any]:
    """What stands under this key, anywhere in a value."""
    if isinstance(value, list):
        return [found for each in value for found in inside(each, key)]
    if not isinstance(value, dict):
        return []
    return ([value[key]] if key in value else []) + [found for each in value.values() for found in inside(each, key)]


def test_the_document_is_openapi() -> None:
    assert [error.message for error in Draft202012Validator(OPENAPI).iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("openapi",), "2.0"),
        (("info", "version"), 1),
        (("paths", "promotions"), {}),
        (("paths", "/promotions", "put"), {}),
        (("paths", "/promotions", "get", "responses"), {}),
        (("paths", "/promotions", "get", "parameters", 0, "in"), "body"),
        (("paths", "/promotions", "get", "answers"), {}),
    ],
)
def test_what_is_no_openapi_is_noticed(where: tuple[Any, ...], what: Any) -> None:
    document = json.loads(TEXT)
    *path, last = where
    place = document
    for step in path:
        place = place[step]
    place[last] = what
    assert not Draft202012Validator(OPENAPI).is_valid(document)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere() -> None:
    for schema in [*DOCUMENT["components"]["schemas"].values(), *inside(DOCUMENT["paths"], "schema")]:
        Draft202012Validator.check_schema(schema)
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    used = set(inside(DOCUMENT, "$ref"))
    assert used <= known
    assert known - used == set(), "a schema that nobody uses"
    assert set().union(*DOCUMENT["security"]) <= DOCUMENT["components"]["securitySchemes"].keys()


def test_every_route_that_is_registered_is_described_and_no_other() -> None:
    functions = GENERATOR["function_app"]()["app"].get_functions()
    triggers = {function.get_function_name(): function.get_trigger() for function in functions}
    registered = {
        (name, f"/{re.sub(r':[^}]*', '', trigger.route)}", method.value.lower())
        for name, trigger in triggers.items()
        if trigger.get_binding_name() == "httpTrigger"
        for method in trigger.methods
    }
    assert {(operation["operationId"], path, method) for path, method, operation in OPERATIONS} == registered


def test_the_parameters_of_a_path_are_described() -> None:
    for path, _, operation in OPERATIONS:
        described = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert described == set(re.findall(r"\{(\w+)\}", path)), path


def test_orders_take_a_body_and_an_idempotency_key_and_may_be_refused() -> None:
    for path, method, operation in OPERATIONS:
        headers = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
        assert headers == (["Idempotency-Key"] if method == "post" else []), path
        assert ("requestBody" in operation) == (method == "post"), path
        assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_the_document_in_the_contracts_is_that_of_the_app() -> None:
    """If not: `python docs/contracts/generate.py`, and look at what changed for those who rely on it."""
    assert (REPOSITORY / "docs" / "contracts" / "openapi.json").read_text(encoding="utf-8") == TEXT
