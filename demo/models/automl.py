"""Models of Automated ML. Its own code writes their scoring files, and runs when these are served."""

import json
import uuid
from pathlib import Path
from typing import Any, Literal

from demo.models import Trained, fresh, records
from demo.models.environment import train

Task = Literal["regression", "classification"]
SDK = "1.62.0"
MODEL = ("numpy==2.3.2", "pandas==2.3.3", "scikit-learn==1.7.2", "psutil==7.2.2")
REQUIREMENTS = (
    f"azureml-train-automl-runtime=={SDK}",
    "inference-schema",
    f"azureml-interpret=={SDK}",
    f"azureml-defaults=={SDK}",
    *MODEL,
)
# mlflow-model/conda.yaml lists the whole training environment.
MLFLOW_REQUIREMENTS = (*REQUIREMENTS, "mlflow-skinny==3.17.2", "azureml-ai-monitoring==1.0.0")
BASE_IMAGE = "mcr.microsoft.com/azureml/curated/ai-ml-automl:10"
IMITATED = "azureml-train-automl-runtime, of whose transformers this model has none: scikit-learn's stand in"


def mlflow_form(directory: Path, task: Task = "regression", *, monitoring: bool = True) -> Trained:
    """Registered from outputs/mlflow-model/ of its run. Without `monitoring` its conda file is one of older runs."""
    requirements = MLFLOW_REQUIREMENTS if monitoring else MLFLOW_REQUIREMENTS[:-1]
    root, run, expected = _trained(directory, task, "both", requirements)
    rows = _rows(expected)
    table = rows.to_dict(orient="split")
    return Trained(
        folder=root / "outputs" / "mlflow-model",
        request={"input_data": {key: table[key] for key in ("columns", "index", "data")}},
        rows=rows,
        predictions=expected["predictions"],
        run=run,
        run_outputs=root,
        jobs=_jobs(run, task),
        imitated=IMITATED,
        in_cell=float if task == "regression" else str,
    )


def older_form(
    directory: Path,
    task: Task = "regression",
    *,
    scoring: Literal["v1", "v2", "both"] = "both",
    method: Literal["predict", "predict_proba"] = "predict",
) -> Trained:
    """Only model.pkl is registered; the scoring files and the conda file stay among its run's outputs."""
    root, run, expected = _trained(directory, task, scoring, None)
    answers = expected["probabilities" if method == "predict_proba" else "predictions"]
    asked = records(_rows(expected))
    newer = scoring != "v1"
    extra: dict[str, Any] = {"method": method} if task == "classification" else {}
    request = {"Inputs": {"data": asked}, "GlobalParameters": extra or 1.0} if newer else {"data": asked, **extra}
    return Trained(
        folder=root / "outputs" / "model.pkl",
        request=request,
        rows=_rows(expected),
        predictions=answers,
        model_type="custom_model",
        run=run,
        run_outputs=root,
        jobs=_jobs(run, task),
        imitated=IMITATED,
        unwrap=(lambda answer: answer["Results"]) if newer else (lambda answer: json.loads(answer)["result"]),
        in_cell=float if task == "regression" else str,
    )


def empty_names(directory: Path) -> Path:
    """Files with the names that Automated ML gives, and nothing in them."""
    folder = fresh(directory) / "outputs"
    folder.mkdir()
    for name in ("model.pkl", "scoring_file_v_2_0_0.py", "conda_env_v_1_0_0.yml", "run_id.txt"):
        (folder / name).touch()
    return folder


def _trained(
    directory: Path, task: Task, scoring: str, mlflow_pins: tuple[str, ...] | None
) -> tuple[Path, str, dict[str, Any]]:
    root, run = fresh(directory), f"honest_lamp_{uuid.uuid4().hex[:10]}_7"
    train(
        "automl.py",
        MLFLOW_REQUIREMENTS if mlflow_pins else REQUIREMENTS,
        root,
        task=task,
        run=run,
        sdk=SDK,
        scoring=scoring,
        mlflow=mlflow_pins is not None,
        mlflow_pins=mlflow_pins,
        base_image=BASE_IMAGE,
    )
    expected = json.loads((root / "expected.json").read_text(encoding="utf-8"))
    (root / "expected.json").unlink()
    return root, run, expected


def _rows(expected: dict[str, Any]) -> Any:
    import pandas

    return pandas.DataFrame(expected["rows"])


def _jobs(run: str, task: Task) -> tuple[dict[str, Any], ...]:
    """The job that a person submitted, and the run in it that trained the best model."""
    parent = run.rpartition("_")[0]
    job = {
        "name": parent,
        "jobType": "AutoML",
        "runType": "automl",
        "displayName": parent,
        "tags": {
            "model_explain_run": "best_run",
            "automl_best_child_run_id": run,
            "_aml_system_azureml.automlComponent": "AutoML",
        },
        "properties": {
            "runTemplate": "AutoML",
            "azureml.runsource": "automl",
            "ClientType": "Mfe",
            "PlatformVersion": "DPV2",
            "_aml_system_scenario_identification": "Remote.Parent",
            "attribution": "AutoML",
            "root_attribution": "automl",
            "Orchestrator": "AutoML",
            "environment_cpu_name": "AzureML-ai-ml-automl",
            "AMLSettingsJsonString": json.dumps({"task_type": task, "is_automode": True, "save_mlflow": True}),
            "SetupRunId": f"{parent}_setup",
        },
    }
    return job, _best_child(run, parent, task)


def _best_child(run: str, parent: str, task: Task) -> dict[str, Any]:
    location = f"aml://artifact/ExperimentRun/dcid.{run}/outputs"
    return {
        "name": run,
        "jobType": "Command",
        "runType": "azureml.scriptrun",
        "displayName": run,
        "parent": parent,
        "tags": {
            "mlflow.source.name": "automl_driver.py",
            "mlflow.source.type": "JOB",
            "_aml_system_codegen": "completed",
        },
        "properties": {
            "runTemplate": "automl_child",
            "run_algorithm": "ElasticNet" if task == "regression" else "LogisticRegression",
            "run_preprocessor": "StandardScalerWrapper",
            "_aml_system_scenario_identification": "Remote.Child",
            "_azureml.ComputeTargetType": "amlctrain",
            "_azureml.ClusterName": "cpu-cluster",
            "model_name": f"{parent.replace('_', '')[:15]}7",
            "model_output_path": "outputs/model.pkl",
            "model_data_location": f"{location}/model.pkl",
            "scoring_data_location": f"{location}/scoring_file_v_1_0_0.py",
            "scoring_data_location_v2": f"{location}/scoring_file_v_2_0_0.py",
            "scoring_data_location_pbi": f"{location}/scoring_file_pbi_v_1_0_0.py",
            "conda_env_data_location": f"{location}/conda_env_v_1_0_0.yml",
            "pipeline_graph_version": "1.0.0",
        },
    }
