"""An AMQP session: its links, its delivery ids, its window."""

import itertools
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from emulator.service_bus.authorization import entity_path, unauthorized
from emulator.service_bus.broker import Queue
from emulator.service_bus.codec import Described, Symbol, Timestamp, UInt, ULong, UShort
from emulator.service_bus.entities import BrokerError, Session
from emulator.service_bus.frames import (
    ATTACH,
    BEGIN,
    DETACH,
    DISPOSITION,
    FLOW,
    TRANSFER,
    Frame,
    error,
)
from emulator.service_bus.links import MESSAGE_LIMIT, IncomingLink, OutgoingLink
from emulator.service_bus.management import Management, TokenNode
from emulator.service_bus.nodes import CBS, MANAGEMENT, Node, Responder

if TYPE_CHECKING:
    from emulator.service_bus.connection import Connection

SESSION_FILTER = Symbol("com.microsoft:session-filter")
LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
TIMEOUT = Symbol("com.microsoft:timeout")
DEFAULT_SESSION_WAIT = 65.0
TICKS_PER_MILLISECOND, TICKS_AT_1970 = 10_000, 621355968000000000
WINDOW = 2**31 - 1
IS_RECEIVER = True
# More than the performative in front of a transfer's payload can take.
TRANSFER_OVERHEAD = 128
Link = IncomingLink | OutgoingLink | Node


class Channel:
    """Handles are the client's: ours for the same link has the same number."""

    def __init__(self, connection: "Connection", number: int, begin: Frame) -> None:
        self.connection = connection
        self._number = number
        self._next_incoming_id = int(begin.field(1, 0))
        self._window = int(begin.field(2, 0))
        self._next_outgoing_id = 1
        self._delivery_ids = itertools.count(1)
        self._outbox: deque[tuple[list[Any], bytes]] = deque()
        self._links: dict[int, Link] = {}
        self._waiting: dict[int, Callable[[], None]] = {}
        self._deliveries: dict[int, tuple[OutgoingLink, uuid.UUID]] = {}
        self._handlers: dict[int, Callable[[Frame], Awaitable[None]]] = {
            ATTACH: self._on_attach,
            FLOW: self._on_flow,
            TRANSFER: self._on_transfer,
            DISPOSITION: self._on_disposition,
            DETACH: self._on_detach,
        }

    def begin(self) -> None:
        self.send(BEGIN, [UShort(self._number), UInt(1), UInt(WINDOW), UInt(WINDOW), UInt(2**32 - 1)])

    async def on_frame(self, received: Frame) -> None:
        if handler := self._handlers.get(received.code):
            await handler(received)

    def end(self, *, cleanly: bool) -> None:
        for stop_waiting in list(self._waiting.values()):
            stop_waiting()
        for link in list(self._links.values()):
            if isinstance(link, OutgoingLink):
                link.end(cleanly=cleanly)
        self._links.clear()

    # --------------------------------------------------------------------------------------------- what links send

    def send(self, code: int, fields: list[Any]) -> None:
        self.connection.send(self._number, code, fields)

    @property
    def is_blocked(self) -> bool:
        """Whether the client's window is closed."""
        return self._window <= 0

    def transfer(
        self, handle: int, tag: bytes, payload: bytes, *, unsettled: tuple[OutgoingLink, uuid.UUID] | None = None
    ) -> None:
        """Send a message, in as many frames as the client's frame size asks for, as soon as its window is open."""
        delivery_id = next(self._delivery_ids)
        if unsettled is not None:
            self._deliveries[delivery_id] = unsettled
        size = self.connection.max_frame_size - TRANSFER_OVERHEAD
        for start in range(0, len(payload) or 1, size):
            more = start + size < len(payload)
            head = [UInt(handle), UInt(delivery_id), tag, UInt(0), unsettled is None, more]
            self._outbox.append((head, payload[start : start + size]))
        self._flush()

    def _flush(self) -> None:
        while self._outbox and self._window > 0:
            fields, payload = self._outbox.popleft()
            self.connection.send(self._number, TRANSFER, fields, payload)
            self._window -= 1
            self._next_outgoing_id += 1

    def flow(self, handle: int, delivery_count: int, credit: int, *, drain: bool = False) -> None:
        window = [UInt(self._next_incoming_id), UInt(WINDOW), UInt(self._next_outgoing_id), UInt(WINDOW)]
        self.send(FLOW, [*window, UInt(handle), UInt(delivery_count), UInt(credit), None, drain])

    def dispose(self, delivery_id: int, state: Described, *, is_receiver: bool) -> None:
        self.send(DISPOSITION, [is_receiver, UInt(delivery_id), UInt(delivery_id), True, state])

    def detach(self, handle: int, cause: BrokerError | None = None) -> None:
        """End a link from our side, or answer its end."""
        self._links.pop(handle, None)
        self.send(DETACH, [UInt(handle), True, error(cause.condition, str(cause)) if cause else None])

    # ------------------------------------------------------------------------------------------------------- attach

    async def _on_attach(self, received: Frame) -> None:
        try:
            self._attach(received)
        except BrokerError as refused:
            self._refuse(received, refused)

    def _attach(self, received: Frame) -> None:
        handle, is_receiver = int(received.field(1)), bool(received.field(2)) is IS_RECEIVER
        terminus = received.field(5 if is_receiver else 6)
        address = str(terminus.value[0]) if isinstance(terminus, Described) and terminus.value else ""
        path = entity_path(address)
        if path == CBS:
            self._attach_node(received, path, TokenNode(self.connection))
            return
        queue = self._queue_at(path.removesuffix(MANAGEMENT))
        if path.endswith(MANAGEMENT):
            self._attach_node(received, path, Management(self, queue))
        elif is_receiver:
            self._attach_receiver(received, queue, terminus)
        else:
            incoming = self._links[handle] = IncomingLink(self, handle, queue)
            self._confirm(received)
            incoming.grant()

    def _queue_at(self, path: str) -> Queue:
        queue = self.connection.namespace.queue_at(path)
        if queue is None:
            raise BrokerError("amqp:not-found", f"The messaging entity '{path}' could not be found.")
        if self.connection.principal(queue) is None:
            raise unauthorized(f"Unauthorized access to '{path}': no token was put for it.")
        return queue

    def _attach_node(self, received: Frame, path: str, responder: Responder) -> None:
        handle, is_receiver = int(received.field(1)), bool(received.field(2)) is IS_RECEIVER
        self._links[handle] = Node(self, handle, path, responder, answers=is_receiver)
        self._confirm(received)
        if not is_receiver:
            self.flow(handle, 0, 1000)

    def _attach_receiver(self, received: Frame, queue: Queue, source: Described) -> None:
        handle = int(received.field(1))
        filters = source.value[7] if len(source.value) > 7 and isinstance(source.value[7], dict) else {}
        link = OutgoingLink(self, handle, queue, deletes=int(received.field(3, 2)) == 1)
        if SESSION_FILTER not in filters:
            queue.join(link)
            self._links[handle] = link
            self._confirm(received)
            return
        wanted = filters[SESSION_FILTER]
        wanted = wanted.value if isinstance(wanted, Described) else wanted
        if wanted is None:
            self._await_session(received, queue, link)
        else:
            self._give_session(received, link, queue.accept(str(wanted), link))

    def _await_session(self, received: Frame, queue: Queue, link: OutgoingLink) -> None:
        """Answer once a session is free, or with a time-out: meanwhile the client waits for our attach."""
        handle = int(received.field(1))
        milliseconds = (received.field(13) or {}).get(TIMEOUT)
        wait = timedelta(seconds=milliseconds / 1000 if milliseconds else DEFAULT_SESSION_WAIT)

        def take(session: Session) -> None:
            self._waiting.pop(handle, None)
            queue.hold(session, link)
            self._give_session(received, link, session)

        def stop_waiting() -> None:
            self._waiting.pop(handle, None)
            queue.stop_waiting(take)

        def time_out() -> None:
            if self._waiting.get(handle) is stop_waiting:
                stop_waiting()
                text = "No session became available within the time that the receiver was to wait."
                self._refuse(received, BrokerError("com.microsoft:timeout", text))

        self._waiting[handle] = stop_waiting
        timers = self.connection.namespace.timers
        timers.at(timers.now() + wait, time_out)
        try:
            queue.wait_for_session(take)
        except BrokerError:
            stop_waiting()
            raise

    def _give_session(self, received: Frame, link: OutgoingLink, session: Session) -> None:
        self._links[int(received.field(1))] = link
        until = session.locked_until
        ticks = Timestamp.of(until) * TICKS_PER_MILLISECOND + TICKS_AT_1970 if until else 0
        self._confirm(received, session_id=session.id, properties={LOCKED_UNTIL: ticks})

    def _confirm(
        self, received: Frame, *, session_id: str | None = None, properties: dict[Any, Any] | None = None
    ) -> None:
        """Attach our end: termini as the client gave them, which it compares."""
        source, target = received.field(5), received.field(6)
        if session_id is not None:
            fields = [*source.value, *([None] * 8)][: max(8, len(source.value))]
            fields[7] = {SESSION_FILTER: session_id}
            source = Described(source.descriptor, fields)
        tail = [ULong(MESSAGE_LIMIT), None, None, properties]
        self.send(ATTACH, [*self._attach_head(received, source, target), *tail])

    def _refuse(self, received: Frame, cause: BrokerError) -> None:
        """An attach without termini and then a detach: otherwise the client takes the link for usable."""
        self.send(ATTACH, self._attach_head(received, None, None))
        self.detach(int(received.field(1)), cause)

    def _attach_head(self, received: Frame, source: Any, target: Any) -> list[Any]:
        is_receiver = bool(received.field(2)) is IS_RECEIVER
        modes = [received.field(3), received.field(4)]
        head = [received.field(0), UInt(int(received.field(1))), not is_receiver, *modes, source, target]
        return [*head, None, None, UInt(0) if is_receiver else None]

    # ------------------------------------------------------------------------------------------ everything after it

    async def _on_detach(self, received: Frame) -> None:
        handle = int(received.field(0))
        if stop_waiting := self._waiting.get(handle):
            stop_waiting()
        if link := self._links.get(handle):
            if isinstance(link, OutgoingLink):
                link.end(cleanly=True)
            self.detach(handle)

    async def _on_flow(self, received: Frame) -> None:
        self._window = int(received.field(0, 1)) + int(received.field(1, 0)) - self._next_outgoing_id
        self._flush()
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
        for delivery_id in [known for known in self._deliveries if first <= known <= last]:
            link, token = self._deliveries.pop(delivery_id)
            if isinstance(outcome, Described):
                answer = await link.settle(token, outcome)
                if not is_settled:
                    self.dispose(delivery_id, answer, is_receiver=False)

    def node_to_answer(self, path: str) -> Node | None:
        """The link on which the client awaits the answers of a node."""
        nodes = (link for link in self._links.values() if isinstance(link, Node))
        return next((node for node in nodes if node.answers and node.path == path), None)

    def holder(self, queue: Queue, session_id: str | None) -> OutgoingLink | None:
        """This client's receiver of a session."""
        for link in self._links.values():
            if (
                isinstance(link, OutgoingLink)
                and link.queue is queue
                and link.session
                and link.session.id == session_id
            ):
                return link
        return None
