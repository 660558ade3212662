"""The way in, alone: gateway, identity provider, storage and control API on a thread, and the clients that enter by it."""

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import requests
from aiohttp import web
from azure.identity import ManagedIdentityCredential

from emulator.certificates import CertificateAuthority
from emulator.clock import Clock
from emulator.control import Control
from emulator.control_client import ControlClient
from emulator.faults import Faults
from emulator.gateway import Gateway
from emulator.identity import IdentityProvider
from emulator.mounts import Mount
from emulator.request_log import Entry, RequestLog
from emulator.storage import Storage
from emulator.topology import DATA_SCIENTIST, Identity

ACCOUNTS = ("stsource", "sttarget")
ECHO = "https://echo.test"
AUDIENCE = "https://echo.test"


class Front:
    """What is started, on the loop on which this is made; `control` and `session` are for the tests' own thread."""

    def __init__(self, directory: Path) -> None:
        clock = Clock()
        self.log, self.faults = RequestLog(clock), Faults(clock)
        self.ca = CertificateAuthority(directory)
        self.identities = IdentityProvider([DATA_SCIENTIST], log=self.log, faults=self.faults)
        self.gateway = Gateway(log=self.log, faults=self.faults, identities=self.identities, ca=self.ca)
        self.storage = Storage(
            accounts=ACCOUNTS, directory=directory, ca=self.ca, clock=clock, identities=self.identities
        )
        self.api = Control(clock=clock, log=self.log, faults=self.faults)
        self.gateway.mount(self.storage.mounts())
        self.gateway.mount(
            [
                Mount("echo", re.compile(r"echo\.test"), _echo, (AUDIENCE,)),
                Mount("open", re.compile(r"open\.test"), _echo),
            ]
        )
        self.api.add_routes(self.storage.control_routes())
        self._parts = (self.identities, self.storage, self.gateway, self.api)

    async def start(self) -> None:
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        for part in reversed(self._parts):
            await part.stop()

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.api.control_url)

    def token(self, resource: str = AUDIENCE) -> str:
        token: str = ManagedIdentityCredential().get_token(f"{resource}/.default").token
        return token

    def last_number(self) -> int:
        return max((entry["number"] for entry in self.control.requests()), default=0)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Look again whenever a request arrives or a moment has passed, until this holds."""
        ends = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < ends, "did not happen within 30 s"
            self.control.requests(self.last_number(), wait=0.02)

    def last(self, service: str) -> dict[str, Any]:
        """The newest log entry of this service."""
        return self.control.requests(service=service)[-1]


async def _echo(request: web.Request, caller: Identity | None, _: Entry) -> web.Response:
    """Answers with who called and how long the body was; fails at /broken."""
    if request.path == "/broken":
        raise RuntimeError("a defect in a service")
    length = 0
    async for chunk in request.content.iter_chunked(64 * 1024):
        length += len(chunk)
    return web.json_response({"caller": caller.name if caller else None, "length": length, "path": request.path})


Result = TypeVar("Result")


class Startable(Protocol):
    """What runs on an event loop between `start` and `stop`."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


Service = TypeVar("Service", bound=Startable)


@contextlib.contextmanager
def on_a_thread(make: Callable[[], Service]) -> Iterator[Service]:
    """What `make` makes, started on the event loop of a thread of its own; stopped when the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local Azure", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, loop).result(90)

    async def made() -> Service:
        return make()

    try:
        service = run(made())
        try:
            run(service.start())
            yield service
        finally:
            run(service.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def _front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("front")
    with on_a_thread(lambda: Front(directory)) as front:
        yield front


@pytest.fixture
def front(_front: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The way in; this process's environment is that of a client of it, and faults last for one test."""
    for name in ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    environment = _front.identities.environment(DATA_SCIENTIST) | {
        "HTTPS_PROXY": _front.gateway.proxy_url,
        "NO_PROXY": "127.0.0.1,localhost",
        "REQUESTS_CA_BUNDLE": str(_front.ca.ca_bundle),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logging.getLogger("azure").setLevel(logging.ERROR)
    yield _front
    _front.control.clear_faults()
    _front.control.post("/storage/copies", {"pending_seconds": None})


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A plain HTTP client that goes by the environment."""
    with requests.Session() as session:
        yield session
