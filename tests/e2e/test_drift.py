"""What was promoted is changed by hand in the target: it is told, brought back where the policy says so, and only once."""

from pathlib import Path
from typing import Any

from tests import models
from tests.e2e.test_realtime import ask, register
from tests.local import LocalAzure

NAME = "drifting-prices"


def test_what_somebody_deletes_is_brought_back_once(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    row = local_azure.wait_for_end(NAME, register(local_azure, NAME, saved))
    client = local_azure.ml_client(local_azure.endpoints["targets"]["test"])
    deployment = row["result"]["deployment"]

    move_traffic(client, {})
    client.online_deployments.begin_delete(name=deployment, endpoint_name=NAME).result()
    local_azure.tick()
    again = local_azure.wait_for_state(row["id"], "succeeded", attempt=2)
    assert (again["order"]["verb"], again["order"]["by"]) == ("repair", "the drift watch")
    assert again["order"]["reason"] == f"drift: deployment {deployment} of {NAME} is gone"
    assert ask(local_azure, again, saved.request) == saved.expected
    trail = local_azure.api(f"endpoints/test/realtime/{NAME}/history")["history"]
    assert [entry["action"] for entry in trail] == ["live", "repair", "live", "requested"]

    client.models.archive(name=NAME, version=row["version"])
    move_traffic(client, {})
    local_azure.tick()

    def both() -> dict[str, Any] | None:
        drift = drift_of(local_azure) or {"findings": ()}
        return (
            drift if {found["kind"] for found in drift["findings"]} == {"traffic_changed", "model_archived"} else None
        )

    drift = local_azure.wait_for(both, what="that traffic and model are not as they were promoted")
    assert (drift["promotion_id"], drift["attempt"], drift["repair"]) == (
        row["id"],
        2,
        "not repaired: that needs somebody",
    )

    client.models.restore(name=NAME, version=row["version"])
    local_azure.tick()
    tugged = "somebody else changes it"
    local_azure.wait_for(lambda: tugged in (drift_of(local_azure) or {"repair": ""})["repair"] or None, what=tugged)

    move_traffic(client, {deployment: 100})
    local_azure.tick()
    local_azure.wait_for(lambda: drift_of(local_azure) is None or None, what="the end of the drift")
    row = local_azure.promotion(row["id"]) or {}
    assert (row["state"], row["attempt"]) == ("succeeded", 2), "nobody has fought over it"
    told = [word for notice in row["notices"] if (word := notice["type"].rpartition(".")[2]).startswith("Drift")]
    assert (told[0], told[-1], told.count("Drifted") >= 3) == ("Drifted", "DriftResolved", True)


def move_traffic(client: Any, traffic: dict[str, int]) -> None:
    """As somebody does in the studio."""
    endpoint = client.online_endpoints.get(NAME)
    endpoint.traffic = traffic
    client.online_endpoints.begin_create_or_update(endpoint).result()


def drift_of(azure: LocalAzure) -> dict[str, Any] | None:
    drifts: list[dict[str, Any]] = azure.api("drift")["drifts"]
    return next((drift for drift in drifts if drift["endpoint"] == NAME), None)
