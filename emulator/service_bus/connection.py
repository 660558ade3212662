"""One client's connection: SASL, open, and the AMQP sessions inside it."""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from emulator.service_bus.authorization import covers, entity_path, signer
from emulator.service_bus.broker import Queue
from emulator.service_bus.channel import Channel
from emulator.service_bus.codec import MalformedFrameError, Symbol, UByte, UInt, UShort
from emulator.service_bus.frames import (
    AMQP_HEADER,
    BEGIN,
    CLOSE,
    END,
    MAX_FRAME_SIZE,
    OPEN,
    SASL_HEADER,
    SASL_INIT,
    SASL_MECHANISMS,
    SASL_OUTCOME,
    SASL_TYPE,
    Frame,
    error,
    frame,
    read_frame,
)
from emulator.service_bus.operations import DroppedError, Operations

if TYPE_CHECKING:
    from emulator.service_bus.service import ServiceBus

log = logging.getLogger(__name__)

SMALLEST_MAX_FRAME_SIZE = 512
LARGEST_CHANNEL = 65535


class Connection:
    """Serves one TCP connection until it ends. The client leaves in good order if it says so before the end."""

    def __init__(self, namespace: "ServiceBus", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.namespace = namespace
        self.max_frame_size = SMALLEST_MAX_FRAME_SIZE
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._writer = writer
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._channels: dict[int, Channel] = {}
        self._granted: dict[str, str] = {}
        self._closed = False
        self._aborted = False

    @property
    def operations(self) -> Operations:
        return self.namespace.operations

    # ------------------------------------------------------------------------------------------------------- frames

    async def serve(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            while not self._closed and (received := await self._frames.get()):
                self.namespace.timers.run()
                try:
                    await self._on_frame(received)
                except DroppedError:
                    # A client that went on its own may have said good-bye after the request that is lost.
                    if self._aborted:
                        break
                await self._writer.drain()
        except ConnectionError:
            pass
        except MalformedFrameError as malformed:
            log.warning("a client sent what is no AMQP: %s", malformed)
            self.send(0, CLOSE, [error("amqp:decode-error", str(malformed))])
        finally:
            reading.cancel()
            for channel in self._channels.values():
                channel.end(cleanly=self._closed)
            self._writer.close()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    async def _read(self) -> None:
        """Read ahead, so that the end of the connection is noticed while a request waits in a fault."""
        try:
            await self._negotiate()
            while True:
                self._frames.put_nowait(await read_frame(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except MalformedFrameError as malformed:
            log.warning("a client sent what is no AMQP: %s", malformed)
        finally:
            self._frames.put_nowait(None)
            if not self.gone.done():
                self.gone.set_result(None)

    async def _negotiate(self) -> None:
        header = await self._reader.readexactly(8)
        if header != SASL_HEADER:
            self._writer.write(SASL_HEADER)
            raise MalformedFrameError(f"expected SASL, got {header!r}")
        mechanisms = [Symbol("ANONYMOUS"), Symbol("MSSBCBS")]
        self._writer.write(SASL_HEADER + frame(0, SASL_MECHANISMS, [mechanisms], kind=SASL_TYPE))
        if (await read_frame(self._reader)).code != SASL_INIT:
            raise MalformedFrameError("expected sasl-init")
        self._writer.write(frame(0, SASL_OUTCOME, [UByte(0)], kind=SASL_TYPE))
        if await self._reader.readexactly(8) != AMQP_HEADER:
            raise MalformedFrameError("expected AMQP 1.0")
        self._writer.write(AMQP_HEADER)

    async def _on_frame(self, received: Frame) -> None:
        number = received.channel
        if received.code == OPEN:
            self.max_frame_size = max(SMALLEST_MAX_FRAME_SIZE, int(received.field(2, MAX_FRAME_SIZE)))
            fields = ["local-service-bus", "127.0.0.1", UInt(MAX_FRAME_SIZE), UShort(LARGEST_CHANNEL)]
            self.send(0, OPEN, fields)
        elif received.code == BEGIN:
            channel = self._channels[number] = Channel(self, number, received)
            channel.begin()
        elif received.code == CLOSE:
            self._closed = True
            self.send(0, CLOSE, [])
        elif received.code == END:
            if ended := self._channels.pop(number, None):
                ended.end(cleanly=True)
                self.send(number, END, [])
        elif on_channel := self._channels.get(number):
            await on_channel.on_frame(received)

    def send(self, channel: int, code: int, fields: list[Any], payload: bytes = b"") -> None:
        if not self._writer.is_closing():
            self._writer.write(frame(channel, code, fields, payload))

    def abort(self) -> None:
        """Drop the connection as a broken network does."""
        self._aborted = True
        self._writer.transport.abort()

    # -------------------------------------------------------------------------------------------------------- access

    def put_token(self, token: str, audience: str) -> None:
        """From now on this client may speak to `audience` and what is below it. Raises BrokerError for a bad token."""
        self._granted[entity_path(audience)] = signer(token, audience, self.namespace.access_keys)

    def principal(self, queue: Queue) -> str | None:
        """The name of the key with which this client speaks to this queue; None if it may not."""
        path = queue.name.lower()
        return next((name for granted, name in self._granted.items() if covers(granted, path)), None)
