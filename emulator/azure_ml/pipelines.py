"""Pipeline jobs that really run: their steps one after the other, each as a process (`steps.py`)."""

import asyncio
import itertools
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.azure_ml.arm import ArmError
from emulator.azure_ml.assets import Assets
from emulator.azure_ml.bindings import (
    WRITABLE_MODES,
    Asset,
    StepOutput,
    in_order,
    job_input,
    parent_output,
    step_input,
)
from emulator.azure_ml.computes import Computes
from emulator.azure_ml.jobs import Job, Jobs
from emulator.azure_ml.operations import OperationFailed, Operations, Subject
from emulator.azure_ml.steps import Place, Step, StepFailed, Steps
from emulator.azure_ml.workspaces import BLOBSTORE, Location, Workspace, Workspaces
from emulator.topology import Identity

# Steps at a time: the machine that the local Azure runs on is no cluster.
SLOTS = 2
# What a node of a pipeline may say in place of its component.
OVERRIDES = (
    "environment_variables", "error_threshold", "input_data", "mini_batch_error_threshold", "mini_batch_size",
    "retry_settings", "task",
)  # fmt: skip


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as a component or a job describes it."""

    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    nodes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Scope:
    """A running pipeline: the job itself, or a pipeline component that is a step of it (`run`)."""

    workspace: Workspace
    job: Job
    run: Job
    inputs: Mapping[str, Place | str]
    outputs: Mapping[str, Place]
    folder: Path


class Pipelines:
    """Submits and runs pipeline jobs. Their folders are below `directory`, for as long as they run."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        assets: Assets,
        jobs: Jobs,
        steps: Steps,
        operations: Operations,
        directory: Path,
    ) -> None:
        self._workspaces = workspaces
        self._assets = assets
        self._jobs = jobs
        self._steps = steps
        self._operations = operations
        self._directory = directory
        self._slots = asyncio.Semaphore(SLOTS)
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}  # by workspace and job: names repeat in workspaces
        self._numbers = itertools.count(1)

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._directory, True)

    @staticmethod
    def runs(definition: Mapping[str, Any]) -> bool:
        """Whether a job is one that runs here: a pipeline of registered components."""
        nodes = (definition.get("jobs") or {}).values()
        has_steps = bool(nodes) and all(isinstance(node, dict) and node.get("componentId") for node in nodes)
        return definition.get("jobType") == "Pipeline" and bool(definition.get("componentId") or has_steps)

    def submit(self, workspace: Workspace, caller: Identity, name: str | None, definition: Mapping[str, Any]) -> Job:
        """Create the job and start it. Raises the service's refusal."""
        self.check(workspace, definition)
        name = name or f"{uuid.uuid4().hex[:4]}_pipeline_{next(self._numbers)}"
        job = self._jobs.create_described(workspace, caller, name, definition, run_type="azureml.PipelineRun")
        key = (workspace.spec.key, job.name)
        task = self._tasks[key] = asyncio.create_task(self._run(workspace, job))
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return job

    async def cancel(self, workspace: Workspace, job: Job) -> None:
        """End a job and its steps; also one that nothing runs."""
        if task := self._tasks.get((workspace.spec.key, job.name)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._end(workspace, job, "Canceled")

    # ------------------------------------------------------------------------------------------------- refusing

    def check(self, workspace: Workspace, definition: Mapping[str, Any]) -> None:
        """Refuse a job that refers to what is not there."""
        if not self.runs(definition):
            raise _refusal("Only pipeline jobs of registered components can be run here.")
        pipeline = self._pipeline(definition)
        default = (definition.get("settings") or {}).get("default_compute")
        if default or not all(node.get("computeId") for node in pipeline.nodes.values()):
            Computes.check(workspace, default)
        given = definition.get("inputs") or {}
        if missing := [name for name, each in pipeline.inputs.items() if name not in given and _is_required(each)]:
            raise _refusal(f"The pipeline needs the input {missing[0]}, which the job does not give.")
        for each in given.values():
            self._check_input(workspace, job_input(each))
        self._check_nodes(workspace, pipeline)

    def _check_nodes(self, workspace: Workspace, pipeline: Pipeline) -> None:
        for name, node in pipeline.nodes.items():
            specification = self._specification(node["componentId"])
            if node.get("computeId"):
                Computes.check(workspace, node["computeId"])
            for given in (node.get("inputs") or {}).values():
                try:
                    bound = step_input(given, dict.fromkeys(pipeline.inputs, ""))
                except KeyError as unknown:
                    raise _refusal(f"Step {name} asks for input {unknown}, which the pipeline does not have.") from None
                if isinstance(bound, StepOutput):
                    self._check_output(name, bound, pipeline)
                else:
                    self._check_input(workspace, bound)
            if specification["type"] == "pipeline":
                self._check_nodes(workspace, _pipeline_of(specification))
        try:
            in_order(pipeline.nodes)
        except ValueError as error:
            raise _refusal(str(error)) from None

    def _check_input(self, workspace: Workspace, bound: Asset | str) -> None:
        if isinstance(bound, Asset):
            self._locate(workspace, bound)

    def _check_output(self, name: str, bound: StepOutput, pipeline: Pipeline) -> None:
        other = pipeline.nodes.get(bound.step)
        if other is None or bound.output not in (self._specification(other["componentId"]).get("outputs") or {}):
            raise _refusal(f"Step {name} asks for {bound.output} of step {bound.step}, which does not exist.")

    # -------------------------------------------------------------------------------------------------- running

    async def _run(self, workspace: Workspace, job: Job) -> None:
        """All steps in their order; the first that fails ends the job."""
        folder = self._directory / workspace.spec.key / job.name
        try:
            await self._operations.take_course(_subject(workspace, job))
            job.status = "Running"
            pipeline = self._pipeline(job.details)
            scope = Scope(
                workspace,
                job,
                job,
                self._inputs(workspace, pipeline.inputs, job.details.get("inputs") or {}),
                {name: self._job_output(workspace, job, name, pipeline) for name in {*pipeline.outputs, *job.outputs}},
                folder,
            )
            await self._run_nodes(scope, pipeline)
        except Exception as error:
            is_plain = isinstance(error, StepFailed | ArmError | OperationFailed)
            await self._end(workspace, job, "Failed", str(error) if is_plain else f"{type(error).__name__}: {error}")
        else:
            await self._end(workspace, job, "Completed")
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    async def _run_nodes(self, scope: Scope, pipeline: Pipeline) -> None:
        written: dict[str, Mapping[str, Place]] = {}
        for name in in_order(pipeline.nodes):
            step = self._step(scope, name, pipeline.nodes[name], written)
            written[name] = step.outputs
            if step.specification["type"] == "pipeline":
                inner = Scope(scope.workspace, scope.job, step.run, step.inputs, step.outputs, step.folder)
                await self._run_nodes(inner, _pipeline_of(step.specification))
                await self._end(scope.workspace, step.run, "Completed")
            else:
                async with self._slots:
                    await self._steps.run(scope.workspace, step)

    def _step(
        self, scope: Scope, name: str, node: Mapping[str, Any], written: Mapping[str, Mapping[str, Place]]
    ) -> Step:
        workspace = scope.workspace
        own = {key: node[key] for key in OVERRIDES if node.get(key) is not None}
        specification = {**self._specification(node["componentId"]), **own}
        run = self._jobs.create(
            workspace,
            Identity(scope.job.system_data.as_json()["createdBy"]),
            str(uuid.uuid4()),
            job_type=None,
            run_type="azureml.StepRun",
            experiment=scope.job.experiment,
            display_name=name,
            parent=scope.run.name,
            status="Queued",
            properties={"azureml.moduleName": name, "azureml.runsource": "azureml.StepRun"},
        )
        inputs = self._inputs(workspace, specification.get("inputs") or {}, {})
        for input_name, given in (node.get("inputs") or {}).items():
            try:
                bound = step_input(given, scope.inputs)
            except KeyError:
                continue  # an optional input of the pipeline, which nobody gave
            inputs[input_name] = (
                written[bound.step][bound.output]
                if isinstance(bound, StepOutput)
                else self._place(workspace, bound)
                if isinstance(bound, Asset)
                else bound
            )
        outputs = {
            output: self._step_output(scope, run, output, declared, (node.get("outputs") or {}).get(output))
            for output, declared in (specification.get("outputs") or {}).items()
        }
        return Step(name, run, scope.job.name, specification, inputs, outputs, scope.folder / name)

    async def _end(self, workspace: Workspace, job: Job, status: str, error: str | None = None) -> None:
        """End a job and whatever of it has not ended."""
        for child in self._jobs.children(workspace, job):
            await self._end(workspace, child, status, error)
        if job.ended is None:
            job.error = error
            await self._jobs.finish(workspace, job, status)

    # ------------------------------------------------------------------------------------------ inputs and outputs

    def _inputs(
        self, workspace: Workspace, declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
    ) -> dict[str, Place | str]:
        """What is given, and the defaults of the rest."""
        values: dict[str, Place | str] = {n: str(each["default"]) for n, each in declared.items() if "default" in each}
        for name, each in given.items():
            found = job_input(each)
            values[name] = self._place(workspace, found) if isinstance(found, Asset) else found
        return values

    def _job_output(self, workspace: Workspace, job: Job, name: str, pipeline: Pipeline) -> Place:
        given, declared = job.outputs.get(name) or {}, pipeline.outputs.get(name) or {}
        kind = str(given.get("jobOutputType") or declared.get("type") or "uri_folder")
        location = self._written_to(workspace, job, job.name, name, given)
        return Place(location, kind, _is_mount(given) or _is_mount(declared))

    def _step_output(self, scope: Scope, run: Job, name: str, declared: Mapping[str, Any], given: Any) -> Place:
        """Where the pipeline's output is, if it is bound to one; else where it says itself, or in the run's own place."""
        own = given if isinstance(given, Mapping) else {}
        kind, mounted = str(declared.get("type") or "uri_folder"), _is_mount(own) or _is_mount(declared)
        bound = parent_output(given)
        if outer := scope.outputs.get(bound or ""):
            return Place(outer.location, kind, mounted or outer.mounted)
        run_name, output = (scope.run.name, bound) if bound else (run.name, name)
        return Place(self._written_to(scope.workspace, scope.job, run_name, output, own), kind, mounted)

    def _written_to(self, workspace: Workspace, job: Job, run: str, output: str, given: Mapping[str, Any]) -> Location:
        if uri := given.get("uri"):
            return self._workspaces.locate(workspace, str(uri).replace("${{name}}", job.name))
        return workspace.location(BLOBSTORE, workspace.job_output(run, output, ""))

    def _place(self, workspace: Workspace, asset: Asset) -> Place:
        return Place(self._locate(workspace, asset), asset.kind)

    def _locate(self, workspace: Workspace, asset: Asset) -> Location:
        if asset.uri.startswith(("/subscriptions/", "azureml:/subscriptions/")):
            found = self._assets.find("models", asset.uri)
            if found is None:
                raise _refusal(f"The model {asset.uri} was not found.")
            return self._workspaces.locate(found[0], found[1].properties["modelUri"])
        return self._workspaces.locate(workspace, asset.uri)

    # ------------------------------------------------------------------------------------------------- components

    def _pipeline(self, definition: Mapping[str, Any]) -> Pipeline:
        """The pipeline of a job, whether it stands in it or in the component that it names."""
        if not definition.get("componentId"):
            return Pipeline({name: {} for name in definition.get("inputs") or {}}, {}, definition["jobs"])
        specification = self._specification(definition["componentId"])
        if specification["type"] != "pipeline":
            raise _refusal("A pipeline job needs a component of type pipeline.")
        return _pipeline_of(specification)

    def _specification(self, reference: str) -> Mapping[str, Any]:
        found = self._assets.find("components", reference)
        if found is None:
            raise _refusal(f"The component {reference} was not found.")
        specification: Mapping[str, Any] = found[1].properties["componentSpec"]
        return specification


def _pipeline_of(specification: Mapping[str, Any]) -> Pipeline:
    return Pipeline(*(specification.get(part) or {} for part in ("inputs", "outputs", "jobs")))


def _subject(workspace: Workspace, job: Job) -> Subject:
    return Subject(workspace, "job", names=(job.name, job.display_name or job.name, job.experiment))


def _refusal(message: str) -> ArmError:
    return ArmError(400, "UserError", message)


def _is_required(declared: Mapping[str, Any]) -> bool:
    return "default" not in declared and str(declared.get("optional", "")).lower() != "true"


def _is_mount(output: Mapping[str, Any]) -> bool:
    return str(output.get("mode")).lower() in WRITABLE_MODES
