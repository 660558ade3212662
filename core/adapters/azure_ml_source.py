"""Source workspaces: the model, the run behind it, its files. No `azure.ai.ml`: intake must start fast.

They are read; only the output of a run is registered, where the policy says so.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from azure.core.credentials import TokenCredential

from core.adapters import mlflow_tracking, run_history
from core.adapters.arm import Arm
from core.adapters.azure_ml_bodies import flavors_as_texts
from core.adapters.blobs import Blobs
from core.adapters.datastores import ARTIFACT_STORE, BlobPath, datastore_container, resolve
from core.errors import Reason, Refusal
from core.events import WorkspaceId, is_asset_name, is_run_id
from core.origin import Run
from core.packaging import Manifest
from core.ports import SourceModel, SourceRun, Training

# A step in a pipeline in a pipeline has three above it; nothing has this many.
DEPTH_LIMIT = 10
# Every job has it; in it lie the artifacts.
DEFAULT_OUTPUT = "default"


class AzureMLSource:
    """`core.ports.Source` for Azure ML."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._blobs = Blobs(credential)
        self._arms: dict[str, Arm] = {}

    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel:
        # People ask for names as well, and what is no name of Azure ML's never becomes part of a URL.
        is_name = is_asset_name(name) and is_asset_name(version)
        found = self._arm(workspace).find(_version_path(name, version)) if is_name else None
        if found is None:
            raise Refusal(
                Reason.MODEL_NOT_FOUND,
                f"workspace {workspace.workspace} has no model {name}:{version}",
                remedy="It may have been deleted since the event; register it again.",
            )
        return _model(name, version, found)

    def runs(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        """Resource Manager knows jobs, and answers for a step or child run without properties; the run history has all."""
        found: list[Run] = []
        following: str | None = run_id
        while following and len(found) < DEPTH_LIMIT and following not in {run.id for run in found}:
            job = self._arm(workspace).find(f"/jobs/{following}")
            if job is None:
                break
            run = self._described(workspace, following, job.get("properties"))
            found.append(run)
            following = run.parent
        return tuple(found)

    def _described(self, workspace: WorkspaceId, run_id: str, properties: Mapping[str, Any] | None) -> Run:
        """The run as Resource Manager tells it, and its parent, which only the run history knows."""
        history = run_history.run(self._credential, self._arm(workspace), workspace, run_id)
        told = properties if properties is not None else history
        return Run(
            id=run_id,
            name=told.get("displayName"),
            job_type=told.get("jobType"),
            properties=_texts(told.get("properties")),
            tags=_texts(told.get("tags")),
            parent=_parent(history, run_id),
        )

    def run_folder(self, workspace: WorkspaceId, run_id: str, path: str) -> Manifest | None:
        account, container = datastore_container(self._arm(workspace).get(f"/datastores/{ARTIFACT_STORE}"))
        return self._blobs.list(BlobPath(account, container, f"ExperimentRun/dcid.{run_id}/{path}".rstrip("/")))

    def run(self, workspace: WorkspaceId, run_id: str) -> SourceRun:
        """The run history has every run and its times; Resource Manager has the type and the outputs of jobs."""
        arm = self._arm(workspace)
        history = run_history.run(self._credential, arm, workspace, run_id)
        job = arm.find(f"/jobs/{run_id}") or {}
        told = job.get("properties") or {}
        if not history:
            raise Refusal(
                Reason.MODEL_NOT_FOUND,
                f"workspace {workspace.workspace} has no run {run_id}",
                remedy="It may have been deleted since the event; a model that was registered from it can be promoted.",
            )
        outputs = {name: str(each.get("jobOutputType")) for name, each in (told.get("outputs") or {}).items() if each}
        return SourceRun(
            run=Run(
                id=run_id,
                name=history.get("displayName"),
                job_type=told.get("jobType"),
                properties=_texts(history.get("properties")) | _texts(told.get("properties")),
                tags=_texts(history.get("tags")) | _texts(told.get("tags")),
                parent=_parent(history, run_id),
            ),
            status=str(history.get("status") or told.get("status") or "Unknown"),
            experiment=str(history.get("experimentName") or told.get("experimentName") or ""),
            outputs={name: kind for name, kind in outputs.items() if name != DEFAULT_OUTPUT},
            created_at=_time(history.get("createdUtc")),
            ended_at=_time(history["endTimeUtc"]) if history.get("endTimeUtc") else None,
            created_by=_creator(job, history),
        )

    def training(self, workspace: WorkspaceId, run_id: str) -> Training | None:
        return mlflow_tracking.training(self._credential, self._arm(workspace), workspace, run_id)

    def steps(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        found = run_history.children(self._credential, self._arm(workspace), workspace, run_id)
        return tuple(
            Run(
                id=str(child["runId"]),
                name=child.get("displayName"),
                properties=_texts(child.get("properties")),
                tags=_texts(child.get("tags")),
                parent=run_id,
            )
            for child in found
            if is_run_id(child.get("runId"))
        )

    def register(self, workspace: WorkspaceId, model: SourceModel, *, flavors: Mapping[str, Any]) -> SourceModel:
        """The version is the same for each try, so a second one finds the first. Never replaces what is there."""
        path = _version_path(model.name, model.version)
        arm = self._arm(workspace)
        found = arm.find(path)
        if found is None:
            properties = {
                "modelUri": model.uri,
                "modelType": model.model_type,
                "flavors": {name: {"data": data} for name, data in flavors_as_texts(flavors).items()},
                "jobName": model.job_name,
                "tags": dict(model.tags),
                "properties": dict(model.properties),
                "isAnonymous": False,
                "isArchived": False,
            }
            found = arm.put(path, {"properties": properties}).body
        return _model(model.name, model.version, found)

    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest:
        return self._blobs.manifest(resolve(self._arm(workspace), workspace, uri))

    def read(self, manifest: Manifest, path: str) -> bytes:
        return self._blobs.read(manifest, path)

    def _arm(self, workspace: WorkspaceId) -> Arm:
        if workspace.key not in self._arms:
            self._arms[workspace.key] = Arm(self._credential, workspace)
        return self._arms[workspace.key]


def _version_path(name: str, version: str) -> str:
    return f"/models/{name}/versions/{version}"


def _model(name: str, version: str, found: Mapping[str, Any]) -> SourceModel:
    properties = found.get("properties") or {}
    system_data = found.get("systemData") or {}
    return SourceModel(
        name=name,
        version=version,
        model_type=properties.get("modelType") or "custom_model",
        uri=properties.get("modelUri") or "",
        tags=_texts(properties.get("tags")),
        properties=_texts(properties.get("properties")),
        job_name=properties.get("jobName") or None,
        archived=bool(properties.get("isArchived")),
        created_at=_time(system_data.get("createdAt")),
        created_by=system_data.get("createdBy") or "unknown",
    )


def _creator(job: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    """As of a model: who Resource Manager says it was."""
    creator = (job.get("systemData") or {}).get("createdBy") or (history.get("createdBy") or {}).get("userName")
    return str(creator or "unknown")


def _parent(history: Mapping[str, Any], run_id: str) -> str | None:
    """The run above; a root has none, or is named as its own root."""
    above = history.get("parentRunId") or history.get("rootRunId")
    return above if above != run_id else None


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {key: str(value) for key, value in (values or {}).items() if value is not None}


def _time(text: str | None) -> datetime:
    """`createdAt` decides which of two versions is newer; Azure ML always gives it."""
    if not text:
        raise Refusal(Reason.MODEL_NOT_FOUND, "it has no creation time", remedy="Register the model again.")
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
