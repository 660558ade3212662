"""Batch endpoints and their pipeline-component deployments: ARM's routes, and the scoring URI that starts a job."""

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes, SystemData, conflict, not_found, page, resource
from emulator.azure_ml.assets import Assets
from emulator.azure_ml.bindings import snake
from emulator.azure_ml.computes import Computes
from emulator.azure_ml.jobs import Jobs
from emulator.azure_ml.online import check_name
from emulator.azure_ml.operations import TRANSITIONAL, Operation, OperationFailed, Operations, Subject
from emulator.azure_ml.pipelines import Pipelines
from emulator.azure_ml.scoring import AUDIENCES, DEPLOYMENT_HEADER, VerifyToken
from emulator.azure_ml.workspaces import Workspace, Workspaces
from emulator.clock import Clock
from emulator.identity import UnauthorizedError
from emulator.request_log import Entry
from emulator.topology import Identity

ENDPOINTS = WORKSPACE + "/batchEndpoints"
ENDPOINT = ENDPOINTS + "/{endpoint}"
DEPLOYMENTS = ENDPOINT + "/deployments"
DEPLOYMENT = DEPLOYMENTS + "/{deployment}"

# States in which a deployment can be invoked.
USABLE = {"Succeeded", "Updating"}
MODES = {"upload": "Upload", "rw_mount": "ReadWriteMount", "ro_mount": "ReadOnlyMount", "download": "Download"}


@dataclass
class BatchDeployment:
    """A deployment that runs a pipeline component."""

    name: str
    system_data: SystemData
    properties: dict[str, Any]
    tags: dict[str, str]
    state: str = "Creating"

    @property
    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = self.properties.get("deploymentConfiguration") or {}
        return found


@dataclass
class BatchEndpoint:
    """An endpoint; its default deployment is the one that answers when a caller names none."""

    name: str
    workspace: Workspace
    system_data: SystemData
    properties: dict[str, Any]
    tags: dict[str, str]
    state: str = "Creating"
    deployments: dict[str, BatchDeployment] = field(default_factory=dict)

    @property
    def default(self) -> str | None:
        found: str | None = (self.properties.get("defaults") or {}).get("deploymentName")
        return found


class BatchEndpoints:
    """All batch endpoints of a local Azure. Their names are unique in a region, across workspaces."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        operations: Operations,
        assets: Assets,
        jobs: Jobs,
        pipelines: Pipelines,
        clock: Clock,
        verify_token: VerifyToken | None,
    ) -> None:
        self._workspaces = workspaces
        self._operations = operations
        self._assets = assets
        self._jobs = jobs
        self._pipelines = pipelines
        self._clock = clock
        self._verify_token = verify_token
        self._endpoints: dict[tuple[str, str], BatchEndpoint] = {}  # (region, lower-case name)

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", ENDPOINTS, self._list)
        routes.add("GET", ENDPOINT, self._get)
        routes.add("PUT", ENDPOINT, self._put)
        routes.add("DELETE", ENDPOINT, self._delete)
        routes.add("GET", DEPLOYMENTS, self._list_deployments)
        routes.add("GET", DEPLOYMENT, self._get_deployment)
        routes.add("PUT", DEPLOYMENT, self._put_deployment)
        routes.add("DELETE", DEPLOYMENT, self._delete_deployment)

    def at(self, location: str, name: str) -> BatchEndpoint | None:
        return self._endpoints.get((location.lower(), name.lower()))

    # ------------------------------------------------------------------------------------------------- endpoints

    async def _list(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        found = [each for each in self._endpoints.values() if each.workspace is workspace]
        return page(call, [self._as_json(each) for each in found])

    async def _get(self, call: Call) -> web.Response:
        return web.json_response(self._as_json(self._find(call)))

    async def _put(self, call: Call) -> web.Response:
        workspace, name = self._workspaces.of(call), call["endpoint"]
        check_name("Endpoint", name)
        body = await call.body()
        if not body.get("location"):
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        endpoint = self.at(workspace.spec.location, name)
        if endpoint is not None and endpoint.workspace is not workspace:
            raise conflict(
                "There is already an endpoint with this name. Endpoint name needs to be unique within a region."
            )
        properties = dict(body.get("properties") or {})
        default = (properties.get("defaults") or {}).get("deploymentName")
        known = endpoint.deployments if endpoint else {}
        if default and default.lower() not in known:
            raise ArmError(400, "UserError", f"The default deployment {default} does not exist in endpoint {name}.")
        new = endpoint is None
        if endpoint is None:
            endpoint = BatchEndpoint(name, workspace, SystemData(call.caller, self._clock.now()), {}, {})
            self._endpoints[workspace.spec.location, name.lower()] = endpoint
        else:
            self._refuse_busy(endpoint.state, f"Endpoint {name}")
        endpoint.properties, endpoint.tags = properties, body.get("tags") or {}
        endpoint.system_data.modify(call.caller, self._clock.now())
        endpoint.state = "Creating" if new else "Updating"

        def ended(error: OperationFailed | None) -> None:
            endpoint.state = "Failed" if error else "Succeeded"

        operation = self._operations.begin(call, Subject(workspace, "batch_endpoint", name), _nothing, ended)
        return web.json_response(self._as_json(endpoint), status=201 if new else 200, headers=operation.headers)

    async def _delete(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        endpoint = self.at(workspace.spec.location, call["endpoint"])
        if endpoint is None or endpoint.workspace is not workspace:
            return web.Response(status=204)
        self._refuse_busy(endpoint.state, f"Endpoint {endpoint.name}")
        endpoint.state = "Deleting"

        async def work() -> None:
            del self._endpoints[workspace.spec.location, endpoint.name.lower()]

        operation = self._operations.begin(call, Subject(workspace, "delete", endpoint.name), work, lambda _: None)
        return web.Response(status=202, headers=operation.headers)

    # ----------------------------------------------------------------------------------------------- deployments

    async def _list_deployments(self, call: Call) -> web.Response:
        endpoint = self._find(call)
        return page(call, [self._deployment_as_json(endpoint, each) for each in endpoint.deployments.values()])

    async def _get_deployment(self, call: Call) -> web.Response:
        endpoint = self._find(call)
        return web.json_response(
            self._deployment_as_json(endpoint, self._find_deployment(endpoint, call["deployment"]))
        )

    async def _put_deployment(self, call: Call) -> web.Response:
        endpoint, name = self._find(call), call["deployment"]
        check_name("Deployment", name)
        self._refuse_busy(endpoint.state, f"Endpoint {endpoint.name}")
        body = await call.body()
        properties = {key: value for key, value in (body.get("properties") or {}).items() if value is not None}
        self._check_configuration(endpoint.workspace, properties.get("deploymentConfiguration") or {})
        deployment = endpoint.deployments.get(name.lower())
        new = deployment is None
        if deployment is None:
            deployment = BatchDeployment(name, SystemData(call.caller, self._clock.now()), properties, {})
            endpoint.deployments[name.lower()] = deployment
        else:
            self._refuse_busy(deployment.state, f"Deployment {name}")
        deployment.properties, deployment.tags = properties, body.get("tags") or {}
        deployment.system_data.modify(call.caller, self._clock.now())
        deployment.state = "Creating" if new else "Updating"
        operation = self._begin(call, endpoint, deployment)
        shown = self._deployment_as_json(endpoint, deployment)
        return web.json_response(shown, status=201 if new else 200, headers=operation.headers)

    def _begin(self, call: Call, endpoint: BatchEndpoint, deployment: BatchDeployment) -> Operation:
        def ended(error: OperationFailed | None) -> None:
            deployment.state = "Failed" if error else "Succeeded"

        subject = Subject(endpoint.workspace, "batch_deployment", endpoint.name, deployment.name)
        return self._operations.begin(call, subject, _nothing, ended)

    def _check_configuration(self, workspace: Workspace, configuration: dict[str, Any]) -> None:
        if configuration.get("deploymentConfigurationType") != "PipelineComponent":
            raise ArmError(400, "UserError", "Only deployments of pipeline components are known here.")
        component = str((configuration.get("componentId") or {}).get("assetId") or "")
        found = self._assets.find("components", component)
        if found is None:
            raise ArmError(400, "UserError", f"The component {component} was not found.")
        if found[1].properties["componentSpec"]["type"] != "pipeline":
            raise ArmError(400, "UserError", f"The component {component} is not of type pipeline.")
        Computes.check(workspace, (configuration.get("settings") or {}).get("default_compute"))

    async def _delete_deployment(self, call: Call) -> web.Response:
        endpoint = self._find(call)
        deployment = endpoint.deployments.get(call["deployment"].lower())
        if deployment is None:
            return web.Response(status=204)
        self._refuse_busy(deployment.state, f"Deployment {deployment.name}")
        if (endpoint.default or "").lower() == deployment.name.lower():
            raise ArmError(
                400,
                "UserError",
                f"Deployment {deployment.name} is the default of endpoint {endpoint.name}: change that first.",
            )
        deployment.state = "Deleting"

        async def work() -> None:
            endpoint.deployments.pop(deployment.name.lower(), None)

        subject = Subject(endpoint.workspace, "delete", endpoint.name, deployment.name)
        operation = self._operations.begin(call, subject, work, lambda _: None)
        return web.Response(status=202, headers=operation.headers)

    # ------------------------------------------------------------------------------------------------- invocation

    async def respond(self, request: web.Request, _: Identity | None, entry: Entry) -> web.StreamResponse:
        """The scoring URI: POST starts a job of the deployment that the header names, else of the default one."""
        try:
            caller = self._bearer(request)
            entry.principal = caller.name
            endpoint, deployment = self._invoked(request)
            entry.detail["deployment"] = deployment.name
            definition = await _definition(endpoint, deployment, request)
            job = self._pipelines.submit(endpoint.workspace, caller, None, definition)
        except ArmError as error:
            return error.answer()
        return web.json_response(self._jobs.as_json(endpoint.workspace, job), status=201)

    def _bearer(self, request: web.Request) -> Identity:
        try:
            if self._verify_token:
                return self._verify_token(request.headers.get("Authorization"), AUDIENCES)
        except UnauthorizedError:
            pass
        raise ArmError(401, "Unauthorized", "Your token is missing, or it is not for Azure ML.")

    def _invoked(self, request: web.Request) -> tuple[BatchEndpoint, BatchDeployment]:
        if request.method != "POST":
            raise ArmError(405, "MethodNotAllowed", "Jobs are started with POST.")
        name, location, *_ = request.host.split(".")
        endpoint = self.at(location, name)
        if endpoint is None:
            raise ArmError(404, "NotFound", f"There is no endpoint {name} in {location}.")
        wanted = request.headers.get(DEPLOYMENT_HEADER) or endpoint.default
        if not wanted:
            raise _refusal(f"Endpoint {name} has no default deployment.")
        deployment = endpoint.deployments.get(wanted.lower())
        if deployment is None:
            raise _refusal(f"Endpoint {name} has no deployment {wanted}.")
        if deployment.state not in USABLE:
            raise _refusal(f"Deployment {wanted} of endpoint {name} is in {deployment.state} provisioning state.")
        return endpoint, deployment

    # ------------------------------------------------------------------------------------------------------ common

    def _find(self, call: Call) -> BatchEndpoint:
        workspace = self._workspaces.of(call)
        endpoint = self.at(workspace.spec.location, call["endpoint"])
        if endpoint is None or endpoint.workspace is not workspace:
            spec = workspace.spec
            raise not_found(f"workspaces/{spec.name}/batchEndpoints", call["endpoint"], spec.resource_group)
        return endpoint

    @staticmethod
    def _find_deployment(endpoint: BatchEndpoint, name: str) -> BatchDeployment:
        deployment = endpoint.deployments.get(name.lower())
        if deployment is None:
            spec = endpoint.workspace.spec
            kind = f"workspaces/{spec.name}/batchEndpoints/{endpoint.name}/deployments"
            raise not_found(kind, name, spec.resource_group)
        return deployment

    @staticmethod
    def _refuse_busy(state: str, what: str) -> None:
        if state in TRANSITIONAL:
            raise conflict(f"{what} is in {state} provisioning state. Wait until the operation has ended.")

    @staticmethod
    def _as_json(endpoint: BatchEndpoint) -> dict[str, Any]:
        spec = endpoint.workspace.spec
        host = f"{endpoint.name.lower()}.{spec.location}.inference.ml.azure.com"
        computed = {
            "provisioningState": endpoint.state,
            "scoringUri": f"https://{host}/jobs",
            "swaggerUri": None,
        }
        return resource(spec, "batchEndpoints", endpoint.name) | {
            "location": spec.location,
            "tags": endpoint.tags,
            "systemData": endpoint.system_data.as_json(),
            "properties": {"authMode": "AADToken", "properties": {}} | endpoint.properties | computed,
        }

    @staticmethod
    def _deployment_as_json(endpoint: BatchEndpoint, deployment: BatchDeployment) -> dict[str, Any]:
        spec = endpoint.workspace.spec
        return resource(spec, "batchEndpoints", endpoint.name, "deployments", deployment.name) | {
            "location": spec.location,
            "tags": deployment.tags,
            "systemData": deployment.system_data.as_json(),
            "properties": deployment.properties | {"provisioningState": deployment.state},
        }


async def _definition(endpoint: BatchEndpoint, deployment: BatchDeployment, request: web.Request) -> dict[str, Any]:
    """The job for which an invocation asks."""
    try:
        given = (await request.json())["properties"]
        inputs, outputs = (
            {name: _as_in_jobs(each) for name, each in (given.get(key) or {}).items()}
            for key in ("inputData", "outputData")
        )
        experiment = (given.get("properties") or {}).get("experimentName")
    except (ValueError, TypeError, KeyError, AttributeError):
        message = 'The body must be JSON: {"properties": {"inputData": {...}, "outputData": {...}}}.'
        raise ArmError(400, "BadRequest", message) from None
    return {
        "jobType": "Pipeline",
        "componentId": deployment.configuration["componentId"]["assetId"],
        "settings": deployment.configuration.get("settings") or {},
        "inputs": inputs,
        "outputs": outputs,
        "experimentName": experiment or endpoint.name,
        "displayName": given.get("name"),
        "properties": {
            "runSource": "BatchDeployment",
            "azureml.runLineageType": "batchDeployment",
            "azureml.deploymentname": deployment.name,
            "azureml.endpointname": endpoint.name,
        },
        "tags": {"azureml.batchrun": "true"},
    }


def _as_in_jobs(given: Any) -> Any:
    """Invocations spell types otherwise than jobs do, `UriFolder` for `uri_folder`, and modes as the client library does."""
    if not isinstance(given, dict):
        return {"jobInputType": "literal", "value": str(given)}
    spelled = {
        key: snake(str(each)) if key in ("jobInputType", "jobOutputType") else each for key, each in given.items()
    }
    return spelled | ({"mode": MODES.get(given["mode"], given["mode"])} if given.get("mode") else {})


def _refusal(message: str) -> ArmError:
    return ArmError(400, "UserError", message)


async def _nothing() -> None:
    return
