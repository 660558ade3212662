"""Gates on the metrics of the training run, from the run's own log to what is live in the target."""

from pathlib import Path
from typing import Any

from demo.azure import files_of
from tests import models
from tests.e2e.test_realtime import ask
from tests.local import LocalAzure
from tests.models import SavedModel

NAME = "gated-prices"


def trained(azure: LocalAzure, run: str, saved: SavedModel, **metrics: float) -> str:
    """A job that has logged its metrics and its model, and the version that is registered from it."""
    from azure.ai.ml.entities import Model

    job = {"name": run, "jobType": "Command", "metrics": metrics, "files": files_of(saved.folder, "model/")}
    azure.control.post("/azure-ml/ml-dev/jobs", job)
    azure.control.post(f"/azure-ml/ml-dev/jobs/{run}/finish", {})
    path = f"azureml://jobs/{run}/outputs/artifacts/paths/model"
    client = azure.ml_client(azure.endpoints["source"])
    return str(client.models.create_or_update(Model(name=NAME, path=path, type="mlflow_model")).version)


def event_of(azure: LocalAzure, version: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        return next(iter(azure.events_of(f"models/{NAME}:{version}")), None)

    return azure.wait_for(there, what=f"the event of {NAME}:{version}")


def test_only_what_is_good_enough_goes_live_and_only_what_is_better_replaces_it(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    poor, good, better = (models.regression_with_example(tmp_path, slope=slope) for slope in (2.0, 3.0, 5.0))

    version = trained(local_azure, "gated_1", poor, rmse=2.5)
    event = event_of(local_azure, version)
    assert (event["outcome"], event["reason"]) == ("refused", "gate_failed")
    assert event["why"] == "metric rmse: it is 2.5 (run gated_1), asked is at most 1.0"
    version = trained(local_azure, "gated_2", poor, mae=0.1)
    assert "neither its run nor the model version has it; known are: mae" in event_of(local_azure, version)["why"]
    assert local_azure.promotions_of(NAME) == []

    version = trained(local_azure, "gated_3", good, rmse=0.5)
    live = local_azure.wait_for_end(NAME, version)
    assert (live["state"], live["why"]) == ("succeeded", "")

    version = trained(local_azure, "gated_4", better, rmse=0.47)
    row = local_azure.wait_for_end(NAME, version)
    assert (row["state"], row["reason"], row["steps"]) == ("refused", "gate_failed", [])
    against = f"it is 0.47, asked is at least 0.05 less than the 0.5 of {NAME}:{live['version']}, which is live"
    assert row["why"] == f"metric rmse better than live: {against}"
    assert ask(local_azure, live, good.request) == good.expected
    explained = local_azure.api(f"explain?source=dev&model={NAME}&version={version}")
    assert against in explained["answer"]
    assert [(each["gate"], each["holds"]) for each in explained["gates"]] == [
        ("metric rmse", True),
        ("origin", True),
        ("metric rmse better than live", False),
        ("age", True),
    ]
