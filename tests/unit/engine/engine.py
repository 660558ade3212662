"""The engine and its world: what can happen to it, move by move, and what must hold after every one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from core import tags
from core.approvals import Approvals
from core.callers import Caller
from core.commands import Command, Order, PromoteModel, Verb, decode, session_id
from core.dead_letters import again, why_stale
from core.drift_watch import DriftWatch
from core.errors import Blocked, PromotionError, Reason, Refusal, Transient
from core.events import MODEL_REGISTERED
from core.intake import Intake
from core.ledger import LIVE, Decision, Promotion, State
from core.notifications import Notification
from core.orders import OrderRefused, Orders
from core.promotion import Promoter
from core.publishing import Publisher
from core.reconcile import Reconciler
from core.status_tags import StatusTags
from tests.unit.builders import DEV
from tests.unit.engine.ledger import LedgerModel
from tests.unit.engine.policies import policy
from tests.unit.engine.queue import Message, QueueModel
from tests.unit.engine.source import Nature, SourceModelRegistry
from tests.unit.engine.target import TargetModel
from tests.unit.engine.wire import Between, Died, Strike, Wire

# Nothing that is under way takes longer than this many deliveries, however it was disturbed.
MOST_DELIVERIES = 400
A_TICK = timedelta(minutes=5)
ADA = Caller(name="Ada", names=frozenset({"ada"}), roles=frozenset({"Promotion.Approver", "Promotion.Operator"}))
BOB = Caller(name="Bob", names=frozenset({"bob"}))


@dataclass
class Topic:
    """Where notifications go."""

    wire: Wire
    published: dict[str, Notification] = field(default_factory=dict)

    def publish(self, events: Any) -> None:
        self.wire.carried_out("publish", True, lambda: self.published.update({each.id: each for each in events}))


@dataclass
class ArchiveModel:
    """`core.ports.Archive`."""

    wire: Wire
    bundles: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def store(self, name: str, files: Mapping[str, str]) -> None:
        self.wire.carried_out("store", True, lambda: self.bundles.setdefault(name, files))

    def fetch(self, name: str) -> bytes | None:
        raise AssertionError("nobody asks for bundles here")


class Engine:
    """The service under one policy, and all that it talks to."""

    def __init__(self, policy_name: str, *, drift: str = "report") -> None:
        self.policy = policy(policy_name, drift)
        self.wire = Wire()
        self.ledger = LedgerModel(self.wire)
        self.queue = QueueModel(self.wire)
        self.source = SourceModelRegistry(self.wire)
        self.topic, self.archive = Topic(self.wire), ArchiveModel(self.wire)
        self.targets = {name: self._target(name) for name in self.policy.policy.targets}
        self.untold: list[tuple[str, str]] = []
        self.began = self.wire.now - timedelta(hours=1)
        self._known: dict[str, Promotion] = {}
        self._history = 0
        self._orders = 0
        self._start()

    def _target(self, name: str) -> TargetModel:
        place = self.policy.policy.targets[name].id

        def may_go(kind: Any, endpoint: str) -> bool:
            session = session_id(place, kind, endpoint)
            return any(each.action == Verb.RETIRE for each in self._trail(session))

        def nature(marks: Mapping[str, str]) -> Nature:
            return self.source.natures[marks[tags.MODEL], marks[tags.VERSION]]

        return TargetModel(self.wire, nature, may_go)

    def _start(self) -> None:
        """A process of the service: what it remembers begins anew."""
        ports: Any = {"ledger": self.ledger, "queue": self.queue, "now": lambda: self.wire.now}
        source: Any = self.source
        status = StatusTags(self.policy.policy, source)
        publisher = Publisher(topic=self.topic, ledger=self.ledger, overdue_after=timedelta(hours=4))
        places: Any = {place.id.key: self.targets[name] for name, place in self.policy.policy.targets.items()}
        self.promoter = Promoter(
            **ports, archive=self.archive, target_for=lambda each: places[each.key], news=[status, publisher]
        )
        self.intake = Intake(**ports, policy=self.policy, source=source)
        self.orders = Orders(**ports, policy=self.policy.policy)
        self.approvals = Approvals(**ports)
        timer: Any = {"ledger": self.ledger, "intake": self.intake, "orders": self.orders, "status": status}
        timer |= {"publisher": publisher, "listings": lambda: self.source, "now": lambda: self.wire.now}
        watch: Any = {"ledger": self.ledger, "orders": self.orders, "publisher": publisher, "now": timer["now"]}
        self.drift = DriftWatch(**watch, policy=self.policy.policy, target_for=lambda each: places[each.key])
        timer |= {"drift": self.drift}
        self.timer = Reconciler(**timer, policy=self.policy.policy, loaded_at=self.began)

    # ------------------------------------------------------------------------------------------------------- disturbances

    @contextmanager
    def disturbed(self, by: Strike | Between | None) -> Iterator[None]:
        """It happens to the service inside, if that gets so far."""
        self.wire.armed = by
        try:
            yield
        finally:
            self.wire.armed = None

    @contextmanager
    def _run(self) -> Iterator[None]:
        """A run of the service; who dies in it begins anew."""
        try:
            with self.wire.service():
                yield
        except Died:
            self._start()
            raise

    # ------------------------------------------------------------------------------------------------------------- events

    def register(self, name: str, nature: Nature, *, is_told: bool = True, **asks: str) -> None:
        version = self.source.put(name, self.wire.now, nature, {"promote-to": asks["to"]} if "to" in asks else {})
        self.wire.now += timedelta(seconds=1)
        if is_told:
            self.untold.append((name, version))

    def event(self, number: int) -> None:
        """One of the events that are on their way comes; it stays if the service could not take it."""
        if not self.untold:
            return
        place = number % len(self.untold)
        name, version = self.untold[place]
        if self.tell(name, version):
            self.untold.remove((name, version))

    def tell(self, name: str, version: str) -> bool:
        """The event of a registration, which may come more than once."""
        envelope = {
            "id": f"{name}-{version}",
            "eventType": MODEL_REGISTERED,
            "topic": DEV.arm_id,
            "subject": f"models/{name}:{version}",
            "data": {"modelName": name, "modelVersion": version},
        }
        try:
            with self._run():
                self.intake.receive(envelope)
        except (Transient, Blocked, Died, ArithmeticError):
            return False
        return True

    # --------------------------------------------------------------------------------------------------------- deliveries

    def deliver(self, number: int = 0, *, is_kept: bool = False) -> bool:
        """One delivery of the message that is next in one of the sessions; `is_kept`: its completion is lost."""
        heads = self.queue.heads()
        if not heads:
            return False
        self._deliver(heads[number % len(heads)], is_kept=is_kept)
        return True

    def _deliver(self, message: Message, *, is_kept: bool) -> None:
        struck: list[Any] = []
        try:
            with self._run():
                struck = self.wire.struck
                self.promoter.deliver(message.body)
        except (Died, Exception) as ended:
            if not struck:
                self.wire.never(f"a delivery raised by itself: {ended!r}")
            self.queue.abandon(message)
            return
        if is_kept:
            self.queue.abandon(message)
        else:
            self.queue.complete(message)
            self._check_it_goes_on(decode(message.body))

    def _check_it_goes_on(self, done: Command) -> None:
        """Whatever a delivery met: once its message is gone, its promotion has ended, or has another message."""
        row = self.ledger.promotions_.rows.get(done.promotion_id)
        if not isinstance(done, PromoteModel) or row is None or row.state.is_final:
            return
        is_current = (done.attempt, done.hop) >= (row.attempt, row.hop)
        if is_current and all(decode(each.body).promotion_id != row.id for each in self.queue.messages):
            self.wire.never(f"the message of {row.id} is gone, and it is {row.state}: {row.why}")

    def work(self, minutes: float) -> None:
        """Everything that is due within some minutes is delivered in its time."""
        until = self.wire.now + timedelta(minutes=minutes)
        for _ in range(MOST_DELIVERIES):
            if self.deliver():
                continue
            due = min((each.enqueued for each in self.queue.messages), default=until)
            if due > until:
                break
            self.wire.now = max(due, self.wire.now)
        self.wire.now = max(until, self.wire.now)

    def tick(self) -> None:
        try:
            with self._run():
                self.timer.tick()
        except (Died, ArithmeticError, PromotionError):
            return

    def resubmit(self) -> None:
        """Somebody goes through the dead letters."""
        letters, self.queue.dead = self.queue.dead, []
        for letter in letters:
            command = decode(letter.body)
            row = self.ledger.promotion(command.promotion_id) if command.promotion_id else None
            if why_stale(command, row, self._trail(letter.session_id)) is None:
                self.queue.send(again(command))

    # ------------------------------------------------------------------------------------------------------------- people

    def order(self, ask: Callable[[str], object], *, repeats: int = 1) -> None:
        """Somebody asks by HTTP, with an id of the order that stays the same when it is repeated after a fault."""
        self._orders += 1
        for _ in range(repeats):
            writes = self.wire.writes
            try:
                with self._run():
                    ask(f"order-{self._orders}")
            except (OrderRefused, Refusal):
                if self.wire.writes != writes and repeats == 1 and not self.wire.struck:
                    self.wire.never("an order was refused, and something was written")
            except (Died, ArithmeticError, PromotionError):
                continue

    def promote(self, name: str, version: str, caller: Caller, order_id: str, **asked: Any) -> None:
        order = Order(id=order_id, verb=Verb.PROMOTE, by=caller.name, at=self.wire.now, **asked)
        self.intake.request("dev", name, version, order)

    def decide(self, row: Promotion, caller: Caller, decision: Decision) -> None:
        content: Any = {"manifest_digest": row.manifest_digest, "recipe_digest": row.recipe_digest}
        self.approvals.decide(row.id, caller, decision, **content)

    def tag(self, name: str, version: str, to: str) -> None:
        self.source.tag(name, version, {"promote-to": to}, "Ada")

    # ------------------------------------------------------------------------------------------------------------ what is

    def rows(self) -> list[Promotion]:
        """In the order in which they were opened."""
        return list(self.ledger.promotions_.rows.values())

    def versions(self) -> list[tuple[str, str]]:
        return list(self.source.models)

    def _trail(self, session: str) -> list[Any]:
        found = [each for each in self.ledger.audits.rows.values() if each.session_id == session]
        return sorted(found, key=lambda each: each.at)

    def now(self) -> datetime:
        return self.wire.now

    # ------------------------------------------------------------------------------------------------------- what must hold

    def check(self) -> None:
        """After every move."""
        problems = [*self.wire.broken]
        for target in self.targets.values():
            problems += [*target.online.broken(), *target.batch.broken()]
        problems += [*self._changes(), *self._lost()]
        assert not problems, "\n".join(problems)

    def _changes(self) -> Iterator[str]:
        """What happened to the rows since the last move: none is lost, none goes back."""
        rows = {row.id: row for row in self.rows()}
        yield from (f"row {name} is gone" for name in self._known.keys() - rows.keys())
        for name, before in self._known.items():
            after = rows[name]
            if (after.attempt, after.hop) < (before.attempt, before.hop):
                yield f"{name} went from hop {before.attempt}:{before.hop} back to {after.attempt}:{after.hop}"
            ways = ((before.state, before.state), (State.SUCCEEDED, State.ROLLED_BACK))
            if after.attempt == before.attempt and before.state.is_final and (before.state, after.state) not in ways:
                yield f"{name} was {before.state} and is {after.state}"
        tables = (self.ledger.history, self.ledger.audits, self.ledger.events_, self.ledger.decisions)
        history = sum(len(table.rows) for table in tables)
        if history < self._history:
            yield "something was taken out of the history"
        self._known, self._history = rows, history

    def _lost(self) -> Iterator[str]:
        """As long as no request has failed, what is under way has a message; later the timer may have to send it another."""
        if self.wire.ever_struck:
            return
        sent = {decode(each.body).promotion_id for each in self.queue.messages}
        for row in self.rows():
            if not row.state.is_final and row.id not in sent:
                yield f"{row.id} is {row.state} and has no message"

    # ------------------------------------------------------------------------------------------------------------ the end

    def drain(self) -> None:
        """Nothing disturbs any more: all events come, time passes, the timer ticks, until nothing but people is waited for."""
        for target in self.targets.values():
            target.online.fails_next = target.batch.fails_next = target.preflight.is_full = False
        self.resubmit()
        while self.untold:
            self.event(0)
        self.work(20)  # what is not told by now is lost, and what was lost is overdue
        self.tick()
        for _ in range(MOST_DELIVERIES):
            self.work(A_TICK.total_seconds() / 60)
            self.tick()
            self.check()
            if not self.queue.heads() and all(self._stands_still(row) for row in self.rows()):
                break

    def _stands_still(self, row: Promotion) -> bool:
        """It has ended, waits for somebody, or for the stage before it which does."""
        if row.state.is_final or row.state is State.PARKED:
            return True
        command = PromoteModel.model_validate_json(row.command or "")
        before = None if command.before is None else command.at_stage(command.before).promotion_id
        return before is not None and self.ledger.promotions_.rows[before].state is State.PARKED

    def check_end(self) -> None:
        """What must hold once nothing is under way."""
        problems = [*self._unended(), *self._unpromoted(), *self._not_live()]
        problems += [f"a dead letter: {letter.message_id}" for letter in self.queue.dead]
        told = self.topic.published.keys()
        problems += [f"nobody was told {each.id}" for row in self.rows() for each in row.notices if each.id not in told]
        assert not problems, "\n".join(problems)

    def _unended(self) -> Iterator[str]:
        for row in self.rows():
            if row.state.is_final:
                continue
            if not self._stands_still(row):
                yield f"{row.id} is {row.state} for ever: {row.why}"
            elif row.state is State.PARKED and not (row.reason and row.why and row.remedy):
                yield f"{row.id} is parked, and does not say what for: {row.reason} {row.why} {row.remedy}"
            elif not any(decode(each.body).promotion_id == row.id for each in self.queue.messages):
                yield f"{row.id} is parked, and nobody looks at it again"

    def _unpromoted(self) -> Iterator[str]:
        asked = {(row.model, row.version) for row in self.rows()}
        yield from (f"nobody has asked for {name}:{version}" for name, version in self.source.models.keys() - asked)

    def _not_live(self) -> Iterator[str]:
        """What the last word of the audit says is live has the traffic, and it is the newest of what has succeeded."""
        sessions: dict[str, list[Promotion]] = {}
        for row in self.rows():
            sessions.setdefault(row.session_id, []).append(row)
        for session, rows in sessions.items():
            target = self.targets[rows[0].target]
            model = target.batch if rows[0].serve == "batch" else target.online
            found = model.endpoints.get(rows[0].endpoint)
            if not all(row.state.is_final for row in rows):
                continue  # somebody is asked for something in the middle of it
            if any(row.reason is Reason.ENDPOINT_FAILED for row in rows):
                continue  # Azure could not change it: somebody is told to look at it, whatever came of the change
            live = [each for each in self._trail(session) if each.action == LIVE]
            said = live[-1].after if live else None
            traffic = dict(found.traffic) if found else {}
            if traffic != ({said["deployment"]: 100} if said else {}):
                yield f"the traffic of {rows[0].endpoint} is {traffic}, and the ledger says that {said} is live"
            succeeded = [row for row in rows if row.state is State.SUCCEEDED]
            if said is None or not succeeded:
                continue  # retired last, or never live
            if self.ledger.promotions_.rows[said["promotion_id"]].attempt != said["attempt"]:
                continue  # what is live was asked for once more, and that has failed
            newest = max(succeeded, key=_generation)
            name = PromoteModel.model_validate_json(newest.command or "").deployment
            if traffic != {name: 100}:
                yield f"{newest.id} is the newest that has succeeded, and the traffic is {traffic}"


def _generation(row: Promotion) -> tuple[datetime, str]:
    found = PromoteModel.model_validate_json(row.command or "").generation
    return found.time, found.promotion_id
