"""The unmodified client library of Azure ML against the local Azure, operation by operation."""

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient, command
from azure.ai.ml.constants import AssetTypes, ListViewType
from azure.ai.ml.entities import Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from emulator.topology import DEV, PROD, TEST, WorkspaceSpec
from tests.wire.azure_ml_clients import Azure, azure, outcomes

__all__ = ["azure", "outcomes"]

ARM = "https://management.azure.com"


@pytest.fixture
def ml(azure: Azure) -> MLClient:
    return azure.client(DEV)


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that nobody loads."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.txt").write_text(uuid.uuid4().hex)
    (folder / "notes.txt").write_text("two files, so that folders are seen to be folders")
    return folder


@pytest.fixture
def endpoint(azure: Azure) -> str:
    return azure.new_endpoint(DEV)


def deployment(endpoint: str, name: str, model: Model | str) -> ManagedOnlineDeployment:
    model_id = model if isinstance(model, str) else model.id
    return ManagedOnlineDeployment(
        name=name, endpoint_name=endpoint, model=model_id, instance_type="Standard_DS3_v2", instance_count=1
    )


# Workspaces and datastores


def test_a_workspace_says_where_its_data_plane_and_its_storage_are(ml: MLClient) -> None:
    workspace = ml.workspaces.get(DEV.name)
    assert workspace.location == DEV.location
    discovered = requests.get(workspace.discovery_url, timeout=10).json()
    assert discovered["api"] == f"https://{DEV.location}.api.azureml.ms"
    assert workspace.storage_account.endswith(f"/storageAccounts/{DEV.storage_account}")


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (WorkspaceSpec("x", DEV.subscription_id, DEV.resource_group, "nowhere", "", ""), "ResourceNotFound"),
        (WorkspaceSpec("x", DEV.subscription_id, "rg-nowhere", DEV.name, "", ""), "ResourceGroupNotFound"),
        (WorkspaceSpec("x", str(uuid.UUID(int=9)), DEV.resource_group, DEV.name, "", ""), "SubscriptionNotFound"),
    ],
)
def test_what_is_missing_on_the_way_to_a_workspace_is_named(azure: Azure, spec: WorkspaceSpec, code: str) -> None:
    with pytest.raises(ResourceNotFoundError) as refused:
        azure.client(spec).models.get("m", version="1")
    assert refused.value.error
    assert refused.value.error.code == code


def test_paths_are_matched_without_regard_to_case(azure: Azure) -> None:
    answer = azure.arm("GET", DEV.arm_id.upper().replace("/SUBSCRIPTIONS", "/subscriptions"))
    assert answer.status_code == 200
    assert answer.json()["properties"]["workspaceId"] == DEV.workspace_guid


def test_datastores(ml: MLClient) -> None:
    assert ml.datastores.get_default().name == "workspaceblobstore"
    assert ml.datastores.get("workspaceartifactstore").container_name == "azureml"
    assert {each.name for each in ml.datastores.list()} == {"workspaceblobstore", "workspaceartifactstore"}
    with pytest.raises(ResourceNotFoundError):
        ml.datastores.get("elsewhere")


# Models


def test_a_local_folder_becomes_a_model_and_comes_back(ml: MLClient, name: str, folder: Path, tmp_path: Path) -> None:
    made = ml.models.create_or_update(Model(name=name, path=folder, type=AssetTypes.CUSTOM_MODEL, tags={"a": "b"}))
    assert made.version == "1"
    assert made.creation_context.created_by == "data-scientist"
    ml.models.download(name, version="1", download_path=tmp_path / "down")
    assert (tmp_path / "down" / name / "model" / "weights.txt").read_text() == (folder / "weights.txt").read_text()


def test_versions_count_up_and_the_latest_is_the_youngest(ml: MLClient, name: str, folder: Path) -> None:
    for version in (None, "7", "3"):
        ml.models.create_or_update(Model(name=name, version=version, path=folder))
    assert ml.models.get(name, label="latest").version == "3"
    assert ml.models.create_or_update(Model(name=name, path=folder)).version == "8"
    assert [each.version for each in ml.models.list(name)] == ["8", "3", "7", "1"]


def test_tags_of_a_version_change_and_its_artifact_does_not(ml: MLClient, name: str, folder: Path) -> None:
    made = ml.models.create_or_update(Model(name=name, version="1", path=folder))
    made.tags["promote"] = "prod"
    ml.models.create_or_update(made)
    assert ml.models.get(name, version="1").tags == {"promote": "prod"}
    (folder / "weights.txt").write_text("other weights")
    with pytest.raises(HttpResponseError) as refused:
        ml.models.create_or_update(Model(name=name, version="1", path=folder))
    assert refused.value.status_code == 409
    assert ml.models.get(name, version="1").path == made.path


def test_an_archived_version_is_listed_as_such(ml: MLClient, name: str, folder: Path) -> None:
    for version in ("1", "2"):
        ml.models.create_or_update(Model(name=name, version=version, path=folder))
    ml.models.archive(name, version="1")
    assert [each.version for each in ml.models.list(name)] == ["2"]
    assert [each.version for each in ml.models.list(name, list_view_type=ListViewType.ARCHIVED_ONLY)] == ["1"]
    ml.models.restore(name, version="1")
    assert len(list(ml.models.list(name))) == 2


def test_lists_come_in_pages(azure: Azure, ml: MLClient, name: str, folder: Path) -> None:
    for _ in range(5):
        ml.models.create_or_update(Model(name=name, path=folder))
    first = azure.arm("GET", f"{DEV.arm_id}/models/{name}/versions", params={"$top": "2"}).json()
    assert [each["name"] for each in first["value"]] == ["5", "4"]
    second = azure.arm("GET", first["nextLink"].removeprefix(ARM)).json()
    assert [each["name"] for each in second["value"]] == ["3", "2"]
    last = azure.arm("GET", second["nextLink"].removeprefix(ARM)).json()
    assert [each["name"] for each in last["value"]] == ["1"]
    assert "nextLink" not in last


def test_a_model_of_a_job_lies_in_the_artifact_store(azure: Azure, ml: MLClient, name: str, tmp_path: Path) -> None:
    files = {"outputs/mlflow-model/MLmodel": "flavors: {}", "outputs/model.pkl": {"base64": "AAECAw=="}}
    azure.control("POST", "/azure-ml/dev/jobs", {"name": name, "jobType": "Command", "files": files})
    path = f"azureml://jobs/{name}/outputs/artifacts/paths/outputs/mlflow-model"
    made = ml.models.create_or_update(Model(name=name, path=path, type=AssetTypes.MLFLOW_MODEL))
    assert made.job_name == name
    assert made.path.endswith(
        f"/datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{name}/outputs/mlflow-model"
    )
    ml.models.download(name, version="1", download_path=tmp_path)
    assert (tmp_path / name / "mlflow-model" / "MLmodel").read_text() == "flavors: {}"
    made.tags["seen"] = "yes"
    ml.models.create_or_update(made)


def test_registration_is_announced_once(azure: Azure, ml: MLClient, name: str, folder: Path) -> None:
    made = ml.models.create_or_update(Model(name=name, path=folder, tags={"a": "b"}, properties={"p": "q"}))
    made.tags["c"] = "d"
    ml.models.create_or_update(made)
    ml.models.create_or_update(Model(name=name, version="2026.1", path=folder))
    first, second = [each for each in azure.events() if each["subject"].startswith(f"models/{name}:")]
    assert first["topic"] == DEV.arm_id
    assert first["eventType"] == "Microsoft.MachineLearningServices.ModelRegistered"
    assert first["subject"] == f"models/{name}:1"
    expected = {"ModelName": name, "ModelVersion": 1, "ModelTags": {"a": "b"}, "ModelProperties": {"p": "q"}}
    assert first["data"] == expected
    assert (first["dataVersion"], first["metadataVersion"]) == ("", "1")
    assert second["data"]["ModelVersion"] == "2026.1"


def test_a_model_must_say_where_it_is(azure: Azure, name: str) -> None:
    for uri in (None, "nonsense://x"):
        body = {"properties": {"modelUri": uri}}
        assert azure.arm("PUT", f"{DEV.arm_id}/models/{name}/versions/1", json=body).status_code == 400
    assert azure.arm("GET", f"{DEV.arm_id}/models/{name}/versions").status_code == 404


# Environments and code


def test_environments(ml: MLClient, name: str, tmp_path: Path) -> None:
    conda = tmp_path / "conda.yaml"
    conda.write_text("name: x\ndependencies:\n- python=3.11\n")
    wanted = Environment(name=name, version="1", image="mcr.microsoft.com/x:1", conda_file=conda)
    ml.environments.create_or_update(wanted)
    made = ml.environments.get(name, version="1")
    assert made.image == "mcr.microsoft.com/x:1"
    assert made.conda_file["dependencies"] == ["python=3.11"]
    with pytest.raises(HttpResponseError) as refused:
        ml.environments.create_or_update(Environment(name=name, version="1", image="mcr.microsoft.com/x:2"))
    assert refused.value.status_code == 409
    assert [each.version for each in ml.environments.list(name=name)] == ["1"]


def test_uploaded_code_is_found_again_by_its_hash(azure: Azure) -> None:
    wanted = uuid.uuid4().hex
    versions = f"{DEV.arm_id}/codes/{uuid.uuid4()}/versions"
    assert azure.arm("GET", versions, params={"hash": wanted, "hashVersion": "202208"}).json() == {"value": []}
    upload = {"pendingUploadType": "TemporaryBlobReference"}
    pending = azure.arm("POST", f"{versions}/1/startPendingUpload", json=upload).json()
    reference = pending["blobReferenceForConsumption"]
    base, query = reference["credential"]["sasUri"].split("?")
    put = requests.put(f"{base}/src/score.py?{query}", b"x", headers={"x-ms-blob-type": "BlockBlob"}, timeout=10)
    assert put.status_code == 201
    code = {"codeUri": f"{reference['blobUri']}/src", "properties": {"hash_sha256": wanted, "hash_version": 202208}}
    made = azure.arm("PUT", f"{versions}/1", json={"properties": code})
    assert made.status_code == 201
    elsewhere = f"{DEV.arm_id}/codes/{uuid.uuid4()}/versions"
    (hit,) = azure.arm("GET", elsewhere, params={"hash": wanted}).json()["value"]
    assert hit["id"] == made.json()["id"]


# Jobs


@pytest.mark.parametrize("job_type", ["Command", "Pipeline", "AutoML", "Sweep"])
def test_a_job_of_each_type_is_read(azure: Azure, ml: MLClient, name: str, job_type: str) -> None:
    properties = {"azureml.runsource": "x"}
    body = {"name": name, "jobType": job_type, "properties": properties, "experiment": "exp", "status": "Completed"}
    azure.control("POST", "/azure-ml/dev/jobs", body)
    job = ml.jobs.get(name)
    assert job.properties == properties
    assert (job.experiment_name, job.status) == ("exp", "Completed")


def test_a_step_of_a_pipeline_is_read_from_the_run_history(azure: Azure, ml: MLClient, name: str) -> None:
    azure.control("POST", "/azure-ml/dev/jobs", {"name": name, "jobType": "Pipeline"})
    for step in ("train", "score"):
        body = {"name": f"{name}-{step}", "parent": name, "properties": {"azureml.runsource": "azureml.StepRun"}}
        azure.control("POST", "/azure-ml/dev/jobs", body)
    assert azure.arm("GET", f"{DEV.arm_id}/jobs/{name}-train").json()["properties"] is None
    assert ml.jobs.get(f"{name}-train").properties["azureml.runsource"] == "azureml.StepRun"
    assert {each.name for each in ml.jobs.list(parent_job_name=name)} == {f"{name}-train", f"{name}-score"}
    run = azure.data_plane("GET", DEV, f"/history/v1.0{DEV.arm_id}/runs/{name}-train").json()
    assert (run["rootRunId"], run["parentRunId"]) == (name, name)


def test_artifacts_of_a_finished_job_are_downloaded(azure: Azure, ml: MLClient, name: str, tmp_path: Path) -> None:
    content = base64.b64encode(b"\x00pickle").decode()
    files = {"outputs/model.pkl": {"base64": content}, "user_logs/std_log.txt": "done"}
    azure.control("POST", "/azure-ml/dev/jobs", {"name": name, "jobType": "Command", "files": files})
    azure.control("POST", f"/azure-ml/dev/jobs/{name}/finish", {})
    ml.jobs.download(name, download_path=tmp_path)
    assert (tmp_path / "artifacts" / "outputs" / "model.pkl").read_bytes() == b"\x00pickle"


@pytest.mark.parametrize(("status", "kind"), [("Completed", "RunCompleted"), ("Failed", "RunStatusChanged")])
def test_the_end_of_a_run_is_announced(azure: Azure, name: str, status: str, kind: str) -> None:
    body = {"name": name, "jobType": "Command", "runType": "azureml.scriptrun", "tags": {"a": "b"}, "experiment": "exp"}
    azure.control("POST", "/azure-ml/dev/jobs", body)
    azure.control("POST", f"/azure-ml/dev/jobs/{name}/finish", {"status": status, "properties": {"p": "q"}})
    (event,) = [each for each in azure.events() if each["subject"].endswith(f"/runs/{name}")]
    assert event["eventType"] == f"Microsoft.MachineLearningServices.{kind}"
    data = event["data"]
    assert event["subject"] == f"experiments/{data['experimentId']}/runs/{name}"
    assert (data["runId"], data["experimentName"], data["runType"]) == (name, "exp", "azureml.scriptrun")
    assert (data["runTags"], data["runProperties"]) == ({"a": "b"}, {"p": "q"})
    assert data.get("runStatus") == ("failed" if status == "Failed" else None)


def test_a_submitted_job_waits_for_the_control_api_to_end_it(azure: Azure, ml: MLClient, name: str) -> None:
    environment = f"{DEV.arm_id}/environments/{name}/versions/1"
    made = ml.jobs.create_or_update(command(name=name, command="echo", environment=environment, compute="cpu"))
    assert made.status == "Starting"
    azure.control("POST", f"/azure-ml/dev/jobs/{name}/finish", {"status": "Canceled"})
    assert ml.jobs.get(name).status == "Canceled"
    assert name in {each.name for each in ml.jobs.list()}


# Online endpoints


def test_an_endpoint_is_created_changed_listed_and_deleted(ml: MLClient, name: str) -> None:
    wanted = ManagedOnlineEndpoint(name=name, auth_mode="key", tags={"a": "b"}, description="d")
    made = ml.online_endpoints.begin_create_or_update(wanted).result()
    assert made.provisioning_state == "Succeeded"
    assert made.scoring_uri == f"https://{name}.{DEV.location}.inference.ml.azure.com/score"
    made.tags = {"c": "d"}
    assert ml.online_endpoints.begin_create_or_update(made).result().tags == {"c": "d"}
    assert name in {each.name for each in ml.online_endpoints.list()}
    ml.online_endpoints.begin_delete(name).result()
    with pytest.raises(ResourceNotFoundError):
        ml.online_endpoints.get(name)


def test_a_patch_changes_tags(azure: Azure, ml: MLClient, endpoint: str) -> None:
    answer = azure.arm("PATCH", f"{DEV.arm_id}/onlineEndpoints/{endpoint}", json={"tags": {"x": "y"}})
    azure.finished(answer)
    assert ml.online_endpoints.get(endpoint).tags == {"x": "y"}


@pytest.mark.parametrize("bad", ["ab", "1abc", "has_underscore", "x" * 33, "ends-"])
def test_names_of_endpoints_are_checked(azure: Azure, bad: str) -> None:
    body = {"location": DEV.location, "properties": {"authMode": "Key"}}
    assert azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/{bad}", json=body).status_code == 400


def test_an_endpoint_name_is_taken_for_its_whole_region(azure: Azure, endpoint: str) -> None:
    wanted = ManagedOnlineEndpoint(name=endpoint, auth_mode="key")
    assert TEST.location == DEV.location != PROD.location
    with pytest.raises(ResourceExistsError, match="unique within a region"):
        azure.client(TEST).online_endpoints.begin_create_or_update(wanted)
    azure.client(PROD).online_endpoints.begin_create_or_update(wanted).result()


def test_keys_are_listed_and_regenerated(azure: Azure, ml: MLClient, endpoint: str) -> None:
    before = ml.online_endpoints.get_keys(endpoint)
    body = {"keyType": "Primary", "keyValue": "a-key-of-our-own"}
    azure.arm("POST", f"{DEV.arm_id}/onlineEndpoints/{endpoint}/regenerateKeys", json=body)
    after = ml.online_endpoints.get_keys(endpoint)
    assert (after.primary_key, after.secondary_key) == ("a-key-of-our-own", before.secondary_key)
    ml.online_endpoints.begin_regenerate_keys(endpoint, key_type="primary").result()
    assert ml.online_endpoints.get_keys(endpoint).primary_key != "a-key-of-our-own"


def test_the_answer_to_a_long_operation_says_where_to_ask_and_when(azure: Azure, name: str) -> None:
    body = {"location": DEV.location, "properties": {"authMode": "Key"}}
    created = azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/{name}", json=body)
    assert created.status_code == 201
    assert created.json()["properties"]["provisioningState"] == "Creating"
    polled = azure.arm("GET", created.headers["Azure-AsyncOperation"].removeprefix(ARM))
    assert polled.json()["status"] in ("InProgress", "Succeeded")
    for answer in (created, polled):
        assert answer.headers["Retry-After"] == "1"
    assert azure.finished(created) == {"status": "Succeeded"}
    again = azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/{name}", json=body)
    assert (again.status_code, again.json()["properties"]["provisioningState"]) == (200, "Updating")
    azure.finished(again)
    deleted = azure.arm("DELETE", f"{DEV.arm_id}/onlineEndpoints/{name}")
    assert deleted.status_code == 202
    azure.finished(deleted)
    assert azure.arm("GET", deleted.headers["Location"].removeprefix(ARM)).status_code == 204
    assert azure.arm("DELETE", f"{DEV.arm_id}/onlineEndpoints/{name}").status_code == 204


def test_while_an_endpoint_changes_nothing_else_may(
    azure: Azure, endpoint: str, ml: MLClient, outcomes: Callable[..., dict[str, Any]]
) -> None:
    held = outcomes(endpoint=endpoint, outcome="stick")
    resource = f"{DEV.arm_id}/onlineEndpoints/{endpoint}"
    body = {"location": DEV.location, "properties": {"authMode": "Key"}, "tags": {"n": "1"}}
    first = azure.arm("PUT", resource, json=body)
    assert first.status_code == 200
    assert azure.arm("PUT", resource, json=body).status_code == 409
    assert azure.arm("PATCH", resource, json={"tags": {}}).status_code == 409
    assert azure.arm("DELETE", resource).status_code == 409
    refused = azure.arm("PUT", f"{resource}/deployments/blue", json=body)
    assert refused.status_code == 409
    assert "because it is in Updating provisioning state" in refused.json()["error"]["message"]
    azure.control("DELETE", f"/azure-ml/outcomes/{held['number']}")
    assert azure.finished(first) == {"status": "Succeeded"}
    assert ml.online_endpoints.get(endpoint).tags == {"n": "1"}


def test_the_reason_of_a_failure_is_at_the_operation_only(
    azure: Azure, ml: MLClient, name: str, outcomes: Callable[..., dict[str, Any]]
) -> None:
    outcomes(endpoint=name, code="OutOfQuota", message="Not enough quota for Standard_DS3_v2.")
    poller = ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key"))
    with pytest.raises(HttpResponseError, match=r"\(OutOfQuota\) Not enough quota"):
        poller.result()
    failed = ml.online_endpoints.get(name)
    assert failed.provisioning_state == "Failed"
    shown = azure.arm("GET", f"{DEV.arm_id}/onlineEndpoints/{name}").json()
    assert "OutOfQuota" not in json.dumps(shown)
    url = shown["properties"]["properties"]["AzureAsyncOperationUri"]
    assert azure.arm("GET", url.removeprefix(ARM)).json()["error"]["code"] == "OutOfQuota"


def test_durations_are_those_of_the_emulators_clock(azure: Azure, ml: MLClient, name: str) -> None:
    before = azure.control("GET", "/azure-ml/durations")
    azure.control("PUT", "/azure-ml/durations", {"endpoint": 3600})
    try:
        body = {"location": DEV.location, "properties": {"authMode": "Key"}}
        created = azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/{name}", json=body)
        assert ml.online_endpoints.get(name).provisioning_state == "Creating"
        azure.control("POST", "/clock/advance", {"seconds": 3600})
        assert azure.finished(created) == {"status": "Succeeded"}
    finally:
        azure.control("PUT", "/azure-ml/durations", before)


# Deployments, as far as no server is needed


def test_a_deployment_needs_its_endpoint_and_its_model(ml: MLClient, azure: Azure, endpoint: str) -> None:
    missing = f"{DEV.arm_id}/models/nobody/versions/1"
    with pytest.raises(ResourceNotFoundError, match="nobody"):
        ml.online_deployments.begin_create_or_update(deployment(endpoint, "blue", missing))
    body = {"location": DEV.location, "properties": {}}
    answer = azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/nowhere/deployments/blue", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")


@pytest.mark.parametrize("traffic", [{"blue": 100}, {"blue": 0}, [], {"blue": "100"}])
def test_traffic_goes_to_deployments_that_exist(azure: Azure, endpoint: str, traffic: Any) -> None:
    body = {"location": DEV.location, "properties": {"authMode": "Key", "traffic": traffic}}
    answer = azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/{endpoint}", json=body)
    assert answer.status_code == (400 if traffic else 200)


def test_a_script_needs_an_environment_and_a_custom_model_a_script(
    azure: Azure, ml: MLClient, endpoint: str, name: str, folder: Path
) -> None:
    model = ml.models.create_or_update(Model(name=name, path=folder, type=AssetTypes.CUSTOM_MODEL))
    with pytest.raises(HttpResponseError, match="codeConfiguration"):
        ml.online_deployments.begin_create_or_update(deployment(endpoint, "blue", model))


# The control API


def test_unknown_fields_are_refused_by_name(azure: Azure) -> None:
    for path in ("/azure-ml/outcomes", "/azure-ml/dev/jobs"):
        answer = azure.control_answer("POST", path, {"nmae": "x"})
        assert answer.status_code == 400
        assert "nmae" in answer.json()["error"]["message"]
    assert azure.control_answer("PUT", "/azure-ml/durations", {"endpoint": -1}).status_code == 400
    assert azure.control_answer("POST", "/azure-ml/nowhere/jobs", {"name": "x"}).status_code == 404


def test_resources_are_listed_for_people(azure: Azure, ml: MLClient, endpoint: str, name: str, folder: Path) -> None:
    ml.models.create_or_update(Model(name=name, path=folder))
    shown = azure.control("GET", "/azure-ml/dev/resources")
    assert f"{name}:1" in shown["assets"]["models"]
    assert endpoint in {each["name"] for each in shown["onlineEndpoints"]}
