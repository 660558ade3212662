"""Models from jobs, as code-first training leaves them: registered from a run's artifacts or from a named output."""

from pathlib import Path
from typing import Any

import pytest

from demo.azure import files_of
from tests import models
from tests.e2e.test_realtime import ask
from tests.local import LocalAzure


def register_from(azure: LocalAzure, name: str, uri: str, **tags: str) -> None:
    from azure.ai.ml.entities import Model

    client = azure.ml_client(azure.endpoints["source"])
    client.models.create_or_update(Model(name=name, path=uri, type="mlflow_model", tags=tags))


@pytest.mark.parametrize(
    ("name", "job_type", "properties"),
    [
        ("from-command", "Command", {"ContentSnapshotId": "1", "_azureml.ComputeTargetType": "amlctrain"}),
        ("from-sweep", "Sweep", {"runTemplate": "HyperDrive", "azureml.runsource": "hyperdrive"}),
        ("from-cli-pipeline", "Pipeline", {"runSource": "MFE", "azureml.runsource": "azureml.PipelineRun"}),
    ],
)
def test_a_model_that_a_job_logged_is_promoted(
    local_azure: LocalAzure, tmp_path: Path, name: str, job_type: str, properties: dict[str, str]
) -> None:
    saved = models.regression_with_example(tmp_path)
    job: dict[str, Any] = {"name": f"job-{name}", "jobType": job_type, "properties": properties}
    job["files"] = files_of(saved.folder, "model/")
    local_azure.control.post("/azure-ml/ml-dev/jobs", job)
    local_azure.control.post(f"/azure-ml/ml-dev/jobs/job-{name}/finish", {})

    register_from(
        local_azure, name, f"azureml://jobs/job-{name}/outputs/artifacts/paths/model/", **{"promote-to": "prod"}
    )

    row = local_azure.wait_for_end(name)
    assert (row["state"], row["origin"]) == ("succeeded", "notebook")
    assert f"job-{name} is a {job_type} job submitted by code" in row["evidence"]
    assert ask(local_azure, row, saved.request) == saved.expected


def test_a_named_output_is_found_where_the_job_says(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    output = {"trained": {"type": "mlflow_model", "files": files_of(saved.folder)}}
    local_azure.control.post("/azure-ml/ml-dev/jobs", {"name": "job-output", "jobType": "Command", "outputs": output})

    register_from(local_azure, "from-output", "azureml://jobs/job-output/outputs/trained", **{"promote-to": "prod"})

    row = local_azure.wait_for_end("from-output")
    assert row["state"] == "succeeded"
    assert ask(local_azure, row, saved.request) == saved.expected


def test_the_step_of_a_pipeline_is_judged_by_its_root(local_azure: LocalAzure, tmp_path: Path) -> None:
    """The step itself looks like code; the pipeline was made in Designer."""
    saved = models.regression_with_example(tmp_path)
    root = {"name": "designer-root", "jobType": "Pipeline", "properties": {"runSource": "Designer"}}
    local_azure.control.post("/azure-ml/ml-dev/jobs", root)
    step = {"name": "designer-step", "parent": "designer-root", "properties": {"azureml.runsource": "azureml.StepRun"}}
    local_azure.control.post("/azure-ml/ml-dev/jobs", {**step, "files": files_of(saved.folder, "model/")})

    register_from(
        local_azure,
        "from-step",
        "azureml://jobs/designer-step/outputs/artifacts/paths/model/",
        **{"promote-to": "prod"},
    )

    row = local_azure.wait_for_end("from-step")
    assert row["origin"] == "designer"
    assert "designer-root was submitted by Designer" in row["evidence"]
