"""A canary under live traffic: with real requests, real metrics, and a model that turns out to be bad."""

from pathlib import Path
from typing import Any

from tests import models
from tests.e2e.test_realtime import Traffic, register, steps_of
from tests.local import LocalAzure

APPLE, PEAR = {"apple": 1.0, "pear": 2.0}, {"pear": 3.0}


def deployments(azure: LocalAzure, endpoint: str) -> list[str]:
    client = azure.ml_client(azure.endpoints["targets"]["prod"])
    return sorted(found.name for found in client.online_deployments.list(endpoint))


def moves(row: dict[str, Any]) -> list[str]:
    """What was done to the traffic, without the names of deployments."""
    return [
        step["detail"].partition(" to ")[0]
        for step in row["steps"]
        if step["step"] in ("move traffic", "take traffic back")
    ]


def test_a_canary_takes_over_in_steps_without_a_failed_request(local_azure: LocalAzure, tmp_path: Path) -> None:
    first, second = (models.prices(tmp_path, {**APPLE, "apple": price}) for price in (1.0, 4.0))
    row = local_azure.wait_for_end("canary-good", register(local_azure, "canary-good", first))
    assert moves(row) == ["100 %"], "there is nothing to compare the first with"
    with Traffic(local_azure, row, first.request) as traffic:
        version = register(local_azure, "canary-good", second)
        row = local_azure.wait_for_end("canary-good", version)
        traffic.wait_for(second.expected)
    assert (row["state"], moves(row)) == ("succeeded", ["20 %", "100 %"])
    assert traffic.failures == []
    assert deployments(local_azure, "canary-good") == [row["result"]["deployment"]]


def test_a_canary_that_goes_bad_comes_back_by_itself(local_azure: LocalAzure, tmp_path: Path) -> None:
    """It answers its own example, and not what users ask."""
    first, second = models.prices(tmp_path, APPLE), models.prices(tmp_path, PEAR)
    good = local_azure.wait_for_end("canary-bad", register(local_azure, "canary-bad", first))
    with Traffic(local_azure, good, first.request) as traffic:
        bad = local_azure.wait_for_end("canary-bad", register(local_azure, "canary-bad", second))
    assert (bad["state"], bad["reason"]) == ("refused", "analysis_failed")
    assert bad["why"].startswith("rolled back by itself: at 20 % of the traffic, ")
    assert moves(bad) == ["20 %", "100 %"]
    assert "KeyError" in next(step["detail"] for step in bad["steps"] if step["step"] == "keep log")
    assert steps_of(bad)[-1] == "delete unused deployment"

    assert traffic.failures, "its share of the requests failed"
    assert all(failure.startswith("424") for failure in traffic.failures)
    assert len(traffic.failures) < len(traffic.answers), "the others went on being answered"
    with Traffic(local_azure, good, first.request) as after:
        after.wait_for(first.expected)
    assert after.failures == []
    trail = local_azure.api("endpoints/prod/realtime/canary-bad/history")
    live = [entry["after"]["version"] for entry in trail["history"] if entry["action"] == "live"]
    assert live == ["1"], "it was never live alone"
