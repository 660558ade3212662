"""A local Service Bus namespace, and the SDK's two kinds of clients behind one way to call them."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient as AsyncServiceBusClient

from emulator.clock import Clock
from emulator.faults import Faults
from emulator.request_log import Entry, RequestLog
from emulator.service_bus import ServiceBus
from emulator.topology import QueueSpec

T = TypeVar("T")
Kind = Literal["sync", "async"]
KEY_NAME, OTHER_KEY_NAME = "worker", "intake"
# How long a test waits for what must come: far more than it takes.
PATIENCE = 10.0


class Namespace:
    """One namespace for many tests: it and the asynchronous clients share the loop, the synchronous ones have threads.

    To close a client takes a second, so what tests open is closed together at the end, unless closing is their subject.
    """

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._names = (f"queue-{number}" for number in itertools.count(1))
        self._opened: list[tuple[Kind, Any]] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def in_time() -> T:
            async with asyncio.timeout(60):
                return await work

        return self._runner.run(in_time())

    async def start(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
        self.clock = Clock()
        self.log, self.faults = RequestLog(self.clock), Faults(self.clock)
        keys = {KEY_NAME: "c2VjcmV0", OTHER_KEY_NAME: "b3RoZXI="}
        self.service_bus = ServiceBus(clock=self.clock, log=self.log, faults=self.faults, access_keys=keys)
        await self.service_bus.start()

    async def stop(self) -> None:
        closings = (call(kind, opened.close) for kind, opened in self._opened)
        await asyncio.gather(*closings, return_exceptions=True)
        await self.service_bus.stop()

    def create_queue(self, **spec: Any) -> str:
        """A queue of its own for a test: without sessions, unless it asks for them."""
        name = next(self._names)
        self.service_bus.create_queue(QueueSpec(name, **({"requires_session": False} | spec)))
        return name

    def remember(self, kind: Kind, opened: Any) -> None:
        self._opened.append((kind, opened))

    def entries(self, queue: str, method: str | None = None) -> list[Entry]:
        return [entry for entry in self.log.since(0) if entry.path == queue and method in (None, entry.method)]


class Cable:
    """What a client is connected through, so that a test can cut it: neither side says goodbye."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()

    async def plug_in(self) -> str:
        """The connection string of this way in."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port, own = self._namespace.service_bus.port, self._server.sockets[0].getsockname()[1]
        return self._namespace.service_bus.connection_string(KEY_NAME).replace(f":{port};", f":{own};")

    async def cut(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._pipes)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._namespace.service_bus.port)
        self._writers += [writer, back]
        self._pipes |= {asyncio.ensure_future(_copy(reader, back)), asyncio.ensure_future(_copy(there, writer))}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def call(kind: Kind, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a method of the SDK: the asynchronous client's on this loop, the synchronous one's on a thread."""
    if kind == "async":
        return await method(*arguments, **named)
    return await asyncio.to_thread(method, *arguments, **named)


class Sdk:
    """The clients of one kind."""

    def __init__(self, namespace: Namespace, kind: Kind) -> None:
        self.namespace = namespace
        self.kind = kind
        self.clock, self.faults = namespace.clock, namespace.faults

    async def do(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await call(self.kind, method, *arguments, **named)

    def client(self, connection_string: str | None = None, *, key_name: str = KEY_NAME) -> Any:
        made = ServiceBusClient if self.kind == "sync" else AsyncServiceBusClient
        text = connection_string or self.namespace.service_bus.connection_string(key_name)
        return made.from_connection_string(text, retry_total=0)

    async def sender(self, queue: str, client: Any = None) -> Any:
        return await self._open((client or self.client()).get_queue_sender(queue))

    async def receiver(self, queue: str, client: Any = None, **options: Any) -> Any:
        return await self._open((client or self.client()).get_queue_receiver(queue, **options))

    async def _open(self, made: Any) -> Any:
        self.namespace.remember(self.kind, made)
        return await self.do(made.__enter__ if self.kind == "sync" else made.__aenter__)

    async def send(self, queue: str, *bodies: str, **fields: Any) -> None:
        sender = await self.sender(queue)
        await self.do(sender.send_messages, [ServiceBusMessage(body, **fields) for body in bodies])

    async def receive(self, receiver: Any, count: int = 1) -> list[Any]:
        """Exactly so many messages: the SDK answers early with fewer."""
        found: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                wanted = count - len(found)
                found += await self.do(receiver.receive_messages, max_message_count=wanted, max_wait_time=PATIENCE)
        return found

    async def receive_one(self, receiver: Any) -> Any:
        return (await self.receive(receiver))[0]

    async def peek(self, queue: str, **options: Any) -> list[Any]:
        receiver = await self.receiver(queue, **options)
        found: list[Any] = await self.do(receiver.peek_messages, max_message_count=100)
        return found


def bodies(messages: list[Any]) -> list[str]:
    return [str(message) for message in messages]


def over_the_wire(scenario: Callable[[Sdk], Coroutine[Any, Any, None]]) -> Callable[[Sdk], None]:
    """A test for pytest out of a scenario, which runs on the namespace's loop."""

    def test(sdk: Sdk) -> None:
        sdk.namespace.run(scenario(sdk))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


async def until(holds: Callable[[], bool]) -> None:
    """Let the others go on until this holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.005)


async def is_pending(awaited: Awaitable[Any]) -> bool:
    """Whether something still waits, after everything that could end its waiting had its turn."""
    done, _ = await asyncio.wait([asyncio.ensure_future(awaited)], timeout=0.2)
    return not done
