"""The function app under the local Azure: the host as a process that can be killed and started again."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from emulator.handed_out import remembered
from emulator.processes import ChildProcess, spawn

REPOSITORY = Path(__file__).parent.parent
START_SECONDS = 60.0
LOOK_SECONDS = 0.02
# Longer than the host gives its own functions to finish.
STOP_SECONDS = 35.0
# What a child may inherit: enough to run Python; proxies, certificates and credentials are set explicitly.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "OPENBLAS_CORETYPE")


class FunctionAppFailedError(RuntimeError):
    """The app could not be started; the text is what the host said."""


@dataclass(frozen=True)
class Ready:
    """The host's own account of itself."""

    url: str
    keys: Mapping[str, str]
    functions: tuple[str, ...]


class HostProcess:
    """A host that a placeholder has forked: it lives as long as the connection to it."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._writer = writer
        self._ended = asyncio.ensure_future(reader.read())

    @property
    def is_running(self) -> bool:
        return not self._ended.done()

    async def stop(self) -> None:
        """Let running functions finish, then end it."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), STOP_SECONDS)
        except TimeoutError:
            await self.kill()
        self._writer.close()

    async def kill(self) -> None:
        """SIGKILL to its whole group; nothing of it runs on."""
        self._signal(signal.SIGKILL)
        await self._ended
        self._writer.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class FunctionApp:
    """Runs the folder `app` with these settings. Keys and port are kept over restarts, as in Azure."""

    def __init__(
        self, *, app: Path, settings: Mapping[str, str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self._app = app
        self._values = dict(settings)
        self._environment = dict(environment)
        self._settings_file = directory / "function-app.settings.json"
        self._ready_file = directory / "function-app.ready.json"
        self.log = directory / "function-app.log"
        self._placeholder: ChildProcess | None = None
        self._sockets: Path | None = None
        self._process: HostProcess | None = None
        self.ready: Ready | None = None

    async def start(self, settings: Mapping[str, str] | None = None) -> Ready:
        """Start the host; its URL and keys once its triggers run. Raises FunctionAppFailedError.

        `settings` are for this start only, on top of those that it always has.
        """
        self._ready_file.unlink(missing_ok=True)
        keys = {"Keys": dict(self.ready.keys)} if self.ready else {}
        self._settings_file.touch(mode=0o600)
        self._settings_file.write_text(json.dumps({"Values": self._values | dict(settings or {}), "Host": keys}))
        port = self.ready.url.rpartition(":")[2] if self.ready else "0"
        arguments = ["--app", str(self._app), "--port", port]
        arguments += ["--settings", str(self._settings_file), "--ready-file", str(self._ready_file)]
        began = self.log.stat().st_size if self.log.exists() else 0
        self._process = await self._fork(arguments, began)
        self.ready = await self._wait_until_ready(self._process, began)
        for key in self.ready.keys.values():
            remembered(key)
        return self.ready

    async def stop(self) -> None:
        """Let running functions finish, then end the host; its keys do not stay behind."""
        if self._process:
            await self._process.stop()
        if self._placeholder:
            await self._placeholder.stop()
        self._forget_sockets()
        for secret in (self._settings_file, self._ready_file):
            secret.unlink(missing_ok=True)

    async def kill(self) -> None:
        """SIGKILL: nothing of the host runs on."""
        if self._process:
            await self._process.kill()

    def _forget_sockets(self) -> None:
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def _fork(self, arguments: list[str], began: int) -> HostProcess:
        """Have the placeholder become a host; one that has gone is replaced."""
        if self._placeholder is None or self._sockets is None or not self._placeholder.is_running:
            self._forget_sockets()
            # Paths of sockets are short; that of the local Azure may not be.
            self._sockets = Path(tempfile.mkdtemp(prefix="host-"))
            command = [sys.executable, "-m", "emulator.functions_host.placeholder", str(self._sockets / "socket")]
            environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | self._environment
            environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
            self._placeholder = await spawn(
                "placeholder", command, environment=environment, log=self.log, directory=self._app
            )
        path = self._sockets / "socket"
        await self._wait_for(path.exists, self._placeholder, began)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(json.dumps(arguments).encode() + b"\n")
        return HostProcess(int(await reader.readline()), reader, writer)

    async def _wait_until_ready(self, process: HostProcess, began: int) -> Ready:
        await self._wait_for(self._ready_file.exists, process, began)
        content = json.loads(self._ready_file.read_text())
        return Ready(content["url"], content["keys"], tuple(content["functions"]))

    async def _wait_for(self, done: Callable[[], bool], process: HostProcess | ChildProcess, began: int) -> None:
        """Until it is done. Raises FunctionAppFailedError if the process ends instead, or takes too long."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not done():
                    if not process.is_running:
                        raise FunctionAppFailedError(self._said_since(began))
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise FunctionAppFailedError(f"not ready after {START_SECONDS:.0f} s: see {self.log}") from None

    def _said_since(self, began: int) -> str:
        return self.log.read_bytes()[began:].decode(errors="replace").strip()

    # ------------------------------------------------------------------------------------------------------ control

    def control_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/function-app", self._show),
            web.post("/function-app/kill", self._kill),
            web.post("/function-app/start", self._start),
        ]

    def as_json(self) -> dict[str, Any]:
        process = self._process
        return {
            "running": process is not None and process.is_running,
            "pid": process.pid if process else None,
            "functions": list(self.ready.functions) if self.ready else [],
            "log": str(self.log),
        }

    async def _show(self, _: web.Request) -> web.Response:
        """Whether the host runs, its process id, its functions and its log file."""
        return web.json_response(self.as_json())

    async def _kill(self, request: web.Request) -> web.Response:
        """SIGKILL the host."""
        await self.kill()
        return await self._show(request)

    async def _start(self, request: web.Request) -> web.Response:
        """Start the host again, on the same port and with the same keys; answers when its triggers run."""
        content = json.loads(await request.read() or b"{}")
        await self.start({str(name): str(value) for name, value in (content.get("settings") or {}).items()})
        return await self._show(request)
