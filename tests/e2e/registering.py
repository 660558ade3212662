"""Registering a model as the tool that made it would: its run first, then the model from there."""

import base64
from collections.abc import Mapping
from pathlib import Path

from demo.models import Trained
from tests.local import LocalAzure


def files_below(folder: Path, below: str = "") -> dict[str, dict[str, str]]:
    """The files of a folder as the control API takes them."""
    return {
        f"{below}{path.relative_to(folder).as_posix()}": {"base64": base64.b64encode(path.read_bytes()).decode()}
        for path in folder.rglob("*")
        if path.is_file()
    }


def register(azure: LocalAzure, name: str, trained: Trained, tags: Mapping[str, str] | None = None) -> None:
    """Let the runs have happened, then register the model in the source workspace."""
    from azure.ai.ml.entities import Model

    for job in trained.jobs:
        files = files_below(trained.run_outputs) if trained.run_outputs and job["name"] == trained.run else {}
        azure.control.post("/azure-ml/ml-dev/jobs", {**job, "files": files})
    model = Model(name=name, path=trained.model_path, type=trained.model_type, tags=dict(tags or {}))
    azure.ml_client(azure.endpoints["source"]).models.create_or_update(model)
