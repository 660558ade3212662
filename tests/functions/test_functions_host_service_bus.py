"""Service Bus triggers of the local Functions host, against the local namespace, over AMQP."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functions.host.namespace import Namespace
from tests.functions.host.process import HostProcess
from tests.functions.test_functions_host import records, settings

DONE = r"Executed 'Functions.on_session_message'"
RECEIVED = r"sessions \(Id=.*\): Received"


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace; a test may give the duration of its locks as the fixture's parameter."""
    started = Namespace(lock_duration=getattr(request, "param", 60.0))
    yield started
    started.stop()


@pytest.fixture
def start(tmp_path: Path, namespace: Namespace) -> Iterator[Callable[[], HostProcess]]:
    started: list[HostProcess] = []

    def start_host() -> HostProcess:
        host = HostProcess(tmp_path, settings(tmp_path, ServiceBus=namespace.connection_string))
        started.append(host)
        return host

    yield start_host
    for host in started:
        host.kill()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe at which a function waits until the test writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def seen(directory: Path) -> list[dict[str, Any]]:
    return records(directory, "on_session_message")


def test_a_session_is_run_in_order_with_all_that_its_messages_bear(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path
) -> None:
    namespace.send("sessions", {"n": 1}, {"n": 2}, {"n": 3}, session="a", application_properties={"kind": "x"})
    host = start()
    namespace.wait_for("COMPLETE", 3)
    assert [message["order"]["n"] for message in seen(tmp_path)] == [1, 2, 3]
    first = seen(tmp_path)[0]
    assert first["session"] == "a"
    assert first["delivery"] == 1
    assert first["properties"] == {"kind": "x"}
    assert first["id"]
    assert first["enqueued"]
    sequence = [message["sequence"] for message in seen(tmp_path)]
    assert sequence == sorted(set(sequence))
    host.wait_for_line(DONE + r" \(Succeeded", count=3)


def test_sessions_run_at_once_but_each_one_message_at_a_time(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path, gate: Path
) -> None:
    namespace.send("sessions", {"n": 1, "gate": str(gate)}, {"n": 2}, session="slow")
    host = start()
    host.wait_for_line(RECEIVED)
    namespace.send("sessions", {"n": 3}, session="fast")
    host.wait_for_line(DONE)
    assert [message["order"]["n"] for message in seen(tmp_path)] == [1, 3]
    gate.write_bytes(b"")
    namespace.wait_for("COMPLETE", 3)
    assert [message["order"]["n"] for message in seen(tmp_path)] == [1, 3, 2]


def test_a_free_slot_takes_the_next_session(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path
) -> None:
    for number in range(8):  # more sessions than maxConcurrentSessions, so each slot serves several
        namespace.send("sessions", {"n": number}, session=f"s{number}")
    start()
    namespace.wait_for("COMPLETE", 8)
    assert sorted(message["order"]["n"] for message in seen(tmp_path)) == list(range(8))


def test_an_exception_abandons_until_the_queue_gives_up(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path
) -> None:
    namespace.send("sessions", {"error": "always"}, session="a")
    namespace.send("sessions", {"n": 2}, session="a")
    start()
    namespace.wait_for("COMPLETE", 1)
    assert [message["delivery"] for message in seen(tmp_path)] == [1, 2, 3, 1]
    assert len(namespace.entries("ABANDON")) == 3


@pytest.mark.parametrize("namespace", [5.0], indirect=True)
def test_a_running_function_keeps_its_lock(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path, gate: Path
) -> None:
    namespace.send("sessions", {"gate": str(gate)}, session="a")
    host = start()
    host.wait_for_line(RECEIVED)
    namespace.wait_for("RENEW", 2)  # at half of what was left each time: the first lock of 5 s is over by now
    gate.write_bytes(b"")
    namespace.wait_for("COMPLETE", 1)
    assert len(seen(tmp_path)) == 1


def test_nothing_is_settled_after_the_lock_was_lost(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path, gate: Path
) -> None:
    namespace.send("sessions", {"gate": str(gate), "only_delivery": 1}, session="a")
    host = start()
    host.wait_for_line(RECEIVED)
    namespace.advance(61)
    namespace.wait_for("COMPLETE", 1)  # of the second delivery, while the first still runs
    gate.write_bytes(b"")
    host.wait_for_line(DONE, count=2)
    host.wait_for_line(r"Message '.*' of 'sessions' (is|was) not settled")
    assert [message["delivery"] for message in seen(tmp_path)] == [1, 2]
    assert len(namespace.entries("COMPLETE")) == 1
    assert namespace.entries("ABANDON") == []


def test_a_killed_host_leaves_the_message_to_the_next(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path, gate: Path
) -> None:
    namespace.send("sessions", {"n": 1, "gate": str(gate)}, session="a")
    first = start()
    first.wait_for_line(RECEIVED)
    first.kill()
    second = start()
    second.wait_until_ready()
    assert len(seen(tmp_path)) == 1
    namespace.advance(61)
    second.wait_for_line(RECEIVED)
    gate.write_bytes(b"")
    namespace.wait_for("COMPLETE", 1)
    assert [message["delivery"] for message in seen(tmp_path)] == [1, 2]


def test_sigterm_finishes_what_runs_and_frees_the_session(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path, gate: Path
) -> None:
    namespace.send("sessions", {"n": 1, "gate": str(gate)}, {"n": 2}, session="a")
    first = start()
    first.wait_for_line(RECEIVED)
    first.terminate()
    first.wait_for_line("Host is stopping")
    gate.write_bytes(b"")
    assert first.wait_for_exit() == 0
    assert len(namespace.entries("COMPLETE")) == 1
    start()
    namespace.wait_for("COMPLETE", 2)  # without the clock: the session was not left locked
    assert [(message["order"]["n"], message["delivery"]) for message in seen(tmp_path)] == [(1, 1), (2, 1)]


def test_queues_without_sessions_one_by_one_and_in_batches(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path
) -> None:
    namespace.send("plain", *(f"p{number}" for number in range(5)))
    namespace.send("batch", *(f"b{number}" for number in range(5)))
    start()
    namespace.wait_for("COMPLETE", 5, queue="plain")
    namespace.wait_for("COMPLETE", 5, queue="batch")
    assert sorted(message["body"] for message in records(tmp_path, "on_message")) == [f"p{n}" for n in range(5)]
    batches = records(tmp_path, "on_batch")
    assert [body for batch in batches for body in batch["bodies"]] == [f"b{number}" for number in range(5)]
    assert len(batches) < 5


def test_it_receives_again_after_an_outage(
    namespace: Namespace, start: Callable[[], HostProcess], tmp_path: Path
) -> None:
    host = start()
    host.wait_until_ready()
    namespace.send("sessions", {"n": 1}, session="a")
    namespace.wait_for("COMPLETE", 1)
    namespace.go_down()
    host.wait_for_line("Cannot receive from 'sessions', will try again")
    namespace.come_up()
    namespace.send("sessions", {"n": 2}, session="b")
    namespace.wait_for("COMPLETE", 2)
