"""Batch endpoints and deployments of pipeline components, by the unmodified client library."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests
from azure.ai.ml import Input
from azure.ai.ml.entities import BatchEndpoint, PipelineComponentBatchDeployment
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from emulator.topology import DEV, PROD, TEST
from tests.wire.azure_ml_clients import ARM, Azure, azure, outcomes
from tests.wire.batch_workspace import BatchWorkspace, work

__all__ = ["azure", "outcomes", "work"]

FOLDER = {"type": "uri_folder"}
SETTINGS: dict[str, Any] = {"default_compute": "cpu-cluster", "continue_on_step_failure": False, "force_rerun": True}
ML = "https://ml.azure.com/.default"
NONSENSE: tuple[Any, ...] = ("text", [], {"properties": "text"}, {"properties": {"inputData": ["data"]}})


@pytest.fixture
def pipeline(work: BatchWorkspace) -> str:
    """Copies its input and says a word."""
    step = work.command(
        "copy",
        "cp -r ${{inputs.data}}/. ${{outputs.copy}}; echo ${{inputs.word}} > ${{outputs.copy}}/word",
        inputs={"data": FOLDER, "word": {"type": "string"}},
        outputs={"copy": FOLDER},
    )
    node = {
        "component": step,
        "inputs": {"data": "${{parent.inputs.data}}", "word": "${{parent.inputs.word}}"},
        "outputs": {"copy": "${{parent.outputs.copy}}"},
    }
    inputs = {"data": FOLDER, "word": {"type": "string", "default": "hello"}}
    return work.pipeline("pipe", {"copy": node}, inputs=inputs, outputs={"copy": FOLDER})


@pytest.fixture
def endpoint(azure: Azure) -> str:
    """An endpoint without the seconds between the polls of a client."""
    name = f"t{uuid.uuid4().hex[:10]}"
    created = azure.arm("PUT", _path(name), json={"location": DEV.location, "properties": {"authMode": "AADToken"}})
    assert azure.finished(created) == {"status": "Succeeded"}
    return name


def deploy(azure: Azure, endpoint: str, name: str, component: str, **changes: Any) -> requests.Response:
    configuration = {
        "deploymentConfigurationType": "PipelineComponent",
        "componentId": {"referenceType": "Id", "assetId": component},
        "settings": SETTINGS,
    }
    body = {"location": DEV.location, "properties": {"deploymentConfiguration": configuration | changes}}
    return azure.arm("PUT", f"{_path(endpoint)}/deployments/{name}", json=body)


def make_default(azure: Azure, endpoint: str, deployment: str | None) -> requests.Response:
    defaults = {"defaults": {"deploymentName": deployment}} if deployment else {}
    body = {"location": DEV.location, "properties": {"authMode": "AADToken"} | defaults}
    return azure.arm("PUT", _path(endpoint), json=body)


def _path(endpoint: str) -> str:
    return f"{DEV.arm_id}/batchEndpoints/{endpoint}"


def invoke(azure: Azure, endpoint: str, body: Any, token: str | None, **headers: str) -> requests.Response:
    url = f"https://{endpoint}.{DEV.location}.inference.ml.azure.com/jobs"
    return azure.score(url, token, body, headers=headers)


# Endpoints and deployments


def test_an_endpoint_lives_from_creation_to_deletion(work: BatchWorkspace, pipeline: str) -> None:
    """With everything that the client library does in between; it waits some seconds for each operation."""
    ml, name = work.ml, work.name
    made = ml.batch_endpoints.begin_create_or_update(BatchEndpoint(name=name, tags={"a": "b"})).result()
    assert made.scoring_uri == f"https://{name}.{DEV.location}.inference.ml.azure.com/jobs"
    wanted = PipelineComponentBatchDeployment(
        name="blue", endpoint_name=name, component=pipeline, settings=dict(SETTINGS), tags={"c": "d"}
    )
    deployed: Any = ml.batch_deployments.begin_create_or_update(wanted).result()
    assert (deployed.component, deployed.settings["default_compute"]) == (pipeline, "cpu-cluster")
    shown: Any = ml.batch_deployments.get("blue", name)
    assert (shown.provisioning_state, shown.tags) == ("Succeeded", {"c": "d"})
    assert [each.name for each in ml.batch_deployments.list(name)] == ["blue"]

    found: Any = ml.batch_endpoints.get(name)
    assert (found.provisioning_state, found.tags, found.auth_mode) == ("Succeeded", {"a": "b"}, "aad_token")
    found = BatchEndpoint(name=name, default_deployment_name="blue")
    assert ml.batch_endpoints.begin_create_or_update(found).result().defaults.deployment_name == "blue"
    assert name in {each.name for each in ml.batch_endpoints.list()}

    with pytest.raises(HttpResponseError, match="default of endpoint") as refused:
        ml.batch_deployments.begin_delete("blue", name)
    assert refused.value.status_code == 400
    ml.batch_endpoints.begin_delete(name).result()
    with pytest.raises(ResourceNotFoundError):
        ml.batch_endpoints.get(name)
    assert list(ml.components.list(f"{work.name}_pipe")), "components outlive endpoints"


def test_a_name_is_taken_for_its_whole_region(azure: Azure, endpoint: str) -> None:
    wanted = BatchEndpoint(name=endpoint)
    assert TEST.location == DEV.location != PROD.location
    with pytest.raises(ResourceExistsError, match="unique within a region"):
        azure.client(TEST).batch_endpoints.begin_create_or_update(wanted)
    azure.client(PROD).batch_endpoints.begin_create_or_update(wanted).result()
    assert azure.arm("GET", _path(endpoint).replace(DEV.arm_id, TEST.arm_id)).status_code == 404


def test_long_operations_say_where_to_ask(azure: Azure, endpoint: str, pipeline: str) -> None:
    created = deploy(azure, endpoint, "blue", pipeline)
    assert (created.status_code, created.json()["properties"]["provisioningState"]) == (201, "Creating")
    assert azure.finished(created) == {"status": "Succeeded"}
    again = deploy(azure, endpoint, "blue", pipeline)
    assert (again.status_code, again.json()["properties"]["provisioningState"]) == (200, "Updating")
    azure.finished(again)
    deleted = azure.arm("DELETE", f"{_path(endpoint)}/deployments/blue")
    assert deleted.status_code == 202
    azure.finished(deleted)
    assert azure.arm("GET", deleted.headers["Location"].removeprefix(ARM)).status_code == 204
    assert azure.arm("DELETE", f"{_path(endpoint)}/deployments/blue").status_code == 204


def test_a_put_replaces_all(azure: Azure, endpoint: str, pipeline: str) -> None:
    azure.finished(deploy(azure, endpoint, "blue", pipeline))
    azure.finished(make_default(azure, endpoint, "blue"))
    azure.finished(make_default(azure, endpoint, None))
    assert "defaults" not in azure.arm("GET", _path(endpoint)).json()["properties"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"componentId": {"referenceType": "Id", "assetId": f"{DEV.arm_id}/components/gone/versions/1"}}, "gone"),
        ({"settings": {"default_compute": "gpu"}}, "gpu"),
        ({"deploymentConfigurationType": "Model"}, "pipeline components"),
    ],
)
def test_what_could_never_run_is_refused(
    azure: Azure, endpoint: str, pipeline: str, changes: dict[str, Any], named: str
) -> None:
    answer = deploy(azure, endpoint, "blue", pipeline, **changes)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    assert azure.arm("GET", f"{_path(endpoint)}/deployments").json()["value"] == []


def test_a_command_component_cannot_be_deployed(
    azure: Azure, work: BatchWorkspace, endpoint: str, pipeline: str
) -> None:
    command = f"{DEV.arm_id}/components/{work.name}_copy/versions/1"
    assert work.ml.components.get(f"{work.name}_copy", "1").type == "command"
    answer = deploy(azure, endpoint, "blue", command)
    assert (answer.status_code, "of type pipeline" in answer.text) == (400, True)


def test_a_default_must_be_there(azure: Azure, endpoint: str) -> None:
    answer = make_default(azure, endpoint, "nobody")
    assert (answer.status_code, "nobody" in answer.json()["error"]["message"]) == (400, True)


def test_deployments_come_in_pages(azure: Azure, endpoint: str, pipeline: str) -> None:
    for answer in [deploy(azure, endpoint, name, pipeline) for name in ("one", "two", "three")]:
        azure.finished(answer)
    first = azure.arm("GET", f"{_path(endpoint)}/deployments", params={"$top": "2"}).json()
    rest = azure.arm("GET", first["nextLink"].removeprefix(ARM)).json()
    assert [each["name"] for each in (*first["value"], *rest["value"])] == ["one", "two", "three"]


def test_outcomes_are_planted_for_batch(
    azure: Azure, endpoint: str, pipeline: str, outcomes: Callable[..., dict[str, Any]]
) -> None:
    outcomes(kind="batch_deployment", endpoint=endpoint, deployment="blue", code="Unlucky", message="No.")
    ended = azure.finished(deploy(azure, endpoint, "blue", pipeline))
    assert (ended["status"], ended["error"]["code"]) == ("Failed", "Unlucky")
    shown = azure.arm("GET", f"{_path(endpoint)}/deployments/blue").json()
    assert shown["properties"]["provisioningState"] == "Failed"
    assert "Unlucky" not in json.dumps(shown)
    held = outcomes(kind="batch_endpoint", endpoint=endpoint, outcome="stick")
    first = make_default(azure, endpoint, None)
    assert make_default(azure, endpoint, None).status_code == 409
    assert deploy(azure, endpoint, "green", pipeline).status_code == 409
    assert azure.arm("DELETE", _path(endpoint)).status_code == 409
    azure.control("DELETE", f"/azure-ml/outcomes/{held['number']}")
    assert azure.finished(first) == {"status": "Succeeded"}


# Invocation


def test_an_invocation_starts_a_job_of_the_default(
    azure: Azure, work: BatchWorkspace, endpoint: str, pipeline: str
) -> None:
    azure.finished(deploy(azure, endpoint, "blue", pipeline))
    azure.finished(make_default(azure, endpoint, "blue"))
    data = work.put("in", {"a": "x"})
    started: Any = work.ml.batch_endpoints.invoke(
        endpoint_name=endpoint,
        inputs={"data": data, "word": Input(type="string", default="bonjour")},
        outputs={"copy": work.place("out/")},
        experiment_name=work.name,
    )
    job = work.ended(started.name)
    assert (job.status, job.experiment_name) == ("Completed", work.name)
    assert work.files("out/") == {"a": "x", "word": "bonjour\n"}
    assert job.properties["azureml.deploymentname"] == "blue"


def test_a_header_names_another_deployment(azure: Azure, work: BatchWorkspace, endpoint: str, pipeline: str) -> None:
    for name in ("blue", "green"):
        azure.finished(deploy(azure, endpoint, name, pipeline))
    azure.finished(make_default(azure, endpoint, "blue"))
    data = work.put("in", {"a": "x"})
    given = {"data": {"jobInputType": "UriFolder", "uri": data.path}}
    body = {"properties": {"inputData": given}}
    answer = invoke(azure, endpoint, body, azure.token(ML), **{"azureml-model-deployment": "green"})
    assert answer.status_code == 201
    job = work.ended(answer.json()["name"])
    assert (job.status, job.properties["azureml.deploymentname"]) == ("Completed", "green")
    nobody = invoke(azure, endpoint, body, azure.token(ML), **{"azureml-model-deployment": "nobody"})
    assert (nobody.status_code, "nobody" in nobody.text) == (400, True)


def test_who_may_not_or_says_nothing_sensible_is_refused(azure: Azure, endpoint: str, pipeline: str) -> None:
    body: Any = {"properties": {"inputData": {}}}
    token = azure.token(ML)
    assert invoke(azure, endpoint, body, None).status_code == 401
    assert invoke(azure, endpoint, body, azure.token(f"{ARM}/.default")).status_code == 401
    assert invoke(azure, "nowhere", body, token).status_code == 404
    without_default = invoke(azure, endpoint, body, token)
    assert (without_default.status_code, "no default deployment" in without_default.text) == (400, True)
    azure.finished(deploy(azure, endpoint, "blue", pipeline))
    azure.finished(make_default(azure, endpoint, "blue"))
    missing = invoke(azure, endpoint, body, token)
    assert (missing.status_code, "input data" in missing.text) == (400, True)
    for nonsense in NONSENSE:
        assert invoke(azure, endpoint, nonsense, token).status_code == 400


def test_a_deployment_that_failed_cannot_be_invoked(
    azure: Azure, endpoint: str, pipeline: str, outcomes: Callable[..., dict[str, Any]]
) -> None:
    outcomes(kind="batch_deployment", endpoint=endpoint)
    azure.finished(deploy(azure, endpoint, "blue", pipeline))
    body = {
        "properties": {"inputData": {"data": {"jobInputType": "UriFolder", "uri": "azureml://datastores/x/paths/"}}}
    }
    answer = invoke(azure, endpoint, body, azure.token(ML), **{"azureml-model-deployment": "blue"})
    assert (answer.status_code, "Failed" in answer.text) == (400, True)
