"""The ledger over tables in memory: what takes two requests of Azure Storage takes two here, in the same order."""

import contextlib
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from core.errors import Conflict, Reason, Refusal, Transient
from core.ledger import LIVE, Approval, AuditRecord, EventRecord, Hold, Memo, Promotion, State, StepRecord
from core.notifications import noted
from tests.unit.engine.wire import Wire, reads, writes

_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


class _Exists(Exception):
    """There is a row of that name."""


@dataclass
class Table:
    """Rows with ETags."""

    wire: Wire
    rows: dict[Any, Any] = field(default_factory=dict)
    etags: dict[Any, str] = field(default_factory=dict)
    _changes: int = 0

    @reads
    def get(self, key: Any) -> tuple[Any, str] | None:
        return (self.rows[key], self.etags[key]) if key in self.rows else None

    @reads
    def all(self) -> list[Any]:
        return list(self.rows.values())

    @writes
    def create(self, key: Any, row: Any) -> str:
        if key in self.rows:
            raise _Exists
        return self._put(key, row)

    @writes
    def update(self, key: Any, row: Any, etag: str | None) -> str:
        if key not in self.rows:
            raise Refusal(Reason.TARGET_NOT_FOUND, f"there is no row {key} (HTTP 404)", remedy="none")
        if etag is not None and self.etags[key] != etag:
            raise Conflict(f"row {key} was changed since it was read (HTTP 412)")
        return self._put(key, row)

    @writes
    def upsert(self, key: Any, row: Any) -> str:
        return self._put(key, row)

    @writes
    def delete(self, key: Any) -> None:
        self.rows.pop(key, None)
        self.etags.pop(key, None)

    def _put(self, key: Any, row: Any) -> str:
        self._changes += 1
        self.rows[key], self.etags[key] = row, str(self._changes)
        return self.etags[key]


def _newest_first(at: datetime, name: str) -> tuple[int, str]:
    return -int(at.timestamp() * 1_000_000), hashlib.sha256(name.encode()).hexdigest()


class LedgerModel:
    """`core.reconcile.History` and `core.publishing.NoticeLedger`."""

    def __init__(self, wire: Wire) -> None:
        self.promotions_, self.listing, self.history = Table(wire), Table(wire), Table(wire)
        self.events_, self.holds, self.decisions = Table(wire), Table(wire), Table(wire)
        self.audits, self.memos_, self.documents = Table(wire), Table(wire), Table(wire)

    # ---------------------------------------------------------------------------------------------------- promotions

    def open(self, promotion: Promotion) -> Promotion:
        try:
            opened = promotion.model_copy(update={"etag": self.promotions_.create(promotion.id, promotion)})
        except _Exists:
            found = self.promotion(promotion.id)
            assert found is not None
            opened = found
        with contextlib.suppress(_Exists):
            self.listing.create(opened.id, _listed(opened))
        return opened

    def promotion(self, promotion_id: str) -> Promotion | None:
        found = self.promotions_.get(promotion_id)
        return found[0].model_copy(update={"etag": found[1]}) if found else None

    def save(self, promotion: Promotion) -> Promotion:
        promotion = noted(promotion)
        self.listing.upsert(promotion.id, _listed(promotion))
        try:
            etag = self.promotions_.update(promotion.id, promotion, promotion.etag)
        except Conflict:
            if there := self.promotion(promotion.id):
                self.listing.upsert(there.id, _listed(there))
            raise
        return promotion.model_copy(update={"etag": etag})

    def promotions(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> tuple[Promotion, ...]:
        wanted = {"state": state, "model": model, "version": version}
        return self._listed(limit, **{name: value for name, value in wanted.items() if value is not None})

    def parked(self, session_id: str, reason: Reason) -> tuple[Promotion, ...]:
        return self._listed(100, session_id=session_id, reason=reason, state=State.PARKED)

    def owing(self, *, limit: int) -> tuple[str, ...]:
        return tuple(row.id for row in self._listed(1000) if row.owed)[:limit]

    def _listed(self, limit: int, **wanted: object) -> tuple[Promotion, ...]:
        rows: list[Promotion] = self.listing.all()
        found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
        return tuple(sorted(found, key=lambda row: _newest_first(row.requested_at, row.id))[:limit])

    def note(self, step: StepRecord) -> None:
        self.history.upsert((step.promotion_id, step.at, step.hop), step)

    def steps(self, promotion_id: str) -> tuple[StepRecord, ...]:
        found = [step for step in self.history.all() if step.promotion_id == promotion_id]
        return tuple(sorted(found, key=lambda step: (step.at, step.hop)))

    def decide(self, approval: Approval) -> Approval:
        key = approval.promotion_id, approval.attempt
        try:
            self.decisions.create(key, approval)
        except _Exists:
            found = self.decisions.get(key)
            assert found is not None
            there: Approval = found[0]
            return there
        return approval

    def approvals(self, promotion_id: str) -> tuple[Approval, ...]:
        found = [each for each in self.decisions.all() if each.promotion_id == promotion_id]
        return tuple(sorted(found, key=lambda each: each.attempt))

    # -------------------------------------------------------------------------------------------- events and endpoints

    def record_event(self, event: EventRecord) -> None:
        key = event.source.lower(), event.subject, event.event_id
        try:
            self.events_.create(key, event)
        except _Exists:
            found = self.events_.get(key)
            assert found is not None
            self.events_.upsert(key, event.model_copy(update={"received_at": found[0].received_at}))

    def events(
        self, *, model: str | None = None, version: str | None = None, limit: int = 100
    ) -> tuple[EventRecord, ...]:
        assert model is not None
        assert version is not None
        found: list[EventRecord] = [each for each in self.events_.all() if each.subject == f"models/{model}:{version}"]
        return tuple(sorted(found, key=lambda each: _newest_first(each.received_at, each.event_id))[:limit])

    def hold(self, session_id: str) -> Hold | None:
        found = self.holds.get(session_id)
        return found[0] if found else None

    def set_hold(self, hold: Hold) -> None:
        self.holds.upsert(hold.session_id, hold)

    def release_hold(self, session_id: str) -> None:
        self.holds.delete(session_id)

    def audit(self, record: AuditRecord) -> None:
        self.audits.upsert((record.session_id, record.at, record.id), record)

    def trail(self, session_id: str, *, limit: int = 1000) -> tuple[AuditRecord, ...]:
        found = [record for record in self.audits.all() if record.session_id == session_id]
        return tuple(sorted(found, key=lambda record: _newest_first(record.at, record.id))[:limit])

    # -------------------------------------------------------------------------------------------- memos and documents

    def live(self) -> tuple[AuditRecord, ...]:
        found = sorted((each for each in self.audits.all() if each.action == LIVE), key=lambda each: each.at)
        return tuple({each.session_id: each for each in found}.values())

    def memo(self, kind: str, key: str) -> Memo | None:
        found = self.memos_.get((kind, key))
        return found[0].model_copy(update={"etag": found[1]}) if found else None

    def memos(self, kind: str) -> tuple[Memo, ...]:
        keys = [memo.key for memo in self.memos_.all() if memo.kind == kind]
        return tuple(
            self.memos_.rows[kind, key].model_copy(update={"etag": self.memos_.etags[kind, key]}) for key in keys
        )

    def save_memo(self, memo: Memo) -> Memo:
        key = memo.kind, memo.key
        try:
            etag = self.memos_.update(key, memo, memo.etag) if memo.etag else self.memos_.create(key, memo)
        except _Exists:
            raise Transient(f"memo {key} is there already (HTTP 409)") from None
        return memo.model_copy(update={"etag": etag})

    def keep(self, kind: str, digest: str, content: str) -> None:
        self.documents.upsert((kind, digest), content)

    def kept(self, kind: str, digest: str) -> str:
        found = self.documents.get((kind, digest))
        if found is None:
            raise Refusal(Reason.TARGET_NOT_FOUND, f"there is no {kind} {digest} (HTTP 404)", remedy="none")
        content: str = found[0]
        return content


def _listed(promotion: Promotion) -> Promotion:
    return promotion.model_copy(update={"command": None, "etag": None})
