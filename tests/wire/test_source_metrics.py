"""The metrics of a run: as the service reads them, and as MLflow's own client reads them from the same address."""

import math
import uuid
from datetime import UTC, datetime

import pytest
from azure.identity import ManagedIdentityCredential

from core.adapters.arm import ML_SCOPE
from core.adapters.azure_ml_source import AzureMLSource
from core.errors import Transient
from core.events import WorkspaceId
from emulator.topology import DEV
from tests.wire.azure_ml_clients import Azure, azure

__all__ = ["azure"]

WORKSPACE = WorkspaceId.parse(DEV.arm_id)
LOGGED = {"accuracy": 0.93, "val/loss (best)": 1e-9, "rows": 12, "auc": "NaN", "mape": "Infinity"}


@pytest.fixture
def source(azure: Azure) -> AzureMLSource:
    return AzureMLSource(ManagedIdentityCredential())


def submitted(azure: Azure, **fields: object) -> str:
    name = f"train_{uuid.uuid4().hex[:8]}"
    azure.control("POST", "/azure-ml/ml-dev/jobs", {"name": name, "jobType": "Command"} | fields)
    return name


def finished(azure: Azure, name: str, **fields: object) -> None:
    azure.control("POST", f"/azure-ml/ml-dev/jobs/{name}/finish", fields)


def test_the_metrics_of_a_run_are_read_as_they_were_logged(azure: Azure, source: AzureMLSource) -> None:
    before = datetime.now(UTC).timestamp() - 1
    run = submitted(azure, metrics=LOGGED)
    finished(azure, run, metrics={"f1": 0.5})
    found = source.training(WORKSPACE, run)
    assert found is not None
    assert not found.is_running
    assert found.ended_at is not None
    assert before <= found.ended_at.timestamp() <= datetime.now(UTC).timestamp()
    assert math.isnan(found.metrics["auc"])
    assert {name: value for name, value in found.metrics.items() if name != "auc"} == {
        "accuracy": 0.93,
        "val/loss (best)": 1e-9,
        "rows": 12.0,
        "mape": math.inf,
        "f1": 0.5,
    }


def test_a_run_under_way_and_a_run_that_is_not_there(azure: Azure, source: AzureMLSource) -> None:
    found = source.training(WORKSPACE, submitted(azure))
    assert found is not None
    assert (found.is_running, found.ended_at, dict(found.metrics)) == (True, None, {})
    assert source.training(WORKSPACE, "nobody_knows") is None


def test_a_step_of_a_pipeline_has_metrics_as_well(azure: Azure, source: AzureMLSource) -> None:
    """Resource Manager does not know it as a job; tracking does."""
    parent = submitted(azure, jobType="Pipeline")
    found = source.training(WORKSPACE, submitted(azure, jobType=None, parent=parent, metrics={"auc": 0.8}))
    assert found is not None
    assert dict(found.metrics) == {"auc": 0.8}


def test_a_service_that_is_busy_is_asked_again_later(azure: Azure, source: AzureMLSource) -> None:
    run = submitted(azure, metrics=LOGGED)
    fault = {"service": "azureml", "path": "/mlflow/", "status": 503}
    azure.control("POST", "/faults", fault)
    with pytest.raises(Transient, match=f"metrics of run {run}"):
        source.training(WORKSPACE, run)


def test_mlflow_itself_reads_the_same(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that a workspace tells is one that MLflow's own client can ask."""
    from mlflow import MlflowClient

    run = submitted(azure, metrics={"accuracy": 0.93, "auc": "NaN"}, displayName="the run", tags={"team": "risk"})
    finished(azure, run)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", ManagedIdentityCredential().get_token(ML_SCOPE).token)
    for version in ("1.0", "2.0"):
        address = f"https://{DEV.location}.api.azureml.ms/mlflow/v{version}{DEV.arm_id}"
        found = MlflowClient(tracking_uri=address).get_run(run)
        assert (found.info.status, found.info.run_name, found.data.tags["team"]) == ("FINISHED", "the run", "risk")
        assert found.data.metrics["accuracy"] == 0.93
        assert math.isnan(found.data.metrics["auc"])
