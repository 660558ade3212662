"""The data scientist's side: the real SDK, pointed at the local Azure by environment variables alone."""

import base64
import contextlib
import csv
import io
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from demo.models import Trained
from emulator.control_client import ControlClient
from emulator.launch import client_environment


class Workspaces:
    """Clients of the source and target workspaces, signed in as the data scientist."""

    def __init__(self, endpoints: Mapping[str, Any]) -> None:
        self._endpoints = endpoints
        self._clients: dict[str, Any] = {}
        os.environ.update(client_environment(endpoints))
        os.environ.pop("CURL_CA_BUNDLE", None)

    # ----------------------------------------------------------------------------------------------------- source

    def run_jobs(self, trained: Trained, control: ControlClient) -> None:
        """Let the run that trained the model have happened: training as a service is nothing that runs here."""
        workspace = self._endpoints["source"]["workspace"]
        for job in jobs_of(trained):
            control.post(f"/azure-ml/{workspace}/jobs", job)
        for job in reversed(trained.jobs):
            control.post(f"/azure-ml/{workspace}/jobs/{job['name']}/finish", {})

    def register(self, name: str, trained: Trained, tags: Mapping[str, str]) -> str:
        """Register the model in the source, as anybody would: from its run, or from a folder on this machine."""
        from azure.ai.ml.entities import Model

        model = Model(name=name, path=trained.model_path, type=trained.model_type, tags=dict(tags))
        with contextlib.redirect_stderr(io.StringIO()):  # the SDK's own progress bar
            return str(self._client(self._endpoints["source"]).models.create_or_update(model).version)

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Add tags to a registered version, as the studio does."""
        models = self._client(self._endpoints["source"]).models
        model = models.get(name, version)
        model.tags = {**model.tags, **tags}
        models.create_or_update(model)

    def tags_of(self, name: str, version: str) -> dict[str, str]:
        return dict(self._client(self._endpoints["source"]).models.get(name, version).tags)

    def add_file(self, name: str, version: str, path: str, content: bytes) -> None:
        """Put a file that was forgotten into the folder of a registered version."""
        uri = str(self._client(self._endpoints["source"]).models.get(name, version).path)
        folder = uri.partition("/paths/")[2].strip("/")
        self._container_of(self._endpoints["source"]).upload_blob(f"{folder}/{path}", content)

    # ----------------------------------------------------------------------------------------------------- target

    def ask(self, target: str, endpoint: str, request: Any) -> Any:
        """What the endpoint in the target answers to this request."""
        url, headers = self.scoring(target, endpoint)
        return post(url, request, headers)

    def scoring(self, target: str, endpoint: str) -> tuple[str, dict[str, str]]:
        """Where an endpoint is asked, and with which headers."""
        online = self._client(self._endpoints["targets"][target]).online_endpoints
        key = online.get_keys(endpoint).primary_key
        return str(online.get(endpoint).scoring_uri), {"Authorization": f"Bearer {key}"}

    def delete_deployment(self, target: str, endpoint: str, deployment: str) -> None:
        """Take the traffic off and delete a deployment, as somebody does in the studio."""
        client = self._client(self._endpoints["targets"][target])
        found = client.online_endpoints.get(endpoint)
        found.traffic = {}
        client.online_endpoints.begin_create_or_update(found).result()
        client.online_deployments.begin_delete(name=deployment, endpoint_name=endpoint).result()

    def upload(self, target: str, path: str, content: bytes) -> None:
        """Put a file to be scored into the target's default datastore."""
        self._container(target).upload_blob(path, content, overwrite=True)

    def finished_runs(self, target: str, schedule: str) -> list[Any]:
        """The jobs that the schedule has started and that have ended."""
        jobs = self._client(self._endpoints["targets"][target]).jobs.list()
        named = (job for job in jobs if str(job.display_name).startswith(f"{schedule}-2"))
        return [job for job in named if job.status in ("Completed", "Failed", "Canceled")]

    def predictions(self, target: str, folder: str) -> list[dict[str, str]]:
        """The rows of `predictions.csv` in a folder of the target's default datastore."""
        text = self._container(target).download_blob(f"{folder}predictions.csv").readall().decode()
        return list(csv.DictReader(io.StringIO(text)))

    def _container(self, target: str) -> Any:
        return self._container_of(self._endpoints["targets"][target])

    def _container_of(self, workspace: Mapping[str, str]) -> Any:
        from azure.identity import ManagedIdentityCredential
        from azure.storage.blob import ContainerClient

        datastore = self._client(workspace).datastores.get_default()
        url = f"https://{datastore.account_name}.blob.{datastore.endpoint}"
        return ContainerClient(url, datastore.container_name, ManagedIdentityCredential())

    def _client(self, workspace: Mapping[str, str]) -> Any:
        from azure.ai.ml import MLClient
        from azure.identity import ManagedIdentityCredential

        if workspace["workspace"] not in self._clients:
            self._clients[workspace["workspace"]] = MLClient(
                ManagedIdentityCredential(),
                workspace["subscription_id"],
                workspace["resource_group"],
                workspace["workspace"],
                enable_telemetry=False,
            )
        return self._clients[workspace["workspace"]]


def jobs_of(trained: Trained) -> list[dict[str, Any]]:
    """The runs behind a model with what they left, outermost first, as the control API takes them."""
    outputs = files_of(trained.run_outputs) if trained.run_outputs else {}
    return [{**job, "files": outputs if job["name"] == trained.run else {}} for job in trained.jobs]


def files_of(folder: Path, below: str = "") -> dict[str, dict[str, str]]:
    """The files of a folder as the control API takes them, `below` before their paths."""
    return {
        below + path.relative_to(folder).as_posix(): {"base64": base64.b64encode(path.read_bytes()).decode()}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def post(url: str, body: Any, headers: Mapping[str, str]) -> Any:
    """POST JSON with the requests library, which follows the proxy and the certificate of the environment."""
    import requests

    response = requests.post(url, json=body, headers=dict(headers), timeout=60)
    response.raise_for_status()
    return response.json()


class Users:
    """People who ask an endpoint, one request after the other, for as long as the block lasts; who counts the answers."""

    def __init__(self, workspaces: Workspaces, target: str, endpoint: str, request: Any) -> None:
        self._url, self._headers = workspaces.scoring(target, endpoint)
        self._request = request
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = self.failed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        import requests

        with requests.Session() as session:
            while not self._stop.is_set():
                answer = session.post(self._url, json=self._request, headers=self._headers, timeout=60)
                self.answered += answer.ok
                self.failed += not answer.ok


class Operations:
    """The function app's HTTP API."""

    def __init__(self, endpoints: Mapping[str, Any]) -> None:
        self._url = endpoints["functions_url"]
        self._key = endpoints["function_key"]
        self._master_key = endpoints["master_key"]

    def promotion_of(self, model: str, version: str, target: str | None = None) -> dict[str, Any] | None:
        """The promotion of this model version, once it exists."""
        rows = self.get(f"promotions?model={model}&version={version}")["promotions"]
        return next((row for row in rows if target in (None, row["target"])), None)

    def promotion(self, promotion_id: str) -> dict[str, Any]:
        """A promotion with its steps."""
        return self.get(f"promotions/{promotion_id}")

    def events_of(self, model: str, version: str) -> list[dict[str, Any]]:
        """The newest first."""
        events: list[dict[str, Any]] = self.get(f"events?model={model}&version={version}")["events"]
        return events

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._call("GET", path))
        return found

    def text(self, path: str) -> str:
        """What is also there for people to read."""
        return self._call("GET", path, {"Accept": "text/plain"}).decode()

    def run_timer(self) -> None:
        """Run the timer's function now, by the admin API of the Functions host: nobody wants to wait for it here."""
        headers = {"x-functions-key": self._master_key, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/admin/functions/reconcile", b"{}", headers)  # noqa: S310
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310

    def order(self, path: str, body: Mapping[str, Any], *, identity: str | None = None) -> dict[str, Any]:
        """Ask for something. Raises OSError if it is not accepted; the text is the service's."""
        signed_in = {"X-MS-CLIENT-PRINCIPAL": identity} if identity else {}
        found: dict[str, Any] = json.loads(self._call("POST", path, signed_in, json.dumps(body).encode()))
        return found

    def _call(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        sent = {"x-functions-key": self._key, **(headers or {})}
        request = urllib.request.Request(f"{self._url}/api/{path}", body, sent, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise OSError(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error
