"""Models of Designer pipelines: its own modules train them, its own code lays them out and serves them."""

import json
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal

from demo.models import Trained, fresh, records
from demo.models.environment import train

OUTPUTS = "trained_model_outputs"
IMITATED = "Designer's own packages in their last published version, on newer libraries than they ask for"
# What a conda_env.yaml of Designer asks for. The local Azure knows what to install for it.
REQUIREMENTS = (
    "azureml-defaults",
    "azureml-designer-classic-modules==0.0.185",
    "azureml-designer-serving==0.0.13",
)


def trained_model(directory: Path, layout: Literal["run", "flattened", "nested"] = "run") -> Trained:
    """What the Train Model module leaves.

    `run`: registered from its run's artifacts. `flattened`: its files as a download has them, registered from there.
    `nested`: the folder trained_model_outputs inside of another folder that is registered.
    """
    import pandas

    root = fresh(directory)
    train("designer.py", REQUIREMENTS, root)
    expected = json.loads((root / "expected.json").read_text(encoding="utf-8"))
    (root / "expected.json").unlink()
    rows, label = pandas.DataFrame(expected["rows"]), expected["label"]
    run, jobs = _jobs()
    registered_from_run = layout == "run"
    return Trained(
        folder=_laid_out(root, layout),
        request=records(rows),
        rows=rows,
        predictions=[row[label] for row in expected["answer"]],
        model_type="custom_model",
        run=run if registered_from_run else None,
        run_outputs=root if registered_from_run else None,
        jobs=jobs if registered_from_run else (),
        imitated=IMITATED,
        unwrap=lambda answer: [row[label] for row in json.loads(answer)["result"]],
        in_cell=lambda cell: json.loads(cell)[label],
    )


def _laid_out(root: Path, layout: str) -> Path:
    outputs = root / OUTPUTS
    if layout == "flattened":
        return outputs.rename(root / "designer-model")
    if layout == "nested":
        (root / "download").mkdir()
        outputs.rename(root / "download" / OUTPUTS)
        return root / "download"
    return outputs


def _jobs() -> tuple[str, tuple[dict[str, Any], ...]]:
    """The pipeline's run, and the step in it that trained. Only the first says that Designer is behind it."""
    pipeline, step = str(uuid.uuid4()), str(uuid.uuid4())
    root = {
        "name": pipeline,
        "jobType": "Pipeline",
        "runType": "azureml.PipelineRun",
        "displayName": "Pipeline-Created-on-11-20-2026",
        "tags": {"azureml.Designer": "true", "azureml.pipelineComponent": "pipelinerun"},
        "properties": {
            "azureml.runsource": "azureml.PipelineRun",
            "runSource": "Designer",
            "runType": "HTTP",
            "azureml.parameters": "{}",
        },
    }
    trains = {
        "name": step,
        "jobType": None,
        "runType": "azureml.StepRun",
        "displayName": "Train Model",
        "parent": pipeline,
        "properties": {
            "azureml.runsource": "azureml.StepRun",
            "azureml.moduleName": "Train Model",
            "azureml.nodeid": uuid.uuid4().hex[:8],
            "ContentSnapshotId": str(uuid.uuid4()),
            "StepType": "PythonScriptStep",
            "azureml.pipelinerunid": pipeline,
        },
    }
    return step, (root, trains)


# ------------------------------------------------------------------------------------------------------ what is no model


def packed_graph(directory: Path) -> Path:
    """The inference graph that Designer registers as `amlstudio-...` with an endpoint made on its canvas."""
    folder = fresh(directory) / "studiomodelpackage"
    folder.mkdir()
    graph: dict[str, list[str]] = {"GraphNodes": [], "Edges": [], "DataSources": [], "ModulePackages": []}
    (folder / "modelpackage.json").write_text(json.dumps(graph), encoding="utf-8")
    return directory


def dataset_output(directory: Path) -> Path:
    """What a module leaves whose output is a table: it looks like a model, and `type` in _meta.yaml says it is none."""
    trained = trained_model(directory)
    folder = directory / "dataset"
    (folder / "schema").mkdir(parents=True)
    trained.rows.to_parquet(folder / "data.dataset.parquet")
    shutil.copy(trained.folder / "_schema.json", folder / "schema" / "_schema.json")
    shutil.copy(trained.folder / "_samples.json", folder / "_samples.json")
    (folder / "_meta.yaml").write_text(
        "type: DataFrameDirectory\nextension: {}\nformat: Parquet\ndata: data.dataset.parquet\n"
        "samples: _samples.json\nschema: schema/_schema.json\n",
        encoding="utf-8",
    )
    return folder
