"""Quality and freezes at the gate of an endpoint: what stops a promotion, what does not, and what is never asked."""

from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from core.commands import Order, Phase, PromoteModel, Verb
from core.errors import Reason
from core.ledger import LIVE, AuditRecord
from core.outcomes import Done, Outcome, Parked, Refused
from core.plan import WAIT
from core.ports import Ledger
from core.quality import Live, Quality
from core.said import QUALITY_DIGEST, Said, said_about
from core.steps import Wanted
from tests.unit.builders import NOON, a_command, a_manifest, a_recipe, a_stage, an_endpoint
from tests.unit.test_plan import planned
from tests.unit.test_quality import a_quality
from tests.unit.world import World, end

BETTER = {"metrics": [{"name": "auc", "minimum": 0.8, "better_than_live": {"goal": "maximize"}}]}
GATED = a_command(stages=(a_stage(gates=BETTER),))
LATER = NOON + timedelta(hours=3)


def a_live(auc: float | None, promotion_id: str = "other-1") -> Live:
    return Live(promotion_id=promotion_id, name="churn:2", quality=None if auc is None else a_quality({"auc": auc}))


def an_order(verb: Verb = Verb.REDEPLOY, **changes: Any) -> Order:
    return Order(id="7", verb=verb, by="Operator", at=NOON, **changes)


def outcome(command: PromoteModel, said: Said, **more: Any) -> tuple[Outcome, World]:
    world = World()
    found = end(world, Wanted(command, a_manifest(), a_recipe(), said=said, **more))
    assert found is not None
    return found, world


@pytest.mark.parametrize(
    ("command", "said", "fails"),
    [
        (GATED, Said(a_quality({"auc": 0.9})), None),
        (GATED, Said(a_quality({"auc": 0.7})), "metric auc: it is 0.7"),
        (GATED, Said(a_quality({"auc": 0.9}), a_live(0.85)), None),
        (GATED, Said(a_quality({"auc": 0.9}), a_live(0.95)), "asked is more than the 0.95 of churn:2, which is live"),
        (GATED, Said(a_quality({"auc": 0.9}), a_live(None)), "nothing was frozen of it"),
        (GATED, Said(a_quality({"auc": 0.9}), a_live(0.9, GATED.promotion_id)), None),
        (a_command(gates=BETTER), Said(a_quality({"auc": 0.7})), "metric auc"),
        (
            a_command(gates={"required_tags": {"reviewed": "*"}}, stages=(a_stage(gates=BETTER),)),
            Said(a_quality({"auc": 0.7})),
            "metric auc: it is 0.7 (run train), asked is at least 0.8; tag reviewed: it is missing",
        ),
    ],
    ids=[
        "nothing is live",
        "below the minimum",
        "better than live",
        "worse than live",
        "live before metrics were frozen",
        "what is live is not compared with itself",
        "gates of the rule",
        "both are told",
    ],
)
def test_quality_is_decided_before_anything_is_done(command: PromoteModel, said: Said, fails: str | None) -> None:
    found, world = outcome(command, said)
    if fails is None:
        assert isinstance(found, Done)
        return
    assert isinstance(found, Refused)
    assert (found.reason, world) == (Reason.GATE_FAILED, World())
    assert all(part in found.why for part in fails.split("; ")), found.why
    assert found.remedy


def test_nobody_is_asked_to_approve_what_does_not_pass() -> None:
    command = a_command(stages=(a_stage(gates=BETTER, approval={}),))
    assert isinstance(outcome(command, Said(a_quality({"auc": 0.1})))[0], Refused)
    assert isinstance(outcome(command, Said(a_quality({"auc": 0.9})))[0], Parked)


@pytest.mark.parametrize(
    ("order", "was_live", "passes"),
    [
        (an_order(Verb.ROLL_BACK, overrides_hold=True), True, True),
        (an_order(Verb.REDEPLOY), True, True),
        (an_order(Verb.REDEPLOY), False, False),
        (an_order(Verb.RETRY), True, False),
        (an_order(Verb.PROMOTE, overrides_hold=True, reason="I want it"), True, False),
        (None, True, False),
    ],
    ids=[
        "a roll-back",
        "a redeployment",
        "a redeployment of what never was live",
        "a retry",
        "no override opens this gate",
        "an event",
    ],
)
def test_what_was_live_here_may_come_back(order: Order | None, was_live: bool, passes: bool) -> None:
    """It is worse than what is live, or it would not be brought back by hand."""
    command = GATED.model_copy(update={"order": order})
    found, _ = outcome(command, Said(a_quality({"auc": 0.8}), a_live(0.9), was_live=was_live))
    assert isinstance(found, Done if passes else Refused)


def test_quality_is_not_asked_of_what_has_claimed_the_endpoint() -> None:
    """Decided once: a promotion under way does not end because something else was written meanwhile."""
    world = World(endpoint=an_endpoint(GATED))
    wanted = Wanted(GATED, a_manifest(), a_recipe(), said=Said(a_quality({"auc": 0.1})))
    assert isinstance(end(world, wanted), Done)


FROZEN = Said(frozen_until=LATER, frozen_because=("year end",))


@pytest.mark.parametrize(
    ("order", "passes"),
    [
        (None, False),
        (an_order(Verb.PROMOTE), False),
        (an_order(Verb.PROMOTE, overrides_hold=True), False),
        (an_order(Verb.PROMOTE, overrides_hold=True, reason="  "), False),
        (an_order(Verb.PROMOTE, overrides_hold=True, reason="customers wait"), True),
        (an_order(Verb.RETRY, reason="customers wait"), False),
        (an_order(Verb.ROLL_BACK, overrides_hold=True), True),
    ],
    ids=[
        "an event",
        "a person",
        "an override without a reason",
        "an override with an empty reason",
        "an override with a reason",
        "a reason alone",
        "a roll-back",
    ],
)
def test_a_freeze_parks_until_its_end(order: Order | None, passes: bool) -> None:
    found, world = outcome(a_command(order=order), FROZEN)
    if passes:
        assert isinstance(found, Done)
        return
    assert isinstance(found, Parked)
    assert (found.reason, found.phase, found.until, world) == (Reason.FROZEN, Phase.FREEZE, LATER, World())
    assert found.why == "prod is frozen until 2026-03-04 15:00 UTC (year end)"


def test_a_freeze_does_not_stop_what_has_claimed_the_endpoint() -> None:
    wanted = Wanted(a_command(), a_manifest(), a_recipe(), said=FROZEN)
    assert isinstance(end(World(endpoint=an_endpoint()), wanted), Done)


# ------------------------------------------------------------------------------------------------- what the ledger says


class Trail:
    """The part of a ledger that is asked; `reads` counts."""

    def __init__(self, *records: AuditRecord, quality: tuple[Quality, ...] = ()) -> None:
        self._records = records
        self._kept = {each.digest: each.model_dump_json() for each in quality}
        self.reads = 0

    def trail(self, session_id: str) -> tuple[AuditRecord, ...]:
        self.reads += 1
        return tuple(each for each in self._records if each.session_id == session_id)

    def kept(self, kind: str, digest: str) -> str:
        assert kind == "quality"
        return self._kept[digest]


def a_record(promotion_id: str, after: dict[str, Any] | None, action: str = LIVE) -> AuditRecord:
    named = {"target": "prod", "serve": "realtime", "endpoint": "churn", "session_id": GATED.session_id}
    about = {"id": f"{promotion_id}:{action}", "at": NOON, "actor": "x", "action": action, "promotion_id": promotion_id}
    return AuditRecord.model_validate(named | about | {"after": after})


OLD, NEW = a_quality({"auc": 0.7}), a_quality({"auc": 0.9})
OLD_LIVE = {"model": "churn", "version": "2", QUALITY_DIGEST: OLD.digest}


@pytest.mark.parametrize(
    ("records", "live", "was_live"),
    [
        ([], None, False),
        ([a_record("old-1", None, action="hold"), a_record("old-1", OLD_LIVE)], OLD, False),
        ([a_record("old-1", None), a_record("old-1", OLD_LIVE)], None, False),
        ([a_record("old-1", OLD_LIVE), a_record(GATED.promotion_id, OLD_LIVE)], OLD, True),
        ([a_record("old-1", OLD_LIVE), a_record(GATED.promotion_id, None)], OLD, False),
    ],
    ids=["nothing ever", "an older one", "retired", "back to an older one", "only its retirement"],
)
def test_what_is_live_is_what_the_audit_says(records: list[AuditRecord], live: Quality | None, was_live: bool) -> None:
    ledger = Trail(*records, quality=(OLD, NEW))
    command = GATED.model_copy(update={"quality_digest": NEW.digest})
    said = said_about(cast(Ledger, ledger), command, NOON)
    assert said.quality == NEW
    assert (said.live.quality if said.live else None, said.was_live) == (live, was_live)


def test_a_live_version_without_frozen_quality_is_still_live() -> None:
    ledger = Trail(a_record("old-1", {"model": "churn", "version": "2"}))
    said = said_about(cast(Ledger, ledger), GATED, NOON, quality=NEW)
    assert said.live == Live(promotion_id="old-1", name="churn:2", quality=None)


def test_without_gates_the_ledger_is_not_asked() -> None:
    ledger = Trail()
    frozen = a_stage(freeze=[{"start": "2026-03-04", "end": "2026-03-05", "reason": "audit"}])
    said = said_about(cast(Ledger, ledger), a_command(stages=(frozen,)), NOON)
    assert (said.frozen_until, said.frozen_because, ledger.reads) == (
        datetime(2026, 3, 5, tzinfo=NOON.tzinfo),
        ("audit",),
        0,
    )


# ----------------------------------------------------------------------------------------------------------------- plan


def test_a_plan_tells_what_a_freeze_keeps_and_what_follows() -> None:
    found = planned(World(), Wanted(a_command(), a_manifest(), a_recipe(), said=FROZEN))
    assert (found.outcome, found.reason, found.steps[0].step) == ("parked", Reason.FROZEN, WAIT)
    assert found.then is not None
    assert found.then.outcome == "done"


def test_a_plan_refuses_what_does_not_pass() -> None:
    said = Said(a_quality({"auc": 0.9}), a_live(0.95))
    found = planned(World(), Wanted(GATED, a_manifest(), a_recipe(), said=said))
    assert (found.outcome, found.reason, found.steps) == ("refused", Reason.GATE_FAILED, ())
