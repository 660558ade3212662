"""Each reason to park: it says what to do, nothing was done to what is live, and it goes on by itself once that is done."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from core import tags
from core.errors import Reason
from core.ledger import Decision, State
from tests.unit.builders import a_schedule, an_endpoint
from tests.unit.engine.engine import ADA, Engine
from tests.unit.engine.source import Nature

CONTRACT = Path(__file__).parents[2] / "docs" / "contracts" / "promotions.md"
NAME = "churn"


@dataclass(frozen=True)
class Cause:
    """What parks a promotion under a policy, and what somebody does about it. `nature` is that of the version."""

    policy: str
    comes: Callable[[Engine], object]
    goes: Callable[[Engine], object]
    nature: Nature = Nature.GOOD
    is_second: bool = False


def nothing(_: Engine) -> None:
    pass


def approve(engine: Engine) -> None:
    row = engine.rows()[-1]
    engine.order(lambda _: engine.decide(row, ADA, Decision.APPROVED))


def hold(engine: Engine) -> None:
    engine.order(lambda name: engine.orders.hold("prod", "realtime", NAME, ADA, order_id=name, reason="a look"))
    engine.work(1)


def release(engine: Engine) -> None:
    engine.order(lambda name: engine.orders.release("prod", "realtime", NAME, ADA, order_id=name, reason="seen"))


def of_somebody_else(engine: Engine) -> None:
    engine.targets["prod"].online.endpoints[NAME] = an_endpoint(name=NAME, tags={})
    engine.targets["prod"].online.below[NAME] = {}


def deleted(engine: Engine) -> None:
    del engine.targets["prod"].online.endpoints[NAME]


def schedule_of_somebody_else(engine: Engine) -> None:
    engine.targets["prod"].batch.schedules[NAME] = a_schedule(name=NAME, tags={})


def schedule_deleted(engine: Engine) -> None:
    del engine.targets["prod"].batch.schedules[NAME]


def recorded(content: bytes | None) -> Callable[[Engine], None]:
    return lambda engine: setattr(engine.targets["prod"], "recorded", content)


def preflight(**changes: object) -> Callable[[Engine], None]:
    def change(engine: Engine) -> None:
        for name, value in changes.items():
            setattr(engine.targets["prod"].preflight, name, value)

    return change


def namesake(there: bool) -> Callable[[Engine], None]:
    return lambda engine: setattr(engine.targets["prod"].online, "has_a_namesake", there)


def users_come(engine: Engine) -> None:
    engine.source.natures[engine.versions()[-1]] = Nature.GOOD


def shift_by_hand(by: int) -> Callable[[Engine], None]:
    """Somebody gives the canary more of the traffic, or takes that back again."""

    def change(engine: Engine) -> None:
        online = engine.targets["prod"].online
        if by > 0:
            engine.work(8)  # to its first step
        there = online.endpoints[NAME]
        canary = (tags.position(there.tags) or pytest.fail("there is no canary")).deployment
        shares = {name: share + (by if name == canary else -by) for name, share in there.traffic.items()}
        online.endpoints[NAME] = there.model_copy(update={"traffic": shares})

    return change


CAUSES = {
    Reason.APPROVAL_WANTED: Cause("approved", nothing, approve),
    Reason.ON_HOLD: Cause("automatic", hold, release),
    Reason.FROZEN: Cause("a fork", lambda engine: engine.work(25), lambda engine: engine.work(6 * 60)),
    Reason.QUOTA_EXCEEDED: Cause("automatic", preflight(is_full=True), preflight(is_full=False)),
    Reason.COMPUTE_NOT_USABLE: Cause("batch", preflight(nodes=0), preflight(nodes=4)),
    Reason.PERMISSION_MISSING: Cause("automatic", preflight(is_allowed=False), preflight(is_allowed=True)),
    Reason.ENDPOINT_NAME_TAKEN: Cause("automatic", namesake(True), namesake(False)),
    Reason.ENDPOINT_NOT_OURS: Cause("automatic", of_somebody_else, deleted),
    Reason.SCHEDULE_NOT_OURS: Cause("batch", schedule_of_somebody_else, schedule_deleted),
    Reason.VERIFICATION_INCONCLUSIVE: Cause(
        "verified", recorded(None), recorded(b'{"request": [1], "expected": [1]}\n')
    ),
    Reason.ANALYSIS_INCONCLUSIVE: Cause("canary", nothing, users_come, Nature.NOBODY_ASKS, is_second=True),
    Reason.TRAFFIC_CHANGED: Cause("canary", shift_by_hand(10), shift_by_hand(-10), is_second=True),
}


def test_these_are_all_reasons_to_park() -> None:
    said = re.findall(r"^\| `(\w+)` \| parked \|", CONTRACT.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(said) == {reason.value for reason in CAUSES}


@pytest.mark.parametrize("reason", CAUSES, ids=str)
def test_what_is_parked_says_what_to_do_and_goes_on_once_it_is_done(reason: Reason) -> None:
    cause = CAUSES[reason]
    engine = Engine(cause.policy)
    if cause.is_second:
        engine.register(NAME, Nature.GOOD)
        engine.event(0)
        engine.work(90)
    late = reason is Reason.TRAFFIC_CHANGED
    if not late:
        cause.comes(engine)
    engine.register(NAME, cause.nature)
    engine.event(0)
    if late:
        cause.comes(engine)
    engine.work(30)

    (row,) = [row for row in engine.rows() if row.version == engine.versions()[-1][1] and row.state is State.PARKED][:1]
    assert (row.reason, bool(row.why), bool(row.remedy)) == (reason, True, True)
    engine.check()

    cause.goes(engine)
    engine.work(24 * 60)
    after = engine.ledger.promotion(row.id)
    assert after is not None
    assert (after.state, after.why, after.attempt) == (State.SUCCEEDED, "", 1)
    engine.check()
