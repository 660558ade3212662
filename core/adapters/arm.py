"""Azure Resource Manager by plain requests through azure-core.

Used for reads, which then need no `azure.ai.ml` (2 s and 100 MB to import), and for the writes that start long-running
operations: the SDK's `begin_*` methods start a thread that polls on after the delivery has ended.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from azure.core import PipelineClient
from azure.core.credentials import TokenCredential
from azure.core.pipeline.policies import (
    BearerTokenCredentialPolicy,
    CustomHookPolicy,
    HeadersPolicy,
    RequestIdPolicy,
    RetryPolicy,
    UserAgentPolicy,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse

from core.adapters.faults import retry_after, translate, translated
from core.commands import Operation
from core.events import WorkspaceId

MANAGEMENT = "https://management.azure.com"
ML_SCOPE = "https://ml.azure.com/.default"
USER_AGENT = "azureml-model-promotion"
CONNECT_SECONDS, READ_SECONDS = 10, 30
ERROR_LIMIT = 2000
# The newest stable version that every resource type used here has (official ARM types).
API_VERSION = "2023-10-01"


def http_client(base_url: str, credential: TokenCredential | None, scope: str) -> PipelineClient[Any, Any]:
    """A client that retries nothing but a connection that could not be made: a Retry-After becomes a hop."""
    policies: list[Any] = [
        RequestIdPolicy(),
        HeadersPolicy(),
        UserAgentPolicy(USER_AGENT),
        RetryPolicy(retry_total=1, retry_connect=1, retry_read=0, retry_status=0),
        CustomHookPolicy(),
    ]
    if credential is not None:
        policies.append(BearerTokenCredentialPolicy(credential, scope))
    transport = RequestsTransport(connection_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS)
    return PipelineClient(base_url, policies=policies, transport=transport)


@dataclass(frozen=True)
class Accepted:
    """The answer to a write: the resource as answered, and the operation that goes on, if any."""

    body: Mapping[str, Any]
    operation: Operation | None


class Arm:
    """Requests to Azure Resource Manager below one workspace. Paths start with `/`, below the workspace's ARM id."""

    def __init__(self, credential: TokenCredential, workspace: WorkspaceId) -> None:
        self._workspace = workspace
        self._client = http_client(MANAGEMENT, credential, f"{MANAGEMENT}/.default")
        self._location: str | None = None

    @property
    def workspace_id(self) -> str:
        """The ARM id of the workspace."""
        return self._workspace.arm_id

    @property
    def location(self) -> str:
        """The region of the workspace, such as `westeurope`."""
        if self._location is None:
            self._location = str(self.get("")["location"])
        return self._location

    def get(
        self, path: str, query: Mapping[str, str] | None = None, *, api_version: str | None = None
    ) -> Mapping[str, Any]:
        return self._json(self._send("GET", path, query=query, api_version=api_version))

    def find(self, path: str, *, api_version: str | None = None) -> Mapping[str, Any] | None:
        """As `get`, None if there is none. A workspace that is not there is not taken for an empty one."""
        response = self._send("GET", path, tolerate=(404,), api_version=api_version)
        if response.status_code != 404:
            return self._json(response)
        if _error_code(response) == "ResourceGroupNotFound" or _names_workspace(response, self._workspace):
            raise translate(404, _error_text(response), response.headers, doing=f"reading {path}")
        return None

    def all(self, path: str, *, api_version: str | None = None) -> list[Mapping[str, Any]]:
        """All pages of a list below the workspace."""
        return self._pages(f"{MANAGEMENT}{self._workspace.arm_id}{path}", api_version)

    def all_in_region(self, path: str) -> list[Mapping[str, Any]]:
        """All pages of a list of Azure ML in the workspace's subscription and region."""
        provider = f"/subscriptions/{self._workspace.subscription_id}/providers/Microsoft.MachineLearningServices"
        return self._pages(f"{MANAGEMENT}{provider}/locations/{self.location}{path}", None)

    def _pages(self, url: str, api_version: str | None) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        doing = f"reading {url.removeprefix(MANAGEMENT)}"
        request = HttpRequest("GET", url, params={"api-version": api_version or API_VERSION})
        while True:
            page = self._json(self._request(request, doing, ()))
            found += page.get("value") or []
            following = str(page.get("nextLink") or "")
            if not following.startswith(f"{MANAGEMENT}/"):
                return found
            request = HttpRequest("GET", following)

    def put(self, path: str, body: Mapping[str, Any], *, api_version: str | None = None) -> Accepted:
        return self._accepted(self._send("PUT", path, body=body, api_version=api_version))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        return self._json(self._send("POST", path, body=body or {}))

    def delete(self, path: str, *, api_version: str | None = None) -> Accepted:
        """Deleting what is not there is done."""
        return self._accepted(self._send("DELETE", path, tolerate=(404,), api_version=api_version))

    def operation(self, operation: Operation) -> Mapping[str, Any]:
        """What Azure tells of a long-running operation; only URLs of Resource Manager itself are asked."""
        if not operation.url.startswith(f"{MANAGEMENT}/"):
            return {}
        return self._json(self._request(HttpRequest("GET", operation.url), "asking for an operation", (404,)))

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        tolerate: tuple[int, ...] = (),
        api_version: str | None = None,
    ) -> HttpResponse:
        params = {"api-version": api_version or API_VERSION, **(query or {})}
        url = f"{MANAGEMENT}{self._workspace.arm_id}{path}"
        request = HttpRequest(method, url, params=params, json=body)
        verb = {"GET": "reading", "PUT": "writing", "POST": "calling", "DELETE": "deleting"}[method]
        return self._request(request, f"{verb} {path or 'the workspace'}", tolerate)

    def _request(self, request: HttpRequest, doing: str, tolerate: tuple[int, ...]) -> HttpResponse:
        doing = f"{doing} in workspace {self._workspace.workspace}"
        with translated(doing):
            response: HttpResponse = self._client.send_request(request)
        if response.status_code < 300 or response.status_code in tolerate:
            return response
        raise translate(response.status_code, _error_text(response), response.headers, doing=doing)

    def _json(self, response: HttpResponse) -> Mapping[str, Any]:
        parsed = _parsed(response)
        return parsed if isinstance(parsed, Mapping) else {}

    def _accepted(self, response: HttpResponse) -> Accepted:
        url = response.headers.get("Azure-AsyncOperation")
        operation = Operation(url=url, retry_after=retry_after(response.headers)) if url else None
        return Accepted(self._json(response), operation)


def _parsed(response: HttpResponse) -> Any:
    try:
        return json.loads(response.text()) if response.content else {}
    except ValueError:
        return {}


def _error(response: HttpResponse) -> Mapping[str, Any]:
    parsed = _parsed(response)
    error = parsed.get("error") if isinstance(parsed, Mapping) else None
    return error if isinstance(error, Mapping) else {}


def _error_code(response: HttpResponse) -> str:
    return str(_error(response).get("code", ""))


def _error_text(response: HttpResponse) -> str:
    """Azure's code and message, and those of the details, which is where Azure ML says what was wrong."""
    error = _error(response)
    told = f"{error.get('code', 'no code')}: {error.get('message', response.text()[:300])}"
    details = [each for each in error.get("details") or () if isinstance(each, Mapping) and each.get("message")]
    return "; ".join([told, *(f"{each.get('code', 'no code')}: {each['message']}" for each in details)])[:ERROR_LIMIT]


def _names_workspace(response: HttpResponse, workspace: WorkspaceId) -> bool:
    """Resource Manager's 404 for a missing parent names the workspace as the resource that was not found."""
    message = str(_error(response).get("message", "")).lower()
    return f"workspaces/{workspace.workspace}' ".lower() in message
