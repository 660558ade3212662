"""The arithmetic of docs/cost.md against what it is made from: the templates, and how often a promotion looks."""

import re
from datetime import timedelta
from pathlib import Path

from core.promotion import PARKED_WAIT, _poll_seconds
from core.rollout import LONGEST_LOOK
from tests.infra import bicep

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "cost.md").read_text(encoding="utf-8")
MODULES = REPOSITORY / "infra" / "modules"
HOURS = 730


def number(row: str) -> int:
    """The first number in the second cell of a row."""
    (cell,) = re.findall(rf"^\| {re.escape(row)} \| ([^|]+)", TEXT, re.MULTILINE)
    found = re.search(r"\d+", cell)
    assert found
    return int(found[0])


def memory() -> int:
    (megabytes,) = re.findall(r"param instanceMemoryMB int = (\d+)", (MODULES / "app.bicep").read_text())
    return int(megabytes) // 1024


def deliveries(waiting: timedelta) -> int:
    """How often a promotion looks while Azure is busy for so long."""
    waited, looks = timedelta(), 0
    while waited < waiting:
        waited += timedelta(seconds=_poll_seconds(waited, None))
        looks += 1
    return looks


def test_the_timer_of_an_idle_month() -> None:
    (minutes,) = re.findall(
        r"param reconcileSchedule string = '0 \*/(\d+) ", (MODULES.parent / "main.bicep").read_text()
    )
    passes = 60 // int(minutes) * HOURS
    assert TEXT.count(f"| Functions, executions | {passes} | {60 // int(minutes)} passes") == 1
    assert TEXT.count(f"| Functions, on-demand execution time | {passes * memory()} GB-s | {passes} × 1 s × 2 GB") == 1
    assert f"{passes} × (11 + 2n), {round(passes * 51, -3)} for 20 names" in TEXT


def test_the_alert_rules_are_counted() -> None:
    rules = bicep.read(MODULES / "alerts.bicep").variables["queries"]
    assert number("Azure Monitor, log alert rules") == len(rules)


def test_one_promotion_takes_as_many_deliveries_as_it_says() -> None:
    """The looks at a deployment of ten minutes, and a few before and after it."""
    assert 0 <= 18 - deliveries(timedelta(minutes=10)) <= 4
    assert f"| Functions, on-demand execution time | {19 * memory()} GB-s | 19 × 1 s × {memory()} GB |" in TEXT


def test_what_waits_longer_takes_as_many_deliveries_as_it_says() -> None:
    assert 0 <= number("a deployment of an hour") - deliveries(timedelta(hours=1)) <= 5
    assert number("a soak of 24 hours") == timedelta(hours=24).total_seconds() / LONGEST_LOOK
    assert number("an approval for 7 days") == timedelta(days=7).total_seconds() / PARKED_WAIT
