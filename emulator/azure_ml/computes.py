"""Compute clusters. Each workspace has one, on which jobs run; nothing here is ever scaled."""

from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes, page, resource
from emulator.azure_ml.workspaces import Workspace, Workspaces
from emulator.topology import TENANT_ID

CLUSTER = "cpu-cluster"


class Computes:
    """ARM's routes of computes, and look-up for those who refer to one."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", WORKSPACE + "/computes", self._list)
        routes.add("GET", WORKSPACE + "/computes/{compute}", self._get)

    @staticmethod
    def check(workspace: Workspace, reference: Any) -> None:
        """Refuse a compute that the workspace does not have, named by its ARM id or its bare name."""
        name = str(reference or "").rpartition("/")[2].removeprefix("azureml:")
        if name.lower() != CLUSTER:
            raise ArmError(
                400,
                "UserError",
                f"The compute {name or 'of the job'} was not found in workspace {workspace.spec.name}.",
            )

    async def _list(self, call: Call) -> web.Response:
        return page(call, [self._as_json(self._workspaces.of(call))])

    async def _get(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        if call["compute"].lower() != CLUSTER:
            raise ArmError(404, "UserError", f"The compute {call['compute']} was not found.")
        return web.json_response(self._as_json(workspace))

    @staticmethod
    def _as_json(workspace: Workspace) -> dict[str, Any]:
        spec = workspace.spec
        scale = {"minNodeCount": 0, "maxNodeCount": 2, "nodeIdleTimeBeforeScaleDown": "PT2M"}
        return resource(spec, "computes", CLUSTER) | {
            "location": spec.location,
            "tags": {},
            "identity": {"type": "SystemAssigned", "tenantId": TENANT_ID},
            "properties": {
                "computeType": "AmlCompute",
                "computeLocation": spec.location,
                "provisioningState": "Succeeded",
                "isAttachedCompute": False,
                "disableLocalAuth": True,
                "properties": {
                    "vmSize": "STANDARD_DS3_V2",
                    "vmPriority": "Dedicated",
                    "scaleSettings": scale,
                    "allocationState": "Steady",
                    "currentNodeCount": 0,
                    "targetNodeCount": 0,
                },
            },
        }
