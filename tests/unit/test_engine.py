"""The whole engine under random events, versions, operators and faults: what must hold holds after every move.

`tests/unit/engine` has the engine with its models of Azure, and what must hold (`Engine.check`, `Engine.check_end`).
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.callers import Caller
from core.ledger import Decision
from tests.unit.engine.engine import ADA, BOB, Engine
from tests.unit.engine.policies import STAGES
from tests.unit.engine.source import Nature
from tests.unit.engine.wire import Between, Fault, Strike

NUMBERS = st.integers(0, 5)
NATURES = st.sampled_from([*Nature, *[Nature.GOOD] * 6])
PEOPLE = st.sampled_from([ADA, ADA, ADA, BOB])
# Mostly one run of the service is undisturbed; a request of it can fail, or somebody comes between two of them.
STRIKES = st.none() | st.none() | st.builds(Strike, st.integers(0, 80), st.sampled_from(Fault), st.booleans())
MINUTES = st.sampled_from([0, 1, 6, 15, 45])
REPEATS = st.sampled_from([1, 1, 2])
OF_PROMOTIONS = ["approve", "approve", "reject", "cancel", "retry", "redeploy", "redeploy fresh", "wake"]
OF_ENDPOINTS = ["hold", "release", "release", "roll back", "roll back", "retire"]


def fresh(strike: Strike | None) -> Strike | None:
    """What a strike counts is its own: the values that are drawn are shared."""
    return replace(strike) if strike else None


class Moves(RuleBasedStateMachine):
    """What scientists, operators, Azure and chance do."""

    engine: Engine

    @initialize(policy=st.sampled_from(sorted(STAGES)), versions=st.integers(0, 2))
    def the_service_begins(self, policy: str, versions: int) -> None:
        """With some versions that are live already, as far as the policy lets them."""
        self.engine = Engine(policy)
        for _ in range(versions):
            self.engine.register("churn", Nature.GOOD)
            self.engine.event(0)
            for _ in range(3):
                self.engine.work(20)
                self._of_a_promotion("approve", 0, ADA, 1)
        self.engine.work(20)

    # ---------------------------------------------------------------------------------------------- versions and events

    @rule(
        name=st.sampled_from(["churn", "churn", "sales"]),
        nature=NATURES,
        told=st.sampled_from(["at once", "at once", "later", "never"]),
        strike=STRIKES,
        minutes=MINUTES,
    )
    def a_version_is_registered(
        self, name: str, nature: Nature, told: str, strike: Strike | None, minutes: int
    ) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.register(name, nature, is_told=told != "never")
            if told == "at once":
                self.engine.event(-1)
            self.engine.work(minutes)

    @rule(number=NUMBERS, strike=STRIKES)
    def an_event_comes(self, number: int, strike: Strike | None) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.event(number)

    @precondition(lambda self: self.engine.versions())
    @rule(number=NUMBERS, strike=STRIKES)
    def an_event_comes_again(self, number: int, strike: Strike | None) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.tell(*self._version(number))

    @precondition(lambda self: self.engine.versions())
    @rule(number=NUMBERS, to=st.sampled_from(["prod", "us", "nowhere", "none"]), strike=STRIKES, minutes=MINUTES)
    def somebody_tags_a_version(self, number: int, to: str, strike: Strike | None, minutes: int) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.tag(*self._version(number), to)
            self.engine.tick()
            self.engine.work(minutes)

    # ------------------------------------------------------------------------------------------------- time and faults

    @rule(number=NUMBERS, strike=STRIKES, is_kept=st.sampled_from([False, False, True]))
    def a_message_is_delivered(self, number: int, strike: Strike | None, is_kept: bool) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.deliver(number, is_kept=is_kept)

    @rule(strike=STRIKES, minutes=MINUTES)
    def time_passes(self, strike: Strike | None, minutes: int) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.work(minutes)

    @rule(strike=STRIKES)
    def the_timer_ticks(self, strike: Strike | None) -> None:
        with self.engine.disturbed(fresh(strike)):
            self.engine.tick()

    @rule(where=st.sampled_from(["prod", "test", "us"]), minutes=MINUTES)
    def azure_fails_to_change_something(self, where: str, minutes: int) -> None:
        target = self.engine.targets[where]
        target.online.fails_next = target.batch.fails_next = True
        self.engine.work(minutes)

    @rule(is_full=st.booleans())
    def quota_comes_and_goes(self, is_full: bool) -> None:
        self.engine.targets["prod"].preflight.is_full = is_full

    @rule(is_there=st.booleans())
    def recorded_requests_come_and_go(self, is_there: bool) -> None:
        self.engine.targets["prod"].recorded = b'{"request": [1], "expected": [1]}\n' if is_there else None

    @rule()
    def somebody_resubmits_the_dead_letters(self) -> None:
        self.engine.resubmit()

    # ----------------------------------------------------------------------------------------------------------- people

    @precondition(lambda self: self.engine.rows())
    @rule(
        what=st.sampled_from(OF_PROMOTIONS + OF_ENDPOINTS),
        number=NUMBERS,
        who=PEOPLE,
        repeats=REPEATS,
        strike=STRIKES,
        minutes=MINUTES,
    )
    def somebody_asks(
        self, what: str, number: int, who: Caller, repeats: int, strike: Strike | None, minutes: int
    ) -> None:
        with self.engine.disturbed(fresh(strike)):
            self._asked(what, number, who, repeats)
            self.engine.work(minutes)

    @precondition(lambda self: self.engine.versions())
    @rule(number=NUMBERS, who=PEOPLE, repeats=REPEATS, strike=STRIKES, minutes=MINUTES)
    def somebody_asks_for_a_version(
        self, number: int, who: Caller, repeats: int, strike: Strike | None, minutes: int
    ) -> None:
        version = self._version(number)
        with self.engine.disturbed(fresh(strike)):
            self.engine.order(lambda order: self.engine.promote(*version, who, order), repeats=repeats)
            self.engine.work(minutes)

    @precondition(lambda self: self.engine.rows())
    @rule(
        what=st.sampled_from([*OF_PROMOTIONS, *OF_ENDPOINTS, "the timer"]),
        number=NUMBERS,
        who=PEOPLE,
        after=st.integers(0, 60),
        minutes=MINUTES,
    )
    def somebody_comes_between(self, what: str, number: int, who: Caller, after: int, minutes: int) -> None:
        act = self.engine.tick if what == "the timer" else lambda: self._asked(what, number, who, 1)
        with self.engine.disturbed(Between(after, act)):
            self.engine.work(minutes + 1)

    def _version(self, number: int) -> tuple[str, str]:
        versions = self.engine.versions()
        return versions[-1 - number % len(versions)]

    def _asked(self, what: str, number: int, who: Caller, repeats: int) -> None:
        if what in OF_ENDPOINTS:
            self._of_an_endpoint(what, number, who, repeats)
        else:
            self._of_a_promotion(what, number, who, repeats)

    def _of_a_promotion(self, what: str, number: int, who: Caller, repeats: int) -> None:
        engine, rows = self.engine, self.engine.rows()
        row = rows[-1 - number % len(rows)]
        asks: dict[str, Callable[[str], object]] = {
            "approve": lambda order: engine.decide(row, who, Decision.APPROVED),
            "reject": lambda order: engine.decide(row, who, Decision.REJECTED),
            "cancel": lambda order: engine.orders.cancel(row.id, who, order_id=order),
            "retry": lambda order: engine.orders.retry(row.id, who, order_id=order),
            "redeploy": lambda order: engine.orders.redeploy(row.id, who, order_id=order),
            "redeploy fresh": lambda order: engine.orders.redeploy(row.id, who, order_id=order, fresh=True),
            "wake": lambda order: engine.orders.wake(row.id, who, order_id=order),
        }
        engine.order(asks[what], repeats=repeats)

    def _of_an_endpoint(self, what: str, number: int, who: Caller, repeats: int) -> None:
        orders, rows = self.engine.orders, self.engine.rows()
        row = rows[-1 - number % len(rows)]
        place = row.target, row.serve, row.endpoint, who
        asks: dict[str, Callable[[str], object]] = {
            "hold": lambda order: orders.hold(*place, order_id=order, reason="a look"),
            "release": lambda order: orders.release(*place, order_id=order, reason=""),
            "roll back": lambda order: orders.roll_back(*place, order_id=order),
            "retire": lambda order: orders.retire(*place, order_id=order),
        }
        self.engine.order(asks[what], repeats=repeats)

    # ----------------------------------------------------------------------------------------------------- what must hold

    @invariant()
    def nothing_is_broken(self) -> None:
        self.engine.check()

    def teardown(self) -> None:
        self.engine.drain()
        self.engine.check_end()


@pytest.mark.timeout(1800)
def test_what_must_hold_holds(request: pytest.FixtureRequest) -> None:
    """The same moves in every run; `pytest --exhaustive` makes more and longer ones."""
    examples, steps = (600, 60) if request.config.getoption("--exhaustive") else (150, 25)
    run_state_machine_as_test(Moves, settings=settings(max_examples=examples, stateful_step_count=steps))


def a_fork_whose_second_stage_is_under_way(policy: str, minutes: int) -> Engine:
    """Version 1 is live in all stages; version 2 in the first, and some minutes ago somebody approved the next."""
    engine = Engine(policy)
    for number in (1, 2):
        engine.register("churn", Nature.GOOD)
        engine.event(0)
        engine.work(20)
        row = engine.rows()[-1]
        engine.order(lambda order, row=row: engine.decide(row, ADA, Decision.APPROVED))  # type: ignore[misc]
        engine.work(90 if number == 1 else minutes)
    return engine


@pytest.mark.parametrize(
    ("minutes", "ends_as", "live"),
    [
        pytest.param(3, "superseded", "1", id="its deployment is being created"),
        pytest.param(8, "superseded", "1", id="it has a tenth of the traffic"),
        pytest.param(18, "superseded", "1", id="it has half of the traffic"),
        pytest.param(30, "succeeded", "2", id="it has all of it and soaks: too late"),
    ],
)
def test_a_stage_whose_path_is_rolled_back_leaves_nothing_half_done(minutes: int, ends_as: str, live: str) -> None:
    """It once ended where it stood: with its share of the traffic, or live and nobody knew."""
    engine = a_fork_whose_second_stage_is_under_way("two stages", minutes)
    first, second = (row for row in engine.rows() if row.version == "2")
    engine.order(lambda order: engine.orders.roll_back("test", "realtime", "churn", ADA, order_id=order))
    engine.drain()
    engine.check_end()
    rows = {row.id: row for row in engine.rows()}
    assert (rows[first.id].state, rows[second.id].state) == ("rolled_back", ends_as)
    (deployment,) = engine.targets["prod"].online.below["churn"].values()
    assert deployment.name.startswith(f"v{live}-")
    assert engine.targets["prod"].online.endpoints["churn"].traffic == {deployment.name: 100}
