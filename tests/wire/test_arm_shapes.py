"""The local Azure's answers against the resource types that Azure publishes.

The types are not part of this repository. They are looked for where AZURE_ARM_TYPES says, else beside the checkout; the
tests of the reader itself are in tests/unit/test_arm_types.py.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from emulator.topology import PROD
from tests.wire.arm_types import ArmTypes
from tests.wire.azure_ml_clients import Azure, azure
from tests.wire.batch_workspace import BatchWorkspace

__all__ = ["azure"]

PROVIDER = "Microsoft.MachineLearningServices/workspaces"
TYPES = Path(os.environ.get("AZURE_ARM_TYPES") or Path(__file__).parents[3] / "shared" / "specs" / "arm-types")
STABLE, PREVIEW = "2023-10-01", "2024-01-01-preview"

pytestmark = pytest.mark.skipif(not TYPES.is_dir(), reason="Azure's published types are not here: set AZURE_ARM_TYPES")


@pytest.fixture(scope="module")
def types() -> dict[str, ArmTypes]:
    return {version: ArmTypes.read(TYPES / f"{version}.json") for version in (STABLE, PREVIEW)}


def written(azure: Azure, path: str, body: dict[str, Any]) -> None:
    answer = azure.arm("PUT", path, json=body)
    assert answer.ok, f"{path}: {answer.text}"
    if "Azure-AsyncOperation" in answer.headers:
        assert azure.finished(answer)["status"] == "Succeeded"


@pytest.fixture(scope="module")
def resources(azure: Azure, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One resource of each type that the product reads or writes: type to path."""
    workspace = BatchWorkspace(azure, PROD, tmp_path_factory.mktemp("shapes"))
    base, name = PROD.arm_id, workspace.name
    step = workspace.command("step", "echo ${{inputs.word}} > ${{outputs.out}}/word.txt", inputs={"word": {"type": "string"}},
                             files={"main.py": "print(1)"}, outputs={"out": {"type": "uri_folder"}})  # fmt: skip
    pipe = workspace.pipeline(
        "pipe",
        {"step": {"component": step, "inputs": {"word": "${{parent.inputs.word}}"}}},
        inputs={"word": {"type": "string"}},
    )
    model = {
        "modelUri": "azureml://datastores/workspaceblobstore/paths/models/m/",
        "modelType": "custom_model",
        "tags": {"a": "b"},
    }
    azure.arm("PUT", f"{base}/models/{name}/versions/1", json={"properties": model})
    azure.new_endpoint(PROD)
    online = azure.arm("GET", f"{base}/onlineEndpoints").json()["value"][0]["name"]
    location = {"location": PROD.location}
    written(azure, f"{base}/batchEndpoints/{name}", location | {"properties": {"authMode": "AADToken"}})
    configuration = {
        "deploymentConfigurationType": "PipelineComponent",
        "componentId": {"referenceType": "Id", "assetId": pipe},
        "settings": {"default_compute": "cpu-cluster"},
    }
    deployment = location | {"properties": {"deploymentConfiguration": configuration}}
    path = f"{base}/batchEndpoints/{name}/deployments/first"
    written(azure, path, deployment)
    job = workspace.run(pipe, inputs={"word": "hello"})
    definition = {
        "jobType": "Pipeline",
        "componentId": pipe,
        "inputs": {"word": {"jobInputType": "literal", "value": "x"}},
        "settings": {"default_compute": "cpu-cluster"},
    }
    schedule = {
        "action": {"actionType": "CreateJob", "jobDefinition": definition},
        "trigger": {"triggerType": "Cron", "expression": "0 3 * * *"},
        "isEnabled": False,
    }
    written(azure, f"{base}/schedules/{name}", {"properties": schedule})
    code = azure.arm("GET", f"{base}/codes").json()["value"][0]["name"]
    return {
        "models/versions": f"/models/{name}/versions/1",
        "models": f"/models/{name}",
        "environments/versions": f"/environments/{name}/versions/1",
        "codes/versions": f"/codes/{code}/versions/1",
        "components": f"/components/{name}_step",
        "components/versions": f"/components/{name}_step/versions/1",
        "computes": "/computes/cpu-cluster",
        "datastores": "/datastores/workspaceblobstore",
        "onlineEndpoints": f"/onlineEndpoints/{online}",
        "batchEndpoints": f"/batchEndpoints/{name}",
        "batchEndpoints/deployments": f"/batchEndpoints/{name}/deployments/first",
        "jobs": f"/jobs/{job.name}",
        "schedules": f"/schedules/{name}",
    }


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("models/versions", STABLE),
        ("models", STABLE),
        ("environments/versions", STABLE),
        ("codes/versions", STABLE),
        ("components", PREVIEW),
        ("components/versions", PREVIEW),
        ("computes", PREVIEW),
        ("datastores", STABLE),
        ("onlineEndpoints", STABLE),
        ("batchEndpoints", STABLE),
        ("batchEndpoints/deployments", PREVIEW),
        ("jobs", PREVIEW),
        ("schedules", PREVIEW),
    ],
)
def test_an_answer_has_the_shape_that_azure_publishes(
    azure: Azure, resources: dict[str, str], types: dict[str, ArmTypes], kind: str, version: str
) -> None:
    answer = azure.arm("GET", f"{PROD.arm_id}{resources[kind]}", params={"api-version": version})
    assert answer.status_code == 200, answer.text
    assert types[version].mistakes(f"{PROVIDER}/{kind}", answer.json()) == []
