"""The Event Grid events that a workspace raises, in the form in which the service sends them."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from emulator.azure_ml.arm import PROVIDER, iso
from emulator.clock import Clock
from emulator.topology import WorkspaceSpec

Publish = Callable[[str, dict[str, Any]], Awaitable[None]]


class Events:
    """Raises events of the system topic of a workspace. The receiver adds `topic`."""

    def __init__(self, clock: Clock, publish: Publish) -> None:
        self._clock = clock
        self._publish = publish

    async def model_registered(self, spec: WorkspaceSpec, name: str, version: str, properties: dict[str, Any]) -> None:
        """Raised once for each version, when it is created; no change of tags raises it again."""
        data = {
            "ModelName": name,
            "ModelVersion": int(version) if version.isdecimal() else version,
            "ModelTags": dict(properties.get("tags") or {}),
            "ModelProperties": dict(properties.get("properties") or {}),
        }
        await self._raise(spec, "ModelRegistered", f"models/{name}:{version}", data)

    async def model_written(self, spec: WorkspaceSpec, name: str, version: str, caller: str) -> None:
        """Raised by Resource Manager for each write, on the topic of the subscription around the workspace."""
        uri = f"{spec.arm_id}/models/{name}/versions/{version}"
        operation = f"{PROVIDER}/workspaces/models/versions/write"
        data = {
            "authorization": {"scope": uri, "action": operation},
            "claims": {"name": caller},
            "httpRequest": {"method": "PUT"},
            "operationName": operation,
            "resourceProvider": PROVIDER,
            "resourceUri": uri,
            "status": "Succeeded",
            "subscriptionId": spec.subscription_id,
        }
        await self._send(subscription_id(spec.arm_id), "Microsoft.Resources.ResourceWriteSuccess", uri, data)

    async def run_completed(self, spec: WorkspaceSpec, run: dict[str, Any]) -> None:
        await self._raise(spec, "RunCompleted", self._run_subject(run), self._run_data(run))

    async def run_failed(self, spec: WorkspaceSpec, run: dict[str, Any]) -> None:
        """A change of status is raised for failure only, as the service's documentation says."""
        data = self._run_data(run) | {"runStatus": "failed"}
        await self._raise(spec, "RunStatusChanged", self._run_subject(run), data)

    @staticmethod
    def _run_subject(run: dict[str, Any]) -> str:
        return f"experiments/{run['experimentId']}/runs/{run['runId']}"

    @staticmethod
    def _run_data(run: dict[str, Any]) -> dict[str, Any]:
        return {
            "experimentId": run["experimentId"],
            "experimentName": run["experimentName"],
            "runId": run["runId"],
            "runType": run["runType"],
            "runTags": dict(run["tags"]),
            "runProperties": dict(run["properties"]),
        }

    async def _raise(self, spec: WorkspaceSpec, kind: str, subject: str, data: dict[str, Any]) -> None:
        await self._send(spec.arm_id, f"{PROVIDER}.{kind}", subject, data)

    async def _send(self, topic: str, kind: str, subject: str, data: dict[str, Any]) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "subject": subject,
            "eventType": kind,
            "eventTime": iso(self._clock.now()),
            "data": data,
            "dataVersion": "",
            "metadataVersion": "1",
        }
        await self._publish(topic, event)


def subscription_id(arm_id: str) -> str:
    """The ARM id of the subscription in which a resource is."""
    return "/".join(arm_id.split("/")[:3])
