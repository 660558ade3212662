"""docs/limits.md against the constants that it names, and against the templates."""

import importlib
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "limits.md").read_text(encoding="utf-8")
LIMITS = re.findall(r"^\| .+ \| (.+) \| `([a-z_.]+\.[A-Z_]+)` \|$", TEXT, re.MULTILINE)


def spellings(value: Any) -> set[str]:
    """How a value may stand in the page."""
    if isinstance(value, timedelta):
        minutes = value.total_seconds() / 60
        return {f"{minutes:g} min", f"{minutes / 1440:g} days"}
    if isinstance(value, float):
        return {f"{value:g} s"}
    found = {str(value)}
    if value % 1024 == 0:
        found.add(f"{value // 1024} KB")
    if value % 1024**2 == 0:
        found.add(f"{value // 1024**2} MB")
    return found


def says(cell: str, value: Any) -> bool:
    return any(re.search(rf"(?<![\w.]){re.escape(each)}(?![\w.]*\w)", cell) for each in spellings(value))


@pytest.mark.parametrize(("cell", "name"), LIMITS, ids=[name for _, name in LIMITS])
def test_a_limit_is_what_the_code_has(cell: str, name: str) -> None:
    module, _, constant = name.rpartition(".")
    assert says(cell, getattr(importlib.import_module(module), constant))


def test_the_page_names_constants() -> None:
    assert len(LIMITS) > 25


@pytest.mark.parametrize(
    ("cell", "value"),
    [("30000 bytes", 3000), ("30000 bytes", 300_000), ("5 min", timedelta(minutes=15)), ("60 s", 6.0)],
)
def test_another_number_is_found(cell: str, value: Any) -> None:
    assert not says(cell, value)


def test_how_much_runs_at_once_is_as_configured() -> None:
    host = json.loads((REPOSITORY / "host.json").read_text(encoding="utf-8"))
    app = (REPOSITORY / "infra" / "modules" / "app.bicep").read_text(encoding="utf-8")
    sessions = host["extensions"]["serviceBus"]["maxConcurrentSessions"]
    (instances,) = re.findall(r"param maximumInstanceCount int = (\d+)", app)
    assert f"works on {sessions} endpoints at a time" in TEXT
    assert f"at most {instances} instances" in TEXT
