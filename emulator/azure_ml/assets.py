"""Versioned assets: models, environments, code and components. A version's content never changes, its tags do."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import (
    WORKSPACE,
    ArmError,
    Call,
    Routes,
    SystemData,
    bad_request,
    conflict,
    listed,
    page,
    resource,
)
from emulator.azure_ml.events import Events
from emulator.azure_ml.workspaces import Storage, Workspace, Workspaces
from emulator.clock import Clock

# What of each kind is content: it is compared with the existing version, and a PUT that changes it is refused.
CONTENT = {
    "models": ("modelUri", "modelType"),
    "environments": ("image", "condaFile", "build", "osType"),
    "codes": ("codeUri",),
    "components": ("componentSpec",),
}
# What a component's specification says besides: it may change, as tags do.
DESCRIPTIVE = {"tags", "description", "display_name", "_source", "$schema"}
UPLOAD_HOURS = 24


@dataclass
class Version:
    """One version of an asset; `number` orders versions by creation."""

    name: str
    version: str
    number: int
    system_data: SystemData
    properties: dict[str, Any]

    @property
    def archived(self) -> bool:
        return bool(self.properties.get("isArchived"))


@dataclass
class Container:
    """All versions of an asset, by lower-case version."""

    name: str
    system_data: SystemData
    properties: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)

    def newest_first(self) -> list[Version]:
        return sorted(self.versions.values(), key=lambda each: -each.number)

    @property
    def next_version(self) -> str:
        numbers = [int(each) for each in self.versions if each.isdecimal()]
        return str(max(numbers, default=0) + 1)


class Assets:
    """The ARM routes of all kinds, and look-up for those who refer to an asset."""

    def __init__(self, workspaces: Workspaces, storage: Storage, clock: Clock, events: Events) -> None:
        self._workspaces = workspaces
        self._storage = storage
        self._clock = clock
        self._events = events

    def add_routes(self, routes: Routes) -> None:
        for kind in CONTENT:
            base = f"{WORKSPACE}/{kind}"
            versions = f"{base}/{{name}}/versions"
            routes.add("GET", base, self._for(kind, self._list_containers))
            routes.add("GET", f"{base}/{{name}}", self._for(kind, self._get_container))
            routes.add("PUT", f"{base}/{{name}}", self._for(kind, self._put_container))
            routes.add("GET", versions, self._for(kind, self._list_versions))
            routes.add("GET", f"{versions}/{{version}}", self._for(kind, self._get_version))
            routes.add("PUT", f"{versions}/{{version}}", self._for(kind, self._put_version))
            routes.add("DELETE", f"{versions}/{{version}}", self._for(kind, self._delete_version))
            routes.add(
                "POST", f"{versions}/{{version}}/startPendingUpload", self._for(kind, self._start_pending_upload)
            )

    def add_registry_routes(self, routes: Routes) -> None:
        """The part of MLflow's registry API, below a workspace, that names models as Resource Manager does."""
        registry = f"/mlflow/v2.0{WORKSPACE}/api/2.0/mlflow"
        routes.add("POST", f"{registry}/model-versions/set-tag", self._set_model_tag)

    @staticmethod
    def _for(kind: str, respond: Callable[[str, Call], Any]) -> Callable[[Call], Any]:
        return lambda call: respond(kind, call)

    def find(self, kind: str, arm_id: str) -> tuple[Workspace, Version] | None:
        """The asset version with this ARM id, with or without the prefix `azureml:`."""
        arm_id = arm_id.removeprefix("azureml:")
        workspace = self._workspaces.of_arm_id(arm_id)
        if workspace is None:
            return None
        parts = arm_id[len(workspace.spec.arm_id) + 1 :].lower().split("/")
        if len(parts) != 4 or parts[0] != kind or parts[2] != "versions":
            return None
        container = workspace.assets.get(kind, {}).get(parts[1])
        version = container.versions.get(parts[3]) if container else None
        return (workspace, version) if version else None

    async def _list_containers(self, kind: str, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        containers = [each for each in workspace.assets.get(kind, {}).values() if self._container_listed(call, each)]
        return page(call, [self._container_as_json(kind, workspace, each) for each in containers])

    @staticmethod
    def _container_listed(call: Call, container: Container) -> bool:
        """A container counts as archived once all of its versions are."""
        return bool(container.versions) and listed(call, all(each.archived for each in container.versions.values()))

    async def _get_container(self, kind: str, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        return web.json_response(self._container_as_json(kind, workspace, self._container(kind, workspace, call)))

    async def _put_container(self, kind: str, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        containers = workspace.assets.setdefault(kind, {})
        now = self._clock.now()
        new = call["name"].lower() not in containers
        container = containers.setdefault(call["name"].lower(), Container(call["name"], SystemData(call.caller, now)))
        container.properties = (await call.body()).get("properties") or {}
        container.system_data.modify(call.caller, now)
        return web.json_response(self._container_as_json(kind, workspace, container), status=201 if new else 200)

    async def _list_versions(self, kind: str, call: Call) -> web.Response:
        """Versions, oldest first unless `$orderBy` says `createdtime desc`. A name nobody used has no versions: 404."""
        workspace = self._workspaces.of(call)
        if kind == "codes" and "hash" in call.request.query:
            return page(call, self._codes_with_hash(workspace, call.request.query["hash"]))
        container = self._container(kind, workspace, call)
        newest_first = "desc" in call.request.query.get("$orderBy", "desc").lower()
        versions = container.newest_first() if newest_first else container.newest_first()[::-1]
        shown = [each for each in versions if listed(call, each.archived)]
        return page(call, [self._as_json(kind, workspace, each) for each in shown])

    def _codes_with_hash(self, workspace: Workspace, wanted: str) -> list[dict[str, Any]]:
        """The client asks under a name that it has just made up, so all code assets are searched."""
        return [
            self._as_json("codes", workspace, version)
            for container in workspace.assets.get("codes", {}).values()
            for version in container.versions.values()
            if (version.properties.get("properties") or {}).get("hash_sha256") == wanted
        ]

    async def _get_version(self, kind: str, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        return web.json_response(self._as_json(kind, workspace, self._version(kind, workspace, call)))

    async def _put_version(self, kind: str, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        properties = self._complete(kind, workspace, await call.body())
        if kind == "components":
            named = {"name": call["name"], "version": call["version"]}
            properties["componentSpec"] = properties["componentSpec"] | named
        containers = workspace.assets.setdefault(kind, {})
        now = self._clock.now()
        container = containers.setdefault(call["name"].lower(), Container(call["name"], SystemData(call.caller, now)))
        key = call["version"].lower()
        if existing := container.versions.get(key):
            self._refuse_other_content(kind, workspace, existing, properties)
            existing.properties |= properties
            existing.system_data.modify(call.caller, now)
            if kind == "models":
                await self._events.model_written(workspace.spec, existing.name, existing.version, call.caller.name)
            return web.json_response(self._as_json(kind, workspace, existing))
        number = max((each.number for each in container.versions.values()), default=0) + 1
        version = Version(container.name, call["version"], number, SystemData(call.caller, now), properties)
        container.versions[key] = version
        if kind == "models":
            await self._events.model_registered(workspace.spec, version.name, version.version, properties)
            await self._events.model_written(workspace.spec, version.name, version.version, call.caller.name)
        return web.json_response(self._as_json(kind, workspace, version), status=201)

    async def _set_model_tag(self, call: Call) -> web.Response:
        """One tag, whatever others are written meanwhile. No resource of Resource Manager was written: no event tells."""
        workspace, body = self._workspaces.of(call), await call.body()
        if missing := [each for each in ("name", "version", "key", "value") if not isinstance(body.get(each), str)]:
            message = f"Missing value for required parameter '{missing[0]}'."
            return web.json_response({"error_code": "INVALID_PARAMETER_VALUE", "message": message}, status=400)
        container = workspace.assets.get("models", {}).get(body["name"].lower())
        version = container.versions.get(body["version"].lower()) if container else None
        if version is None:
            message = f"Model version {body['name']}:{body['version']} was not found."
            return web.json_response({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message}, status=404)
        version.properties["tags"] = {**version.properties["tags"], body["key"]: body["value"]}
        version.system_data.modify(call.caller, self._clock.now())
        return web.json_response({})

    def _complete(self, kind: str, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        """The properties that a PUT stores, with what the service adds to them."""
        given = {key: value for key, value in (body.get("properties") or {}).items() if value is not None}
        properties = {"tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False} | given
        # The service keeps texts, whatever a client sends: the SDK's version of its hash is a number.
        properties["properties"] = {key: str(value) for key, value in properties["properties"].items()}
        if kind == "models":
            return self._complete_model(workspace, properties)
        if kind == "environments":
            if not (properties.get("image") or properties.get("build")):
                raise ArmError(400, "UserError", "An environment needs an image or a build context.")
            return {"environmentType": "UserCreated", "osType": "Linux", "provisioningState": "Succeeded"} | properties
        if kind == "components":
            return self._complete_component(properties)
        if not properties.get("codeUri"):
            raise ArmError(400, "UserError", "A code asset needs a codeUri.")
        return {"provisioningState": "Succeeded"} | properties

    def _complete_component(self, properties: dict[str, Any]) -> dict[str, Any]:
        """A component may only refer to what is there."""
        specification = properties.get("componentSpec") or {}
        if not specification.get("type"):
            raise ArmError(400, "UserError", "A component needs a componentSpec with a type.")
        task = specification.get("task") or specification
        references = [("codes", task.get("code")), ("environments", task.get("environment"))]
        for node in (specification.get("jobs") or {}).values():
            uris = [each.get("uri") for each in (node.get("inputs") or {}).values() if isinstance(each, dict)]
            references.append(("components", node.get("componentId")))
            references += [("models", uri) for uri in uris if uri and "/models/" in uri and "/subscriptions/" in uri]
        for kind, reference in references:
            if reference and "registries/" not in reference.lower() and self.find(kind, reference) is None:
                raise ArmError(400, "UserError", f"{reference} was not found: the component refers to it.")
        return {"provisioningState": "Succeeded"} | properties

    def _complete_model(self, workspace: Workspace, properties: dict[str, Any]) -> dict[str, Any]:
        uri = properties.get("modelUri")
        if not uri:
            raise ArmError(400, "UserError", "A model version needs a modelUri.")
        self._workspaces.locate(workspace, uri)
        job = uri.split("/")[3] if uri.lower().startswith("azureml://jobs/") else properties.get("jobName")
        added = {"modelType": "custom_model", "flavors": {}, "stage": "Development", "provisioningState": "Succeeded"}
        return added | properties | {"modelUri": self._workspaces.expand(workspace, uri), "jobName": job}

    def _refuse_other_content(
        self, kind: str, workspace: Workspace, existing: Version, properties: dict[str, Any]
    ) -> None:
        for name in CONTENT[kind]:
            if self._content(workspace, name, existing.properties) != self._content(workspace, name, properties):
                raise conflict(
                    f"Version {existing.version} of {existing.name} already exists with another {name}, which cannot be "
                    "changed: register a new version."
                )

    def _content(self, workspace: Workspace, name: str, properties: dict[str, Any]) -> Any:
        value = properties.get(name)
        if name == "componentSpec" and value:
            return {key: each for key, each in value.items() if key not in DESCRIPTIVE}
        return self._workspaces.locate(workspace, value) if name == "modelUri" and value else value

    async def _delete_version(self, kind: str, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        container = workspace.assets.get(kind, {}).get(call["name"].lower())
        deleted = container.versions.pop(call["version"].lower(), None) if container else None
        return web.Response(status=200 if deleted else 204)

    async def _start_pending_upload(self, kind: str, call: Call) -> web.Response:
        """A container of its own in the workspace's storage account, and a SAS to write into it."""
        workspace = self._workspaces.of(call)
        body = await call.body()
        if body.get("pendingUploadType") != "TemporaryBlobReference":
            raise bad_request("pendingUploadType must be TemporaryBlobReference.")
        account = workspace.spec.storage_account
        container = str(uuid.uuid4())
        await self._storage.create_container(account, container)
        blob = f"{self._storage.blob_service_url(account).rstrip('/')}/{container}"
        expires_in = timedelta(hours=UPLOAD_HOURS)
        sas = self._storage.container_sas(account, container, "racwdl", expires_in)
        reference = {
            "blobUri": blob,
            "storageAccountArmId": workspace.storage_account_id,
            "credential": {"credentialType": "SAS", "sasUri": f"{blob}?{sas}"},
        }
        upload = {"pendingUploadId": container, "pendingUploadType": "TemporaryBlobReference"}
        return web.json_response(upload | {"blobReferenceForConsumption": reference})

    def _container(self, kind: str, workspace: Workspace, call: Call) -> Container:
        container = workspace.assets.get(kind, {}).get(call["name"].lower())
        if container is None:
            raise ArmError(404, "UserError", f"The {kind[:-1]} container with name: {call['name']} was not found.")
        return container

    def _version(self, kind: str, workspace: Workspace, call: Call) -> Version:
        container = workspace.assets.get(kind, {}).get(call["name"].lower())
        version = container.versions.get(call["version"].lower()) if container else None
        if version is None:
            message = f"The {kind[:-1]} with name {call['name']} and version {call['version']} was not found."
            raise ArmError(404, "UserError", message)
        return version

    @staticmethod
    def _container_as_json(kind: str, workspace: Workspace, container: Container) -> dict[str, Any]:
        latest = container.newest_first()[0].version if container.versions else None
        archived = bool(container.versions) and all(each.archived for each in container.versions.values())
        computed = {"latestVersion": latest, "nextVersion": container.next_version, "isArchived": archived}
        return resource(workspace.spec, kind, container.name) | {
            "systemData": container.system_data.as_json(),
            "properties": {"description": None, "tags": {}, "properties": {}} | container.properties | computed,
        }

    @staticmethod
    def _as_json(kind: str, workspace: Workspace, version: Version) -> dict[str, Any]:
        return resource(workspace.spec, kind, version.name, "versions", version.version) | {
            "systemData": version.system_data.as_json(),
            "properties": version.properties,
        }
