"""People are told that a promotion is live: at once, and if the topic is down at that moment, by the timer."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests import models
from tests.e2e.test_realtime import register
from tests.local import REPOSITORY, LocalAzure

SCHEMAS = REPOSITORY / "docs" / "contracts" / "schemas"


def told(azure: LocalAzure, promotion: dict[str, Any]) -> list[dict[str, Any]]:
    """What was published about a promotion, each event once."""
    came = azure.control.get("/event-grid/topics/promotion-notifications/events")
    found = {event["id"]: event for event in came if event["data"]["promotion_id"] == promotion["id"]}
    return list(found.values())


def live(azure: LocalAzure, promotion: dict[str, Any]) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        return next((event for event in told(azure, promotion) if event["type"] == "Promotion.Live"), None)

    return azure.wait_for(there, what=f"the notification that {promotion['id']} is live", seconds=60)


def test_live_is_told_and_a_topic_that_is_down_loses_nothing(local_azure: LocalAzure, tmp_path: Path) -> None:
    first = register(local_azure, "told", models.regression_with_example(tmp_path, slope=3.0), **{"promote-to": "prod"})
    row = local_azure.wait_for_end("told", first)
    assert_live(live(local_azure, row), row)

    down = local_azure.control.plant(service="event_grid", path="^/api/events$", status=503, times=1000)
    second = register(
        local_azure, "told", models.regression_with_example(tmp_path, slope=5.0), **{"promote-to": "prod"}
    )
    row = local_azure.wait_for_end("told", second)
    assert row["state"] == "succeeded", "a topic that is down fails no promotion"
    local_azure.wait_for(lambda: local_azure.control.fault(down)["met"] or None, what="the topic refusing to be told")
    assert told(local_azure, row) == []
    assert owed(local_azure, row) == 1

    local_azure.control.remove(down)
    assert_live(live(local_azure, row), row)
    local_azure.wait_for(lambda: owed(local_azure, row) == 0 or None, what="that nothing is owed any more")
    assert [event["type"] for event in told(local_azure, row)] == ["Promotion.Live"]


def assert_live(event: dict[str, Any], row: dict[str, Any]) -> None:
    schema = json.loads((SCHEMAS / "Promotion.Live.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(event["data"])
    fields = ("model", "version", "target", "endpoint", "attempt", "requested_by")
    assert {name: event["data"][name] for name in fields} == {name: row[name] for name in fields}


def owed(azure: LocalAzure, promotion: dict[str, Any]) -> int:
    now = azure.promotion(promotion["id"])
    assert now is not None
    return int(now["owed"])
