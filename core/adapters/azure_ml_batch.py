"""Batch endpoints of a target workspace, with the components that they run, and the jobs and schedules of the same.

One pipeline component for each promoted version, with that version pinned in it, behind two doors: the deployment of a
batch endpoint, and a schedule. An invocation of a batch endpoint cannot name a registered model as input, hence the pin.
"""

import io
from collections.abc import Mapping
from typing import Any

import yaml
from azure.core.credentials import TokenCredential

from core.adapters import run_history
from core.adapters.arm import Arm
from core.adapters.azure_ml_bodies import asset, body_of, deployments, name_taken, provisioning, with_changes
from core.adapters.batch_component import component_files
from core.adapters.blobs import Blobs
from core.adapters.datastores import ARTIFACT_STORE, datastore_container
from core.commands import Operation
from core.errors import Transient
from core.events import WorkspaceId
from core.ports import (
    BatchJobSpec,
    ComponentSpec,
    Deployment,
    Endpoint,
    Job,
    JobStatus,
    Schedule,
    ScheduleSpec,
    TargetAsset,
)
from core.schedules import CronTrigger, RecurrenceTrigger
from core.stages import BatchStage

# Deployments of components and parallel components are in preview versions only, as the SDK has them.
PREVIEW = "2024-01-01-preview"
LOG_LIMIT = 64 * 1024
_READ_ONLY = frozenset({"provisioningState", "scoringUri", "swaggerUri"})
_ENDED = {"completed": JobStatus.COMPLETED, "failed": JobStatus.FAILED, "canceled": JobStatus.FAILED}
_ENDED |= {"notresponding": JobStatus.FAILED}


class AzureMLBatchEndpoints:
    """`core.ports.BatchEndpoints` for one Azure ML workspace."""

    def __init__(self, credential: TokenCredential, arm: Arm, workspace: WorkspaceId, blobs: Blobs) -> None:
        self._credential = credential
        self._arm = arm
        self._workspace = workspace
        self._blobs = blobs

    # ---------------------------------------------------------------------------------------------------- endpoints

    def endpoint(self, name: str) -> Endpoint | None:
        body = self._arm.find(f"/batchEndpoints/{name}")
        if body is None:
            return None
        properties = body["properties"]
        default = (properties.get("defaults") or {}).get("deploymentName")
        return Endpoint(
            name=name,
            tags=body.get("tags") or {},
            traffic={default: 100} if default else {},
            provisioning=provisioning(properties),
            scoring_uri=properties.get("scoringUri"),
            body=body,
        )

    def deployments(self, endpoint: str) -> tuple[Deployment, ...]:
        return deployments(self._arm, f"/batchEndpoints/{endpoint}/deployments", api_version=PREVIEW)

    def create_endpoint(self, name: str, *, auth_mode: str, tags: Mapping[str, str]) -> Operation | None:
        from azure.ai.ml.entities import BatchEndpoint

        body = body_of(BatchEndpoint(name=name, tags=dict(tags))._to_rest_batch_endpoint(location=self._arm.location))
        try:
            return self._arm.put(f"/batchEndpoints/{name}", body).operation
        except Transient as fault:
            raise name_taken(fault) from fault

    def update_endpoint(
        self, endpoint: Endpoint, *, tags: Mapping[str, str], traffic: Mapping[str, int]
    ) -> Operation | None:
        default = next(iter(traffic), None)
        if endpoint.traffic and default is None:
            raise ValueError(f"would take its default deployment from batch endpoint {endpoint.name}")
        defaults = {"defaults": {"deploymentName": default}} if default else {}
        body = with_changes(endpoint.body, _READ_ONLY, tags=tags, properties=defaults)
        return self._arm.put(f"/batchEndpoints/{endpoint.name}", body).operation

    def create_deployment(
        self, endpoint: str, name: str, *, component_id: str, compute: str, tags: Mapping[str, str]
    ) -> Operation | None:
        """Always with `settings`: one deployment without them hides all others from the SDK's lists."""
        from azure.ai.ml.entities import PipelineComponentBatchDeployment

        settings: dict[str, Any] = {"default_compute": compute, "continue_on_step_failure": False, "force_rerun": True}
        deployment = PipelineComponentBatchDeployment(
            name=name,
            endpoint_name=endpoint,
            component=component_id,
            settings=settings,
            tags=dict(tags),
        )
        body = body_of(deployment._to_rest_object(location=self._arm.location))
        return self._arm.put(f"/batchEndpoints/{endpoint}/deployments/{name}", body, api_version=PREVIEW).operation

    def delete_deployment(self, endpoint: str, name: str) -> Operation | None:
        return self._arm.delete(f"/batchEndpoints/{endpoint}/deployments/{name}", api_version=PREVIEW).operation

    def delete_endpoint(self, name: str) -> Operation | None:
        return self._arm.delete(f"/batchEndpoints/{name}").operation

    # --------------------------------------------------------------------------------------------------- components

    def component(self, name: str, version: str) -> TargetAsset | None:
        return asset(self._arm, f"/components/{name}/versions/{version}", api_version=PREVIEW)

    def create_component(self, spec: ComponentSpec) -> None:
        """The three steps, under versions that follow from their content; then the pipeline that refers to them."""
        from azure.ai.ml import load_component

        for file in component_files(spec, self._workspace):
            if self.component(file["name"], file["version"]) is None:
                component = load_component(io.StringIO(yaml.safe_dump(file)))
                path = f"/components/{file['name']}/versions/{file['version']}"
                self._arm.put(path, body_of(component._to_rest_object()), api_version=PREVIEW)

    # --------------------------------------------------------------------------------------------------------- jobs

    def job(self, name: str) -> Job | None:
        body = self._arm.find(f"/jobs/{name}")
        if body is None:
            return None
        detail = str((body.get("properties") or {}).get("status") or "NotStarted")
        return Job(name=name, status=_ENDED.get(detail.lower(), JobStatus.RUNNING), detail=detail)

    def start_job(self, spec: BatchJobSpec) -> None:
        """A job's name is its own: a second PUT of the same one starts nothing."""
        body = body_of(self._pipeline_job(spec, named=True)._to_rest_object())
        self._arm.put(f"/jobs/{spec.name}", {"properties": body["properties"]}, api_version=PREVIEW)

    def cancel_job(self, name: str) -> None:
        self._arm.post(f"/jobs/{name}/cancel")

    def job_log(self, name: str) -> str:
        """What the failed steps wrote last, each below its name."""
        failed = run_history.failed_children(self._credential, self._arm, self._workspace, name)
        account_url, container = datastore_container(self._arm.get(f"/datastores/{ARTIFACT_STORE}"))
        texts = []
        for step in failed:
            path = f"ExperimentRun/dcid.{step.run_id}/user_logs/std_log.txt"
            log = self._blobs.read_text(account_url, container, path, LOG_LIMIT) or b""
            texts.append(f"{step.name}: {step.error}\n{log.decode('utf-8', errors='replace')}")
        return "\n".join(texts)

    def _pipeline_job(self, spec: BatchJobSpec, *, named: bool) -> Any:
        from azure.ai.ml import Input, Output
        from azure.ai.ml.entities import PipelineJob, PipelineJobSettings

        state = Output(type="uri_folder", path=spec.state, mode="rw_mount")
        return PipelineJob(
            name=spec.name if named else None,
            component=spec.component_id,
            experiment_name=spec.experiment,
            display_name=spec.name,
            inputs={"data": Input(type="uri_folder", path=spec.input)},
            outputs={
                "predictions": Output(type="uri_folder", path=spec.output, mode="rw_mount"),
                "state": state,
                "state_after": state,
            },
            settings=PipelineJobSettings(
                default_compute=f"{self._workspace.arm_id}/computes/{spec.compute}",
                continue_on_step_failure=False,
                force_rerun=True,
            ),
            tags=dict(spec.tags),
        )

    # ---------------------------------------------------------------------------------------------------- schedules

    def schedule(self, name: str) -> Schedule | None:
        body = self._arm.find(f"/schedules/{name}")
        if body is None:
            return None
        properties = body["properties"]
        return Schedule(
            name=name,
            tags=properties.get("tags") or {},
            enabled=properties.get("isEnabled", True),
            provisioning=provisioning(properties),
            body=body,
        )

    def write_schedule(self, spec: ScheduleSpec) -> Operation | None:
        from azure.ai.ml.entities import JobSchedule

        schedule = JobSchedule(
            name=spec.name,
            trigger=_trigger(spec.stage),
            create_job=self._pipeline_job(spec.job, named=False),
            display_name=spec.name,
            tags=dict(spec.tags),
        )
        body = body_of(schedule._to_rest_object())
        properties = body["properties"] | {"isEnabled": spec.enabled}
        return self._arm.put(f"/schedules/{spec.name}", {"properties": properties}).operation

    def pause_schedule(self, schedule: Schedule) -> Operation | None:
        properties = {key: value for key, value in schedule.body["properties"].items() if key != "provisioningState"}
        return self._arm.put(f"/schedules/{schedule.name}", {"properties": properties | {"isEnabled": False}}).operation

    def delete_schedule(self, name: str) -> Operation | None:
        return self._arm.delete(f"/schedules/{name}").operation


def _trigger(stage: BatchStage) -> Any:
    """The SDK's trigger. Times stay texts: of a datetime the SDK would drop the offset in silence."""
    from azure.ai.ml import entities

    if stage.schedule is None:
        raise TypeError("a stage without schedule has no trigger")
    trigger: CronTrigger | RecurrenceTrigger = stage.schedule.trigger
    times: dict[str, Any] = {
        "start_time": trigger.start_time,
        "end_time": trigger.end_time,
        "time_zone": trigger.time_zone,
    }
    if isinstance(trigger, CronTrigger):
        return entities.CronTrigger(expression=trigger.expression, **times)
    pattern = trigger.schedule
    return entities.RecurrenceTrigger(
        frequency=trigger.frequency,
        interval=trigger.interval,
        schedule=entities.RecurrencePattern(
            hours=list(pattern.hours),
            minutes=list(pattern.minutes),
            week_days=list(pattern.week_days) if pattern.week_days else None,
            month_days=list(pattern.month_days) if pattern.month_days else None,
        )
        if pattern
        else None,
        **times,
    )
