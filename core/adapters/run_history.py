"""Run history: the runs that Resource Manager does not know as jobs, such as the steps of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.rest import HttpRequest

from core.adapters.arm import ML_SCOPE, Arm, http_client
from core.adapters.faults import translate, translated
from core.events import WorkspaceId


@dataclass(frozen=True)
class FailedRun:
    """A step that failed: its run, its name in the pipeline, and Azure's word about it."""

    run_id: str
    name: str
    error: str


def run(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, run_id: str) -> Mapping[str, Any]:
    """A run with its properties, tags, parent and root; empty if it is not known."""
    return _get(credential, arm, workspace, f"runs/{run_id}", f"reading the history of run {run_id}")


def failed_children(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, run_id: str) -> list[FailedRun]:
    """The steps of a pipeline job that failed."""
    page = _get(credential, arm, workspace, f"runs/{run_id}/children", f"listing the steps of {run_id}")
    return [
        FailedRun(
            run_id=str(child["runId"]),
            name=str((child.get("properties") or {}).get("azureml.moduleName") or child["runId"]),
            error=str(((child.get("error") or {}).get("error") or {}).get("message") or "no reason given"),
        )
        for child in page.get("value") or ()
        if child.get("status") == "Failed"
    ]


def _get(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, path: str, doing: str) -> Mapping[str, Any]:
    host = f"https://{arm.location}.api.azureml.ms"
    request = HttpRequest("GET", f"{host}/history/v1.0{workspace.arm_id}/{path}")
    with http_client(host, credential, ML_SCOPE) as client, translated(doing):
        response = client.send_request(request)
        body: Mapping[str, Any] = response.json() if response.status_code == 200 else {}
    if response.status_code not in (200, 404):
        raise translate(response.status_code, response.reason, response.headers, doing=doing)
    return body
