"""Runs of a source workspace as the service reads them, and the one thing that it writes there."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from azure.ai.ml.entities import Model
from azure.identity import ManagedIdentityCredential

from core import tags
from core.adapters.azure_ml_source import AzureMLSource
from core.errors import Blocked, Reason, Refusal
from core.events import WorkspaceId
from core.ports import SourceModel
from emulator.topology import DATA_SCIENTIST, DEV
from tests.unit.builders import NOON
from tests.wire.azure_ml_clients import Azure, azure

__all__ = ["azure"]

WORKSPACE = WorkspaceId.parse(DEV.arm_id)
STEP = {"azureml.runsource": "azureml.StepRun"}
FLAVORS = {"sklearn": {"sklearn_version": "1.7.2", "code": None}, "python_function": {"env": {"conda": "conda.yaml"}}}


@pytest.fixture
def source(azure: Azure) -> AzureMLSource:
    return AzureMLSource(ManagedIdentityCredential())


def submitted(azure: Azure, **fields: Any) -> str:
    """A job as the control API takes it; its name."""
    name = fields.setdefault("name", f"job_{uuid.uuid4().hex[:8]}")
    azure.control("POST", "/azure-ml/ml-dev/jobs", fields)
    return str(name)


def finished(azure: Azure, name: str, **fields: Any) -> None:
    azure.control("POST", f"/azure-ml/ml-dev/jobs/{name}/finish", fields)


def an_output(name: str, run_id: str) -> SourceModel:
    return SourceModel(
        name=name,
        version=run_id,
        model_type="mlflow_model",
        uri=f"azureml://jobs/{run_id}/outputs/artifacts/paths/model",
        tags={tags.RUN: run_id},
        properties={},
        job_name=run_id,
        archived=False,
        created_at=NOON,
        created_by="x",
    )


def registrations(azure: Azure, name: str) -> int:
    return sum(event["subject"].startswith(f"models/{name}:") for event in azure.events())


def test_a_job_is_read_with_type_outputs_and_times(azure: Azure, source: AzureMLSource) -> None:
    outputs = {"trained": {"type": "mlflow_model", "files": {"MLmodel": "x"}}, "scores": {"files": {"a.csv": "1"}}}
    job = submitted(
        azure, jobType="Command", experiment="churn", tags={"a": "b"}, properties={"c": "d"}, outputs=outputs
    )
    running = source.run(WORKSPACE, job)
    finished(azure, job)

    run = source.run(WORKSPACE, job)

    assert (running.status, running.ended_at) == ("Running", None)
    assert (run.status, run.experiment, run.created_by) == ("Completed", "churn", DATA_SCIENTIST.name)
    assert (run.run.job_type, run.run.parent, run.run.tags, run.run.properties) == (
        "Command",
        None,
        {"a": "b"},
        {"c": "d"},
    )
    assert run.outputs == {"trained": "mlflow_model", "scores": "uri_folder"}
    assert run.ended_at is not None
    assert timedelta(0) <= run.ended_at - run.created_at < timedelta(minutes=5)


def test_a_step_is_known_to_the_run_history_alone(azure: Azure, source: AzureMLSource) -> None:
    root = submitted(azure, jobType="Pipeline")
    step = submitted(azure, parent=root, displayName="train", properties=STEP)
    run = source.run(WORKSPACE, step)
    assert (run.run.job_type, run.run.parent, run.run.properties, run.outputs) == (None, root, STEP, {})


def test_a_run_that_is_gone_is_refused(azure: Azure, source: AzureMLSource) -> None:
    with pytest.raises(Refusal, match="no run nobody_ran_this") as refusal:
        source.run(WORKSPACE, "nobody_ran_this")
    assert refusal.value.reason is Reason.MODEL_NOT_FOUND


def test_all_pages_of_steps_are_read(azure: Azure, source: AzureMLSource) -> None:
    """The link to the second page is followed by its parameter alone, wherever it leads."""
    root = submitted(azure, jobType="Pipeline")
    step = submitted(azure, parent=root, displayName="train", properties=STEP, tags={"a": "b"})
    first = {
        "value": [{"runId": "of_first_page"}, {"runId": "../no/id"}],
        "nextLink": "https://elsewhere.example/children?$skip=0",
    }
    azure.control("POST", "/faults", {"path": f"/runs/{root}/children$", "status": 200, "body": first})

    steps = source.steps(WORKSPACE, root)

    assert [each.id for each in steps] == ["of_first_page", step]
    assert (steps[1].name, steps[1].parent, steps[1].properties, steps[1].tags) == ("train", root, STEP, {"a": "b"})


def test_the_artifacts_of_a_run_are_its_own(azure: Azure, source: AzureMLSource) -> None:
    """Not those of a run whose name begins likewise."""
    name = f"job_{uuid.uuid4().hex[:8]}"
    submitted(azure, name=name, jobType="Command", files={"model/MLmodel": "x", "logs/a": "y"})
    submitted(azure, name=f"{name}_1", jobType="Command", files={"outputs/model.pkl": "x"})
    found = source.run_folder(WORKSPACE, name, "")
    assert found is not None
    assert set(found.paths()) == {"model/MLmodel", "logs/a"}
    assert source.run_folder(WORKSPACE, submitted(azure, jobType="Command"), "") is None


def test_an_output_is_registered_once_however_often(azure: Azure, source: AzureMLSource) -> None:
    job = submitted(azure, jobType="Command", files={"model/MLmodel": "x"})
    name = f"m{uuid.uuid4().hex[:8]}"

    first, second = (source.register(WORKSPACE, an_output(name, job), flavors=FLAVORS) for _ in range(2))

    assert (first.tags, first.job_name, first.model_type, first.archived) == (
        {tags.RUN: job},
        job,
        "mlflow_model",
        False,
    )
    assert first == second == source.model(WORKSPACE, name, job)
    assert registrations(azure, name) == 1
    model = azure.client(DEV).models.get(name, job)
    assert (model.type, model.job_name) == ("mlflow_model", job)
    assert model.flavors == {"sklearn": {"sklearn_version": "1.7.2"}, "python_function": {}}
    found = source.manifest(WORKSPACE, first.uri)
    assert found.paths() == ("MLmodel",)
    assert found == source.manifest(WORKSPACE, an_output(name, job).uri)


def test_a_version_of_somebody_else_is_never_replaced(azure: Azure, source: AzureMLSource) -> None:
    job = submitted(azure, jobType="Command", files={"model/MLmodel": "x", "other/MLmodel": "y"})
    name = f"m{uuid.uuid4().hex[:8]}"
    theirs = f"azureml://jobs/{job}/outputs/artifacts/paths/other"
    azure.client(DEV).models.create_or_update(Model(name=name, version=job, path=theirs, type="custom_model"))

    found = source.register(WORKSPACE, an_output(name, job), flavors={})

    assert (found.tags, found.model_type) == ({}, "custom_model")
    assert found.uri.endswith("/other")
    assert registrations(azure, name) == 1


def test_a_source_that_may_not_be_written_says_which_role_is_missing(azure: Azure, source: AzureMLSource) -> None:
    job = submitted(azure, jobType="Command", files={"model/MLmodel": "x"})
    name = f"m{uuid.uuid4().hex[:8]}"
    azure.control("POST", "/faults", {"path": f"/models/{name}/versions/{job}$", "method": "PUT", "status": 403})
    with pytest.raises(Blocked) as blocked:
        source.register(WORKSPACE, an_output(name, job), flavors={})
    assert blocked.value.reason is Reason.PERMISSION_MISSING
    assert registrations(azure, name) == 0
