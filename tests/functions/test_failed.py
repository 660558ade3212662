"""Failed work over HTTP: seen, sent again one by one, in groups and all at once, and dropped."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pytest
from azure.identity import ManagedIdentityCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiver, ServiceBusSender

from core import replay
from core.adapters.dead_letters import ServiceBusDeadLetters
from core.adapters.service_bus import ServiceBusCommandQueue
from core.callers import Caller
from core.commands import EndpointCommand, Order, PromoteModel, Verb, decode
from core.errors import Reason
from core.ledger import AuditRecord, Promotion, State
from core.orders import Orders
from core.policy_file import load
from core.replay import Replay
from core.settings import ServiceBusConnection
from tests.functions.api import ADA, PLACE, Api
from tests.local import REPOSITORY
from tests.unit.builders import NOON, PROD

REASON = "MaxDeliveryCountExceeded"


# How often a resubmission writes to the tables: audit and row, each in two places.
WRITES = 4


Bury = Callable[..., list[int]]


@dataclass
class Bus:
    """A sender and receivers, which are closed together at the end: each takes up to a second."""

    client: ServiceBusClient
    queue: str
    opened: list[ServiceBusSender | ServiceBusReceiver]

    @cached_property
    def sender(self) -> ServiceBusSender:
        sender = self.client.get_queue_sender(self.queue)
        self.opened.append(sender)
        return sender

    def receiver(self, session: str) -> ServiceBusReceiver:
        receiver = self.client.get_queue_receiver(self.queue, session_id=session)
        self.opened.append(receiver)
        return receiver


@pytest.fixture(scope="module")
def bus(_api: Api) -> Iterator[Bus]:
    endpoints = _api.azure.endpoints
    with ServiceBusClient.from_connection_string(endpoints["service_bus_connection_string"]) as client:
        found = Bus(client, endpoints["queue"], [])
        yield found
        with ThreadPoolExecutor() as closing:
            list(closing.map(lambda opened: opened.close(), found.opened))


@pytest.fixture(autouse=True)
def _empty_queues(api: Api) -> Iterator[None]:
    yield
    api.azure.control.clear_faults()
    for sub_queue in ("", "?sub_queue=dead_letter"):
        api.azure.control.delete(f"/service-bus/queues/{api.azure.endpoints['queue']}/messages{sub_queue}")


@pytest.fixture
def bury(bus: Bus) -> Bury:
    """Messages that were dead-lettered; their sequence numbers."""

    def buried(*bodies: bytes, reason: str = REASON, session: str | None = None, **properties: Any) -> list[int]:
        session = session or f"s-{uuid.uuid4().hex}"
        given: dict[Any, Any] = properties
        sent = [
            ServiceBusMessage(body, session_id=session, message_id=uuid.uuid4().hex, application_properties=given)
            for body in bodies
        ]
        bus.sender.send_messages(sent)
        receiver = bus.receiver(session)
        numbers: list[int] = []
        while len(numbers) < len(bodies):
            for message in receiver.receive_messages(len(bodies) - len(numbers), max_wait_time=10):
                receiver.dead_letter_message(message, reason=reason, error_description="gave up")
                numbers.append(message.sequence_number or 0)
        return numbers

    return buried


def gave_up(api: Api, **changes: Any) -> tuple[Promotion, PromoteModel]:
    """A promotion whose message is among the dead letters, as the worker leaves it."""
    row = api.promotion(State.WAITING)
    command = api.command(row).model_copy(update={"hop": 6, "faults": 5} | changes)
    noted = {"why": "gave up: KeyError: 'id'", "reason": Reason.DEAD_LETTERED, "hop": command.hop, "due": None}
    return api.ledger.save(row.model_copy(update=noted | {"command": command.encode().decode()})), command


def messages(api: Api, sub_queue: str = "") -> list[dict[str, Any]]:
    path = f"/service-bus/queues/{api.azure.endpoints['queue']}/messages"
    found: list[dict[str, Any]] = api.azure.control.get(path, **({"sub_queue": sub_queue} if sub_queue else {}))[
        "messages"
    ]
    return found


def table_writes(api: Api) -> list[dict[str, Any]]:
    return api.azure.control.requests(service="table", method="PUT")


def numbers(api: Api) -> list[int]:
    return [each["sequence_number"] for each in messages(api, "dead_letter")]


# ------------------------------------------------------------------------------------------------------------------- look


def test_malformed_messages_are_shown_beside_good_ones(api: Api, bury: Bury) -> None:
    bodies = [b"", b"\xff\xfe\x00", b'{"kind": "teapot"}', b"z" * 100_000]
    *bad, good = bury(*bodies, gave_up(api)[1].encode(), promotion_id="no/such#promotion", endpoint="e" * 5000, hop=1)
    found = api.get("dead-letters").json["dead_letters"]
    assert [each["sequence_number"] for each in found] == [*bad, good]
    assert [each["reason"] for each in found] == ["undecodable"] * len(bad) + [REASON]
    assert all(len(each["body"]) <= 16_000 for each in found[:-1])
    assert {each["promotion_id"] for each in found[:-1]} == {None}
    refused = api.post(f"dead-letters/{bad[1]}/resubmit")
    assert (refused.status, "drop it" in refused["detail"]) == (409, True)
    assert numbers(api) == [*bad, good]


def test_both_kinds_of_failed_work_are_one_view(api: Api, bury: Bury) -> None:
    row, command = gave_up(api)
    number, bad = bury(command.encode(), b"?")
    refused = api.promotion(State.REFUSED)
    changes = {"reason": Reason.SMOKE_FAILED, "why": "answered 500", "remedy": "look", "updated_at": NOON}
    api.ledger.save(refused.model_copy(update=changes))

    view = api.get("failed?group=reason&limit=1000").json
    found = {each["id"]: each for each in view["failed"]}

    shown = found[refused.id]
    assert (shown["reason"], shown["why"], shown["remedy"]) == ("smoke_failed", "answered 500", "look")
    assert datetime.fromisoformat(shown["at"]) == NOON
    assert found[f"dead-letter-{number}"]["promotion_id"] == row.id
    assert found[f"dead-letter-{number}"]["sequence_number"] == number
    assert {each["kind"] for each in found.values()} == {"dead_letter", "refused"}
    times = [datetime.fromisoformat(each["at"]) for each in view["failed"]]
    assert times == sorted(times, reverse=True)
    groups = {each["reason"]: each["count"] for each in view["groups"]}
    assert (groups[REASON], groups["undecodable"]) == (1, 1)
    assert groups["smoke_failed"] >= 1
    assert sum(groups.values()) == len(view["failed"])
    first = api.get("failed?limit=1").json
    assert ([each["id"] for each in first["failed"]], first["groups"]) == ([view["failed"][0]["id"]], [])
    assert f"dead-letter-{bad}" in found


# -------------------------------------------------------------------------------------------------------------- resubmit


def test_a_dead_letter_is_shown_with_its_promotion_and_goes_again_once(api: Api, bury: Bury) -> None:
    row, command = gave_up(api)
    api.ledger.audit(AuditRecord.requested(row))
    (number,) = bury(command.encode())
    shown = api.get(f"dead-letters/{number}").json
    assert api.get("dead-letters?limit=1").json == {"dead_letters": [shown]}
    expected = {"promotion_id": row.id, "endpoint": row.endpoint, "target": "prod", "state": "waiting", "stale": False}
    expected |= {"reason": REASON, "why": row.why, "remedy": "Correct the cause, then resubmit it."}
    expected |= {"dead_letter_reason": REASON, "dead_letter_description": "gave up"}
    assert {name: shown[name] for name in expected} == expected
    assert shown["body"]["faults"] == 5
    assert datetime.fromisoformat(shown["enqueued_at"]).tzinfo

    written = len(table_writes(api))
    answer = api.post(f"dead-letters/{number}/resubmit", {"reason": "fixed"}, **ADA)
    assert (answer.status, answer["sequence_number"]) == (202, number)
    assert len(table_writes(api)) - written == WRITES

    (sent,) = messages(api)
    assert sent["message_id"].endswith(f":r{number}")
    assert sent["session_id"] == row.session_id
    again = decode(sent["body"].encode())
    assert isinstance(again, PromoteModel)
    assert (again.hop, again.faults) == (6, 0)
    now = api.now(row.id)
    assert (now.state, now.why, now.reason, now.remedy) == ("waiting", "resubmitted by Ada: fixed", None, None)
    assert now.due is not None
    assert api.command(row).faults == 0
    assert api.actions(row) == ["requested", "resubmit"]
    audit = api.ledger.trail(row.session_id)[0]
    assert (audit.actor, audit.reason, audit.promotion_id) == ("Ada", "fixed", row.id)
    assert numbers(api) == []


def test_what_is_stale_is_told_and_can_only_be_dropped(api: Api, bury: Bury) -> None:
    row, command = gave_up(api)
    (number,) = bury(command.encode())
    there = api.ledger.save(row.model_copy(update={"why": "w", "reason": None, "hop": 7}))
    refused = api.post(f"dead-letters/{number}/resubmit")
    assert refused.status == 409
    assert "at hop 7" in refused["detail"]
    assert "drop it" in refused["detail"]
    assert (messages(api), numbers(api)) == ([], [number])

    assert api.post(f"dead-letters/{number}/drop", {"reason": "stale"}).status == 200
    assert (messages(api), numbers(api)) == ([], [])
    assert api.now(row.id) == there, "dropping what is stale changes nothing"


def test_a_hold_is_not_put_back_over_a_newer_release(api: Api, bury: Bury) -> None:
    place = {"target": "prod", "serve": "realtime", "endpoint": f"e{uuid.uuid4().hex[:8]}"}
    held = api.post(f"{PLACE}/{place['endpoint']}/hold", {"reason": "r"}).json
    word = EndpointCommand.model_validate({"order": held["order"], "target_name": "prod", "target": PROD} | {
        "serve": "realtime", "endpoint": place["endpoint"]})  # fmt: skip
    first, second = bury(word.encode(), word.encode())
    assert api.post(f"dead-letters/{first}/resubmit").status == 202
    assert f"hold:{word.order.id}:0" in [each["message_id"] for each in messages(api)]

    assert api.post(f"{PLACE}/{place['endpoint']}/release").status == 202
    refused = api.post(f"dead-letters/{second}/resubmit")
    assert (refused.status, "a newer release" in refused["detail"]) == (409, True)
    assert numbers(api) == [second]


def test_a_word_about_a_promotion_goes_again(api: Api, bury: Bury) -> None:
    row, _ = gave_up(api)
    order = Order(id=uuid.uuid4().hex, verb=Verb.WAKE, by="Ada", at=NOON)
    fields = {"order": order, "target_name": "prod", "target": PROD, "serve": "realtime", "endpoint": row.endpoint}
    word = EndpointCommand.model_validate(fields | {"promotion_id": row.id})
    (number,) = bury(word.encode())
    assert api.post(f"dead-letters/{number}/resubmit").status == 202
    assert api.command(row).faults == 0, "what is woken counts its faults anew"
    (sent,) = messages(api)
    assert decode(sent["body"].encode()) == word.model_copy(update={"hop": 1})


@pytest.mark.parametrize(
    "fault",
    [
        {"service": "table", "method": "PUT", "phase": "after"},
        {"service": "table", "method": "PUT", "phase": "after", "skip": 2},
    ],
    ids=["half of the audit", "half of the row"],
)
def test_a_resubmission_that_broke_off_anywhere_is_completed_by_repeating_it(
    api: Api, bury: Bury, fault: dict[str, Any]
) -> None:
    """One message goes, and the letter is gone. All other states in between are in tests/faults/test_resubmission.py."""
    row, command = gave_up(api)
    (number,) = bury(command.encode())
    # A client tries twice by itself: each try meets the fault.
    planted = api.azure.control.plant(**fault, times=2, drop=True)
    assert api.post(f"dead-letters/{number}/resubmit").status == 503
    assert api.azure.control.fault(planted)["met"]
    api.azure.control.clear_faults()
    assert (messages(api), numbers(api)) == ([], [number])
    assert api.post(f"dead-letters/{number}/resubmit").status == 202
    assert number not in numbers(api)
    (sent,) = messages(api)
    assert sent["session_id"] == row.session_id


# ------------------------------------------------------------------------------------------------------------------ drop


def test_what_is_dropped_is_kept_in_the_audit(api: Api, bury: Bury) -> None:
    """Whatever it is: its session could be no key of a table."""
    (number,) = bury(b"\x01\x02" * 60_000, session="a/b\\c#d?ä" + "e" * 90)
    assert api.post(f"dead-letters/{number}/drop").status == 400
    assert api.post(f"dead-letters/{number}/drop", {"reason": ""}).status == 400
    assert numbers(api) == [number]
    answer = api.post(f"dead-letters/{number}/drop", {"reason": "rubbish"}, **ADA)
    assert (answer.status, answer["reason"]) == (200, "undecodable")
    assert numbers(api) == []
    kept = api.get("audit?limit=1").json["audit"][0]
    assert (kept["action"], kept["actor"], kept["reason"]) == ("drop", "Ada", "rubbish")
    assert (kept["before"]["sequence_number"], kept["before"]["bytes"]) == (number, 120_000)
    assert kept["before"]["dead_letter_reason"] == REASON


def test_a_promotion_whose_letter_is_dropped_says_so_and_can_be_cancelled(api: Api, bury: Bury) -> None:
    row, command = gave_up(api)
    (number,) = bury(command.encode())
    assert api.post(f"dead-letters/{number}/drop", {"reason": "not wanted"}, **ADA).status == 200
    now = api.now(row.id)
    assert (now.state, now.why) == ("waiting", "its dead letter was dropped by Ada: not wanted")
    assert (now.reason, now.remedy) == ("dead_lettered", "Wake it to go on where it was, or cancel it.")
    assert api.actions(row)[-1] == "drop"
    assert api.post(f"promotions/{row.id}/cancel").status == 202


# ------------------------------------------------------------------------------------------------------------------ many


def settled(api: Api) -> None:
    """Nothing that another test refused is left to retry, and no turns are taken."""
    for row in api.ledger.promotions(state=State.REFUSED, limit=1000):
        there = api.now(row.id)
        if there.state is State.REFUSED:
            api.ledger.save(there.model_copy(update={"state": State.SUCCEEDED}))
    memo = api.ledger.memo("replay", "turns")
    if memo is not None:
        api.ledger.save_memo(memo.model_copy(update={"value": {}}))


def due(api: Api) -> list[datetime]:
    """When what is on the queue was meant to go, as it was asked for."""
    log = api.azure.control.requests(service="service_bus", method="SEND")
    wanted = {each["message_id"] for each in messages(api)}
    times = {entry["detail"]["message_id"]: entry["detail"]["scheduled_for"] for entry in log}
    return sorted(datetime.fromisoformat(times[each]) for each in wanted)


def test_a_group_goes_again_at_the_rate_that_was_asked_for(api: Api, bury: Bury) -> None:
    settled(api)
    commands = [gave_up(api)[1].encode() for _ in range(3)]
    *chosen, other = bury(*commands, b"undecodable", reason="TTLExpiredException")
    refused = api.promotion(State.REFUSED)
    api.ledger.save(refused.model_copy(update={"reason": Reason.SMOKE_FAILED}))

    asked = api.post("failed/retry", {"reason": "TTLExpiredException", "per_minute": 6}).json
    assert asked == {"retried": [f"dead-letter-{number}" for number in chosen], "failed": [], "remaining": 0}
    assert numbers(api) == [other]
    more = api.post("failed/retry", {"reason": "smoke_failed", "per_minute": 6}).json
    assert more == {"retried": [refused.id], "failed": [], "remaining": 0}

    times = due(api)
    assert [after - before for before, after in itertools.pairwise(times)] == [timedelta(seconds=10)] * 3
    assert api.now(refused.id).attempt == 2


def test_all_goes_again_call_by_call_whatever_cannot(api: Api, bury: Bury, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than go in one call, behind what can never go: two calls, and nothing is lost."""
    settled(api)
    stale, command = gave_up(api)
    api.ledger.save(stale.model_copy(update={"state": State.SUCCEEDED}))
    rows, commands = zip(*[gave_up(api) for _ in range(4)], strict=True)
    never = bury(b"?", command.encode(), *[each.encode() for each in commands])[:2]
    refused = [api.promotion(State.REFUSED) for _ in range(2)]

    monkeypatch.setattr(replay, "AT_ONCE", 3)
    first = replay_of(api).retry_all(None, Caller(name="Ada"), order_id="one", per_minute=6000)
    second = api.post("failed/retry", {"all": True, "per_minute": 6000}).json

    assert (len(first.done), first.remaining) == (3, 3)
    assert (len(second["retried"]), second["remaining"]) == (3, 0)
    went = {*first.done, *second["retried"]}
    assert len(went) == 6
    assert went >= {row.id for row in refused}
    assert {each["id"] for each in second["failed"]} == {f"dead-letter-{number}" for number in never}
    assert numbers(api) == never
    sessions = sorted(each["session_id"] for each in messages(api))
    assert sessions == sorted(row.session_id for row in [*rows, *refused])


def replay_of(api: Api) -> Replay:
    """As the app has it, in this process."""
    queue = api.azure.endpoints["queue"]
    connection = ServiceBusConnection(None, api.azure.endpoints["service_bus_connection_string"])
    credential = ManagedIdentityCredential()
    commands = ServiceBusCommandQueue(connection, queue, credential)
    now = api.azure.control.now
    policy = load(REPOSITORY / "tests" / "functions" / "promotion.yaml").policy
    orders = Orders(policy=policy, ledger=api.ledger, queue=commands, now=now)
    letters = ServiceBusDeadLetters(connection, queue, credential)
    return Replay(ledger=api.ledger, letters=letters, orders=orders, now=now)


def test_some_by_their_ids(api: Api, bury: Bury) -> None:
    settled(api)
    row, command = gave_up(api)
    (number,) = bury(command.encode())
    refused, done = api.promotion(State.REFUSED), api.promotion(State.SUCCEEDED)
    ids = [refused.id, f"dead-letter-{number}", refused.id, done.id, "nobody", "a/b#c", "dead-letter-x"]
    ids += ["dead-letter-999999", f"dead-letter-{2**63}", f"dead-letter-{'9' * 400}"]

    asked = api.post("failed/retry", {"ids": ids, "note": "again"}, **ADA).json

    assert asked["retried"] == [f"dead-letter-{number}", refused.id]
    assert {each["id"] for each in asked["failed"]} == set(ids) - set(asked["retried"])
    assert asked["remaining"] == 0
    assert api.now(row.id).why == "resubmitted by Ada: again"
    order = api.now(refused.id).order
    assert order is not None
    assert (order.by, order.reason) == ("Ada", "again")
    many = api.post("failed/retry", {"ids": [f"nobody-{number}" for number in range(70)]}).json
    assert (len(many["failed"]), many["remaining"]) == (50, 20)


def test_two_refused_promotions_of_one_endpoint_both_go_again(api: Api) -> None:
    """They are asked for in one call, and an order is known by its id in the audit of the endpoint."""
    settled(api)
    first = api.promotion(State.REFUSED)
    second = api.promotion(State.REFUSED, model=first.model, version="4")
    assert first.session_id == second.session_id
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"ids": [first.id, second.id]}
    assert api.post("failed/retry", body, **key)["retried"] == body["ids"]
    assert [api.now(row.id).attempt for row in (first, second)] == [2, 2]
    assert api.post("failed/retry", body, **key)["retried"] == body["ids"], "the same order again"
    assert [api.now(row.id).attempt for row in (first, second)] == [2, 2]


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": [], "all": True}, {"reason": "x", "all": True}, {"all": True, "per_minute": 0},
     {"all": True, "per_minute": 6001}, {"all": True, "note": "x" * 501}, {"ids": "x"}, {"ids": [1]}],
)  # fmt: skip
def test_a_retry_that_does_not_say_what_is_refused(api: Api, body: dict[str, Any]) -> None:
    assert api.post("failed/retry", body).status == 400
