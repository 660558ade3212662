"""What a queue deals with: messages, their locks, sessions, and who receives."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from emulator.service_bus.codec import (
    APPLICATION_PROPERTIES,
    DATA,
    DELIVERY_ANNOTATIONS,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    SEQUENCE,
    VALUE,
    Described,
    Int,
    Section,
    Symbol,
    Timestamp,
    UInt,
    encode,
    sections,
)

ACTIVE, DEFERRED, SCHEDULED = 0, 1, 2  # as `x-opt-message-state` has them
SCHEDULED_FOR = Symbol("x-opt-scheduled-enqueue-time")
MESSAGE_ID, GROUP_ID = 0, 10  # positions in `properties`
TIME_TO_LIVE, DELIVERY_COUNT = 2, 4  # positions in `header`


# The status of refusals in answers of the nodes and in the request log; of others it is 400.
STATUS = {
    "amqp:unauthorized-access": 401,
    "amqp:not-found": 404,
    "com.microsoft:message-not-found": 404,
    "com.microsoft:timeout": 408,
    "com.microsoft:message-lock-lost": 410,
    "com.microsoft:session-lock-lost": 410,
    "amqp:link:message-size-exceeded": 413,
    "amqp:not-implemented": 501,
    "com.microsoft:server-busy": 503,
}


class BrokerError(Exception):
    """What the broker refuses; `condition` is the AMQP error condition that clients translate."""

    def __init__(self, condition: str, description: str, status: int | None = None) -> None:
        super().__init__(description)
        self.condition = condition
        self.status = status or STATUS.get(condition, 400)


def message_lock_lost() -> BrokerError:
    text = "The lock supplied is invalid. Either it has expired, or the message has left the queue. Receive it again."
    return BrokerError("com.microsoft:message-lock-lost", text)


def session_lock_lost() -> BrokerError:
    text = "The session lock has expired or was never held. Accept the session again."
    return BrokerError("com.microsoft:session-lock-lost", text)


def message_not_found(sequence: int, kind: str) -> BrokerError:
    text = f"There is no {kind} message with sequence number {sequence}."
    return BrokerError("com.microsoft:message-not-found", text)


class Consumer(Protocol):
    """A link that takes messages; `session` is what it holds, or held."""

    session: "Session | None"

    def on_available(self) -> bool:
        """There may be messages to take; whether any was taken."""

    def on_session_lost(self) -> None:
        """The lock of its session has expired."""


@dataclass
class Session:
    """The messages of one session id (in a queue without sessions: all of them), and who holds it.

    It is locked until `locked_until`, even when its owner has vanished. `is_offered` says that it stands in the line of
    sessions that anybody may have.
    """

    id: str | None
    available: list[int] = field(default_factory=list)
    locked_until: datetime | None = None
    owner: Consumer | None = None
    state: bytes | None = None
    is_offered: bool = False


@dataclass
class Lock:
    """Who may settle a message, and until when. Under a session, the session's lock decides instead."""

    token: uuid.UUID
    until: datetime
    session: Session | None = None

    @property
    def ends_at(self) -> datetime:
        return (self.session.locked_until if self.session else None) or self.until


@dataclass(eq=False)
class Message:
    """A message as it was sent, and what the queue knows of it. `submitted_as` is the first sequence number it got."""

    raw_sections: list[Section]
    enqueued_at: datetime
    sequence: int = 0
    submitted_as: int = 0
    state: int = ACTIVE
    delivery_count: int = 0
    expires_at: datetime | None = None
    lock: Lock | None = None
    dead_letter: dict[str, str] = field(default_factory=dict)
    dead_letter_source: str | None = None

    @classmethod
    def received(cls, raw: bytes, at: datetime) -> "Message":
        return cls(list(sections(raw)), at)

    def section(self, code: int) -> Any:
        return next((section.value for section in self.raw_sections if section.code == code), None)

    def _property(self, position: int) -> Any:
        properties = self.section(PROPERTIES) or []
        return properties[position] if position < len(properties) else None

    @property
    def message_id(self) -> Any:
        return self._property(MESSAGE_ID)

    @property
    def session_id(self) -> str | None:
        group_id = self._property(GROUP_ID)
        return None if group_id is None else str(group_id)

    @property
    def scheduled_for(self) -> datetime | None:
        due = (self.section(MESSAGE_ANNOTATIONS) or {}).get(SCHEDULED_FOR)
        return due.as_datetime() if isinstance(due, Timestamp) else None

    @property
    def time_to_live(self) -> timedelta | None:
        header = self.section(HEADER) or []
        milliseconds = header[TIME_TO_LIVE] if len(header) > TIME_TO_LIVE else None
        return timedelta(milliseconds=milliseconds) if milliseconds else None

    @property
    def application_properties(self) -> dict[Any, Any]:
        return (self.section(APPLICATION_PROPERTIES) or {}) | self.dead_letter

    @property
    def text(self) -> str:
        """The body, for people to read."""
        parts = [section.value for section in self.raw_sections if section.code in (DATA, SEQUENCE, VALUE)]
        return "".join(part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in parts)

    def encoded(self) -> bytes:
        """As it goes to a receiver: header and annotations are ours, the rest is as it came, byte for byte."""
        header = [*(self.section(HEADER) or []), None, None, None, None, None][:5]
        header[DELIVERY_COUNT] = UInt(self.delivery_count)
        parts = {
            HEADER: encode(Described(HEADER, header)),
            MESSAGE_ANNOTATIONS: encode(Described(MESSAGE_ANNOTATIONS, self._annotations())),
        }
        for section in self.raw_sections:
            if section.code not in (HEADER, DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS):
                parts[section.code] = parts.get(section.code, b"") + section.raw
        if self.dead_letter:
            values = Described(APPLICATION_PROPERTIES, self.application_properties)
            parts[APPLICATION_PROPERTIES] = encode(values)
        return b"".join(parts[code] for code in sorted(parts))

    def _annotations(self) -> dict[Any, Any]:
        values = dict(self.section(MESSAGE_ANNOTATIONS) or {})
        values[Symbol("x-opt-sequence-number")] = self.sequence
        values[Symbol("x-opt-enqueue-sequence-number")] = self.submitted_as
        values[Symbol("x-opt-enqueued-time")] = Timestamp.of(self.enqueued_at)
        values[Symbol("x-opt-message-state")] = Int(self.state)
        if self.lock is not None:
            values[Symbol("x-opt-locked-until")] = Timestamp.of(self.lock.ends_at)
        if self.dead_letter_source:
            values[Symbol("x-opt-deadletter-source")] = self.dead_letter_source
        return values
