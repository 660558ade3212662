"""The watch over targets under faults: whatever request of it fails, a drift is told, repaired once, and told to be over."""

import pytest

from core.ledger import State
from core.ports import Provisioning
from tests.unit.engine.engine import ADA, Engine
from tests.unit.engine.source import Nature
from tests.unit.engine.wire import Fault, Strike

NAME = "churn"
# Those of a pass that finds a drift and orders its repair, without what it asks before it looks at targets.
REQUESTS = range(8, 34)


def an_engine(drift: str = "repair") -> Engine:
    """With one version live."""
    engine = Engine("automatic", drift=drift)
    engine.register(NAME, Nature.GOOD)
    engine.event(0)
    engine.work(60)
    (row,) = engine.rows()
    assert row.state is State.SUCCEEDED
    return engine


def delete_deployment(engine: Engine) -> None:
    online = engine.targets["prod"].online
    online.below[NAME].clear()
    online.endpoints[NAME] = online.endpoints[NAME].model_copy(update={"traffic": {}})


def move_traffic(engine: Engine) -> None:
    online = engine.targets["prod"].online
    (ours,) = online.below[NAME].values()
    online.below[NAME]["by-hand"] = ours.model_copy(update={"name": "by-hand", "tags": {}})
    online.endpoints[NAME] = online.endpoints[NAME].model_copy(update={"traffic": {"by-hand": 100}})


def told(engine: Engine) -> list[str]:
    """What the topic has published about drift; an event that came twice is one."""
    words = [event.type.rpartition(".")[2] for event in engine.topic.published.values()]
    return [word for word in words if word.startswith("Drift")]


def settled(engine: Engine) -> None:
    for _ in range(6):
        engine.work(15)
        engine.tick()
    engine.check()


@pytest.mark.parametrize("fault", [Fault.DEATH, Fault.UNAVAILABLE, Fault.OVERTAKEN, Fault.FORBIDDEN])
@pytest.mark.parametrize("is_done", [False, True])
def test_whatever_request_fails_a_drift_is_repaired_once(fault: Fault, is_done: bool) -> None:
    for after in REQUESTS:
        engine = an_engine()
        delete_deployment(engine)
        with engine.disturbed(Strike(after, fault, is_done)):
            engine.tick()
        settled(engine)
        (row,) = engine.rows()
        assert (row.state, row.attempt) == (State.SUCCEEDED, 2), f"{row.state} after {after} requests: {row.why}"
        engine.check_end()
        assert told(engine) == ["Drifted", "DriftResolved"], f"after {after} requests"
        assert engine.drift.drifts() == ()


def test_what_is_only_reported_stays_as_it_is_and_is_told_once() -> None:
    engine = an_engine("report")
    move_traffic(engine)
    settled(engine)
    (row,) = engine.rows()
    (drift,) = engine.drift.drifts()
    assert (row.attempt, told(engine), drift.repair) == (1, ["Drifted"], "")
    assert drift.why == f"the traffic of {NAME} is 100 % to by-hand, not 100 % to {(row.result or {})['deployment']}"


def test_what_nobody_watches_is_not_looked_at() -> None:
    engine = an_engine("ignore")
    move_traffic(engine)
    settled(engine)
    assert (told(engine), engine.drift.drifts()) == ([], ())


def test_two_who_disagree_do_not_fight() -> None:
    engine = an_engine()
    move_traffic(engine)
    settled(engine)
    move_traffic_again(engine)
    settled(engine)
    (row,) = engine.rows()
    (drift,) = engine.drift.drifts()
    assert (row.attempt, told(engine)) == (2, ["Drifted", "DriftResolved", "Drifted"])
    assert drift.repair.endswith("did not last; somebody else changes it")


def move_traffic_again(engine: Engine) -> None:
    online = engine.targets["prod"].online
    online.endpoints[NAME] = online.endpoints[NAME].model_copy(update={"traffic": {"by-hand": 100}})


def test_a_hold_keeps_repairs_away_until_it_is_released() -> None:
    engine = an_engine()
    engine.order(lambda name: engine.orders.hold("prod", "realtime", NAME, ADA, order_id=name, reason="I move it"))
    engine.work(5)
    move_traffic(engine)
    settled(engine)
    (drift,) = engine.drift.drifts()
    assert drift.repair == "not repaired: the endpoint is on hold, by Ada"
    engine.order(lambda name: engine.orders.release("prod", "realtime", NAME, ADA, order_id=name, reason="done"))
    settled(engine)
    (row,) = engine.rows()
    assert (row.state, row.attempt, engine.drift.drifts()) == (State.SUCCEEDED, 2, ())


def test_what_is_being_changed_is_looked_at_later() -> None:
    engine = an_engine()
    online = engine.targets["prod"].online
    (name,) = online.below[NAME]
    online.below[NAME][name] = online.below[NAME][name].model_copy(update={"provisioning": Provisioning.CHANGING})
    counted, problems = engine.drift.look(set())
    assert (sum(counted.values()), problems, told(engine)) == (0, [], [])


def test_only_so_many_are_looked_at_in_a_pass_and_then_the_next() -> None:
    engine = Engine("automatic")
    names = [f"model-{number}" for number in range(5)]
    for name in names:
        engine.register(name, Nature.GOOD)
        engine.event(0)
    engine.work(90)
    for name in names:
        engine.targets["prod"].online.endpoints[name] = (
            engine.targets["prod"].online.endpoints[name].model_copy(update={"traffic": {}})
        )
    engine.drift._endpoints_a_tick = 2
    found = []
    for _ in range(3):
        counted, _ = engine.drift.look(set())
        found.append((counted["drifted"], len(engine.drift.drifts())))
    assert found == [(2, 2), (2, 4), (2, 5)]
