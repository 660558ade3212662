"""The dead-letter queue behind the queue of commands, over azure-servicebus.

It has no sessions, though the queue has. Service Bus locks no message by its number unless it was deferred: whoever wants
one receives from the beginning, and all in front of it are locked as well until the search ends, and then given back. That
costs a round trip for each, and counts as a delivery of each, which ends no dead letter.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import (
    MessageLockLostError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from core.adapters.faults import translated
from core.adapters.service_bus import SEND_SECONDS, client, message_of
from core.commands import Command
from core.dead_letters import DeadLetter
from core.errors import Blocked, Reason
from core.settings import ServiceBusConnection

log = logging.getLogger(__name__)

PAGE = 100
FIRST_BATCH, LARGEST_BATCH = 8, 100
# So many are locked at most in search of one, and for so long at most: well within the lock of the first, which is a minute.
SEARCHED, SEARCH_SECONDS = 1000, 20.0
# How long an empty queue may take to say so.
PATIENCE = 2.0
MESSAGE_ID_LIMIT, PROPERTY_LIMIT = 128, 200
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class _Locked:
    """`core.replay.Taken`."""

    def __init__(
        self,
        receiver: ServiceBusReceiver,
        send: Callable[[ServiceBusMessage], None],
        message: ServiceBusReceivedMessage,
    ) -> None:
        self._receiver = receiver
        self._send = send
        self._message = message
        self._is_held = True
        self.number = message.sequence_number or 0

    @property
    def letter(self) -> DeadLetter:
        return _letter(self._message)

    def resend(self, command: Command, *, not_before: datetime | None) -> None:
        """In the session of its endpoint, as every command."""
        suffix = f":r{self.number}"
        message = message_of(command, not_before=not_before)
        message.message_id = self.letter.message_id[: MESSAGE_ID_LIMIT - len(suffix)] + suffix
        with _translated():
            self._send(message)

    def complete(self) -> None:
        with _translated():
            self._settle(self._receiver.complete_message)
        self._is_held = False

    def give_back(self) -> None:
        """As if nobody had looked, as far as that goes. A lock that is lost has given it back already."""
        if self._is_held:
            self._is_held = False
            with suppress(MessageLockLostError):
                self._settle(self._receiver.abandon_message)

    def _settle(self, settle: Callable[[ServiceBusReceivedMessage], None]) -> None:
        try:
            settle(self._message)
        except ValueError as error:  # the SDK's word for a receiver whose connection has broken before
            raise ServiceBusConnectionError(message=str(error)) from error


class ServiceBusDeadLetters:
    """`core.replay.DeadLetters`. Safe to use from many threads.

    One sender for the process, but a receiver for each call: an open one is sent a message before anybody asks for it, which
    is locked then.
    """

    def __init__(self, connection: ServiceBusConnection, queue: str, credential: TokenCredential) -> None:
        self._connection = connection
        self._queue = queue
        self._credential = credential
        self._lock = threading.Lock()
        self._sender: ServiceBusSender | None = None

    def peek(self, limit: int) -> tuple[DeadLetter, ...]:
        found: list[ServiceBusReceivedMessage] = []
        with _translated(), self._client() as opened, self._receiver(opened) as receiver:
            while len(found) < limit:
                following = (found[-1].sequence_number or 0) + 1 if found else 1
                page = receiver.peek_messages(min(PAGE, limit - len(found)), sequence_number=following)
                found += page
                if not page:
                    break
        return tuple(_letter(message) for message in found)

    def find(self, sequence_number: int) -> DeadLetter | None:
        with _translated(), self._client() as opened, self._receiver(opened) as receiver:
            return _peeked(receiver, sequence_number)

    @contextmanager
    def taken(self, wanted: frozenset[int]) -> Iterator[tuple[_Locked, ...]]:
        if not wanted:
            yield ()
            return
        with ExitStack() as stack:
            with _translated():
                opened = stack.enter_context(self._client())
                receiver = stack.enter_context(self._receiver(opened))
            locked: dict[int, _Locked] = {}
            try:
                with _translated():
                    self._search(receiver, wanted, locked)
                yield tuple(locked[number] for number in sorted(wanted & locked.keys()))
            finally:
                _give_back(locked.values())

    def _search(self, receiver: ServiceBusReceiver, wanted: frozenset[int], locked: dict[int, _Locked]) -> None:
        """Lock from the beginning until all that are wanted and are there are had, in ever larger steps.

        If nothing comes and one of them is still there, somebody else has it, or those in front of it: it may come back.
        """
        ends = time.monotonic() + SEARCH_SECONDS
        size = max(FIRST_BATCH, len(wanted))
        sought = _there(receiver, wanted)
        while (missing := sought - locked.keys()) and len(locked) < SEARCHED and time.monotonic() < ends:
            batch = receiver.receive_messages(max_message_count=min(size, LARGEST_BATCH), max_wait_time=PATIENCE)
            for message in batch:
                each = _Locked(receiver, self._send, message)
                locked[each.number] = each
            if not batch:
                sought = _there(receiver, missing)
            size *= 2

    def _send(self, message: ServiceBusMessage) -> None:
        with self._lock:
            if self._sender is None:
                self._sender = self._client().get_queue_sender(self._queue)
            try:
                self._sender.send_messages(message, timeout=SEND_SECONDS)
            except ServiceBusError:
                self._sender = None
                raise

    def _client(self) -> ServiceBusClient:
        return client(self._connection, self._credential)

    def _receiver(self, opened: ServiceBusClient) -> ServiceBusReceiver:
        return opened.get_queue_receiver(self._queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER)


def _peeked(receiver: ServiceBusReceiver, number: int) -> DeadLetter | None:
    """Peeking begins with the first message that has this number or a higher one."""
    found = receiver.peek_messages(1, sequence_number=number)
    return _letter(found[0]) if found and found[0].sequence_number == number else None


def _there(receiver: ServiceBusReceiver, numbers: frozenset[int]) -> frozenset[int]:
    return frozenset(number for number in numbers if _peeked(receiver, number))


def _give_back(locked: Iterable[_Locked]) -> None:
    """If the connection is gone, the locks end by themselves: whatever was done is done."""
    try:
        for each in locked:
            each.give_back()
    except ServiceBusError as error:
        log.warning("dead letters stay locked until their locks expire: %s", error)


@contextmanager
def _translated() -> Iterator[None]:
    """ServiceBusError is an AzureError: all that is not a missing right may pass."""
    with translated("using the dead-letter queue"):
        try:
            yield
        except (ServiceBusAuthenticationError, ServiceBusAuthorizationError) as error:
            remedy = "Give the service's managed identity the roles Azure Service Bus Data Sender and Data Receiver."
            raise Blocked(Reason.PERMISSION_MISSING, str(error), remedy=remedy) from error


def _letter(message: ServiceBusReceivedMessage) -> DeadLetter:
    """Anybody may have sent it, with anything in it: nothing here fails because of that."""
    properties = message.application_properties or {}
    return DeadLetter(
        sequence_number=message.sequence_number or 0,
        message_id=_text(message.message_id) or "",
        session_id=_text(message.session_id),
        dead_letter_reason=_text(_property(properties, "DeadLetterReason")) or "unknown",
        dead_letter_description=_text(_property(properties, "DeadLetterErrorDescription")) or "",
        delivery_count=message.delivery_count or 0,
        enqueued_at=message.enqueued_time_utc or _UNKNOWN_TIME,
        promotion_id=_text(_property(properties, "promotion_id"), PROPERTY_LIMIT),
        endpoint=_text(_property(properties, "endpoint"), PROPERTY_LIMIT),
        body=_body(message),
    )


def _property(properties: dict[str | bytes, Any], name: str) -> Any:
    """Names come as bytes or as text."""
    return properties.get(name.encode(), properties.get(name))


def _text(value: Any, limit: int | None = None) -> str | None:
    if value is None:
        return None
    return (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value))[:limit]


def _body(message: ServiceBusReceivedMessage) -> bytes:
    """Ours are data sections; what is a value or a sequence for AMQP is shown as text."""
    if message.body_type is AmqpMessageBodyType.DATA:
        return b"".join(message.body)
    found = message.body if message.body_type is AmqpMessageBodyType.VALUE else list(message.body)
    return found if isinstance(found, bytes) else str(found).encode(errors="replace")
