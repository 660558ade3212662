"""The namespace: queues, a listener, one timer for everything that is due, and the control routes."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from aiohttp import web

from emulator.clock import Clock
from emulator.faults import Fault, Faults, Phase
from emulator.request_log import Entry, RequestLog
from emulator.service_bus.broker import ACTIVE, DEFERRED, SCHEDULED, Message, Queue
from emulator.service_bus.codec import DATA
from emulator.service_bus.connection import Connection
from emulator.topology import QueueSpec

DEAD_LETTER = "/$deadletterqueue"
BODY_SHOWN = 4000


class ServiceBus:
    """A namespace for the unmodified SDK, by connection string with `UseDevelopmentEmulator=true`."""

    def __init__(self, *, clock: Clock, log: RequestLog, faults: Faults, access_keys: Mapping[str, str]) -> None:
        self._clock = clock
        self._log = log
        self._faults = faults
        self.access_keys = access_keys
        self._queues: dict[str, Queue] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._due: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._sooner = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None

    def create_queue(self, spec: QueueSpec) -> None:
        self._queues[spec.name.lower()] = Queue(spec, now=self._clock.now, at=self.at)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self._timer = asyncio.create_task(self._run_timer())

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs us as a task
        self._connections.add(task)
        try:
            await Connection(self, reader, writer).serve()
        finally:
            self._connections.discard(task)

    # ------------------------------------------------------------------------------------- for connections and queues

    def queue_at(self, address: str) -> Queue | None:
        address = address.lower()
        if address.endswith(DEAD_LETTER):
            queue = self._queues.get(address.removesuffix(DEAD_LETTER))
            return queue.dead_letters if queue else None
        return self._queues.get(address)

    def queue_name(self, queue: Queue) -> str:
        return queue.spec.name if queue.dead_letters is not None else f"{queue.spec.name}/$DeadLetterQueue"

    def begin_entry(self, method: str, queue: Queue, principal: str | None, detail: dict[str, Any]) -> Entry:
        host, path = f"127.0.0.1:{self.port}", self.queue_name(queue)
        return self._log.begin(
            service="service_bus", method=method, host=host, path=path, principal=principal, detail=detail
        )

    async def meet(self, entry: Entry, phase: Phase) -> Fault | None:
        return await self._faults.meet(entry, phase)

    def now(self) -> datetime:
        return self._clock.now()

    def at(self, moment: datetime, callback: Callable[[], None]) -> None:
        is_sooner = not self._due or moment < self._due[0][0]
        heapq.heappush(self._due, (moment, next(self._numbers), callback))
        if is_sooner:
            self._sooner.set()

    async def _run_timer(self) -> None:
        """Call back what is due, in order; wait for the next moment, or for one that comes before it."""
        while True:
            while self._due and self._due[0][0] <= self._clock.now():
                heapq.heappop(self._due)[2]()
            self._sooner.clear()
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._sooner.wait())]
            if self._due:
                waits.append(asyncio.ensure_future(self._clock.wait_until(self._due[0][0])))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    # ------------------------------------------------------------------------------------------------------- control

    def control_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/service-bus/queues", self._list_queues),
            web.get("/service-bus/queues/{name}/messages", self._list_messages),
            web.delete("/service-bus/queues/{name}/messages", self._purge),
        ]

    async def _list_queues(self, _: web.Request) -> web.Response:
        """For each queue: how many messages are active, scheduled, deferred, in flight, dead-lettered; locked sessions."""
        found = {queue.spec.name: _counts(queue) for queue in self._queues.values()}
        return web.json_response({"queues": found})

    async def _list_messages(self, request: web.Request) -> web.Response:
        """The messages of a queue, or with `sub_queue=dead_letter` of its dead-letter queue."""
        return web.json_response({"messages": [_shown(message) for message in self._chosen(request)]})

    async def _purge(self, request: web.Request) -> web.Response:
        """Remove all of them."""
        return web.json_response({"purged": self._chosen(request).purge()})

    def _chosen(self, request: web.Request) -> Queue:
        queue = self._queues.get(request.match_info["name"].lower())
        if queue is None:
            raise web.HTTPNotFound(text=f"there is no queue {request.match_info['name']}")
        if request.query.get("sub_queue") == "dead_letter" and queue.dead_letters is not None:
            return queue.dead_letters
        return queue


def _counts(queue: Queue) -> dict[str, Any]:
    states = [message.state for message in queue]
    return {
        "active": states.count(ACTIVE),
        "scheduled": states.count(SCHEDULED),
        "deferred": states.count(DEFERRED),
        "in_flight": sum(message.lock is not None for message in queue),
        "dead_letter": len(list(queue.dead_letters or ())),
        "locked_sessions": queue.locked_sessions(),
    }


def _shown(message: Message) -> dict[str, Any]:
    body = message.section(DATA)
    return {
        "sequence_number": message.sequence,
        "message_id": str(message.message_id),
        "session_id": message.session_id,
        "state": {ACTIVE: "active", DEFERRED: "deferred", SCHEDULED: "scheduled"}[message.state],
        "delivery_count": message.delivery_count,
        "enqueued_at": message.enqueued_at.isoformat(),
        "scheduled_for": message.scheduled_for.isoformat() if message.scheduled_for else None,
        "dead_letter_reason": message.dead_letter.get("DeadLetterReason"),
        "dead_letter_description": message.dead_letter.get("DeadLetterErrorDescription"),
        "body": body.decode(errors="replace")[:BODY_SHOWN] if isinstance(body, bytes) else None,
    }
