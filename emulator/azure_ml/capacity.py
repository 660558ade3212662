"""Instance types and quota: which VM sizes a region has, and how many vCPUs a subscription may have deployed in it.

Online deployments take quota while they exist and give it back when they are gone. As in Azure, each takes a fifth more
than its instances, for upgrades, in whole instances. Clusters take none here: nothing is ever scaled.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import PROVIDER, ArmError, Call, Routes, page
from emulator.azure_ml.workspaces import Workspace

LOCATION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}/locations/{{location}}"
DEFAULT_INSTANCE_TYPE = "Standard_DS3_v2"
# Plenty for whoever does not care; tests and demos set what they need.
DEFAULT_LIMIT = 10_000
TOTAL = "TotalDedicatedCores"
RESERVED_FOR_UPGRADES = 1.2
TROUBLESHOOTING = "https://aka.ms/oe-tsg#error-outofquota"


@dataclass(frozen=True)
class VmSize:
    name: str
    family: str
    vcpus: int
    gpus: int = 0
    reserves: bool = True

    def vcpus_of(self, instances: int) -> int:
        """What a deployment of so many instances takes of the quota."""
        factor = RESERVED_FOR_UPGRADES if self.reserves else 1.0
        return math.ceil(round(factor * instances, 6)) * self.vcpus

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.family,
            "vCPUs": self.vcpus,
            "gpus": self.gpus,
            "osVhdSizeMB": 1047552,
            "maxResourceVolumeMB": 14336 * self.vcpus,
            "memoryGB": 3.5 * self.vcpus,
            "lowPriorityCapable": True,
            "premiumIO": True,
            "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
        }


VM_SIZES = (
    *(VmSize(f"Standard_DS{n}_v2", "standardDSv2Family", vcpus) for n, vcpus in enumerate((1, 2, 4, 8, 16), 1)),
    *(VmSize(f"Standard_E{n}s_v3", "standardESv3Family", n) for n in (2, 4, 8, 16)),
    *(VmSize(f"Standard_F{n}s_v2", "standardFSv2Family", n) for n in (2, 4, 8, 16)),
    *(VmSize(f"Standard_NC{6 * n}s_v3", "standardNCSv3Family", 6 * n, gpus=n) for n in (1, 2)),
    VmSize("Standard_NC24ads_A100_v4", "standardNCADSA100v4Family", 24, gpus=1, reserves=False),
)
# Which instances are deployed in a subscription and region: instance type and instance count of each deployment.
Deployed = Callable[[str, str], Iterable[tuple[str, int]]]


@dataclass
class Region:
    """One region of one subscription. `limits` is by family or TOTAL; -1 is no limit."""

    sizes: dict[str, VmSize]
    limits: dict[str, int]


class Capacity:
    """The regions of all subscriptions, their ARM routes, and the check that a deployment must pass."""

    def __init__(self) -> None:
        self._regions: dict[tuple[str, str], Region] = {}
        self.deployed: Deployed = lambda _subscription, _location: ()

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", LOCATION + "/vmSizes", self._list_sizes)
        routes.add("GET", LOCATION + "/usages", self._list_usages)

    def region(self, subscription: str, location: str) -> Region:
        fresh = Region({size.name.lower(): size for size in VM_SIZES}, {})
        return self._regions.setdefault((subscription.lower(), location.lower()), fresh)

    def of(self, workspace: Workspace) -> Region:
        return self.region(workspace.spec.subscription_id, workspace.spec.location)

    def check(self, workspace: Workspace, instance_type: str, more: int, before: int = 0) -> None:
        """Raise the service's refusal of a deployment that gets `more` instances where it had `before`."""
        spec, region = workspace.spec, self.of(workspace)
        size = region.sizes.get(instance_type.lower())
        if size is None:
            raise _invalid(f"The specified VM size {instance_type} is not supported in region {spec.location}.")
        needed = size.vcpus_of(more) - (size.vcpus_of(before) if before else 0)
        for name in (size.family, TOTAL):
            limit, used = self._limit(region, name), self.used(spec.subscription_id, spec.location, name)
            if 0 <= limit < used + needed:
                raise _invalid(
                    f"Not enough quota available for {size.name} in SubscriptionId {spec.subscription_id}. Current "
                    f"usage/limit: {used}/{limit}. Additional needed: {needed} Please see troubleshooting guide, "
                    f"available here: {TROUBLESHOOTING}"
                )

    def used(self, subscription: str, location: str, name: str) -> int:
        """What deployments have of a family's quota, or of the total."""
        sizes = self.region(subscription, location).sizes
        found = ((sizes.get(kind.lower()), count) for kind, count in self.deployed(subscription, location))
        return sum(size.vcpus_of(count) for size, count in found if size and name in (size.family, TOTAL))

    def usages(self, subscription: str, location: str) -> list[dict[str, Any]]:
        """Dedicated and low-priority rows of a family have the same name: only their type tells them apart."""
        region = self.region(subscription, location)
        rows = []
        for name in (TOTAL, *sorted({size.family for size in region.sizes.values()} | region.limits.keys() - {TOTAL})):
            used, limit = self.used(subscription, location, name), self._limit(region, name)
            scope = "" if name == TOTAL else "vmFamily/"
            rows.append(_usage(subscription, location, name, f"{scope}dedicatedCores", used, limit))
            low = "TotalLowPriorityCores" if name == TOTAL else name
            rows.append(_usage(subscription, location, low, f"{scope}lowPriorityCores", 0, -1 if scope else 100))
        return rows

    @staticmethod
    def _limit(region: Region, name: str) -> int:
        return region.limits.get(name, DEFAULT_LIMIT)

    async def _list_sizes(self, call: Call) -> web.Response:
        region = self.region(call["subscription"], call["location"])
        return web.json_response({"value": [size.as_json() for size in region.sizes.values()]})

    async def _list_usages(self, call: Call) -> web.Response:
        return page(call, self.usages(call["subscription"], call["location"]))


def _usage(subscription: str, location: str, name: str, kind: str, used: int, limit: int) -> dict[str, Any]:
    label = f"{name} {'dedicated' if kind.endswith('dedicatedCores') else 'low-priority'} vCPUs"
    return {
        "id": f"/subscriptions/{subscription}/providers/{PROVIDER}/locations/{location}/usages/{name}",
        "type": f"{PROVIDER}/{kind}/usages",
        "amlWorkspaceLocation": location,
        "name": {"value": name, "localizedValue": label},
        "unit": "Count",
        "currentValue": used,
        "limit": limit,
    }


def _invalid(what: str) -> ArmError:
    """The refusal in the service's form: the reason stands as JSON in the message of a detail."""
    errors = {"errors": {"VmSize": [what]}, "title": "One or more validation errors occurred.", "status": 400}
    message = f"InferencingClient HttpRequest error, error detail: {json.dumps(errors)}"
    details = [{"code": "InferencingClientCreateDeploymentFailed", "message": message}]
    return ArmError(400, "BadRequest", "The request is invalid.", details)
