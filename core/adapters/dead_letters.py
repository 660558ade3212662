"""The dead-letter queue behind the queue of commands, over azure-servicebus.

It has no sessions, though the queue has. Service Bus cannot lock one message by its number: all in front of it are locked
with it, and given back when the block ends; abandoning counts a delivery, and nothing ends a dead letter by that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.servicebus import ServiceBusClient, ServiceBusReceiver, ServiceBusSubQueue
from azure.servicebus.exceptions import ServiceBusError

from core.adapters.service_bus import client, message_of
from core.commands import Command
from core.errors import Transient
from core.replay import DeadLetter
from core.settings import ServiceBusConnection

BATCH = 100
# How long an empty queue may take to say so, in seconds.
PATIENCE = 2.0
MESSAGE_ID_LIMIT = 128


class _Locked:
    """`core.replay.Taken`."""

    def __init__(self, receiver: ServiceBusReceiver, sender: Any, message: Any) -> None:
        self._receiver = receiver
        self._sender = sender
        self.message = message
        self.letter = _letter(message)
        self.is_settled = False

    def resend(self, command: Command, *, not_before: datetime | None) -> None:
        """Into the session that it came from, under an id of its own: the broker drops ids that it has seen lately."""
        suffix = f":r{self.letter.sequence_number}"
        message = message_of(command, not_before=not_before)
        message.message_id = self.letter.message_id[: MESSAGE_ID_LIMIT - len(suffix)] + suffix
        self._sender.send_messages(message)

    def complete(self) -> None:
        self._receiver.complete_message(self.message)
        self.is_settled = True


class ServiceBusDeadLetters:
    """`core.replay.DeadLetters`. A connection for each call: operators are few."""

    def __init__(self, connection: ServiceBusConnection, queue: str, credential: TokenCredential) -> None:
        self._connection = connection
        self._queue = queue
        self._credential = credential

    def peek(self, limit: int) -> tuple[DeadLetter, ...]:
        found: list[DeadLetter] = []
        with self._opened() as opened, self._receiver(opened) as receiver:
            while len(found) < limit:
                following = found[-1].sequence_number + 1 if found else 1
                page = receiver.peek_messages(min(BATCH, limit - len(found)), sequence_number=following)
                if not page:
                    break
                found += [_letter(message) for message in page]
        return tuple(found)

    @contextmanager
    def taken(self, wanted: frozenset[int]) -> Iterator[tuple[_Locked, ...]]:
        if not wanted:
            yield ()
            return
        with (
            self._opened() as opened,
            self._receiver(opened) as receiver,
            opened.get_queue_sender(self._queue) as sender,
        ):
            locked: list[_Locked] = []
            try:
                while wanted - {each.letter.sequence_number for each in locked}:
                    batch = receiver.receive_messages(max_message_count=BATCH, max_wait_time=PATIENCE)
                    if not batch:
                        break
                    locked += [_Locked(receiver, sender, message) for message in batch]
                yield tuple(each for each in locked if each.letter.sequence_number in wanted)
            finally:
                for each in locked:
                    if not each.is_settled:
                        receiver.abandon_message(each.message)

    @contextmanager
    def _opened(self) -> Iterator[ServiceBusClient]:
        try:
            with client(self._connection, self._credential) as opened:
                yield opened
        except ServiceBusError as error:
            raise Transient(f"the dead-letter queue of {self._queue} cannot be used: {error}") from error

    def _receiver(self, opened: ServiceBusClient) -> ServiceBusReceiver:
        return opened.get_queue_receiver(self._queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER)


def _letter(message: Any) -> DeadLetter:
    return DeadLetter(
        sequence_number=message.sequence_number,
        message_id=str(message.message_id or ""),
        session_id=message.session_id,
        dead_letter_reason=str(message.dead_letter_reason or "unknown"),
        dead_letter_description=str(message.dead_letter_error_description or ""),
        delivery_count=message.delivery_count or 0,
        enqueued_at=message.enqueued_time_utc,
        body=b"".join(message.body),
    )
