"""What Application Insights is told of a promotion, by Microsoft's worker and exporter: one trace, whatever is killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.application_insights import SETTINGS
from tests import models
from tests.e2e.test_realtime import register
from tests.local import LocalAzure

AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_BLRP_SCHEDULE_DELAY": "100"}


@pytest.fixture
def told_azure(local_azure: LocalAzure) -> Iterator[LocalAzure]:
    """With telemetry switched on, as infra/ does; without it again afterwards."""
    local_azure.restart(SETTINGS | AT_ONCE)
    yield local_azure
    local_azure.restart()


def spans(azure: LocalAzure, **properties: str) -> list[dict[str, Any]]:
    return _items(azure, "RemoteDependencyData", properties)


def records(azure: LocalAzure, **properties: str) -> list[dict[str, Any]]:
    return _items(azure, "MessageData", properties)


def _items(azure: LocalAzure, kind: str, properties: dict[str, str]) -> list[dict[str, Any]]:
    """Items of Application Insights, each as its data with its trace and the span above it."""
    found = []
    for item in azure.control.get("/application-insights/items")["items"]:
        data, tags = item["data"], item["tags"]
        if data["baseType"] != kind:
            continue
        given = data["baseData"].get("properties") or {}
        if properties.items() <= given.items():
            found.append(
                data["baseData"]
                | {"trace": tags.get("ai.operation.id"), "above": tags.get("ai.operation.parentId"), **given}
            )
    return found


def test_a_promotion_is_one_trace_also_when_the_host_is_killed(told_azure: LocalAzure, tmp_path: Path) -> None:
    version = register(told_azure, "traced", models.regression_with_example(tmp_path), **{"promote-to": "prod"})
    told_azure.wait_for(lambda: told_azure.promotions_of("traced", version) or None, what="the promotion")
    (row,) = told_azure.promotions_of("traced", version)
    mine = {"promotion_id": row["id"]}

    def begun() -> list[dict[str, Any]] | None:
        """Its first spans, and that of its intake, which ends while they begin."""
        found = spans(told_azure, **mine)
        traces = {each["trace"] for each in spans(told_azure) if each["name"] == "intake"}
        return found if {each["trace"] for each in found} & traces else None

    before = told_azure.wait_for(begun, what="its first spans")

    told_azure.restart(SETTINGS | AT_ONCE)
    ended = told_azure.wait_for_end("traced", version)
    told_azure.wait_for(lambda: records(told_azure, **mine, state="succeeded") or None, what="the record of its end")
    told_azure.wait_for(lambda: _deliveries(told_azure, ended) or None, what="the span of its last delivery")

    assert ended["state"] == "succeeded"
    mine_now = spans(told_azure, **mine)
    assert len(mine_now) > len(before), "nothing was done after the host was killed"
    (trace,) = {each["trace"] for each in mine_now}
    assert trace in {each["trace"] for each in spans(told_azure) if each["name"] == "intake"}
    # What the killed host had done last is with it: spans leave a process some time after they have ended.
    assert {each["name"] for each in mine_now} >= {"delivery", "smoke request", "move traffic"}
    assert all(each["endpoint"] == ended["endpoint"] and "hop" in each for each in mine_now)

    said = records(told_azure, **mine)
    assert {each["trace"] for each in said} == {trace}
    assert all(each["endpoint"] == ended["endpoint"] and "hop" in each for each in said)
    (end,) = [each for each in said if each.get("record") == "change" and each["state"] == "succeeded"]
    assert (end["origin"], float(end["seconds"]) > 0) == (ended["origin"], True)


def _deliveries(azure: LocalAzure, ended: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans of the last hop of a promotion."""
    last = spans(azure, promotion_id=ended["id"], hop=str(ended["hop"]))
    return [each for each in last if each["name"] == "delivery"]
