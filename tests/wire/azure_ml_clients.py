"""Azure ML alone, behind the real gateway, identity provider and storage, and the clients with which tests call it."""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.identity import ManagedIdentityCredential

from emulator.azure_ml import AzureML
from emulator.azure_monitor import AzureMonitor
from emulator.certificates import CertificateAuthority
from emulator.clock import Clock
from emulator.control import Control
from emulator.faults import Faults
from emulator.gateway import Gateway
from emulator.identity import IdentityProvider
from emulator.request_log import RequestLog
from emulator.storage import Storage
from emulator.topology import DATA_SCIENTIST, Topology, WorkspaceSpec
from tests.wire.conftest import on_a_thread

ARM = "https://management.azure.com"


class Emulator:
    """Everything that Azure ML needs, on the loop on which this is made. `events` are those that it raised."""

    def __init__(self, directory: Path) -> None:
        topology, clock = Topology(), Clock()
        log, faults = RequestLog(clock), Faults(clock)
        self.events: list[dict[str, Any]] = []
        self.ca = CertificateAuthority(directory)
        self.identities = IdentityProvider(topology.identities)
        self.gateway = Gateway(log=log, faults=faults, identities=self.identities, ca=self.ca)
        self.control = Control(clock=clock, log=log, faults=faults)
        self._storage = Storage(
            accounts=topology.storage_accounts, directory=directory, ca=self.ca, clock=clock, identities=self.identities
        )
        self._monitor = AzureMonitor()
        self._azure_ml = AzureML(
            topology=topology,
            clock=clock,
            log=log,
            faults=faults,
            storage=self._storage,
            directory=directory,
            publish=self._publish,
            monitor=self._monitor,
            verify_token=self.identities.verify,
            environment_cache=directory / "environments",
        )
        self.gateway.mount([*self._storage.mounts(), *self._azure_ml.mounts(), *self._monitor.mounts()])
        self.control.add_routes(self._azure_ml.control_routes())
        self._parts = (self.identities, self._storage, self._azure_ml, self.gateway, self.control)

    async def _publish(self, topic: str, event: dict[str, Any]) -> None:
        self.events.append({"topic": topic} | event)

    async def start(self) -> None:
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        for part in reversed(self._parts):
            await part.stop()


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Azure"]:
    """Azure ML on a thread of its own; this process's environment is that of a client."""
    directory = tmp_path_factory.mktemp("azure")
    with on_a_thread(lambda: Emulator(directory)) as emulator, pytest.MonkeyPatch.context() as environment:
        environment.setenv("HTTPS_PROXY", emulator.gateway.proxy_url)
        environment.setenv("NO_PROXY", "127.0.0.1,localhost")
        environment.setenv("REQUESTS_CA_BUNDLE", str(emulator.ca.ca_bundle))
        for name, value in emulator.identities.environment(DATA_SCIENTIST).items():
            environment.setenv(name, value)
        yield Azure(emulator)


@pytest.fixture
def outcomes(azure: "Azure") -> Iterator[Callable[..., dict[str, Any]]]:
    """Plant outcomes of operations and jobs; they are lifted again after the test."""
    yield lambda **outcome: azure.control("POST", "/azure-ml/outcomes", outcome)
    azure.control("DELETE", "/azure-ml/outcomes")


class Azure:
    """What a test can do."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._direct = requests.Session()
        self._direct.trust_env = False
        self._proxied = requests.Session()
        self._credential = ManagedIdentityCredential()

    def events(self) -> list[dict[str, Any]]:
        """The events that the workspaces have raised so far."""
        return list(self._emulator.events)

    def client(self, spec: WorkspaceSpec) -> MLClient:
        return MLClient(
            self._credential,
            spec.subscription_id,
            spec.resource_group,
            spec.name,
            enable_telemetry=False,
            retry_total=0,
        )

    def arm(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._ask(method, f"{ARM}{path}", f"{ARM}/.default", **options)

    def data_plane(self, method: str, spec: WorkspaceSpec, path: str) -> requests.Response:
        url = f"https://{spec.location}.api.azureml.ms{path}"
        return self._ask(method, url, "https://ml.azure.com/.default")

    def new_endpoint(self, spec: WorkspaceSpec, auth_mode: str = "Key") -> str:
        """Create an online endpoint without the seconds between the polls of a client. Returns its name."""
        name = f"t{uuid.uuid4().hex[:10]}"
        body = {"location": spec.location, "properties": {"authMode": auth_mode}}
        assert (
            self.finished(self.arm("PUT", f"{spec.arm_id}/onlineEndpoints/{name}", json=body))["status"] == "Succeeded"
        )
        return name

    def token(self, scope: str) -> str:
        return str(self._credential.get_token(scope).token)

    def score(
        self, url: str, key: str | None, body: Any, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> requests.Response:
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        return self._proxied.request(method, url, json=body, headers=(headers or {}) | authorization, timeout=30)

    def finished(self, answer: requests.Response) -> dict[str, Any]:
        """Wait for the end of an operation: its status, and its error if it has one."""
        url = answer.headers["Azure-AsyncOperation"].removeprefix(ARM)
        deadline = time.monotonic() + 60
        while (status := self.arm("GET", url).json())["status"] == "InProgress":
            assert time.monotonic() < deadline, f"the operation has not ended: {status}"
            time.sleep(0.05)
        return {key: status[key] for key in ("status", "error") if key in status}

    def control_answer(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self._direct.request(method, f"{self._emulator.control.control_url}{path}", json=body, timeout=30)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.control_answer(method, path, body)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def _ask(self, method: str, url: str, scope: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token(scope)}"}
        return self._proxied.request(method, url, headers=headers, timeout=30, **options)
