"""Run history: the runs that Resource Manager does not know as jobs, such as the steps of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from azure.core.credentials import TokenCredential
from azure.core.rest import HttpRequest

from core.adapters.arm import ML_SCOPE, Arm, http_client
from core.adapters.faults import translate, translated
from core.events import WorkspaceId

# The parameters by which run history and Resource Manager tell where the next page begins.
_NEXT = ("$continuationToken", "continuationToken", "$skiptoken", "$skip")


@dataclass(frozen=True)
class FailedRun:
    """A step that failed: its run, its name in the pipeline, and Azure's word about it."""

    run_id: str
    name: str
    error: str


def run(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, run_id: str) -> Mapping[str, Any]:
    """A run with its properties, tags, parent and root; empty if it is not known."""
    return _get(credential, arm, workspace, f"runs/{run_id}", f"reading the history of run {run_id}")


def children(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, run_id: str) -> list[Mapping[str, Any]]:
    """The runs directly below a run: all pages. The link to the next is followed by its parameter alone, so that no
    answer leads our token elsewhere."""
    path, doing = f"runs/{run_id}/children", f"listing the runs below {run_id}"
    found: list[Mapping[str, Any]] = []
    query = ""
    while True:
        page = _get(credential, arm, workspace, path + query, doing)
        found += page.get("value") or ()
        following = parse_qs(urlsplit(page.get("nextLink") or "").query)
        name = next((each for each in _NEXT if each in following), None)
        if name is None:
            return found
        query = "?" + urlencode({name: following[name][0]})


def failed_children(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, run_id: str) -> list[FailedRun]:
    """The steps of a pipeline job that failed."""
    return [
        FailedRun(
            run_id=str(child["runId"]),
            name=str((child.get("properties") or {}).get("azureml.moduleName") or child["runId"]),
            error=str(((child.get("error") or {}).get("error") or {}).get("message") or "no reason given"),
        )
        for child in children(credential, arm, workspace, run_id)
        if child.get("status") == "Failed"
    ]


def _get(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, path: str, doing: str) -> Mapping[str, Any]:
    return read(credential, arm, workspace, "history/v1.0", path, doing)


def read(
    credential: TokenCredential, arm: Arm, workspace: WorkspaceId, service: str, path: str, doing: str
) -> Mapping[str, Any]:
    """What a service of the workspace's region, such as `history/v1.0`, answers; empty for what it does not know."""
    host = f"https://{arm.location}.api.azureml.ms"
    request = HttpRequest("GET", f"{host}/{service}{workspace.arm_id}/{path}")
    with http_client(host, credential, ML_SCOPE) as client, translated(doing):
        response = client.send_request(request)
        body: Mapping[str, Any] = response.json() if response.status_code == 200 else {}
    if response.status_code not in (200, 404):
        raise translate(response.status_code, response.reason, response.headers, doing=doing)
    return body
