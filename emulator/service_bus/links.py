"""The two kinds of links that carry messages: from a client into a queue, and from a queue to a client."""

import logging
import uuid
from typing import TYPE_CHECKING, Any

from emulator.service_bus.broker import BrokerError, Message, Queue, Session, message_lock_lost
from emulator.service_bus.codec import DATA, Described, UInt, sections
from emulator.service_bus.frames import (
    ACCEPTED,
    DETACH,
    FLOW,
    MODIFIED,
    REJECTED,
    RELEASED,
    TRANSFER,
    Frame,
    error,
)

if TYPE_CHECKING:
    from emulator.service_bus.connection import Channel

log = logging.getLogger(__name__)

# The message format in which the SDK sends batches: each data section is a whole message.
BATCH_FORMAT = 0x80013700
# Standard tier: 256 KB for a message; a batch may have as much.
MESSAGE_LIMIT = 256 * 1024
GRANTED_CREDIT = 1_000_000


class IncomingLink:
    """A client's sender: every message that comes goes into the queue."""

    def __init__(self, channel: "Channel", handle: int, queue: Queue) -> None:
        self._channel = channel
        self._handle = handle
        self._queue = queue
        self._parts: list[bytes] = []
        self._first: Frame | None = None

    def grant(self) -> None:
        """The SDK sends before it has seen any credit, so it is given all at once."""
        self._channel.send(FLOW, self._channel.flow_fields(self._handle, 0, GRANTED_CREDIT))

    async def on_transfer(self, received: Frame) -> None:
        first = self._first = self._first or received
        self._parts.append(received.payload)
        if received.field(5, False):
            return
        payload, self._parts, self._first = b"".join(self._parts), [], None
        delivery_id = first.field(1)
        try:
            await self._take(payload, int(first.field(3, 0)))
        except BrokerError as refused:
            state = Described(REJECTED, [error(refused.condition, str(refused))])
        else:
            state = Described(ACCEPTED, [])
        if not first.field(4, False):
            self._channel.send_disposition(is_receiver=True, delivery_id=delivery_id, state=state)

    async def _take(self, payload: bytes, message_format: int) -> None:
        if len(payload) > MESSAGE_LIMIT:
            raise BrokerError("amqp:link:message-size-exceeded", f"{len(payload)} bytes are more than {MESSAGE_LIMIT}.")
        messages = [payload]
        if message_format == BATCH_FORMAT:
            messages = [section.value for section in sections(payload) if section.code == DATA]
        for message in messages:
            await self._channel.connection.send_to(self._queue, message)


class OutgoingLink:
    """A client's receiver: messages go out as far as its credit allows, under locks that it then settles."""

    def __init__(
        self, channel: "Channel", handle: int, queue: Queue, *, deletes: bool, session: Session | None = None
    ) -> None:
        self._channel = channel
        self._handle = handle
        self._queue = queue
        self._deletes = deletes
        self._session = session
        self._credit = 0
        self._sent = 0

    @property
    def queue(self) -> Queue:
        return self._queue

    def begin(self, session: Session | None) -> None:
        self._session = session or self._session
        if self._session is None:
            self._session = self._queue.session(None)
            self._queue.consumers.append(self)

    def on_flow(self, received: Frame) -> None:
        """Credit is absolute: the client's count plus its credit."""
        delivered = int(received.field(5, 0))
        self._credit = max(0, delivered + int(received.field(6, 0)) - self._sent)
        self.on_available()
        if received.field(8, False) and self._credit:
            self._sent += self._credit
            self._credit = 0
            self._channel.send(FLOW, self._channel.flow_fields(self._handle, self._sent, 0, drain=True))

    def on_available(self) -> None:
        while self._credit > 0 and self._session is not None and self._channel.may_transfer():
            message = self._queue.take(self._session, delete=self._deletes)
            if message is None:
                return
            self._transfer(message)

    def on_session_lost(self) -> None:
        lost = error("com.microsoft:session-lock-lost", "The session lock has expired.")
        self._channel.send(DETACH, [UInt(self._handle), True, lost])
        self._channel.forget(self._handle)

    def _transfer(self, message: Message) -> None:
        token = message.lock.token if message.lock else uuid.uuid4()
        delivery_id = self._channel.next_delivery_id(None if self._deletes else (self, token))
        fields: list[Any] = [
            UInt(self._handle),
            UInt(delivery_id),
            token.bytes_le,
            UInt(0),
            self._deletes,
            False,
        ]
        self._channel.send(TRANSFER, fields, message.encoded())
        self._credit -= 1
        self._sent += 1

    async def settle(self, token: uuid.UUID, outcome: Described) -> Described:
        """Carry out what the client decided on; the outcome to answer with."""
        name, arguments = settlement(outcome)
        try:
            await self._channel.connection.settle(self._queue, token, name, arguments)
        except BrokerError as refused:
            return Described(REJECTED, [error(refused.condition, str(refused))])
        # The answer names the outcome; an error in it would always be read as a failure.
        return Described(outcome.descriptor, [] if outcome.descriptor == REJECTED else outcome.value)

    def end(self, *, cleanly: bool) -> None:
        """The link or its connection is gone. A link that broke keeps its locks until they expire."""
        self._credit = 0
        if self in self._queue.consumers:
            self._queue.consumers.remove(self)
        if self._session is not None and self._session.owner is self:
            if cleanly:
                self._queue.release(self._session, count=True)
            else:
                self._session.owner = None


def settlement(outcome: Described) -> tuple[str, dict[str, Any]]:
    """What an outcome means: the operation's name in the request log, and its arguments."""
    fields = outcome.value if isinstance(outcome.value, list) else []
    match outcome.descriptor:
        case code if code == ACCEPTED:
            return "COMPLETE", {}
        case code if code == RELEASED:
            return "RELEASE", {}
        case code if code == MODIFIED:
            has_failed, is_undeliverable = ([*fields, None, None])[:2]
            if is_undeliverable:
                return "DEFER", {}
            return ("ABANDON", {}) if has_failed else ("RELEASE", {})
        case code if code == REJECTED:
            found = fields[0].value if fields and isinstance(fields[0], Described) else []
            info = found[2] if len(found) > 2 and isinstance(found[2], dict) else {}
            reason, description = info.get("DeadLetterReason"), info.get("DeadLetterErrorDescription")
            return "DEAD_LETTER", {"reason": reason, "description": description}
        case _:
            raise message_lock_lost()
