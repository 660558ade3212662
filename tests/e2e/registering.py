"""Registering a model as the tool that made it would: its run first, then the model from there."""

from collections.abc import Mapping

from demo.azure import jobs_of
from demo.models import Trained
from tests.local import LocalAzure


def register(azure: LocalAzure, name: str, trained: Trained, tags: Mapping[str, str] | None = None) -> None:
    """Let the runs have happened, then register the model in the source workspace."""
    from azure.ai.ml.entities import Model

    for job in jobs_of(trained):
        azure.control.post("/azure-ml/ml-dev/jobs", job)
    model = Model(name=name, path=trained.model_path, type=trained.model_type, tags=dict(tags or {}))
    azure.ml_client(azure.endpoints["source"]).models.create_or_update(model)
