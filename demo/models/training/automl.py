"""An Automated ML run's last steps: its chosen pipeline is fitted, and its outputs are written by azureml-automl-core.

Usage: automl.py FOLDER SETTINGS. Writes the run's artifacts, and expected.json: rows, labels and what the model says.
Settings: task (regression or classification), run, sdk, scoring (which scoring files to leave), mlflow (whether to
leave mlflow-model), mlflow_pins, base_image.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy
import pandas
from azureml.automl.core.inference import inference
from azureml.automl.core.package_utilities import _all_dependencies
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

CONDA_PACKAGES = ("numpy", "pandas", "scikit-learn", "psutil")
# An option for pip's own index, which the function below adds outside of Azure ML and which no model file has.
INDEX_OPTIONS = ("--find-links", "--extra-index-url")


def main(folder: Path, settings: dict[str, Any]) -> None:
    rows, labels = data(settings["task"])
    model = pipeline(settings["task"]).fit(rows, labels)
    outputs = folder / "outputs"
    outputs.mkdir()
    with (outputs / "model.pkl").open("wb") as file:
        pickle.dump(model, file)
    write_scoring_files(outputs, rows, labels, settings)
    (outputs / "conda_env_v_1_0_0.yml").write_text(conda(settings["sdk"]), encoding="utf-8")
    write_side_files(outputs, rows, labels, settings)
    if settings["mlflow"]:
        save_with_mlflow(outputs, rows, labels, model, settings)
    asked = rows.iloc[::15].reset_index(drop=True)
    method = "predict_proba" if settings["task"] == "classification" else None
    expected = {
        "rows": asked.to_dict("records"),
        "predictions": model.predict(asked).tolist(),
        "probabilities": model.predict_proba(asked).tolist() if method else None,
    }
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    (folder / "predicted_true").write_text(json.dumps({"schema_type": "predictions", "data": {}}), encoding="utf-8")


def data(task: str) -> tuple[Any, Any]:
    if task == "regression":
        rows, labels = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
        return rows.astype({"age": "int64"}), labels
    irises = load_iris(as_frame=True)
    names = numpy.array([str(name) for name in irises.target_names])
    return irises.data.rename(columns=lambda name: name.replace(" (cm)", "")), names[irises.target]


def pipeline(task: str) -> Any:
    chosen = ElasticNet(alpha=0.01) if task == "regression" else LogisticRegression(max_iter=500)
    return Pipeline([("standardscalerwrapper", StandardScaler()), ("chosen", chosen)])


def write_scoring_files(outputs: Path, rows: Any, labels: Any, settings: dict[str, Any]) -> None:
    invented = {"int64": "0", "float64": "0.0"}
    columns = (
        f'"{name}": pd.Series([{invented.get(str(kind), chr(34) + "example_value" + chr(34))}], dtype="{kind}")'
        for name, kind in rows.dtypes.items()
    )
    given = f"pd.DataFrame({{{', '.join(columns)}}})"
    answered = "np.array([0.0])" if settings["task"] == "regression" else 'np.array(["example_value"])'
    v1, v2 = inference._get_scoring_file(True, given, answered, task_type=settings["task"])
    texts = {"scoring_file_v_1_0_0.py": v1, "scoring_file_v_2_0_0.py": v2, "scoring_file_pbi_v_1_0_0.py": v2}
    left = {"v1": ("v_1",), "v2": ("file_v_2", "pbi"), "both": ("v_1", "v_2")}[settings["scoring"]]
    for name, text in texts.items():
        if any(part in name for part in left) and not (settings["scoring"] == "v1" and "pbi" in name):
            (outputs / name).write_text(text, encoding="utf-8")


def conda(sdk: str) -> str:
    installed = _all_dependencies()
    text: str = inference._create_conda_env_file(
        pip_packages_list_override=[
            f"azureml-train-automl-runtime=={sdk}",
            "inference-schema",
            f"azureml-interpret=={sdk}",
            f"azureml-defaults=={sdk}",
        ],
        conda_packages_list_override=[f"{name}=={installed[name]}" for name in CONDA_PACKAGES],
    )
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.strip().removeprefix("- ").startswith(INDEX_OPTIONS)
    )


def write_side_files(outputs: Path, rows: Any, labels: Any, settings: dict[str, Any]) -> None:
    run, sdk = settings["run"], settings["sdk"]
    (outputs / "run_id.txt").write_text(run, encoding="utf-8")
    texts = {
        "engineered_feature_names.json": [f"{name}_MeanImputer" for name in rows.columns],
        "env_dependencies.json": _all_dependencies(),
        "featurization_summary.json": [
            {
                "RawFeatureName": name,
                "TypeDetected": "Numeric",
                "Dropped": "No",
                "EngineeredFeatureCount": 1,
                "Transformations": ["MeanImputer"],
                "TransformationParams": {},
            }
            for name in rows.columns
        ],
        "pipeline_graph.json": {
            "schema_name": "pipeline_graph",
            "schema_version": "1.0.0",
            "data": {"module_nodes": {}, "edges": [], "child_runs": [run], "datasource_nodes": {}},
        },
    }
    for name, content in texts.items():
        (outputs / name).write_text(json.dumps(content), encoding="utf-8")
    folds = KFold(3, shuffle=True, random_state=0).split(rows)
    models = [pipeline(settings["task"]).fit(rows.iloc[chosen], numpy.asarray(labels)[chosen]) for chosen, _ in folds]
    with (outputs / "internal_cross_validated_models.pkl").open("wb") as file:
        pickle.dump(models, file)
    code = outputs / "generated_code"
    code.mkdir()
    (code / "script.py").write_text(
        f"# This file has been autogenerated by version {sdk} of the Azure Automated Machine Learning SDK.\n\n"
        f"automl_run_id = '{run}'\n",
        encoding="utf-8",
    )
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}
    (code / "script_run_notebook.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


def save_with_mlflow(outputs: Path, rows: Any, labels: Any, model: Any, settings: dict[str, Any]) -> None:
    import mlflow.sklearn
    from mlflow.models import Model, infer_signature

    python = ".".join(map(str, sys.version_info[:3]))
    wanted = Model(artifact_path="outputs/mlflow-model", run_id=settings["run"])
    wanted.metadata = {"azureml.base_image": settings["base_image"], "azureml.engine": "automl"}
    mlflow.sklearn.save_model(
        model,
        outputs / "mlflow-model",
        mlflow_model=wanted,
        serialization_format="pickle",
        signature=infer_signature(rows, pandas.Series(labels)[:1].to_numpy()),
        metadata=wanted.metadata,
        conda_env={
            "name": "project_environment",
            "channels": ["conda-forge"],
            "dependencies": [f"python={python}", {"pip": settings["mlflow_pins"]}],
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
