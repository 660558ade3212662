"""A local Service Bus namespace in a thread of the test process, as the tests of the host's listener need it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from azure.servicebus import ServiceBusClient, ServiceBusMessage

from emulator.clock import Clock
from emulator.faults import Faults
from emulator.request_log import Entry, RequestLog
from emulator.service_bus import ServiceBus
from emulator.topology import QueueSpec

T = TypeVar("T")
KEY_NAME = "tests"


class Namespace:
    """Queues, the clock that their locks obey, and the log of what the host did to them.

    Clients connect through a forwarder with a port that stays: `go_down` and `come_up` are an outage.
    """

    def __init__(self, lock_duration: float = 60.0) -> None:
        self._lock_duration = lock_duration
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._port = 0
        self.on_loop(self._start())

    async def _start(self) -> None:
        self.clock = Clock()
        self.log = RequestLog(self.clock)
        self.service_bus = ServiceBus(
            clock=self.clock, log=self.log, faults=Faults(self.clock), access_keys={KEY_NAME: "c2VjcmV0"}
        )
        self.service_bus.create_queue(QueueSpec("sessions", lock_duration=self._lock_duration))
        for name in ("plain", "batch"):
            self.service_bus.create_queue(QueueSpec(name, requires_session=False))
        await self.service_bus.start()
        await self._listen()

    async def _listen(self) -> None:
        self._connections: set[asyncio.StreamWriter] = set()
        self._forwarder = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._forwarder.sockets[0].getsockname()[1]

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.service_bus.port)
        self._connections |= {writer, back}
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
        self._connections -= {writer, back}

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    @property
    def connection_string(self) -> str:
        given = self.service_bus.connection_string(KEY_NAME)
        return given.replace(f":{self.service_bus.port};", f":{self._port};")

    def advance(self, seconds: float) -> None:
        self._loop.call_soon_threadsafe(self.clock.advance, seconds)

    def go_down(self) -> None:
        async def close() -> None:
            self._forwarder.close()
            for writer in self._connections:
                writer.transport.abort()

        self.on_loop(close())

    def come_up(self) -> None:
        self.on_loop(self._listen())

    def send(self, queue: str, *orders: dict[str, Any] | str, session: str | None = None, **more: Any) -> None:
        with (
            ServiceBusClient.from_connection_string(self.connection_string, retry_total=0) as client,
            client.get_queue_sender(queue) as sender,
        ):
            bodies = [order if isinstance(order, str) else json.dumps(order) for order in orders]
            sender.send_messages([ServiceBusMessage(body, session_id=session, **more) for body in bodies])

    def entries(self, method: str, queue: str = "sessions") -> list[Entry]:
        return [entry for entry in self.log.since(0) if entry.method == method and entry.path.strip("/") == queue]

    def wait_for(self, method: str, count: int = 1, queue: str = "sessions") -> None:
        until(lambda: len(self.entries(method, queue)) >= count, lambda: f"{method}: {self.entries(method, queue)}")

    def stop(self) -> None:
        self.go_down()
        self.on_loop(self.service_bus.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def until(condition: Callable[[], bool], state: Callable[[], str], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, state()
        time.sleep(0.01)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
