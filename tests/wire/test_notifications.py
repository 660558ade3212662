"""Notifications on their way: the real Event Grid client, the emulated topic, and the ledger in between."""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.identity import DefaultAzureCredential

from core import notifications
from core.adapters.ledger_storage import StorageLedger
from core.adapters.notifications import CONNECT_SECONDS, READ_SECONDS, EventGridTopic
from core.errors import Blocked, PromotionError, Reason, Refusal, Transient
from core.ledger import Notice, NoticeType, Promotion, State
from core.publishing import Publisher
from emulator.clock import Clock
from emulator.event_grid import EventGrid
from emulator.topology import DATA_SCIENTIST
from tests.unit.builders import DEV, NOON, a_command
from tests.wire.conftest import Front, on_a_thread

TOPIC, FOREIGN, MISSING = (
    f"https://{name}.westeurope-1.eventgrid.azure.net/api/events" for name in ("told", "foreign", "missing")
)
TABLES, BLOBS = "https://stsource.table.core.windows.net", "https://stsource.blob.core.windows.net"
HOUR = timedelta(hours=1)


class FrontWithTopics(Front):
    """The way in, with a topic that the data scientist may send to and one for others."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        verify = self.identities.verify
        grid = EventGrid(clock=Clock(), log=self.log, faults=self.faults, directory=directory, verify_token=verify)
        grid.create_topic("told", "westeurope", "CloudEventSchemaV1_0", senders=[DATA_SCIENTIST.name])
        grid.create_topic("foreign", "westeurope", "CloudEventSchemaV1_0", senders=[])
        self.gateway.mount(grid.mounts())
        self.api.add_routes(grid.control_routes())
        self._parts = (*self._parts, grid)  # type: ignore[assignment]


@pytest.fixture(scope="module")
def _front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("front")
    with on_a_thread(lambda: FrontWithTopics(directory)) as front:
        yield front


@pytest.fixture
def ledger(front: Front) -> StorageLedger:
    return StorageLedger(TABLES, BLOBS, DefaultAzureCredential(), noted=notifications.noted)


def a_publisher(ledger: StorageLedger, endpoint: str = TOPIC) -> Publisher:
    return Publisher(topic=EventGridTopic(endpoint, DefaultAzureCredential()), ledger=ledger, overdue_after=HOUR)


def came(front: Front, row: Promotion) -> list[dict[str, Any]]:
    events = front.control.get("/event-grid/topics/told/events")
    return [event for event in events if event["data"]["promotion_id"] == row.id]


def opened(ledger: StorageLedger, version: str) -> Promotion:
    return ledger.open(Promotion.requested(a_command(version=version), now=NOON))


def there(ledger: StorageLedger, row: Promotion) -> Promotion:
    found = ledger.promotion(row.id)
    assert found is not None
    return found


LIVE = {"state": State.SUCCEEDED, "hop": 7}


def test_live_is_told_at_once_and_once(front: Front, ledger: StorageLedger, caplog: pytest.LogCaptureFixture) -> None:
    publisher = a_publisher(ledger)
    row = ledger.save(opened(ledger, "10").model_copy(update=LIVE))
    assert (row.owed, ledger.owing(limit=10)) == (1, (row.id,)), "owed from the moment in which it is written"
    with caplog.at_level(logging.WARNING):
        publisher.tell(row, DEV)
    (event,) = came(front, row)
    assert event | {"data": None} == {
        "specversion": "1.0",
        "id": f"{row.id}:1:7:Live",
        "type": "Promotion.Live",
        "source": "/promotion-service",
        "subject": "targets/prod/realtime/churn/models/churn:10",
        "time": "2026-03-04T12:00:00.000Z",
        "datacontenttype": "application/json",
        "data": None,
    }
    assert event["data"]["state"] == "succeeded"
    assert caplog.records == []
    assert front.last("event_grid")["principal"] == DATA_SCIENTIST.name

    now = there(ledger, row)
    assert (now.owed, [notice.type for notice in now.notices]) == (0, [NoticeType.LIVE])
    assert ledger.owing(limit=10) == ()
    publisher.tell(now, DEV)
    assert publisher.catch_up([], NOON) == 0
    assert len(came(front, row)) == 1


def test_a_hop_without_news_costs_no_request(front: Front, ledger: StorageLedger) -> None:
    row = ledger.save(opened(ledger, "11").model_copy(update={"state": State.WAITING}))
    before = front.last_number()
    a_publisher(ledger).tell(row, DEV)
    assert front.control.requests(before) == []


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("30", {"status": 503}),
        ("31", {"status": 429, "headers": {"Retry-After": "30"}}),
        ("32", {"status": 401}),
        ("33", {"drop": True}),
    ],
)
def test_a_topic_that_is_down_holds_up_nothing_and_the_timer_brings_what_is_owed(
    front: Front, ledger: StorageLedger, version: str, fault: dict[str, Any]
) -> None:
    publisher = a_publisher(ledger)
    row = ledger.save(opened(ledger, version).model_copy(update=LIVE))
    front.control.plant(service="event_grid", times=2, **fault)
    began = time.monotonic()
    publisher.tell(row, DEV)
    publisher.tell(row, DEV)
    assert time.monotonic() - began < CONNECT_SECONDS + READ_SECONDS
    assert front.control.faults()[0]["met"] == 1, "the second one was left to the timer"
    assert came(front, row) == []
    with pytest.raises((Transient, Blocked)):
        publisher.catch_up([], NOON)
    assert there(ledger, row).owed == 1
    assert publisher.catch_up([], NOON) == 1
    assert len(came(front, row)) == 1
    assert publisher.catch_up([], NOON) == 0


def test_a_crash_after_publishing_repeats_the_same_event(front: Front, ledger: StorageLedger) -> None:
    publisher = a_publisher(ledger)
    row = ledger.save(opened(ledger, "12").model_copy(update=LIVE))
    EventGridTopic(TOPIC, DefaultAzureCredential()).publish(notifications.notifications(row))  # and then it died
    assert publisher.catch_up([], NOON) == 1
    first, second = came(front, row)
    assert first == second


def test_an_answer_that_got_lost_repeats_the_same_event(front: Front, ledger: StorageLedger) -> None:
    publisher = a_publisher(ledger)
    row = ledger.save(opened(ledger, "13").model_copy(update=LIVE))
    front.control.plant(service="event_grid", phase="after", drop=True)
    publisher.tell(row, DEV)
    assert publisher.catch_up([], NOON) == 1
    assert len({event["id"] for event in came(front, row)}) == 1


def test_news_that_came_while_it_was_published_is_kept(front: Front, ledger: StorageLedger) -> None:
    row = ledger.save(opened(ledger, "14").model_copy(update={"state": State.PARKED, "reason": Reason.ON_HOLD}))
    ledger.save(row.model_copy(update=LIVE | {"reason": None}))
    publisher = a_publisher(ledger)
    publisher.tell(row, DEV)  # as it was
    assert there(ledger, row).owed == 3
    assert publisher.catch_up([], NOON) == 3
    assert [event["type"].partition(".")[2] for event in came(front, row)] == ["Parked", "Parked", "Recovered", "Live"]


def test_overdue_is_told_once_for_an_attempt_by_looking_at_what_the_timer_has_read(
    front: Front, ledger: StorageLedger
) -> None:
    publisher = a_publisher(ledger)
    late = ledger.save(opened(ledger, "15").model_copy(update={"state": State.WAITING}))
    asks = {"state": State.PARKED, "reason": Reason.APPROVAL_WANTED}
    asking = ledger.save(ledger.save(opened(ledger, "16").model_copy(update=asks)).model_copy(update={"owed": 0}))
    published = []
    for now in (NOON, NOON + HOUR, NOON + 2 * HOUR):
        before = front.last_number()
        under_way = [row for row in ledger.promotions() if row.id in (late.id, asking.id)]
        published.append(publisher.catch_up(under_way, now))
        looked = [entry for entry in front.control.requests(before, service="table") if entry["method"] == "GET"]
        assert len(looked) == 2 + published[-1], "this listing, what is owed, and each row that is late"
    assert published == [0, 1, 0]
    assert [event["type"] for event in came(front, late)] == ["Promotion.Overdue"]
    assert came(front, asking) == []


def test_a_row_that_a_delivery_is_about_to_save_is_left_alone(front: Front, ledger: StorageLedger) -> None:
    refused = {"state": State.REFUSED, "reason": Reason.SMOKE_FAILED}
    row = ledger.save(opened(ledger, "17").model_copy(update=refused))
    again = ledger.save(row.again(a_command(version="17", attempt=2), now=NOON))
    running = ledger.save(again.model_copy(update={"state": State.RUNNING}))
    publisher = a_publisher(ledger)
    publisher.tell(running, DEV)
    assert publisher.catch_up([running], NOON) == 0
    done = ledger.save(running.model_copy(update=LIVE))
    publisher.tell(done, DEV)
    assert [event["type"].partition(".")[2] for event in came(front, row)] == ["Refused", "Recovered", "Live"]


# ---------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("endpoint", "kind", "reason"),
    [(FOREIGN, Blocked, Reason.PERMISSION_MISSING), (MISSING, Blocked, Reason.TARGET_NOT_FOUND)],
    ids=["no role", "no topic"],
)
def test_who_may_not_send_and_what_is_not_there_need_somebody(
    front: Front, endpoint: str, kind: type[Blocked], reason: Reason
) -> None:
    row = notifications.noted(Promotion.requested(a_command(), now=NOON).model_copy(update=LIVE))
    with pytest.raises(kind) as caught:
        EventGridTopic(endpoint, DefaultAzureCredential()).publish(notifications.notifications(row))
    assert caught.value.reason is reason
    assert caught.value.remedy


def test_what_is_too_large_for_the_topic_keeps_nothing_else_back(front: Front, ledger: StorageLedger) -> None:
    huge = Notice(id="1", type=NoticeType.LIVE, at=NOON, attempt=1, state=State.SUCCEEDED, why="w" * 1024 * 1024)
    row = Promotion.requested(a_command(), now=NOON).model_copy(update={"notices": (huge,), "owed": 1})
    with pytest.raises(Refusal) as caught:
        EventGridTopic(TOPIC, DefaultAzureCredential()).publish(notifications.notifications(row))
    assert caught.value.reason is Reason.REQUEST_REJECTED

    publisher = a_publisher(ledger)
    rows = [ledger.save(opened(ledger, version).model_copy(update=LIVE)) for version in ("18", "19")]
    front.control.plant(service="event_grid", status=413)
    with pytest.raises(PromotionError):
        publisher.catch_up([], NOON)
    assert sorted(len(came(front, row)) for row in rows) == [0, 1]
    assert publisher.catch_up([], NOON) == 1


def test_the_topic_takes_cloud_events_in_their_own_content_types_and_tokens_for_event_grid_only(
    front: Front, session: requests.Session
) -> None:
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "data": {"promotion_id": "none"},
    }

    def status(content_type: str, resource: str = "https://eventgrid.azure.net") -> int:
        headers = {"Authorization": f"Bearer {front.token(resource)}", "Content-Type": content_type}
        return session.post(TOPIC, json=[event], headers=headers).status_code

    assert status("application/cloudevents-batch+json; charset=utf-8") == 200
    assert status("application/json") == 400
    assert status("application/cloudevents-batch+json", "https://management.azure.com") == 401
