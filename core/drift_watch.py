"""Looks for drift: what is live by the ledger against what its target shows, some endpoints in each pass of the timer.

What was found is kept in the ledger, told once, and repaired where the policy says so: by an order of the service, which
goes through the endpoint's session like anybody's. Nothing is written to a target here.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Protocol

from core.callers import Caller
from core.commands import PromoteModel
from core.drift import Drift, Repair, Shown, drift_of, findings, is_live, repair
from core.errors import PromotionError
from core.events import WorkspaceId
from core.freeze import frozen_until
from core.ledger import AuditRecord, Memo, Promotion
from core.orders import OrderRefused, Orders, command_of
from core.policy import Policy
from core.ports import Ledger, Target
from core.publishing import Publisher
from core.rolling import next_places

log = logging.getLogger(__name__)

# Each costs three or four requests to Resource Manager.
ENDPOINTS_A_TICK = 25
KIND, CURSOR = "drift", "drift-cursor"
SERVICE = Caller(name="the drift watch")


class DriftLedger(Ledger, Protocol):
    """The ledger as far as the watch needs more than the engine."""

    def live(self) -> tuple[AuditRecord, ...]: ...

    def memos(self, kind: str) -> tuple[Memo, ...]: ...


class DriftWatch:
    """Compares and reports. `now` is the current time (UTC)."""

    def __init__(
        self,
        *,
        policy: Policy,
        ledger: DriftLedger,
        target_for: Callable[[WorkspaceId], Target],
        orders: Orders,
        now: Callable[[], datetime],
        publisher: Publisher | None = None,
        endpoints_a_tick: int = ENDPOINTS_A_TICK,
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._target_for = target_for
        self._orders = orders
        self._now = now
        self._publisher = publisher
        self._endpoints_a_tick = endpoints_a_tick

    def drifts(self) -> tuple[Drift, ...]:
        """What was found and still stands, longest first. Of targets that the policy no longer has, nothing."""
        live = {record.session_id: _which(record.after) for record in self._ledger.live() if record.after}
        kept = [(memo.key, Drift.model_validate(memo.value)) for memo in self._ledger.memos(KIND)]
        found = [
            drift
            for session, drift in kept
            if drift.findings
            and (drift.promotion_id, drift.attempt) == live.get(session)  # what went live since has mended it
            and self._is_watched(drift.target)
        ]
        return tuple(sorted(found, key=lambda drift: (drift.since, drift.target, drift.endpoint)))

    def look(self, busy: Collection[str]) -> tuple[Counter[str], list[str]]:
        """One pass over the next endpoints, without those whose sessions are `busy`: what was done, and what went wrong."""
        done, problems = Counter[str](), []
        for record in self._next():
            if record.session_id in busy:
                continue
            try:
                done += self._look_at(record)
            except (PromotionError, OrderRefused) as fault:
                log.warning("drift: %s of %s: %s", record.endpoint, record.target, fault)
                problems.append(f"drift of {record.target}/{record.endpoint}: {fault}"[:300])
        return done, problems

    def _next(self) -> list[AuditRecord]:
        """Where the last pass stopped, this one goes on."""
        live = self._ledger.live()
        watched = {each.session_id: each for each in live if is_live(each) and self._is_watched(each.target)}
        memo = self._ledger.memo("reconcile", CURSOR)
        chosen = next_places(sorted(watched), str(memo.value["after"]) if memo else "", self._endpoints_a_tick)
        if len(chosen) < len(watched):
            after = {"after": chosen[-1]}
            self._ledger.save_memo(Memo(kind="reconcile", key=CURSOR, value=after, etag=memo.etag if memo else None))
        return [watched[session] for session in chosen]

    def _is_watched(self, target: str) -> bool:
        return target in self._policy.targets and self._policy.targets[target].drift != "ignore"

    def _look_at(self, live: AuditRecord) -> Counter[str]:
        after = live.after or {}
        row = self._ledger.promotion(str(after["promotion_id"]))
        if row is None or not row.state.is_final:
            return Counter()
        command = command_of(row)
        shown = self._shown(command)
        if not shown.is_settled:
            return Counter()
        found = findings(command, str(after["deployment"]), shown)
        memo = self._ledger.memo(KIND, live.session_id)
        before = _of(memo, row)
        drift = before if before and before.findings == found else drift_of(command, after, found, self._now())
        if found != (before.findings if before else ()):
            self._tell(row, drift, before)
        memo = self._keep(memo, live, drift)
        ordered = self._repair(live, row, drift) if found else ""
        self._keep(memo, live, drift.model_copy(update={"repair": str(ordered)}))
        return Counter(drifted=bool(found), repaired=isinstance(ordered, Repair))

    def _keep(self, memo: Memo | None, live: AuditRecord, drift: Drift) -> Memo | None:
        """Written down if it is news: that an endpoint is as it should be is none, unless it was not."""
        value = drift.model_dump(mode="json")
        if (memo is None and not drift.findings) or (memo is not None and memo.value == value):
            return memo
        etag = memo.etag if memo else None
        return self._ledger.save_memo(Memo(kind=KIND, key=live.session_id, value=value, etag=etag))

    def _shown(self, command: PromoteModel) -> Shown:
        target = self._target_for(command.target)
        endpoints = target.batch if command.is_batch else target.online
        endpoint = endpoints.endpoint(command.endpoint)
        return Shown(
            endpoint=endpoint,
            deployments=endpoints.deployments(command.endpoint) if endpoint else (),
            model=target.model(command.target_model_name, command.version),
            schedule=target.batch.schedule(command.endpoint) if command.is_batch else None,
        )

    def _tell(self, row: Promotion, drift: Drift, before: Drift | None) -> None:
        """First, and then it is written down: a crash in between tells it again under the same id."""
        log.warning("drift of promotion %s: %s", row.id, drift.why or "resolved")
        if self._publisher is not None:
            news = f"{before.since.isoformat() if before else ''}|{drift.why}"
            name = hashlib.sha256(news.encode()).hexdigest()[:12]
            self._publisher.tell_of_drift(row, f"{row.id}:{row.attempt}:{name}:Drift", drift.why, drift.since)

    def _repair(self, live: AuditRecord, row: Promotion, drift: Drift) -> Repair | str:
        now = self._now()
        mode = self._policy.targets[live.target].drift
        found = repair(mode, live, row, drift.findings, barred=self._barred(live, now), now=now)
        if isinstance(found, Repair):
            reason = f"drift: {drift.why}"[:500]
            self._orders.repair(row.id, SERVICE, order_id=found.order_id, reason=reason, fresh=found.fresh)
        return found

    def _barred(self, live: AuditRecord, now: datetime) -> str | None:
        if hold := self._ledger.hold(live.session_id):
            return f"the endpoint is on hold, by {hold.order.by}"
        until = frozen_until(self._policy.targets[live.target].freeze, now)
        return f"{live.target} is frozen until {until:%Y-%m-%d %H:%M} UTC" if until else None


def _which(live: Mapping[str, Any]) -> tuple[str, int]:
    """Promotion and attempt that are live, by the ledger's record of it."""
    return str(live["promotion_id"]), int(live.get("attempt", 1))


def _of(memo: Memo | None, row: Promotion) -> Drift | None:
    """What was found of this very promotion; what stands about one that was live before is over."""
    drift = Drift.model_validate(memo.value) if memo else None
    return drift if drift and drift.promotion_id == row.id else None
