"""A workspace in which the unmodified client library registers steps and pipelines, and jobs of them run."""

import io
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from azure.ai.ml import Input, MLClient, Output, load_component
from azure.ai.ml.entities import Environment, PipelineJob, PipelineJobSettings
from azure.identity import ManagedIdentityCredential
from azure.storage.blob import ContainerClient

from emulator.azure_ml.computes import CLUSTER
from emulator.topology import DEV, WorkspaceSpec
from tests.wire.azure_ml_clients import Azure

DATASTORE = "azureml://datastores/workspaceblobstore/paths"
ENDED = ("Completed", "Failed", "Canceled")
Found = TypeVar("Found")


class BatchWorkspace:
    """What a data scientist does by hand: register, run, read what was written. Names are new for each of these."""

    def __init__(self, azure: Azure, spec: WorkspaceSpec, folder: Path) -> None:
        self.azure = azure
        self.spec = spec
        self.ml: MLClient = azure.client(spec)
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self._folder = folder
        environment = Environment(name=self.name, version="1", image="mcr.microsoft.com/azureml/base:1")
        self.environment: str = self.ml.environments.create_or_update(environment).id
        store = f"https://{spec.storage_account}.blob.core.windows.net"
        container = f"azureml-blobstore-{spec.workspace_guid}"
        self._blobs = ContainerClient(store, container, ManagedIdentityCredential())
        self._artifacts = ContainerClient(store, "azureml", ManagedIdentityCredential())

    # Registering

    def component(self, suffix: str, description: Mapping[str, Any], version: str | None = "1") -> str:
        """Register what a YAML file describes, under a name of this test; its ARM id."""
        wanted = {"name": f"{self.name}_{suffix}", **({"version": version} if version else {}), **description}
        made = self.ml.components.create_or_update(load_component(io.StringIO(yaml.safe_dump(wanted))))
        return str(made.id)

    def command(self, suffix: str, command: str, files: Mapping[str, str] | None = None, **more: Any) -> str:
        """A command component; with `files`, they are its code."""
        code = {"code": str(self.code(files))} if files else {}
        description = {"type": "command", "command": command, "environment": f"azureml:{self.environment}"}
        return self.component(suffix, description | code | more)

    def parallel(self, suffix: str, script: str, arguments: str = "", **more: Any) -> str:
        """A parallel component over its input `data`, whose `script` is score.py; it appends its rows to `scores`."""
        append = more.pop("append_row_to", "${{outputs.scores}}")
        task = {
            "type": "run_function",
            "code": str(self.code({"score.py": script})),
            "entry_script": "score.py",
            "environment": f"azureml:{self.environment}",
            "program_arguments": arguments,
        }
        description = {
            "type": "parallel",
            "inputs": {"data": {"type": "uri_folder"}} | more.pop("inputs", {}),
            "outputs": {"scores": {"type": "uri_file"}},
            "input_data": "${{inputs.data}}",
            "mini_batch_size": "1",
            "task": task | ({"append_row_to": append} if append else {}),
        }
        return self.component(suffix, description | more)

    def pipeline(self, suffix: str, jobs: Mapping[str, Any], **more: Any) -> str:
        """A pipeline component; each of `jobs` names its component by ARM id."""
        named = {
            name: {"type": node.get("type", "command"), **node, "component": f"azureml:{node['component']}"}
            for name, node in jobs.items()
        }
        return self.component(suffix, {"type": "pipeline", "jobs": named, **more})

    def code(self, files: Mapping[str, str]) -> Path:
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder

    # Running

    def job(
        self,
        component: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Output] | None = None,
        **more: Any,
    ) -> PipelineJob:
        """A job of a pipeline component, ready to be submitted or scheduled."""
        settings = PipelineJobSettings(default_compute=CLUSTER, force_rerun=True)
        return PipelineJob(
            component=component,
            experiment_name=self.name,
            inputs=dict(inputs or {}),
            outputs=dict(outputs or {}),
            settings=settings,
            **more,
        )

    def run(self, component: str, **more: Any) -> Any:
        """Submit a job of a pipeline component and wait for its end; the job, as the client library reads it."""
        return self.ended(self.ml.jobs.create_or_update(self.job(component, **more)).name)

    def ended(self, name: str) -> Any:
        path = f"{self.spec.arm_id}/jobs/{name}"
        until(lambda: self.azure.arm("GET", path).json()["properties"]["status"] in ENDED, f"job {name} ends")
        return self.ml.jobs.get(name)

    def steps(self, job: str) -> dict[str, dict[str, Any]]:
        """The runs of a job's steps, as the run history has them, by the steps' names."""
        path = f"/history/v1.0{self.spec.arm_id}/runs/{job}/children"
        runs = self.azure.data_plane("GET", self.spec, path).json()["value"]
        return {run["properties"]["azureml.moduleName"]: run for run in runs}

    def why(self, job: str) -> dict[str, str]:
        """What the run history says about the steps that failed."""
        failed = {name: run for name, run in self.steps(job).items() if run["status"] == "Failed"}
        return {name: run["error"]["error"]["message"] for name, run in failed.items()}

    def log(self, run: str, file: str = "user_logs/std_log.txt") -> str:
        return str(self._artifacts.download_blob(f"ExperimentRun/dcid.{run}/{file}").readall().decode())

    # Files

    def put(self, folder: str, files: Mapping[str, str]) -> Input:
        """Files in the workspace's blob store, as a folder that a job can read."""
        for name, text in files.items():
            self._blobs.upload_blob(f"{self.name}/{folder}/{name}", text.encode(), overwrite=True)
        return Input(type="uri_folder", path=f"{DATASTORE}/{self.name}/{folder}/")

    def place(self, path: str, kind: str = "uri_folder", mode: str = "upload") -> Output:
        return Output(type=kind, path=f"{DATASTORE}/{self.name}/{path}", mode=mode)

    def files(self, path: str) -> dict[str, str]:
        """What lies there, by the rest of its name: below this test's folder, or anywhere with a leading slash."""
        prefix = path[1:] if path.startswith("/") else f"{self.name}/{path}"
        names = [blob.name for blob in self._blobs.list_blobs(name_starts_with=prefix)]
        return {name[len(prefix) :].lstrip("/"): self._blobs.download_blob(name).readall().decode() for name in names}


@pytest.fixture
def work(azure: Azure, tmp_path: Path) -> BatchWorkspace:
    return BatchWorkspace(azure, DEV, tmp_path)


def until(holds: Callable[[], Found], what: str, seconds: float = 60) -> Found:
    """Look until this is something, and return it."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, f"{what}: did not happen within {seconds:.0f} s"
        time.sleep(0.05)
    return found
