"""Jobs in ARM, and the same jobs as runs in the data plane's run history."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from aiohttp import web

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes, SystemData, iso, listed, page, resource
from emulator.azure_ml.events import Events
from emulator.azure_ml.workspaces import Location, Storage, Workspace, Workspaces
from emulator.clock import Clock
from emulator.topology import NAMESPACE, Identity

TERMINAL = {"Completed", "Failed", "Canceled", "NotResponding", "Paused"}
LOG_HOURS = 8
# The property of a job by which a schedule's jobs are found.
SCHEDULE_NAME = "azureml.scheduleName"

# What Azure ML notes on pipelines that clients submit through Resource Manager.
PIPELINE_MARKS = {"azureml.runsource": "azureml.PipelineRun", "runSource": "MFE"}

# What the client library insists on for each job type; a job that says less gets these.
TYPE_DEFAULTS: dict[str, dict[str, Any]] = {
    "Command": {"command": "python train.py", "environmentId": "azureml:AzureML-sklearn-1.5@latest"},
    "Pipeline": {"jobs": {}, "settings": {}},
    "AutoML": {
        "taskDetails": {
            "taskType": "Classification",
            "primaryMetric": "Accuracy",
            "targetColumnName": "target",
            "logVerbosity": "Info",
            "trainingData": {"jobInputType": "mltable", "uri": "azureml://datastores/workspaceblobstore/paths/train/"},
        }
    },
    "Sweep": {
        "objective": {"goal": "Maximize", "primaryMetric": "accuracy"},
        "samplingAlgorithm": {"samplingAlgorithmType": "Random"},
        "searchSpace": {},
        "trial": {"command": "python train.py", "environmentId": "azureml:AzureML-sklearn-1.5@latest"},
    },
}


@dataclass
class Job:
    """A job or a run. `job_type` None is a run that ARM does not know as a job: a step of a pipeline."""

    name: str
    job_type: str | None
    system_data: SystemData
    experiment: str = "Default"
    display_name: str | None = None
    status: str = "Running"
    run_type: str | None = None
    parent: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: datetime | None = None
    archived: bool = False
    error: str | None = None
    logs: dict[str, Location] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Jobs:
    """ARM and run-history routes; creation and completion for the control API."""

    def __init__(self, workspaces: Workspaces, storage: Storage, clock: Clock, events: Events) -> None:
        self._workspaces = workspaces
        self._storage = storage
        self._clock = clock
        self._events = events
        self._runs: Callable[[Mapping[str, Any]], bool] = lambda _: False
        self._submit: Callable[[Workspace, Identity, str, Mapping[str, Any]], Job] | None = None
        self._cancel: Callable[[Workspace, Job], Awaitable[None]] | None = None

    def run_with(
        self,
        runs: Callable[[Mapping[str, Any]], bool],
        submit: Callable[[Workspace, Identity, str, Mapping[str, Any]], Job],
        cancel: Callable[[Workspace, Job], Awaitable[None]],
    ) -> None:
        """Who runs the jobs that can be run here."""
        self._runs, self._submit, self._cancel = runs, submit, cancel

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", WORKSPACE + "/jobs", self._list)
        routes.add("GET", WORKSPACE + "/jobs/{name}", self._get)
        routes.add("PUT", WORKSPACE + "/jobs/{name}", self._put)
        routes.add("POST", WORKSPACE + "/jobs/{name}/cancel", self._post_cancel)

    def add_history_routes(self, routes: Routes) -> None:
        """Run history names a run below the workspace, or below its experiment as well."""
        history = f"/history/v1.0{WORKSPACE}"
        for base in (history, f"{history}/experiments/{{experiment}}", f"{history}/experimentids/{{experiment}}"):
            routes.add("GET", f"{base}/runs/{{name}}", self._get_run)
            routes.add("GET", f"{base}/runs/{{name}}/details", self._get_run_details)
            routes.add("GET", f"{base}/runs/{{name}}/children", self._list_children)
        routes.add("POST", f"{history}/rundata", self._get_run_data)

    def create(self, workspace: Workspace, caller: Identity, name: str, **fields: Any) -> Job:
        """Create a job or run as if it had been submitted. Raises a 409 if the name is taken."""
        if name.lower() in workspace.jobs:
            raise ArmError(
                409, "UserError", f"A job with name {name} already exists in workspace {workspace.spec.name}."
            )
        job = Job(name, system_data=SystemData(caller, self._clock.now()), **fields)
        workspace.jobs[name.lower()] = job
        return job

    def create_described(
        self, workspace: Workspace, caller: Identity, name: str, definition: Mapping[str, Any], **fields: Any
    ) -> Job:
        """As `create`, from the properties that a client sends for a job."""
        given = dict(definition)
        marks = PIPELINE_MARKS if given.get("jobType") == "Pipeline" else {}
        return self.create(
            workspace,
            caller,
            name,
            job_type=given.pop("jobType"),
            experiment=given.pop("experimentName", None) or "Default",
            display_name=given.pop("displayName", None),
            tags=given.pop("tags", None) or {},
            properties=marks | (given.pop("properties", None) or {}),
            outputs=given.pop("outputs", None) or {},
            status="Starting",
            details=given,
            **fields,
        )

    async def finish(self, workspace: Workspace, job: Job, status: str) -> None:
        """End a job, and raise the event of its end."""
        if status not in TERMINAL:
            raise ArmError(
                400, "BadRequest", f"{status} does not end a job: give one of {', '.join(sorted(TERMINAL))}."
            )
        job.status = status
        job.ended = self._clock.now()
        run = self._run(workspace, job)
        if status == "Completed":
            await self._events.run_completed(workspace.spec, run)
        elif status == "Failed":
            await self._events.run_failed(workspace.spec, run)

    def find(self, workspace: Workspace, name: str) -> Job:
        job = workspace.jobs.get(name.lower())
        if job is None:
            raise ArmError(404, "UserError", f"Job {name} was not found in workspace {workspace.spec.name}.")
        return job

    async def _list(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        jobs = [each for each in workspace.jobs.values() if each.job_type and listed(call, each.archived)]
        if wanted := call.request.query.get("jobType"):
            jobs = [each for each in jobs if (each.job_type or "").lower() == wanted.lower()]
        if call.request.query.get("scheduled", "").lower() == "true":
            jobs = [each for each in jobs if SCHEDULE_NAME in each.properties]
        if schedule := call.request.query.get("scheduleId"):
            name = schedule.rpartition("/")[2].lower()
            jobs = [each for each in jobs if each.properties.get(SCHEDULE_NAME, "").lower() == name]
        return page(call, [self.as_json(workspace, each) for each in reversed(jobs)])

    async def _get(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        return web.json_response(self.as_json(workspace, self.find(workspace, call["name"])))

    async def _put(self, call: Call) -> web.Response:
        """Submit a job, or change what may change of an existing one.

        Pipelines of registered components are run. Nothing runs other jobs: the control API ends them.
        """
        workspace = self._workspaces.of(call)
        given = dict((await call.body()).get("properties") or {})
        existing = workspace.jobs.get(call["name"].lower())
        if existing:
            existing.tags = given.get("tags") or {}
            existing.display_name = given.get("displayName") or existing.display_name
            existing.archived = bool(given.get("isArchived"))
            existing.system_data.modify(call.caller, self._clock.now())
            return web.json_response(self.as_json(workspace, existing))
        if not given.get("jobType"):
            raise ArmError(400, "UserError", "A job needs a jobType.")
        if self._submit is not None and self._runs(given):
            return web.json_response(
                self.as_json(workspace, self._submit(workspace, call.caller, call["name"], given)), status=201
            )
        job = self.create_described(workspace, call.caller, call["name"], given)
        return web.json_response(self.as_json(workspace, job), status=201)

    async def _post_cancel(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        job = self.find(workspace, call["name"])
        if self._cancel is not None and job.ended is None:
            await self._cancel(workspace, job)
        return web.Response(status=200)

    @staticmethod
    def children(workspace: Workspace, job: Job) -> list[Job]:
        return [each for each in workspace.jobs.values() if each.parent == job.name]

    def as_json(self, workspace: Workspace, job: Job) -> dict[str, Any]:
        """A run that is no job is a resource without properties: so the client knows to ask the run history."""
        envelope: dict[str, Any] = resource(workspace.spec, "jobs", job.name)
        envelope["systemData"] = job.system_data.as_json()
        if job.job_type is None:
            return envelope | {"properties": None}
        properties = {
            "jobType": job.job_type,
            "displayName": job.display_name or job.name,
            "experimentName": job.experiment,
            "status": job.status,
            "tags": job.tags,
            "properties": job.properties,
            "inputs": job.details.get("inputs") or {},
            "outputs": self._outputs(workspace, job),
            "services": {},
            "isArchived": job.archived,
        }
        return envelope | {"properties": TYPE_DEFAULTS.get(job.job_type, {}) | job.details | properties}

    def _outputs(self, workspace: Workspace, job: Job) -> dict[str, Any]:
        """The named outputs, and the default one, in which logged artifacts lie."""
        default = {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"}
        base = "azureml://datastores/workspaceartifactstore/paths/"
        artifacts = default | {"uri": base + workspace.job_artifacts(job.name, "")}
        return {"default": artifacts} | {name: default | output for name, output in job.outputs.items()}

    async def _get_run(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        return web.json_response(self._run(workspace, self.find(workspace, call["name"])))

    async def _get_run_details(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        job = self.find(workspace, call["name"])
        run = self._run(workspace, job)
        kept = ("runId", "status", "startTimeUtc", "endTimeUtc", "properties", "error")
        logs = {name: self._signed(location) for name, location in job.logs.items()}
        return web.json_response({key: run[key] for key in kept} | {"logFiles": logs, "inputDatasets": []})

    def _signed(self, location: Location) -> str:
        """The URL at which anybody can read a log for a while."""
        account, container = location.account, location.container
        signature = self._storage.container_sas(account, container, "r", timedelta(hours=LOG_HOURS))
        return f"{self._storage.blob_service_url(account)}/{container}/{quote(location.path)}?{signature}"

    async def _list_children(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        parent = self.find(workspace, call["name"])
        return page(call, [self._run(workspace, each) for each in self.children(workspace, parent)])

    async def _get_run_data(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        job = self.find(workspace, str((await call.body()).get("runId")))
        return web.json_response({"runMetadata": self._run(workspace, job)})

    @staticmethod
    def experiment_id(workspace: Workspace, job: Job) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{workspace.spec.arm_id}/experiments/{job.experiment}".lower()))

    def _run(self, workspace: Workspace, job: Job) -> dict[str, Any]:
        created = iso(job.system_data.created_at)
        return {
            "runId": job.name,
            "runUuid": str(uuid.uuid5(NAMESPACE, f"{workspace.spec.arm_id}/runs/{job.name}".lower())),
            "rootRunId": self._root(workspace, job).name,
            "parentRunId": job.parent,
            "experimentId": self.experiment_id(workspace, job),
            "experimentName": job.experiment,
            "displayName": job.display_name or job.name,
            "status": job.status,
            "runType": job.run_type,
            "runTypeV2": {"orchestrator": job.run_type, "traits": []},
            "tags": job.tags,
            "properties": job.properties,
            "createdUtc": created,
            "startTimeUtc": created,
            "endTimeUtc": iso(job.ended) if job.ended else None,
            "createdBy": {"userName": job.system_data.as_json()["createdBy"]},
            "inputs": {},
            "outputs": {},
            "warnings": None,
            "error": {"error": {"code": "UserError", "message": job.error}} if job.error else None,
        }

    @staticmethod
    def _root(workspace: Workspace, job: Job) -> Job:
        while job.parent and (parent := workspace.jobs.get(job.parent.lower())):
            job = parent
        return job
