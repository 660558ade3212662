"""What can be asked of a target before anything is done: instance types, quota, permissions, a compute. Reads only.

Usages and VM sizes are those of Azure ML in the workspace's region (`Microsoft.MachineLearningServices/locations/usages`
and `.../vmSizes`), which a role on the workspace alone does not open; docs/operations.md names the actions.
"""

from collections.abc import Mapping
from typing import Any

from core.adapters.arm import Arm
from core.events import WorkspaceId
from core.ports import Compute, Grant, InstanceType, Quota

PERMISSIONS_VERSION = "2022-04-01"


class AzureMLPreflight:
    """`core.ports.Preflight` for one Azure ML workspace."""

    def __init__(self, arm: Arm, workspace: WorkspaceId) -> None:
        self._arm = arm
        self._workspace = workspace

    def instance_type(self, name: str) -> InstanceType | None:
        sizes = self._arm.all_in_region("/vmSizes")
        found = next((size for size in sizes if str(size.get("name")).lower() == name.lower()), None)
        if found is None:
            return None
        return InstanceType(name=found["name"], family=found.get("family") or "", vcpus=found["vCPUs"])

    def quotas(self) -> tuple[Quota, ...]:
        return tuple(_quota(usage) for usage in self._arm.all_in_region("/usages") if self._concerns_us(usage))

    def grants(self) -> tuple[Grant, ...]:
        found = self._arm.all("/providers/Microsoft.Authorization/permissions", api_version=PERMISSIONS_VERSION)
        return tuple(
            Grant(actions=tuple(each.get("actions") or ()), not_actions=tuple(each.get("notActions") or ()))
            for each in found
        )

    def compute(self, name: str) -> Compute | None:
        body = self._arm.find(f"/computes/{name}")
        if body is None:
            return None
        properties = body["properties"]
        scale = (properties.get("properties") or {}).get("scaleSettings") or {}
        return Compute(
            name=name,
            kind=properties.get("computeType") or "compute of no known type",
            state=properties.get("provisioningState") or "in no known state",
            max_nodes=scale.get("maxNodeCount"),
        )

    def _concerns_us(self, usage: Mapping[str, Any]) -> bool:
        """Dedicated vCPUs, of the subscription or of this very workspace.

        The rows of dedicated and of low-priority vCPUs have the same name; their type tells them apart.
        """
        kind = f"{usage.get('type', '')} {_name(usage)}".lower()
        _, is_of_one, rest = str(usage.get("id", "")).lower().partition("/workspaces/")
        is_ours = not is_of_one or rest.startswith(f"{self._workspace.workspace.lower()}/")
        return "dedicatedcores" in kind and is_ours


def _name(usage: Mapping[str, Any]) -> str:
    return str((usage.get("name") or {}).get("value") or "")


def _quota(usage: Mapping[str, Any]) -> Quota:
    """A limit of -1 is none."""
    limit = int(usage["limit"])
    label = (usage.get("name") or {}).get("localizedValue") or _name(usage)
    return Quota(name=_name(usage), label=label, used=int(usage["currentValue"]), limit=None if limit < 0 else limit)
