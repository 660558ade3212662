"""The two kinds of links that carry messages: from a client into a queue, and from a queue to a client."""

import uuid
from typing import TYPE_CHECKING

from emulator.service_bus.broker import Queue
from emulator.service_bus.codec import DATA, Described, sections
from emulator.service_bus.entities import BrokerError, Session, session_lock_lost
from emulator.service_bus.frames import ACCEPTED, MODIFIED, REJECTED, RELEASED, Frame, error

if TYPE_CHECKING:
    from emulator.service_bus.channel import Channel

# The message format in which the SDK sends batches: each data section is a whole message.
BATCH_FORMAT = 0x80013700
# Standard tier: 256 KB for a message; a batch may have as much.
MESSAGE_LIMIT = 256 * 1024
GRANTED_CREDIT = 1000


class IncomingLink:
    """A client's sender: every message that comes goes into the queue."""

    def __init__(self, channel: "Channel", handle: int, queue: Queue) -> None:
        self._channel = channel
        self._handle = handle
        self._queue = queue
        self._parts: list[bytes] = []
        self._size = 0
        self._first: Frame | None = None
        self._delivered = 0
        self._credit = 0

    def grant(self) -> None:
        """The SDK sends before it has seen any credit, and does not count it: it is not held to what it was granted."""
        self._credit = GRANTED_CREDIT
        self._channel.flow(self._handle, self._delivered, GRANTED_CREDIT)

    async def on_transfer(self, received: Frame) -> None:
        first = self._first = self._first or received
        self._size += len(received.payload)
        if self._size <= MESSAGE_LIMIT:
            self._parts.append(received.payload)
        if received.field(5, False):
            return
        payload, size = b"".join(self._parts), self._size
        self._parts, self._size, self._first = [], 0, None
        delivery_id = first.field(1)
        try:
            if size > MESSAGE_LIMIT:
                raise too_large(delivery_id, size)
            await self._take(payload, int(first.field(3, 0)))
        except BrokerError as refused:
            state = Described(REJECTED, [error(refused.condition, str(refused))])
        else:
            state = Described(ACCEPTED, [])
        if not first.field(4, False):
            self._channel.dispose(delivery_id, state, is_receiver=True)
        if size > MESSAGE_LIMIT:
            self._channel.detach(self._handle, too_large(delivery_id, size))
        else:
            self._count()

    async def _take(self, payload: bytes, message_format: int) -> None:
        messages = [payload]
        if message_format == BATCH_FORMAT:
            messages = [section.value for section in sections(payload) if section.code == DATA]
        connection = self._channel.connection
        await connection.operations.send(connection, self._queue, messages)

    def _count(self) -> None:
        self._delivered += 1
        self._credit -= 1
        if self._credit < GRANTED_CREDIT // 2:
            self.grant()


def too_large(delivery_id: int, size: int) -> BrokerError:
    """Azure rejects such a message, and then detaches the link for the same cause."""
    text = (
        f"The received message (delivery-id:{delivery_id}, size:{size} bytes) exceeds the limit ({MESSAGE_LIMIT} bytes) "
        "currently allowed on the link."
    )
    return BrokerError("amqp:link:message-size-exceeded", text)


class OutgoingLink:
    """A client's receiver: messages go out as far as its credit allows, under locks that it then settles."""

    def __init__(self, channel: "Channel", handle: int, queue: Queue, *, deletes: bool) -> None:
        self._channel = channel
        self._handle = handle
        self._deletes = deletes
        self._credit = 0
        self._sent = 0
        self.queue = queue
        self.session: Session | None = None

    def on_flow(self, received: Frame) -> None:
        """Credit is absolute: the client's count plus its credit."""
        delivered = int(received.field(5, 0))
        self._credit = max(0, delivered + int(received.field(6, 0)) - self._sent)
        self.on_available()
        if received.field(8, False):
            self._sent += self._credit
            self._credit = 0
            self._channel.flow(self._handle, self._sent, 0, drain=True)

    def on_available(self) -> bool:
        before = self._sent
        while self._credit > 0 and not self._channel.is_blocked:
            message = self.queue.take(self, delete=self._deletes)
            if message is None:
                break
            self._credit -= 1
            self._sent += 1
            token = message.lock.token if message.lock else uuid.uuid4()
            unsettled = None if self._deletes else (self, token)
            self._channel.transfer(self._handle, token.bytes_le, message.encoded(), unsettled=unsettled)
        return self._sent > before

    def on_session_lost(self) -> None:
        self._credit = 0
        self._channel.detach(self._handle, session_lock_lost())

    async def settle(self, token: uuid.UUID, outcome: Described) -> Described:
        """Carry out what the client decided on; the outcome to answer with."""
        try:
            await self._settle(token, outcome)
        except BrokerError as refused:
            return Described(REJECTED, [error(refused.condition, str(refused))])
        # The answer names the outcome; an error in it would always be read as a failure.
        return Described(outcome.descriptor, [] if outcome.descriptor == REJECTED else outcome.value)

    async def _settle(self, token: uuid.UUID, outcome: Described) -> None:
        method, reason, description = settlement(outcome)
        if method is None:
            self.queue.release(token, self)
            return
        connection = self._channel.connection
        await connection.operations.settle(
            connection, self.queue, token, method, consumer=self, reason=reason, description=description
        )

    def end(self, *, cleanly: bool) -> None:
        """The link or its connection is gone. A link that broke keeps its locks until they expire."""
        self._credit = 0
        if cleanly:
            self.queue.leave(self)
        else:
            self.queue.vanish(self)


def settlement(outcome: Described) -> tuple[str | None, str | None, str | None]:
    """What an outcome means: the method's name in the request log, and the reason and description of a dead letter.

    No method stands for a release: the client never looked at the message.
    """
    fields = outcome.value if isinstance(outcome.value, list) else []
    if outcome.descriptor == ACCEPTED:
        return "COMPLETE", None, None
    if outcome.descriptor == RELEASED:
        return None, None, None
    if outcome.descriptor == MODIFIED:
        has_failed, is_undeliverable = [*fields, None, None][:2]
        if is_undeliverable:
            return "DEFER", None, None
        return ("ABANDON" if has_failed else None), None, None
    if outcome.descriptor == REJECTED:
        found = fields[0].value if fields and isinstance(fields[0], Described) else []
        info = found[2] if len(found) > 2 and isinstance(found[2], dict) else {}
        return "DEAD_LETTER", info.get("DeadLetterReason"), info.get("DeadLetterErrorDescription")
    raise BrokerError("amqp:not-implemented", f"A delivery cannot be settled with the outcome {outcome.descriptor!r}.")
