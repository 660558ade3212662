"""The ledger in Azure Storage: rows in two tables, documents in a blob container.

Table `promotions`: partition = promotion id; row `promotion` is where it stands, rows `step-...` what it did.
Table `promotionevents`: partition = hash of source and subject, row = hash of the event id.
Both tables: partition `recent` has a copy of each promotion or event, newest first, so that a listing reads one partition
from its start and no more of it than it shows.
Container `promotion-documents`: `manifest/<digest>.json`, `recipe/<digest>.json`, written once.
"""

import contextlib
import functools
import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from typing import Any

from azure.core import MatchConditions
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableClient, TableServiceClient, UpdateMode
from azure.storage.blob import BlobServiceClient, ContainerClient

from core.adapters.blobs import HTTP
from core.adapters.faults import translated
from core.errors import Transient
from core.ledger import EventRecord, Promotion, State, StepRecord

PROMOTIONS, EVENTS, DOCUMENTS = "promotions", "promotionevents", "promotion-documents"
ROW, RECENT = "promotion", "recent"
# A string property of a table has at most 32 Ki characters, in units of UTF-16.
TEXT_LIMIT = 32_000
NOTE_LENGTH = 100
PAGE_LIMIT = 1000  # of Table Storage
KEPT_DOCUMENTS = 128
_NESTED = ("result", "verdicts")
_WHOLE = ("command", *_NESTED)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


class StorageLedger:
    """`core.ports.Ledger` for Azure Storage. Tables and container are made when first needed."""

    def __init__(self, tables_url: str, blobs_url: str, credential: TokenCredential) -> None:
        self._tables = TableServiceClient(tables_url, credential=credential, **HTTP)
        self._blobs = BlobServiceClient(blobs_url, credential, **HTTP)
        self._lock = threading.Lock()
        self._exists = False
        # Documents never change, so each is read once; the manifest of a large model may have some hundred kilobytes.
        self._read_document = functools.lru_cache(maxsize=KEPT_DOCUMENTS)(self._download)

    # ---------------------------------------------------------------------------------------------------------- rows

    def open(self, promotion: Promotion) -> Promotion:
        """Insert the row, and list it: a call that died in between is repeated by whoever made it, and lists it then."""
        with translated("opening a ledger row"):
            try:
                answer = self._table(PROMOTIONS).create_entity(_entity(promotion.id, ROW, promotion))
                opened: Promotion | None = promotion.model_copy(update={"etag": answer["etag"]})
            except ResourceExistsError:
                opened = self.promotion(promotion.id)
            if opened is None:
                raise Transient(f"ledger row {promotion.id} was there and is gone")
            with contextlib.suppress(ResourceExistsError):
                self._table(PROMOTIONS).create_entity(listed(opened))
        return opened

    def promotion(self, promotion_id: str) -> Promotion | None:
        with translated("reading the ledger"):
            try:
                entity = self._table(PROMOTIONS).get_entity(promotion_id, ROW)
            except ResourceNotFoundError:
                return None
        return _promotion(entity)

    def save(self, promotion: Promotion) -> Promotion:
        """The copy in the listing first: after a crash in between, the hop that is repeated saves both again.

        The other way round, a row that has ended would stay listed as it was: nothing saves it any more.
        """
        table = self._table(PROMOTIONS)
        with translated("writing the ledger"):
            table.upsert_entity(listed(promotion), mode=UpdateMode.REPLACE)
            try:
                answer = table.update_entity(
                    _entity(promotion.id, ROW, promotion),
                    mode=UpdateMode.REPLACE,
                    etag=promotion.etag,
                    match_condition=MatchConditions.IfNotModified if promotion.etag else None,
                )
            except ResourceModifiedError:
                if there := self.promotion(promotion.id):  # list what somebody else has written instead
                    table.upsert_entity(listed(there), mode=UpdateMode.REPLACE)
                raise
        return promotion.model_copy(update={"etag": answer["etag"]})

    def promotions(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        version: str | None = None,
        endpoint: str | None = None,
        limit: int = 100,
    ) -> tuple[Promotion, ...]:
        """The promotions that were asked for last, newest first, without `command` and `etag`."""
        wanted = {"state": state, "model": model, "version": version, "endpoint": endpoint}
        given = {name: str(value) for name, value in wanted.items() if value is not None}
        found = self._recent(PROMOTIONS, [f"{name} eq @{name}" for name in given], given, limit)
        return tuple(Promotion.model_validate(_plain(entity)) for entity in found)

    def note(self, step: StepRecord) -> None:
        row = f"step-{step.at:%Y%m%dT%H%M%S%f}-{step.hop:06d}"  # a hop that is delivered again adds to the history
        with translated("writing the ledger"):
            self._table(PROMOTIONS).upsert_entity(_entity(step.promotion_id, row, step))

    def steps(self, promotion_id: str) -> tuple[StepRecord, ...]:
        query = "PartitionKey eq @id and RowKey ge 'step-' and RowKey lt 'step.'"
        with translated("reading the ledger"):
            found = list(self._table(PROMOTIONS).query_entities(query, parameters={"id": promotion_id}))
        return tuple(StepRecord.model_validate(dict(entity)) for entity in found)

    def record_event(self, event: EventRecord) -> None:
        """An event that comes again is the same row, received when it came first."""
        partition, row = _hash(f"{event.source.lower()}|{event.subject}"), _hash(event.event_id)
        table = self._table(EVENTS)
        with translated("writing the ledger"):
            try:
                table.create_entity(_entity(partition, row, event))
            except ResourceExistsError:
                there = table.get_entity(partition, row)
                event = event.model_copy(update={"received_at": datetime.fromisoformat(there["received_at"])})
                table.upsert_entity(_entity(partition, row, event))
            table.upsert_entity(_entity(RECENT, _recent_row(event.received_at, event.event_id + partition), event))

    def events(
        self,
        *,
        outcome: str | None = None,
        model: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> tuple[EventRecord, ...]:
        """The events received last, newest first; of a model's versions, or of one of them."""
        conditions, given = [], {}
        if outcome is not None:
            conditions.append("outcome eq @outcome")
            given["outcome"] = outcome
        if model is not None and version is not None:
            conditions.append("subject eq @subject")
            given["subject"] = f"models/{model}:{version}"
        elif model is not None:
            conditions.append("subject ge @first and subject lt @behind")
            given |= {"first": f"models/{model}:", "behind": f"models/{model};"}  # `;` follows `:`
        found = self._recent(EVENTS, conditions, given, limit)
        return tuple(EventRecord.model_validate(_plain(entity)) for entity in found)

    def _recent(self, table: str, conditions: list[str], given: dict[str, str], limit: int) -> list[Mapping[str, Any]]:
        """The first rows of the listing that fulfil the conditions; the service filters, and pages end where we stop."""
        query = " and ".join(["PartitionKey eq @partition", *conditions])
        with translated("listing the ledger"):
            pages = self._table(table).query_entities(
                query, parameters={"partition": RECENT} | given, results_per_page=min(limit, PAGE_LIMIT)
            )
            return list(islice(pages, limit))

    # ----------------------------------------------------------------------------------------------------- documents

    def keep(self, kind: str, digest: str, content: str) -> None:
        with translated(f"keeping a {kind}"):
            try:
                self._container().upload_blob(f"{kind}/{digest}.json", content.encode(), overwrite=False)
            except ResourceExistsError:
                return

    def kept(self, kind: str, digest: str) -> str:
        return self._read_document(kind, digest)

    def _download(self, kind: str, digest: str) -> str:
        with translated(f"reading a {kind}"):
            return self._container().download_blob(f"{kind}/{digest}.json").readall().decode()

    # --------------------------------------------------------------------------------------------------------- tables

    def _table(self, name: str) -> TableClient:
        self._ensure()
        return self._tables.get_table_client(name)

    def _container(self) -> ContainerClient:
        self._ensure()
        return self._blobs.get_container_client(DOCUMENTS)

    def _ensure(self) -> None:
        """Make what is missing, once in the life of the process."""
        with self._lock:
            if self._exists:
                return
            for table in (PROMOTIONS, EVENTS):
                self._tables.create_table_if_not_exists(table)
            with contextlib.suppress(ResourceExistsError):
                self._blobs.create_container(DOCUMENTS)
            self._exists = True


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _recent_row(at: datetime, name: str) -> str:
    """Table Storage sorts by row key: what is newer comes first, and the same thing is the same row."""
    return f"{(_LATEST - at) // timedelta(microseconds=1):020d}{_hash(name)}"


def listed(promotion: Promotion) -> dict[str, Any]:
    """The row of a promotion in the listing; without `command`, which is long and for deliveries alone."""
    row = _recent_row(promotion.requested_at, promotion.id)
    return _entity(RECENT, row, promotion.model_copy(update={"command": None}))


def _entity(partition: str, row: str, record: Promotion | StepRecord | EventRecord) -> dict[str, Any]:
    values = record.model_dump(mode="json", exclude={"etag"}, exclude_none=True)
    if "result" in values:
        values["result"] = _fitting(values["result"])
    if "verdicts" in values:
        values["verdicts"] = json.dumps(_first_that_fit(values["verdicts"]), ensure_ascii=False)
    texts = {name: _cut(value) for name, value in values.items() if isinstance(value, str) and name not in _WHOLE}
    return {"PartitionKey": partition, "RowKey": row} | values | texts


def _fitting(value: Any) -> str:
    """As JSON text; an example request that is too long for a table stays in the recipe alone."""
    text = json.dumps(value, ensure_ascii=False)
    if _length(text) > TEXT_LIMIT and isinstance(value, dict) and "example_request" in value:
        value = value | {"example_request": value["example_request"] | {"body": None}}
        text = json.dumps(value, ensure_ascii=False)
    return text if _length(text) <= TEXT_LIMIT else json.dumps({"omitted": f"{len(text)} characters are too many"})


def _first_that_fit(lines: list[str]) -> list[str]:
    """As many lines as a row takes as JSON, and one line that says how many were left out."""
    lengths = accumulate(_length(json.dumps(line, ensure_ascii=False)) + len(", ") for line in lines)
    fitting = sum(length <= TEXT_LIMIT - NOTE_LENGTH for length in lengths)
    left_out = len(lines) - fitting
    return lines if not left_out else [*lines[:fitting], f"... and {left_out} more that a row has no place for"]


def _cut(text: str) -> str:
    if _length(text) <= TEXT_LIMIT:
        return text
    kept = text.encode("utf-16-le")[: 2 * (TEXT_LIMIT - NOTE_LENGTH)].decode("utf-16-le", errors="ignore")
    return f"{kept} ... and {len(text) - len(kept)} more characters"


def _length(text: str) -> int:
    """As Table Storage counts: in units of UTF-16."""
    return len(text.encode("utf-16-le")) // 2


def _plain(entity: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in entity.items() if key not in ("PartitionKey", "RowKey")}
    for name in _NESTED:
        if isinstance(values.get(name), str):
            values[name] = json.loads(values[name])
    if isinstance(values.get("verdicts"), dict):  # rows of before, when verdicts that were too long were left out
        values["verdicts"] = [f"{key}: {text}" for key, text in values["verdicts"].items()]
    return values


def _promotion(entity: Any) -> Promotion:
    return Promotion.model_validate(_plain(entity) | {"etag": entity.metadata["etag"]})
