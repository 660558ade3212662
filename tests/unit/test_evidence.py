"""Gathering evidence: which run is asked, which texts are read, where the parts of a run are looked for."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from core.errors import Refusal
from core.events import WorkspaceId
from core.evidence import TELLING_LIMIT, gather
from core.origin import Run
from core.packaging import File, Manifest
from core.ports import SourceModel, SourceRun, Training
from tests.unit.builders import DEV


class Workspace:
    """A source workspace as values: files by path below the artifact store, runs by id."""

    def __init__(self, files: Mapping[str, str], runs: Mapping[str, Run] | None = None) -> None:
        self.files = files
        self._runs = runs or {}

    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel:
        raise NotImplementedError

    def run(self, workspace: WorkspaceId, run_id: str) -> SourceRun:
        raise NotImplementedError

    def training(self, workspace: WorkspaceId, run_id: str) -> Training | None:
        raise NotImplementedError

    def steps(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        raise NotImplementedError

    def register(self, workspace: WorkspaceId, model: SourceModel, *, flavors: Mapping[str, Any]) -> SourceModel:
        raise NotImplementedError

    def runs(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        return (self._runs[run_id],) if run_id in self._runs else ()

    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest:
        found = self.run_folder(workspace, "", uri)
        assert found is not None
        return found

    def run_folder(self, workspace: WorkspaceId, run_id: str, path: str) -> Manifest | None:
        root = f"ExperimentRun/dcid.{run_id}/{path}" if run_id else path
        below = {name[len(root) + 1 :]: text for name, text in self.files.items() if name.startswith(f"{root}/")}
        files = tuple(File(path=name, size=len(text), etag="e") for name, text in sorted(below.items()))
        return Manifest(account_url="a", container="c", root=root, folder="m", files=files) if files else None

    def read(self, manifest: Manifest, path: str) -> bytes:
        return self.files[f"{manifest.root}/{path}"].encode()


def a_model(uri: str, **changes: Any) -> SourceModel:
    values: dict[str, Any] = {
        "name": "churn",
        "version": "3",
        "model_type": "custom_model",
        "uri": uri,
        "tags": {},
        "properties": {},
        "job_name": None,
        "archived": False,
        "created_at": datetime(2026, 3, 4, tzinfo=UTC),
        "created_by": "x",
    }
    return SourceModel.model_validate(values | changes)


MLMODEL = "flavors: {python_function: {}}\nrun_id: noted_by_mlflow\n"


@pytest.mark.parametrize(
    ("uri", "changes", "run_id"),
    [
        ("LocalUpload/1/m", {"job_name": "the_job"}, "the_job"),
        ("ExperimentRun/dcid.of_path_7/outputs", {}, "of_path_7"),
        ("LocalUpload/1/m", {"properties": {"model_json": json.dumps({"run_id": "of_json"})}}, "of_json"),
        ("LocalUpload/1/mlflow", {}, "noted_by_mlflow"),
        ("LocalUpload/1/m", {}, None),
        ("LocalUpload/1/m", {"properties": {"model_json": "{"}}, None),
        ("LocalUpload/1/m", {"properties": {"model_json": json.dumps({"run_id": "../../secrets"})}}, None),
    ],
)
def test_the_run_is_the_one_that_is_named_first(uri: str, changes: dict[str, Any], run_id: str | None) -> None:
    files = {
        "LocalUpload/1/m/a": "x",
        "LocalUpload/1/mlflow/MLmodel": MLMODEL,
        "ExperimentRun/dcid.of_path_7/outputs/a": "x",
    }
    assert gather(Workspace(files), DEV, a_model(uri, **changes)).run_id == run_id


def test_the_parts_of_an_automl_job_are_those_of_its_best_child() -> None:
    parent = Run(id="job", job_type="AutoML", tags={"automl_best_child_run_id": "job_2"})
    files = {
        "m/model.pkl": "x",
        "ExperimentRun/dcid.job_2/outputs/scoring_file_v_2_0_0.py": "y",
        "ExperimentRun/dcid.job/outputs/child_runs_summary.json": "z",
    }
    found = gather(Workspace(files, {"job": parent}), DEV, a_model("m", job_name="job"))
    folder = found.run_folder("outputs")
    assert folder is not None
    assert folder.manifest.paths() == ("scoring_file_v_2_0_0.py",)
    assert folder.read("scoring_file_v_2_0_0.py") == b"y"
    assert found.run_folder("trained_model_outputs") is None


def test_only_telling_texts_are_read_and_not_too_many() -> None:
    files = {f"m/{number}/score.py": "x" for number in range(30)} | {
        "m/model.pkl": "x",
        "m/score.py": "y",
        "m/conda.yaml": "",
    }
    texts = gather(Workspace(files), DEV, a_model("m")).evidence.texts
    assert len(texts) == TELLING_LIMIT
    assert (texts["score.py"], "model.pkl" in texts, "conda.yaml" in texts) == ("y", False, False)


def test_sizes_go_along_because_empty_files_prove_nothing() -> None:
    found = gather(Workspace({"m/model.pkl": "", "m/run_id.txt": "abc"}), DEV, a_model("m")).evidence
    assert found.files == {"model.pkl": 0, "run_id.txt": 3}


def test_the_mlmodel_among_automls_outputs_tells_too() -> None:
    files = {"m/mlflow-model/MLmodel": MLMODEL, "m/model.pkl": "x"}
    found = gather(Workspace(files), DEV, a_model("m")).evidence
    assert found.mlmodel is not None
    with pytest.raises(Refusal, match="MLmodel names no flavors"):
        gather(Workspace({"m/MLmodel": "nothing"}), DEV, a_model("m"))
