"""Online deployments serve real models: deployed by the unmodified client library, scored over HTTPS."""

import json
import os
import signal
import textwrap
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow.sklearn
import pandas
import psutil
import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import (
    CodeConfiguration,
    Environment,
    ManagedOnlineDeployment,
    Model,
    OnlineRequestSettings,
)
from azure.core.exceptions import HttpResponseError
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from emulator.serving.environments import Wanted, from_conda, image_packages, unsatisfied
from emulator.topology import DEV
from tests.models import MONITORING, pins
from tests.wire.azure_ml_clients import Azure, azure

__all__ = ["azure"]

ROWS = pandas.DataFrame({"rooms": [1.0, 2.0, 4.0], "age": [30.0, 10.0, 0.0]})
TABLE = {"input_data": {"columns": ["rooms", "age"], "index": [0, 1], "data": [[3, 5], [1, 30]]}}


@pytest.fixture(scope="module")
def ml(azure: Azure) -> MLClient:
    return azure.client(DEV)


def trained(folder: Path, factor: float) -> LinearRegression:
    """Train a small model and save it as MLflow does."""
    model = LinearRegression().fit(ROWS, ROWS["rooms"] * factor - ROWS["age"])
    mlflow.sklearn.save_model(
        model,
        str(folder),
        signature=infer_signature(ROWS, model.predict(ROWS)),
        input_example=ROWS,
        serialization_format="cloudpickle",
        pip_requirements=[*pins("mlflow-skinny", "scikit-learn"), MONITORING],
    )
    return model


@pytest.fixture(scope="module")
def models(ml: MLClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Two registered MLflow models that answer differently."""
    registered = {}
    for name, factor in (("tens", 10.0), ("hundreds", 100.0)):
        folder = tmp_path_factory.mktemp(name) / "model"
        trained(folder, factor)
        registered[name] = ml.models.create_or_update(Model(name=name, path=folder, type=AssetTypes.MLFLOW_MODEL))
    return registered


def deploy(ml: MLClient, endpoint: str, name: str, model: Model | None, **more: Any) -> ManagedOnlineDeployment:
    wanted = ManagedOnlineDeployment(
        name=name,
        endpoint_name=endpoint,
        model=model.id if model else None,
        instance_type="Standard_DS3_v2",
        instance_count=1,
        **more,
    )
    made: ManagedOnlineDeployment = ml.online_deployments.begin_create_or_update(wanted).result()
    return made


def send_traffic(ml: MLClient, endpoint: str, **traffic: int) -> None:
    changed = ml.online_endpoints.get(endpoint)
    changed.traffic = traffic
    ml.online_endpoints.begin_create_or_update(changed).result()


@pytest.fixture(scope="module")
def served(azure: Azure, ml: MLClient, models: dict[str, Model]) -> str:
    """An endpoint with both models; all traffic goes to `blue`."""
    endpoint = azure.new_endpoint(DEV)
    deploy(ml, endpoint, "blue", models["tens"])
    deploy(ml, endpoint, "green", models["hundreds"])
    send_traffic(ml, endpoint, blue=100)
    return endpoint


@pytest.fixture(scope="module")
def key(ml: MLClient, served: str) -> str:
    return str(ml.online_endpoints.get_keys(served).primary_key)


def scoring_uri(ml: MLClient, endpoint: str) -> str:
    return str(ml.online_endpoints.get(endpoint).scoring_uri)


def code(tmp_path: Path, script: str) -> CodeConfiguration:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "score.py").write_text(textwrap.dedent(script))
    return CodeConfiguration(code=str(folder), scoring_script="score.py")


def with_code(ml: MLClient, tmp_path: Path, endpoint: str, script: str, **more: Any) -> ManagedOnlineDeployment:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "factor.txt").write_text("3")
    name = f"m{uuid.uuid4().hex[:8]}"
    model = ml.models.create_or_update(Model(name=name, path=folder, type=AssetTypes.CUSTOM_MODEL))
    environment = ml.environments.create_or_update(Environment(name=name, version="1", image="mcr.microsoft.com/x:1"))
    return deploy(
        ml,
        endpoint,
        "blue",
        model,
        environment=environment.id,
        code_configuration=code(tmp_path, script),
        environment_variables={"GREETING": "hello"},
        **more,
    )


def process_of(azure: Azure, endpoint: str, deployment: str) -> int:
    path = f"/azure-ml/dev/online-endpoints/{endpoint}/deployments/{deployment}/log"
    return int(azure.control("GET", path)["process"])


# No-code MLflow


def test_the_model_gives_its_own_predictions(azure: Azure, ml: MLClient, served: str, key: str) -> None:
    answer = azure.score(scoring_uri(ml, served), key, TABLE)
    assert answer.status_code == 200, answer.text
    assert answer.json() == pytest.approx([25.0, -20.0])
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert answer.headers["x-ms-server-version"].startswith("azmlinfsrv/")


def test_the_clients_own_invoke(ml: MLClient, served: str, tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text(json.dumps(TABLE))
    for deployment, expected in (("green", [295.0, 70.0]), ("blue", [25.0, -20.0])):
        answer = ml.online_endpoints.invoke(served, request_file=tmp_path / "sample.json", deployment_name=deployment)
        assert json.loads(answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input_data": {"columns": ["age", "rooms"], "data": [[5, 3]]}}, 200),
        ({"input_data": {"rooms": [3.0], "age": [5.0]}}, 200),
        ({}, 400),
        ({"dataframe_split": TABLE["input_data"]}, 400),
        ([], 400),
        ({"input_data": {"columns": ["rooms"], "index": [0], "data": [[3]]}}, 500),
        ({"input_data": {"columns": ["rooms", "age"], "index": [0], "data": [["many", "old"]]}}, 500),
    ],
)
def test_what_input_data_may_be(azure: Azure, ml: MLClient, served: str, key: str, body: Any, status: int) -> None:
    answer = azure.score(scoring_uri(ml, served), key, body)
    if status == 200:
        assert answer.json() == pytest.approx([25.0])
    else:
        assert answer.status_code == 424
        assert answer.headers["ms-azureml-model-error-statuscode"] == str(status)


def test_swagger_comes_from_the_sample(azure: Azure, ml: MLClient, served: str, key: str) -> None:
    uri = scoring_uri(ml, served).replace("/score", "/swagger.json")
    answer = azure.score(uri, key, None, method="GET")
    assert answer.status_code == 200
    assert "input_data" in answer.text


# The scoring URI


@pytest.mark.parametrize("key_of", [None, "not-the-key"])
def test_only_a_key_opens_it(azure: Azure, ml: MLClient, served: str, key_of: str | None) -> None:
    assert azure.score(scoring_uri(ml, served), key_of, TABLE).status_code == 401


def test_a_regenerated_key_closes_the_old_one(azure: Azure, ml: MLClient, models: dict[str, Model]) -> None:
    endpoint = azure.new_endpoint(DEV)
    old = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    uri = scoring_uri(ml, endpoint)
    assert azure.score(uri, old, TABLE).status_code == 404  # let in, but there is nothing that answers
    ml.online_endpoints.begin_regenerate_keys(endpoint, key_type="primary").result()
    assert azure.score(uri, old, TABLE).status_code == 401


def test_a_token_opens_it_until_it_expires(azure: Azure, ml: MLClient) -> None:
    endpoint = azure.new_endpoint(DEV, "AMLToken")
    token = ml.online_endpoints.get_keys(endpoint).access_token
    uri = scoring_uri(ml, endpoint)
    assert azure.score(uri, token, TABLE).status_code == 404
    azure.control("POST", "/clock/advance", {"seconds": 13 * 3600})
    assert azure.score(uri, token, TABLE).status_code == 401


def test_an_identity_opens_it_with_a_token_for_machine_learning(azure: Azure, ml: MLClient) -> None:
    uri = scoring_uri(ml, azure.new_endpoint(DEV, "AADToken"))
    assert azure.score(uri, azure.token("https://ml.azure.com/.default"), TABLE).status_code == 404
    assert azure.score(uri, azure.token("https://management.azure.com/.default"), TABLE).status_code == 401
    assert azure.score(uri, None, TABLE).status_code == 401


def test_without_traffic_nothing_answers(azure: Azure, ml: MLClient, models: dict[str, Model]) -> None:
    endpoint = azure.new_endpoint(DEV)
    deploy(ml, endpoint, "blue", models["tens"])
    key = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    uri = scoring_uri(ml, endpoint)
    assert azure.score(uri, key, TABLE).status_code == 404
    header = {"azureml-model-deployment": "blue"}
    assert azure.score(uri, key, TABLE, headers=header).json() == pytest.approx([25.0, -20.0])
    assert azure.score(uri, key, TABLE, headers={"azureml-model-deployment": "nobody"}).status_code == 404


def test_traffic_is_split_as_asked(azure: Azure, ml: MLClient, served: str, key: str) -> None:
    send_traffic(ml, served, blue=70, green=30)
    try:
        uri = scoring_uri(ml, served)
        answers = Counter(azure.score(uri, key, TABLE).headers["azureml-model-deployment"] for _ in range(20))
        assert answers == {"blue": 14, "green": 6}
    finally:
        send_traffic(ml, served, blue=100)


def test_an_error_of_the_container_becomes_424(azure: Azure, ml: MLClient, tmp_path: Path) -> None:
    endpoint = azure.new_endpoint(DEV)
    script = """
        def init(): pass
        def run(data): raise ValueError("no such customer")
    """
    with_code(ml, tmp_path, endpoint, script)
    send_traffic(ml, endpoint, blue=100)
    key = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    answer = azure.score(scoring_uri(ml, endpoint), key, {})
    assert answer.status_code == 424
    assert answer.headers["ms-azureml-model-error-statuscode"] == "500"
    assert "ms-azureml-model-error-reason" in answer.headers
    assert "no such customer" in ml.online_deployments.get_logs("blue", endpoint, lines=100)


def test_a_slow_answer_is_a_timeout(azure: Azure, ml: MLClient, tmp_path: Path) -> None:
    endpoint = azure.new_endpoint(DEV)
    script = """
        import time
        def init(): pass
        def run(data): time.sleep(30)
    """
    with_code(ml, tmp_path, endpoint, script, request_settings=OnlineRequestSettings(request_timeout_ms=300))
    key = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    header = {"azureml-model-deployment": "blue"}
    assert azure.score(scoring_uri(ml, endpoint), key, {}, headers=header).status_code == 408


# Deployments


def test_code_finds_its_model_and_its_variables(azure: Azure, ml: MLClient, tmp_path: Path) -> None:
    endpoint = azure.new_endpoint(DEV)
    script = """
        import json, os, pathlib
        def init():
            global factor
            root = pathlib.Path(os.environ["AZUREML_MODEL_DIR"])
            factor = int((root / "parts" / "factor.txt").read_text())
        def run(data):
            return {"product": factor * json.loads(data)["value"], "greeting": os.environ["GREETING"],
                    "leaked": [name for name in os.environ if "PROXY" in name or "IDENTITY" in name]}
    """
    with_code(ml, tmp_path, endpoint, script)
    key = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    header = {"azureml-model-deployment": "blue"}
    answer = azure.score(scoring_uri(ml, endpoint), key, {"value": 7}, headers=header)
    assert answer.json() == {"product": 21, "greeting": "hello", "leaked": []}


def test_a_model_that_cannot_be_loaded_fails_its_deployment(ml: MLClient, azure: Azure, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    trained(folder, 1.0)
    (folder / "model.pkl").write_bytes(b"these bytes are not a model")
    name = f"m{uuid.uuid4().hex[:8]}"
    model = ml.models.create_or_update(Model(name=name, path=folder, type=AssetTypes.MLFLOW_MODEL))
    endpoint = azure.new_endpoint(DEV)
    with pytest.raises(HttpResponseError, match=r"\(ResourceNotReady\) User container has crashed or terminated"):
        deploy(ml, endpoint, "blue", model)
    assert ml.online_deployments.get("blue", endpoint).provisioning_state == "Failed"
    assert "UnpicklingError" in ml.online_deployments.get_logs("blue", endpoint, lines=200)
    with pytest.raises(HttpResponseError, match=r"unrecoverable state\. Delete and re-create"):
        deploy(ml, endpoint, "blue", model)
    ml.online_deployments.begin_delete("blue", endpoint).result()
    assert list(ml.online_deployments.list(endpoint)) == []


def test_a_model_whose_files_are_gone_fails_its_deployment(ml: MLClient, azure: Azure) -> None:
    name = f"m{uuid.uuid4().hex[:8]}"
    path = f"azureml://datastores/workspaceblobstore/paths/nothing/{name}"
    model = ml.models.create_or_update(Model(name=name, path=path, type=AssetTypes.MLFLOW_MODEL))
    endpoint = azure.new_endpoint(DEV)
    with pytest.raises(HttpResponseError, match="Unable to download the model"):
        deploy(ml, endpoint, "blue", model)


def test_an_update_replaces_the_server_and_a_failed_one_does_not(
    azure: Azure, ml: MLClient, models: dict[str, Model]
) -> None:
    endpoint = azure.new_endpoint(DEV)
    deploy(ml, endpoint, "blue", models["tens"])
    first = process_of(azure, endpoint, "blue")
    deploy(ml, endpoint, "blue", models["tens"], tags={"only": "tags"})
    assert process_of(azure, endpoint, "blue") == first
    deploy(ml, endpoint, "blue", models["hundreds"])
    second = process_of(azure, endpoint, "blue")
    assert not psutil.pid_exists(first)
    azure.control("POST", "/azure-ml/outcomes", {"endpoint": endpoint, "deployment": "blue", "kind": "deployment"})
    with pytest.raises(HttpResponseError):
        deploy(ml, endpoint, "blue", models["tens"])
    assert ml.online_deployments.get("blue", endpoint).provisioning_state == "Failed"
    assert process_of(azure, endpoint, "blue") == second


def test_deletion_frees_the_process(azure: Azure, ml: MLClient, models: dict[str, Model]) -> None:
    endpoint = azure.new_endpoint(DEV)
    for name in ("blue", "green"):
        deploy(ml, endpoint, name, models["tens"])
    send_traffic(ml, endpoint, blue=100)
    blue, green = process_of(azure, endpoint, "blue"), process_of(azure, endpoint, "green")
    with pytest.raises(HttpResponseError, match="live traffic"):
        ml.online_deployments.begin_delete("blue", endpoint)
    ml.online_deployments.begin_delete("green", endpoint).result()
    assert (psutil.pid_exists(blue), psutil.pid_exists(green)) == (True, False)
    ml.online_endpoints.begin_delete(endpoint).result()
    assert not psutil.pid_exists(blue)


def test_a_dead_server_is_unavailable_and_an_update_starts_another(
    azure: Azure, ml: MLClient, models: dict[str, Model]
) -> None:
    endpoint = azure.new_endpoint(DEV)
    deploy(ml, endpoint, "blue", models["tens"])
    key = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    uri = scoring_uri(ml, endpoint)
    header = {"azureml-model-deployment": "blue"}
    os.kill(process_of(azure, endpoint, "blue"), signal.SIGKILL)
    path = f"/azure-ml/dev/online-endpoints/{endpoint}/deployments/blue/log"
    deadline = time.monotonic() + 10
    while azure.control("GET", path)["process"] is not None:
        assert time.monotonic() < deadline, "the end of the server was not noticed"
    assert azure.score(uri, key, TABLE, headers=header).status_code == 503
    deploy(ml, endpoint, "blue", models["tens"])
    assert azure.score(uri, key, TABLE, headers=header).status_code == 200


def test_a_server_is_started_when_the_duration_has_passed(azure: Azure, ml: MLClient, models: dict[str, Model]) -> None:
    endpoint = azure.new_endpoint(DEV)
    before = azure.control("GET", "/azure-ml/durations")
    azure.control("PUT", "/azure-ml/durations", {"deployment": 1200})
    try:
        path = f"{DEV.arm_id}/onlineEndpoints/{endpoint}/deployments/blue"
        properties = {"model": models["tens"].id, "endpointComputeType": "Managed"}
        body = {"location": DEV.location, "properties": properties}
        created = azure.arm("PUT", path, json=body)
        assert created.status_code == 201
        log = azure.control("GET", f"/azure-ml/dev/online-endpoints/{endpoint}/deployments/blue/log")
        assert log["process"] is None
        assert azure.arm("PUT", path, json=body).status_code == 409
        assert azure.arm("DELETE", path).status_code == 409
        azure.control("POST", "/clock/advance", {"seconds": 1200})
        assert azure.finished(created) == {"status": "Succeeded"}
        assert process_of(azure, endpoint, "blue")
    finally:
        azure.control("PUT", "/azure-ml/durations", before)


# Environments


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("scikit-learn=={same}", True),
        ("scikit-learn=={minor}.99", True),
        ("scikit-learn=={major}.999.0", False),
        ("mlflow-skinny>=2", True),
        ("mlflow", True),
        ("pandas>=1,<99", True),
        ("a-package-that-nobody-installed", False),
        ("azureml-defaults==1.54.0", True),
        ("# a comment", True),
        ("--extra-index-url x", True),
        ("pywin32==300; sys_platform == 'win32'", True),
    ],
)
def test_what_the_serving_image_satisfies(requirement: str, met: bool) -> None:
    same = image_packages()["scikit-learn"]
    line = requirement.format(same=same, minor=f"{same.major}.{same.minor}", major=same.major)
    assert (unsatisfied([line], image_packages()) == []) == met


def test_conda_packages_count_as_pip_packages() -> None:
    text = "dependencies:\n- python=3.8.10\n- scikit-learn=1.5.1\n- py-xgboost=1.5\n- pip:\n  - azureml-defaults\n"
    assert from_conda(text) == Wanted(("scikit-learn==1.5.1", "xgboost==1.5", "azureml-defaults"), "3.8.10")


def test_an_environment_that_cannot_be_built_is_said_at_the_head_of_the_log(
    azure: Azure, ml: MLClient, tmp_path: Path, models: dict[str, Model]
) -> None:
    conda = tmp_path / "conda.yaml"
    conda.write_text(
        "name: x\ndependencies:\n- python=3.6.8\n- pip:\n  - scikit-learn==0.0.0.dev99\n  - azureml-ai-monitoring\n"
    )
    name = f"e{uuid.uuid4().hex[:8]}"
    environment = ml.environments.create_or_update(
        Environment(name=name, version="1", image="mcr.microsoft.com/x:1", conda_file=conda)
    )
    endpoint = azure.new_endpoint(DEV)
    deploy(ml, endpoint, "blue", models["tens"], environment=environment.id)
    log = ml.online_deployments.get_logs("blue", endpoint, lines=1000)
    head = log.split("Container logs:\n")[1].splitlines()[:3]
    assert "Python 3.6.8" in head[0]
    assert "scikit-learn==0.0.0.dev99" in head[1]
    assert "cannot be built here" in head[2]
