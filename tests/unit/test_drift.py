"""What counts as drift, what is done about it, and that a repair mends it: as tables, and in the model of a target."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core import tags
from core.commands import Order, PromoteModel, Verb
from core.drift import REPAIR_AGAIN, DriftKind, Finding, Repair, Shown, findings, repair, repair_id
from core.ledger import LIVE, AuditRecord, Promotion, State
from core.outcomes import Done
from core.ports import CopyStatus, Provisioning, TargetAsset
from core.steps import Wanted
from tests.unit.builders import (
    NOON,
    a_batch_command,
    a_batch_recipe,
    a_batch_stage,
    a_command,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_schedule,
    a_stage,
    a_wanted,
)
from tests.unit.world import World, end

ONLINE, BATCH = a_command(), a_batch_command()
MODEL = TargetAsset(id="churn:3")
CANARY = a_command(stages=(a_stage(rollout={"steps": [10], "bake": "10m", "soak": "5m"}),))


def shown(command: PromoteModel, **changes: Any) -> Shown:
    """A target that shows what the command has promoted, but for the changes."""
    as_promoted = Shown(
        endpoint=a_live_endpoint(command),
        deployments=(a_deployment(command),),
        model=MODEL,
        schedule=a_schedule(command) if command.is_batch else None,
    )
    return replace(as_promoted, **changes)


def test_what_is_as_it_was_promoted_has_no_drift() -> None:
    for command in (ONLINE, BATCH):
        assert findings(command, command.deployment, shown(command)) == ()
    others = a_deployment(name="by-hand", tags={})
    extra = a_live_endpoint(ONLINE, traffic={ONLINE.deployment: 100, "by-hand": 0})
    assert (
        findings(ONLINE, ONLINE.deployment, shown(ONLINE, endpoint=extra, deployments=(a_deployment(), others))) == ()
    )
    unscheduled = a_batch_command(stages=(a_batch_stage(schedule=None),))
    assert findings(unscheduled, unscheduled.deployment, shown(unscheduled, schedule=None)) == ()
    resting = a_batch_stage().schedule
    assert resting is not None
    paused = a_batch_command(stages=(a_batch_stage(schedule=resting.model_copy(update={"enabled": False})),))
    found = shown(paused, schedule=a_schedule(paused, enabled=False))
    assert findings(paused, paused.deployment, found) == (), "the policy wants it to rest"


@pytest.mark.parametrize(
    ("command", "changes", "kind", "what"),
    [
        (ONLINE, {"endpoint": None, "deployments": ()}, DriftKind.ENDPOINT_MISSING, "churn is not in prod any more"),
        (ONLINE, {"endpoint": a_live_endpoint(tags={})}, DriftKind.ENDPOINT_NOT_OURS, "not marked as this service's"),
        (ONLINE, {"deployments": ()}, DriftKind.DEPLOYMENT_MISSING, f"deployment {ONLINE.deployment} of churn is gone"),
        (
            ONLINE,
            {"deployments": (a_deployment(provisioning=Provisioning.FAILED),)},
            DriftKind.DEPLOYMENT_FAILED,
            "in state Failed",
        ),
        (
            ONLINE,
            {"endpoint": a_live_endpoint(traffic={ONLINE.deployment: 60, "by-hand": 40})},
            DriftKind.TRAFFIC_CHANGED,
            f"is 40 % to by-hand, 60 % to {ONLINE.deployment}, not 100 % to {ONLINE.deployment}",
        ),
        (ONLINE, {"endpoint": a_live_endpoint(traffic={})}, DriftKind.TRAFFIC_CHANGED, "is none, not 100 %"),
        (
            BATCH,
            {"endpoint": a_live_endpoint(BATCH, traffic={"other": 100})},
            DriftKind.TRAFFIC_CHANGED,
            f"the default deployment of churn is other, not {BATCH.deployment}",
        ),
        (ONLINE, {"model": None}, DriftKind.MODEL_MISSING, "model churn:3 is not registered"),
        (
            ONLINE,
            {"model": MODEL.model_copy(update={"archived": True})},
            DriftKind.MODEL_ARCHIVED,
            "churn:3 is archived",
        ),
        (BATCH, {"schedule": None}, DriftKind.SCHEDULE_MISSING, "schedule churn is gone"),
        (BATCH, {"schedule": a_schedule(enabled=False)}, DriftKind.SCHEDULE_DISABLED, "schedule churn is disabled"),
        (
            BATCH,
            {"schedule": a_schedule(tags={})},
            DriftKind.SCHEDULE_CHANGED,
            "not the one that was written for churn:3",
        ),
    ],
)
def test_each_difference_is_named_with_what_to_do(
    command: PromoteModel, changes: dict[str, Any], kind: DriftKind, what: str
) -> None:
    (found,) = findings(command, command.deployment, shown(command, **changes))
    assert found.kind is kind
    assert what in found.what
    assert found.remedy.endswith((".", "3"))


def test_what_is_being_changed_says_nothing_yet() -> None:
    assert shown(ONLINE).is_settled
    for part in (
        {"endpoint": a_live_endpoint(provisioning=Provisioning.CHANGING)},
        {"deployments": (a_deployment(provisioning=Provisioning.DELETING),)},
        {"schedule": a_schedule(provisioning=Provisioning.CHANGING)},
    ):
        assert not shown(ONLINE, **part).is_settled


# --------------------------------------------------------------------------------------------------------- what is done


def live_record(attempt: int = 1) -> AuditRecord:
    return AuditRecord(
        id=f"{ONLINE.promotion_id}:{attempt}:{LIVE}",
        at=NOON,
        actor="Ada",
        action=LIVE,
        target="prod",
        serve="realtime",
        endpoint="churn",
        session_id=ONLINE.session_id,
        promotion_id=ONLINE.promotion_id,
        after={"promotion_id": ONLINE.promotion_id, "deployment": ONLINE.deployment, "attempt": attempt},
    )


def a_row(state: State = State.SUCCEEDED, order: Order | None = None) -> Promotion:
    return Promotion.requested(a_command(order=order), now=NOON).model_copy(update={"state": state, "why": "no quota"})


def an_order(order_id: str = "o", verb: Verb = Verb.REPAIR) -> Order:
    return Order(id=order_id, verb=verb, by="the drift watch", at=NOON)


def a_finding(kind: DriftKind = DriftKind.TRAFFIC_CHANGED) -> Finding:
    return Finding(kind=kind, what="something", remedy="Do it.")


SOON = NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    ("mode", "row", "found", "barred", "now", "said"),
    [
        ("report", a_row(), [a_finding()], None, SOON, ""),
        ("repair", a_row(), [a_finding()], None, SOON, None),
        ("repair", a_row(), [a_finding()], "on hold", SOON, "not repaired: on hold"),
        ("repair", a_row(), [a_finding(DriftKind.ENDPOINT_NOT_OURS)], None, SOON, "not repaired: that needs somebody"),
        ("repair", a_row(), [a_finding(), a_finding(DriftKind.MODEL_ARCHIVED)], None, SOON, "not repaired: that needs"),
        ("repair", a_row(State.REFUSED), [a_finding()], None, SOON, "is refused"),
        (
            "repair",
            a_row(State.REFUSED, an_order(repair_id(live_record()))),
            [a_finding()],
            None,
            SOON,
            "the repair ended as refused: no quota",
        ),
        ("repair", a_row(order=an_order()), [a_finding()], None, SOON, "did not last; somebody else changes it"),
        ("repair", a_row(order=an_order()), [a_finding()], None, NOON + REPAIR_AGAIN, None),
        ("repair", a_row(order=an_order(verb=Verb.REDEPLOY)), [a_finding()], None, SOON, None),
    ],
)
def test_when_it_is_repaired(
    mode: str, row: Promotion, found: list[Finding], barred: str | None, now: Any, said: str | None
) -> None:
    decided = repair(mode, live_record(), row, found, barred=barred, now=now)
    if said is None:
        assert decided == Repair(repair_id(live_record()), fresh=False)
    else:
        assert isinstance(decided, str)
        assert said in decided


def test_a_failed_deployment_is_replaced_by_another_one() -> None:
    decided = repair("repair", live_record(), a_row(), [a_finding(DriftKind.DEPLOYMENT_FAILED)], barred=None, now=SOON)
    assert isinstance(decided, Repair)
    assert decided.fresh


def test_what_goes_live_again_may_be_repaired_again_and_is_one_order_each_time() -> None:
    assert repair_id(live_record()) == repair_id(live_record())
    assert repair_id(live_record()) != repair_id(live_record(attempt=2))


# ---------------------------------------------------------------------------------------------------- and it is mended


def delete_endpoint(world: World) -> None:
    world.endpoint, world.deployments = None, {}


def delete_deployment(world: World) -> None:
    assert world.endpoint is not None
    world.endpoint, world.deployments = world.endpoint.model_copy(update={"traffic": {}}), {}


def move_traffic(world: World) -> None:
    assert world.endpoint is not None
    (name,) = world.deployments
    world.deployments["by-hand"] = a_deployment(name="by-hand", tags={})
    world.endpoint = world.endpoint.model_copy(update={"traffic": {name: 30, "by-hand": 70}})


def fail_deployment(world: World) -> None:
    (name,) = world.deployments
    world.deployments[name] = world.deployments[name].model_copy(update={"provisioning": Provisioning.FAILED})


def disable_schedule(world: World) -> None:
    assert world.schedule is not None
    world.schedule = world.schedule.model_copy(update={"enabled": False})


def delete_schedule(world: World) -> None:
    world.schedule = None


def schedule_something_else(world: World) -> None:
    assert world.schedule is not None
    world.schedule = world.schedule.model_copy(update={"tags": {**world.schedule.tags, tags.COMPONENT: "other:1"}})


ONLINE_DAMAGE = (delete_endpoint, delete_deployment, move_traffic, fail_deployment)
BATCH_DAMAGE = (
    delete_endpoint,
    delete_deployment,
    move_traffic,
    disable_schedule,
    delete_schedule,
    schedule_something_else,
)


@pytest.mark.parametrize(
    ("wanted", "damage"),
    [
        *((a_wanted(command), damage) for command in (ONLINE, CANARY) for damage in ONLINE_DAMAGE),
        *((Wanted(BATCH, a_manifest(), a_batch_recipe()), damage) for damage in BATCH_DAMAGE),
    ],
    ids=lambda each: each.__name__ if callable(each) else each.command.stage.serve,
)
def test_a_repair_brings_back_what_was_promoted(wanted: Wanted, damage: Callable[[World], None]) -> None:
    world = World()
    world.copies = {file.path: CopyStatus.COPIED for file in a_manifest().files}
    assert isinstance(end(world, wanted), Done)
    world.settle()
    assert found_in(world, wanted) == ()

    damage(world)
    found = found_in(world, wanted)
    assert found

    decided = repair("repair", live_record(), a_row(), found, barred=None, now=SOON)
    assert isinstance(decided, Repair)
    order = Order(id=decided.order_id, verb=Verb.REPAIR, by="the drift watch", at=world.now)
    changes = {"order": order, "attempt": 2, "generation_time": world.now, "fresh": 2 if decided.fresh else 0}
    again = replace(wanted, command=wanted.command.model_copy(update=changes))
    assert isinstance(end(world, again), Done)
    world.settle()
    assert found_in(world, again) == ()
    if damage is fail_deployment:
        assert again.command.deployment != wanted.command.deployment


def found_in(world: World, wanted: Wanted) -> tuple[Finding, ...]:
    seen = Shown(world.endpoint, tuple(world.deployments.values()), MODEL, world.schedule)
    assert seen.is_settled
    return findings(wanted.command, wanted.command.deployment, seen)
