"""One client's connection: SASL, open, AMQP sessions, links; and the faults and log entries of what it asks."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from emulator.faults import Fault, Phase
from emulator.request_log import Entry
from emulator.service_bus.broker import BrokerError, Queue, Session
from emulator.service_bus.codec import (
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    Described,
    MalformedFrameError,
    Symbol,
    UByte,
    UInt,
    ULong,
    UShort,
    sections,
)
from emulator.service_bus.frames import (
    AMQP_HEADER,
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    END,
    FLOW,
    MAX_FRAME_SIZE,
    OPEN,
    SASL_HEADER,
    SASL_INIT,
    SASL_MECHANISMS,
    SASL_OUTCOME,
    SASL_TYPE,
    TRANSFER,
    Frame,
    error,
    frame,
    read_frame,
)
from emulator.service_bus.links import MESSAGE_LIMIT, IncomingLink, OutgoingLink
from emulator.service_bus.management import Management, put_token

log = logging.getLogger(__name__)

SESSION_FILTER = Symbol("com.microsoft:session-filter")
LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
TIMEOUT = Symbol("com.microsoft:timeout")
DEFAULT_SESSION_WAIT = 65.0
TICKS_AT_1970 = 621355968000000000
WINDOW = 2**31 - 1
IS_RECEIVER = True


class Broker(Protocol):
    """What a connection needs of the service around it."""

    access_keys: Mapping[str, str]

    def queue_at(self, address: str) -> Queue | None: ...

    def queue_name(self, queue: Queue) -> str: ...

    def begin_entry(self, method: str, queue: Queue, principal: str | None, detail: dict[str, Any]) -> Entry: ...

    async def meet(self, entry: Entry, phase: Phase) -> Fault | None: ...

    def at(self, moment: datetime, callback: Any) -> None: ...

    def now(self) -> datetime: ...


class Connection:
    """Serves one TCP connection until it ends."""

    def __init__(self, broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._broker = broker
        self._reader = reader
        self._writer = writer
        self._channels: dict[int, Channel] = {}
        self._closed = False
        self.principal: str | None = None

    # ------------------------------------------------------------------------------------------------------- frames

    async def serve(self) -> None:
        try:
            await self._negotiate()
            while not self._closed:
                await self._on_frame(await read_frame(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except MalformedFrameError as malformed:
            log.warning("a client sent what is no AMQP: %s", malformed)
        finally:
            for channel in self._channels.values():
                channel.end(cleanly=self._closed)
            self._closed = True
            self._writer.close()

    async def _negotiate(self) -> None:
        header = await self._reader.readexactly(8)
        if header != SASL_HEADER:
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
        match received.code:
            case 0:
                return
            case code if code == OPEN:
                self.send(0, OPEN, ["local-service-bus", "127.0.0.1", UInt(MAX_FRAME_SIZE), UShort(65535)])
            case code if code == BEGIN:
                self._channels[received.channel] = Channel(self, received.channel, received)
                fields = [UShort(received.channel), UInt(1), UInt(WINDOW), UInt(WINDOW), UInt(2**32 - 1)]
                self.send(received.channel, BEGIN, fields)
            case code if code == CLOSE:
                self._closed = True
                self.send(0, CLOSE, [])
            case code if code == END:
                if channel := self._channels.pop(received.channel, None):
                    channel.end(cleanly=True)
                    self.send(received.channel, END, [])
            case _:
                if channel := self._channels.get(received.channel):
                    await channel.on_frame(received)
        await self._drain()

    def send(self, channel: int, code: int, fields: list[Any], payload: bytes = b"") -> None:
        if not self._writer.is_closing():
            self._writer.write(frame(channel, code, fields, payload))

    async def _drain(self) -> None:
        await self._writer.drain()

    def abort(self) -> None:
        """Drop the connection as a broken network does."""
        transport = self._writer.transport
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    # ------------------------------------------------------------------------------- what clients ask, with faults

    def queue_at(self, address: str) -> Queue | None:
        return self._broker.queue_at(address)

    @property
    def access_keys(self) -> Mapping[str, str]:
        return self._broker.access_keys

    def at(self, moment: datetime, callback: Any) -> None:
        self._broker.at(moment, callback)

    def now(self) -> datetime:
        return self._broker.now()

    async def send_to(self, queue: Queue, message: bytes) -> int:
        entry = self._broker.begin_entry("SEND", queue, self.principal, _described(message))
        await self._suffer(entry, "before")
        number = queue.send(message)
        entry.detail["duplicate"] = number == 0
        await self._suffer(entry, "after")
        entry.status = 200
        return number

    async def settle(self, queue: Queue, token: uuid.UUID, name: str, arguments: dict[str, Any]) -> None:
        message = queue.locked(token)
        entry = self._broker.begin_entry(
            name, queue, self.principal, {"message_id": str(message.message_id), "session_id": message.session_id}
        )
        await self._suffer(entry, "before")
        match name:
            case "COMPLETE":
                queue.complete(token)
            case "DEFER":
                queue.defer(token)
            case "DEAD_LETTER":
                queue.dead_letter(token, **arguments)
            case _:
                queue.abandon(token, count=name == "ABANDON")
        await self._suffer(entry, "after")
        entry.status = 200

    async def renew(self, queue: Queue, token: uuid.UUID) -> datetime:
        entry = self._broker.begin_entry("RENEW", queue, self.principal, {})
        await self._suffer(entry, "before")
        until = queue.renew_lock(token)
        await self._suffer(entry, "after")
        entry.status = 200
        return until

    async def renew_session(self, queue: Queue, session_id: str) -> datetime:
        entry = self._broker.begin_entry("RENEW", queue, self.principal, {"session_id": session_id})
        await self._suffer(entry, "before")
        until = queue.renew_session(session_id)
        await self._suffer(entry, "after")
        entry.status = 200
        return until

    async def _suffer(self, entry: Entry, phase: Phase) -> None:
        fault = await self._broker.meet(entry, phase)
        if fault is None:
            return
        entry.detail["fault"] = phase
        if fault.drop:
            entry.status = 0
            self.abort()
            raise ConnectionResetError("dropped by a fault")
        entry.status = fault.status
        body = fault.body if isinstance(fault.body, dict) else {}
        raise BrokerError(str(body.get("condition", "com.microsoft:server-busy")), "a fault was injected here")


class Channel:
    """An AMQP session: its links, its delivery ids, its window."""

    def __init__(self, connection: Connection, number: int, begin: Frame) -> None:
        self.connection = connection
        self._number = number
        self._next_incoming_id = int(begin.field(1, 0))
        self._window = int(begin.field(2, 0))
        self._next_outgoing_id = 1
        self._links: dict[int, IncomingLink | OutgoingLink | Node] = {}
        self._waiting: dict[int, Any] = {}
        self._deliveries: dict[int, tuple[OutgoingLink, uuid.UUID]] = {}

    async def on_frame(self, received: Frame) -> None:
        handlers = {
            ATTACH: self._on_attach,
            FLOW: self._on_flow,
            TRANSFER: self._on_transfer,
            DISPOSITION: self._on_disposition,
            DETACH: self._on_detach,
        }
        if handler := handlers.get(received.code):
            await handler(received)

    def send(self, code: int, fields: list[Any], payload: bytes = b"") -> None:
        self.connection.send(self._number, code, fields, payload)
        if code == TRANSFER:
            self._window -= 1
            self._next_outgoing_id += 1

    def may_transfer(self) -> bool:
        return self._window > 0

    def next_delivery_id(self, unsettled: tuple[OutgoingLink, uuid.UUID] | None) -> int:
        delivery_id = self._next_outgoing_id
        if unsettled is not None:
            self._deliveries[delivery_id] = unsettled
        return delivery_id

    def flow_fields(self, handle: int, delivery_count: int, credit: int, *, drain: bool = False) -> list[Any]:
        window = [UInt(self._next_incoming_id), UInt(WINDOW), UInt(self._next_outgoing_id), UInt(WINDOW)]
        return [*window, UInt(handle), UInt(delivery_count), UInt(credit), None, drain]

    def send_disposition(self, *, is_receiver: bool, delivery_id: int, state: Described) -> None:
        self.send(DISPOSITION, [is_receiver, UInt(delivery_id), UInt(delivery_id), True, state])

    def forget(self, handle: int) -> None:
        self._links.pop(handle, None)

    def end(self, *, cleanly: bool) -> None:
        for handle in list(self._waiting):
            self._stop_waiting(handle)
        for link in self._links.values():
            if isinstance(link, OutgoingLink):
                link.end(cleanly=cleanly)
        self._links.clear()

    # ------------------------------------------------------------------------------------------------------- attach

    async def _on_attach(self, received: Frame) -> None:
        handle, role = int(received.field(1)), bool(received.field(2))
        terminus = received.field(5 if role is IS_RECEIVER else 6)
        address = str(terminus.value[0]) if isinstance(terminus, Described) and terminus.value else ""
        path = _path(address)
        if path == "$cbs" or path.endswith("/$management"):
            self._attach_node(received, handle, path)
            return
        queue = self.connection.queue_at(path)
        if self.connection.principal is None:
            self._refuse(received, "amqp:unauthorized-access", f"Unauthorized access to '{path}'. Put a token first.")
        elif queue is None:
            self._refuse(received, "amqp:not-found", f"The messaging entity '{path}' could not be found.")
        elif role is IS_RECEIVER:
            self._attach_receiver(received, handle, queue, terminus)
        else:
            link = IncomingLink(self, handle, queue)
            self._links[handle] = link
            self._confirm(received)
            link.grant()

    def _attach_node(self, received: Frame, handle: int, path: str) -> None:
        management = None
        if path != "$cbs":
            queue = self.connection.queue_at(path.removesuffix("/$management"))
            if queue is None or self.connection.principal is None:
                self._refuse(received, "amqp:not-found", f"The messaging entity '{path}' could not be found.")
                return
            management = Management(self.connection, queue)
        node = Node(self, handle, path, management, answers=bool(received.field(2)) is IS_RECEIVER)
        self._links[handle] = node
        self._confirm(received)
        if not node.answers:
            self.send(FLOW, self.flow_fields(handle, 0, 1000))

    def _attach_receiver(self, received: Frame, handle: int, queue: Queue, source: Described) -> None:
        filters = source.value[7] if len(source.value) > 7 and isinstance(source.value[7], dict) else {}
        deletes = int(received.field(3, 2)) == 1
        link = OutgoingLink(self, handle, queue, deletes=deletes)
        if SESSION_FILTER not in filters:
            if queue.has_sessions:
                text = "It is not possible for an entity that requires sessions to create a non-sessionful receiver."
                self._refuse(received, "amqp:not-allowed", text)
                return
            self._links[handle] = link
            self._confirm(received)
            link.begin(None)
            return
        wanted = filters[SESSION_FILTER]
        wanted = wanted.value if isinstance(wanted, Described) else wanted
        if not queue.has_sessions:
            self._refuse(received, "amqp:not-allowed", "The entity does not support sessions.")
        elif wanted is None:
            self._await_session(received, handle, queue, link)
        else:
            try:
                session = queue.accept(str(wanted), link)
            except BrokerError as refused:
                self._refuse(received, refused.condition, str(refused))
            else:
                self._give_session(received, handle, link, session)

    def _await_session(self, received: Frame, handle: int, queue: Queue, link: OutgoingLink) -> None:
        """Answer once a session is free, or with a time-out: meanwhile the client waits for our attach."""
        milliseconds = (received.field(13) or {}).get(TIMEOUT)
        wait = milliseconds / 1000 if milliseconds else DEFAULT_SESSION_WAIT

        def take(session: Session) -> None:
            self._waiting.pop(handle, None)
            queue.hold(session, link)
            self._give_session(received, handle, link, session)

        def give_up() -> None:
            if self._waiting.get(handle) is give_up_of:
                self._stop_waiting(handle)
                self._refuse(received, "com.microsoft:timeout", "No session became available in time.")

        give_up_of = (queue, take)
        self._waiting[handle] = give_up_of
        self.connection.at(self.connection.now() + timedelta(seconds=wait), give_up)
        queue.wait_for_session(take)

    def _stop_waiting(self, handle: int) -> None:
        queue, waiter = self._waiting.pop(handle, (None, None))
        if queue is not None and waiter in queue.waiters:
            queue.waiters.remove(waiter)

    def _give_session(self, received: Frame, handle: int, link: OutgoingLink, session: Session) -> None:
        self._links[handle] = link
        until = session.locked_until
        ticks = int(until.timestamp() * 10_000_000) + TICKS_AT_1970 if until else 0
        self._confirm(received, session_id=session.id, properties={LOCKED_UNTIL: ticks})
        link.begin(session)

    def _confirm(
        self, received: Frame, *, session_id: str | None = None, properties: dict[Any, Any] | None = None
    ) -> None:
        """Attach our end: termini as the client gave them, which it compares."""
        source, target = received.field(5), received.field(6)
        is_receiver = bool(received.field(2)) is IS_RECEIVER
        if session_id is not None:
            fields = [*source.value, *([None] * 8)][: max(8, len(source.value))]
            fields[7] = {SESSION_FILTER: session_id}
            source = Described(source.descriptor, fields)
        self.send(
            ATTACH,
            [
                received.field(0),
                UInt(int(received.field(1))),
                not is_receiver,
                received.field(3),
                received.field(4),
                source,
                target,
                None,
                None,
                UInt(0) if is_receiver else None,
                ULong(MESSAGE_LIMIT),
                None,
                None,
                properties,
            ],
        )

    def _refuse(self, received: Frame, condition: str, description: str) -> None:
        """An attach without termini and then a detach: otherwise the client takes the link for usable."""
        is_receiver = bool(received.field(2)) is IS_RECEIVER
        handle = UInt(int(received.field(1)))
        head = [received.field(0), handle, not is_receiver, received.field(3), received.field(4), None, None]
        self.send(ATTACH, [*head, None, None, UInt(0) if is_receiver else None])
        self.send(DETACH, [handle, True, error(condition, description)])

    # ------------------------------------------------------------------------------------------ everything after it

    async def _on_detach(self, received: Frame) -> None:
        handle = int(received.field(0))
        self._stop_waiting(handle)
        link = self._links.pop(handle, None)
        if link is None:
            return
        if isinstance(link, OutgoingLink):
            link.end(cleanly=True)
        self.send(DETACH, [UInt(handle), True])

    async def _on_flow(self, received: Frame) -> None:
        begins = int(received.field(0, 1))
        self._window = begins + int(received.field(1, 0)) - self._next_outgoing_id
        if (handle := received.field(4)) is None:
            for link in list(self._links.values()):
                if isinstance(link, OutgoingLink):
                    link.on_available()
        elif isinstance(flowing := self._links.get(int(handle)), OutgoingLink):
            flowing.on_flow(received)

    async def _on_transfer(self, received: Frame) -> None:
        self._next_incoming_id += 1
        link = self._links.get(int(received.field(0)))
        if isinstance(link, IncomingLink | Node):
            await link.on_transfer(received)

    async def _on_disposition(self, received: Frame) -> None:
        """The client settles; with `settled` it wants no answer."""
        if bool(received.field(0)) is not IS_RECEIVER:
            return
        first = int(received.field(1))
        last, is_settled = int(received.field(2, first)), bool(received.field(3, False))
        outcome = received.field(4)
        for delivery_id in range(first, last + 1):
            found = self._deliveries.pop(delivery_id, None)
            if found is None or not isinstance(outcome, Described):
                continue
            link, token = found
            answer = await link.settle(token, outcome)
            if not is_settled:
                self.send_disposition(is_receiver=False, delivery_id=delivery_id, state=answer)

    def node_to_answer(self, path: str) -> "Node | None":
        """The link on which the client awaits the answers of a node."""
        nodes = (link for link in self._links.values() if isinstance(link, Node))
        return next((node for node in nodes if node.answers and node.path == path), None)


class Node:
    """One end of `$cbs` or of a management node: a request comes on one link, its answer goes out on the other."""

    def __init__(
        self, channel: Channel, handle: int, path: str, management: Management | None, *, answers: bool
    ) -> None:
        self._channel = channel
        self._handle = handle
        self._management = management
        self._parts: list[bytes] = []
        self.path = path
        self.answers = answers

    async def on_transfer(self, received: Frame) -> None:
        self._parts.append(received.payload)
        if received.field(5, False):
            return
        raw, self._parts = b"".join(self._parts), []
        if not received.field(4, False):
            accepted = Described(0x24, [])
            self._channel.send_disposition(is_receiver=True, delivery_id=received.field(1), state=accepted)
        if self._management is not None:
            response = await self._management.respond(raw)
        else:
            connection = self._channel.connection
            response, principal = put_token(raw, connection.access_keys)
            connection.principal = principal or connection.principal
        if node := self._channel.node_to_answer(self.path):
            node.answer(response)

    def answer(self, response: bytes) -> None:
        delivery_id = self._channel.next_delivery_id(None)
        fields = [UInt(self._handle), UInt(delivery_id), uuid.uuid4().bytes, UInt(0), True, False]
        self._channel.send(TRANSFER, fields, response)


def _path(address: str) -> str:
    """The entity in an address: clients give it with scheme and host, or bare."""
    return (urlsplit(address).path if "://" in address else address).strip("/").lower()


def _described(message: bytes) -> dict[str, Any]:
    """What the request log tells of a message: its ids and its time, never its body."""
    found = {section.code: section.value for section in sections(message)}
    properties = found.get(PROPERTIES) or [None]
    due = (found.get(MESSAGE_ANNOTATIONS) or {}).get(Symbol("x-opt-scheduled-enqueue-time"))
    return {
        "message_id": str(properties[0]),
        "session_id": properties[10] if len(properties) > 10 else None,
        "scheduled_for": due.as_datetime().isoformat() if due is not None else None,
    }
