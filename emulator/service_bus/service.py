"""The namespace: queues, a listener, and one task for everything that falls due."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from emulator.clock import Clock
from emulator.faults import Faults
from emulator.request_log import RequestLog
from emulator.service_bus.broker import Queue
from emulator.service_bus.connection import Connection
from emulator.service_bus.control import control_routes
from emulator.service_bus.operations import Operations
from emulator.service_bus.timers import Timers
from emulator.topology import QueueSpec

DEAD_LETTER = "/$deadletterqueue"


class ServiceBus:
    """A namespace for the unmodified SDK, by connection string with `UseDevelopmentEmulator=true`."""

    def __init__(self, *, clock: Clock, log: RequestLog, faults: Faults, access_keys: Mapping[str, str]) -> None:
        self._clock = clock
        self.access_keys = access_keys
        self.operations = Operations(log, faults, lambda: f"127.0.0.1:{self.port}")
        self.queues: dict[str, Queue] = {}
        self._sooner = asyncio.Event()
        self.timers = Timers(clock.now, self._sooner.set)
        self._timer: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def create_queue(self, spec: QueueSpec) -> None:
        self.queues[spec.name.lower()] = Queue(spec, self.timers)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self._timer = asyncio.create_task(self._run_timers())

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for task in [*self._connections, *([self._timer] if self._timer else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def port(self) -> int:
        assert self._server is not None  # noqa: S101 - known once started
        return int(self._server.sockets[0].getsockname()[1])

    def connection_string(self, key_name: str) -> str:
        key = self.access_keys[key_name]
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName={key_name};SharedAccessKey={key};"
            "UseDevelopmentEmulator=true;"
        )

    def control_routes(self) -> list[web.RouteDef]:
        return control_routes(self.queues)

    def queue_at(self, path: str) -> Queue | None:
        """The queue or dead-letter queue with this path, which is in lower case."""
        queue = self.queues.get(path.removesuffix(DEAD_LETTER))
        return queue.dead_letters if queue is not None and path.endswith(DEAD_LETTER) else queue

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs us as a task
        self._connections.add(task)
        try:
            await Connection(self, reader, writer).serve()
        finally:
            self._connections.discard(task)

    async def _run_timers(self) -> None:
        """Call back what is due; then wait for the next moment, or for one that comes before it."""
        while True:
            self._sooner.clear()
            self.timers.run()
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._sooner.wait())]
            if moment := self.timers.next_moment:
                waits.append(asyncio.ensure_future(self._clock.wait_until(moment)))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
