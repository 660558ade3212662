"""Recipes: how each kind of model is served, and what is said when a part is missing."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from core.errors import Reason, Refusal
from core.packaging import Code, File, Manifest
from core.recipes import Folder, GivenScoring, Material, Packaged, package

MLMODEL = """\
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl, env: conda.yaml}
  sklearn: {sklearn_version: 1.9.1}
saved_input_example_info: {artifact_path: input_example.json, type: dataframe, pandas_orient: split}
"""
CONDA = "channels: [conda-forge]\ndependencies:\n- python=3.11.7\n- pip\n- pip: [mlflow==3.17.2, scikit-learn==1.9.1]\n"
MONITORED = CONDA.replace("[mlflow", "[azureml-ai-monitoring==1.0.0, mlflow")
EXAMPLE = '{"columns": ["a", "b"], "data": [[1.5, "x"]]}'
MLFLOW = {"MLmodel": MLMODEL, "conda.yaml": CONDA, "model.pkl": "pickle", "input_example.json": EXAMPLE}

AUTOML_CONDA = """\
name: project_environment
dependencies:
- python=3.9.22
- pip:
  - azureml-train-automl-runtime==1.60.0
  - inference-schema
  - azureml-interpret==1.60.0
  - azureml-defaults==1.60.0
- numpy==1.23.5
- scikit-learn==1.5.1
channels: [anaconda, conda-forge]
"""
V1 = """\
import pandas as pd
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema
data_sample = PandasParameterType(pd.DataFrame({"age": pd.Series([0], dtype="int64"), "job": pd.Series(["example_value"], dtype="object")}))
method_sample = StandardPythonParameterType("predict")
def init():
    pass
@input_schema("method", method_sample, convert_to_provided_type=False)
@input_schema("data", data_sample)
def run(data, method="predict"):
    return "{}"
"""
V2 = V1.replace(
    '@input_schema("data", data_sample)', '@input_schema("Inputs", StandardPythonParameterType({"data": data_sample}))'
)
V2 = V2.replace(
    '@input_schema("method", method_sample', '@input_schema("GlobalParameters", StandardPythonParameterType(1.0)'
)
V2 = V2.replace("def run(data, method", "def run(Inputs, GlobalParameters").replace("_sample = ", "_sample = ")
AUTOML = {
    "model.pkl": "pickle",
    "scoring_file_v_1_0_0.py": V1,
    "scoring_file_v_2_0_0.py": V2,
    "conda_env_v_1_0_0.yml": AUTOML_CONDA,
}

DESIGNER_CONDA = """\
name: project_environment
channels: [conda-forge]
dependencies:
- python=3.8.10
- pip=20.2
- pip: [azureml-defaults, azureml-designer-classic-modules==0.0.182, azureml-designer-serving==0.0.13]
"""
SCHEMA = json.dumps(
    {
        "columnAttributes": [
            {
                "name": "age",
                "type": "Numeric",
                "isFeature": True,
                "elementType": {"typeName": "float64", "isNullable": True},
            },
            {
                "name": "label",
                "type": "Numeric",
                "isFeature": True,
                "elementType": {"typeName": "int64", "isNullable": False},
            },
        ]
    }
)
DESIGNER = {
    "_meta.yaml": "type: ModelDirectory\nextension: {}\nmodel: model_spec.yaml\n",
    "model_spec.yaml": "model_type: ILearnerDotNet\nfile_name: data.ilearner\n",
    "data.ilearner": "pickle",
    "score.py": "from azureml.studio.modules.ml.score import ScoreModelModule\ndef init():\n    pass\ndef run(data):\n    return data\n",
    "conda_env.yaml": DESIGNER_CONDA,
    "_schema.json": SCHEMA,
    "_samples.json": '[{"age": {"isNan": true}, "label": 1}, {"age": 30.5, "label": 0}]',
}
SCORE = "def init():\n    pass\ndef run(data):\n    return data\n"
SCRIPT = {"model.joblib": "pickle", "score.py": SCORE, "features.py": "X = 1\n", "conda.yaml": CONDA}
OUTPUTS, TRAINED = "outputs", "trained_model_outputs"


class TextFolder:
    """A folder whose files are the texts given."""

    def __init__(self, files: Mapping[str, str], folder: str = "model") -> None:
        self._files = files
        listed = tuple(File(path=path, size=len(text), etag="e") for path, text in sorted(files.items()))
        root = f"LocalUpload/0a1b/{folder}" if folder else "ExperimentRun/dcid.run_1/outputs"
        self.manifest = Manifest(account_url="https://a", container="azureml", root=root, folder=folder, files=listed)

    def read(self, path: str) -> bytes:
        return self._files[path].encode()


def a_material(
    files: Mapping[str, str], folder: str = "model", run: Mapping[str, Mapping[str, str]] | None = None, **more: Any
) -> Material:
    folders: dict[str, Folder] = {path: TextFolder(inside, path) for path, inside in (run or {}).items()}
    values = {"modes": frozenset({"realtime", "batch"}), "name": "churn", "version": "3"} | more
    return Material(folder=TextFolder(files, folder), run_folder=folders.get, **values)


def packaged(files: Mapping[str, str], **more: Any) -> Packaged:
    return package(a_material(files, **more))


def refused(files: Mapping[str, str], **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        packaged(files, **more)
    assert caught.value.reason is Reason.NOT_SERVABLE
    assert caught.value.remedy
    return caught.value


def without(files: Mapping[str, str], *names: str) -> dict[str, str]:
    return {path: text for path, text in files.items() if path not in names}


def below(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{path}": text for path, text in files.items()}


def settings(found: Packaged) -> Any:
    assert found.recipe.batch is not None
    assert found.recipe.batch.code is not None
    return json.loads(found.recipe.batch.code.files["scoring.json"])


def pip_of(environment: Any) -> list[str]:
    dependencies = yaml.safe_load(environment.conda_file)["dependencies"]
    return next(each["pip"] for each in dependencies if isinstance(each, dict))


# --------------------------------------------------------------------------------------------------------------- MLflow


def test_an_mlflow_model_whose_environment_can_run_azures_script_needs_no_code() -> None:
    found = packaged(MLFLOW | {"conda.yaml": MONITORED})
    recipe = found.recipe
    assert (recipe.kind, recipe.model_type) == ("mlflow", "mlflow_model")
    assert recipe.realtime is not None
    assert (recipe.realtime.code, recipe.realtime.environment) == (None, None)
    assert recipe.sample_request == {"input_data": {"columns": ["a", "b"], "index": [0], "data": [[1.5, "x"]]}}
    assert recipe.sample_rows == ({"a": 1.5, "b": "x"},)
    assert found.manifest.paths() == tuple(sorted(MLFLOW))


def test_an_older_mlflow_model_gets_our_script_and_its_own_environment() -> None:
    """Azure's generated script imports azureml.ai.monitoring, which nobody asked for when the model was logged."""
    realtime = packaged(MLFLOW).recipe.realtime
    assert realtime is not None
    assert realtime.code is not None
    assert realtime.code.scoring_script == "promotion_mlflow_online.py"
    assert "scikit-learn==1.9.1" in pip_of(realtime.environment)
    assert any("inference-server" in line for line in pip_of(realtime.environment))


def test_an_mlflow_model_is_scored_in_batch_by_pyfunc() -> None:
    found = packaged(MLFLOW)
    assert settings(found) == {"kind": "mlflow", "model": {"name": "churn", "version": "3"}}
    assert found.recipe.batch is not None
    assert any(line.startswith("azureml-core") for line in pip_of(found.recipe.batch.environment))


def test_only_what_the_stages_need_is_made() -> None:
    assert packaged(MLFLOW, modes=frozenset({"realtime"})).recipe.batch is None
    assert packaged(MLFLOW, modes=frozenset({"batch"})).recipe.realtime is None


def test_requirements_will_do_where_there_is_no_conda_file() -> None:
    files = without(MLFLOW, "conda.yaml") | {"requirements.txt": "mlflow==3.17.2\nscikit-learn==1.9.1\n"}
    realtime = packaged(files).recipe.realtime
    assert realtime is not None
    assert "scikit-learn==1.9.1" in pip_of(realtime.environment)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (
            without(MLFLOW, "conda.yaml"),
            "neither in conda.yaml nor in requirements.txt; looked in azureml/LocalUpload/0a1b/model",
        ),
        (MLFLOW | {"MLmodel": "flavors: {onnx: {}, 1: {}}"}, "MLmodel has no python_function flavor, only onnx, 1"),
        (MLFLOW | {"MLmodel": "nothing"}, "MLmodel names no flavors"),
        (MLFLOW | {"conda.yaml": "dependencies: ["}, "conda.yaml"),
        (without(MLFLOW, "MLmodel"), "the model has no MLmodel file at its root, no score.py"),
        ({}, "which has no files"),
        (below("mlflow-model", MLFLOW), "(there is one at mlflow-model/MLmodel: register that folder itself)"),
    ],
)
def test_an_mlflow_model_that_lacks_something_is_refused(files: dict[str, str], why: str) -> None:
    assert why in str(refused(files))


# --------------------------------------------------------------------------------------------------------------- AutoML


def test_automl_is_served_by_its_newer_scoring_file() -> None:
    found = packaged(AUTOML)
    recipe = found.recipe
    assert (recipe.kind, recipe.model_type) == ("automl", "custom_model")
    assert recipe.realtime is not None
    assert recipe.realtime.code is not None
    assert recipe.realtime.code.scoring_script == "scoring_file_v_2_0_0.py"
    assert recipe.sample_request == {"Inputs": {"data": [{"age": 0, "job": "example_value"}]}, "GlobalParameters": 1.0}
    assert recipe.is_sample_made_up
    assert recipe.sample_rows is None


def test_automl_has_one_entry_only_in_its_model_folder() -> None:
    """Newer scoring files refuse a folder with anything beside the model; older ones want it at the top."""
    manifest = packaged(AUTOML | below("generated_code", {"script.py": "x"})).manifest
    assert (manifest.paths(), manifest.folder) == (("model.pkl",), "")


def test_the_older_contract_is_read_from_the_decorators() -> None:
    found = packaged(without(AUTOML, "scoring_file_v_2_0_0.py"))
    assert found.recipe.sample_request == {"data": [{"age": 0, "job": "example_value"}], "method": "predict"}
    assert settings(found)["request"] == {"template": {"data": "$rows", "method": "predict"}, "rows_as": "records"}


def test_the_name_of_a_scoring_file_says_nothing_about_its_contract() -> None:
    """Automated ML for texts writes the newer contract under the older name."""
    found = packaged(without(AUTOML, "scoring_file_v_2_0_0.py") | {"scoring_file_v_1_0_0.py": V2})
    assert settings(found)["request"]["template"] == {"Inputs": {"data": "$rows"}, "GlobalParameters": 1.0}


def test_parts_that_only_the_run_has_are_found_there() -> None:
    found = packaged({"model.pkl": "pickle"}, folder="", run={OUTPUTS: AUTOML})
    assert found.recipe.kind == "automl"
    assert (found.manifest.root, found.manifest.paths()) == ("ExperimentRun/dcid.run_1/outputs", ("model.pkl",))


def test_the_mlflow_copy_among_the_outputs_is_preferred() -> None:
    found = packaged(AUTOML | below("mlflow-model", MLFLOW))
    assert found.recipe.kind == "mlflow"
    assert (found.manifest.folder, "MLmodel" in found.manifest.paths()) == ("mlflow-model", True)


def test_raw_requests_are_served_online_and_refused_in_batch() -> None:
    raw = "from azureml.contrib.services.aml_request import rawhttp\ndef init():\n    pass\n@rawhttp\ndef run(request):\n    pass\n"
    files = {"model.pt": "x", "scoring_file_v_1_0_0.py": raw, "conda_env_v_1_0_0.yml": AUTOML_CONDA}
    assert packaged(files, modes=frozenset({"realtime"})).recipe.sample_request is None
    assert "takes raw HTTP requests, which a batch job does not make" in str(refused(files))


def test_a_script_that_somebody_wrote_over_an_automl_model_is_meant() -> None:
    own = {"score.py": SCORE, "conda.yaml": CONDA}
    assert packaged(own | below("models/outputs", AUTOML)).recipe.kind == "script"
    assert packaged(own | AUTOML).recipe.kind == "script"
    assert packaged(below("elsewhere", own) | below("outputs", AUTOML)).recipe.kind == "automl"
    assert packaged({"score.py": SCORE} | AUTOML).recipe.kind == "automl", "without an environment it cannot be served"


@pytest.mark.parametrize(
    ("files", "run", "why"),
    [
        (without(AUTOML, "conda_env_v_1_0_0.yml"), None, "has no conda file: conda_env_v_1_0_0.yml; looked for"),
        (
            {"model.pkl": "x", "conda_env_v_1_0_0.yml": AUTOML_CONDA},
            None,
            "has no scoring file: scoring_file_v_2_0_0.py or scoring_file_v_1_0_0.py; looked for",
        ),
        ({"model.pkl": "x"}, {OUTPUTS: without(AUTOML, "conda_env_v_1_0_0.yml")}, "has no conda file"),
        ({"model.pkl": "x"}, None, "is no model of Automated ML or Designer"),
        (AUTOML | {"scoring_file_v_2_0_0.py": ""}, None, "scoring_file_v_2_0_0.py"),
        (AUTOML | {"scoring_file_v_2_0_0.py": "def run(:"}, None, "scoring_file_v_2_0_0.py"),
    ],
)
def test_an_automl_model_that_lacks_something_is_refused(files: dict[str, str], run: Any, why: str) -> None:
    assert why in str(refused(files, run=run))


# ------------------------------------------------------------------------------------------------------------- Designer


@pytest.mark.parametrize(
    ("files", "folder"),
    [(DESIGNER, TRAINED), (DESIGNER, "flattened"), (below(TRAINED, DESIGNER), "whole")],
    ids=["from the run", "flattened by hand", "with its folder"],
)
def test_designers_folder_gets_the_name_that_its_script_relies_on(files: dict[str, str], folder: str) -> None:
    found = packaged(files, folder=folder)
    assert (found.manifest.folder, found.manifest.paths()) == (TRAINED, tuple(sorted(DESIGNER)))
    assert settings(found)["model"]["folder"] == TRAINED


def test_designers_request_has_every_column() -> None:
    recipe = packaged(DESIGNER).recipe
    assert recipe.kind == "designer"
    assert recipe.sample_request == json.loads(DESIGNER["_samples.json"])
    assert recipe.sample_rows == ({"age": None, "label": 1}, {"age": 30.5, "label": 0})
    found = settings(packaged(DESIGNER))
    assert (found["request"], found["columns"]) == ({"template": "$rows", "rows_as": "records"}, ["age", "label"])


def test_designers_environment_is_repaired() -> None:
    realtime = packaged(DESIGNER).recipe.realtime
    assert realtime is not None
    assert realtime.environment is not None
    assert any(line.startswith("azureml-designer-core==") for line in pip_of(realtime.environment))
    assert realtime.environment.repairs


def test_the_rest_of_a_designer_model_is_found_in_its_run() -> None:
    found = packaged({"data.ilearner": "pickle"}, folder="", run={TRAINED: DESIGNER})
    assert (found.recipe.kind, found.manifest.paths()) == ("designer", tuple(sorted(DESIGNER)))


def test_a_registered_part_must_be_what_the_run_has() -> None:
    problem = refused({"data.ilearner": "another one"}, folder="", run={TRAINED: DESIGNER})
    assert "data.ilearner differs from what the run left in trained_model_outputs" in str(problem)


@pytest.mark.parametrize("part", ["score.py", "conda_env.yaml", "_schema.json", "model_spec.yaml"])
def test_a_designer_model_without_a_part_is_refused_by_its_name(part: str) -> None:
    problem = str(refused(without(DESIGNER, part)))
    assert f"has no {part}; looked in azureml/LocalUpload/0a1b/model, which has" in problem


def test_without_samples_nothing_is_asked() -> None:
    recipe = packaged(without(DESIGNER, "_samples.json")).recipe
    assert recipe.sample_rows is None


def test_a_dataset_of_designer_is_no_model() -> None:
    files = {"_meta.yaml": "type: DataFrameDirectory\n", "data.dataset.parquet": "x", "schema/_schema.json": "{}"}
    assert "an output of Designer of type DataFrameDirectory and no trained model" in str(refused(files))


def test_a_packed_graph_is_refused_with_what_to_register_instead() -> None:
    problem = refused({"studiomodelpackage/modelpackage.json": "{}"}, is_packed_graph=True)
    assert "inference graph" in str(problem)
    assert "Train Model module" in problem.remedy


# ------------------------------------------------------------------------------------------------------------- scripts


def test_a_script_of_its_own_brings_its_modules() -> None:
    found = packaged(SCRIPT)
    assert found.recipe.kind == "script"
    assert found.recipe.realtime is not None
    assert found.recipe.realtime.code == Code(files=without(SCRIPT, "model.joblib"), scoring_script="score.py")
    assert found.manifest.paths() == tuple(sorted(SCRIPT))
    assert found.recipe.sample_request is None
    assert settings(found)["request"] == {"template": {"data": "$rows"}, "rows_as": "values"}


def test_a_script_in_a_folder_of_its_own_brings_that_folder() -> None:
    files = {"model.joblib": "x", "conda.yml": CONDA, **below("code", {"score.py": SCORE, "deep/more.py": "Y = 2\n"})}
    realtime = packaged(files).recipe.realtime
    assert realtime is not None
    assert realtime.code is not None
    assert set(realtime.code.files) == {"score.py", "deep/more.py"}


@pytest.mark.parametrize(
    ("sample", "template", "rows_as", "rows"),
    [
        ({"data": [[1, 2]]}, {"data": "$rows"}, "values", None),
        ({"inputs": [{"a": 1}], "k": 3}, {"inputs": "$rows", "k": 3}, "records", ({"a": 1},)),
        ({"x": {"rows": [{"a": 1}]}}, {"x": {"rows": "$rows"}}, "records", ({"a": 1},)),
        ([{"a": 1}, {"a": 2}], "$rows", "records", ({"a": 1}, {"a": 2})),
        ({"text": "hello"}, {"data": "$rows"}, "values", None),
    ],
)
def test_a_sample_request_says_where_rows_stand(sample: Any, template: Any, rows_as: str, rows: Any) -> None:
    found = packaged(SCRIPT | {"sample_request.json": json.dumps(sample)})
    assert (found.recipe.sample_request, found.recipe.sample_source) == (sample, "sample_request.json")
    assert settings(found)["request"] == {"template": template, "rows_as": rows_as}
    assert found.recipe.sample_rows == rows


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (without(SCRIPT, "conda.yaml"), "a scoring script (score.py) and no conda file; looked for conda.yaml"),
        (SCRIPT | {"score.py": "def run(data):\n    pass\n"}, "init"),
        (SCRIPT | {"score.py": "def init(:"}, "score.py"),
        (SCRIPT | {"sample_request.json": "{"}, "sample_request.json is no JSON"),
        ({**below("a", SCRIPT), **below("b", SCRIPT)}, "several scoring scripts: a/score.py, b/score.py"),
        (SCRIPT | {f"m{number}.py": "" for number in range(120)}, "texts beside the scoring script; at most 100"),
    ],
)
def test_a_script_that_lacks_something_is_refused(files: dict[str, str], why: str) -> None:
    assert why in str(refused(files))


def test_a_script_that_is_no_text_is_refused() -> None:
    folder = TextFolder(SCRIPT)
    folder.read = lambda path: b"\xff\xfe\x00"  # type: ignore[method-assign]
    material = Material(name="m", version="1", folder=folder, run_folder=lambda _: None, modes=frozenset({"realtime"}))
    with pytest.raises(Refusal, match="is not UTF-8"):
        package(material)


def test_the_script_that_the_policy_names_goes_before_everything() -> None:
    from core import environments

    given = GivenScoring(
        code=Code(files={"mine.py": SCORE}, scoring_script="mine.py"),
        environment=environments.for_script(CONDA, where="conda.yaml"),
        sample_request={"data": [{"a": 1}]},
        sample_source="sample.json",
    )
    found = packaged(MLFLOW, given=given)
    assert found.recipe.realtime is not None
    assert found.recipe.realtime.code == given.code
    assert (found.recipe.kind, found.recipe.sample_source) == ("script", "sample.json")
    assert settings(found)["script"] == "entry/mine.py"


# -------------------------------------------------------------------------------------------------------------- in all


@pytest.mark.parametrize("files", [MLFLOW, AUTOML, DESIGNER, SCRIPT], ids=["mlflow", "automl", "designer", "script"])
def test_a_recipe_is_the_same_whenever_it_is_made(files: dict[str, str]) -> None:
    one, other = packaged(files).recipe, packaged(dict(reversed(files.items()))).recipe
    assert one.digest == other.digest
    assert type(one).model_validate_json(one.model_dump_json()).digest == one.digest


@pytest.mark.parametrize("files", [MLFLOW, AUTOML, DESIGNER, SCRIPT], ids=["mlflow", "automl", "designer", "script"])
def test_the_batch_driver_goes_with_the_models_own_script(files: dict[str, str]) -> None:
    batch = packaged(files).recipe.batch
    assert batch is not None
    assert batch.code is not None
    driver = {"promotion_plan.py", "promotion_score.py", "promotion_collect.py", "promotion_entry.py", "scoring.json"}
    driver |= {"promotion_signature.py"}
    assert driver <= set(batch.code.files)
    assert all(path.startswith("entry/") for path in set(batch.code.files) - driver)
