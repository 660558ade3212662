"""The dead-letter queue of a queue with sessions, by the adapter that operators use, against the local broker."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.identity import DefaultAzureCredential
from azure.servicebus import ServiceBusMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage

from core.adapters import dead_letters
from core.adapters.dead_letters import ServiceBusDeadLetters
from core.commands import PromoteModel, decode
from core.errors import Blocked, Transient
from core.settings import ServiceBusConnection
from tests.unit.builders import a_command
from tests.wire.test_service_bus import LOCK, Namespace, receive

REASON, DESCRIPTION = "MaxDeliveryCountExceeded", "Message could not be consumed after 3 delivery attempts."


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    started = Namespace()
    yield started
    started.stop()


@pytest.fixture
def queue(namespace: Namespace) -> Iterator[str]:
    """With sessions and a window of ten minutes for duplicates, as the service's own."""
    yield namespace.queue(sessions=True, duplicate_detection_window=600, max_delivery_count=3)
    namespace.call(namespace.faults.clear)


def adapter(namespace: Namespace, queue: str, key: str = "tests") -> ServiceBusDeadLetters:
    connection = ServiceBusConnection(None, namespace.bus.connection_string(key))
    return ServiceBusDeadLetters(connection, queue, DefaultAzureCredential())


def bury(namespace: Namespace, queue: str, *messages: ServiceBusMessage | AmqpAnnotatedMessage) -> list[int]:
    """Send these and have them dead-lettered; their sequence numbers. They are all in session `s`."""
    sender = namespace.sender(queue)
    for message in messages:
        sender.send_messages(message)
    with namespace.client.get_queue_receiver(queue, session_id="s", max_wait_time=10) as receiver:
        found = receive(receiver, len(messages))
        for message in found:
            receiver.dead_letter_message(message, reason=REASON, error_description=DESCRIPTION)
        return [message.sequence_number or 0 for message in found]


def message(body: Any = b"{}", **properties: Any) -> ServiceBusMessage:
    return ServiceBusMessage(body, session_id="s", **({"message_id": uuid.uuid4().hex} | properties))


def annotated(**body: Any) -> AmqpAnnotatedMessage:
    return AmqpAnnotatedMessage(properties={"group_id": "s", "message_id": uuid.uuid4().hex}, **body)


def left(namespace: Namespace, queue: str) -> dict[int, tuple[bool, int]]:
    """The dead letters by number: whether each is locked, and how often it was delivered."""
    found = namespace.bus.queues[queue].dead_letters
    assert found is not None
    return namespace.call(lambda: {each.sequence: (each.lock is not None, each.delivery_count) for each in found})


def on_queue(namespace: Namespace, queue: str) -> list[str]:
    return namespace.call(lambda: [str(each.message_id) for each in namespace.bus.queues[queue]])


# ---------------------------------------------------------------------------------------------------------------- looking


def test_whatever_is_in_a_message_it_is_listed(namespace: Namespace, queue: str) -> None:
    sent: list[Any] = [message(body) for body in (b"", b"\xff\xfe\x00", "text")]
    sent.insert(2, annotated(data_body=[b"two ", b"sections"]))
    sent += [annotated(value_body={"a": 1}), annotated(value_body="text"), annotated(sequence_body=[[1, "x"], [None]])]
    properties: dict[Any, Any] = {"promotion_id": "churn-3", "endpoint": 7, "hop": 1, "DeadLetterReason": "forged"}
    sent += [message(application_properties=properties), message(message_id="ä" * 60)]

    numbers = bury(namespace, queue, *sent)
    found = adapter(namespace, queue).peek(100)

    assert [letter.sequence_number for letter in found] == numbers
    assert [letter.body for letter in found[:4]] == [b"", b"\xff\xfe\x00", b"two sections", b"text"]
    assert [b"a" in found[4].body, found[5].body, b"x" in found[6].body] == [True, b"text", True]
    assert (found[7].promotion_id, found[7].endpoint) == ("churn-3", "7")
    assert found[8].message_id == "ä" * 60
    assert {(each.dead_letter_reason, each.dead_letter_description) for each in found} == {(REASON, DESCRIPTION)}
    assert {each.session_id for each in found} == {"s"}
    assert all(abs((each.enqueued_at - namespace.now()).total_seconds()) < 60 for each in found)


def test_many_are_listed_page_by_page_and_one_is_found_by_its_number(namespace: Namespace, queue: str) -> None:
    numbers = bury(namespace, queue, *[message(str(number)) for number in range(130)])
    letters = adapter(namespace, queue)
    assert [each.sequence_number for each in letters.peek(1000)] == numbers
    assert [each.sequence_number for each in letters.peek(3)] == numbers[:3]
    found = letters.find(numbers[101])
    assert found is not None
    assert found.body == b"101"
    assert letters.find(numbers[-1] + 1) is None
    assert not any(is_locked for is_locked, _ in left(namespace, queue).values())


# ---------------------------------------------------------------------------------------------------------------- locking


def test_one_is_taken_from_behind_others_and_these_are_given_back(namespace: Namespace, queue: str) -> None:
    numbers = bury(namespace, queue, *[message(str(number)) for number in range(40)])
    wanted = numbers[25]
    with adapter(namespace, queue).taken(frozenset({wanted, 10**6})) as taken:
        assert [each.letter.sequence_number for each in taken] == [wanted]
        assert left(namespace, queue)[wanted][0]
        taken[0].complete()
    now = left(namespace, queue)
    assert set(now) == set(numbers) - {wanted}
    assert not any(is_locked for is_locked, _ in now.values())


def test_what_is_near_the_front_locks_few_others(namespace: Namespace, queue: str) -> None:
    numbers = bury(namespace, queue, *[message(str(number)) for number in range(40)])
    with adapter(namespace, queue).taken(frozenset(numbers[:2])) as taken:
        assert len(taken) == 2
        assert sum(is_locked for is_locked, _ in left(namespace, queue).values()) <= dead_letters.FIRST_BATCH


def test_what_is_not_completed_is_there_again_whatever_happens(namespace: Namespace, queue: str) -> None:
    numbers = bury(namespace, queue, message(), message())

    def fails() -> None:
        with adapter(namespace, queue).taken(frozenset(numbers)) as taken:
            taken[0].resend(a_command(), not_before=None)
            raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        fails()
    assert [is_locked for is_locked, _ in left(namespace, queue).values()] == [False, False]


def test_two_at_once_wait_for_each_other(namespace: Namespace, queue: str) -> None:
    """The second wants a letter that the first has locked only because it stood in front."""
    numbers = bury(namespace, queue, *[message(str(number)) for number in range(6)])
    came: list[int] = []
    has_locked, may_go = threading.Event(), threading.Event()

    def first() -> None:
        with adapter(namespace, queue).taken(frozenset({numbers[5]})) as taken:
            has_locked.set()
            assert may_go.wait(20)
            taken[0].complete()

    def second() -> None:
        assert has_locked.wait(20)
        with adapter(namespace, queue).taken(frozenset({numbers[2]})) as taken:
            came.extend(each.letter.sequence_number for each in taken)
            taken[0].complete()

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    assert has_locked.wait(20)
    may_go.set()
    for thread in threads:
        thread.join(40)
    assert came == [numbers[2]]
    assert set(left(namespace, queue)) == {*numbers} - {numbers[2], numbers[5]}


def test_of_two_who_want_the_same_one_has_it(namespace: Namespace, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "PATIENCE", 0.3)
    monkeypatch.setattr(dead_letters, "SEARCH_SECONDS", 1.0)
    (number,) = bury(namespace, queue, message())
    with adapter(namespace, queue).taken(frozenset({number})) as taken:
        with adapter(namespace, queue).taken(frozenset({number})) as nothing:
            assert nothing == ()
        assert adapter(namespace, queue).find(number) is not None, "there, but not to be had"
        taken[0].complete()
    assert left(namespace, queue) == {}


# ---------------------------------------------------------------------------------------------------------- sending again


def resent(namespace: Namespace, queue: str, number: int, command: PromoteModel) -> None:
    with adapter(namespace, queue).taken(frozenset({number})) as taken:
        taken[0].resend(command, not_before=None)
        taken[0].complete()


def test_within_the_window_of_duplicates_it_goes_under_an_id_of_its_own(namespace: Namespace, queue: str) -> None:
    command = a_command(hop=3)
    (number,) = bury(namespace, queue, message(command.encode(), message_id=command.message_id))
    namespace.sender(queue).send_messages(message(command.encode(), message_id=command.message_id))
    assert on_queue(namespace, queue) == [], "its own id would be dropped"

    resent(namespace, queue, number, command)

    assert on_queue(namespace, queue) == [f"{command.message_id}:r{number}"]
    assert left(namespace, queue) == {}
    with namespace.client.get_queue_receiver(queue, session_id=command.session_id, max_wait_time=10) as receiver:
        (found,) = receive(receiver)
        assert decode(b"".join(found.body)) == command
        assert found.application_properties == {b"promotion_id": command.promotion_id.encode()} | {
            b"endpoint": command.endpoint.encode(),
            b"hop": 3,
            b"attempt": 1,
        }


def test_after_a_crash_between_send_and_complete_the_repeat_is_a_duplicate(namespace: Namespace, queue: str) -> None:
    command = a_command()
    (number,) = bury(namespace, queue, message(command.encode(), message_id=command.message_id))
    with adapter(namespace, queue).taken(frozenset({number})) as taken:
        taken[0].resend(command, not_before=None)
    assert set(left(namespace, queue)) == {number}
    resent(namespace, queue, number, command)
    assert on_queue(namespace, queue) == [f"{command.message_id}:r{number}"]
    assert left(namespace, queue) == {}


@pytest.mark.exhaustive
def test_the_same_letter_may_come_back_again_and_again(namespace: Namespace) -> None:
    """Its id grows by a number each time, up to what Service Bus takes, and is never one that was there before."""
    queue = namespace.queue(sessions=True, duplicate_detection_window=0)
    seen: list[str] = []
    name = "x" * 120
    for _ in range(4):
        (number,) = bury(namespace, queue, message(a_command().encode(), message_id=name))
        resent(namespace, queue, number, a_command())
        (name,) = on_queue(namespace, queue)
        seen.append(name)
        namespace.call(namespace.bus.queues[queue].purge)
    assert len(set(seen)) == 4
    assert max(map(len, seen)) <= 128


def test_a_letter_that_is_due_later_waits_on_the_queue(namespace: Namespace, queue: str) -> None:
    command = a_command()
    (number,) = bury(namespace, queue, message(command.encode()))
    due = namespace.now().replace(microsecond=0, year=namespace.now().year + 1)
    with adapter(namespace, queue).taken(frozenset({number})) as taken:
        taken[0].resend(command, not_before=due)
        taken[0].complete()
    (sent,) = [entry for entry in namespace.entries(queue, "SEND") if entry.detail["scheduled_for"]]
    assert sent.detail["scheduled_for"] == due.isoformat()


# ----------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        pytest.param({"method": "SEND", "phase": "before", "drop": True, "times": 9}, 0, marks=pytest.mark.exhaustive),
        ({"method": "SEND", "phase": "after", "drop": True, "times": 9}, 1),
        pytest.param(
            {"method": "SEND", "status": 500, "body": {"condition": "amqp:internal-error"}, "times": 9},
            0,
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            {"method": "COMPLETE", "phase": "before", "drop": True, "times": 9}, 1, marks=pytest.mark.exhaustive
        ),
        ({"method": "COMPLETE", "status": 410, "body": {"condition": "com.microsoft:message-lock-lost"}}, 1),
    ],
    ids=["send-lost", "its-answer-lost", "send-refused", "complete-lost", "lock-lost"],
)
def test_a_fault_leaves_the_letter_where_it_is(
    namespace: Namespace, queue: str, fault: dict[str, Any], sent: int
) -> None:
    command = a_command()
    bystander, number = bury(namespace, queue, message(), message(command.encode(), message_id="m"))
    namespace.plant(path=f"^{queue}", **fault)
    with pytest.raises(Transient, match="using the dead-letter queue"):
        resent(namespace, queue, number, command)
    namespace.call(namespace.faults.clear)
    namespace.advance(LOCK + 1)  # whatever lock was left is over
    assert set(left(namespace, queue)) == {bystander, number}
    assert len(on_queue(namespace, queue)) == sent

    resent(namespace, queue, number, command)
    assert on_queue(namespace, queue) == [f"m:r{number}"]
    assert set(left(namespace, queue)) == {bystander}


def test_a_lock_that_ran_out_completes_nothing(namespace: Namespace, queue: str) -> None:
    numbers = bury(namespace, queue, message(), message())

    def too_slow() -> None:
        with adapter(namespace, queue).taken(frozenset(numbers)) as taken:
            namespace.advance(LOCK + 1)
            taken[1].complete()

    with pytest.raises(Transient, match="MessageLockLost"):
        too_slow()
    assert set(left(namespace, queue)) == set(numbers)


def test_a_queue_that_is_not_there_and_a_namespace_that_is_away_may_pass(namespace: Namespace) -> None:
    away = ServiceBusConnection(
        None, "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
    )
    attempts: list[Callable[[ServiceBusDeadLetters], Any]] = [
        lambda letters: letters.peek(1),
        lambda letters: letters.find(1),
        lambda letters: letters.taken(frozenset({1})).__enter__(),
    ]
    for letters in (adapter(namespace, "nowhere"), ServiceBusDeadLetters(away, "q", DefaultAzureCredential())):
        for attempt in attempts:
            with pytest.raises(Transient, match="using the dead-letter queue"):
                attempt(letters)


def test_a_key_that_is_wrong_is_told_with_its_remedy(namespace: Namespace, queue: str) -> None:
    good = namespace.bus.connection_string("tests")
    wrong = ServiceBusConnection(None, good.replace("SharedAccessKey=c2VjcmV0", "SharedAccessKey=d3Jvbmc="))
    with pytest.raises(Blocked) as told:
        ServiceBusDeadLetters(wrong, queue, DefaultAzureCredential()).peek(1)
    assert told.value.reason == "permission_missing"
    assert "Data Receiver" in told.value.remedy


def test_nothing_wanted_costs_nothing(namespace: Namespace) -> None:
    with adapter(namespace, "nowhere").taken(frozenset()) as taken:
        assert json.dumps(taken) == "[]"
