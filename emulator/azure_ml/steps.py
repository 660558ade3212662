"""One step of a pipeline job: what its process is given, how it ends, and what becomes of what it wrote.

A step runs in the Python that its environment asks for, as model servers do (`emulator/serving/environments.py`).
Containers, clusters and identities of jobs are not imitated: a step reads and writes as the workspace itself.
"""

import asyncio
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.azure_ml.assets import Assets
from emulator.azure_ml.bindings import filled
from emulator.azure_ml.files import Files
from emulator.azure_ml.jobs import Job, Jobs
from emulator.azure_ml.workspaces import ARTIFACTSTORE, Location, Storage, Workspace, Workspaces
from emulator.processes import spawn
from emulator.serving.environments import Environments, Wanted, from_conda
from emulator.serving.servers import IMAGE_PYTHON, tail

RUNNER = Path(__file__).with_name("parallel_runner.py")
STD_LOG, JOB_ERROR = "user_logs/std_log.txt", "logs/job_error.txt"
LOG_LINES = 5
# What steps are given of this process's environment.
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")
# A folder without files is one all the same; of everything else there has to be something.
MAY_BE_EMPTY = {"uri_folder", "mltable"}
# The thresholds of a parallel step, and what they are unless they are set: every failure is ignored.
THRESHOLDS = {"error_threshold": -1.0, "mini_batch_error_threshold": -1.0, "allowed_failed_percent": 100.0}


class StepFailed(Exception):
    """A step ended badly; the text is what the run history shows."""


@dataclass(frozen=True)
class Place:
    """Files in storage that a step reads or writes; of what kind they are, such as `uri_folder`.

    Whoever writes to a mounted place finds what is there already.
    """

    location: Location
    kind: str
    mounted: bool = False


@dataclass(frozen=True)
class Step:
    """A step with all that is bound to it. `folder` is its own on this machine; `root` is the name of the job."""

    name: str
    run: Job
    root: str
    specification: Mapping[str, Any]
    inputs: Mapping[str, Place | str]
    outputs: Mapping[str, Place]
    folder: Path

    @property
    def is_parallel(self) -> bool:
        return bool(self.specification["type"] == "parallel")

    @property
    def task(self) -> Mapping[str, Any]:
        """Where code and environment are named."""
        found: Mapping[str, Any] = self.specification.get("task") or self.specification
        return found


class Steps:
    """Runs steps."""

    def __init__(
        self, *, workspaces: Workspaces, assets: Assets, jobs: Jobs, storage: Storage, environments: Environments
    ) -> None:
        self._workspaces = workspaces
        self._assets = assets
        self._jobs = jobs
        self._files = Files(storage)
        self._environments = environments

    async def run(self, workspace: Workspace, step: Step) -> None:
        """Run it to its end, which the run history then shows. Raises StepFailed."""
        await asyncio.to_thread(step.folder.mkdir, parents=True)
        log = step.folder / "std_log.txt"
        log.touch()
        step.run.status = "Running"
        try:
            await self._run(workspace, step, log)
        except Exception as error:
            step.run.error = str(error) or type(error).__name__
            await self._keep(workspace, step, STD_LOG, log)
            if step.is_parallel:
                summary = step.folder / "job_error.txt"
                await asyncio.to_thread(summary.write_text, step.run.error, "utf-8")
                await self._keep(workspace, step, JOB_ERROR, summary)
            await self._jobs.finish(workspace, step.run, "Failed")
            raise StepFailed(step.run.error) from error
        await self._keep(workspace, step, STD_LOG, log)
        await self._jobs.finish(workspace, step.run, "Completed")

    async def _run(self, workspace: Workspace, step: Step, log: Path) -> None:
        code = await self._code(step)
        values = {name: await self._given(step, name, each) for name, each in step.inputs.items()}
        paths, former = await self._output_paths(step)
        python = await self._python(step, log)
        command = _command(step, python, values, paths)
        environment = _environment(workspace, step, python)
        process = await spawn(f"step {step.name}", command, environment=environment, log=log, directory=code)
        try:
            status = await process.wait()
        finally:
            await process.stop()
        for name, path in paths.items():
            await self._files.upload(path, step.outputs[name].location, former=former[name])
        if status:
            said = " ".join(tail(log, LOG_LINES).split())[-1000:]
            raise StepFailed(f"Step {step.name} failed: its process ended with exit code {status}: {said}")

    async def _keep(self, workspace: Workspace, step: Step, name: str, file: Path) -> None:
        """Put a log among the artifacts of the step's run."""
        location = workspace.location(ARTIFACTSTORE, workspace.job_artifacts(step.run.name, name))
        await self._files.upload_file(file, location)
        step.run.logs[name] = location

    async def _code(self, step: Step) -> Path:
        """The folder of the code asset, which is where the step's process starts."""
        folder = step.folder / "code"
        await asyncio.to_thread(folder.mkdir)
        if reference := step.task.get("code"):
            found = self._assets.find("codes", reference)
            if found is None:
                raise StepFailed(f"The code asset {reference} was not found.")
            await self._files.download(self._workspaces.locate(found[0], found[1].properties["codeUri"]), folder)
        return folder

    async def _given(self, step: Step, name: str, given: Place | str) -> Path | str:
        """An input as the process sees it: a literal, or the path of what was downloaded."""
        if isinstance(given, str):
            return given
        target = step.folder / "inputs" / name / (given.location.path.rpartition("/")[2] or "data")
        await asyncio.to_thread(target.parent.mkdir, parents=True)
        if not await self._files.download(given.location, target):
            if given.kind not in MAY_BE_EMPTY:
                where = f"{given.location.account}/{given.location.container}/{given.location.path}"
                raise StepFailed(f"Input {name} of step {step.name} is not there: nothing was found at {where}")
            await asyncio.to_thread(target.mkdir)
        return target

    async def _output_paths(self, step: Step) -> tuple[dict[str, Path], dict[str, set[str]]]:
        """A path for each output: a folder, or a file that is yet to be written. And what lay in those that are mounts."""
        paths: dict[str, Path] = {}
        former: dict[str, set[str]] = {}
        for name, place in step.outputs.items():
            path = paths[name] = step.folder / "outputs" / name / (place.location.path.rpartition("/")[2] or name)
            is_file = place.kind == "uri_file"
            await asyncio.to_thread((path.parent if is_file else path).mkdir, parents=True)
            former[name] = await self._files.download(place.location, path) if place.mounted else set()
        return paths, former

    async def _python(self, step: Step, log: Path) -> Path:
        """The interpreter of the step's environment; what is said about it stands at the head of the log."""
        reference = str(step.task.get("environment") or "")
        found = self._assets.find("environments", reference)
        if found is None and "registries/" not in reference.lower():
            raise StepFailed(f"The environment {reference} was not found.")
        conda = found[1].properties.get("condaFile") if found else None
        python, notes = await self._environments.python_for(from_conda(conda) if conda else Wanted())
        await asyncio.to_thread(log.write_text, "".join(f"{note}\n" for note in notes), "utf-8")
        return python or IMAGE_PYTHON


def _command(step: Step, python: Path, values: Mapping[str, Path | str], paths: Mapping[str, Path]) -> list[str]:
    def fill(text: Any) -> str:
        try:
            return filled(str(text or ""), values, paths)
        except KeyError as unknown:
            raise StepFailed(f"Step {step.name} refers to {unknown}, which it was not given: {text}") from None

    specification = step.specification
    if not step.is_parallel:
        return ["bash", "-c", fill(specification["command"])]
    arguments = shlex.split(fill(step.task.get("program_arguments")))
    append = shlex.split(fill(step.task.get("append_row_to")))
    retries = specification.get("retry_settings") or {}
    runner = {
        "entry_script": step.task["entry_script"],
        "arguments": arguments,
        "input": shlex.split(fill(specification["input_data"]))[0],
        "mini_batch_size": int(specification.get("mini_batch_size") or 1),
        "max_retries": int(retries.get("max_retries", 2)),
        "timeout": float(retries.get("timeout", 60)),
        "append_row_to": append[0] if append else None,
    }
    runner |= {name: _threshold(specification, arguments, name) for name in THRESHOLDS}
    file = step.folder / "parallel.json"
    file.write_text(json.dumps(runner), encoding="utf-8")
    return [str(python), "-u", str(RUNNER), str(file)]


def _threshold(specification: Mapping[str, Any], arguments: list[str], name: str) -> float:
    """A threshold stands among the program arguments, or else in the step."""
    options = " ".join(arguments).replace(f"--{name} ", f"--{name}=").split()
    given = [each.partition("=")[2] for each in options if each.startswith(f"--{name}=")]
    found = given[-1] if given else specification.get(name)
    return THRESHOLDS[name] if found is None else float(found)


def _environment(workspace: Workspace, step: Step, python: Path) -> dict[str, str]:
    """The variables of the process, with those by which Azure ML tells it what it is part of."""
    spec = workspace.spec
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    own = {name: str(value) for name, value in (step.specification.get("environment_variables") or {}).items()}
    told = {
        "AZUREML_RUN_ID": step.run.name,
        "AZUREML_ROOT_RUN_ID": step.root,
        "AZUREML_ARM_SUBSCRIPTION": spec.subscription_id,
        "AZUREML_ARM_RESOURCEGROUP": spec.resource_group,
        "AZUREML_ARM_WORKSPACE_NAME": spec.name,
        "AZUREML_EXPERIMENT_NAME": step.run.experiment,
        "PYTHONUNBUFFERED": "1",
    }
    path = os.pathsep.join((str(python.parent), passed_on.get("PATH", os.defpath)))
    return passed_on | {"PATH": path} | own | told
