"""What no event tells: tags that ask, events that were lost, promotions that are overdue, status tags that are missing.

A pass looks at the model names that a rule can match, one listing for each, some names a tick and then the next ones.
Every effect has an id that follows from what was found, and is written down after it was done: two passes at once, or a crash
in the middle, do everything once.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from core import asks, monitoring, status_tags
from core import policy as rules
from core.callers import Caller
from core.commands import Order, Verb
from core.drift_watch import DriftWatch
from core.errors import PromotionError, Reason, Refusal, Transient
from core.events import MODEL_REGISTERED, WorkspaceId, written_model
from core.intake import TAG_EVENT, Intake
from core.ledger import EventOutcome, EventRecord, Memo, Promotion, State
from core.orders import OrderRefused, Orders
from core.policy import Policy, Trigger
from core.ports import Ledger, ListedVersion, Listings
from core.publishing import Publisher
from core.rolling import next_places
from core.status_tags import StatusTags
from core.tags import is_copy

log = logging.getLogger(__name__)

NAMES_A_TICK = 200
# Event Grid has this long to deliver an event before it counts as lost; a delivery, to come when it is due.
GRACE = timedelta(minutes=5)
OVERDUE = timedelta(minutes=10)
ROWS = 1000
TICKS_KEPT = 20
TIMER = Caller(name="the reconcile timer")
_OPEN = (State.REQUESTED, State.RUNNING, State.WAITING, State.PARKED)
_FOUND = ("asked", "recovered", "woken")


class History(Ledger, Protocol):
    """The ledger as far as a pass needs more than the engine."""

    def promotions(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> tuple[Promotion, ...]: ...

    def events(
        self, *, model: str | None = None, version: str | None = None, limit: int = 100
    ) -> tuple[EventRecord, ...]: ...

    def memos(self, kind: str) -> tuple[Memo, ...]: ...


class Tick(BaseModel):
    """What one pass has looked at, done, and cost. `requests` are those for listings of sources.

    `drifted` counts endpoints that show something else than was promoted, of those that this pass has looked at.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    names: int = 0
    versions: int = 0
    requests: int = 0
    asked: int = 0
    recovered: int = 0
    woken: int = 0
    told: int = 0
    drifted: int = 0
    repaired: int = 0
    problems: tuple[str, ...] = ()
    seconds: float = 0.0


class BackfillRow(BaseModel):
    """A model version that a backfill would promote, or has sent; `why` tells what came of it."""

    model_config = ConfigDict(frozen=True)

    source: str
    model: str
    version: str
    outcome: str = "planned"
    why: str = ""


class Reconciler:
    """Passes over the sources. `listings` makes a client for one pass; `now` is the current time (UTC).

    `loaded_at` is when this policy was loaded: rules that nobody has seen before are in force since then.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        listings: Callable[[], Listings],
        ledger: History,
        intake: Intake,
        orders: Orders,
        status: StatusTags,
        now: Callable[[], datetime],
        loaded_at: datetime,
        names_a_tick: int = NAMES_A_TICK,
        publisher: Publisher | None = None,
        drift: DriftWatch | None = None,
    ) -> None:
        self._policy = policy
        self._listings = listings
        self._ledger = ledger
        self._intake = intake
        self._orders = orders
        self._status = status
        self._now = now
        self._loaded_at = loaded_at
        self._names_a_tick = names_a_tick
        self._publisher = publisher
        self._drift = drift

    # -------------------------------------------------------------------------------------------------------- a pass

    def tick(self) -> Tick:
        """One pass. What goes wrong with one model is told and keeps no other from being looked at."""
        started, began = self._now(), time.monotonic()
        listings, done = self._listings(), Counter[str]()
        problems: list[str] = []
        activations = self._activations()
        under_way: list[Promotion] = []
        self._each(problems, "promotions under way", lambda: under_way.extend(self._under_way()))
        self._each(problems, "overdue promotions", lambda: done.update(woken=self._wake_overdue(under_way, started)))
        if (publisher := self._publisher) is not None:
            self._each(problems, "notifications", lambda: done.update(told=publisher.catch_up(under_way, started)))
        if (drift := self._drift) is not None:

            def watch() -> None:
                counted, wrong = drift.look({row.session_id for row in under_way})
                done.update(counted)
                problems.extend(wrong)

            self._each(problems, "drift", watch)
        rows = self._rows_of_versions()
        for source, name in self._names(listings, problems):

            def look(source: str = source, name: str = name) -> None:
                versions = listings.versions(self._policy.sources[source].id, name)
                done.update(names=1, versions=len(versions))
                done.update(self._look(source, name, versions, activations, started))
                self._mend(source, versions, rows)

            self._each(problems, f"{source}/{name}", look)
        seconds = round(time.monotonic() - began, 3)
        tick = Tick(at=started, requests=listings.requests, problems=tuple(problems[:10]), seconds=seconds, **done)
        self._remember(tick)
        log.info("reconcile: %s", tick.model_dump_json())
        monitoring.tick(under_way, started, woken=tick.woken, problems=len(problems), drifted=tick.drifted)
        return tick

    def ticks(self) -> tuple[Tick, ...]:
        """The last passes, newest first."""
        memo = self._ledger.memo("reconcile", "ticks")
        return tuple(Tick.model_validate(each) for each in (memo.value["ticks"] if memo else ()))

    @staticmethod
    def _each(problems: list[str], what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except PromotionError as fault:
            log.warning("reconcile: %s: %s", what, fault)
            problems.append(f"{what}: {fault}"[:300])

    def _names(self, listings: Listings, problems: list[str]) -> list[tuple[str, str]]:
        """The next names that a rule can match, of all sources; where the last pass stopped, this one goes on."""
        wanted: list[tuple[str, str]] = []
        for source, workspace in self._policy.sources.items():

            def collect(source: str = source, workspace: WorkspaceId = workspace.id) -> None:
                names = self._exact(source) or listings.model_names(workspace)
                wanted.extend((source, name) for name in names if self._concerns(source, name))

            self._each(problems, f"models of {source}", collect)
        wanted.sort()
        memo = self._ledger.memo("reconcile", "cursor")
        cursor = tuple(memo.value["after"]) if memo and memo.value["after"] else ("", "")
        chosen = next_places(wanted, cursor, self._names_a_tick)
        self._save(memo, "reconcile", "cursor", {"after": list(chosen[-1]) if len(chosen) < len(wanted) else None})
        return chosen

    def _exact(self, source: str) -> tuple[str, ...]:
        """The names that the rules of a source spell out; empty if one has a pattern, so that all must be listed."""
        globs = [rule.match.model for rule in self._policy.rules if rule.match.source in (None, source)]
        return () if any(set(glob) & set("*?[") for glob in globs) else tuple(sorted(set(globs)))

    def _concerns(self, source: str, name: str) -> bool:
        triggers = (Trigger.MODEL_REGISTERED, Trigger.TAGGED)
        return any(rules.could_concern(self._policy, source, name, trigger) for trigger in triggers)

    def _look(
        self,
        source: str,
        name: str,
        versions: Iterable[ListedVersion],
        activations: Mapping[str, datetime],
        now: datetime,
    ) -> Counter[str]:
        done = Counter[str]()
        workspace = self._policy.sources[source].id
        since = self._since(source, name, activations)
        own = [version for version in versions if not is_copy(version.tags)]
        if since is None:
            return done
        lost = self._lost(workspace, name, own, since, now)
        for version in lost:
            self._intake.receive(_event(workspace, version))
            done["recovered"] += 1
        known = {memo.key: memo for memo in self._ledger.memos(asks.memo_kind(workspace, name))}
        for version in own:
            done["asked"] += self._hear(source, workspace, version, known.get(version.version), since)
        return done

    def _since(self, source: str, name: str, activations: Mapping[str, datetime]) -> datetime | None:
        """When the first of the rules that could concern a model came into force."""
        times = [
            activations[rule.name]
            for rule in self._policy.rules
            for trigger in (Trigger.MODEL_REGISTERED, Trigger.TAGGED)
            if rules.could_concern(self._policy.model_copy(update={"rules": (rule,)}), source, name, trigger)
        ]
        return min(times, default=None)

    def _activations(self) -> dict[str, datetime]:
        """When each rule came into force: what was registered before was not meant by it."""
        found = {memo.key: datetime.fromisoformat(memo.value["at"]) for memo in self._ledger.memos("rule")}
        for rule in self._policy.rules:
            if rule.name not in found:
                found[rule.name] = self._loaded_at
                self._save(None, "rule", rule.name, {"at": self._loaded_at.isoformat()})
        return found

    # ---------------------------------------------------------------------------------------------------- lost events

    def _lost(
        self, workspace: WorkspaceId, name: str, versions: list[ListedVersion], since: datetime, now: datetime
    ) -> list[ListedVersion]:
        """Versions whose registration nobody has told, oldest first; how far was looked is kept."""
        key = f"{workspace.key}|{name}"
        memo = self._ledger.memo("seen", key)
        until = max(since, datetime.fromisoformat(memo.value["until"])) if memo else since
        new = sorted(
            (version for version in versions if until < version.created_at <= now - GRACE),
            key=lambda version: version.created_at,
        )
        lost = [version for version in new if not self._was_told(workspace, version)]
        if new and not lost:
            self._save(memo, "seen", key, {"until": new[-1].created_at.isoformat()})
        return lost

    def _was_told(self, workspace: WorkspaceId, version: ListedVersion) -> bool:
        events = self._ledger.events(model=version.name, version=version.version)
        return any(_is_of(event, workspace) and event.event_type != TAG_EVENT for event in events)

    # ----------------------------------------------------------------------------------------------------------- asks

    def hint(self, envelope: Mapping[str, Any]) -> None:
        """A resource was written: if it is a model version, hear at once what its tags ask for; else it is no news."""
        if written := written_model(envelope):
            self._look_at(written.source, written.model, written.version)

    def _look_at(self, workspace: WorkspaceId, name: str, version: str) -> None:
        source = self._policy.source_name(workspace)
        if source is None or not self._concerns(source, name):
            return
        since = self._since(source, name, self._activations())
        versions = self._listings().versions(workspace, name)
        found = next((each for each in versions if each.version == version), None)
        if found is None or since is None or is_copy(found.tags):
            return
        self._hear(source, workspace, found, self._ledger.memo(asks.memo_kind(workspace, name), version), since)

    def _hear(
        self, source: str, workspace: WorkspaceId, version: ListedVersion, memo: Memo | None, since: datetime
    ) -> int:
        """1 if the tags ask for something that was not asked before. The order first, then the memo."""
        text = asks.text_of(version.tags)
        if text == (memo.value["text"] if memo else ""):
            return 0
        if memo is None and self._came_with_the_event(version, since):
            return 0  # intake hears what was there at the registration, or will when the event comes
        number = int(memo.value["number"]) + 1 if memo else 1
        if text:
            self._carry_out(source, workspace, version, text, number)
        kind = asks.memo_kind(workspace, version.name)
        self._save(memo, kind, version.version, {"text": text, "number": number})
        return 1 if text else 0

    def _came_with_the_event(self, version: ListedVersion, since: datetime) -> bool:
        """Tagged before any rule could mean it; or new and untouched, so that its event may still be on its way."""
        is_untouched = version.modified_at == version.created_at
        return version.modified_at < since or (is_untouched and version.created_at > self._now() - GRACE)

    def _carry_out(
        self, source: str, workspace: WorkspaceId, version: ListedVersion, text: str, number: int
    ) -> EventRecord:
        place = f"{workspace.key}|{version.name}|{version.version}|{number}|{text}"
        order = Order(
            id=f"tag-{hashlib.sha256(place.encode()).hexdigest()[:32]}",
            verb=Verb.PROMOTE,
            by=version.modified_by,
            at=self._now(),
            reason="asked by tag",
        )
        record = (
            self._roll_back(source, workspace, version, order)
            if text.lower().startswith(f"{asks.NONE}|")
            else self._intake.tagged(source, version.name, version.version, text, order)
        )
        if record.outcome is EventOutcome.REFUSED:
            target = text.partition("|")[0].lower()
            named = next((name for name in self._policy.targets if name.lower() == target), None)
            for each in [named] if named else self._policy.targets:
                self._status.show(workspace, version.name, version.version, each, status_tags.refused(record.why))
        return record

    def _roll_back(self, source: str, workspace: WorkspaceId, version: ListedVersion, order: Order) -> EventRecord:
        """Take this version off wherever it is live, and end what is under way with it."""
        caller = Caller(name=order.by)
        done, refused = [], []
        for row in self._ledger.promotions(model=version.name, version=version.version):
            if row.source != source or (row.state.is_final and row.state is not State.SUCCEEDED):
                continue
            own_id = f"{order.id}-{hashlib.sha256(row.id.encode()).hexdigest()[:8]}"
            try:
                self._check_allowed(row)
                if row.state is State.SUCCEEDED:
                    self._orders.roll_back(
                        row.target, row.serve, row.endpoint, caller, order_id=own_id, reason=order.reason
                    )
                else:
                    self._orders.cancel(row.id, caller, order_id=own_id, reason=order.reason)
                done.append(f"{row.endpoint} of {row.target}")
            except (OrderRefused, Refusal) as problem:
                refused.append(str(problem))
        why = f"roll-back of {', '.join(done)}" if done else "; ".join(refused) or "this version is live nowhere"
        outcome = EventOutcome.ACCEPTED if done else EventOutcome.REFUSED if refused else EventOutcome.IGNORED
        record = EventRecord(
            event_id=order.id,
            event_type=TAG_EVENT,
            source=workspace.arm_id,
            subject=f"models/{version.name}:{version.version}",
            outcome=outcome,
            reason=Reason.NOT_ALLOWED if outcome is EventOutcome.REFUSED else None,
            why=why,
            remedy="Roll back by the API or the console." if outcome is EventOutcome.REFUSED else None,
            received_at=order.at,
        )
        self._ledger.record_event(record)
        return record

    def _check_allowed(self, row: Promotion) -> None:
        rule = next((rule for rule in self._policy.rules if rule.name == row.rule), None)
        if rule is None or Trigger.TAGGED not in rule.match.trigger:
            why = f"rule {row.rule!r} does not let tags ask for anything"
            raise Refusal(Reason.NOT_ALLOWED, why, remedy="Ask an operator.")

    # -------------------------------------------------------------------------------------------------------- overdue

    def _under_way(self) -> list[Promotion]:
        return [row for state in _OPEN for row in self._ledger.promotions(state=state, limit=ROWS)]

    def _wake_overdue(self, under_way: Iterable[Promotion], now: datetime) -> int:
        """Promotions whose message is lost: each is given a new one, the same from every pass that finds it."""
        woken = 0
        for row in under_way:
            if (row.due or row.updated_at) > now - OVERDUE or row.reason is Reason.DEAD_LETTERED:
                continue  # a dead letter waits for somebody to correct its cause
            order_id = f"overdue-{hashlib.sha256(row.id.encode()).hexdigest()[:32]}-{row.attempt}-{row.hop}"
            try:
                self._orders.wake(row.id, TIMER, order_id=order_id)
                woken += 1
            except OrderRefused:
                self._list_again(row.id)
        return woken

    def _list_again(self, promotion_id: str) -> None:
        """It has ended since it was listed; or whoever was about to change it died after the listing, and has not."""
        row = self._ledger.promotion(promotion_id)
        if row is not None and row.state.is_final:
            self._ledger.save(row)

    # ---------------------------------------------------------------------------------------------------- status tags

    def _rows_of_versions(self) -> dict[tuple[str, str, str], list[Promotion]]:
        """The promotions asked for last, by what they promote, oldest first."""
        found: dict[tuple[str, str, str], list[Promotion]] = {}
        if any(self._status.is_wanted(source.id) for source in self._policy.sources.values()):
            for row in reversed(self._ledger.promotions(limit=ROWS)):
                found.setdefault((row.source, row.model, row.version), []).append(row)
        return found

    def _mend(
        self,
        source: str,
        versions: Iterable[ListedVersion],
        rows: Mapping[tuple[str, str, str], list[Promotion]],
    ) -> None:
        workspace = self._policy.sources[source].id
        for version in versions:
            shown = {row.target: row for row in rows.get((source, version.name, version.version), ())}
            for target, row in shown.items():
                if version.tags.get(status_tags.key_of(target)) == status_tags.text_of(row):
                    continue
                # The row was read when the pass began: what it says now is what should stand there.
                if (now := self._ledger.promotion(row.id)) is not None:
                    text = status_tags.text_of(now)
                    self._status.mend(workspace, version.name, version.version, target, text)

    # ------------------------------------------------------------------------------------------------------- backfill

    def backfill(self, rule: str, *, dry_run: bool, limit: int) -> tuple[BackfillRow, ...]:
        """The versions that a rule would promote though they are older than it: the newest of each model, as a plan.

        Without `dry_run` they are handled as if they were registered now; each is handled once.
        """
        if all(each.name != rule for each in self._policy.rules):
            known = ", ".join(each.name for each in self._policy.rules)
            raise Refusal(Reason.NOT_ALLOWED, f"there is no rule {rule!r}", remedy=f"Name one of: {known}.")
        listings = self._listings()
        chosen: list[BackfillRow] = []
        for source, workspace in self._policy.sources.items():
            for name in self._exact(source) or listings.model_names(workspace.id):
                versions = [each for each in listings.versions(workspace.id, name) if not is_copy(each.tags)]
                newest = max(versions, key=lambda each: each.created_at, default=None)
                if newest is None or len(chosen) >= limit or not self._would_decide(rule, source, newest):
                    continue
                chosen.append(self._backfilled(source, workspace.id, newest, dry_run=dry_run))
        return tuple(chosen)

    def _would_decide(self, rule: str, source: str, version: ListedVersion) -> bool:
        facts = rules.ModelFacts(
            source=source, name=version.name, origin=None, tags=version.tags, trigger=Trigger.MODEL_REGISTERED
        )
        found, _ = rules.judge(self._policy, facts)
        return found is not None and found.name == rule

    def _backfilled(self, source: str, workspace: WorkspaceId, version: ListedVersion, *, dry_run: bool) -> BackfillRow:
        row = BackfillRow(source=source, model=version.name, version=version.version)
        if dry_run:
            return row
        record = self._intake.receive(_event(workspace, version))
        return row.model_copy(update={"outcome": str(record.outcome), "why": record.why})

    # ---------------------------------------------------------------------------------------------------------- memos

    def _save(self, memo: Memo | None, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep it. If somebody else did at the same moment, theirs is as good: the next pass looks again."""
        try:
            self._ledger.save_memo(Memo(kind=kind, key=key, value=value, etag=memo.etag if memo else None))
        except Transient as fault:
            log.info("reconcile: %s %s was kept by another pass: %s", kind, key, fault)

    def _remember(self, tick: Tick) -> None:
        memo = self._ledger.memo("reconcile", "ticks")
        before = list(memo.value["ticks"]) if memo else []
        self._save(memo, "reconcile", "ticks", {"ticks": [tick.model_dump(mode="json"), *before][:TICKS_KEPT]})


def _is_of(event: EventRecord, workspace: WorkspaceId) -> bool:
    return event.source.lower().rstrip("/") == workspace.key


def _event(workspace: WorkspaceId, version: ListedVersion) -> dict[str, Any]:
    """The registration as its event would have told it. Its id follows from the version, so that it is one event."""
    subject = f"models/{version.name}:{version.version}"
    return {
        "id": f"reconcile-{hashlib.sha256(f'{workspace.key}|{subject}'.encode()).hexdigest()[:32]}",
        "eventType": MODEL_REGISTERED,
        "topic": workspace.arm_id,
        "subject": subject,
        "data": {"modelName": version.name, "modelVersion": version.version},
    }
