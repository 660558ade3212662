"""The ledger in Azure Storage: rows in two tables, documents in a blob container.

Table `promotions`: partition = promotion id; row `promotion` is where it stands, rows `step-...` what it did.
Table `promotionevents`: partition = hash of source and subject, row = hash of the event id.
Container `promotion-documents`: `manifest/<digest>.json`, `recipe/<digest>.json`, written once.
"""

import contextlib
import functools
import hashlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from azure.core import MatchConditions
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.data.tables import TableClient, TableServiceClient, UpdateMode
from azure.storage.blob import BlobServiceClient, ContainerClient

from core.adapters.faults import translated
from core.errors import Transient
from core.ledger import EventRecord, Promotion, State, StepRecord

PROMOTIONS, EVENTS, DOCUMENTS = "promotions", "promotionevents", "promotion-documents"
ROW = "promotion"
# A string property of a table has at most 32 Ki characters.
TEXT_LIMIT = 32_000
KEPT_DOCUMENTS = 128
# No retries in the client: it would sleep for many seconds, which a hop does not.
_HTTP: dict[str, Any] = {"retry_total": 0, "connection_timeout": 10, "read_timeout": 30}
_NESTED = ("result", "verdicts")


class StorageLedger:
    """`core.ports.Ledger` for Azure Storage. Tables and container are made when first needed."""

    def __init__(self, tables_url: str, blobs_url: str, credential: TokenCredential) -> None:
        self._tables = TableServiceClient(tables_url, credential=credential, **_HTTP)
        self._blobs = BlobServiceClient(blobs_url, credential, **_HTTP)
        self._lock = threading.Lock()
        self._exists = False
        # Documents never change, so each is read once; the manifest of a large model may have some hundred kilobytes.
        self._read_document = functools.lru_cache(maxsize=KEPT_DOCUMENTS)(self._download)

    # ---------------------------------------------------------------------------------------------------------- rows

    def open(self, promotion: Promotion) -> Promotion:
        with translated("opening a ledger row"):
            try:
                answer = self._table(PROMOTIONS).create_entity(_entity(promotion.id, ROW, promotion))
                return promotion.model_copy(update={"etag": answer["etag"]})
            except ResourceExistsError:
                existing = self.promotion(promotion.id)
        if existing is None:
            raise Transient(f"ledger row {promotion.id} was there and is gone")
        return existing

    def promotion(self, promotion_id: str) -> Promotion | None:
        with translated("reading the ledger"):
            try:
                entity = self._table(PROMOTIONS).get_entity(promotion_id, ROW)
            except ResourceNotFoundError:
                return None
        return _promotion(entity)

    def save(self, promotion: Promotion) -> Promotion:
        with translated("writing the ledger"):
            answer = self._table(PROMOTIONS).update_entity(
                _entity(promotion.id, ROW, promotion),
                mode=UpdateMode.REPLACE,
                etag=promotion.etag,
                match_condition=MatchConditions.IfNotModified if promotion.etag else None,
            )
        return promotion.model_copy(update={"etag": answer["etag"]})

    def promotions(self, *, state: State | None = None, limit: int = 100) -> tuple[Promotion, ...]:
        """The promotions that changed last, newest first."""
        query = f"RowKey eq '{ROW}'" + (f" and state eq '{state}'" if state else "")
        with translated("listing the ledger"):
            found = [_promotion(entity) for entity in self._table(PROMOTIONS).query_entities(query)]
        return tuple(sorted(found, key=lambda row: row.updated_at, reverse=True)[:limit])

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
        partition = _hash(f"{event.source.lower()}|{event.subject}")
        with translated("writing the ledger"):
            self._table(EVENTS).upsert_entity(_entity(partition, _hash(event.event_id), event))

    def events(self, *, outcome: str | None = None, limit: int = 100) -> tuple[EventRecord, ...]:
        """The events received last, newest first."""
        query = f"outcome eq '{outcome}'" if outcome else ""
        with translated("listing the ledger"):
            entities = list(self._table(EVENTS).query_entities(query))
        found = [EventRecord.model_validate(_plain(entity)) for entity in entities]
        return tuple(sorted(found, key=lambda event: event.received_at, reverse=True)[:limit])

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


def _entity(partition: str, row: str, record: Promotion | StepRecord | EventRecord) -> dict[str, Any]:
    values = record.model_dump(mode="json", exclude={"etag"}, exclude_none=True)
    for name in _NESTED:
        if name in values:
            values[name] = _fitting(values[name])
    return {"PartitionKey": partition, "RowKey": row} | values


def _fitting(value: Any) -> str:
    """As JSON text; an example request that is too long for a table stays in the recipe alone."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > TEXT_LIMIT and isinstance(value, dict) and "example_request" in value:
        value = value | {"example_request": value["example_request"] | {"body": None}}
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= TEXT_LIMIT else json.dumps({"omitted": f"{len(text)} characters are too many"})


def _plain(entity: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in entity.items() if key not in ("PartitionKey", "RowKey")}
    for name in _NESTED:
        if isinstance(values.get(name), str):
            values[name] = json.loads(values[name])
    return values


def _promotion(entity: Any) -> Promotion:
    return Promotion.model_validate(_plain(entity) | {"etag": entity.metadata["etag"]})
