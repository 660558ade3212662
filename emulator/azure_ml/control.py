"""What tests, demos and people may do to Azure ML behind the clients' back. Contract: docs/contracts."""

import base64
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, get_args

from aiohttp import web

from emulator.azure_ml.arm import ArmError, bad_request
from emulator.azure_ml.capacity import Capacity, VmSize
from emulator.azure_ml.jobs import Job, Jobs
from emulator.azure_ml.online import deployment_as_json, endpoint_as_json
from emulator.azure_ml.online_endpoints import OnlineEndpoints
from emulator.azure_ml.operations import Kind, Operations, Outcome, PlantedOutcome
from emulator.azure_ml.permissions import Permissions
from emulator.azure_ml.workspaces import ARTIFACTSTORE, BLOBSTORE, Location, Storage, Workspace, Workspaces
from emulator.topology import DATA_SCIENTIST, PROMOTION_SERVICE, Identity

JOB_FIELDS = {
    "name", "jobType", "runType", "experiment", "displayName", "status", "parent", "tags", "properties", "details",
    "files", "outputs", "metrics", "createdBy",
}  # fmt: skip

Respond = Callable[[web.Request], Awaitable[web.Response]]


class AzureMLControl:
    def __init__(
        self,
        *,
        workspaces: Workspaces,
        jobs: Jobs,
        endpoints: OnlineEndpoints,
        operations: Operations,
        storage: Storage,
        capacity: Capacity,
        permissions: Permissions,
    ) -> None:
        self._workspaces = workspaces
        self._jobs = jobs
        self._endpoints = endpoints
        self._operations = operations
        self._storage = storage
        self._capacity = capacity
        self._permissions = permissions

    def routes(self) -> list[web.RouteDef]:
        base = "/azure-ml"
        return [
            web.get(f"{base}/durations", _answering(self._get_durations)),
            web.put(f"{base}/durations", _answering(self._set_durations)),
            web.get(f"{base}/outcomes", _answering(self._list_outcomes)),
            web.post(f"{base}/outcomes", _answering(self._plant_outcome)),
            web.delete(f"{base}/outcomes/{{number}}", _answering(self._remove_outcome)),
            web.delete(f"{base}/outcomes", _answering(self._clear_outcomes)),
            web.get(f"{base}/{{workspace}}/resources", _answering(self._list_resources)),
            web.post(f"{base}/{{workspace}}/jobs", _answering(self._create_job)),
            web.post(f"{base}/{{workspace}}/jobs/{{name}}/finish", _answering(self._finish_job)),
            web.get(f"{base}/{{workspace}}/quota", _answering(self._get_quota)),
            web.put(f"{base}/{{workspace}}/quota", _answering(self._set_quota)),
            web.put(f"{base}/{{workspace}}/vm-sizes", _answering(self._set_vm_sizes)),
            web.put(f"{base}/{{workspace}}/permissions", _answering(self._take_permissions)),
            web.get(
                f"{base}/{{workspace}}/online-endpoints/{{endpoint}}/deployments/{{deployment}}/log",
                _answering(self._read_log),
            ),
        ]

    async def _get_durations(self, _request: web.Request) -> web.Response:
        return web.json_response(self._operations.durations)

    async def _set_durations(self, request: web.Request) -> web.Response:
        body: dict[Kind, float] = await _body(request, set(get_args(Kind)))
        for kind, duration in body.items():
            if not isinstance(duration, int | float) or duration < 0:
                raise bad_request(f"The duration of {kind} must be a number of seconds, got {duration!r}.")
        self._operations.durations.update(body)
        return await self._get_durations(request)

    async def _list_outcomes(self, _request: web.Request) -> web.Response:
        return web.json_response({"outcomes": [_outcome_as_json(each) for each in self._operations.planted.values()]})

    async def _plant_outcome(self, request: web.Request) -> web.Response:
        body = await _body(request, {field.name for field in dataclasses.fields(Outcome)})
        if body.get("kind") not in (None, *get_args(Kind)) or body.get("outcome", "fail") not in ("fail", "stick"):
            raise bad_request(f"kind must be one of {', '.join(get_args(Kind))}, and outcome must be fail or stick.")
        return web.json_response(_outcome_as_json(self._operations.plant(Outcome(**body))), status=201)

    async def _remove_outcome(self, request: web.Request) -> web.Response:
        self._operations.remove(int(request.match_info["number"]))
        return web.json_response({})

    async def _clear_outcomes(self, _request: web.Request) -> web.Response:
        for number in list(self._operations.planted):
            self._operations.remove(number)
        return web.json_response({})

    async def _list_resources(self, request: web.Request) -> web.Response:
        workspace = self._workspace(request)
        assets = {
            kind: [
                f"{each.name}:{version.version}" for each in containers.values() for version in each.versions.values()
            ]
            for kind, containers in workspace.assets.items()
        }
        endpoints = [
            endpoint_as_json(each)
            | {"deployments": [deployment_as_json(each, deployment) for deployment in each.deployments.values()]}
            for each in self._endpoints.of(workspace)
        ]
        jobs = [{"name": job.name, "jobType": job.job_type, "status": job.status} for job in workspace.jobs.values()]
        return web.json_response({"assets": assets, "jobs": jobs, "onlineEndpoints": endpoints})

    async def _create_job(self, request: web.Request) -> web.Response:
        workspace = self._workspace(request)
        body = await _body(request, JOB_FIELDS)
        if not body.get("name"):
            raise bad_request("A job needs a name.")
        job = self._jobs.create(
            workspace,
            Identity(body.get("createdBy") or DATA_SCIENTIST.name),
            body["name"],
            job_type=body.get("jobType"),
            run_type=body.get("runType"),
            experiment=body.get("experiment") or "Default",
            display_name=body.get("displayName"),
            parent=body.get("parent"),
            tags=body.get("tags") or {},
            properties=body.get("properties") or {},
            details=body.get("details") or {},
            metrics=_metrics(body),
        )
        await self._upload(workspace.location(ARTIFACTSTORE, workspace.job_artifacts(job.name, "")), body.get("files"))
        for name, output in (body.get("outputs") or {}).items():
            path = workspace.job_output(job.name, name, "")
            await self._upload(workspace.location(BLOBSTORE, path), output.get("files"))
            kind = output.get("type", "uri_folder")
            job.outputs[name] = {"jobOutputType": kind, "uri": f"azureml://datastores/{BLOBSTORE}/paths/{path}"}
        if status := body.get("status"):
            job.status = status
        return web.json_response(_job_as_json(job), status=201)

    async def _finish_job(self, request: web.Request) -> web.Response:
        workspace = self._workspace(request)
        body = await _body(request, {"status", "tags", "properties", "metrics"})
        job = self._jobs.find(workspace, request.match_info["name"])
        job.tags |= body.get("tags") or {}
        job.properties |= body.get("properties") or {}
        job.metrics |= _metrics(body)
        await self._jobs.finish(workspace, job, body.get("status", "Completed"))
        return web.json_response(_job_as_json(job))

    async def _read_log(self, request: web.Request) -> web.Response:
        endpoint = self._endpoints.find(self._workspace(request), request.match_info["endpoint"])
        deployment = self._endpoints.find_deployment(endpoint, request.match_info["deployment"])
        process = deployment.server.process if deployment.server and deployment.server.alive else None
        return web.json_response({"log": self._endpoints.log(deployment, 10_000), "process": process})

    async def _get_quota(self, request: web.Request) -> web.Response:
        """What deployments have taken and may take, by VM family and in total."""
        spec = self._workspace(request).spec
        rows = self._capacity.usages(spec.subscription_id, spec.location)
        dedicated = [row for row in rows if "dedicatedCores" in row["type"]]
        return web.json_response(
            {row["name"]["value"]: {"used": row["currentValue"], "limit": row["limit"]} for row in dedicated}
        )

    async def _set_quota(self, request: web.Request) -> web.Response:
        """Limits by VM family or TotalDedicatedCores; -1 is none, null is what it was at the start."""
        limits = self._capacity.of(self._workspace(request)).limits
        for name, limit in (await _body(request)).items():
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < -1):
                raise bad_request(f"The limit of {name} must be a whole number of vCPUs, or -1, got {limit!r}.")
            if limit is None:
                limits.pop(name, None)
            else:
                limits[name] = limit
        return await self._get_quota(request)

    async def _set_vm_sizes(self, request: web.Request) -> web.Response:
        """Add VM sizes to the region, by name, as {"family", "vCPUs"}; null takes one away."""
        sizes = self._capacity.of(self._workspace(request)).sizes
        for name, size in (await _body(request)).items():
            if size is None:
                sizes.pop(name.lower(), None)
            elif isinstance(size, dict) and isinstance(size.get("vCPUs"), int) and size.get("family"):
                sizes[name.lower()] = VmSize(name, str(size["family"]), size["vCPUs"])
            else:
                raise bad_request(f"VM size {name} must be given by its family and its vCPUs, or null.")
        return web.json_response({"sizes": [size.name for size in sizes.values()]})

    async def _take_permissions(self, request: web.Request) -> web.Response:
        """Take these actions away from an identity in a workspace, and give it back all others."""
        workspace = self._workspace(request)
        body = await _body(request, {"identity", "actions"})
        identity, actions = Identity(body.get("identity") or PROMOTION_SERVICE.name), body.get("actions")
        if not isinstance(actions, list) or not all(isinstance(action, str) for action in actions):
            raise bad_request("actions must be a list of actions, such as Microsoft.MachineLearningServices/*/write.")
        self._permissions.take(identity, workspace, tuple(actions))
        return web.json_response({"identity": identity.name, "actions": actions})

    async def _upload(self, folder: Location, files: dict[str, Any] | None) -> None:
        async with self._storage.blob_service(folder.account) as service:
            container = service.get_container_client(folder.container)
            for name, content in (files or {}).items():
                await container.upload_blob(f"{folder.path}/{name}", _content(content), overwrite=True)

    def _workspace(self, request: web.Request) -> Workspace:
        name = request.match_info["workspace"]
        workspace = self._workspaces.named(name)
        if workspace is None:
            known = ", ".join(each.spec.key for each in self._workspaces.all)
            raise ArmError(404, "NotFound", f"There is no workspace {name}: use one of {known}.")
        return workspace


def _answering(respond: Respond) -> Respond:
    async def answer(request: web.Request) -> web.Response:
        try:
            return await respond(request)
        except ArmError as error:
            return error.answer()

    return answer


async def _body(request: web.Request, known: set[str] | None = None) -> dict[Any, Any]:
    """The JSON object in the body. A field that nobody knows is refused by its name; None: any is fine."""
    try:
        body = await request.json() if request.body_exists else {}
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.")
    if known is not None and (unknown := sorted(set(body) - known)):
        raise bad_request(f"Unknown field {unknown[0]}: known are {', '.join(sorted(known))}.")
    return body


def _metrics(body: dict[Any, Any]) -> dict[str, float]:
    """Numbers, or what JSON has no number for as a text: NaN, Infinity."""
    try:
        return {str(name): float(value) for name, value in (body.get("metrics") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise bad_request(f"metrics must be numbers by name: {error}") from None


def _content(content: Any) -> bytes:
    """A file's content: text as it is, or bytes as {"base64": "..."}."""
    return base64.b64decode(content["base64"]) if isinstance(content, dict) else str(content).encode()


def _outcome_as_json(planted: PlantedOutcome) -> dict[str, Any]:
    return {"number": planted.number, "outcome": dataclasses.asdict(planted.outcome), "met": planted.met}


def _job_as_json(job: Job) -> dict[str, Any]:
    return {"name": job.name, "jobType": job.job_type, "status": job.status, "tags": job.tags}
