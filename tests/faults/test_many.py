"""Many endpoints that wait at once (two hundred in `make test-all`): none starves, a new one gets through, and nothing is held for those that wait."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import models
from tests.local import REPOSITORY, LocalAzure, started

FEW, MANY = 60, 200
HOUR = 3600


@pytest.fixture
def own_azure(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAzure]:
    """One for this test alone: its endpoints never come to life, and end with it."""
    policy = REPOSITORY / "tests" / "promotion.yaml"
    with started(directory / "many", app=REPOSITORY, policy=policy) as azure:
        for name, value in azure.client_environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        yield azure


def wait_for_deployments(azure: LocalAzure, many: int) -> None:
    """Until each has asked for its deployment. Counts in the request log: looking at all rows again and again is work."""
    created: set[str] = set()
    seen = 0

    def all_created() -> bool | None:
        nonlocal seen
        for entry in azure.control.requests(seen, service="arm", method="PUT", principal="promotion-service", wait=5):
            seen = entry["number"]
            if "/deployments/" in entry["path"]:
                created.add(entry["path"])
        return True if len(created) > many else None  # one more, from the first model

    azure.wait_for(all_created, what=f"{many} deployments", seconds=300)


@pytest.mark.timeout(400)
def test_many_endpoints_wait_at_once(own_azure: LocalAzure, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from azure.ai.ml.entities import Model

    many = MANY if request.config.getoption("--exhaustive") else FEW
    saved = models.regression_with_example(tmp_path)
    client = own_azure.ml_client(own_azure.endpoints["source"])
    tags = {"promote-to": "prod"}
    first = client.models.create_or_update(
        Model(name="many-first", path=str(saved.folder), type="mlflow_model", tags=tags)
    )
    own_azure.wait_for_end("many-first")
    own_azure.control.put("/azure-ml/durations", {"deployment": 10 * HOUR})
    for number in range(many):
        model = Model(name=f"many-{number}", path=first.path, type="mlflow_model", tags=tags)
        client.models.create_or_update(model)

    wait_for_deployments(own_azure, many)

    def all_wait() -> list[dict[str, Any]] | None:
        rows = [row for row in own_azure.api("promotions?limit=1000")["promotions"] if row["model"] != "many-first"]
        waiting = [row for row in rows if row["state"] == "waiting" and "is being created" in row["why"]]
        return waiting if len(waiting) == many else None

    waiting = own_azure.wait_for(all_wait, what=f"{many} waiting promotions")
    assert len({row["endpoint"] for row in waiting}) == many

    # What waits is messages in the queue: no thread, no connection, no function for each of them.
    host = psutil.Process(own_azure.control.get("/function-app")["pid"])
    assert host.num_threads() < 64
    assert len(host.net_connections()) < MANY  # some for each thread of the worker, however many wait

    # And those who come after them are served.
    own_azure.control.put("/azure-ml/durations", {"deployment": 0})
    client.models.create_or_update(Model(name="many-last", path=first.path, type="mlflow_model", tags=tags))
    assert own_azure.wait_for_end("many-last")["state"] == "succeeded"
    queue = own_azure.control.get("/service-bus/queues")["queues"]["promotions"]
    assert queue["active"] + queue["scheduled"] + queue["in_flight"] >= many
    assert queue["dead_letter"] == 0
