"""Workspaces and their datastores: what is there, and where an artifact lies in storage."""

import re
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from azure.storage.blob.aio import BlobServiceClient

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes, not_found, page, resource
from emulator.topology import NAMESPACE, TENANT_ID, Topology, WorkspaceSpec

if TYPE_CHECKING:
    from emulator.azure_ml.assets import Container
    from emulator.azure_ml.jobs import Job

BLOBSTORE = "workspaceblobstore"
ARTIFACTSTORE = "workspaceartifactstore"


class Storage(Protocol):
    """The storage accounts behind the datastores."""

    def blob_service(self, account: str) -> BlobServiceClient: ...
    def blob_service_url(self, account: str) -> str: ...
    def account_key(self, account: str) -> str: ...
    async def create_container(self, account: str, container: str) -> None: ...
    def container_sas(self, account: str, container: str, permission: str, expires_in: timedelta) -> str: ...


@dataclass(frozen=True)
class Location:
    """A blob or a folder of blobs."""

    account: str
    container: str
    path: str


@dataclass
class Workspace:
    """One workspace and what was registered in it. Keys are lower-case names."""

    spec: WorkspaceSpec
    assets: dict[str, dict[str, "Container"]] = field(default_factory=dict)
    jobs: dict[str, "Job"] = field(default_factory=dict)

    @property
    def storage_account_id(self) -> str:
        group = f"/subscriptions/{self.spec.subscription_id}/resourceGroups/{self.spec.resource_group}"
        return f"{group}/providers/Microsoft.Storage/storageAccounts/{self.spec.storage_account}"

    @property
    def datastores(self) -> dict[str, str]:
        """Datastore names and their containers, named as Azure ML names them."""
        return {BLOBSTORE: f"azureml-blobstore-{self.spec.workspace_guid}", ARTIFACTSTORE: "azureml"}

    def location(self, datastore: str, path: str) -> Location:
        container = self.datastores.get(datastore.lower())
        if container is None:
            raise ArmError(404, "UserError", f"Datastore {datastore} was not found in workspace {self.spec.name}.")
        return Location(self.spec.storage_account, container, path.strip("/"))

    def datastore_uri(self, datastore: str, path: str) -> str:
        spec = self.spec
        return (
            f"azureml://subscriptions/{spec.subscription_id}/resourceGroups/{spec.resource_group}"
            f"/workspaces/{spec.name}/datastores/{datastore}/paths/{path.strip('/')}"
        )

    def job_artifacts(self, job: str, path: str) -> str:
        """Where a job's artifacts lie in the artifact store."""
        return f"ExperimentRun/dcid.{job}/{path}"

    def job_output(self, job: str, output: str, path: str) -> str:
        """Where a named output of a job lies in the blob store, unless the job says otherwise."""
        return f"azureml/{job}/{output}/{path}"


class Workspaces:
    """The workspaces of a topology, their ARM routes, and the resolution of `azureml://` URIs."""

    def __init__(self, topology: Topology, storage: Storage) -> None:
        self._storage = storage
        self.all = [Workspace(spec) for spec in topology.workspaces]

    async def create_containers(self) -> None:
        for workspace in self.all:
            for container in workspace.datastores.values():
                await self._storage.create_container(workspace.spec.storage_account, container)

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", "/subscriptions/{subscription}", self._get_subscription)
        routes.add("GET", "/subscriptions/{subscription}/resourceGroups/{group}", self._get_group)
        routes.add("GET", WORKSPACE.rpartition("/")[0], self._list)
        routes.add("GET", WORKSPACE, self._get)
        routes.add("GET", WORKSPACE + "/datastores", self._list_datastores)
        routes.add("GET", WORKSPACE + "/datastores/{datastore}", self._get_datastore)
        routes.add("POST", WORKSPACE + "/datastores/{datastore}/listSecrets", self._list_secrets)

    def add_discovery_routes(self, routes: Routes) -> None:
        routes.add("GET", "/discovery", self._discover)
        routes.add("GET", "/discovery/workspaces/{guid}", self._discover)

    def of(self, call: Call) -> Workspace:
        """The workspace in a path; ARM's own 404 names the first thing that is missing."""
        subscription, group, name = call["subscription"], call["group"], call["workspace"]
        in_group = self._in_group(subscription, group)
        for workspace in in_group:
            if workspace.spec.name.lower() == name.lower():
                return workspace
        raise not_found("workspaces", name, group)

    def named(self, name: str) -> Workspace | None:
        """A workspace by its key in the topology or by its name: for people, who leave the rest out."""
        return next((each for each in self.all if name.lower() in (each.spec.key, each.spec.name.lower())), None)

    def of_arm_id(self, arm_id: str) -> Workspace | None:
        return next((each for each in self.all if arm_id.lower().startswith(each.spec.arm_id.lower() + "/")), None)

    def locate(self, workspace: Workspace, uri: str) -> Location:
        """Where the artifact of a URI lies. Raises a 400 for a URI of a kind that Azure ML does not take."""
        if match := re.fullmatch(r"https://([^./]+)\.blob\.core\.windows\.net/([^/?]+)/?([^?]*)", uri):
            return Location(match[1], match[2], match[3].strip("/"))
        expanded = self.expand(workspace, uri)
        match = re.fullmatch(
            r"azureml://subscriptions/([^/]+)/resourcegroups/([^/]+)/workspaces/([^/]+)/datastores/([^/]+)/paths/?(.*)",
            expanded,
            re.IGNORECASE,
        )
        if match is None:
            raise ArmError(
                400, "UserError", f"'{uri}' is not the URI of an artifact: give an azureml:// or https:// URI."
            )
        for each in self._in_group(match[1], match[2]):
            if each.spec.name.lower() == match[3].lower():
                return each.location(match[4], match[5])
        raise not_found("workspaces", match[3], match[2])

    def expand(self, workspace: Workspace, uri: str) -> str:
        """The long form of a short datastore URI or of a job's output; other URIs as they are.

        The service stores a model that was registered from a job's output under the datastore's URI.
        """
        if match := re.fullmatch(r"azureml://datastores/([^/]+)/paths/?(.*)", uri, re.IGNORECASE):
            return workspace.datastore_uri(match[1], match[2])
        match = re.fullmatch(r"azureml://jobs/([^/]+)/outputs/([^/]+)(?:/paths)?/?(.*)", uri, re.IGNORECASE)
        if match is None:
            return uri
        job, output, path = match.groups()
        if output.lower() == "artifacts":
            return workspace.datastore_uri(ARTIFACTSTORE, workspace.job_artifacts(job, path))
        return workspace.datastore_uri(BLOBSTORE, workspace.job_output(job, output, path))

    def _in_group(self, subscription: str, group: str) -> list[Workspace]:
        of_subscription = [each for each in self.all if each.spec.subscription_id.lower() == subscription.lower()]
        if not of_subscription:
            raise ArmError(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        of_group = [each for each in of_subscription if each.spec.resource_group.lower() == group.lower()]
        if not of_group:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        return of_group

    async def _get_subscription(self, call: Call) -> web.Response:
        for each in self.all:
            if each.spec.subscription_id.lower() == call["subscription"].lower():
                identifier = each.spec.subscription_id
                body = {"id": f"/subscriptions/{identifier}", "subscriptionId": identifier, "tenantId": TENANT_ID}
                return web.json_response(body | {"displayName": each.spec.key, "state": "Enabled"})
        raise ArmError(404, "SubscriptionNotFound", f"The subscription '{call['subscription']}' could not be found.")

    async def _get_group(self, call: Call) -> web.Response:
        spec = self._in_group(call["subscription"], call["group"])[0].spec
        return web.json_response(
            {
                "id": f"/subscriptions/{spec.subscription_id}/resourceGroups/{spec.resource_group}",
                "name": spec.resource_group,
                "type": "Microsoft.Resources/resourceGroups",
                "location": spec.location,
                "properties": {"provisioningState": "Succeeded"},
            }
        )

    async def _list(self, call: Call) -> web.Response:
        return page(call, [self._as_json(each) for each in self._in_group(call["subscription"], call["group"])])

    async def _get(self, call: Call) -> web.Response:
        return web.json_response(self._as_json(self.of(call)))

    def _as_json(self, workspace: Workspace) -> dict[str, Any]:
        spec = workspace.spec
        return {
            "id": spec.arm_id,
            "name": spec.name,
            "type": "Microsoft.MachineLearningServices/workspaces",
            "location": spec.location,
            "kind": "Default",
            "tags": {},
            "sku": {"name": "Basic", "tier": "Basic"},
            "identity": {
                "type": "SystemAssigned",
                "tenantId": TENANT_ID,
                "principalId": str(uuid.uuid5(NAMESPACE, f"object:{spec.arm_id}")),
            },
            "properties": {
                "friendlyName": spec.name,
                "description": "",
                "provisioningState": "Succeeded",
                "workspaceId": spec.workspace_guid,
                "tenantId": TENANT_ID,
                "discoveryUrl": f"https://discovery.{spec.location}.api.azureml.ms/discovery",
                "mlFlowTrackingUri": f"azureml://{spec.location}.api.azureml.ms/mlflow/v1.0{spec.arm_id}",
                "storageAccount": workspace.storage_account_id,
                "publicNetworkAccess": "Enabled",
                "hbiWorkspace": False,
            },
        }

    async def _list_datastores(self, call: Call) -> web.Response:
        workspace = self.of(call)
        default_only = call.request.query.get("isDefault", "").lower() == "true"
        names = [name for name in workspace.datastores if name == BLOBSTORE or not default_only]
        return page(call, [self._datastore(workspace, name) for name in names])

    async def _get_datastore(self, call: Call) -> web.Response:
        workspace = self.of(call)
        workspace.location(call["datastore"], "")
        return web.json_response(self._datastore(workspace, call["datastore"].lower()))

    def _datastore(self, workspace: Workspace, name: str) -> dict[str, Any]:
        spec = workspace.spec
        return resource(spec, "datastores", name) | {
            "properties": {
                "datastoreType": "AzureBlob",
                "accountName": spec.storage_account,
                "containerName": workspace.datastores[name],
                "endpoint": "core.windows.net",
                "protocol": "https",
                "subscriptionId": spec.subscription_id,
                "resourceGroup": spec.resource_group,
                "credentials": {"credentialsType": "AccountKey"},
                "isDefault": name == BLOBSTORE,
                "serviceDataAccessAuthIdentity": "None",
                "description": None,
                "tags": {},
                "properties": {},
            }
        }

    async def _list_secrets(self, call: Call) -> web.Response:
        """An account key, or a SAS that expires when `expirableSecret` asks for one."""
        workspace = self.of(call)
        location = workspace.location(call["datastore"], "")
        body = await call.body()
        if body.get("expirableSecret"):
            expires_in = timedelta(hours=float(body.get("expireAfterHours") or 1))
            token = self._storage.container_sas(location.account, location.container, "racwdl", expires_in)
            return web.json_response({"secretsType": "Sas", "sasToken": token})
        return web.json_response({"secretsType": "AccountKey", "key": self._storage.account_key(location.account)})

    async def _discover(self, call: Call) -> web.Response:
        """Where the services of a region are. Clients ask without a token, so discovery has a host of its own here."""
        base = f"https://{call.request.host.removeprefix('discovery.')}"
        services = ("api", "history", "experimentation", "modelmanagement", "mferp")
        return web.json_response(dict.fromkeys(services, base))
