"""Alerts are about what the service writes, and each has its page."""

import re
from pathlib import Path
from typing import Any

import pytest

from core.reconcile import OVERDUE
from emulator.topology import QueueSpec
from tests.infra import bicep
from tests.infra.test_agreement import duration

REPOSITORY = Path(__file__).parent.parent.parent
INFRA = REPOSITORY / "infra"
ALERTS = bicep.read(INFRA / "modules" / "alerts.bicep")
EVENTS = bicep.read(INFRA / "modules" / "event-alerts.bicep")
RULES: list[dict[str, Any]] = ALERTS.variables["queries"]
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
NAMES = [rule["name"] for rule in RULES] + ["dead-letters", "event-delivery-failed"]


def test_every_alert_is_documented_with_its_page() -> None:
    table = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[`([a-z-]+)`\]\(runbook\.md#\1\)", table, re.MULTILINE)) == sorted(NAMES)


@pytest.mark.skipif(not RUNBOOK.exists(), reason="there is no runbook yet")
def test_every_alert_has_its_page_in_the_runbook() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    anchors |= set(re.findall(r'<a (?:id|name)="([a-z-]+)"', text))
    assert set(NAMES) - anchors == set()


def test_an_alert_says_where_its_page_is() -> None:
    texts = [ALERTS.resource("deadLetters"), EVENTS.resource("alert"), ALERTS.resource("rules")]
    said = [each.body["properties"]["description"] for each in texts]
    assert [text.text if isinstance(text, bicep.Unknown) else text for text in said] == [
        "'The dead-letter queue is not empty. ${runbook}dead-letters'",
        "Event Grid gave up on an event. See docs/runbook.md#event-delivery-failed",
        "'${each.title}. ${runbook}${each.name}'",
    ]
    assert ALERTS.variables["runbook"] == "See docs/runbook.md#"


def test_each_query_is_used_by_the_alert_of_its_name() -> None:
    assert {rule["name"]: rule["query"].text for rule in RULES} == {
        path.stem: f"loadTextContent('../queries/{path.name}')" for path in (INFRA / "queries").iterdir()
    }


def test_the_queue_alert_gives_the_timer_time_to_mend() -> None:
    text = (INFRA / "queries" / "queue-age.kql").read_text(encoding="utf-8")
    (limit,) = re.findall(r"> (\d+)", text)
    assert int(limit) > 2 * OVERDUE.total_seconds()


def test_no_alert_looks_further_back_than_azure_allows() -> None:
    assert all(duration(rule["range"] or rule["window"]) <= duration("P2D") for rule in RULES)


def test_dead_letters_are_those_of_the_queue() -> None:
    (criterion,) = ALERTS.resource("deadLetters").body["properties"]["criteria"]["allOf"]
    main = bicep.read(INFRA / "main.bicep")
    assert criterion["metricName"] == "DeadletteredMessages"
    assert main.modules["alerts"].params["queueName"].text == "queue.outputs.queueName"
    assert bicep.read(INFRA / "modules" / "queue.bicep").resource("queue").body["name"] == QueueSpec("promotions").name
