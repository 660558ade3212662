"""Inference servers as the rest of the local Azure sees them: launched, probed, watched, stopped."""

import asyncio
import contextlib
import itertools
import json
import os
from asyncio.subprocess import PIPE, Process
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

REPOSITORY = Path(__file__).resolve().parents[2]
# The Python of the serving image: an environment with exactly requirements-serving.txt.
IMAGE_PYTHON = REPOSITORY / ".venv-serving" / "bin" / "python"
STOP_SECONDS = 5.0
# Each start keeps a core busy; more at once only makes all of them late.
STARTS_AT_ONCE = os.cpu_count() or 2


class ServerFailed(Exception):
    """The server's process ended instead of becoming live: its script or its model cannot be loaded."""


@dataclass(frozen=True)
class ServerSpec:
    """What one server runs: an entry script in a directory, with a model directory and an environment.

    `python` is the interpreter of a Python environment built for it; None means the serving image itself, of which the
    modules in `absent` are not to be found.
    """

    entry_script: Path
    directory: Path
    model_directory: Path
    log: Path
    environment: dict[str, str]
    python: Path | None = None
    absent: tuple[str, ...] = ()


class InferenceServer:
    """A server that has been started. `exited` is set to its exit code once it has ended."""

    def __init__(self, servers: "InferenceServers", name: str, log: Path) -> None:
        self._servers = servers
        self._name = name
        self.log = log
        self.port = 0
        self.process = 0
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def alive(self) -> bool:
        return self.started.done() and not self.exited.done()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def stop(self) -> None:
        """End the server: requests in flight may finish within a few seconds."""
        for order in ("stop", "kill"):
            if self.exited.done():
                return
            self._servers.order(order, self._name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.exited), STOP_SECONDS)


class InferenceServers:
    """All servers of one local Azure, behind one host process in the serving image."""

    def __init__(self, *, directory: Path, python: Path = IMAGE_PYTHON) -> None:
        self._directory = directory
        self._python = python
        self._names = itertools.count(1)
        self._servers: dict[str, InferenceServer] = {}
        self._host: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(self) -> None:
        """Start the host process; it goes on importing in the background."""
        if not self._python.exists():
            raise FileNotFoundError(f"there is no serving image at {self._python}: run `make setup` to create it")
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "image-host.log").open("ab") as log:
            self._host = await asyncio.create_subprocess_exec(
                str(self._python), "-P", str(Path(__file__).with_name("image_host.py")),
                stdin=PIPE, stdout=PIPE, stderr=log, env=self._environment(), start_new_session=True,
            )  # fmt: skip
        if self._host.stdout:
            self._reader = asyncio.create_task(self._read_reports(self._host.stdout))

    async def stop(self) -> None:
        """End every server and the host process."""
        if self._host and self._host.stdin:
            self._host.stdin.close()
            # It may be importing still, which takes seconds, and would see only then that its orders have ended. Servers
            # end with it in any case.
            with contextlib.suppress(ProcessLookupError):
                self._host.terminate()
            await self._host.wait()
        if self._reader:
            await self._reader

    async def launch(self, spec: ServerSpec) -> InferenceServer:
        """Start a server and return once its liveness probe answers. Raises `ServerFailed` if it ends instead."""
        async with self._starts:
            name = str(next(self._names))
            server = self._servers[name] = InferenceServer(self, name, spec.log)
            self.order(
                "start",
                name,
                entry_script=str(spec.entry_script),
                directory=str(spec.directory),
                log=str(spec.log),
                python=str(spec.python) if spec.python else None,
                absent=spec.absent,
                environment=self._environment()
                | {"HOME": str(spec.directory), "AML_APP_ROOT": str(spec.directory)}
                | spec.environment
                | {"AZUREML_MODEL_DIR": str(spec.model_directory)},
            )
            try:
                await self._live(server)
            except BaseException:
                await server.stop()
                raise
            return server

    def order(self, order: str, name: str, **details: Any) -> None:
        if self._host is None or self._host.stdin is None or self._host.returncode is not None:
            raise RuntimeError(f"the serving image's host process is not running: see {self._directory}/image-host.log")
        self._host.stdin.write(json.dumps({"order": order, "name": name, **details}).encode() + b"\n")

    async def _live(self, server: InferenceServer) -> None:
        probe = asyncio.ensure_future(self._probe(server))
        ends: list[asyncio.Future[Any]] = [probe, server.exited]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if server.exited.done():
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
            raise ServerFailed(f"the inference server ended with code {server.exited.result()}")
        await probe

    async def _probe(self, server: InferenceServer) -> None:
        """Ask the liveness route until it answers; the socket listens from the start, so one try mostly waits."""
        await server.started
        async with aiohttp.ClientSession(trust_env=False) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(server.url("/")) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.02)

    async def _read_reports(self, reports: asyncio.StreamReader) -> None:
        async for line in reports:
            report = json.loads(line)
            if name := report.get("started"):
                server = self._servers[name]
                server.port, server.process = report["port"], report["process"]
                server.started.set_result(None)
            elif server_or_none := self._servers.pop(report["exited"], None):
                server_or_none.exited.set_result(report["code"])
        for server in self._servers.values():
            server.exited.set_result(-1)
        self._servers.clear()

    @staticmethod
    def _environment() -> dict[str, str]:
        """What every process of the image gets. Nothing of ours leaks in: no proxy, no credential, no CA bundle."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "TMPDIR") if name in os.environ}
        return kept | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def tail(log: Path, lines: int) -> str:
    """The last `lines` lines of a log; nothing if there is none yet."""
    if not log.exists():
        return ""
    with log.open(encoding="utf-8", errors="replace") as text:
        return "".join(deque(text, maxlen=lines))
