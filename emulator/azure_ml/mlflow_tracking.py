"""MLflow tracking, as every workspace answers it for its runs: the part of MLflow's REST API that reads one run.

What is documented: Azure ML is a tracking server of MLflow ("Query & compare experiments and runs with MLflow"), every job
is an MLflow run, and a workspace tells its URI (`mlFlowTrackingUri`). Form of request and answer: MLflow's REST API, "Get
Run". Microsoft's MLflow client asks version 2.0 of the path although the URI names 1.0; both are answered.
"""

import math
from datetime import datetime
from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes
from emulator.azure_ml.jobs import Job, Jobs
from emulator.azure_ml.workspaces import Workspace, Workspaces

_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED", "Running": "RUNNING"}
_BASE = "api/2.0/mlflow"


class MlflowTracking:
    def __init__(self, workspaces: Workspaces, jobs: Jobs) -> None:
        self._workspaces = workspaces
        self._jobs = jobs

    def add_data_plane_routes(self, routes: Routes) -> None:
        for version in ("1.0", "2.0"):
            routes.add("GET", f"/mlflow/v{version}{WORKSPACE}/{_BASE}/runs/get", self._get)

    async def _get(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        name = call.request.query.get("run_id") or call.request.query.get("run_uuid") or ""
        try:
            job = self._jobs.find(workspace, name)
        except ArmError as error:
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": error.message}
            return web.json_response(missing, status=404)
        return web.json_response({"run": self._run(workspace, job)})

    def _run(self, workspace: Workspace, job: Job) -> dict[str, Any]:
        started = _milliseconds(job.system_data.created_at)
        info = {
            "run_id": job.name,
            "run_uuid": job.name,
            "run_name": job.display_name or job.name,
            "experiment_id": self._jobs.experiment_id(workspace, job),
            "user_id": "",
            "status": _STATUS.get(job.status, "SCHEDULED"),
            "start_time": started,
            "artifact_uri": "",
            "lifecycle_stage": "active",
        }
        if job.ended:
            info["end_time"] = _milliseconds(job.ended)
        metrics = [
            {"key": key, "value": _number(value), "timestamp": started, "step": 0} for key, value in job.metrics.items()
        ]
        tags = [{"key": key, "value": value} for key, value in job.tags.items()]
        return {"info": info, "data": {"metrics": metrics, "params": [], "tags": tags}, "inputs": {}}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _number(value: float) -> float | str:
    """JSON has no words for what is no finite number; MLflow writes them as texts."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
