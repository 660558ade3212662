"""One local Azure: what is started, in which order, and what clients have to know of it."""

import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from emulator.access import Access
from emulator.application_insights import ApplicationInsights
from emulator.azure_ml import AzureML
from emulator.azure_ml.events import subscription_id
from emulator.azure_monitor import AzureMonitor
from emulator.certificates import CertificateAuthority
from emulator.clock import Clock
from emulator.control import Control
from emulator.event_grid import EventGrid, Subscription
from emulator.event_grid.events import AS_PUBLISHED, Schema
from emulator.faults import Faults
from emulator.function_app import FunctionApp
from emulator.gateway import Gateway
from emulator.handed_out import remembered
from emulator.identity import IdentityProvider
from emulator.request_log import RequestLog
from emulator.service_bus import ServiceBus
from emulator.storage import Storage
from emulator.topology import DATA_SCIENTIST, PROMOTION_SERVICE, Identity, Topology, WorkspaceSpec

# The key with which the service sends and receives, and the one for whoever looks at the queue from outside.
SERVICE_KEY, OPERATOR_KEY = PROMOTION_SERVICE.name, "RootManageSharedAccessKey"


class LocalAzure:
    """Everything together: `async with LocalAzure(directory) as azure`. With `app`, the function app runs as well."""

    def __init__(
        self,
        directory: Path,
        *,
        topology: Topology | None = None,
        app: Path | None = None,
        policy: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._topology = topology or Topology()
        self._app_root = app
        self._policy = policy
        self.clock = Clock()
        self.log = RequestLog(self.clock)
        self.faults = Faults(self.clock)
        self.ca = CertificateAuthority(directory)
        self.identities = IdentityProvider(self._topology.identities, log=self.log, faults=self.faults)
        shared: dict[str, Any] = {"clock": self.clock, "log": self.log, "faults": self.faults}
        access = Access.of(policy, self._topology)
        self.gateway = Gateway(log=self.log, faults=self.faults, identities=self.identities, ca=self.ca, access=access)
        self.storage = Storage(
            accounts=self._topology.storage_accounts,
            directory=directory,
            ca=self.ca,
            clock=self.clock,
            identities=self.identities,
        )
        verify = self.identities.verify
        self.event_grid = EventGrid(**shared, directory=directory, verify_token=verify)
        self.azure_monitor = AzureMonitor()
        self.application_insights = ApplicationInsights()
        self.azure_ml = AzureML(
            **shared,
            monitor=self.azure_monitor,
            topology=self._topology,
            storage=self.storage,
            directory=directory,
            publish=self.event_grid.publish_system,
            access=access,
            verify_token=verify,
        )
        keys = {name: remembered(secrets.token_urlsafe(32)) for name in (SERVICE_KEY, OPERATOR_KEY)}
        self.service_bus = ServiceBus(**shared, access_keys=keys)
        self.service_bus.create_queue(self._topology.queue)
        self.control = Control(**shared)
        self.function_app: FunctionApp | None = None
        region = self._topology.workspaces[0].location
        self._topic = self.event_grid.create_topic(self._topology.custom_topic, region, AS_PUBLISHED)
        self._notifications, _ = self.event_grid.create_topic(
            self._topology.notifications_topic, region, "CloudEventSchemaV1_0", senders=[PROMOTION_SERVICE.name]
        )
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "LocalAzure":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        for service in (self.identities, self.storage, self.gateway, self.event_grid, self.azure_ml, self.service_bus):
            self._stack.push_async_callback(service.stop)
            await service.start()
        for mounted in (self.storage, self.event_grid, self.azure_ml, self.azure_monitor, self.application_insights):
            self.gateway.mount(mounted.mounts())
        for controlled in (self.storage, self.event_grid, self.azure_ml, self.service_bus, self.application_insights):
            self.control.add_routes(controlled.control_routes())
        if self._app_root is not None:
            await self._start_function_app(self._app_root)
        await self.control.start()
        self._stack.push_async_callback(self.control.stop)

    async def _start_function_app(self, app: Path) -> None:
        self.function_app = FunctionApp(
            app=app,
            settings=self._settings(),
            environment=self.client_environment(PROMOTION_SERVICE),
            directory=self._directory,
        )
        self._stack.push_async_callback(self.function_app.stop)
        self.control.add_routes(self.function_app.control_routes())
        ready = await self.function_app.start()
        if "intake" in ready.functions:
            webhook = f"{ready.url}/runtime/webhooks/eventgrid?functionName=intake&code={ready.keys['eventgrid']}"
            for name, topic in self._topics().items():
                schema: Schema = AS_PUBLISHED if topic == self._topology.custom_topic else "EventGridSchema"
                subscription = Subscription(name=name, topic=topic, webhook_url=webhook, delivery_schema=schema)
                await self.event_grid.subscribe(subscription)

    def _topics(self) -> dict[str, str]:
        """The system topics of the policy's sources, as they are set up in Azure; and the topic of endpoints.json."""
        sources = _sources(self._policy) if self._policy else {self._topology.workspaces[0].name}
        workspaces = [workspace for workspace in self._topology.workspaces if workspace.name in sources]
        system = {f"workspace-{workspace.key}": workspace.arm_id for workspace in workspaces}
        writes = {f"writes-{workspace.key}": subscription_id(workspace.arm_id) for workspace in workspaces}
        return system | writes | {"published-by-hand": self._topology.custom_topic}

    def _settings(self) -> dict[str, str]:
        """The app settings; the same keys as in Azure, with a connection string where the SDK offers nothing else."""
        account = self._topology.service_storage_account
        settings = {
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "PROMOTION_QUEUE": self._topology.queue.name,
            "ServiceBusConnection": self.service_bus.connection_string(SERVICE_KEY),
            # The local host stands in for App Service with sign-in: it hands X-MS-CLIENT-PRINCIPAL on as it comes.
            "PROMOTION_PLATFORM_AUTHENTICATION": "true",
            "PROMOTION_RECONCILE_SCHEDULE": "*/20 * * * * *",  # nobody wants to wait for it here
            "PROMOTION_NOTIFICATIONS_ENDPOINT": self._notifications,
            "LedgerStorage__tableServiceUri": self.storage.table_service_url(account),
            "LedgerStorage__blobServiceUri": self.storage.blob_service_url(account),
        }
        return settings | ({"PROMOTION_POLICY": str(self._policy)} if self._policy else {})

    def client_environment(self, identity: Identity) -> dict[str, str]:
        """The environment variables that point unmodified Azure SDKs here, signed in as this identity."""
        bundle = str(self.ca.ca_bundle)
        return self.identities.environment(identity) | {
            "HTTPS_PROXY": self.gateway.proxy_url,
            "NO_PROXY": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
        }

    def endpoints(self) -> dict[str, Any]:
        """What a client has to know; the contract is docs/contracts/control-api.md."""
        account = self._topology.service_storage_account
        ready = self.function_app.ready if self.function_app else None
        first, *others = self._topology.workspaces
        return {
            "functions_url": ready.url if ready else None,
            "function_key": ready.keys["function"] if ready else None,
            "master_key": ready.keys["master"] if ready else None,
            "https_proxy": self.gateway.proxy_url,
            "ca_bundle": str(self.ca.ca_bundle),
            "credential": self.identities.environment(DATA_SCIENTIST),
            "service_bus_connection_string": self.service_bus.connection_string(OPERATOR_KEY),
            "queue": self._topology.queue.name,
            "event_grid_endpoint": self._topic[0],
            "event_grid_key": self._topic[1],
            "storage_accounts": {
                name: {
                    "blob_url": self.storage.blob_service_url(name),
                    "table_url": self.storage.table_service_url(name),
                }
                for name in self._topology.storage_accounts
            },
            "ledger": {
                "account": account,
                "table_url": self.storage.table_service_url(account),
                "blob_url": self.storage.blob_service_url(account),
                "promotions_table": "promotions",
                "events_table": "promotionevents",
                "documents_container": "promotion-documents",
            },
            "control_url": self.control.control_url,
            "policy_path": str(self._policy) if self._policy else None,
            "source": _names(first),
            "targets": {workspace.key: _names(workspace) for workspace in others},
        }


def _sources(policy: Path) -> set[str]:
    """The workspaces that a policy lists as sources. Its mistakes are for the app to find."""
    content = yaml.safe_load(policy.read_text())
    return {str(source.get("workspace")) for source in content["sources"].values()}


def _names(workspace: WorkspaceSpec) -> Mapping[str, str]:
    return {
        "subscription_id": workspace.subscription_id,
        "resource_group": workspace.resource_group,
        "workspace": workspace.name,
    }
