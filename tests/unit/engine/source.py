"""A source workspace: model versions of MLflow, their files, their tags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.errors import Reason, Refusal
from core.events import WorkspaceId
from core.origin import Run
from core.packaging import File, Manifest
from core.ports import ListedVersion, SourceModel, SourceRun, Training
from tests.unit.engine.wire import Wire, reads, writes

FILES = {
    "MLmodel": "flavors:\n  python_function: {loader_module: mlflow.sklearn}\n  sklearn: {}\n"
    "saved_input_example_info: {artifact_path: example.json, type: dataframe}\n",
    "conda.yaml": "dependencies: [python=3.11, {pip: [mlflow-skinny==3.1.0, scikit-learn==1.7.2]}]\n",
    "example.json": '{"columns": ["a"], "index": [0], "data": [[1.5]]}',
    "model.pkl": "x",
}
SCIENTIST = "Data Scientist"


class Nature(StrEnum):
    """What is wrong with a version, which nobody knows before it is deployed."""

    GOOD = "good"
    DOES_NOT_START = "does not start"
    ANSWERS_BADLY = "answers the smoke request with 500"
    ANSWERS_OTHERS = "answers otherwise than was recorded"
    FAILS_LIVE = "fails with the traffic of others"
    NOBODY_ASKS = "is asked too seldom to be judged"


@dataclass
class SourceModelRegistry:
    """`core.ports.Source`, `core.ports.Listings` and `core.status_tags.TagWriter`."""

    wire: Wire
    models: dict[tuple[str, str], SourceModel] = field(default_factory=dict)
    natures: dict[tuple[str, str], Nature] = field(default_factory=dict)
    touched: dict[tuple[str, str], tuple[datetime, str]] = field(default_factory=dict)
    requests: int = 0

    def put(self, name: str, created_at: datetime, nature: Nature, tags: Mapping[str, str]) -> str:
        """A scientist registers the next version; its number."""
        version = str(1 + sum(each == name for each, _ in self.models))
        key = name, version
        self.models[key] = SourceModel(
            name=name,
            version=version,
            model_type="mlflow_model",
            uri=f"azureml://{name}/{version}",
            tags=dict(tags),
            properties={},
            job_name=None,
            archived=False,
            created_at=created_at,
            created_by=SCIENTIST,
        )
        self.natures[key], self.touched[key] = nature, (created_at, SCIENTIST)
        return version

    def tag(self, name: str, version: str, tags: Mapping[str, str], by: str) -> None:
        model = self.models[name, version]
        self.models[name, version] = model.model_copy(update={"tags": {**model.tags, **tags}})
        self.touched[name, version] = self.wire.now, by

    @reads
    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel:
        if (name, version) not in self.models:
            raise Refusal(Reason.MODEL_NOT_FOUND, f"there is no {name}:{version}", remedy="none")
        return self.models[name, version]

    @reads
    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest:
        root = uri.removeprefix("azureml://")
        files = tuple(File(path=path, size=len(text), etag=f'"{root}"') for path, text in sorted(FILES.items()))
        return Manifest(account_url="https://s", container="azureml", root=f"{root}/model", folder="model", files=files)

    @reads
    def read(self, manifest: Manifest, path: str) -> bytes:
        return FILES[path].encode()

    @reads
    def model_names(self, workspace: WorkspaceId) -> tuple[str, ...]:
        return tuple(sorted({name for name, _ in self.models}))

    @reads
    def versions(self, workspace: WorkspaceId, name: str) -> tuple[ListedVersion, ...]:
        return tuple(
            ListedVersion(
                name=name,
                version=version,
                tags=model.tags,
                created_at=model.created_at,
                modified_at=self.touched[each, version][0],
                modified_by=self.touched[each, version][1],
            )
            for (each, version), model in self.models.items()
            if each == name
        )

    @writes
    def set_tag(self, workspace: WorkspaceId, name: str, version: str, key: str, value: str) -> None:
        self.tag(name, version, {key: value}, "the service")

    # Nothing here was written by a run.

    def runs(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        return ()

    def steps(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        return ()

    def run_folder(self, workspace: WorkspaceId, run_id: str, path: str) -> Manifest | None:
        return None

    def training(self, workspace: WorkspaceId, run_id: str) -> Training | None:
        return None

    def run(self, workspace: WorkspaceId, run_id: str) -> SourceRun:
        raise Refusal(Reason.MODEL_NOT_FOUND, f"there is no run {run_id}", remedy="none")

    def register(self, workspace: WorkspaceId, model: SourceModel, *, flavors: Mapping[str, Any]) -> SourceModel:
        raise AssertionError("the policy does not let the service register anything")
