"""Queues with peek-lock, sessions, duplicate detection, scheduling and dead letters: no wire, no tasks, one clock.

Every public method that depends on time first lets happen what is due, so that no answer comes from an outdated state.
"""

import heapq
import itertools
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from emulator.service_bus.entities import (
    ACTIVE,
    DEFERRED,
    SCHEDULED,
    BrokerError,
    Consumer,
    Lock,
    Message,
    Session,
    message_lock_lost,
    message_not_found,
    session_lock_lost,
)
from emulator.service_bus.timers import Timers
from emulator.topology import QueueSpec


class Queue:
    """A queue, or a dead-letter queue, which has no sessions, no expiry, no limit of deliveries and takes nothing in."""

    def __init__(self, spec: QueueSpec, timers: Timers, *, is_dead_letter: bool = False) -> None:
        self.spec = spec
        self.name = f"{spec.name}/$DeadLetterQueue" if is_dead_letter else spec.name
        self.has_sessions = spec.requires_session and not is_dead_letter
        self.dead_letters = None if is_dead_letter else Queue(spec, timers, is_dead_letter=True)
        self._timers = timers
        self._lock_duration = timedelta(seconds=spec.lock_duration)
        self._messages: dict[int, Message] = {}
        self._sequence = itertools.count(1)
        self._locks: dict[uuid.UUID, Message] = {}
        self._consumers: deque[Consumer] = deque()
        self._sessions: dict[str | None, Session] = {}
        self._offered: deque[Session] = deque()
        self._waiters: dict[Callable[[Session], None], None] = {}
        self._known_ids: dict[Any, datetime] = {}

    # --------------------------------------------------------------------------------------------------------- send

    def parsed(self, raw: bytes) -> Message:
        """The message that was sent. Raises BrokerError if this queue can never take it."""
        message = Message.received(raw, self._timers.now())
        if self.dead_letters is None:
            raise BrokerError("amqp:not-allowed", f"Nothing can be sent to '{self.name}': send to '{self.spec.name}'.")
        if self.has_sessions and message.session_id is None:
            raise BrokerError(
                "amqp:not-allowed",
                "The SessionId was not set on a message, and it cannot be sent to the entity. Entities that have session "
                "support enabled can only receive messages that have the SessionId set to a valid value.",
            )
        return message

    def send(self, message: Message) -> int:
        """Take a message; its sequence number, 0 for a duplicate, which is dropped as the service does."""
        self._timers.run()
        if self._is_duplicate(message.message_id):
            return 0
        message.sequence = message.submitted_as = next(self._sequence)
        self._messages[message.sequence] = message
        message.enqueued_at = self._timers.now()
        due = message.scheduled_for
        if due and due > message.enqueued_at:
            message.state, message.enqueued_at = SCHEDULED, due
            self._timers.at(due, partial(self._activate, message.sequence))
        else:
            self._begin(message)
        return message.sequence

    def _is_duplicate(self, message_id: Any) -> bool:
        if not self.spec.duplicate_detection_window or message_id is None:
            return False
        outdated = self._timers.now() - timedelta(seconds=self.spec.duplicate_detection_window)
        while self._known_ids and next(iter(self._known_ids.values())) <= outdated:
            del self._known_ids[next(iter(self._known_ids))]
        if message_id in self._known_ids:
            return True
        self._known_ids[message_id] = self._timers.now()
        return False

    def cancel_scheduled(self, sequences: Iterable[int]) -> None:
        """All of them or, if one is not there (any more), none."""
        self._timers.run()
        for message in self._found(sequences, SCHEDULED, "scheduled"):
            del self._messages[message.sequence]

    def _activate(self, sequence: int) -> None:
        """A scheduled message becomes active, under a new sequence number: it is enqueued only now."""
        if message := self._messages.pop(sequence, None):
            message.sequence, message.state = next(self._sequence), ACTIVE
            self._messages[message.sequence] = message
            self._begin(message)

    def _begin(self, message: Message) -> None:
        longest = timedelta(seconds=self.spec.default_time_to_live)
        message.expires_at = message.enqueued_at + min(message.time_to_live or longest, longest)
        self._timers.at(message.expires_at, partial(self._expire, message.sequence))
        self._offer(message)

    def _expire(self, sequence: int) -> None:
        """A locked message is looked at again when it comes back; a deferred one when somebody asks for it, as in Azure."""
        message = self._messages.get(sequence)
        if message and message.lock is None and message.state == ACTIVE and self._is_expired(message):
            self._bury_expired(message)

    def _is_expired(self, message: Message) -> bool:
        return message.expires_at is not None and message.expires_at <= self._timers.now()

    def _bury_expired(self, message: Message) -> None:
        self._bury(message, "TTLExpiredException", "The message expired and was dead lettered.")

    # ------------------------------------------------------------------------------------------------------ delivery

    def session(self, session_id: str | None) -> Session:
        return self._sessions.setdefault(session_id, Session(session_id))

    def join(self, consumer: Consumer) -> None:
        """A consumer of a queue without sessions: it hears of messages from now on."""
        if self.has_sessions:
            raise BrokerError(
                "amqp:not-allowed",
                "It is not possible for an entity that requires sessions to create a non-sessionful message receiver.",
            )
        consumer.session = self.session(None)
        self._consumers.append(consumer)

    def _offer(self, message: Message) -> None:
        session = self.session(message.session_id if self.has_sessions else None)
        heapq.heappush(session.available, message.sequence)
        if not self.has_sessions:
            self._offer_to_consumers()
        elif session.owner is not None:
            session.owner.on_available()
        else:
            self._offer_session(session)

    def _offer_to_consumers(self) -> None:
        """To who has waited longest; who takes a message goes to the end of the line."""
        for consumer in list(self._consumers):
            if consumer.on_available():
                self._consumers.remove(consumer)
                self._consumers.append(consumer)
                return

    def take(self, consumer: Consumer, *, delete: bool = False) -> Message | None:
        """The next message for this consumer, locked, or gone from the queue with `delete`; None if there is none."""
        self._timers.run()
        session = consumer.session
        if session is None or (self.has_sessions and session.owner is not consumer):
            return None
        while session.available:
            message = self._messages.get(heapq.heappop(session.available))
            if message is None or not self._is_available(message):
                continue
            if delete:
                del self._messages[message.sequence]
            else:
                self._lock(message, session)
            return message
        return None

    def _is_available(self, message: Message) -> bool:
        return message.state == ACTIVE and message.lock is None

    def _lock(self, message: Message, session: Session) -> None:
        lock = Lock(uuid.uuid4(), self._timers.now(), session if self.has_sessions else None)
        message.lock = lock
        self._locks[lock.token] = message
        if lock.session is None:
            self._start(lock)

    def _start(self, lock: Lock) -> datetime:
        lock.until = self._timers.now() + self._lock_duration
        self._timers.at(lock.until, partial(self._lock_may_expire, lock.token))
        return lock.until

    def _lock_may_expire(self, token: uuid.UUID) -> None:
        message = self._locks.get(token)
        if message and message.lock and message.lock.until <= self._timers.now():
            self._give_back(message, count=True)

    def renew_lock(self, token: uuid.UUID) -> datetime:
        message = self.locked(token)
        if message.lock is None or message.lock.session is not None:
            raise message_lock_lost()
        return self._start(message.lock)

    def locked(self, token: uuid.UUID, consumer: Consumer | None = None) -> Message:
        """The message under this lock. Raises BrokerError if it is lost: the session's lock, if that is what was lost."""
        self._timers.run()
        message = self._locks.get(token)
        if message is None:
            if self.has_sessions:
                self.held(consumer)
            raise message_lock_lost()
        return message

    # ---------------------------------------------------------------------------------------------------- settlement

    def complete(self, token: uuid.UUID, consumer: Consumer | None = None) -> None:
        message = self.locked(token, consumer)
        self._unlock(message)
        del self._messages[message.sequence]

    def abandon(self, token: uuid.UUID, consumer: Consumer | None = None) -> None:
        """Give a message back as a failed delivery."""
        self._give_back(self.locked(token, consumer), count=True)

    def release(self, token: uuid.UUID, consumer: Consumer | None = None) -> None:
        """Give a message back as if it had never been delivered."""
        self._give_back(self.locked(token, consumer), count=False)

    def defer(self, token: uuid.UUID, consumer: Consumer | None = None) -> None:
        """It counts as a delivery, and the last one allowed is not deferred but dead-lettered, as in Azure."""
        message = self.locked(token, consumer)
        message.state = DEFERRED
        self._give_back(message, count=True)

    def dead_letter(
        self, token: uuid.UUID, reason: str | None, description: str | None, consumer: Consumer | None = None
    ) -> None:
        message = self.locked(token, consumer)
        if self.dead_letters is None:
            raise BrokerError("amqp:not-allowed", f"A message of '{self.name}' cannot be dead-lettered once more.")
        self._unlock(message)
        self._bury(message, reason, description)

    def _unlock(self, message: Message) -> None:
        if message.lock is not None:
            self._locks.pop(message.lock.token, None)
            message.lock = None

    def _give_back(self, message: Message, *, count: bool) -> None:
        self._unlock(message)
        message.delivery_count += count
        limit = self.spec.max_delivery_count
        if count and self.dead_letters is not None and message.delivery_count >= limit:
            text = f"Message could not be consumed after {limit} delivery attempts."
            self._bury(message, "MaxDeliveryCountExceeded", text)
        elif message.state == ACTIVE and self._is_expired(message):
            self._bury_expired(message)
        elif message.state == ACTIVE:
            self._offer(message)

    def _bury(self, message: Message, reason: str | None, description: str | None) -> None:
        """The message keeps its sequence number."""
        assert self.dead_letters is not None  # noqa: S101 - in a dead-letter queue nothing is counted or expires
        del self._messages[message.sequence]
        values = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        message.dead_letter = {name: value for name, value in values.items() if value is not None}
        message.dead_letter_source = self.spec.name
        message.state, message.expires_at = ACTIVE, None
        self.dead_letters.adopt(message)

    def adopt(self, message: Message) -> None:
        self._messages[message.sequence] = message
        self._offer(message)

    def take_deferred(
        self, sequences: Iterable[int], *, consumer: Consumer | None = None, delete: bool = False
    ) -> list[Message]:
        """Deferred messages, locked, or gone from the queue with `delete`: all of them or none."""
        self._timers.run()
        session = self.held(consumer) if self.has_sessions else self.session(None)
        found = self._found(sequences, DEFERRED, "deferred")
        for message in found:
            if self._is_expired(message):
                self._bury_expired(message)
            if message.lock or message.state != DEFERRED or (self.has_sessions and message.session_id != session.id):
                raise message_not_found(message.sequence, "deferred")
        for message in found:
            if delete:
                del self._messages[message.sequence]
            else:
                self._lock(message, session)
        return found

    def _found(self, sequences: Iterable[int], state: int, kind: str) -> list[Message]:
        found = []
        for sequence in sequences:
            message = self._messages.get(sequence)
            if message is None or message.state != state:
                raise message_not_found(sequence, kind)
            found.append(message)
        return found

    # ------------------------------------------------------------------------------------------------------ sessions

    def accept(self, session_id: str, owner: Consumer) -> Session:
        """Lock a session by name. Raises BrokerError if somebody holds it."""
        self._timers.run()
        self._refuse_without_sessions()
        session = self.session(session_id)
        if session.locked_until is not None:
            text = f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver."
            raise BrokerError("com.microsoft:session-cannot-be-locked", text)
        self.hold(session, owner)
        return session

    def wait_for_session(self, waiter: Callable[[Session], None]) -> None:
        """Call `waiter` with the next session that has messages and no owner; it must `hold` it. First come, first served."""
        self._timers.run()
        self._refuse_without_sessions()
        self._waiters[waiter] = None
        self._match()

    def stop_waiting(self, waiter: Callable[[Session], None]) -> None:
        self._waiters.pop(waiter, None)

    def _refuse_without_sessions(self) -> None:
        if not self.has_sessions:
            raise BrokerError(
                "amqp:not-allowed",
                "A sessionful message receiver cannot be created on an entity that does not require sessions.",
            )

    def hold(self, session: Session, owner: Consumer) -> None:
        session.owner = owner
        owner.session = session
        self._extend(session)

    def held(self, consumer: Consumer | None) -> Session:
        """The session that this consumer holds. Raises BrokerError if it does not (any more)."""
        self._timers.run()
        session = consumer.session if consumer else None
        if session is None or session.owner is not consumer:
            raise session_lock_lost()
        return session

    def renew_session(self, consumer: Consumer | None) -> datetime:
        return self._extend(self.held(consumer))

    def _extend(self, session: Session) -> datetime:
        until = self._timers.now() + self._lock_duration
        session.locked_until = until
        self._timers.at(until, partial(self._session_may_expire, session))
        return until

    def _session_may_expire(self, session: Session) -> None:
        if session.locked_until is not None and session.locked_until <= self._timers.now():
            owner = session.owner
            self._free(session, count=True)
            if owner is not None:
                owner.on_session_lost()

    def leave(self, consumer: Consumer) -> None:
        """In good order: a session is free at once, and its messages come back uncounted.

        Without a session, what is locked stays so until the lock expires, as in Azure.
        """
        self._timers.run()
        session = consumer.session
        self.vanish(consumer)
        if self.has_sessions and session is not None and session.owner is consumer:
            self._free(session, count=False)

    def vanish(self, consumer: Consumer) -> None:
        """Without a word: the consumer takes no more, but its locks stay until they expire."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def _free(self, session: Session, *, count: bool) -> None:
        session.owner, session.locked_until = None, None
        for message in [found for found in self._locks.values() if found.lock and found.lock.session is session]:
            self._give_back(message, count=count)
        self._offer_session(session)

    def _offer_session(self, session: Session) -> None:
        if session.available and session.locked_until is None and not session.is_offered:
            session.is_offered = True
            self._offered.append(session)
        self._match()

    def _match(self) -> None:
        """First come, first served, on both sides."""
        while self._waiters and self._offered:
            session = self._offered.popleft()
            session.is_offered = False
            if session.locked_until is None and self._has_messages(session):
                waiter = next(iter(self._waiters))
                del self._waiters[waiter]
                waiter(session)

    def _has_messages(self, session: Session) -> bool:
        """Numbers of messages that are gone fall out here, or when they are taken."""
        while session.available:
            message = self._messages.get(session.available[0])
            if message is not None and self._is_available(message):
                return True
            heapq.heappop(session.available)
        return False

    def locked_sessions(self) -> list[str]:
        self._timers.run()
        return [str(session.id) for session in self._sessions.values() if session.locked_until is not None]

    def sessions_with_messages(self) -> list[str]:
        self._timers.run()
        return sorted({message.session_id for message in self._messages.values() if message.session_id})

    # -------------------------------------------------------------------------------------------------------- looking

    def peek(self, from_sequence: int, count: int, session_id: str | None = None) -> list[Message]:
        """Messages in whatever state, in order of their sequence numbers, untouched."""
        found = (message for message in self if message.sequence >= from_sequence)
        wanted = (message for message in found if session_id is None or message.session_id == session_id)
        return list(itertools.islice(wanted, count))

    def purge(self) -> int:
        """Remove all messages, locked ones too; how many there were."""
        count = len(self._messages)
        for message in self._messages.values():
            self._unlock(message)
        self._messages.clear()
        return count

    def __iter__(self) -> Iterator[Message]:
        self._timers.run()
        return iter(sorted(self._messages.values(), key=lambda message: message.sequence))
