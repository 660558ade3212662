"""ARM's routes of online endpoints and online deployments."""

import shutil
from pathlib import Path
from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes, SystemData, bad_request, conflict, not_found, page
from emulator.azure_ml.capacity import Capacity
from emulator.azure_ml.deployer import Deployer
from emulator.azure_ml.online import (
    CONTAINER,
    DEPLOYMENT_DEFAULTS,
    TOKEN_LIFETIME,
    Deployment,
    Endpoint,
    check_mirror,
    check_name,
    check_traffic,
    deployment_as_json,
    endpoint_as_json,
    instance_type,
    new_key,
    refuse_unrecoverable,
    require_keys,
)
from emulator.azure_ml.operations import Operation, OperationFailed, Operations, Subject
from emulator.azure_ml.workspaces import Workspace, Workspaces
from emulator.clock import Clock
from emulator.serving.servers import tail

ENDPOINTS = WORKSPACE + "/onlineEndpoints"
ENDPOINT = ENDPOINTS + "/{endpoint}"
DEPLOYMENTS = ENDPOINT + "/deployments"
DEPLOYMENT = DEPLOYMENTS + "/{deployment}"


class OnlineEndpoints:
    """All online endpoints of a local Azure. Their names are unique in a region, across workspaces."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        operations: Operations,
        deployer: Deployer,
        capacity: Capacity,
        clock: Clock,
        directory: Path,
    ) -> None:
        self._workspaces = workspaces
        self._operations = operations
        self._deployer = deployer
        self._capacity = capacity
        capacity.deployed = self._instances
        self._clock = clock
        self._directory = directory
        self._endpoints: dict[tuple[str, str], Endpoint] = {}  # (region, lower-case name)

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", ENDPOINTS, self._list)
        routes.add("GET", ENDPOINT, self._get)
        routes.add("PUT", ENDPOINT, self._put)
        routes.add("PATCH", ENDPOINT, self._patch)
        routes.add("DELETE", ENDPOINT, self._delete)
        routes.add("POST", ENDPOINT + "/listKeys", self._list_keys)
        routes.add("POST", ENDPOINT + "/regenerateKeys", self._regenerate_keys)
        routes.add("POST", ENDPOINT + "/token", self._token)
        routes.add("GET", DEPLOYMENTS, self._list_deployments)
        routes.add("GET", DEPLOYMENT, self._get_deployment)
        routes.add("PUT", DEPLOYMENT, self._put_deployment)
        routes.add("PATCH", DEPLOYMENT, self._patch_deployment)
        routes.add("DELETE", DEPLOYMENT, self._delete_deployment)
        routes.add("POST", DEPLOYMENT + "/getLogs", self._get_logs)

    def at(self, location: str, name: str) -> Endpoint | None:
        return self._endpoints.get((location.lower(), name.lower()))

    def of(self, workspace: Workspace) -> list[Endpoint]:
        return [each for each in self._endpoints.values() if each.workspace is workspace]

    def find(self, workspace: Workspace, name: str) -> Endpoint:
        endpoint = self.at(workspace.spec.location, name)
        if endpoint is None or endpoint.workspace is not workspace:
            spec = workspace.spec
            raise not_found(f"workspaces/{spec.name}/onlineEndpoints", name, spec.resource_group)
        return endpoint

    def find_deployment(self, endpoint: Endpoint, name: str) -> Deployment:
        deployment = endpoint.deployments.get(name.lower())
        if deployment is None:
            spec = endpoint.workspace.spec
            kind = f"workspaces/{spec.name}/onlineEndpoints/{endpoint.name}/deployments"
            raise not_found(kind, name, spec.resource_group)
        return deployment

    # Endpoints

    async def _list(self, call: Call) -> web.Response:
        return page(call, [endpoint_as_json(each) for each in self.of(self._workspaces.of(call))])

    async def _get(self, call: Call) -> web.Response:
        return web.json_response(endpoint_as_json(self._endpoint(call)))

    async def _put(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        name = call["endpoint"]
        check_name("Endpoint", name)
        body = await call.body()
        if not body.get("location"):
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        existing = self.at(workspace.spec.location, name)
        if existing and existing.workspace is not workspace:
            raise conflict(
                "There is already an endpoint with this name. Endpoint name needs to be unique within a region."
            )
        if existing:
            self._refuse_busy(existing)
        properties = dict(body.get("properties") or {})
        known = existing.deployments if existing else {}
        traffic = check_traffic(name, properties.pop("traffic", None) or {}, known)
        check_mirror(name, properties.get("mirrorTraffic") or {}, known)
        if existing is None:
            existing = self._new_endpoint(call, workspace, body, properties)
            operation = self._begin_endpoint(call, existing, traffic, "Creating")
            return web.json_response(endpoint_as_json(existing), status=201, headers=operation.headers)
        if properties.get("authMode", "").lower() != existing.properties["authMode"].lower():
            raise bad_request(f"The authMode of endpoint {name} cannot be changed after creation.")
        existing.properties = properties
        existing.tags = body.get("tags") or {}
        existing.identity = self._identity(body)
        existing.system_data.modify(call.caller, self._clock.now())
        operation = self._begin_endpoint(call, existing, traffic, "Updating")
        return web.json_response(endpoint_as_json(existing), headers=operation.headers)

    def _new_endpoint(
        self, call: Call, workspace: Workspace, body: dict[str, Any], properties: dict[str, Any]
    ) -> Endpoint:
        if not properties.get("authMode"):
            raise bad_request("authMode is required: Key, AMLToken or AADToken.")
        endpoint = Endpoint(
            name=call["endpoint"],
            workspace=workspace,
            system_data=SystemData(call.caller, self._clock.now()),
            location=workspace.spec.location,
            properties=properties,
            tags=body.get("tags") or {},
            identity=self._identity(body),
            kind=body.get("kind"),
        )
        self._endpoints[(endpoint.location, endpoint.name.lower())] = endpoint
        return endpoint

    def _begin_endpoint(self, call: Call, endpoint: Endpoint, traffic: dict[str, int], state: str) -> Operation:
        """Show the traffic that was asked for at once, let requests follow it when the operation has succeeded."""
        former = endpoint.traffic
        endpoint.state = state
        endpoint.traffic = traffic

        async def work() -> None:
            endpoint.send_traffic(traffic)

        def ended(error: OperationFailed | None) -> None:
            endpoint.state = "Failed" if error else "Succeeded"
            if error:
                endpoint.traffic = former

        subject = Subject(endpoint.workspace, "endpoint", endpoint.name)
        endpoint.operation = self._operations.begin(call, subject, work, ended)
        return endpoint.operation

    async def _patch(self, call: Call) -> web.Response:
        """Change tags, identity or SKU only: a PATCH cannot reach the traffic."""
        endpoint = self._endpoint(call)
        self._refuse_busy(endpoint)
        body = await call.body()
        if "tags" in body:
            endpoint.tags = body["tags"] or {}
        if body.get("identity"):
            endpoint.identity = self._identity(body)
        endpoint.system_data.modify(call.caller, self._clock.now())
        operation = self._begin_endpoint(call, endpoint, endpoint.traffic, "Updating")
        return web.json_response(endpoint_as_json(endpoint), headers=operation.headers)

    async def _delete(self, call: Call) -> web.Response:
        """Delete an endpoint with all of its deployments, whatever traffic they have."""
        workspace = self._workspaces.of(call)
        endpoint = self.at(workspace.spec.location, call["endpoint"])
        if endpoint is None or endpoint.workspace is not workspace:
            return web.Response(status=204)
        self._refuse_busy(endpoint)
        for deployment in endpoint.deployments.values():
            self._refuse_busy_deployment(endpoint, deployment)
        for deployment in endpoint.deployments.values():
            deployment.state = "Deleting"
        endpoint.state = "Deleting"

        async def work() -> None:
            for deployment in list(endpoint.deployments.values()):
                await self._deployer.remove(deployment)
            del self._endpoints[(endpoint.location, endpoint.name.lower())]

        def ended(error: OperationFailed | None) -> None:
            endpoint.state = "Failed" if error else "Deleting"
            for deployment in endpoint.deployments.values():
                deployment.state = endpoint.state

        endpoint.operation = self._operations.begin(call, Subject(workspace, "delete", endpoint.name), work, ended)
        return web.Response(status=202, headers=endpoint.operation.headers)

    async def _list_keys(self, call: Call) -> web.Response:
        endpoint = self._endpoint(call)
        require_keys(endpoint)
        return web.json_response({"primaryKey": endpoint.keys["Primary"], "secondaryKey": endpoint.keys["Secondary"]})

    async def _regenerate_keys(self, call: Call) -> web.Response:
        """Replace one key: by the value given, or by a new one if that is missing or the current one."""
        endpoint = self._endpoint(call)
        require_keys(endpoint)
        body = await call.body()
        kind = str(body.get("keyType", "")).capitalize()
        if kind not in endpoint.keys:
            raise bad_request("keyType must be Primary or Secondary.")
        given = body.get("keyValue")
        endpoint.keys[kind] = given if given and given not in endpoint.keys.values() else new_key()
        return web.Response(status=200)

    async def _token(self, call: Call) -> web.Response:
        endpoint = self._endpoint(call)
        if endpoint.properties["authMode"].lower() != "amltoken":
            raise bad_request(f"Endpoint {endpoint.name} does not use AMLToken authentication.")
        token = new_key()
        expires = endpoint.tokens[token] = self._clock.now() + TOKEN_LIFETIME
        moment = int(expires.timestamp())
        body = {"accessToken": token, "tokenType": "Bearer", "expiryTimeUtc": moment}
        return web.json_response(body | {"refreshAfterTimeUtc": moment - 3600})

    # Deployments

    async def _list_deployments(self, call: Call) -> web.Response:
        endpoint = self._endpoint(call)
        return page(call, [deployment_as_json(endpoint, each) for each in endpoint.deployments.values()])

    async def _get_deployment(self, call: Call) -> web.Response:
        endpoint = self._endpoint(call)
        return web.json_response(deployment_as_json(endpoint, self.find_deployment(endpoint, call["deployment"])))

    async def _put_deployment(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        endpoint = self.find(workspace, call["endpoint"])
        name = call["deployment"]
        check_name("Deployment", name)
        if endpoint.busy:
            raise conflict(
                f"Cannot create a deployment in endpoint {endpoint.name} because it is in {endpoint.state} "
                "provisioning state."
            )
        body = await call.body()
        if not body.get("location"):
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        given = {key: value for key, value in (body.get("properties") or {}).items() if value is not None}
        properties = DEPLOYMENT_DEFAULTS | given
        existing = endpoint.deployments.get(name.lower())
        if existing:
            self._refuse_busy_deployment(endpoint, existing)
            refuse_unrecoverable(existing)
        self._deployer.parts(workspace, properties)
        sku = {"name": "Default", "capacity": 1} | (body.get("sku") or {})
        had = existing.instances if existing and existing.instance_type == instance_type(properties) else 0
        self._capacity.check(workspace, instance_type(properties), sku["capacity"], had)
        if existing is None:
            deployment = endpoint.deployments[name.lower()] = Deployment(
                name=name,
                workspace=workspace,
                system_data=SystemData(call.caller, self._clock.now()),
                location=endpoint.location,
                properties=properties,
                tags=body.get("tags") or {},
                sku=sku,
                directory=self._directory / endpoint.location / endpoint.name.lower() / name.lower(),
            )
            operation = self._begin_deployment(call, endpoint, deployment, "Creating", True)
            return web.json_response(deployment_as_json(endpoint, deployment), status=201, headers=operation.headers)
        other_container = any(existing.properties.get(key) != properties.get(key) for key in CONTAINER)
        existing.properties, existing.tags, existing.sku = properties, body.get("tags") or {}, sku
        existing.system_data.modify(call.caller, self._clock.now())
        operation = self._begin_deployment(call, endpoint, existing, "Updating", other_container)
        return web.json_response(deployment_as_json(endpoint, existing), headers=operation.headers)

    def _begin_deployment(
        self, call: Call, endpoint: Endpoint, deployment: Deployment, state: str, new_container: bool
    ) -> Operation:
        deployment.state = state

        async def work() -> None:
            if new_container or deployment.server is None or not deployment.server.alive:
                former = deployment.server
                deployment.server = await self._deployer.provision(deployment)
                if former:
                    await former.stop()

        def ended(error: OperationFailed | None) -> None:
            deployment.state = "Failed" if error else "Succeeded"
            deployment.ever_succeeded = deployment.ever_succeeded or not error

        subject = Subject(endpoint.workspace, "deployment", endpoint.name, deployment.name)
        deployment.operation = self._operations.begin(call, subject, work, ended)
        return deployment.operation

    async def _patch_deployment(self, call: Call) -> web.Response:
        """Change tags or instance count only."""
        endpoint = self._endpoint(call)
        deployment = self.find_deployment(endpoint, call["deployment"])
        self._refuse_busy_deployment(endpoint, deployment)
        refuse_unrecoverable(deployment)
        body = await call.body()
        if "tags" in body:
            deployment.tags = body["tags"] or {}
        sku = deployment.sku | (body.get("sku") or {})
        self._capacity.check(deployment.workspace, deployment.instance_type, sku["capacity"] or 1, deployment.instances)
        deployment.sku = sku
        deployment.system_data.modify(call.caller, self._clock.now())
        operation = self._begin_deployment(call, endpoint, deployment, "Updating", False)
        return web.json_response(deployment_as_json(endpoint, deployment), status=202, headers=operation.headers)

    async def _delete_deployment(self, call: Call) -> web.Response:
        endpoint = self._endpoint(call)
        deployment = endpoint.deployments.get(call["deployment"].lower())
        if deployment is None:
            return web.Response(status=204)
        self._refuse_busy(endpoint)
        self._refuse_busy_deployment(endpoint, deployment)
        key = deployment.name.lower()
        share = max(endpoint.live_traffic.get(key, 0), *(w for n, w in endpoint.traffic.items() if n.lower() == key), 0)
        if share:
            raise bad_request(
                f"Cannot delete deployment {deployment.name} of endpoint {endpoint.name}, because it has {share} percent of "
                "the live traffic. Set its traffic to 0 first."
            )
        deployment.state = "Deleting"

        async def work() -> None:
            await self._deployer.remove(deployment)
            endpoint.deployments.pop(key, None)
            endpoint.traffic = {name: weight for name, weight in endpoint.traffic.items() if name.lower() != key}

        def ended(error: OperationFailed | None) -> None:
            deployment.state = "Failed" if error else "Deleting"

        subject = Subject(endpoint.workspace, "delete", endpoint.name, deployment.name)
        deployment.operation = self._operations.begin(call, subject, work, ended)
        return web.Response(status=202, headers=deployment.operation.headers)

    async def _get_logs(self, call: Call) -> web.Response:
        endpoint = self._endpoint(call)
        deployment = self.find_deployment(endpoint, call["deployment"])
        body = await call.body()
        if body.get("containerType") == "StorageInitializer":
            return web.json_response({"content": "".join(f"Downloaded {name}\n" for name in deployment.downloads)})
        return web.json_response({"content": self.log(deployment, int(body.get("tail") or 1000))})

    @staticmethod
    def log(deployment: Deployment, lines: int) -> str:
        """The end of the log of a deployment's server, below the status of its instance."""
        started = "Succeeded" if deployment.server and deployment.server.alive else "Failed"
        if deployment.busy:
            started = "InProgress"
        text = tail(deployment.log, lines) if deployment.log else ""
        return f"Instance status:\nUserContainerStart: {started}\n\nContainer logs:\n{text}"

    def _instances(self, subscription: str, location: str) -> list[tuple[str, int]]:
        """Instance type and count of all deployments that a subscription has in a region."""
        here = [
            endpoint
            for endpoint in self._endpoints.values()
            if endpoint.location.lower() == location.lower()
            and endpoint.workspace.spec.subscription_id.lower() == subscription.lower()
        ]
        return [(each.instance_type, each.instances) for endpoint in here for each in endpoint.deployments.values()]

    def _endpoint(self, call: Call) -> Endpoint:
        return self.find(self._workspaces.of(call), call["endpoint"])

    @staticmethod
    def _identity(body: dict[str, Any]) -> dict[str, Any]:
        return {"type": "SystemAssigned"} | (body.get("identity") or {})

    @staticmethod
    def _refuse_busy(endpoint: Endpoint) -> None:
        if endpoint.busy:
            raise conflict(
                f"Endpoint {endpoint.name} is in {endpoint.state} provisioning state. Wait until the operation has ended."
            )

    @staticmethod
    def _refuse_busy_deployment(endpoint: Endpoint, deployment: Deployment) -> None:
        if deployment.busy:
            raise conflict(
                f"Deployment {deployment.name} of endpoint {endpoint.name} is in {deployment.state} provisioning state. "
                "Wait until the operation has ended."
            )

    def clear(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
