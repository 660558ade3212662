"""Queues with peek-lock, sessions, duplicate detection, scheduling and dead letters: no wire, no tasks, one clock."""

import heapq
import itertools
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from emulator.service_bus.codec import (
    APPLICATION_PROPERTIES,
    DELIVERY_ANNOTATIONS,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    Described,
    Int,
    Section,
    Symbol,
    Timestamp,
    UInt,
    encode,
    sections,
)
from emulator.topology import QueueSpec

ACTIVE, DEFERRED, SCHEDULED = 0, 1, 2
SCHEDULED_FOR = Symbol("x-opt-scheduled-enqueue-time")
MESSAGE_ID, GROUP_ID = 0, 10
At = Callable[[datetime, Callable[[], None]], None]


class BrokerError(Exception):
    """What the broker refuses; `condition` is the AMQP error condition that clients translate."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition


def message_lock_lost() -> BrokerError:
    return BrokerError("com.microsoft:message-lock-lost", "The lock supplied is invalid or has expired.")


def session_lock_lost() -> BrokerError:
    return BrokerError("com.microsoft:session-lock-lost", "The session lock has expired or was never held.")


def message_not_found() -> BrokerError:
    return BrokerError("com.microsoft:message-not-found", "There is no such message.")


class Consumer(Protocol):
    """A link that takes messages."""

    def on_available(self) -> None:
        """There may be a message to take."""

    def on_session_lost(self) -> None:
        """The lock of its session has expired."""


@dataclass
class Lock:
    """Who may settle a message, and until when. Under a session, the session's lock decides instead."""

    token: uuid.UUID
    until: datetime
    session: "Session | None" = None


@dataclass
class Message:
    """A message as it was sent, and what the queue knows of it."""

    sequence: int
    raw_sections: list[Section]
    enqueued_at: datetime
    message_id: Any = None
    session_id: str | None = None
    state: int = ACTIVE
    delivery_count: int = 0
    scheduled_for: datetime | None = None
    expires_at: datetime | None = None
    lock: Lock | None = None
    dead_letter: dict[str, str] = field(default_factory=dict)
    dead_letter_source: str | None = None

    def section(self, code: int) -> Any:
        return next((section.value for section in self.raw_sections if section.code == code), None)

    def encoded(self) -> bytes:
        """As it goes to a receiver: header and annotations are ours, the rest is as it came."""
        header = list(self.section(HEADER) or [])
        header += [None] * (5 - len(header))
        header[4] = UInt(self.delivery_count)
        parts = [
            encode(Described(HEADER, header)),
            encode(Described(MESSAGE_ANNOTATIONS, self._annotations())),
        ]
        for section in self.raw_sections:
            if section.code == APPLICATION_PROPERTIES and self.dead_letter:
                continue
            if section.code not in (HEADER, DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS):
                parts.append(section.raw)
        if self.dead_letter:
            # Application properties stand before the body; a decoder by descriptor takes them anywhere.
            values = (self.section(APPLICATION_PROPERTIES) or {}) | self.dead_letter
            position = 3 if self.section(PROPERTIES) is not None else 2
            parts.insert(position, encode(Described(APPLICATION_PROPERTIES, values)))
        return b"".join(parts)

    def _annotations(self) -> dict[Any, Any]:
        values = dict(self.section(MESSAGE_ANNOTATIONS) or {})
        values[Symbol("x-opt-sequence-number")] = self.sequence
        values[Symbol("x-opt-enqueue-sequence-number")] = self.sequence
        values[Symbol("x-opt-enqueued-time")] = Timestamp.of(self.enqueued_at)
        values[Symbol("x-opt-message-state")] = Int(self.state)
        if self.lock is not None:
            until = self.lock.session.locked_until if self.lock.session else self.lock.until
            values[Symbol("x-opt-locked-until")] = Timestamp.of(until or self.lock.until)
        if self.dead_letter_source:
            values[Symbol("x-opt-deadletter-source")] = self.dead_letter_source
        return values


@dataclass
class Session:
    """The messages of one session id (in a queue without sessions: all of them), and who holds it."""

    id: str | None
    available: list[int] = field(default_factory=list)
    locked_until: datetime | None = None
    owner: Consumer | None = None
    state: bytes | None = None
    queued: bool = False


class Queue:
    """A queue, or a dead-letter queue. `now` tells the time, `at` calls back at a moment of it."""

    def __init__(self, spec: QueueSpec, *, now: Callable[[], datetime], at: At, is_dead_letter: bool = False) -> None:
        self.spec = spec
        self.has_sessions = spec.requires_session and not is_dead_letter
        self.messages: dict[int, Message] = {}
        self.consumers: list[Consumer] = []
        self.waiters: deque[Callable[[Session], None]] = deque()
        self.dead_letters = None if is_dead_letter else Queue(spec, now=now, at=at, is_dead_letter=True)
        self._now = now
        self._at = at
        self._sequence = itertools.count(1)
        self._sessions: dict[str | None, Session] = {}
        self._ready: deque[Session] = deque()
        self._locks: dict[uuid.UUID, Message] = {}
        self._known_ids: dict[Any, datetime] = {}
        self._id_expiries: deque[tuple[datetime, Any]] = deque()

    # --------------------------------------------------------------------------------------------------------- send

    def send(self, raw: bytes) -> int:
        """Take a message; its sequence number, 0 for a duplicate, which is dropped as the service does."""
        message = self._parsed(raw)
        if self.has_sessions and message.session_id is None:
            raise BrokerError("amqp:not-allowed", f"Queue {self.spec.name} requires a session id on each message.")
        if self._is_duplicate(message.message_id):
            return 0
        message.sequence = next(self._sequence)
        self.messages[message.sequence] = message
        if message.scheduled_for and message.scheduled_for > self._now():
            message.state = SCHEDULED
            self._at(message.scheduled_for, lambda: self._activate(message))
        else:
            self._offer(message)
        if message.expires_at:
            self._at(message.expires_at, lambda: self._expire(message))
        return message.sequence

    def _parsed(self, raw: bytes) -> Message:
        found = list(sections(raw))
        message = Message(0, found, self._now())
        properties = message.section(PROPERTIES) or []
        message.message_id = properties[MESSAGE_ID] if properties else None
        message.session_id = properties[GROUP_ID] if len(properties) > GROUP_ID else None
        due = (message.section(MESSAGE_ANNOTATIONS) or {}).get(SCHEDULED_FOR)
        message.scheduled_for = due.as_datetime() if isinstance(due, Timestamp) else None
        header = message.section(HEADER) or []
        ttl = header[2] / 1000 if len(header) > 2 and header[2] else self.spec.default_time_to_live
        begins = max(self._now(), message.scheduled_for or self._now())
        message.expires_at = begins + timedelta(seconds=min(ttl, self.spec.default_time_to_live))
        return message

    def _is_duplicate(self, message_id: Any) -> bool:
        now = self._now()
        while self._id_expiries and self._id_expiries[0][0] <= now:
            self._known_ids.pop(self._id_expiries.popleft()[1], None)
        if not self.spec.duplicate_detection_window or message_id is None:
            return False
        if message_id in self._known_ids:
            return True
        until = now + timedelta(seconds=self.spec.duplicate_detection_window)
        self._known_ids[message_id] = until
        self._id_expiries.append((until, message_id))
        return False

    def cancel_scheduled(self, sequence: int) -> None:
        message = self.messages.get(sequence)
        if message is None or message.state != SCHEDULED:
            raise message_not_found()
        del self.messages[sequence]

    def _activate(self, message: Message) -> None:
        """A scheduled message becomes active, under a new sequence number: it is enqueued only now."""
        if self.messages.get(message.sequence) is not message or message.state != SCHEDULED:
            return
        del self.messages[message.sequence]
        message.sequence = next(self._sequence)
        message.state = ACTIVE
        message.enqueued_at = self._now()
        self.messages[message.sequence] = message
        self._offer(message)

    def _expire(self, message: Message) -> None:
        if self.messages.get(message.sequence) is message and message.lock is None:
            self._bury(message, "TTLExpiredException", "The message expired and was dead lettered.")

    # ------------------------------------------------------------------------------------------------------ delivery

    def session(self, session_id: str | None) -> Session:
        return self._sessions.setdefault(session_id, Session(session_id))

    def _offer(self, message: Message) -> None:
        session = self.session(message.session_id if self.has_sessions else None)
        heapq.heappush(session.available, message.sequence)
        if not self.has_sessions:
            for consumer in list(self.consumers):
                consumer.on_available()
        elif session.owner is not None:
            session.owner.on_available()
        else:
            self._make_ready(session)

    def take(self, session: Session, *, delete: bool = False) -> Message | None:
        """The next message of this session, locked, or gone from the queue with `delete`; None if there is none."""
        while session.available:
            message = self.messages.get(heapq.heappop(session.available))
            if message is None or message.state != ACTIVE or message.lock is not None:
                continue
            if delete:
                del self.messages[message.sequence]
            else:
                self.lock(message, session)
            return message
        return None

    def lock(self, message: Message, session: Session) -> Lock:
        until = self._now() + timedelta(seconds=self.spec.lock_duration)
        lock = Lock(uuid.uuid4(), until, session if self.has_sessions else None)
        message.lock = lock
        self._locks[lock.token] = message
        if lock.session is None:
            self._at(until, lambda: self._lock_may_expire(message, lock))
        return lock

    def renew_lock(self, token: uuid.UUID) -> datetime:
        message = self.locked(token)
        lock = message.lock
        if lock is None or lock.session is not None:
            raise message_lock_lost()
        lock.until = self._now() + timedelta(seconds=self.spec.lock_duration)
        self._at(lock.until, lambda: self._lock_may_expire(message, lock))
        return lock.until

    def _lock_may_expire(self, message: Message, lock: Lock) -> None:
        if message.lock is lock and lock.until <= self._now():
            self._give_back(message, count=True)

    def locked(self, token: uuid.UUID) -> Message:
        """The message under this lock. Raises BrokerError if it is lost."""
        message = self._locks.get(token)
        if message is None:
            raise session_lock_lost() if self.has_sessions else message_lock_lost()
        return message

    # ---------------------------------------------------------------------------------------------------- settlement

    def complete(self, token: uuid.UUID) -> None:
        message = self.locked(token)
        self._unlock(message)
        del self.messages[message.sequence]

    def abandon(self, token: uuid.UUID, *, count: bool = True) -> None:
        """Give a message back; with `count`, as a failed delivery."""
        self._give_back(self.locked(token), count=count)

    def defer(self, token: uuid.UUID) -> None:
        message = self.locked(token)
        self._unlock(message)
        message.state = DEFERRED

    def dead_letter(self, token: uuid.UUID, reason: str | None, description: str | None) -> None:
        message = self.locked(token)
        self._unlock(message)
        self._bury(message, reason, description)

    def _unlock(self, message: Message) -> None:
        if message.lock is not None:
            self._locks.pop(message.lock.token, None)
            message.lock = None

    def _give_back(self, message: Message, *, count: bool) -> None:
        self._unlock(message)
        if count:
            message.delivery_count += 1
            if message.delivery_count >= self.spec.max_delivery_count and self.dead_letters is not None:
                text = f"Message could not be consumed after {message.delivery_count} delivery attempts."
                self._bury(message, "MaxDeliveryCountExceeded", text)
                return
        if message.expires_at and message.expires_at <= self._now():
            self._expire(message)
        elif message.state == ACTIVE:
            self._offer(message)

    def _bury(self, message: Message, reason: str | None, description: str | None) -> None:
        del self.messages[message.sequence]
        if self.dead_letters is None:
            return
        values = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        message.dead_letter = {name: value for name, value in values.items() if value is not None}
        message.dead_letter_source = self.spec.name
        message.state, message.expires_at = ACTIVE, None
        self.dead_letters.adopt(message)

    def adopt(self, message: Message) -> None:
        message.sequence = next(self._sequence)
        self.messages[message.sequence] = message
        self._offer(message)

    # ------------------------------------------------------------------------------------------------------ sessions

    def accept(self, session_id: str, owner: Consumer) -> Session:
        """Lock a session by name. Raises BrokerError if somebody holds it."""
        session = self.session(session_id)
        if session.locked_until is not None:
            text = f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver."
            raise BrokerError("com.microsoft:session-cannot-be-locked", text)
        self.hold(session, owner)
        return session

    def wait_for_session(self, waiter: Callable[[Session], None]) -> None:
        """Call `waiter` with the next session that has messages and no owner; it must `hold` it."""
        self.waiters.append(waiter)
        self._match()

    def hold(self, session: Session, owner: Consumer) -> None:
        session.owner = owner
        self._extend(session)

    def renew_session(self, session_id: str) -> datetime:
        session = self.session(session_id)
        if session.locked_until is None:
            raise session_lock_lost()
        return self._extend(session)

    def _extend(self, session: Session) -> datetime:
        until = self._now() + timedelta(seconds=self.spec.lock_duration)
        session.locked_until = until
        self._at(until, lambda: self._session_may_expire(session))
        return until

    def _session_may_expire(self, session: Session) -> None:
        if session.locked_until is not None and session.locked_until <= self._now():
            owner = session.owner
            self.release(session, count=True)
            if owner is not None:
                owner.on_session_lost()

    def release(self, session: Session, *, count: bool) -> None:
        """End the lock of a session; its unsettled messages come back."""
        session.owner, session.locked_until = None, None
        for message in [found for found in self._locks.values() if found.lock and found.lock.session is session]:
            self._give_back(message, count=count)
        self._make_ready(session)

    def _make_ready(self, session: Session) -> None:
        if session.available and session.locked_until is None and not session.queued:
            session.queued = True
            self._ready.append(session)
        self._match()

    def _match(self) -> None:
        while self.waiters and self._ready:
            session = self._ready.popleft()
            session.queued = False
            session.available = [number for number in session.available if self._is_available(number)]
            heapq.heapify(session.available)
            if session.available and session.locked_until is None:
                self.waiters.popleft()(session)

    def _is_available(self, sequence: int) -> bool:
        message = self.messages.get(sequence)
        return message is not None and message.state == ACTIVE and message.lock is None

    def locked_sessions(self) -> list[str]:
        return [str(session.id) for session in self._sessions.values() if session.locked_until is not None]

    # -------------------------------------------------------------------------------------------------------- looking

    def peek(self, from_sequence: int, count: int, session_id: str | None) -> list[Message]:
        found = (message for number, message in sorted(self.messages.items()) if number >= from_sequence)
        wanted = (message for message in found if session_id is None or message.session_id == session_id)
        return list(itertools.islice(wanted, count))

    def deferred(self, sequence: int, session_id: str | None) -> Message:
        message = self.messages.get(sequence)
        if message is None or message.state != DEFERRED or message.lock is not None:
            raise message_not_found()
        if session_id is not None and message.session_id != session_id:
            raise message_not_found()
        return message

    def sessions_with_messages(self) -> list[str]:
        return sorted({message.session_id for message in self.messages.values() if message.session_id})

    def purge(self) -> int:
        count = len(self.messages)
        for message in self.messages.values():
            self._unlock(message)
        self.messages.clear()
        return count

    def __iter__(self) -> Iterator[Message]:
        return iter(sorted(self.messages.values(), key=lambda message: message.sequence))
