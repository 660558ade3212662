"""Pipeline jobs that really run: each step is a process on files from storage, and what it writes goes back there.

A step runs in the Python that its environment asks for, as model servers do (`emulator/serving/environments.py`).
Containers, clusters and identities of jobs are not imitated: a step reads and writes as the workspace itself.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shlex
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
    Bound,
    StepOutput,
    filled,
    in_order,
    job_input,
    parent_output,
    step_input,
)
from emulator.azure_ml.computes import Computes
from emulator.azure_ml.files import Files
from emulator.azure_ml.jobs import Job, Jobs
from emulator.azure_ml.workspaces import ARTIFACTSTORE, BLOBSTORE, Location, Storage, Workspace, Workspaces
from emulator.processes import spawn
from emulator.serving.environments import Environments, Wanted, from_conda
from emulator.serving.servers import IMAGE_PYTHON, tail
from emulator.topology import Identity

RUNNER = Path(__file__).with_name("parallel_runner.py")
# Steps at a time: the machine that the local Azure runs on is no cluster.
SLOTS = 2
LOG_LINES = 5
# What steps are given of this process's environment.
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")


class StepFailed(Exception):
    """A step ended badly; the text is what the run history shows."""


@dataclass
class Step:
    """One step of a running pipeline."""

    name: str
    run: Job
    node: Mapping[str, Any]
    specification: Mapping[str, Any]
    folder: Path
    outputs: dict[str, Location]


class Pipelines:
    """Submits and runs pipeline jobs. Their folders are below `directory`, for as long as they run."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        assets: Assets,
        jobs: Jobs,
        storage: Storage,
        environments: Environments,
        directory: Path,
    ) -> None:
        self._workspaces = workspaces
        self._assets = assets
        self._jobs = jobs
        self._files = Files(storage)
        self._environments = environments
        self._directory = directory
        self._slots = asyncio.Semaphore(SLOTS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._directory, True)

    @staticmethod
    def runs(definition: Mapping[str, Any]) -> bool:
        """Whether a job is one that runs here: a pipeline of registered components."""
        nodes = (definition.get("jobs") or {}).values()
        has_steps = bool(nodes) and all(isinstance(node, dict) and node.get("componentId") for node in nodes)
        return definition.get("jobType") == "Pipeline" and bool(definition.get("componentId") or has_steps)

    def check(self, workspace: Workspace, definition: Mapping[str, Any]) -> None:
        """Refuse a job that refers to what is not there."""
        if not self.runs(definition):
            raise ArmError(400, "UserError", "Only pipeline jobs of registered components can be run here.")
        Computes.check(workspace, (definition.get("settings") or {}).get("default_compute"))
        pipeline = self._pipeline(definition)
        given = definition.get("inputs") or {}
        if missing := [name for name, each in pipeline["inputs"].items() if name not in given and _is_required(each)]:
            raise ArmError(400, "UserError", f"The pipeline needs the input {missing[0]}, which the job does not give.")
        for node in pipeline["jobs"].values():
            self._specification(node["componentId"])
        for each in (
            *given.values(),
            *(i for node in pipeline["jobs"].values() for i in (node.get("inputs") or {}).values()),
        ):
            found = job_input(each)
            if isinstance(found, Asset):
                self._locate(workspace, found)

    def submit(self, workspace: Workspace, caller: Identity, name: str | None, definition: Mapping[str, Any]) -> Job:
        """Create the job and start it. Raises the service's refusal."""
        self.check(workspace, definition)
        given = dict(definition)
        job = self._jobs.create(
            workspace,
            caller,
            name or f"{uuid.uuid4().hex[:4]}_pipeline_{next(self._numbers)}",
            job_type=given.pop("jobType"),
            run_type="azureml.PipelineRun",
            experiment=given.pop("experimentName", None) or "Default",
            display_name=given.pop("displayName", None),
            tags=given.pop("tags", None) or {},
            properties=given.pop("properties", None) or {},
            outputs=given.pop("outputs", None) or {},
            status="NotStarted",
            details=given,
        )
        task = self._tasks[job.name] = asyncio.create_task(self._run(workspace, job))
        task.add_done_callback(lambda _: self._tasks.pop(job.name, None))
        return job

    async def cancel(self, workspace: Workspace, job: Job) -> None:
        if task := self._tasks.get(job.name):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for each in [job, *self._jobs.children(workspace, job)]:
                if each.ended is None:
                    await self._jobs.finish(workspace, each, "Canceled")

    # ------------------------------------------------------------------------------------------------- running

    async def _run(self, workspace: Workspace, job: Job) -> None:
        """All steps in their order; the first that fails ends the job."""
        job.status = "Running"
        folder = self._directory / job.name
        try:
            pipeline = self._pipeline(job.details)
            defaults = {name: each for name, each in pipeline["inputs"].items() if "default" in each}
            inputs: dict[str, Asset | str] = {name: str(each["default"]) for name, each in defaults.items()}
            inputs |= {name: job_input(each) for name, each in (job.details.get("inputs") or {}).items()}
            done: dict[str, Step] = {}
            for name in in_order(pipeline["jobs"]):
                async with self._slots:
                    done[name] = step = self._step(workspace, job, name, pipeline["jobs"][name], folder)
                    await self._run_step(workspace, job, step, inputs, done)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            job.error = str(error) if isinstance(error, StepFailed | ArmError) else f"{type(error).__name__}: {error}"
            await self._jobs.finish(workspace, job, "Failed")
        else:
            await self._jobs.finish(workspace, job, "Completed")
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    def _step(self, workspace: Workspace, job: Job, name: str, node: Mapping[str, Any], folder: Path) -> Step:
        run = self._jobs.create(
            workspace,
            Identity(job.system_data.as_json()["createdBy"]),
            str(uuid.uuid4()),
            job_type=None,
            run_type="azureml.StepRun",
            experiment=job.experiment,
            display_name=name,
            parent=job.name,
            status="Running",
            properties={"azureml.moduleName": name, "azureml.runsource": "azureml.StepRun"},
        )
        specification = self._specification(node["componentId"])
        outputs = {
            output: self._output(workspace, job, run, output, (node.get("outputs") or {}).get(output))
            for output in specification.get("outputs") or {}
        }
        return Step(name, run, node, specification, folder / name, outputs)

    def _output(self, workspace: Workspace, job: Job, run: Job, output: str, given: Any) -> Location:
        """Where a step's output goes: where the pipeline's output says, else to the place of the step's run."""
        bound = parent_output(given)
        if bound is None:
            return workspace.location(BLOBSTORE, workspace.job_output(run.name, output, ""))
        uri = (job.outputs.get(bound) or {}).get("uri")
        if not uri:
            return workspace.location(BLOBSTORE, workspace.job_output(job.name, bound, ""))
        return self._workspaces.locate(workspace, uri.replace("${{name}}", job.name))

    async def _run_step(
        self,
        workspace: Workspace,
        job: Job,
        step: Step,
        inputs: Mapping[str, Asset | str],
        done: Mapping[str, Step],
    ) -> None:
        log = step.folder / "std_log.txt"
        await asyncio.to_thread(step.folder.mkdir, parents=True)
        log.touch()
        try:
            code = await self._code(step)
            values = await self._inputs(workspace, step, inputs, done)
            folders, former = await self._output_folders(job, step)
            command = self._command(step, values, folders)
            python = await self._python(step, log)
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            environment |= _run_environment(workspace, job, step)
            environment["PATH"] = f"{python.parent}{os.pathsep}{environment.get('PATH', '')}"
            process = await spawn(f"step {step.name}", command, environment=environment, log=log, directory=code)
            try:
                code_of_exit = await process.wait()
            finally:
                await process.stop()
            for name, folder in folders.items():
                await self._files.upload(folder, step.outputs[name], former=former[name])
            _check_exit(step, code_of_exit, log)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            step.run.error = str(error) or type(error).__name__
            await self._keep_log(workspace, step, log)
            await self._jobs.finish(workspace, step.run, "Failed")
            raise StepFailed(step.run.error) from error
        await self._keep_log(workspace, step, log)
        await self._jobs.finish(workspace, step.run, "Completed")

    async def _keep_log(self, workspace: Workspace, step: Step, log: Path) -> None:
        path = workspace.job_artifacts(step.run.name, "user_logs/std_log.txt")
        await self._files.upload_file(log, workspace.location(ARTIFACTSTORE, path))

    # ------------------------------------------------------------------------------------------- what a step gets

    async def _code(self, step: Step) -> Path:
        """The folder of the code asset, which is where the step's process starts."""
        folder = step.folder / "code"
        await asyncio.to_thread(folder.mkdir)
        task = step.specification.get("task") or step.specification
        if reference := task.get("code"):
            found = self._assets.find("codes", reference)
            if found is None:
                raise StepFailed(f"The code asset {reference} was not found.")
            await self._files.download(self._workspaces.locate(found[0], found[1].properties["codeUri"]), folder)
        return folder

    async def _inputs(
        self, workspace: Workspace, step: Step, inputs: Mapping[str, Asset | str], done: Mapping[str, Step]
    ) -> dict[str, Path | str]:
        values: dict[str, Path | str] = {
            name: str(each["default"]) for name, each in _inputs_of(step).items() if "default" in each
        }
        for name, given in (step.node.get("inputs") or {}).items():
            bound = step_input(given, inputs)
            values[name] = (
                bound if isinstance(bound, str) else await self._downloaded(workspace, step, name, bound, done)
            )
        return values

    async def _downloaded(
        self, workspace: Workspace, step: Step, name: str, bound: Bound, done: Mapping[str, Step]
    ) -> Path:
        location = (
            done[bound.step].outputs[bound.output]
            if isinstance(bound, StepOutput)
            else self._locate(workspace, bound)
            if isinstance(bound, Asset)
            else None
        )
        assert location is not None  # noqa: S101 - literals are not downloaded
        target = step.folder / "inputs" / name / (location.path.rpartition("/")[2] or "data")
        await asyncio.to_thread(target.parent.mkdir, parents=True)
        if not await self._files.download(location, target):
            await asyncio.to_thread(target.mkdir)  # a folder without files is one all the same
        return target

    def _locate(self, workspace: Workspace, asset: Asset) -> Location:
        if asset.uri.startswith(("/subscriptions/", "azureml:/subscriptions/")):
            found = self._assets.find("models", asset.uri)
            if found is None:
                raise ArmError(400, "UserError", f"The model {asset.uri} was not found.")
            return self._workspaces.locate(found[0], found[1].properties["modelUri"])
        return self._workspaces.locate(workspace, asset.uri)

    async def _output_folders(self, job: Job, step: Step) -> tuple[dict[str, Path], dict[str, set[str]]]:
        """A folder for each output. A read-write mount shows what is there already, and what was there is remembered."""
        folders: dict[str, Path] = {}
        former: dict[str, set[str]] = {}
        for name, location in step.outputs.items():
            folder = folders[name] = step.folder / "outputs" / name
            await asyncio.to_thread(folder.mkdir, parents=True)
            former[name] = set()
            if _is_mounted(job, step, name):
                former[name] = await self._files.download(location, folder)
        return folders, former

    def _command(self, step: Step, values: Mapping[str, Path | str], folders: Mapping[str, Path]) -> list[str]:
        specification = step.specification
        if specification["type"] == "command":
            return ["bash", "-c", filled(specification["command"], values, folders)]
        task = specification["task"]
        arguments = shlex.split(filled(task.get("program_arguments") or "", values, folders))
        retries = step.node.get("retry_settings") or specification.get("retry_settings") or {}
        append = filled(str(task.get("append_row_to") or ""), values, folders)
        runner = {
            "entry_script": task["entry_script"],
            "arguments": arguments,
            "input": filled(specification["input_data"], values, folders),
            "mini_batch_size": int(specification.get("mini_batch_size") or 1),
            "max_retries": int(retries.get("max_retries", 2)),
            "timeout": float(retries.get("timeout", 60)),
            "error_threshold": _threshold(step, arguments, "error_threshold", -1),
            "mini_batch_error_threshold": _threshold(step, arguments, "mini_batch_error_threshold", -1),
            "allowed_failed_percent": _threshold(step, arguments, "allowed_failed_percent", 100),
            "append_row_to": shlex.split(append)[0] if append else None,
        }
        runner["input"] = shlex.split(str(runner["input"]))[0]
        file = step.folder / "parallel.json"
        file.write_text(json.dumps(runner), encoding="utf-8")
        return ["python", "-u", str(RUNNER), str(file)]

    async def _python(self, step: Step, log: Path) -> Path:
        """The interpreter of the step's environment; what is said about it stands at the head of the log."""
        task = step.specification.get("task") or step.specification
        reference = str(task.get("environment") or "")
        found = self._assets.find("environments", reference)
        if found is None and "registries/" not in reference.lower():
            raise StepFailed(f"The environment {reference} was not found.")
        conda = found[1].properties.get("condaFile") if found else None
        python, notes = await self._environments.python_for(from_conda(conda) if conda else Wanted())
        await asyncio.to_thread(log.write_text, "".join(f"{note}\n" for note in notes), "utf-8")
        return python or IMAGE_PYTHON

    # ------------------------------------------------------------------------------------------------ components

    def _pipeline(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs and steps of a job, whether they stand in it or in the component that it names."""
        if not definition.get("componentId"):
            return {"inputs": {}, "jobs": definition["jobs"]}
        specification = self._specification(definition["componentId"])
        if specification.get("type") != "pipeline":
            raise ArmError(400, "UserError", "A pipeline job needs a component of type pipeline.")
        return {"inputs": specification.get("inputs") or {}, "jobs": specification.get("jobs") or {}}

    def _specification(self, reference: str) -> Mapping[str, Any]:
        found = self._assets.find("components", reference)
        if found is None:
            raise ArmError(400, "UserError", f"The component {reference} was not found.")
        specification: Mapping[str, Any] = found[1].properties["componentSpec"]
        return specification


def _check_exit(step: Step, code: int, log: Path) -> None:
    if code:
        said = " ".join(tail(log, LOG_LINES).split())[-1000:]
        raise StepFailed(f"Step {step.name} failed: its process ended with exit code {code}: {said}")


def _inputs_of(step: Step) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = step.specification.get("inputs") or {}
    return found


def _is_required(given: Mapping[str, Any]) -> bool:
    return "default" not in given and str(given.get("optional", "")).lower() != "true"


def _is_mounted(job: Job, step: Step, output: str) -> bool:
    given = (step.node.get("outputs") or {}).get(output)
    declared = (step.specification.get("outputs") or {}).get(output) or {}
    of_job = job.outputs.get(parent_output(given) or "") or {}
    modes = (of_job.get("mode"), given.get("mode") if isinstance(given, Mapping) else None, declared.get("mode"))
    return any(str(mode).lower() in WRITABLE_MODES for mode in modes)


def _threshold(step: Step, arguments: list[str], name: str, default: float) -> float:
    """A threshold stands among the program arguments, or in the step; unless it is set, every failure is ignored."""
    if f"--{name}" in arguments:
        return float(arguments[arguments.index(f"--{name}") + 1])
    for place in (step.node, step.specification):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return float(place[name])
    return default


def _run_environment(workspace: Workspace, job: Job, step: Step) -> dict[str, str]:
    """The variables by which Azure ML tells a process what it is part of."""
    spec = workspace.spec
    return {
        "AZUREML_RUN_ID": step.run.name,
        "AZUREML_ROOT_RUN_ID": job.name,
        "AZUREML_ARM_SUBSCRIPTION": spec.subscription_id,
        "AZUREML_ARM_RESOURCEGROUP": spec.resource_group,
        "AZUREML_ARM_WORKSPACE_NAME": spec.name,
        "AZUREML_EXPERIMENT_NAME": job.experiment,
        "PYTHONUNBUFFERED": "1",
    }
