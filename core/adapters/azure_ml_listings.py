"""Listings of source workspaces, and the status tags of their model versions. No `azure.ai.ml`: the timer must start fast."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.rest import HttpRequest

from core.adapters.arm import ML_SCOPE, Arm, http_client
from core.adapters.azure_ml_bodies import each_page
from core.adapters.faults import translate, translated
from core.adapters.mlflow_tracking import SERVICE as MLFLOW
from core.errors import Reason, Refusal
from core.events import WorkspaceId
from core.ports import ListedVersion


class AzureMLListings:
    """`core.ports.Listings` and `core.status_tags.TagWriter` for Azure ML. A listing object is for one thread."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._arms: dict[str, Arm] = {}
        self.requests = 0

    def model_names(self, workspace: WorkspaceId) -> tuple[str, ...]:
        return tuple(sorted(item["name"] for item in self._items(workspace, "/models")))

    def versions(self, workspace: WorkspaceId, name: str) -> tuple[ListedVersion, ...]:
        try:
            return tuple(_listed(name, item) for item in self._items(workspace, f"/models/{name}/versions"))
        except Refusal as refusal:
            if refusal.reason is Reason.TARGET_NOT_FOUND:
                return ()
            raise

    def _items(self, workspace: WorkspaceId, path: str) -> list[Mapping[str, Any]]:
        items: list[Mapping[str, Any]] = []
        for page in each_page(self._arm(workspace), path):
            self.requests += 1
            items += page
        return items

    def set_tag(self, workspace: WorkspaceId, name: str, version: str, key: str, value: str) -> None:
        """Give a model version one tag, by the MLflow registry API of the workspace.

        Resource Manager can only write the whole version, without ETags: a tag that its author sets at the same moment would
        be lost, and with it what it asks for. Raises Refusal for a version that is not there.
        """
        host = f"https://{self._arm(workspace).location}.api.azureml.ms"
        body = {"name": name, "version": version, "key": key, "value": value}
        url = f"{host}/{MLFLOW}{workspace.arm_id}/api/2.0/mlflow/model-versions/set-tag"
        doing = f"tagging {name}:{version} in workspace {workspace.workspace}"
        with http_client(host, self._credential, ML_SCOPE) as client, translated(doing):
            response = client.send_request(HttpRequest("POST", url, json=body))
        if response.status_code != 200:
            raise translate(response.status_code, response.reason, response.headers, doing=doing)

    def _arm(self, workspace: WorkspaceId) -> Arm:
        if workspace.key not in self._arms:
            self._arms[workspace.key] = Arm(self._credential, workspace)
        return self._arms[workspace.key]


def _listed(name: str, item: Mapping[str, Any]) -> ListedVersion:
    data = item.get("systemData") or {}
    created = _time(data.get("createdAt"))
    return ListedVersion(
        name=name,
        version=str(item["name"]),
        tags={key: str(value) for key, value in (item["properties"].get("tags") or {}).items() if value is not None},
        created_at=created,
        modified_at=_time(data.get("lastModifiedAt") or data.get("createdAt")),
        modified_by=data.get("lastModifiedBy") or data.get("createdBy") or "unknown",
    )


def _time(text: str | None) -> datetime:
    parsed = datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
