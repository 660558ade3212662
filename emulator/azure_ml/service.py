"""Azure Machine Learning as one service of the local Azure."""

import re
from pathlib import Path

from aiohttp import web

from emulator.access import Access
from emulator.azure_ml.arm import ArmError, Routes
from emulator.azure_ml.assets import Assets
from emulator.azure_ml.batch_endpoints import BatchEndpoints
from emulator.azure_ml.capacity import Capacity
from emulator.azure_ml.computes import Computes
from emulator.azure_ml.control import AzureMLControl
from emulator.azure_ml.deployer import Deployer
from emulator.azure_ml.events import Events, Publish
from emulator.azure_ml.jobs import Jobs
from emulator.azure_ml.mlflow_tracking import MlflowTracking
from emulator.azure_ml.online_endpoints import OnlineEndpoints
from emulator.azure_ml.operations import Operations
from emulator.azure_ml.permissions import Permissions
from emulator.azure_ml.pipelines import Pipelines
from emulator.azure_ml.schedules import Schedules
from emulator.azure_ml.scoring import Scoring, VerifyToken
from emulator.azure_ml.steps import Steps
from emulator.azure_ml.workspaces import Storage, Workspaces
from emulator.azure_monitor import AzureMonitor
from emulator.clock import Clock
from emulator.faults import Faults
from emulator.mounts import Handler, Mount
from emulator.request_log import Entry, RequestLog
from emulator.serving.environments import Environments
from emulator.serving.servers import REPOSITORY, InferenceServers
from emulator.topology import Identity, Topology

# Built Python environments outlive a run: building one takes much longer than all the rest.
ENVIRONMENT_CACHE = REPOSITORY / ".local" / "environments"
MANAGEMENT = ("https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net/")
ANONYMOUS = Identity("anonymous")
MACHINE_LEARNING = ("https://ml.azure.com", "https://ml.azure.com/")


class AzureML:
    """Workspaces in memory, their artifacts in the storage accounts, their online deployments as real servers.

    `publish` is given the ARM id of a workspace and an event without its `topic`. `verify_token` identifies who bears an
    Authorization header; endpoints with AADToken authentication need it, and refuse everybody without it.
    """

    def __init__(
        self,
        *,
        topology: Topology,
        clock: Clock,
        log: RequestLog,
        faults: Faults,
        storage: Storage,
        directory: Path,
        publish: Publish,
        monitor: AzureMonitor,
        verify_token: VerifyToken | None = None,
        environment_cache: Path = ENVIRONMENT_CACHE,
        access: Access | None = None,
    ) -> None:
        events = Events(clock, publish)
        self._workspaces = Workspaces(topology, storage)
        self._operations = Operations(clock)
        self._servers = InferenceServers(directory=directory / "serving")
        self._environments = Environments(directory=environment_cache)
        assets = Assets(self._workspaces, storage, clock, events)
        jobs = Jobs(self._workspaces, storage, clock, events)
        deployer = Deployer(
            workspaces=self._workspaces,
            assets=assets,
            storage=storage,
            servers=self._servers,
            environments=self._environments,
        )
        capacity, self._permissions = Capacity(), Permissions(self._workspaces, access or Access())
        self._endpoints = OnlineEndpoints(
            workspaces=self._workspaces,
            operations=self._operations,
            deployer=deployer,
            capacity=capacity,
            clock=clock,
            directory=directory / "deployments",
        )
        computes = Computes(self._workspaces)
        self._pipelines = Pipelines(
            workspaces=self._workspaces,
            assets=assets,
            jobs=jobs,
            steps=Steps(
                workspaces=self._workspaces,
                assets=assets,
                jobs=jobs,
                storage=storage,
                environments=self._environments,
            ),
            operations=self._operations,
            directory=directory / "jobs",
        )
        jobs.run_with(self._pipelines.runs, self._pipelines.submit, self._pipelines.cancel)
        self._batch_endpoints = BatchEndpoints(
            workspaces=self._workspaces,
            operations=self._operations,
            assets=assets,
            jobs=jobs,
            pipelines=self._pipelines,
            clock=clock,
            verify_token=verify_token,
        )
        self._schedules = Schedules(
            workspaces=self._workspaces, operations=self._operations, pipelines=self._pipelines, clock=clock
        )
        self._scoring = Scoring(endpoints=self._endpoints, clock=clock, monitor=monitor, verify_token=verify_token)
        self._control = AzureMLControl(
            workspaces=self._workspaces,
            jobs=jobs,
            endpoints=self._endpoints,
            operations=self._operations,
            storage=storage,
            capacity=capacity,
            permissions=self._permissions,
        )
        self._arm = Routes()
        parts = (self._workspaces, assets, jobs, computes, self._endpoints, self._batch_endpoints, self._schedules)
        for part in (*parts, capacity, self._permissions, self._operations):
            part.add_routes(self._arm)
        self._discovery = Routes()
        self._workspaces.add_discovery_routes(self._discovery)
        self._data_plane = Routes()
        jobs.add_history_routes(self._data_plane)
        assets.add_registry_routes(self._data_plane)
        MlflowTracking(self._workspaces, jobs).add_data_plane_routes(self._data_plane)

    async def start(self) -> None:
        """Begin to serve. The serving image warms up in the background."""
        await self._servers.start()
        await self._scoring.start()
        await self._workspaces.create_containers()

    async def stop(self) -> None:
        await self._schedules.stop()
        await self._pipelines.stop()
        await self._operations.stop()
        await self._environments.close()
        await self._scoring.stop()
        await self._servers.stop()
        self._endpoints.clear()

    def mounts(self) -> list[Mount]:
        return [
            Mount("arm", re.compile(r"management\.azure\.com"), self._respond_to_arm, MANAGEMENT),
            Mount(
                "azureml",
                re.compile(r"[a-z0-9-]+\.api\.azureml\.ms"),
                _handler(self._data_plane),
                MACHINE_LEARNING + MANAGEMENT,
            ),
            Mount("azureml", re.compile(r"discovery\.[a-z0-9-]+\.api\.azureml\.ms"), _handler(self._discovery)),
            Mount("scoring", re.compile(r"[a-z0-9-]+\.[a-z0-9]+\.inference\.ml\.azure\.com"), self._respond_to_scoring),
        ]

    async def _respond_to_arm(self, request: web.Request, caller: Identity | None, entry: Entry) -> web.StreamResponse:
        """Resource Manager looks at permissions first, before it looks whether anything is there."""
        try:
            self._permissions.check(request, caller or ANONYMOUS)
        except ArmError as error:
            return error.answer()
        return await self._arm.respond(request, caller or ANONYMOUS, entry)

    async def _respond_to_scoring(
        self, request: web.Request, caller: Identity | None, entry: Entry
    ) -> web.StreamResponse:
        """Online and batch endpoints have hosts of one form; a batch endpoint's scoring URI is /jobs."""
        part = self._batch_endpoints if request.path == "/jobs" else self._scoring
        return await part.respond(request, caller, entry)

    def control_routes(self) -> list[web.RouteDef]:
        return self._control.routes()


def _handler(routes: Routes) -> Handler:
    async def handle(request: web.Request, caller: Identity | None, entry: Entry) -> web.StreamResponse:
        return await routes.respond(request, caller or ANONYMOUS, entry)

    return handle
