"""What each tool of Azure ML leaves behind can be registered and deployed by hand, and predicts what it did there."""

import base64
import hashlib
import json
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, Model
from azure.core.exceptions import HttpResponseError

from demo.models import Trained, automl, designer, notebook
from emulator.topology import DEV
from tests.wire.azure_ml_clients import Azure, azure

__all__ = ["azure"]

# Of score.py in folders that people have published since 2022: Designer copies it as it is.
SCORE_OF_DESIGNER = "3ab51c35243577bcc9db50aad2757e99"
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"


@pytest.fixture(scope="module")
def ml(azure: Azure) -> MLClient:
    return azure.client(DEV)


def registered(azure: Azure, ml: MLClient, trained: Trained) -> Model:
    """From the run that trained it, if there is one, else from this machine."""
    for job in trained.jobs:
        files = _files(trained.run_outputs) if trained.run_outputs and job["name"] == trained.run else {}
        azure.control("POST", "/azure-ml/dev/jobs", {**job, "files": files})
        azure.control("POST", f"/azure-ml/dev/jobs/{job['name']}/finish", {})
    name = f"m{uuid.uuid4().hex[:8]}"
    made: Model = ml.models.create_or_update(Model(name=name, path=trained.model_path, type=trained.model_type))
    return made


def _files(folder: Path) -> dict[str, dict[str, str]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"base64": base64.b64encode(path.read_bytes()).decode()} for path in found
    }


def deploy(
    azure: Azure,
    ml: MLClient,
    model: Model,
    code: Path | None = None,
    script: str = "",
    conda: str = "",
    endpoint: str | None = None,
) -> str:
    """Deploy as the tool's documentation says. Returns the endpoint's name; the deployment is `blue`."""
    endpoint = endpoint or azure.new_endpoint(DEV)
    more: dict[str, Any] = {}
    if code:
        environment = Environment(name=str(model.name), version="1", image=IMAGE, conda_file=code / conda)
        more["environment"] = ml.environments.create_or_update(environment).id
        more["code_configuration"] = CodeConfiguration(code=str(code), scoring_script=script)
    wanted = ManagedOnlineDeployment(
        name="blue", endpoint_name=endpoint, model=model.id, instance_type="Standard_DS3_v2", instance_count=1, **more
    )
    ml.online_deployments.begin_create_or_update(wanted).result()
    return endpoint


def ask(azure: Azure, ml: MLClient, endpoint: str, request: Any) -> Any:
    uri = str(ml.online_endpoints.get(endpoint).scoring_uri)
    key = str(ml.online_endpoints.get_keys(endpoint).primary_key)
    return azure.score(uri, key, request, headers={"azureml-model-deployment": "blue"})


def same(found: list[Any], expected: list[Any]) -> bool:
    if isinstance(expected[0], list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == (expected if isinstance(expected[0], str) else pytest.approx(expected, rel=1e-6)))


# ------------------------------------------------------------------------------------------------------------- Automated ML


@pytest.mark.exhaustive
@pytest.mark.parametrize(("task", "scoring", "method"), [("classification", "both", "predict_proba")])
def test_automated_ml_with_its_scoring_file(
    azure: Azure, ml: MLClient, tmp_path: Path, task: Any, scoring: Any, method: Any
) -> None:
    trained = automl.older_form(tmp_path / "run", task, scoring=scoring, method=method)
    script = "scoring_file_v_1_0_0.py" if scoring == "v1" else "scoring_file_v_2_0_0.py"
    outputs = trained.folder.parent
    endpoint = deploy(azure, ml, registered(azure, ml, trained), outputs, script, "conda_env_v_1_0_0.yml")
    answer = ask(azure, ml, endpoint, trained.request)
    assert answer.status_code == 200, answer.text
    assert same(trained.answers(answer.json()), trained.predictions)
    log = ml.online_deployments.get_logs("blue", endpoint, lines=200)
    assert "stand-in: azureml-train-automl-runtime==1.62.0 cannot be installed" in log


def test_the_newer_scoring_file_wants_one_entry_in_the_models_folder(
    azure: Azure, ml: MLClient, tmp_path: Path
) -> None:
    trained = automl.older_form(tmp_path / "run", scoring="v2")
    outputs = trained.folder.parent
    code = (outputs, "scoring_file_v_2_0_0.py", "conda_env_v_1_0_0.yml")
    in_a_folder = Model(name=f"m{uuid.uuid4().hex[:8]}", path=outputs, type="custom_model")
    endpoint = deploy(azure, ml, ml.models.create_or_update(in_a_folder), *code)
    assert same(trained.answers(ask(azure, ml, endpoint, trained.request).json()), trained.predictions)


@pytest.mark.exhaustive
def test_automated_ml_with_mlflow(azure: Azure, ml: MLClient, tmp_path: Path) -> None:
    trained = automl.mlflow_form(tmp_path / "run")
    assert "azureml.engine: automl" in (trained.folder / "MLmodel").read_text()
    endpoint = deploy(azure, ml, registered(azure, ml, trained))
    assert same(trained.answers(ask(azure, ml, endpoint, trained.request).json()), trained.predictions)


def test_names_of_automated_ml_say_nothing_about_contents(tmp_path: Path) -> None:
    assert {path.stat().st_size for path in automl.empty_names(tmp_path / "run").iterdir()} == {0}


# ----------------------------------------------------------------------------------------------------------------- Designer


@pytest.fixture(scope="module")
def designed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return designer.trained_model(tmp_path_factory.mktemp("designer") / "run")


def test_designer_with_its_scoring_script(azure: Azure, ml: MLClient, designed: Trained) -> None:
    model = registered(azure, ml, designed)
    endpoint = deploy(azure, ml, model, designed.folder, "score.py", "conda_env.yaml")
    answer = ask(azure, ml, endpoint, designed.request)
    assert answer.status_code == 200, answer.text
    assert designed.answers(answer.json()) == designed.predictions
    log = ml.online_deployments.get_logs("blue", endpoint, lines=10_000)
    assert "stand-in: azureml-designer-classic-modules==0.0.185, azureml-designer-serving==0.0.13 cannot be" in log
    without_label = [{name: value for name, value in row.items() if name != "species"} for row in designed.request]
    refused = ask(azure, ml, endpoint, without_label)
    assert (refused.status_code, refused.headers["ms-azureml-model-error-statuscode"]) == (424, "500")


def test_designers_files_are_those_that_people_have(designed: Trained) -> None:
    sizes = {path.name: path.stat().st_size for path in designed.folder.iterdir()}
    assert set(sizes) == {
        "_meta.yaml", "_samples.json", "_schema.json", "conda_env.yaml", "data.ilearner", "model_spec.yaml", "score.py",
    }  # fmt: skip
    assert (sizes["_meta.yaml"], sizes["model_spec.yaml"], sizes["conda_env.yaml"]) == (117, 52, 202)
    script = (designed.folder / "score.py").read_bytes()
    assert hashlib.md5(script, usedforsecurity=False).hexdigest() == SCORE_OF_DESIGNER
    assert b"azureml.studio.modules.ml.initialize_models" in (designed.folder / "data.ilearner").read_bytes()[:160]
    schema = json.loads((designed.folder / "_schema.json").read_text())
    assert [column["name"] for column in schema["columnAttributes"]] == list(designed.rows.columns)
    assert schema["labelColumns"] == {}


@pytest.mark.exhaustive
def test_designers_script_does_not_find_a_model_that_was_moved(azure: Azure, ml: MLClient, tmp_path: Path) -> None:
    trained = designer.trained_model(tmp_path / "run", "flattened")
    endpoint = azure.new_endpoint(DEV)
    with pytest.raises(HttpResponseError, match="ResourceNotReady"):
        deploy(azure, ml, registered(azure, ml, trained), trained.folder, "score.py", "conda_env.yaml", endpoint)
    log = ml.online_deployments.get_logs("blue", endpoint, lines=10_000)
    assert "FileNotFoundError" in log
    assert "trained_model_outputs/_schema.json" in log


def test_what_looks_like_a_designer_model_and_is_none(tmp_path: Path) -> None:
    assert "type: DataFrameDirectory" in (designer.dataset_output(tmp_path / "table") / "_meta.yaml").read_text()
    assert (designer.packed_graph(tmp_path / "graph") / "studiomodelpackage" / "modelpackage.json").is_file()


# ---------------------------------------------------------------------------------------------------------------- notebooks


@pytest.mark.parametrize(
    "build",
    [notebook.mlflow, pytest.param(partial(automl.mlflow_form, monitoring=False), marks=pytest.mark.exhaustive)],
)
def test_an_mlflow_model_from_before_azures_script_wanted_monitoring(
    azure: Azure, ml: MLClient, tmp_path: Path, build: Callable[[Path], Trained]
) -> None:
    endpoint = azure.new_endpoint(DEV)
    with pytest.raises(HttpResponseError, match="ResourceNotReady"):
        deploy(azure, ml, registered(azure, ml, build(tmp_path / "run")), endpoint=endpoint)
    log = ml.online_deployments.get_logs("blue", endpoint, lines=200)
    assert "ModuleNotFoundError: No module named 'azureml.ai'" in log
