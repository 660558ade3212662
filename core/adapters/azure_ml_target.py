"""A target workspace: what it shows, and the effects of a promotion on it.

Bodies are those of `azure.ai.ml`'s own entities, so that they are what the SDK would send; they are sent by plain
requests, because the SDK's `begin_*` methods poll on in a thread of their own. Only effects import `azure.ai.ml`.
"""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.core.rest import HttpRequest

from core.adapters.arm import ML_SCOPE, Arm, http_client
from core.adapters.blobs import Blobs
from core.adapters.datastores import BlobPath, datastore_container
from core.commands import Operation
from core.errors import Blocked, Reason, Transient
from core.events import WorkspaceId
from core.packaging import Manifest
from core.ports import CopyState, Deployment, DeploymentSpec, Endpoint, Provisioning, ScoringAnswer, TargetModel

# Copies are kept by content: several endpoints that serve one model share them.
COPIES_FOLDER = "promoted-models"
LOG_LINES = 200
ANSWER_LIMIT = 2000
_STATES = {
    "succeeded": Provisioning.SUCCEEDED,
    "failed": Provisioning.FAILED,
    "canceled": Provisioning.FAILED,
    "deleting": Provisioning.DELETING,
}
# What Azure ML answers, and what a PUT may bring back.
_WRITABLE = ("location", "tags", "identity", "kind", "sku")
_READ_ONLY_PROPERTIES = frozenset({"provisioningState", "scoringUri", "swaggerUri"})


class AzureMLTarget:
    """`core.ports.Target` for one Azure ML workspace."""

    def __init__(self, credential: TokenCredential, workspace: WorkspaceId, blobs: Blobs) -> None:
        self._credential = credential
        self._workspace = workspace
        self._arm = Arm(credential, workspace)
        self._blobs = blobs
        self._default_datastore: tuple[str, str, str] | None = None

    # -------------------------------------------------------------------------------------------------------- looks

    def endpoint(self, name: str) -> Endpoint | None:
        body = self._arm.find(f"/onlineEndpoints/{name}")
        if body is None:
            return None
        properties = body["properties"]
        return Endpoint(
            name=name,
            tags=body.get("tags") or {},
            traffic={key: int(value) for key, value in (properties.get("traffic") or {}).items()},
            provisioning=_provisioning(properties),
            scoring_uri=properties.get("scoringUri"),
            auth_mode=str(properties.get("authMode", "key")).lower(),
            body=body,
        )

    def deployments(self, endpoint: str) -> tuple[Deployment, ...]:
        path = f"/onlineEndpoints/{endpoint}/deployments"
        items: list[Mapping[str, Any]] = []
        query: dict[str, str] = {}
        while True:
            page = self._arm.get(path, query)
            items += page.get("value") or []
            skip = _skip_token(page.get("nextLink"))
            if skip is None:
                break
            query = {"$skip": skip}
        return tuple(
            Deployment(name=item["name"], tags=item.get("tags") or {}, provisioning=_provisioning(item["properties"]))
            for item in items
        )

    def model(self, name: str, version: str) -> TargetModel | None:
        body = self._arm.find(f"/models/{name}/versions/{version}")
        return TargetModel(id=body["id"], tags=body["properties"].get("tags") or {}) if body else None

    def copy_states(self, manifest: Manifest) -> tuple[CopyState, ...]:
        return self._blobs.copy_states(manifest, self._destination(manifest))

    def deployment_log(self, endpoint: str, name: str) -> str:
        body = {"containerType": "InferenceServer", "tail": LOG_LINES}
        return str(self._arm.post(f"/onlineEndpoints/{endpoint}/deployments/{name}/getLogs", body).get("content", ""))

    def operation_error(self, operation: Operation) -> str | None:
        error = self._arm.operation(operation).get("error")
        return f"{error.get('code')}: {error.get('message')}" if isinstance(error, Mapping) else None

    # ------------------------------------------------------------------------------------------------------ effects

    def start_copy(self, manifest: Manifest, state: CopyState) -> None:
        self._blobs.start_copy(manifest, self._destination(manifest), state)

    def register_model(
        self,
        manifest: Manifest,
        *,
        name: str,
        version: str,
        model_type: str,
        flavors: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        from azure.ai.ml.entities import Model

        place = self._destination(manifest)
        path = place.path if manifest.folder else f"{place.path}/{manifest.files[0].path}"
        workspace = self._workspace
        uri = (
            f"azureml://subscriptions/{workspace.subscription_id}/resourcegroups/{workspace.resource_group}"
            f"/workspaces/{workspace.workspace}/datastores/{self._datastore()[0]}/paths/{path}"
        )
        model = Model(name=name, version=version, path=uri, type=model_type, flavors=_flavors(flavors), tags=dict(tags))
        self._arm.put(f"/models/{name}/versions/{version}", _body(model._to_rest_object()))

    def create_endpoint(self, name: str, *, auth_mode: str, tags: Mapping[str, str]) -> Operation | None:
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        endpoint = ManagedOnlineEndpoint(name=name, auth_mode=auth_mode, tags=dict(tags))
        body = _body(endpoint._to_rest_online_endpoint(location=self._arm.location))
        try:
            return self._arm.put(f"/onlineEndpoints/{name}", body).operation
        except Transient as fault:
            if "HTTP 409" not in str(fault):
                raise
            raise Blocked(
                Reason.ENDPOINT_NAME_TAKEN,
                str(fault),
                remedy="Endpoint names are unique in a region: set another `endpoint` in the stage, or free this one.",
            ) from fault

    def update_endpoint(
        self, endpoint: Endpoint, *, tags: Mapping[str, str], traffic: Mapping[str, int]
    ) -> Operation | None:
        if sum(endpoint.traffic.values()) > 0 and sum(traffic.values()) == 0:
            raise ValueError(f"would take all traffic from endpoint {endpoint.name}, which is live")
        body: dict[str, Any] = {key: endpoint.body[key] for key in _WRITABLE if endpoint.body.get(key) is not None}
        if "identity" in body:
            body["identity"] = _identity(body["identity"])
        properties = {k: v for k, v in endpoint.body["properties"].items() if k not in _READ_ONLY_PROPERTIES}
        body["tags"] = dict(tags)
        body["properties"] = properties | {"traffic": dict(traffic)}
        return self._arm.put(f"/onlineEndpoints/{endpoint.name}", body).operation

    def create_deployment(self, spec: DeploymentSpec) -> Operation | None:
        from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings

        settings = OnlineRequestSettings(
            request_timeout_ms=spec.request_timeout_ms,
            max_concurrent_requests_per_instance=spec.max_concurrent_requests_per_instance,
        )
        has_settings = spec.request_timeout_ms is not None or spec.max_concurrent_requests_per_instance is not None
        deployment = ManagedOnlineDeployment(
            name=spec.name,
            endpoint_name=spec.endpoint,
            model=spec.model_id,
            instance_type=spec.instance_type,
            instance_count=spec.instance_count,
            environment_variables=dict(spec.environment_variables),
            request_settings=settings if has_settings else None,
            tags=dict(spec.tags),
        )
        body = _body(deployment._to_rest_object(location=self._arm.location))
        return self._arm.put(f"/onlineEndpoints/{spec.endpoint}/deployments/{spec.name}", body).operation

    def delete_deployment(self, endpoint: str, name: str) -> Operation | None:
        return self._arm.delete(f"/onlineEndpoints/{endpoint}/deployments/{name}").operation

    # ------------------------------------------------------------------------------------------------------ scoring

    def score(self, endpoint: Endpoint, deployment: str, body: Mapping[str, Any]) -> ScoringAnswer:
        """Our own POST: the SDK's `invoke` keeps the deployment header for every later call of the process."""
        if not endpoint.scoring_uri:
            return ScoringAnswer(status=None, text="the endpoint has no scoring URI yet", seconds=0.0)
        headers = {"Authorization": f"Bearer {self._scoring_token(endpoint)}", "azureml-model-deployment": deployment}
        request = HttpRequest("POST", endpoint.scoring_uri, json=dict(body), headers=headers)
        started = time.monotonic()
        try:
            with http_client(endpoint.scoring_uri, None, "") as client:
                response = client.send_request(request)
                text = response.text()[:ANSWER_LIMIT]
        except AzureError as error:
            return ScoringAnswer(status=None, text=str(error)[:ANSWER_LIMIT], seconds=time.monotonic() - started)
        return ScoringAnswer(status=response.status_code, text=text, seconds=time.monotonic() - started)

    def _scoring_token(self, endpoint: Endpoint) -> str:
        path = f"/onlineEndpoints/{endpoint.name}"
        match endpoint.auth_mode:
            case "key":
                return str(self._arm.post(f"{path}/listKeys").get("primaryKey", ""))
            case "amltoken":
                return str(self._arm.post(f"{path}/token").get("accessToken", ""))
            case _:
                return self._credential.get_token(ML_SCOPE).token

    # ------------------------------------------------------------------------------------------------------- places

    def _destination(self, manifest: Manifest) -> BlobPath:
        _, account_url, container = self._datastore()
        folder = f"/{manifest.folder}" if manifest.folder else ""
        return BlobPath(account_url, container, f"{COPIES_FOLDER}/{manifest.digest[:32]}{folder}")

    def _datastore(self) -> tuple[str, str, str]:
        """Name, account URL and container of the workspace's default datastore."""
        if self._default_datastore is None:
            answer = self._arm.get("/datastores", {"isDefault": "true", "count": "30", "orderByAsc": "false"})
            datastore = answer["value"][0]
            self._default_datastore = (str(datastore["name"]), *datastore_container(datastore))
        return self._default_datastore


def _provisioning(properties: Mapping[str, Any]) -> Provisioning:
    state = str(properties.get("provisioningState", "")).lower()
    return _STATES.get(state, Provisioning.CHANGING)


def _skip_token(next_link: str | None) -> str | None:
    """The `$skip` of a nextLink: followed as a parameter, so that no answer can lead our token to another host."""
    found = parse_qs(urlsplit(next_link or "").query).get("$skip")
    return found[0] if found else None


def _identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Principal and client ids are Azure's to give; a PUT names the kind and the user-assigned identities only."""
    users = identity.get("userAssignedIdentities")
    return {"type": identity["type"]} | ({"userAssignedIdentities": {key: {} for key in users}} if users else {})


def _flavors(flavors: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Resource Manager takes texts only; what a flavor nests (its environments, say) stays in MLmodel itself."""
    return {
        name: {key: str(value) for key, value in flavor.items() if isinstance(value, str | int | float | bool)}
        for name, flavor in flavors.items()
        if isinstance(flavor, Mapping)
    }


def _body(rest_object: Any) -> dict[str, Any]:
    """The entity's own REST form. Its method is not public API, hence the pinned SDK and a test on the wire."""
    return dict(rest_object.as_dict())
