"""The local Service Bus with the unmodified `azure-servicebus`, sync and async, over sockets."""

import asyncio
import base64
import hashlib
import hmac
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote_plus

import aiohttp
import pytest
from aiohttp import web
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus import aio as sdk
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    ServiceBusServerBusyError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from emulator.clock import Clock
from emulator.faults import Fault, Faults
from emulator.request_log import Entry, RequestLog
from emulator.service_bus import ServiceBus
from emulator.topology import QueueSpec

T = TypeVar("T")
KEYS = {"tests": "c2VjcmV0", "other": "b3RoZXI="}
LOCK = 60.0
HALF = LOCK / 2  # far enough from the end of a lock for the slowest machine
PATIENCE = 10.0


class Namespace:
    """A namespace in a thread, and SDK objects for it, which are closed together at the end: each takes up to a second."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._names = (f"queue-{number}" for number in itertools.count())
        self._opened: list[ServiceBusReceiver | ServiceBusSender] = []
        self.on_loop(self._start())
        self.client = self.connect()

    async def _start(self) -> None:
        self.clock = Clock()
        self.log = RequestLog(self.clock)
        self.faults = Faults(self.clock)
        self.bus = ServiceBus(clock=self.clock, log=self.log, faults=self.faults, access_keys=KEYS)
        await self.bus.start()

    def stop(self) -> None:
        with ThreadPoolExecutor(max_workers=len(self._opened)) as closing:
            list(closing.map(lambda opened: opened.close(), self._opened))
        self.client.close()
        self.on_loop(self.bus.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        async def on_loop() -> T:
            return function(*arguments)

        return self.on_loop(on_loop())

    def queue(self, *, sessions: bool = False, **spec: Any) -> str:
        """A new queue, so that tests do not see each other."""
        name = next(self._names)
        self.call(self.bus.create_queue, QueueSpec(name, requires_session=sessions, **({"lock_duration": LOCK} | spec)))
        return name

    def advance(self, seconds: float) -> None:
        self.call(self.clock.advance, seconds)

    def now(self) -> datetime:
        return self.clock.now()

    def connect(self, connection_string: str | None = None) -> ServiceBusClient:
        given = connection_string or self.bus.connection_string("tests")
        return ServiceBusClient.from_connection_string(given, retry_total=0)

    def connect_async(self) -> sdk.ServiceBusClient:
        return sdk.ServiceBusClient.from_connection_string(self.bus.connection_string("tests"), retry_total=0)

    def sender(self, queue: str) -> ServiceBusSender:
        sender = self.client.get_queue_sender(queue)
        self._opened.append(sender)
        return sender

    def receiver(self, queue: str, **options: Any) -> ServiceBusReceiver:
        receiver = self.client.get_queue_receiver(queue, **({"max_wait_time": PATIENCE} | options))
        self._opened.append(receiver)
        return receiver

    def pair(self, queue: str, **options: Any) -> tuple[ServiceBusSender, ServiceBusReceiver]:
        """Both opened at once, as opening is mostly waiting."""
        sender, receiver = self.sender(queue), self.receiver(queue, **options)
        with ThreadPoolExecutor(2) as opening:
            list(opening.map(lambda link: link.__enter__(), (sender, receiver)))
        return sender, receiver

    def dead_letters(self, queue: str, **options: Any) -> ServiceBusReceiver:
        return self.receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, **options)

    def plant(self, **fault: Any) -> int:
        return self.call(self.faults.plant, Fault(service="service_bus", **fault)).number

    def entries(self, queue: str, method: str | None = None) -> list[Entry]:
        return [entry for entry in self.log.since(0) if entry.path == queue and method in (None, entry.method)]

    def locked_sessions(self, queue: str) -> list[str]:
        return self.call(self.bus.queues[queue].locked_sessions)

    def bodies(self, queue: str) -> list[str]:
        return self.call(lambda: [message.text for message in self.bus.queues[queue]])


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    started = Namespace()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def _no_faults_left(namespace: Namespace) -> Iterator[None]:
    yield
    namespace.call(namespace.faults.clear)


def receive(receiver: ServiceBusReceiver, count: int = 1) -> list[ServiceBusReceivedMessage]:
    """Exactly so many; the SDK returns as soon as there are some."""
    found: list[ServiceBusReceivedMessage] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} messages came"
        found += receiver.receive_messages(count - len(found), max_wait_time=1)
    return found


def one(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    return receive(receiver)[0]


def has_nothing(receiver: ServiceBusReceiver) -> bool:
    receiver.__enter__()  # opening the link would count against the wait
    return receiver.receive_messages(1, max_wait_time=0.3) == []


def texts(messages: list[ServiceBusReceivedMessage]) -> list[str]:
    return [str(message) for message in messages]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


# --------------------------------------------------------------------------------------------------------------- sending


def test_messages_arrive_as_they_were_sent_one_by_one_in_a_list_and_in_a_batch(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue)
    properties: dict[str | bytes, Any] = {"text": "x", "number": 7, "ratio": 0.5, "yes": True, "when": namespace.now()}
    sender.send_messages(
        ServiceBusMessage(
            b"\x00\xff",
            message_id="one",
            correlation_id="c",
            subject="s",
            content_type="application/json",
            reply_to="r",
            time_to_live=timedelta(seconds=90),
            application_properties=properties,
        )
    )
    sender.send_messages([ServiceBusMessage("two"), ServiceBusMessage("three")])
    batch = sender.create_message_batch()
    for text in ("four", "five"):
        batch.add_message(ServiceBusMessage(text))
    sender.send_messages(batch)
    first, *others = receive(receiver, 5)
    assert b"".join(first.body) == b"\x00\xff"
    assert (first.message_id, first.correlation_id, first.subject, first.content_type, first.reply_to) == (
        "one", "c", "s", "application/json", "r",
    )  # fmt: skip
    assert (first.time_to_live, first.delivery_count, first.state) == (
        timedelta(seconds=90), 0, ServiceBusMessageState.ACTIVE,
    )  # fmt: skip
    found = {key.decode(): value for key, value in (first.application_properties or {}).items()}  # type: ignore[union-attr]
    assert (found["text"], found["number"], found["ratio"], found["yes"]) == (b"x", 7, 0.5, True)
    assert texts(others) == ["two", "three", "four", "five"]
    numbers = [message.sequence_number for message in (first, *others)]
    assert numbers == [1, 2, 3, 4, 5]
    assert first.locked_until_utc is not None and first.enqueued_time_utc is not None
    assert abs(first.enqueued_time_utc - namespace.now()) < timedelta(seconds=5)
    assert abs(first.locked_until_utc - first.enqueued_time_utc - timedelta(seconds=LOCK)) < timedelta(seconds=5)


def test_every_kind_of_body_comes_back(namespace: Namespace) -> None:
    sender, receiver = namespace.pair(namespace.queue())
    bodies: list[dict[str, Any]] = [
        {"data_body": [b"a", b"b"]},
        {"sequence_body": [[1, "x"], [2]]},
        {"value_body": {"k": [1, None, True]}},
    ]
    for body in bodies:
        sender.send_messages(AmqpAnnotatedMessage(**body))
    for body, message in zip(bodies, receive(receiver, 3), strict=True):
        ((kind, sent),) = body.items()
        got = message.raw_amqp_message
        assert f"{got.body_type.value}_body" == kind
        assert _plain(got.body if kind == "value_body" else list(got.body)) == _plain(sent)


def _plain(value: Any) -> Any:
    """The SDK reads strings inside bodies as bytes."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.encode() if isinstance(value, str) else value


def test_a_message_of_many_frames_and_a_peek_of_more_than_fits_in_one(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue)
    large = [chr(ord("a") + number) * 250_000 for number in range(6)]
    for text in large:
        sender.send_messages(ServiceBusMessage(text))
    assert texts(receiver.peek_messages(6, sequence_number=1)) == large
    assert texts(receive(receiver, 6)) == large


def test_what_is_too_large_is_refused(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender = namespace.sender(queue)
    with pytest.raises(MessageSizeExceededError):
        sender.send_messages(ServiceBusMessage("x" * 262_144))
    batch = sender.create_message_batch()
    with pytest.raises(MessageSizeExceededError):
        batch.add_message(ServiceBusMessage("x" * 262_144))
    namespace.sender(queue).send_messages(ServiceBusMessage("x" * 261_000))
    assert [len(body) for body in namespace.bodies(queue)] == [261_000]


def test_duplicates_are_dropped_within_the_window_only(namespace: Namespace) -> None:
    queue = namespace.queue(duplicate_detection_window=30)
    sender = namespace.sender(queue)
    sender.send_messages(ServiceBusMessage("first", message_id="id"))
    sender.send_messages(ServiceBusMessage("again", message_id="id"))
    sender.send_messages([ServiceBusMessage("in a batch", message_id="id"), ServiceBusMessage("other")])
    assert namespace.bodies(queue) == ["first", "other"]
    namespace.advance(30)
    sender.send_messages(ServiceBusMessage("later", message_id="id"))
    assert namespace.bodies(queue) == ["first", "other", "later"]
    assert [entry.detail["duplicate"] for entry in namespace.entries(queue)] == [False, True, True, False, False]


# ------------------------------------------------------------------------------------------------------------- settling


def test_complete_abandon_defer_and_dead_letter(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue)
    sender.send_messages([ServiceBusMessage(text) for text in "abcd"])
    a, b, c, d = receive(receiver, 4)
    receiver.complete_message(a)
    receiver.abandon_message(b)
    receiver.defer_message(c)
    receiver.dead_letter_message(d, reason="why", error_description="how")

    again = one(receiver)
    assert (str(again), again.delivery_count, again.sequence_number) == ("b", 1, b.sequence_number)
    receiver.complete_message(again)

    (peeked,) = receiver.peek_messages(sequence_number=1)
    assert (str(peeked), peeked.state) == ("c", ServiceBusMessageState.DEFERRED)
    (deferred,) = receiver.receive_deferred_messages([c.sequence_number or 0])
    assert (str(deferred), deferred.delivery_count) == ("c", 1)
    receiver.complete_message(deferred)
    assert namespace.bodies(queue) == []

    dead = namespace.dead_letters(queue)
    assert texts(dead.peek_messages(sequence_number=1)) == ["d"]
    letter = one(dead)
    assert (letter.dead_letter_reason, letter.dead_letter_error_description, letter.dead_letter_source) == (
        "why", "how", queue,
    )  # fmt: skip
    assert letter.sequence_number == d.sequence_number
    dead.abandon_message(letter)
    dead.complete_message(one(dead))
    assert dead.peek_messages(sequence_number=1) == []
    assert [(entry.method, entry.detail["message_id"], entry.status) for entry in namespace.entries(queue)[4:]] == [
        ("COMPLETE", a.message_id, 200),
        ("ABANDON", b.message_id, 200),
        ("DEFER", c.message_id, 200),
        ("DEAD_LETTER", d.message_id, 200),
        ("COMPLETE", b.message_id, 200),
        ("COMPLETE", c.message_id, 200),
    ]


def test_receive_and_delete(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    sender.send_messages([ServiceBusMessage(text) for text in "ab"])
    assert texts(receive(receiver, 2)) == ["a", "b"]
    assert namespace.bodies(queue) == []


def test_deferred_messages_are_settled_in_every_way(namespace: Namespace) -> None:
    queue = namespace.queue(max_delivery_count=10)
    sender, receiver = namespace.pair(queue)
    sender.send_messages([ServiceBusMessage(text) for text in "abc"])
    numbers = []
    for message in receive(receiver, 3):
        receiver.defer_message(message)
        numbers.append(message.sequence_number or 0)
    a, b, c = receiver.receive_deferred_messages(numbers)
    with pytest.raises(MessageNotFoundError):
        receiver.receive_deferred_messages(numbers[:1])
    receiver.abandon_message(a)
    receiver.defer_message(b)
    receiver.dead_letter_message(c, reason="why")
    assert [message.delivery_count for message in receiver.receive_deferred_messages(numbers[:2])] == [2, 2]
    assert one(namespace.dead_letters(queue)).dead_letter_reason == "why"
    with pytest.raises(MessageNotFoundError):
        receiver.receive_deferred_messages(numbers[2])


def test_a_message_lock_expires_or_is_renewed(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue)
    sender.send_messages([ServiceBusMessage(text) for text in "ab"])
    lost, kept = receive(receiver, 2)
    namespace.advance(HALF)
    before = kept.locked_until_utc
    after = receiver.renew_message_lock(kept)
    assert before is not None and after > before
    namespace.advance(HALF)
    for settle in (receiver.complete_message, receiver.renew_message_lock):
        with pytest.raises(MessageLockLostError):
            settle(lost)
    receiver.complete_message(kept)
    again = one(receiver)
    assert (str(again), again.delivery_count) == ("a", 1)
    receiver.complete_message(again)


def test_the_service_dead_letters_what_fails_too_often_or_grows_too_old(namespace: Namespace) -> None:
    queue = namespace.queue(max_delivery_count=2)
    sender, receiver = namespace.pair(queue)
    sender.send_messages(ServiceBusMessage("often"))
    for _ in range(2):
        receiver.abandon_message(one(receiver))
    sender.send_messages(ServiceBusMessage("old", time_to_live=timedelta(seconds=5)))
    namespace.advance(5)
    letters = receive(namespace.dead_letters(queue), 2)
    assert [(str(letter), letter.dead_letter_reason) for letter in letters] == [
        ("often", "MaxDeliveryCountExceeded"),
        ("old", "TTLExpiredException"),
    ]
    assert has_nothing(receiver)


def test_closing_without_a_session_leaves_locks_to_expire(namespace: Namespace) -> None:
    queue = namespace.queue()
    namespace.sender(queue).send_messages(ServiceBusMessage("m"))
    with namespace.client.get_queue_receiver(queue) as first:
        one(first)
    receiver = namespace.receiver(queue)
    assert has_nothing(receiver)
    namespace.advance(LOCK)
    assert one(receiver).delivery_count == 1


# ------------------------------------------------------------------------------------------------------------ scheduling


def test_scheduled_messages(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue)
    due = namespace.now() + timedelta(seconds=100)
    kept, cancelled = sender.schedule_messages([ServiceBusMessage("kept"), ServiceBusMessage("cancelled")], due)
    sender.send_messages(ServiceBusMessage("by property", scheduled_enqueue_time_utc=due))
    assert {message.state for message in receiver.peek_messages(9, sequence_number=1)} == {
        ServiceBusMessageState.SCHEDULED
    }
    sender.cancel_scheduled_messages(cancelled)
    assert has_nothing(receiver)
    namespace.advance(101)
    first, second = receive(receiver, 2)
    assert {str(first), str(second)} == {"kept", "by property"}
    assert (first.sequence_number or 0) > kept and first.enqueued_time_utc is not None
    assert abs(first.enqueued_time_utc - due) < timedelta(seconds=1)
    assert first.scheduled_enqueue_time_utc is not None
    with pytest.raises(MessageNotFoundError):
        sender.cancel_scheduled_messages(kept)
    assert {entry.detail["scheduled_for"] is not None for entry in namespace.entries(queue, "SEND")} == {True}


# -------------------------------------------------------------------------------------------------------------- sessions


def send_to_sessions(namespace: Namespace, queue: str, *sessions: str) -> None:
    """A message for each, whose text is the session's id and a number."""
    numbers = itertools.count(1)
    messages = [ServiceBusMessage(f"{session}{next(numbers)}", session_id=session) for session in sessions]
    namespace.sender(queue).send_messages(messages)


def test_a_named_session_its_order_its_state_and_its_messages(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "a", "b", "a")
    receiver = namespace.receiver(queue, session_id="a")
    session = receiver.session
    first, second = receive(receiver, 2)
    assert texts([first, second]) == ["a1", "a3"]
    assert session.get_state() is None
    session.set_state("half way")
    assert session.get_state() == b"half way"
    assert texts(receiver.peek_messages(9, sequence_number=1)) == ["a1", "a3"]
    assert first.session_id == session.session_id == "a"
    receiver.abandon_message(first)
    receiver.defer_message(second)
    assert texts(receive(receiver)) == ["a1"]
    (deferred,) = receiver.receive_deferred_messages(second.sequence_number or 0)
    receiver.complete_message(deferred)
    assert namespace.bodies(queue) == ["a1", "b2"]


def test_a_held_session_cannot_be_accepted_and_a_closed_one_can_with_messages_uncounted(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "a")
    with namespace.client.get_queue_receiver(queue, session_id="a", max_wait_time=PATIENCE) as first:
        one(first)
        first.session.set_state("kept")
        with pytest.raises(SessionCannotBeLockedError):
            namespace.receiver(queue, session_id="a").__enter__()
    second = namespace.receiver(queue, session_id="a")
    assert second.session.get_state() == b"kept"
    assert one(second).delivery_count == 0


def test_next_available_waits_for_a_session_and_times_out(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "held")
    held = namespace.receiver(queue, session_id="held")
    one(held)
    with ThreadPoolExecutor(1) as thread:
        patient = namespace.receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=30)
        opening = thread.submit(patient.__enter__)
        until(lambda: waiters(namespace, queue) == 1, "a receiver waits for a session")
        send_to_sessions(namespace, queue, "b")
        opening.result(PATIENCE)
        assert (patient.session.session_id, texts(receive(patient))) == ("b", ["b1"])

        late = namespace.receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=30)
        opening = thread.submit(late.__enter__)
        until(lambda: waiters(namespace, queue) == 1, "another receiver waits")
        namespace.advance(30)
        with pytest.raises(OperationTimeoutError):
            opening.result(PATIENCE)


def waiters(namespace: Namespace, queue: str) -> int:
    return len(namespace.bus.queues[queue]._waiters)


def test_a_session_lock_is_renewed_or_expires_with_all_that_hangs_on_it(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "a")
    receiver = namespace.receiver(queue, session_id="a")
    message = one(receiver)
    namespace.advance(HALF)
    receiver.session.renew_lock()
    namespace.advance(HALF)
    receiver.session.set_state("still mine")
    namespace.advance(HALF)
    until(lambda: namespace.locked_sessions(queue) == [], "the lock expires")
    with pytest.raises(SessionLockLostError):
        receiver.complete_message(message)
    with pytest.raises(SessionLockLostError):
        receiver.session.renew_lock()
    assert [entry.method for entry in namespace.entries(queue)] == ["SEND", "RENEW"]
    again = one(namespace.receiver(queue, session_id="a"))
    assert again.delivery_count == 1


def test_a_lost_session_is_not_renewed_from_under_its_new_owner(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    former = namespace.receiver(queue, session_id="a")
    former.session.get_state()
    namespace.advance(LOCK)
    owner = namespace.receiver(queue, session_id="a")
    owner.session.set_state("owner's")
    for action in (former.session.renew_lock, former.session.get_state, lambda: former.session.set_state("former's")):
        with pytest.raises(SessionLockLostError):
            action()
    assert owner.session.get_state() == b"owner's"


CRASHING = """
import sys, time
from azure.servicebus import ServiceBusClient
client = ServiceBusClient.from_connection_string(sys.argv[1], retry_total=0)
receiver = client.get_queue_receiver(sys.argv[2], session_id=sys.argv[3] or None)
print(next(iter(receiver)), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("session", ["a", None])
def test_what_a_killed_process_held_comes_back_when_its_lock_expires(namespace: Namespace, session: str | None) -> None:
    queue = namespace.queue(sessions=session is not None)
    namespace.sender(queue).send_messages(ServiceBusMessage("m", session_id=session))
    arguments = [namespace.bus.connection_string("tests"), queue, session or ""]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CRASHING, *arguments], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "m\n"
        process.kill()
    if session:
        with pytest.raises(SessionCannotBeLockedError):
            namespace.receiver(queue, session_id=session).__enter__()
        namespace.advance(HALF)
        assert namespace.locked_sessions(queue) == [session]
        namespace.advance(HALF)
    receiver = namespace.receiver(queue, session_id=session)
    if not session:
        assert has_nothing(receiver)
        namespace.advance(LOCK)
    assert one(receiver).delivery_count == 1


# -------------------------------------------------------------------------------------------------------------- refusals


def sas(audience: str, *, key_name: str = "tests", key: str | None = None, lifetime: float = 600) -> str:
    expiry = int(time.time() + lifetime)
    resource = quote_plus(audience)
    signed = hmac.digest((key or KEYS[key_name]).encode(), f"{resource}\n{expiry}".encode(), hashlib.sha256)
    signature = quote_plus(base64.b64encode(signed))
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={key_name}"


TOKENS: dict[str, tuple[dict[str, Any], bool]] = {
    # what is different about the token -> whether it is good
    "for the queue": ({}, True),
    "for the namespace": ({"audience": "sb://127.0.0.1/"}, True),
    "with the other key": ({"key_name": "other"}, True),
    "for another queue": ({"audience": "sb://127.0.0.1/another"}, False),
    "for a prefix of the name": ({"audience": "sb://127.0.0.1/queue"}, False),
    "for another host": ({"audience": "sb://contoso.servicebus.windows.net/"}, False),
    "expired": ({"lifetime": -1}, False),
    "signed with another key": ({"key": "x"}, False),
    "under an unknown name": ({"key_name": "nobody", "key": "x"}, False),
}


def all_at_once(attempts: Mapping[str, Callable[[], object]]) -> dict[str, Exception | None]:
    """What each raises: the SDK takes a second over every refusal, and waits."""

    def outcome(attempt: Callable[[], object]) -> Exception | None:
        error: Exception | None = None
        for _ in range(3):
            try:
                attempt()
            except OperationTimeoutError as late:  # a link that so many at once did not let open in time says nothing
                error = late
            except Exception as refused:
                return refused
            else:
                return None
        return error

    with ThreadPoolExecutor(len(attempts)) as threads:
        return dict(zip(attempts, threads.map(outcome, attempts.values()), strict=True))


@pytest.fixture(scope="module")
def with_tokens(namespace: Namespace) -> tuple[dict[str, str], dict[str, Exception | None]]:
    """The queues, and what came of sending to them with each of the tokens."""
    queues = {name: namespace.queue() for name in TOKENS}

    def send(name: str) -> None:
        token = sas(**({"audience": f"sb://127.0.0.1:{namespace.bus.port}/{queues[name]}"} | TOKENS[name][0]))
        endpoint = f"Endpoint=sb://127.0.0.1:{namespace.bus.port}"
        client = namespace.connect(f"{endpoint};SharedAccessSignature={token};UseDevelopmentEmulator=true;")
        with client.get_queue_sender(queues[name]) as sender:
            sender.send_messages(ServiceBusMessage("m"))

    return queues, all_at_once({name: partial(send, name) for name in TOKENS})


@pytest.mark.parametrize("name", TOKENS)
def test_tokens(
    namespace: Namespace, with_tokens: tuple[dict[str, str], dict[str, Exception | None]], name: str
) -> None:
    different, is_good = TOKENS[name]
    queue, outcome = with_tokens[0][name], with_tokens[1][name]
    if is_good:
        assert outcome is None
        assert [entry.principal for entry in namespace.entries(queue)] == [different.get("key_name", "tests")]
    else:
        assert isinstance(outcome, ServiceBusAuthenticationError | ServiceBusAuthorizationError)
        assert namespace.bodies(queue) == []


Attempt = Callable[[Namespace, str, str], object]
REFUSALS: dict[str, tuple[Attempt, type[Exception], str]] = {
    # what is tried, with a queue and one with sessions -> what the SDK raises, and says
    "send to nowhere": (
        lambda namespace, _, __: namespace.sender("nowhere").send_messages(ServiceBusMessage("m")),
        MessagingEntityNotFoundError,
        "could not be found",
    ),
    "receive from nowhere": (
        lambda namespace, _, __: one(namespace.receiver("nowhere")),
        MessagingEntityNotFoundError,
        "could not be found",
    ),
    "send to dead letters": (
        lambda namespace, plain, _: namespace.sender(f"{plain}/$DeadLetterQueue").send_messages(ServiceBusMessage("m")),
        ServiceBusError,
        "Nothing can be sent",
    ),
    "receive a session's messages without it": (
        lambda namespace, _, sessions: one(namespace.receiver(sessions)),
        ServiceBusError,
        "non-sessionful message receiver",
    ),
    "accept a session where there are none": (
        lambda namespace, plain, _: namespace.receiver(plain, session_id="a").__enter__(),
        ServiceBusError,
        "does not require sessions",
    ),
    "accept any session where there are none": (
        lambda namespace, plain, _: namespace.receiver(plain, session_id=NEXT_AVAILABLE_SESSION).__enter__(),
        ServiceBusError,
        "does not require sessions",
    ),
    "send without a session id": (
        lambda namespace, _, sessions: namespace.sender(sessions).send_messages(ServiceBusMessage("m")),
        ServiceBusError,
        "SessionId was not set",
    ),
    "send a list of which one has no session id": (
        lambda namespace, _, sessions: namespace.sender(sessions).send_messages(
            [ServiceBusMessage("m", session_id="a"), ServiceBusMessage("m")]
        ),
        ServiceBusError,
        "SessionId was not set",
    ),
    "schedule without a session id": (
        lambda namespace, _, sessions: namespace.sender(sessions).schedule_messages(
            ServiceBusMessage("m"), namespace.now() + timedelta(seconds=9)
        ),
        ServiceBusError,
        "SessionId was not set",
    ),
    "cancel what was never scheduled": (
        lambda namespace, plain, _: namespace.sender(plain).cancel_scheduled_messages(99),
        MessageNotFoundError,
        "no scheduled message",
    ),
    "receive what was never deferred": (
        lambda namespace, plain, _: namespace.receiver(plain).receive_deferred_messages(99),
        MessageNotFoundError,
        "no deferred message",
    ),
}


@pytest.fixture(scope="module")
def refusals(namespace: Namespace) -> tuple[tuple[str, str], dict[str, Exception | None]]:
    """The two queues, and what came of the attempts."""
    plain, sessions = namespace.queue(), namespace.queue(sessions=True)
    attempts = {name: partial(attempt, namespace, plain, sessions) for name, (attempt, _, _) in REFUSALS.items()}
    return (plain, sessions), all_at_once(attempts)


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(
    namespace: Namespace, refusals: tuple[tuple[str, str], dict[str, Exception | None]], name: str
) -> None:
    queues, outcomes = refusals
    _, error, text = REFUSALS[name]
    assert isinstance(outcomes[name], error)
    assert text in str(outcomes[name])
    assert [namespace.bodies(queue) for queue in queues] == [[], []]


# -------------------------------------------------------------------------------------------------- faults and control


def test_a_fault_before_refuses_and_one_after_leaves_the_effect(namespace: Namespace) -> None:
    queue = namespace.queue()
    sender, receiver = namespace.pair(queue)
    namespace.plant(method="SEND", path=queue, status=503)
    with pytest.raises(ServiceBusServerBusyError):
        sender.send_messages(ServiceBusMessage("refused"))
    namespace.plant(method="SEND", path=queue, phase="after", drop=True)
    with pytest.raises(ServiceBusError):
        sender.send_messages(ServiceBusMessage("stands"))
    namespace.plant(method="COMPLETE", path=queue, status=410, body={"condition": "com.microsoft:message-lock-lost"})
    message = one(receiver)
    assert str(message) == "stands"
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(message)
    receiver.complete_message(message)
    assert [(entry.method, entry.status, entry.detail.get("fault")) for entry in namespace.entries(queue)] == [
        ("SEND", 503, "before"), ("SEND", 0, "after"), ("COMPLETE", 410, "before"), ("COMPLETE", 200, None),
    ]  # fmt: skip


def test_a_completion_that_is_dropped_leaves_the_session_locked(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "a")
    receiver = namespace.receiver(queue, session_id="a")
    message = one(receiver)
    namespace.plant(method="COMPLETE", path=queue, drop=True, times=9)
    with pytest.raises(ServiceBusError):
        receiver.complete_message(message)
    assert namespace.bodies(queue) == ["a1"]
    assert namespace.locked_sessions(queue) == ["a"]
    namespace.advance(LOCK)
    assert one(namespace.receiver(queue, session_id="a")).delivery_count == 1


def test_a_request_that_waits_in_a_fault_holds_up_nobody_else(namespace: Namespace) -> None:
    queue = namespace.queue()
    number = namespace.plant(method="SEND", path=queue, hold=True)
    held, other = namespace.sender(queue), namespace.sender(queue)
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(held.send_messages, ServiceBusMessage("held"))
        until(lambda: len(namespace.entries(queue)) == 1, "the first message is held")
        other.send_messages(ServiceBusMessage("other"))
        assert namespace.bodies(queue) == ["other"]
        namespace.call(namespace.faults.release, number)
        sending.result(PATIENCE)
    assert namespace.bodies(queue) == ["other", "held"]


def test_a_request_whose_client_dies_while_a_fault_holds_it_was_never_made(namespace: Namespace) -> None:
    queue = namespace.queue()
    number = namespace.plant(method="SEND", path=queue, hold=True)
    sending = (
        "import sys; from azure.servicebus import ServiceBusClient, ServiceBusMessage;"
        "ServiceBusClient.from_connection_string(sys.argv[1]).get_queue_sender(sys.argv[2])"
        ".send_messages(ServiceBusMessage('m'))"
    )
    arguments = [sys.executable, "-c", sending, namespace.bus.connection_string("other"), queue]
    with subprocess.Popen(arguments) as process:
        until(lambda: len(namespace.entries(queue)) == 1, "the message is held")
        process.kill()
    until(lambda: namespace.entries(queue)[0].status == 0, "its client is missed")
    namespace.call(namespace.faults.release, number)
    assert namespace.bodies(queue) == []
    assert namespace.entries(queue)[0].principal == "other"


def test_a_client_that_closes_while_its_request_is_held_leaves_in_good_order(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "a")
    receiver = namespace.receiver(queue, session_id="a")
    one(receiver)
    namespace.plant(method="RENEW", path=queue, hold=True)
    with pytest.raises(OperationTimeoutError):
        receiver.session.renew_lock(timeout=0.2)
    receiver.close()
    until(lambda: namespace.locked_sessions(queue) == [], "the session is free")
    assert [entry.status for entry in namespace.entries(queue, "RENEW")] == [0]


def test_control_routes(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    send_to_sessions(namespace, queue, "a", "b", "a", "a")
    due = namespace.now() + timedelta(hours=1)
    later = ServiceBusMessage("later", session_id="c", message_id="id", application_properties={"hop": 2})
    namespace.sender(queue).schedule_messages(later, due)
    receiver = namespace.receiver(queue, session_id="a")
    first, second = receive(receiver, 2)
    receiver.dead_letter_message(first, reason="why", error_description="how")
    receiver.defer_message(second)

    async def ask(method: str, path: str) -> tuple[int, Any]:
        app = web.Application()
        app.add_routes(namespace.bus.control_routes())
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/service-bus/queues{path}"
            async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
                return answer.status, await answer.json() if answer.ok else await answer.text()
        finally:
            await runner.cleanup()

    def control(method: str, path: str = "") -> Any:
        status, body = namespace.on_loop(ask(method, path))
        return body if status == 200 else status

    receive(receiver)
    assert control("GET")["queues"][queue] == {
        "active": 2, "scheduled": 1, "deferred": 1, "in_flight": 1, "dead_letter": 1, "locked_sessions": ["a"],
    }  # fmt: skip
    messages = control("GET", f"/{queue.upper()}/messages")["messages"]
    assert [(message["body"], message["state"]) for message in messages] == [
        ("b2", "active"), ("a3", "deferred"), ("a4", "active"), ("later", "scheduled"),
    ]  # fmt: skip
    assert {"message_id": "id", "session_id": "c", "delivery_count": 0, "headers": {"hop": 2}}.items() <= messages[
        3
    ].items()
    (letter,) = control("GET", f"/{queue}/messages?sub_queue=dead_letter")["messages"]
    assert (letter["dead_letter_reason"], letter["dead_letter_description"], letter["body"]) == ("why", "how", "a1")
    assert control("DELETE", f"/{queue}/messages") == {"purged": 4}
    assert control("DELETE", f"/{queue}/messages?sub_queue=dead_letter") == {"purged": 1}
    assert control("GET", f"/{queue}/messages") == {"messages": []}
    assert control("GET", "/nowhere/messages") == 404
    assert control("GET", f"/{queue}/messages?sub_queue=transfer") == 400


# ----------------------------------------------------------------------------------------------------------------- async


def test_the_async_client_does_all_of_it_too(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True, max_delivery_count=9)

    async def run() -> None:
        async with namespace.connect_async() as client:
            sender = client.get_queue_sender(queue)
            await sender.send_messages([ServiceBusMessage(text, session_id="a") for text in "abcd"])
            batch = await sender.create_message_batch()
            batch.add_message(ServiceBusMessage("e", session_id="b"))
            await sender.send_messages(batch)
            due = namespace.now() + timedelta(seconds=50)
            numbers = await sender.schedule_messages([ServiceBusMessage(text, session_id="c") for text in "xy"], due)
            await sender.cancel_scheduled_messages(numbers[:1])
            with pytest.raises(MessageNotFoundError):
                await sender.cancel_scheduled_messages(numbers[0])

            first = client.get_queue_receiver(queue, session_id="a", max_wait_time=PATIENCE)
            a, b, c, d = await take(first, 4)
            await first.complete_message(a)
            await first.abandon_message(b)
            await first.defer_message(c)
            await first.dead_letter_message(d, reason="why")
            (c,) = await first.receive_deferred_messages(c.sequence_number or 0)
            await first.complete_message(c)
            await first.session.set_state("state")
            assert await first.session.get_state() == b"state"
            namespace.advance(HALF)
            await first.session.renew_lock()
            namespace.advance(HALF)
            assert [str(message) for message in await first.peek_messages(9, sequence_number=1)] == ["b"]
            with pytest.raises(SessionCannotBeLockedError):
                await client.get_queue_receiver(queue, session_id="a").__aenter__()
            (b,) = await take(first, 1)
            namespace.advance(HALF)
            with pytest.raises(SessionLockLostError):
                await first.complete_message(b)

            found, served = set(), []
            for _ in range(3):
                following = client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=PATIENCE)
                (message,) = await take(following, 1)
                await following.complete_message(message)
                served.append(following)
                found.add((following.session.session_id, str(message), message.delivery_count))
            assert found == {("a", "b", 2), ("b", "e", 0), ("c", "y", 0)}
            dead = client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER)
            (letter,) = await take(dead, 1)
            assert (str(letter), letter.dead_letter_reason) == ("d", "why")
            await dead.complete_message(letter)
            await close(sender, first, dead, *served)

    asyncio.run(run())
    assert namespace.bodies(queue) == []


def test_the_async_client_without_sessions(namespace: Namespace) -> None:
    queue = namespace.queue()

    async def run() -> None:
        async with namespace.connect_async() as client:
            sender = client.get_queue_sender(queue)
            await sender.send_messages([ServiceBusMessage(text) for text in "ab"])
            with pytest.raises(MessageSizeExceededError):
                await sender.send_messages(ServiceBusMessage("x" * 262_144))
            receiver = client.get_queue_receiver(queue, prefetch_count=5)
            a, b = await take(receiver, 2)
            await receiver.renew_message_lock(a)
            await receiver.complete_message(a)
            namespace.advance(LOCK)
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(b)
            deleting = client.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
            await receiver.close()
            (again,) = await take(deleting, 1)
            assert str(again) == "b"
            with pytest.raises(MessagingEntityNotFoundError):
                await client.get_queue_sender("nowhere").send_messages(ServiceBusMessage("m"))
            await close(sender, deleting)

    asyncio.run(run())
    assert namespace.bodies(queue) == []


def test_many_receivers_wait_at_once_and_are_served_in_the_order_in_which_they_came(namespace: Namespace) -> None:
    queue = namespace.queue(sessions=True)
    sender = namespace.sender(queue)
    count, due = 6, namespace.now() + timedelta(minutes=10)
    for number in range(200):
        sender.schedule_messages(ServiceBusMessage("later", session_id=f"later-{number}"), due)
    served: list[tuple[int, str | None]] = []

    async def run() -> None:
        async with namespace.connect_async() as client:

            async def serve(number: int) -> None:
                waiting = client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1000)
                async with waiting as receiver:
                    (message,) = await take(receiver, 1)
                    await receiver.complete_message(message)
                    served.append((number, receiver.session.session_id))
                    if len(served) == count:
                        everybody.set()
                    await everybody.wait()

            everybody = asyncio.Event()
            tasks = []
            for number in range(count):
                tasks.append(asyncio.create_task(serve(number)))
                while waiters(namespace, queue) <= number:  # noqa: ASYNC110 - another loop's state
                    await asyncio.sleep(0.01)
            messages = [ServiceBusMessage("now", session_id=f"now-{number}") for number in range(count)]
            await asyncio.to_thread(sender.send_messages, messages)
            await asyncio.gather(*tasks)

    asyncio.run(run())
    assert sorted(served) == [(number, f"now-{number}") for number in range(count)]
    namespace.advance(601)
    until(lambda: len(namespace.bodies(queue)) == 200, "all that was scheduled is there")
    assert waiters(namespace, queue) == 0


async def close(*links: sdk.ServiceBusReceiver | sdk.ServiceBusSender) -> None:
    await asyncio.gather(*(link.close() for link in links))


async def take(receiver: sdk.ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            found += await receiver.receive_messages(count - len(found), max_wait_time=1)
    return found
