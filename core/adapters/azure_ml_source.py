"""Source workspaces, read-only: the model, the run behind it, its files. No `azure.ai.ml`: intake must start fast."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.rest import HttpRequest

from core.adapters.arm import ML_SCOPE, Arm, http_client
from core.adapters.blobs import Blobs
from core.adapters.datastores import resolve
from core.adapters.faults import translate, translated
from core.errors import Reason, Refusal
from core.events import WorkspaceId
from core.origin import Run
from core.packaging import Manifest
from core.ports import SourceModel


class AzureMLSource:
    """`core.ports.Source` for Azure ML."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._blobs = Blobs(credential)
        self._arms: dict[str, Arm] = {}

    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel:
        found = self._arm(workspace).find(f"/models/{name}/versions/{version}")
        if found is None:
            raise Refusal(
                Reason.MODEL_NOT_FOUND,
                f"workspace {workspace.workspace} has no model {name}:{version}",
                remedy="It may have been deleted since the event; register it again.",
            )
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

    def root_run(self, workspace: WorkspaceId, run_id: str) -> Run | None:
        job = self._arm(workspace).find(f"/jobs/{run_id}")
        if job is None:
            return None
        properties = job.get("properties")
        if properties is not None:
            return Run(
                id=run_id,
                job_type=properties.get("jobType"),
                properties=_texts(properties.get("properties")),
                tags=_texts(properties.get("tags")),
            )
        # Resource Manager answers for a child run without properties; the run history knows its root.
        run = self._run(workspace, run_id)
        root = run.get("rootRunId")
        if root and root != run_id:
            return self.root_run(workspace, str(root))
        return Run(id=run_id, properties=_texts(run.get("properties")), tags=_texts(run.get("tags")))

    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest:
        return self._blobs.manifest(resolve(self._arm(workspace), workspace, uri))

    def read(self, manifest: Manifest, path: str) -> bytes:
        return self._blobs.read(manifest, path)

    def _run(self, workspace: WorkspaceId, run_id: str) -> Mapping[str, Any]:
        host = f"https://{self._arm(workspace).location}.api.azureml.ms"
        request = HttpRequest("GET", f"{host}/history/v1.0{workspace.arm_id}/runs/{run_id}")
        doing = f"reading the history of run {run_id}"
        with http_client(host, self._credential, ML_SCOPE) as client, translated(doing):
            response = client.send_request(request)
            body: Mapping[str, Any] = response.json() if response.status_code == 200 else {}
        if response.status_code not in (200, 404):
            raise translate(response.status_code, response.reason, response.headers, doing=doing)
        return body

    def _arm(self, workspace: WorkspaceId) -> Arm:
        if workspace.key not in self._arms:
            self._arms[workspace.key] = Arm(self._credential, workspace)
        return self._arms[workspace.key]


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {key: str(value) for key, value in (values or {}).items() if value is not None}


def _time(text: str | None) -> datetime:
    """`createdAt` decides which of two versions is newer; Azure ML always gives it."""
    if not text:
        raise Refusal(
            Reason.MODEL_NOT_FOUND, "the model version has no creation time", remedy="Register the model again."
        )
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
