"""Managed online endpoints of a target workspace: what they show, the effects on them, and asking them."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.core.rest import HttpRequest

from core.adapters.arm import ML_SCOPE, Arm, http_client
from core.adapters.azure_ml_bodies import body_of, deployments, name_taken, out_of_quota, provisioning, with_changes
from core.commands import Operation
from core.errors import Refusal, Transient
from core.ports import Deployment, DeploymentSpec, Endpoint, Metrics, ScoringAnswer

LOG_LINES = 200
ANSWER_LIMIT = 200_000
_READ_ONLY = frozenset({"provisioningState", "scoringUri", "swaggerUri"})


class AzureMLOnlineEndpoints:
    """`core.ports.OnlineEndpoints` for one Azure ML workspace."""

    def __init__(self, credential: TokenCredential, arm: Arm) -> None:
        self._credential = credential
        self._arm = arm

    def endpoint(self, name: str) -> Endpoint | None:
        body = self._arm.find(f"/onlineEndpoints/{name}")
        if body is None:
            return None
        properties = body["properties"]
        return Endpoint(
            name=name,
            tags=body.get("tags") or {},
            traffic={key: int(value) for key, value in (properties.get("traffic") or {}).items()},
            provisioning=provisioning(properties),
            scoring_uri=properties.get("scoringUri"),
            auth_mode=str(properties.get("authMode", "key")).lower(),
            body=body,
        )

    def deployments(self, endpoint: str) -> tuple[Deployment, ...]:
        return deployments(self._arm, f"/onlineEndpoints/{endpoint}/deployments")

    def deployment_log(self, endpoint: str, name: str) -> str:
        body = {"containerType": "InferenceServer", "tail": LOG_LINES}
        return str(self._arm.post(f"/onlineEndpoints/{endpoint}/deployments/{name}/getLogs", body).get("content", ""))

    def metrics(self, endpoint: str, deployment: str, *, since: datetime, percentile: int | None) -> Metrics:
        from core.adapters.azure_monitor import deployment_metrics

        endpoint_id = f"{self._arm.workspace_id}/onlineEndpoints/{endpoint}"
        return deployment_metrics(
            self._credential, self._arm.location, endpoint_id, deployment, since=since, percentile=percentile
        )

    def create_endpoint(self, name: str, *, auth_mode: str, tags: Mapping[str, str]) -> Operation | None:
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        endpoint = ManagedOnlineEndpoint(name=name, auth_mode=auth_mode, tags=dict(tags))
        body = body_of(endpoint._to_rest_online_endpoint(location=self._arm.location))
        try:
            return self._arm.put(f"/onlineEndpoints/{name}", body).operation
        except Transient as fault:
            raise name_taken(fault) from fault

    def update_endpoint(
        self, endpoint: Endpoint, *, tags: Mapping[str, str], traffic: Mapping[str, int]
    ) -> Operation | None:
        if sum(endpoint.traffic.values()) > 0 and sum(traffic.values()) == 0:
            raise ValueError(f"would take all traffic from endpoint {endpoint.name}, which is live")
        body = with_changes(endpoint.body, _READ_ONLY, tags=tags, properties={"traffic": dict(traffic)})
        return self._arm.put(f"/onlineEndpoints/{endpoint.name}", body).operation

    def create_deployment(self, spec: DeploymentSpec) -> Operation | None:
        from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment, OnlineRequestSettings

        settings = OnlineRequestSettings(
            request_timeout_ms=spec.request_timeout_ms,
            max_concurrent_requests_per_instance=spec.max_concurrent_requests_per_instance,
        )
        has_settings = spec.request_timeout_ms is not None or spec.max_concurrent_requests_per_instance is not None
        deployment = ManagedOnlineDeployment(
            name=spec.name,
            endpoint_name=spec.endpoint,
            model=spec.model_id,
            code_configuration=CodeConfiguration(code=spec.code_id, scoring_script=spec.scoring_script)
            if spec.code_id
            else None,
            environment=spec.environment_id,
            instance_type=spec.instance_type,
            instance_count=spec.instance_count,
            environment_variables=dict(spec.environment_variables),
            request_settings=settings if has_settings else None,
            tags=dict(spec.tags),
        )
        body = body_of(deployment._to_rest_object(location=self._arm.location))
        try:
            return self._arm.put(f"/onlineEndpoints/{spec.endpoint}/deployments/{spec.name}", body).operation
        except Refusal as refusal:
            raise out_of_quota(refusal) from refusal

    def delete_deployment(self, endpoint: str, name: str) -> Operation | None:
        return self._arm.delete(f"/onlineEndpoints/{endpoint}/deployments/{name}").operation

    def delete_endpoint(self, name: str) -> Operation | None:
        return self._arm.delete(f"/onlineEndpoints/{name}").operation

    def score(self, endpoint: Endpoint, deployment: str, body: Any) -> ScoringAnswer:
        """Our own POST: the SDK's `invoke` keeps the deployment header for every later call of the process."""
        if not endpoint.scoring_uri:
            return ScoringAnswer(status=None, text="the endpoint has no scoring URI yet", seconds=0.0)
        headers = {"Authorization": f"Bearer {self._scoring_token(endpoint)}", "azureml-model-deployment": deployment}
        request = HttpRequest("POST", endpoint.scoring_uri, json=body, headers=headers)
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
