"""The whole engine under random events, versions, operators and faults: what must hold holds after every move."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from core.commands import Verb
from core.ledger import Decision, State
from tests.unit.engine.engine import ADA, BOB, Engine
from tests.unit.engine.policies import STAGES
from tests.unit.engine.source import Nature
from tests.unit.engine.wire import Between, Fault, Strike

NAMES = st.sampled_from(["churn", "sales"])
ANY = st.integers(0, 5)
NATURES = st.sampled_from([*Nature, *[Nature.GOOD] * 4])
PEOPLE = st.sampled_from([ADA, ADA, BOB])
STRIKES = st.builds(Strike, st.integers(0, 40), st.sampled_from(Fault), st.booleans())
MINUTES = st.sampled_from([1, 5, 15, 30])
_ = timedelta, pytest


class Moves(RuleBasedStateMachine):
    """What people, Azure and chance do to the engine."""

    engine: Engine

    @initialize(policy=st.sampled_from(sorted(STAGES)))
    def start(self, policy: str) -> None:
        self.engine = Engine(policy)

    # ---------------------------------------------------------------------------------------------- versions and events

    @rule(name=NAMES, nature=NATURES, is_told=st.sampled_from([True, True, True, False]))
    def a_version_is_registered(self, name: str, nature: Nature, is_told: bool) -> None:
        self.engine.register(name, nature, is_told=is_told)

    @rule(number=ANY)
    def an_event_comes(self, number: int) -> None:
        self.engine.event(number)

    @precondition(lambda self: self.engine.versions())
    @rule(number=ANY)
    def an_event_comes_again(self, number: int) -> None:
        versions = self.engine.versions()
        self.engine.tell(*versions[number % len(versions)])

    @precondition(lambda self: self.engine.versions())
    @rule(number=ANY, to=st.sampled_from(["prod", "prod", "us", "none"]))
    def somebody_tags(self, number: int, to: str) -> None:
        versions = self.engine.versions()
        self.engine.tag(*versions[number % len(versions)], to)

    # ------------------------------------------------------------------------------------------------------------- time

    @rule(number=ANY, is_kept=st.sampled_from([False, False, False, True]))
    def a_message_is_delivered(self, number: int, is_kept: bool) -> None:
        self.engine.deliver(number, is_kept=is_kept)

    @rule(minutes=MINUTES)
    def time_passes(self, minutes: int) -> None:
        self.engine.work(minutes)

    @rule(minutes=MINUTES, strike=STRIKES)
    def time_passes_and_something_fails(self, minutes: int, strike: Strike) -> None:
        self.engine.arm(Strike(strike.after, strike.fault, strike.is_done))
        self.engine.work(minutes)

    @rule()
    def the_timer_ticks(self) -> None:
        self.engine.tick()

    # ----------------------------------------------------------------------------------------------------------- faults

    @rule(strike=STRIKES)
    def the_next_run_fails(self, strike: Strike) -> None:
        self.engine.arm(Strike(strike.after, strike.fault, strike.is_done))

    @rule(where=st.sampled_from(["prod", "test", "us"]))
    def azure_fails_to_change_something(self, where: str) -> None:
        self.engine.targets[where].online.fails_next = True

    @rule(is_full=st.booleans())
    def quota_comes_and_goes(self, is_full: bool) -> None:
        self.engine.targets["prod"].preflight.is_full = is_full

    @rule(is_there=st.booleans())
    def the_recorded_requests_come_and_go(self, is_there: bool) -> None:
        self.engine.targets["prod"].recorded = b'{"request": [1], "expected": [1]}\n' if is_there else None

    @rule()
    def somebody_resubmits_the_dead_letters(self) -> None:
        self.engine.resubmit()

    # ----------------------------------------------------------------------------------------------------------- people

    @precondition(lambda self: self.engine.rows())
    @rule(
        number=ANY,
        caller=PEOPLE,
        what=st.sampled_from(["approve", "approve", "reject", "cancel", "retry", "redeploy", "fresh", "wake"]),
        again=st.sampled_from([1, 1, 2]),
    )
    def somebody_asks_about_a_promotion(self, number: int, caller: Any, what: str, again: int) -> None:
        self._ask(number, caller, what, again)

    @precondition(lambda self: self.engine.rows())
    @rule(
        number=ANY,
        caller=PEOPLE,
        what=st.sampled_from(["approve", "cancel", "retry", "roll back", "hold", "release", "tick", "wake"]),
        after=st.integers(0, 30),
        minutes=MINUTES,
    )
    def somebody_comes_between(self, number: int, caller: Any, what: str, after: int, minutes: int) -> None:
        def act() -> None:
            if what == "tick":
                self.engine.tick()
            elif what in ("hold", "release", "roll back"):
                self._ask_of_endpoint(number, caller, what, 1)
            else:
                self._ask(number, caller, what, 1)

        self.engine.arm(Between(after, act))
        self.engine.work(minutes)

    @precondition(lambda self: self.engine.rows())
    @rule(
        number=ANY,
        caller=PEOPLE,
        what=st.sampled_from(["hold", "release", "release", "roll back", "roll back", "retire"]),
        again=st.sampled_from([1, 1, 2]),
    )
    def somebody_asks_about_an_endpoint(self, number: int, caller: Any, what: str, again: int) -> None:
        self._ask_of_endpoint(number, caller, what, again)

    @precondition(lambda self: self.engine.versions())
    @rule(number=ANY, caller=PEOPLE, again=st.sampled_from([1, 2]))
    def somebody_asks_for_a_version(self, number: int, caller: Any, again: int) -> None:
        versions = self.engine.versions()
        name, version = versions[number % len(versions)]
        self.engine.order(lambda order: self.engine.promote(name, version, caller, order), repeats=again)

    def _ask(self, number: int, caller: Any, what: str, again: int) -> None:
        engine, rows = self.engine, self.engine.rows()
        row = rows[-1 - number % len(rows)]
        asks: Any = {
            "approve": lambda order: engine.decide(row, caller, Decision.APPROVED),
            "reject": lambda order: engine.decide(row, caller, Decision.REJECTED),
            "cancel": lambda order: engine.orders.cancel(row.id, caller, order_id=order),
            "retry": lambda order: engine.orders.retry(row.id, caller, order_id=order),
            "redeploy": lambda order: engine.orders.redeploy(row.id, caller, order_id=order),
            "fresh": lambda order: engine.orders.redeploy(row.id, caller, order_id=order, fresh=True),
            "wake": lambda order: engine.orders.wake(row.id, caller, order_id=order),
        }
        engine.order(asks[what], repeats=again)

    def _ask_of_endpoint(self, number: int, caller: Any, what: str, again: int) -> None:
        orders, rows = self.engine.orders, self.engine.rows()
        row = rows[-1 - number % len(rows)]
        place = row.target, row.serve, row.endpoint
        asks: Any = {
            "hold": lambda order: orders.hold(*place, caller, order_id=order, reason="a look"),
            "release": lambda order: orders.release(*place, caller, order_id=order, reason=""),
            "roll back": lambda order: orders.roll_back(*place, caller, order_id=order),
            "retire": lambda order: orders.retire(*place, caller, order_id=order),
        }
        self.engine.order(asks[what], repeats=again)

    # ----------------------------------------------------------------------------------------------------- what must hold

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.drain()
            self.engine.check_end()


def test_what_must_hold_holds() -> None:
    run_state_machine_as_test(Moves, settings=settings(max_examples=60, stateful_step_count=40))
