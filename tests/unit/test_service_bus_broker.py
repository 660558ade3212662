"""The queues of the local Service Bus without any wire: what happens to messages, and when."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from emulator.service_bus.broker import Queue
from emulator.service_bus.codec import (
    APPLICATION_PROPERTIES,
    DATA,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    VALUE,
    Byte,
    Described,
    Float,
    Int,
    MalformedFrameError,
    Opaque,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
    decode,
    encode,
    sections,
)
from emulator.service_bus.entities import ACTIVE, DEFERRED, SCHEDULED, BrokerError, Message, Session
from emulator.service_bus.timers import Timers
from emulator.topology import QueueSpec

LOCK, WINDOW, LIFE = 60.0, 600.0, 3600.0
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Bench:
    """A queue and a clock that stands still until it is moved; nothing is due until somebody asks."""

    def __init__(self, **spec: Any) -> None:
        self.now = BEGIN
        self.timers = Timers(lambda: self.now)
        known = {"lock_duration": LOCK, "duplicate_detection_window": WINDOW, "default_time_to_live": LIFE}
        self.queue = Queue(QueueSpec("orders", **(known | {"requires_session": False} | spec)), self.timers)

    @property
    def dead(self) -> Queue:
        assert self.queue.dead_letters is not None
        return self.queue.dead_letters

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def send(self, body: str, **properties: Any) -> int:
        return self.queue.send(self.queue.parsed(encoded(body, **properties)))

    def bodies(self, queue: Queue | None = None) -> list[str]:
        return [message.text for message in (queue or self.queue)]


class Receiver:
    """Takes what its credit allows, as a link does."""

    def __init__(self, queue: Queue, credit: int = 0, *, delete: bool = False) -> None:
        self.queue = queue
        self.delete = delete
        self.session: Session | None = None
        self.taken: list[Message] = []
        self.tokens: list[uuid.UUID] = []
        self.has_lost_session = False
        self.credit = credit

    def receive(self, credit: int = 1) -> list[str]:
        before = len(self.taken)
        self.credit += credit
        self.on_available()
        self.credit = 0
        return [message.text for message in self.taken[before:]]

    def on_available(self) -> bool:
        before = len(self.taken)
        while self.credit and (message := self.queue.take(self, delete=self.delete)):
            self.credit -= 1
            self.taken.append(message)
            if message.lock:
                self.tokens.append(message.lock.token)
        return len(self.taken) > before

    def on_session_lost(self) -> None:
        self.has_lost_session = True

    @property
    def token(self) -> uuid.UUID:
        return self.tokens[-1]


def encoded(
    body: str,
    *,
    message_id: Any = None,
    session_id: str | None = None,
    due: datetime | None = None,
    ttl: float | None = None,
    application: dict[str, Any] | None = None,
) -> bytes:
    properties = [message_id, *[None] * 9, session_id]
    annotations = {Symbol("x-opt-scheduled-enqueue-time"): Timestamp.of(due)} if due else {}
    parts = {
        HEADER: [None, None, UInt(int(ttl * 1000)) if ttl else None],
        MESSAGE_ANNOTATIONS: annotations,
        PROPERTIES: properties,
        APPLICATION_PROPERTIES: application or {},
        DATA: body.encode(),
    }
    return b"".join(encode(Described(code, value)) for code, value in parts.items())


def joined(bench: Bench, *, credit: int = 0, delete: bool = False, queue: Queue | None = None) -> Receiver:
    receiver = Receiver(queue or bench.queue, credit, delete=delete)
    receiver.queue.join(receiver)
    return receiver


def accepted(bench: Bench, session_id: str) -> Receiver:
    receiver = Receiver(bench.queue)
    bench.queue.accept(session_id, receiver)
    return receiver


def waiting(bench: Bench) -> Receiver:
    """A receiver that waits for whatever session is next."""
    receiver = Receiver(bench.queue)
    bench.queue.wait_for_session(lambda session: bench.queue.hold(session, receiver))
    return receiver


def held_by(receiver: Receiver) -> str | None:
    return receiver.session.id if receiver.session else None


def refused(condition: str, action: Callable[[], object]) -> None:
    with pytest.raises(BrokerError) as caught:
        action()
    assert caught.value.condition == condition


# ------------------------------------------------------------------------------------------------------------- settling

Settle = Callable[[Queue, uuid.UUID], None]
SETTLEMENTS: dict[str, tuple[Settle, list[tuple[str, int, int]], list[str]]] = {
    # what is done                                    -> (body, state, delivery count) left, bodies dead-lettered
    "complete": (lambda queue, token: queue.complete(token), [], []),
    "abandon": (lambda queue, token: queue.abandon(token), [("m", ACTIVE, 1)], []),
    "release": (lambda queue, token: queue.release(token), [("m", ACTIVE, 0)], []),
    "defer": (lambda queue, token: queue.defer(token), [("m", DEFERRED, 1)], []),
    "dead-letter": (lambda queue, token: queue.dead_letter(token, "why", "how"), [], ["m"]),
}


@pytest.mark.parametrize("name", SETTLEMENTS)
def test_settling(name: str) -> None:
    settle, left, dead = SETTLEMENTS[name]
    bench = Bench()
    bench.send("m")
    receiver = joined(bench)
    assert receiver.receive() == ["m"]
    settle(bench.queue, receiver.token)
    assert [(message.text, message.state, message.delivery_count) for message in bench.queue] == left
    assert bench.bodies(bench.dead) == dead
    refused("com.microsoft:message-lock-lost", lambda: settle(bench.queue, receiver.token))


@pytest.mark.parametrize("name", SETTLEMENTS)
def test_nothing_is_settled_under_a_lock_that_has_expired(name: str) -> None:
    bench = Bench()
    bench.send("m")
    receiver = joined(bench)
    receiver.receive()
    bench.pass_time(LOCK)
    refused("com.microsoft:message-lock-lost", lambda: SETTLEMENTS[name][0](bench.queue, receiver.token))
    assert [message.delivery_count for message in bench.queue] == [1]
    assert receiver.receive() == ["m"]


def test_a_lock_that_is_renewed_holds_on() -> None:
    bench = Bench()
    bench.send("m")
    receiver = joined(bench)
    receiver.receive()
    bench.pass_time(LOCK - 1)
    assert bench.queue.renew_lock(receiver.token) == bench.now + timedelta(seconds=LOCK)
    bench.pass_time(LOCK - 1)
    bench.queue.complete(receiver.token)
    assert bench.bodies() == []


def test_what_comes_back_keeps_its_place() -> None:
    bench = Bench()
    for body in ("1", "2", "3"):
        bench.send(body)
    receiver = joined(bench)
    receiver.receive(2)
    bench.queue.abandon(receiver.tokens[1])
    bench.queue.abandon(receiver.tokens[0])
    assert receiver.receive(3) == ["1", "2", "3"]


def test_receive_and_delete_leaves_nothing() -> None:
    bench = Bench()
    bench.send("m")
    assert joined(bench, delete=True).receive() == ["m"]
    assert bench.bodies() == []


def test_receivers_with_credit_take_turns() -> None:
    bench = Bench()
    receivers = [joined(bench, credit=3) for _ in range(3)]
    for number in range(6):
        bench.send(str(number))
    assert [[message.text for message in receiver.taken] for receiver in receivers] == [
        ["0", "3"], ["1", "4"], ["2", "5"],
    ]  # fmt: skip


@pytest.mark.parametrize("clean", [True, False])
def test_without_sessions_locks_outlive_their_receiver(clean: bool) -> None:
    bench = Bench()
    bench.send("m")
    gone = joined(bench)
    gone.receive()
    (bench.queue.leave if clean else bench.queue.vanish)(gone)
    next_one = joined(bench)
    assert next_one.receive() == []
    bench.pass_time(LOCK)
    assert next_one.receive() == ["m"]
    assert next_one.taken[0].delivery_count == 1


# ---------------------------------------------------------------------------------------------------------- dead letters


@pytest.mark.parametrize("fail", ["abandon", "lock expires", "defer"])
def test_the_last_delivery_allowed_is_the_end(fail: str) -> None:
    bench = Bench(max_delivery_count=2)
    bench.send("m")
    receiver = joined(bench)
    for delivery in range(2):
        assert bench.bodies() == ["m"], f"gone before delivery {delivery}"
        if fail == "defer" and delivery == 1:
            bench.queue.take_deferred([1])
            (token,) = [message.lock.token for message in bench.queue if message.lock]
            bench.queue.defer(token)
            continue
        assert receiver.receive() == ["m"]
        if fail == "lock expires":
            bench.pass_time(LOCK)
        else:
            getattr(bench.queue, fail)(receiver.token)
    assert bench.bodies() == []
    (dead,) = bench.dead
    assert dead.dead_letter == {
        "DeadLetterReason": "MaxDeliveryCountExceeded",
        "DeadLetterErrorDescription": "Message could not be consumed after 2 delivery attempts.",
    }


def test_a_dead_letter_keeps_its_number_and_tells_its_reason() -> None:
    bench = Bench()
    bench.send("other")
    number = bench.send("m", application={"kept": Short(3), "ratio": Float(0.5)})
    receiver = joined(bench)
    receiver.receive(2)
    bench.queue.dead_letter(receiver.token, "why", None)
    (dead,) = bench.dead
    assert (dead.sequence, dead.dead_letter_source) == (number, "orders")
    found = {section.code: section.value for section in sections(dead.encoded())}
    assert found[APPLICATION_PROPERTIES] == {"kept": 3, "ratio": 0.5, "DeadLetterReason": "why"}
    assert isinstance(found[APPLICATION_PROPERTIES]["kept"], Short)
    assert [section.code for section in sections(dead.encoded())] == [
        HEADER, MESSAGE_ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES, DATA,
    ]  # fmt: skip


def test_the_dead_letter_queue_is_an_end() -> None:
    bench = Bench(max_delivery_count=1, requires_session=True)
    bench.send("m", session_id="a")
    first = accepted(bench, "a")
    first.receive()
    bench.queue.dead_letter(first.token, None, None)
    receiver = joined(bench, queue=bench.dead)
    for _ in range(3):
        assert receiver.receive() == ["m"]
        bench.dead.abandon(receiver.token)
    bench.pass_time(LIFE)
    assert receiver.receive() == ["m"]
    refused("amqp:not-allowed", lambda: bench.dead.dead_letter(receiver.token, None, None))
    refused("amqp:not-allowed", lambda: bench.dead.parsed(encoded("m")))
    bench.dead.complete(receiver.token)
    assert bench.bodies(bench.dead) == []


@pytest.mark.parametrize(
    ("ttl", "dies_after"),
    [(None, LIFE), (10.0, 10.0), (LIFE * 2, LIFE)],
    ids=["the queue's", "its own", "not above the queue's"],
)
def test_time_to_live(ttl: float | None, dies_after: float) -> None:
    bench = Bench()
    bench.send("m", ttl=ttl)
    bench.pass_time(dies_after - 1)
    assert bench.bodies() == ["m"]
    bench.pass_time(1)
    assert bench.bodies() == []
    assert [message.dead_letter["DeadLetterReason"] for message in bench.dead] == ["TTLExpiredException"]


def test_a_locked_message_expires_when_it_comes_back() -> None:
    bench = Bench()
    bench.send("m", ttl=10)
    receiver = joined(bench)
    receiver.receive()
    bench.pass_time(20)
    assert bench.bodies() == ["m"]
    bench.queue.abandon(receiver.token)
    assert (bench.bodies(), bench.bodies(bench.dead)) == ([], ["m"])


def test_a_deferred_message_expires_when_it_is_asked_for() -> None:
    bench = Bench()
    number = bench.send("m", ttl=10)
    receiver = joined(bench)
    receiver.receive()
    bench.queue.defer(receiver.token)
    bench.pass_time(20)
    assert bench.bodies() == ["m"]
    refused("com.microsoft:message-not-found", lambda: bench.queue.take_deferred([number]))
    assert (bench.bodies(), bench.bodies(bench.dead)) == ([], ["m"])


# -------------------------------------------------------------------------------------------- duplicates and schedules


@pytest.mark.parametrize(
    ("message_id", "after", "taken"),
    [("x", 0, False), ("x", WINDOW - 1, False), ("x", WINDOW, True), ("y", 0, True), (None, 0, True)],
)
def test_duplicates(message_id: str | None, after: float, taken: bool) -> None:
    bench = Bench()
    bench.send("first", message_id="x")
    bench.send("anonymous", message_id=None)
    bench.pass_time(after)
    assert (bench.send("second", message_id=message_id) > 0) is taken
    assert ("second" in bench.bodies()) is taken


def test_a_completed_message_is_still_known_as_a_duplicate_and_without_a_window_nothing_is() -> None:
    bench = Bench()
    bench.send("m", message_id="x")
    receiver = joined(bench)
    receiver.receive()
    bench.queue.complete(receiver.token)
    assert bench.send("again", message_id="x") == 0
    without = Bench(duplicate_detection_window=0)
    assert (without.send("m", message_id="x"), without.send("m", message_id="x")) == (1, 2)


def test_a_scheduled_message_is_enqueued_when_it_is_due() -> None:
    bench = Bench()
    number = bench.send("later", due=BEGIN + timedelta(seconds=100), ttl=10)
    bench.send("now")
    receiver = joined(bench, credit=9)
    receiver.on_available()
    assert [message.text for message in receiver.taken] == ["now"]
    assert [message.state for message in bench.queue] == [SCHEDULED, ACTIVE]
    bench.pass_time(100)
    bench.timers.run()
    late = receiver.taken[-1]
    assert (late.text, late.enqueued_at, late.expires_at) == ("later", bench.now, bench.now + timedelta(seconds=10))
    assert late.sequence > number == late.submitted_as
    refused("com.microsoft:message-not-found", lambda: bench.queue.cancel_scheduled([number]))


def test_scheduled_messages_are_cancelled_all_or_none() -> None:
    bench = Bench()
    numbers = [bench.send(body, due=BEGIN + timedelta(seconds=9)) for body in "ab"]
    refused("com.microsoft:message-not-found", lambda: bench.queue.cancel_scheduled([*numbers, 99]))
    assert bench.bodies() == ["a", "b"]
    bench.queue.cancel_scheduled(numbers)
    bench.pass_time(9)
    assert bench.bodies() == []


def test_a_time_in_the_past_is_now() -> None:
    bench = Bench()
    bench.send("m", due=BEGIN - timedelta(seconds=1))
    assert joined(bench).receive() == ["m"]


# --------------------------------------------------------------------------------------------------- deferred and peek


def test_deferred_messages_are_taken_all_or_none() -> None:
    bench = Bench()
    for body in "abc":
        bench.send(body)
    receiver = joined(bench)
    receiver.receive(2)
    for token in receiver.tokens:
        bench.queue.defer(token)
    refused("com.microsoft:message-not-found", lambda: bench.queue.take_deferred([1, 3]))
    assert [message.text for message in bench.queue.take_deferred([1], delete=True)] == ["a"]
    (held,) = bench.queue.take_deferred([2])
    refused("com.microsoft:message-not-found", lambda: bench.queue.take_deferred([2]))
    bench.pass_time(LOCK)
    left = [(message.text, message.state, message.delivery_count) for message in bench.queue]
    assert left == [("b", DEFERRED, 2), ("c", ACTIVE, 0)]
    assert held.lock is None


def test_peek_sees_everything_and_touches_nothing() -> None:
    bench = Bench(requires_session=True)
    bench.send("a1", session_id="a")
    bench.send("b1", session_id="b", due=BEGIN + timedelta(seconds=9))
    bench.send("a2", session_id="a")
    receiver = accepted(bench, "a")
    receiver.receive()
    bench.queue.defer(receiver.token)
    peeked = [[message.text for message in bench.queue.peek(*how)] for how in ((0, 9), (2, 9), (0, 1), (0, 9, "a"))]
    assert peeked == [["a1", "b1", "a2"], ["b1", "a2"], ["a1"], ["a1", "a2"]]


# -------------------------------------------------------------------------------------------------------------- sessions


def test_what_a_queue_with_sessions_refuses_and_one_without() -> None:
    with_sessions, without = Bench(requires_session=True), Bench()
    refused("amqp:not-allowed", lambda: with_sessions.send("m"))
    refused("amqp:not-allowed", lambda: joined(with_sessions))
    refused("amqp:not-allowed", lambda: accepted(without, "a"))
    refused("amqp:not-allowed", lambda: waiting(without))
    assert without.send("m", session_id="a")


def test_a_session_has_one_owner_and_its_own_order() -> None:
    bench = Bench(requires_session=True)
    for body, session in (("a1", "a"), ("b1", "b"), ("a2", "a")):
        bench.send(body, session_id=session)
    first = accepted(bench, "a")
    refused("com.microsoft:session-cannot-be-locked", lambda: accepted(bench, "a"))
    assert waiting(bench).receive(9) == ["b1"]
    assert first.receive(9) == ["a1", "a2"]
    assert sorted(bench.queue.locked_sessions()) == ["a", "b"]


def test_a_scheduled_message_does_not_block_its_session() -> None:
    bench = Bench(requires_session=True)
    bench.send("later", session_id="a", due=BEGIN + timedelta(seconds=9))
    bench.send("now", session_id="a")
    assert waiting(bench).receive(9) == ["now"]


def test_sessions_and_those_who_wait_are_served_in_order() -> None:
    bench = Bench(requires_session=True)
    early = [waiting(bench) for _ in range(2)]
    for session in "abcd":
        bench.send(session, session_id=session)
    late = [waiting(bench) for _ in range(3)]
    assert [held_by(receiver) for receiver in early + late] == ["a", "b", "c", "d", None]
    bench.send("a again", session_id="a")
    bench.queue.leave(early[0])
    assert held_by(late[2]) == "a"


def test_a_session_that_ends_while_a_message_is_offered_to_it_is_not_the_senders_trouble() -> None:
    bench = Bench(requires_session=True)

    class Slow(Receiver):
        def on_available(self) -> bool:
            bench.pass_time(LOCK)
            return super().on_available()

    owner = Slow(bench.queue, credit=1)
    bench.queue.accept("a", owner)
    bench.send("m", session_id="a")
    assert (owner.has_lost_session, owner.taken) == (True, [])
    assert accepted(bench, "a").receive() == ["m"]


def test_a_session_that_was_served_goes_to_the_end_of_the_line() -> None:
    bench = Bench(requires_session=True)
    for session in "ab":
        bench.send(session, session_id=session)
    first = waiting(bench)
    bench.queue.leave(first)
    assert [held_by(waiting(bench)) for _ in range(2)] == ["b", "a"]


def test_who_has_given_up_is_passed_over_and_an_empty_session_offered_to_nobody() -> None:
    bench = Bench(requires_session=True)
    given_up: list[Session] = []
    bench.queue.wait_for_session(given_up.append)
    bench.queue.stop_waiting(given_up.append)  # another bound method: equal, so it is found
    bench.send("m", session_id="a", ttl=5)
    assert given_up == []
    bench.pass_time(5)
    patient = waiting(bench)
    assert held_by(patient) is None
    bench.send("m", session_id="b")
    assert held_by(patient) == "b"


ENDS: dict[str, tuple[Callable[[Bench, Receiver], None], int, bool]] = {
    # how it ends -> delivery count of what was not settled, whether the receiver is told
    "closed": (lambda bench, receiver: bench.queue.leave(receiver), 0, False),
    "lock expires": (lambda bench, receiver: bench.pass_time(LOCK), 1, True),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_session(name: str) -> None:
    end, count, is_told = ENDS[name]
    bench = Bench(requires_session=True)
    for body in ("1", "2", "3"):
        bench.send(body, session_id="a")
    receiver = accepted(bench, "a")
    receiver.receive(2)
    bench.queue.complete(receiver.tokens[0], receiver)
    end(bench, receiver)
    bench.timers.run()
    assert receiver.has_lost_session is is_told
    for action in (
        lambda: bench.queue.complete(receiver.tokens[1], receiver),
        lambda: bench.queue.renew_session(receiver),
        lambda: bench.queue.held(receiver),
    ):
        refused("com.microsoft:session-lock-lost", action)
    assert receiver.receive() == []
    following = accepted(bench, "a")
    assert following.receive(9) == ["2", "3"]
    assert [message.delivery_count for message in following.taken] == [count, 0]


def test_a_receiver_that_vanished_holds_its_session_until_the_lock_expires() -> None:
    bench = Bench(requires_session=True)
    bench.send("m", session_id="a")
    gone, patient = accepted(bench, "a"), waiting(bench)
    gone.receive()
    bench.queue.vanish(gone)
    bench.pass_time(LOCK - 1)
    refused("com.microsoft:session-cannot-be-locked", lambda: accepted(bench, "a"))
    assert held_by(patient) is None
    bench.pass_time(1)
    bench.timers.run()
    assert held_by(patient) == "a"
    assert patient.receive() == ["m"]
    assert patient.taken[0].delivery_count == 1


def test_only_the_owner_acts_on_a_session() -> None:
    bench = Bench(requires_session=True)
    former = accepted(bench, "a")
    bench.pass_time(LOCK)
    owner = accepted(bench, "a")
    bench.queue.held(owner).state = b"mine"
    for stranger in (former, None, Receiver(bench.queue)):
        refused("com.microsoft:session-lock-lost", lambda stranger=stranger: bench.queue.held(stranger))  # type: ignore[misc]
    bench.queue.leave(former)
    assert bench.queue.held(owner).state == b"mine"
    bench.queue.leave(owner)
    assert bench.queue.held(accepted(bench, "a")).state == b"mine"


def test_a_renewed_session_holds_on_and_its_messages_with_it() -> None:
    bench = Bench(requires_session=True)
    bench.send("m", session_id="a")
    receiver = accepted(bench, "a")
    receiver.receive()
    bench.pass_time(LOCK - 1)
    until = bench.queue.renew_session(receiver)
    assert receiver.taken[0].lock is not None and receiver.taken[0].lock.ends_at == until
    bench.pass_time(LOCK - 1)
    bench.queue.complete(receiver.token, receiver)


def test_a_message_lock_is_told_from_a_session_lock() -> None:
    bench = Bench(requires_session=True)
    bench.send("m", session_id="a")
    receiver = accepted(bench, "a")
    receiver.receive()
    bench.queue.purge()
    refused("com.microsoft:message-lock-lost", lambda: bench.queue.complete(receiver.token, receiver))
    assert bench.bodies() == []


def test_deferred_messages_of_a_session_are_for_its_owner() -> None:
    bench = Bench(requires_session=True)
    for session in "ab":
        bench.send(session, session_id=session)
    owner = accepted(bench, "a")
    owner.receive()
    bench.queue.defer(owner.token)
    other = accepted(bench, "b")
    refused("com.microsoft:session-lock-lost", lambda: bench.queue.take_deferred([1]))
    refused("com.microsoft:message-not-found", lambda: bench.queue.take_deferred([1], consumer=other))
    assert [message.text for message in bench.queue.take_deferred([1], consumer=owner)] == ["a"]


def test_many_sessions_and_waiters_cost_one_timer_each() -> None:
    bench = Bench(requires_session=True)
    for number in range(200):
        bench.send("m", session_id=str(number), due=BEGIN + timedelta(seconds=1 + number % 7))
    receivers = [waiting(bench) for _ in range(60)]
    bench.pass_time(7)
    bench.timers.run()
    assert sorted(filter(None, map(held_by, receivers))) == sorted(bench.queue.locked_sessions())
    assert len(set(map(held_by, receivers))) == 60


def test_timers_call_in_order_what_is_due_and_say_when_the_next_moment_moves_up() -> None:
    called: list[str] = []
    moved: list[bool] = []
    now = [BEGIN]
    timers = Timers(lambda: now[0], lambda: moved.append(True))
    for seconds, name in ((2, "second"), (3, "third"), (1, "first"), (9, "not yet")):
        timers.at(BEGIN + timedelta(seconds=seconds), lambda name=name: called.append(name))  # type: ignore[misc]
    assert (len(moved), timers.next_moment) == (2, BEGIN + timedelta(seconds=1))
    now[0] += timedelta(seconds=3)
    timers.run()
    assert (called, timers.next_moment) == (["first", "second", "third"], BEGIN + timedelta(seconds=9))


# ----------------------------------------------------------------------------------------------------------------- codec

VALUES = [
    None, True, False, UByte(7), UShort(7), UInt(0), UInt(7), UInt(2**32 - 1), ULong(0), ULong(7), ULong(2**64 - 1),
    Byte(-7), Short(-7), Int(-7), -7, 2**63 - 1, 0.5, Float(0.5), Timestamp(1), uuid.UUID(int=5), b"", b"x" * 300,
    "", "ü" * 300, Symbol("s"), Opaque(0x73, b"\0\0\0a"), Opaque(0x94, b"d" * 16), [], [1, [2]], ["x" * 300],
    list(range(300)), {}, {"a": {Symbol("b"): None}}, Described(ULong(0x24), []), Described(Symbol("d"), "v"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}")
def test_values_come_back_with_their_types(value: Any) -> None:
    data = encode(value)
    found, end = decode(data + b"rest")
    assert (found, type(found), end) == (value, type(value), len(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes.fromhex("5207"), 7),
        (bytes.fromhex("5601"), True),
        (bytes.fromhex("e00402500201"), [2, 1]),
        (bytes.fromhex("f00000000700000002a3016101"), None),
    ],
    ids=["small uint", "boolean in a byte", "array8", "cut array"],
)
def test_forms_that_only_others_write(data: bytes, expected: Any) -> None:
    if expected is None:
        with pytest.raises(MalformedFrameError):
            decode(data)
    else:
        assert decode(data)[0] == expected


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}")
def test_what_is_cut_off_is_malformed(value: Any) -> None:
    data = encode(value)
    for length in range(min(len(data), 40)):
        with pytest.raises(MalformedFrameError):
            decode(data[:length])


def test_bodies_go_back_byte_for_byte() -> None:
    body = encode(Described(VALUE, {"k": [Byte(1), Opaque(0x84, b"decimal.")]}))
    message = Message.received(encoded("x")[: -len(encode(Described(DATA, b"x")))] + body, BEGIN)
    assert message.encoded().endswith(body)
