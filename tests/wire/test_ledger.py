"""The ledger in Azure Storage, with the real clients: listings, crashes between two writes, texts that are too long."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.data.tables import TableClient, TableServiceClient
from azure.identity import DefaultAzureCredential

from core.adapters import ledger_storage
from core.adapters.ledger_storage import StorageLedger, listed
from core.errors import Transient
from core.ledger import EventOutcome, EventRecord, Promotion, State
from tests.wire.conftest import Front

ACCOUNT = "stsource"
TABLES, BLOBS = f"https://{ACCOUNT}.table.core.windows.net", f"https://{ACCOUNT}.blob.core.windows.net"
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
def ledger(front: Front, monkeypatch: pytest.MonkeyPatch) -> StorageLedger:
    """A ledger with tables of its own."""
    unique = uuid.uuid4().hex[:12]
    monkeypatch.setattr(ledger_storage, "PROMOTIONS", f"promotions{unique}")
    monkeypatch.setattr(ledger_storage, "EVENTS", f"promotionevents{unique}")
    return StorageLedger(TABLES, BLOBS, DefaultAzureCredential())


@pytest.fixture
def table(ledger: StorageLedger) -> Iterator[TableClient]:
    ledger.promotions()  # makes the tables
    with TableServiceClient(TABLES, credential=DefaultAzureCredential()) as service:
        yield service.get_table_client(ledger_storage.PROMOTIONS)


@pytest.fixture
def asked(front: Front) -> Callable[[], list[dict[str, Any]]]:
    """The requests to tables since this fixture was made, or since it was called last."""
    began = front.last_number()

    def since() -> list[dict[str, Any]]:
        nonlocal began
        found = front.control.requests(began, service="table")
        began = front.last_number()
        return found

    return since


def promotion(number: int = 0, **changes: Any) -> Promotion:
    values = {
        "id": f"churn-{number}-85a7c13200-1",
        "state": State.REQUESTED,
        "source": "dev",
        "model": "churn",
        "version": str(number),
        "target": "prod",
        "serve": "realtime",
        "endpoint": "churn",
        "session_id": "s",
        "trigger": "model_registered",
        "rule": "everything",
        "policy_digest": "d",
        "requested_by": "Data Scientist",
        "requested_at": NOON + timedelta(seconds=number),
        "updated_at": NOON + timedelta(seconds=number),
        "command": "{}",
    }
    return Promotion.model_validate(values | changes)


def event(number: int = 0, **changes: Any) -> EventRecord:
    values = {
        "event_id": f"e{number}",
        "event_type": "Microsoft.MachineLearningServices.ModelRegistered",
        "source": "/subscriptions/s",
        "subject": f"models/churn:{number}",
        "outcome": EventOutcome.ACCEPTED,
        "received_at": NOON + timedelta(seconds=number),
    }
    return EventRecord.model_validate(values | changes)


# ------------------------------------------------------------------------------------------------------------ listings


@pytest.mark.timeout(300)
def test_a_hundred_of_five_thousand_are_one_page(
    ledger: StorageLedger, table: TableClient, asked: Callable[[], list[dict[str, Any]]]
) -> None:
    for first in range(0, 5000, 100):
        table.submit_transaction([("upsert", listed(promotion(number))) for number in range(first, first + 100)])
    ledger.open(promotion(5000, state=State.PARKED))
    asked()

    found = ledger.promotions(limit=100)
    assert [row.version for row in found] == [str(number) for number in range(5000, 4900, -1)]
    assert len(asked()) == 1

    assert [row.version for row in ledger.promotions(state=State.PARKED, limit=100)] == ["5000"]
    assert [row.version for row in ledger.promotions(model="churn", version="17")] == ["17"]
    assert len(ledger.promotions(limit=1000)) == 1000
    assert len(asked()) == 3


def test_promotions_are_listed_as_they_are_now_newest_first(ledger: StorageLedger) -> None:
    rows = [ledger.open(promotion(number)) for number in (2, 1, 3)]
    ledger.save(rows[0].model_copy(update={"state": State.WAITING, "why": "w", "updated_at": NOON + timedelta(days=1)}))
    found = ledger.promotions()
    assert [(row.version, row.state, row.why) for row in found] == [
        ("3", "requested", ""),
        ("2", "waiting", "w"),
        ("1", "requested", ""),
    ]
    assert [row.version for row in ledger.promotions(state=State.WAITING)] == ["2"]
    assert [row.version for row in ledger.promotions(limit=2)] == ["3", "2"]


def test_promotions_are_listed_by_model_version_and_endpoint(ledger: StorageLedger) -> None:
    for number, (model, endpoint) in enumerate([("churn", "a"), ("churn", "b"), ("o'brien and x eq 1", "b")]):
        ledger.open(promotion(number, model=model, endpoint=endpoint))

    def versions(**given: str) -> list[str]:
        return [row.version for row in ledger.promotions(**given)]  # type: ignore[arg-type]

    assert versions(model="churn") == ["1", "0"]
    assert versions(model="churn", version="0") == ["0"]
    assert versions(endpoint="b") == ["2", "1"]
    assert versions(model="churn", endpoint="b") == ["1"]
    assert versions(model="o'brien and x eq 1") == ["2"]
    assert versions(model="chur") == []


def test_events_are_listed_by_outcome_model_and_version(ledger: StorageLedger) -> None:
    subjects = ["models/churn:1", "models/churn:10", "models/churn2:1", "experiments/e/runs/churn:1", "models/churn:1"]
    for number, subject in enumerate(subjects):
        outcome = EventOutcome.IGNORED if number == 4 else EventOutcome.ACCEPTED
        ledger.record_event(event(number, subject=subject, outcome=outcome))

    def ids(**given: str) -> list[str]:
        return [found.event_id for found in ledger.events(**given)]  # type: ignore[arg-type]

    assert ids() == ["e4", "e3", "e2", "e1", "e0"]
    assert ids(model="churn") == ["e4", "e1", "e0"]
    assert ids(model="churn", version="1") == ["e4", "e0"]
    assert ids(model="churn", outcome="ignored") == ["e4"]


# ------------------------------------------------------------------------------------- repeated calls, crashes, conflicts


def test_what_is_repeated_is_listed_once(ledger: StorageLedger) -> None:
    first = ledger.open(promotion())
    ledger.save(first.model_copy(update={"state": State.RUNNING}))
    again = ledger.open(promotion(requested_at=NOON + timedelta(hours=1)))  # the event came a second time
    assert (again.state, again.requested_at) == (State.RUNNING, NOON)
    assert [row.state for row in ledger.promotions()] == [State.RUNNING]

    ledger.record_event(event(why="first"))
    ledger.record_event(event(why="second", received_at=NOON + timedelta(hours=1)))
    assert [(found.why, found.received_at) for found in ledger.events()] == [("second", NOON)]


def test_a_crash_between_row_and_listing_is_repaired_by_the_same_call(front: Front, ledger: StorageLedger) -> None:
    ledger.promotions()
    front.control.plant(service="table", method="POST", skip=1, status=503)
    with pytest.raises(Transient):
        ledger.open(promotion())
    assert ledger.promotions() == ()
    ledger.open(promotion())
    assert len(ledger.promotions()) == 1


def test_a_crash_between_listing_and_row_is_repaired_by_the_next_save(front: Front, ledger: StorageLedger) -> None:
    row = ledger.open(promotion())
    front.control.plant(service="table", method="PUT", skip=1, status=503)
    ended = row.model_copy(update={"state": State.SUCCEEDED})
    with pytest.raises(Transient):
        ledger.save(ended)
    assert len(ledger.promotions()) == 1
    there = ledger.promotion(row.id)
    assert there is not None
    assert there.state is State.REQUESTED  # so the hop is repeated, and saves
    ledger.save(there.model_copy(update={"state": State.SUCCEEDED}))
    assert [found.state for found in ledger.promotions()] == [State.SUCCEEDED]


def test_who_comes_too_late_leaves_the_listing_as_it_was(ledger: StorageLedger) -> None:
    row = ledger.open(promotion())
    ledger.save(row.model_copy(update={"state": State.SUCCEEDED}))
    with pytest.raises(Transient, match="412"):
        ledger.save(row.model_copy(update={"state": State.WAITING}))
    assert [found.state for found in ledger.promotions()] == [State.SUCCEEDED]


# ------------------------------------------------------------------------------------------------ texts that are too long


def test_as_many_verdicts_as_fit_are_kept(ledger: StorageLedger) -> None:
    verdicts = tuple(f"rule-{number}: {'x' * 95}" for number in range(1000))
    ledger.record_event(event(verdicts=verdicts))
    (found,) = ledger.events()
    kept = len(found.verdicts) - 1
    assert found.verdicts[:kept] == verdicts[:kept]
    assert found.verdicts[kept] == f"... and {1000 - kept} more that a row has no place for"
    assert kept > 250


@pytest.mark.parametrize("letter", ["x", '"', "ä", "\U0001f600"])
def test_verdicts_of_any_letters_fit(ledger: StorageLedger, letter: str) -> None:
    ledger.record_event(event(verdicts=(letter * 31_990, letter * 40_000)))
    (found,) = ledger.events()
    assert found.verdicts[-1].startswith("... and ")
    few = ("a: matches", letter * 100)
    ledger.record_event(event(1, verdicts=few))
    assert ledger.events()[0].verdicts == few


def test_rows_of_before_are_read(ledger: StorageLedger, table: TableClient) -> None:
    ledger.record_event(event())
    with TableServiceClient(TABLES, credential=DefaultAzureCredential()) as service:
        events = service.get_table_client(ledger_storage.EVENTS)
        for entity in list(events.list_entities()):
            events.update_entity({**entity, "verdicts": '{"omitted": "40000 characters are too many"}'})
    assert ledger.events()[0].verdicts == ("omitted: 40000 characters are too many",)


@pytest.mark.parametrize("letter", ["x", "\U0001f600"])
def test_long_reasons_are_cut(ledger: StorageLedger, letter: str) -> None:
    row = ledger.open(promotion(evidence=letter * 50_000, command="c" * 30_000))
    ledger.save(row.model_copy(update={"why": letter * 40_000, "remedy": "short"}))
    for found in (ledger.promotion(row.id), *ledger.promotions()):
        assert found is not None
        for text, length in ((found.evidence, 50_000), (found.why, 40_000)):
            kept, _, note = text.partition(" ... and ")
            assert kept == letter * len(kept)
            assert note == f"{length - len(kept)} more characters"
        assert found.remedy == "short"
    whole = ledger.promotion(row.id)
    assert whole is not None
    assert whole.command == "c" * 30_000
    assert ledger.promotions()[0].command is None
