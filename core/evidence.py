"""Gathering what is known of a model version: its files, the runs behind it, and the small texts that tell its origin."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from core.events import WorkspaceId
from core.mlmodel import MLMODEL, parse_mlmodel
from core.origin import Evidence, Run
from core.packaging import READABLE_LIMIT, Manifest
from core.ports import Source, SourceModel
from core.recipes import Folder

# Texts by which tools can be told apart; few of them are in one model.
TELLING = frozenset(
    {
        "_meta.yaml",
        "score.py",
        "scoring_file_v_1_0_0.py",
        "scoring_file_v_2_0_0.py",
        "conda_env_v_1_0_0.yml",
        "conda_env.yaml",
        "conda.yaml",
    }
)
TELLING_LIMIT = 12
BEST_CHILD = "automl_best_child_run_id"
# Azure ML keeps the artifacts of a run in a folder of this name.
_RUN_FOLDER = re.compile(r"(?:^|/)dcid\.([A-Za-z0-9_.-]+)(?:/|$)")


@dataclass(frozen=True)
class StoredFolder:
    """`core.recipes.Folder` in a source workspace's storage. A text that tells the origin serves the recipe as well."""

    source: Source
    manifest: Manifest
    _texts: dict[str, bytes] = field(default_factory=dict, compare=False)

    def read(self, path: str) -> bytes:
        if path not in self._texts:
            self._texts[path] = self.source.read(self.manifest, path)
        return self._texts[path]


@dataclass(frozen=True)
class StoredArtifacts:
    """`core.runs.Artifacts` of a source workspace; each listing is read once."""

    source: Source
    workspace: WorkspaceId
    _paths: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    def steps(self, run_id: str) -> tuple[Run, ...]:
        return self.source.steps(self.workspace, run_id)

    def paths(self, run_id: str) -> tuple[str, ...]:
        if run_id not in self._paths:
            found = self.source.run_folder(self.workspace, run_id, "")
            self._paths[run_id] = found.paths() if found else ()
        return self._paths[run_id]


@dataclass
class Findings:
    """Everything that the decisions about a model version need, read once."""

    evidence: Evidence
    folder: StoredFolder
    source: Source
    workspace: WorkspaceId
    run_id: str | None
    _run_folders: dict[str, Folder | None] = field(default_factory=dict)

    def run_folder(self, path: str) -> Folder | None:
        """A folder among the artifacts of the run that wrote the model; for an Automated ML parent, of its best child."""
        if path not in self._run_folders:
            self._run_folders[path] = self._find(path)
        return self._run_folders[path]

    def _find(self, path: str) -> Folder | None:
        if self.run_id is None:
            return None
        own = self.evidence.runs[0] if self.evidence.runs else None
        best = own.tags.get(BEST_CHILD) if own else None
        manifest = self.source.run_folder(self.workspace, best or self.run_id, path)
        return StoredFolder(self.source, manifest) if manifest is not None else None


def gather(source: Source, workspace: WorkspaceId, model: SourceModel) -> Findings:
    """Read what tells a model's origin. Raises as the methods of `Source` do."""
    folder = StoredFolder(source, source.manifest(workspace, model.uri))
    mlmodel = _mlmodel(folder)
    run_id = _run_id(model, folder.manifest, mlmodel)
    evidence = Evidence(
        name=model.name,
        tags=model.tags,
        properties=model.properties,
        runs=source.runs(workspace, run_id) if run_id else (),
        files={file.path: file.size for file in folder.manifest.files},
        mlmodel=mlmodel,
        texts=_texts(folder),
    )
    return Findings(evidence, folder, source, workspace, run_id)


def _mlmodel(folder: StoredFolder) -> Mapping[str, object] | None:
    """The MLmodel at the root, else that of the MLflow copy among the outputs of Automated ML."""
    nested = [path for path in folder.manifest.paths() if PurePosixPath(path).parts[-2:] == ("mlflow-model", MLMODEL)]
    path = MLMODEL if MLMODEL in folder.manifest.paths() else next(iter(nested), None)
    return parse_mlmodel(folder.read(path)) if path else None


def _texts(folder: StoredFolder) -> dict[str, str]:
    telling = [
        file.path
        for file in folder.manifest.files
        if PurePosixPath(file.path).name in TELLING and 0 < file.size <= READABLE_LIMIT
    ]
    telling.sort(key=lambda path: (path.count("/"), path))
    return {path: folder.read(path).decode("utf-8", errors="replace") for path in telling[:TELLING_LIMIT]}


def _run_id(model: SourceModel, manifest: Manifest, mlmodel: Mapping[str, object] | None) -> str | None:
    """The run that wrote the model: as registered, as its path says, as MLflow noted when it was registered by MLflow."""
    if model.job_name:
        return model.job_name
    if found := _RUN_FOLDER.search(manifest.root):
        return found[1]
    noted = _noted(model.properties.get("model_json")) or (mlmodel or {}).get("run_id")
    return noted if isinstance(noted, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,256}", noted) else None


def _noted(model_json: str | None) -> object:
    try:
        noted = json.loads(model_json or "{}")
    except (ValueError, RecursionError):
        return None
    return noted.get("run_id") if isinstance(noted, dict) else None
