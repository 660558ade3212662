"""The client and the service speak of the same routes: both are held against the OpenAPI document."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.unit.console_service import Reply
from tests.unit.test_console import A_PLAN, CHECKED, ID, ROUTES, ROW

REPOSITORY = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = json.loads(runpy.run_path(str(REPOSITORY / "docs" / "contracts" / "generate.py"))["api"]())
# Those that have tests of their own, as the table has the others: route, answer, what is asked.
OTHERS: list[tuple[str, Any, Any]] = [
    (
        "GET promotions",
        {"promotions": [ROW], "continuation": None},
        {"state": "parked", "target": "p", "reason": "on_hold"},
    ),
    (f"GET promotions/{ID}", ROW | {"steps": [], "approvals": []}, {}),
    (f"GET promotions/{ID}/bundle", None, {"attempt": "1"}),
    (f"GET promotions/{ID}/plan", A_PLAN, {}),
    ("POST plan", A_PLAN, {"source": None, "model": "churn", "version": "3", "rule": None}),
    ("POST policy/validate", CHECKED, None),
]
CALLS = [(route, answer, asks) for _, route, answer, asks, _ in ROUTES] + OTHERS


def operation_of(route: str) -> tuple[str, dict[str, Any]]:
    """The path and operation of a request, such as `GET promotions/7`."""
    method, _, path = route.partition(" ")
    for template, item in DOCUMENT["paths"].items():
        if method.lower() in item and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), f"/{path}"):
            if "{" in template and f"/{path}" in DOCUMENT["paths"]:
                continue
            return template, item[method.lower()]
    raise AssertionError(f"the service has no {route}")


def mistakes(schema: dict[str, Any], value: Any) -> list[str]:
    whole = schema | {"components": DOCUMENT["components"]}
    return [f"{found.json_path}: {found.message}" for found in Draft202012Validator(whole).iter_errors(value)]


@pytest.mark.parametrize(("route", "answer", "asks"), CALLS, ids=[f"{n} {call[0]}" for n, call in enumerate(CALLS)])
def test_what_is_asked_and_answered_in_the_tests_is_what_the_service_documents(
    route: str, answer: Any, asks: Any
) -> None:
    _, operation = operation_of(route)

    if route.startswith("GET"):
        known = {found["name"]: found["schema"] for found in operation["parameters"] if found["in"] == "query"}
        assert set(asks) <= set(known)
        assert [name for name, value in asks.items() if known[name].get("enum", [value]).count(value) == 0] == []
    elif asks is not None:
        assert mistakes(operation["requestBody"]["content"]["application/json"]["schema"], asks) == []
    if answer is not None:
        status, content = (answer.status, answer.content) if isinstance(answer, Reply) else (200, answer)
        assert mistakes(operation["responses"][str(status)]["content"]["application/json"]["schema"], content) == []


def test_every_route_has_a_command() -> None:
    """Except the document itself."""
    used = {(operation_of(route)[0], route.partition(" ")[0].lower()) for route, _, _ in CALLS}
    there = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}

    assert there - used == {("/openapi.json", "get")}
