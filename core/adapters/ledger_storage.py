"""The ledger in Azure Storage: rows in two tables, documents in a blob container.

Table `promotions`: partition = promotion id; row `promotion` is where it stands, rows `step-...` what it did.
   Decisions about it are rows `approval-...`.
Table `promotionendpoints`: partition = session id of the endpoint; row `hold`, rows `audit-...`, newest first.
   Partition `live` has the last `live` record of each endpoint under its session id.
Table `promotionmemos`: partition = kind, row = hash of the key; what timers keep from tick to tick.
Table `promotionevents`: partition = hash of source and subject, row = hash of the event id.
All but the memos: partition `recent` has a copy of each promotion, event or audit record, newest first, so that a listing reads one partition
from its start and no more of it than it shows.
Container `promotion-documents`: `manifest/<digest>.json`, `recipe/<digest>.json`, written once.
"""

import contextlib
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
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
from core.errors import Reason, Transient
from core.ledger import LIVE, Approval, AuditRecord, EventRecord, Hold, Memo, Promotion, State, StepRecord

PROMOTIONS, EVENTS, ENDPOINTS, MEMOS = "promotions", "promotionevents", "promotionendpoints", "promotionmemos"
DOCUMENTS = "promotion-documents"
ROW, RECENT, HOLD, LIVE_ONES = "promotion", "recent", "hold", "live"
# A string property of a table has at most 32 Ki characters, in units of UTF-16.
TEXT_LIMIT = 32_000
NOTE_LENGTH = 100
PAGE_LIMIT = 1000  # of Table Storage
KEPT_DOCUMENTS = 128
_NESTED = ("result", "verdicts", "order", "before", "after", "value", "notices")
_WHOLE = ("command", *_NESTED)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


class StorageLedger:
    """`core.ports.Ledger` for Azure Storage. Tables and container are made when first needed.

    With `noted`, each row is saved together with the notices that it owes people (`core.notifications.noted`).
    """

    def __init__(
        self,
        tables_url: str,
        blobs_url: str,
        credential: TokenCredential,
        *,
        noted: Callable[[Promotion], Promotion] | None = None,
    ) -> None:
        self._noted = noted
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
        promotion = self._noted(promotion) if self._noted else promotion
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
        target: str | None = None,
        reason: Reason | None = None,
        session_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[Promotion, ...]:
        """The promotions that were asked for last, newest first, without `command` and `etag`.

        `after` is the `position` of the last row of the page before.
        """
        wanted = {"state": state, "model": model, "version": version, "endpoint": endpoint}
        wanted |= {"target": target, "reason": reason, "session_id": session_id}
        given = {name: str(value) for name, value in wanted.items() if value is not None}
        found = self._recent(PROMOTIONS, [f"{name} eq @{name}" for name in given], given, limit, after)
        return tuple(Promotion.model_validate(_plain(entity)) for entity in found)

    def parked(self, session_id: str, reason: Reason) -> tuple[Promotion, ...]:
        return self.promotions(state=State.PARKED, reason=reason, session_id=session_id)

    def owing(self, *, limit: int) -> tuple[str, ...]:
        """The ids of promotions with notices that are not published yet, newest first."""
        found = self._recent(PROMOTIONS, ["owed gt 0"], {}, limit)
        return tuple(str(entity["id"]) for entity in found)

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
        promotion_id: str | None = None,
        limit: int = 100,
    ) -> tuple[EventRecord, ...]:
        """The events received last, newest first; of a model's versions, of one of them, or that asked for a promotion."""
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
        if promotion_id is not None:
            conditions.append("promotion_id eq @promotion")
            given["promotion"] = promotion_id
        found = self._recent(EVENTS, conditions, given, limit)
        return tuple(EventRecord.model_validate(_plain(entity)) for entity in found)

    def _recent(
        self,
        table: str,
        conditions: list[str],
        given: dict[str, str],
        limit: int,
        after: str | None = None,
        partition: str = RECENT,
    ) -> list[Mapping[str, Any]]:
        """The first rows of a partition that fulfil the conditions; the service filters, and pages end where we stop."""
        begin = ["RowKey gt @after"] if after else []
        query = " and ".join(["PartitionKey eq @partition", *begin, *conditions])
        given = {"partition": partition} | given | ({"after": after} if after else {})
        with translated("listing the ledger"):
            pages = self._table(table).query_entities(query, parameters=given, results_per_page=min(limit, PAGE_LIMIT))
            return list(islice(pages, limit))

    # ------------------------------------------------------------------------------------------- people and endpoints

    def hold(self, session_id: str) -> Hold | None:
        with translated("reading the ledger"):
            try:
                return Hold.model_validate(_plain(self._table(ENDPOINTS).get_entity(session_id, HOLD)))
            except ResourceNotFoundError:
                return None

    def set_hold(self, hold: Hold) -> None:
        with translated("writing the ledger"):
            self._table(ENDPOINTS).upsert_entity(_entity(hold.session_id, HOLD, hold), mode=UpdateMode.REPLACE)

    def release_hold(self, session_id: str) -> None:
        with translated("writing the ledger"):
            self._table(ENDPOINTS).delete_entity(session_id, HOLD)

    def decide(self, approval: Approval) -> Approval:
        row = f"approval-{approval.attempt:06d}" + (f"-{_hash(approval.question)}" if approval.question else "")
        table = self._table(PROMOTIONS)
        with translated("writing the ledger"):
            try:
                table.create_entity(_entity(approval.promotion_id, row, approval))
            except ResourceExistsError:
                return Approval.model_validate(_plain(table.get_entity(approval.promotion_id, row)))
        return approval

    def approvals(self, promotion_id: str) -> tuple[Approval, ...]:
        query = "PartitionKey eq @id and RowKey ge 'approval-' and RowKey lt 'approval.'"
        with translated("reading the ledger"):
            found = list(self._table(PROMOTIONS).query_entities(query, parameters={"id": promotion_id}))
        return tuple(Approval.model_validate(_plain(entity)) for entity in found)

    def audit(self, record: AuditRecord) -> None:
        """The same record at the same time is the same row; the listings first, so that a repeat completes all."""
        row = _recent_row(record.at, record.id)
        table = self._table(ENDPOINTS)
        with translated("writing the ledger"):
            table.upsert_entity(_entity(RECENT, row, record), mode=UpdateMode.REPLACE)
            if record.action == LIVE:
                table.upsert_entity(_entity(LIVE_ONES, record.session_id, record), mode=UpdateMode.REPLACE)
            table.upsert_entity(_entity(record.session_id, f"audit-{row}", record), mode=UpdateMode.REPLACE)

    def trail(
        self, session_id: str | None = None, *, limit: int = PAGE_LIMIT, at: datetime | None = None
    ) -> tuple[AuditRecord, ...]:
        """What was done, newest first: to one endpoint, or to all; `at` leaves out what came later."""
        prefix = "audit-" if session_id else ""
        conditions, given = [f"RowKey ge '{prefix}'", f"RowKey lt '{prefix}~'"], {}
        if at is not None:
            conditions, given = ["RowKey ge @from", conditions[1]], {"from": prefix + _recent_row(at, "")[:20]}
        found = self._recent(ENDPOINTS, conditions, given, limit, partition=session_id or RECENT)
        return tuple(AuditRecord.model_validate(_plain(entity)) for entity in found)

    def live(self) -> tuple[AuditRecord, ...]:
        """The last word about what is live on each endpoint, by session id."""
        with translated("listing the ledger"):
            found = list(self._table(ENDPOINTS).query_entities("PartitionKey eq @live", parameters={"live": LIVE_ONES}))
        return tuple(AuditRecord.model_validate(_plain(entity)) for entity in found)

    def memo(self, kind: str, key: str) -> Memo | None:
        with translated("reading the ledger"):
            try:
                entity = self._table(MEMOS).get_entity(kind, _hash(key))
            except ResourceNotFoundError:
                return None
        return Memo.model_validate(_plain(entity) | {"etag": entity.metadata["etag"]})

    def memos(self, kind: str) -> tuple[Memo, ...]:
        with translated("reading the ledger"):
            found = list(self._table(MEMOS).query_entities("PartitionKey eq @kind", parameters={"kind": kind}))
        return tuple(Memo.model_validate(_plain(entity) | {"etag": entity.metadata["etag"]}) for entity in found)

    def save_memo(self, memo: Memo) -> Memo:
        entity = _entity(memo.kind, _hash(memo.key), memo)
        table = self._table(MEMOS)
        with translated("writing the ledger"):
            if memo.etag is None:
                answer = table.create_entity(entity)
            else:
                answer = table.update_entity(
                    entity, mode=UpdateMode.REPLACE, etag=memo.etag, match_condition=MatchConditions.IfNotModified
                )
        return memo.model_copy(update={"etag": answer["etag"]})

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
            for table in (PROMOTIONS, EVENTS, ENDPOINTS, MEMOS):
                self._tables.create_table_if_not_exists(table)
            with contextlib.suppress(ResourceExistsError):
                self._blobs.create_container(DOCUMENTS)
            self._exists = True


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def position(promotion: Promotion) -> str:
    """Where a promotion stands in the listing: what comes behind it is the next page."""
    return _recent_row(promotion.requested_at, promotion.id)


def _recent_row(at: datetime, name: str) -> str:
    """Table Storage sorts by row key: what is newer comes first, and the same thing is the same row."""
    return f"{(_LATEST - at) // timedelta(microseconds=1):020d}{_hash(name)}"


def listed(promotion: Promotion) -> dict[str, Any]:
    """The row of a promotion in the listing; without `command`, which is long and for deliveries alone."""
    return _entity(RECENT, position(promotion), promotion.model_copy(update={"command": None}))


_Row = Promotion | StepRecord | EventRecord | Approval | AuditRecord | Hold | Memo


def _entity(partition: str, row: str, record: _Row) -> dict[str, Any]:
    values = record.model_dump(mode="json", exclude={"etag"}, exclude_none=True)
    if "result" in values:
        values["result"] = _fitting(values["result"])
    if "verdicts" in values:
        values["verdicts"] = json.dumps(_first_that_fit(values["verdicts"]), ensure_ascii=False)
    for name in ("order", "before", "after", "value", "notices"):
        if name in values:
            values[name] = json.dumps(values[name], ensure_ascii=False)
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
