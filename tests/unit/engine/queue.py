"""The queue of commands: sessions, scheduled messages, duplicate detection, at least once, dead letters."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.commands import Command, PromoteModel
from tests.unit.engine.wire import Fault, Wire, writes

# As infra/modules/queue.bicep has them.
REMEMBERED = timedelta(minutes=10)
MOST_DELIVERIES = 3


@dataclass
class Message:
    """One message; `enqueued` is when it can be delivered first."""

    body: bytes
    message_id: str
    session_id: str
    enqueued: datetime
    number: int
    deliveries: int = 0


@dataclass
class QueueModel:
    """`core.ports.CommandQueue`, and the broker behind it."""

    wire: Wire
    messages: list[Message] = field(default_factory=list)
    dead: list[Message] = field(default_factory=list)
    _seen: dict[str, datetime] = field(default_factory=dict)
    _sent: int = 0

    @writes
    def send(self, command: Command, *, not_before: datetime | None = None) -> None:
        now = self.wire.now
        if isinstance(command, PromoteModel) and command.faults and Fault.UNKNOWN not in self.wire.ever_struck:
            self.wire.never(f"an error that nobody understands, in {command.promotion_id}")
        seen = self._seen.get(command.message_id)
        if seen is not None and now - seen < REMEMBERED:
            return
        self._seen[command.message_id] = now
        self._sent += 1
        enqueued = max(now, not_before or now)
        self.messages.append(Message(command.encode(), command.message_id, command.session_id, enqueued, self._sent))

    def heads(self) -> list[Message]:
        """The message of each session that is next, where one is due; the longest due first."""
        heads: dict[str, Message] = {}
        due = [message for message in self.messages if message.enqueued <= self.wire.now]
        for message in sorted(due, key=lambda each: (each.enqueued, each.number)):
            heads.setdefault(message.session_id, message)
        return list(heads.values())

    def complete(self, message: Message) -> None:
        self.messages.remove(message)

    def abandon(self, message: Message) -> None:
        message.deliveries += 1
        if message.deliveries >= MOST_DELIVERIES:
            self.messages.remove(message)
            self.dead.append(message)
