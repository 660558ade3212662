"""Online endpoints and deployments as resources: what they are, and how ARM shows them."""

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from emulator.azure_ml.arm import SystemData, bad_request, resource
from emulator.azure_ml.capacity import DEFAULT_INSTANCE_TYPE
from emulator.azure_ml.operations import TRANSITIONAL, Operation
from emulator.azure_ml.workspaces import Workspace
from emulator.handed_out import remembered
from emulator.serving.servers import InferenceServer

NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
TOKEN_LIFETIME = timedelta(hours=12)
# What the service fills in where a deployment says nothing, from the reference of managed online deployments.
DEPLOYMENT_DEFAULTS: dict[str, Any] = {
    "endpointComputeType": "Managed",
    "scaleSettings": {"scaleType": "Default"},
    "requestSettings": {
        "maxConcurrentRequestsPerInstance": 1,
        "requestTimeout": "PT5S",
        "maxQueueWait": "PT0.5S",
    },
    "livenessProbe": {
        "failureThreshold": 30, "initialDelay": "PT10S", "period": "PT10S", "successThreshold": 1, "timeout": "PT2S",
    },
    "readinessProbe": {
        "failureThreshold": 30, "initialDelay": "PT10S", "period": "PT10S", "successThreshold": 1, "timeout": "PT2S",
    },
    "appInsightsEnabled": False,
    "egressPublicNetworkAccess": "Enabled",
    "environmentVariables": {},
    "properties": {},
    "description": None,
}  # fmt: skip
# A change of one of these needs new containers; everything else is only written down.
CONTAINER = ("model", "environmentId", "codeConfiguration", "environmentVariables", "modelMountPath")


@dataclass
class Deployment:
    """A deployment, and the server that answers for it.

    `server` serves what the last successful operation deployed; a failed update leaves it running.
    """

    name: str
    workspace: Workspace
    system_data: SystemData
    location: str
    properties: dict[str, Any]
    tags: dict[str, str]
    sku: dict[str, Any]
    directory: Path
    state: str = "Creating"
    operation: Operation | None = None
    server: InferenceServer | None = None
    ever_succeeded: bool = False
    log: Path | None = None
    downloads: list[str] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return self.state in TRANSITIONAL

    @property
    def instance_type(self) -> str:
        return instance_type(self.properties)

    @property
    def instances(self) -> int:
        return int(self.sku.get("capacity") or 1)

    @property
    def request_timeout(self) -> float:
        return seconds((self.properties.get("requestSettings") or {}).get("requestTimeout") or "PT5S")


@dataclass
class Endpoint:
    """An endpoint. `traffic` is what was asked for last, `live_traffic` what requests follow now."""

    name: str
    workspace: Workspace
    system_data: SystemData
    location: str
    properties: dict[str, Any]
    tags: dict[str, str]
    identity: dict[str, Any]
    kind: str | None
    state: str = "Creating"
    operation: Operation | None = None
    traffic: dict[str, int] = field(default_factory=dict)
    live_traffic: dict[str, int] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=lambda: {"Primary": new_key(), "Secondary": new_key()})
    tokens: dict[str, datetime] = field(default_factory=dict)
    # The running sums of the weighted round robin over `live_traffic`.
    credit: dict[str, int] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        return self.state in TRANSITIONAL

    @property
    def arm_id(self) -> str:
        return f"{self.workspace.spec.arm_id}/onlineEndpoints/{self.name}"

    @property
    def host(self) -> str:
        return f"{self.name.lower()}.{self.location}.inference.ml.azure.com"

    def route(self) -> Deployment | None:
        """The deployment whose turn it is. Weights are kept exactly over every 100 requests; the service draws lots."""
        if not self.live_traffic:
            return None
        for name, weight in self.live_traffic.items():
            self.credit[name] = self.credit.get(name, 0) + weight
        chosen = max(self.live_traffic, key=lambda name: self.credit[name])
        self.credit[chosen] -= sum(self.live_traffic.values())
        return self.deployments.get(chosen)

    def send_traffic(self, traffic: dict[str, int]) -> None:
        self.live_traffic = {name.lower(): weight for name, weight in traffic.items() if weight}
        self.credit = {}


def instance_type(properties: dict[str, Any]) -> str:
    return str(properties.get("instanceType") or DEFAULT_INSTANCE_TYPE)


def new_key() -> str:
    return remembered(secrets.token_urlsafe(24))


def seconds(duration: str) -> float:
    """An ISO 8601 duration of hours, minutes and seconds."""
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", duration)
    if match is None:
        raise bad_request(f"'{duration}' is not a duration: write one like PT1M30S.")
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise bad_request(
            f"{what} name '{name}' is invalid. It must be 3 to 32 characters long, start with a letter, consist of letters, "
            "digits and hyphens, and end with a letter or a digit."
        )


def check_traffic(endpoint_name: str, traffic: Any, known: dict[str, Deployment]) -> dict[str, int]:
    """The traffic of an endpoint's body. Raises a 400 unless it names deployments and sums to 0 or 100."""
    if not isinstance(traffic, dict):
        raise bad_request("traffic must map deployment names to percentages.")
    for name, weight in traffic.items():
        if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= 100:
            raise bad_request(f"The traffic of deployment {name} must be a whole number from 0 to 100, it is {weight}.")
        deployment = known.get(name.lower())
        if deployment is None:
            raise bad_request(
                f"Traffic is set for deployment {name}, which does not exist in endpoint {endpoint_name}. Create it first."
            )
        if weight and not deployment.ever_succeeded:
            raise bad_request(
                f"Traffic cannot be set for deployment {name}, because it is in {deployment.state} provisioning state."
            )
    total = sum(traffic.values())
    if total not in (0, 100):
        raise bad_request(f"The traffic of endpoint {endpoint_name} must sum to 0 or 100 percent, it sums to {total}.")
    return dict(traffic)


def check_mirror(name: str, mirror: dict[str, Any], known: dict[str, Deployment]) -> None:
    """Mirrored traffic goes to one deployment at most, and to half of the requests at most."""
    unknown = [each for each in mirror if each.lower() not in known]
    if unknown:
        raise bad_request(f"Mirror traffic is set for {unknown[0]}, which does not exist in endpoint {name}.")
    if len(mirror) > 1 or any(not 0 <= weight <= 50 for weight in mirror.values()):
        raise bad_request("Mirror traffic may name one deployment, with at most 50 percent.")


def require_keys(endpoint: Endpoint) -> None:
    if endpoint.properties["authMode"].lower() != "key":
        raise bad_request(f"Endpoint {endpoint.name} does not use key authentication.")


def refuse_unrecoverable(deployment: Deployment) -> None:
    if deployment.state == "Failed" and not deployment.ever_succeeded:
        raise bad_request(
            f"Specified deployment [{deployment.name}] failed during initial provisioning and is in an unrecoverable "
            "state. Delete and re-create."
        )


def endpoint_as_json(endpoint: Endpoint) -> dict[str, Any]:
    spec = endpoint.workspace.spec
    envelope = resource(spec, "onlineEndpoints", endpoint.name)
    computed = {
        "provisioningState": endpoint.state,
        "scoringUri": f"https://{endpoint.host}/score",
        "swaggerUri": f"https://{endpoint.host}/swagger.json",
        "traffic": endpoint.traffic,
        "mirrorTraffic": endpoint.properties.get("mirrorTraffic") or {},
        "publicNetworkAccess": endpoint.properties.get("publicNetworkAccess") or "Enabled",
        "properties": (endpoint.properties.get("properties") or {})
        | {"azureml.onlineendpointid": envelope["id"].lower()}
        | _operation_property(endpoint.operation),
    }
    return envelope | {
        "location": endpoint.location,
        "kind": endpoint.kind or "Managed",
        "tags": endpoint.tags,
        "identity": endpoint.identity,
        "systemData": endpoint.system_data.as_json(),
        "properties": endpoint.properties | computed,
    }


def deployment_as_json(endpoint: Endpoint, deployment: Deployment) -> dict[str, Any]:
    spec = deployment.workspace.spec
    computed = {
        "provisioningState": deployment.state,
        "properties": (deployment.properties.get("properties") or {}) | _operation_property(deployment.operation),
    }
    return resource(spec, "onlineEndpoints", endpoint.name, "deployments", deployment.name) | {
        "location": deployment.location,
        "kind": "Managed",
        "tags": deployment.tags,
        "sku": deployment.sku,
        "systemData": deployment.system_data.as_json(),
        "properties": deployment.properties | computed,
    }


def _operation_property(operation: Operation | None) -> dict[str, str]:
    """The service leaves the URL of the latest operation in a resource's properties."""
    return {"AzureAsyncOperationUri": operation.status_url} if operation else {}
