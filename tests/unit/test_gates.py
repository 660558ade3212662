"""What must be said before an endpoint is claimed, and that nothing is done before it is."""

from datetime import timedelta
from typing import Any

import pytest

from core import tags
from core.commands import Order, Phase, PromoteModel, Verb
from core.errors import Reason
from core.ledger import Approval, Decision, Hold
from core.outcomes import Done, Parked, Refused
from core.steps import Wanted
from tests.unit.builders import (
    NOON,
    a_command,
    a_deployment,
    a_live_endpoint,
    a_manifest,
    a_recipe,
    a_stage,
    an_endpoint,
)
from tests.unit.world import World, end

APPROVED, REJECTED = Decision.APPROVED, Decision.REJECTED
WAITS = a_command(stages=(a_stage(approval={}),))
HOLD = Hold(
    session_id=WAITS.session_id,
    target="prod",
    serve="realtime",
    endpoint="churn",
    order=Order(id="1", verb=Verb.HOLD, by="Operator", at=NOON, reason="it predicts nonsense"),
)


def an_order(**changes: Any) -> Order:
    return Order.model_validate({"id": "7", "verb": Verb.REDEPLOY, "by": "Operator", "at": NOON} | changes)


def a_decision(decision: Decision, command: PromoteModel = WAITS, **changes: Any) -> Approval:
    values = {
        "promotion_id": command.promotion_id,
        "attempt": command.attempt,
        "decision": decision,
        "by": "Approver",
        "at": NOON,
        "manifest_digest": command.manifest_digest,
        "recipe_digest": command.recipe_digest,
    }
    return Approval.model_validate(values | changes)


def wanted(command: PromoteModel, *approvals: Approval, hold: Hold | None = None) -> Wanted:
    return Wanted(command, a_manifest(), a_recipe(), hold=hold, approvals=approvals)


SECOND = WAITS.model_copy(update={"attempt": 2})


@pytest.mark.parametrize(
    ("command", "approvals", "expected"),
    [
        (WAITS, [], Reason.APPROVAL_WANTED),
        (WAITS, [a_decision(APPROVED)], None),
        (WAITS, [a_decision(REJECTED)], Reason.REJECTED),
        (WAITS, [a_decision(APPROVED, manifest_digest="other")], Reason.APPROVAL_WANTED),
        (WAITS, [a_decision(APPROVED, recipe_digest="other")], Reason.APPROVAL_WANTED),
        (WAITS, [a_decision(REJECTED, recipe_digest="other")], Reason.APPROVAL_WANTED),
        (WAITS, [a_decision(APPROVED, attempt=2)], Reason.APPROVAL_WANTED),
        (SECOND, [a_decision(APPROVED)], None),
        (SECOND, [a_decision(REJECTED)], Reason.APPROVAL_WANTED),
        (SECOND, [a_decision(REJECTED), a_decision(APPROVED, SECOND)], None),
        (SECOND, [a_decision(APPROVED), a_decision(REJECTED, SECOND)], Reason.REJECTED),
        (a_command(), [], None),
    ],
    ids=[
        "nobody has decided",
        "approved",
        "rejected",
        "other files were approved",
        "another recipe was approved",
        "another recipe was rejected",
        "approved for an attempt that is not this one's past",
        "the same content was approved at an earlier attempt",
        "a retry after a rejection asks again",
        "rejected, then approved",
        "approved, then rejected",
        "the stage asks nobody",
    ],
)
def test_an_approval_is_of_this_content(
    command: PromoteModel, approvals: list[Approval], expected: Reason | None
) -> None:
    world = World()
    outcome = end(world, wanted(command, *approvals))
    if expected is None:
        assert isinstance(outcome, Done)
        return
    assert isinstance(outcome, Parked | Refused)
    assert outcome.reason is expected
    assert outcome.remedy
    assert world == World(), "something was done before it was approved"


def test_waiting_for_an_approval_has_a_deadline_of_its_own() -> None:
    outcome = end(World(), wanted(WAITS))
    assert isinstance(outcome, Parked)
    assert outcome.phase is Phase.APPROVAL


@pytest.mark.parametrize("order", [None, an_order(), an_order(verb=Verb.RETRY)])
def test_a_hold_keeps_a_promotion_away(order: Order | None) -> None:
    world = World()
    outcome = end(world, wanted(a_command(order=order), hold=HOLD))
    assert isinstance(outcome, Parked)
    assert (outcome.reason, "it predicts nonsense" in outcome.why) == (Reason.ON_HOLD, True)
    assert "/api/endpoints/prod/realtime/churn/release" in outcome.remedy
    assert world == World()


def test_who_overrides_a_hold_goes_on() -> None:
    order = an_order(overrides_hold=True)
    assert isinstance(end(World(), wanted(a_command(order=order), hold=HOLD)), Done)


def test_a_hold_that_came_after_an_order_is_not_overridden_by_it() -> None:
    """A roll-back that is under way must not bring back what was retired meanwhile."""
    order = an_order(verb=Verb.ROLL_BACK, overrides_hold=True)
    later = HOLD.model_copy(update={"order": HOLD.order.model_copy(update={"at": order.at + timedelta(seconds=1)})})
    outcome = end(World(), wanted(a_command(order=order), hold=later))
    assert isinstance(outcome, Parked)
    assert outcome.reason is Reason.ON_HOLD


def test_a_hold_does_not_stop_what_has_claimed_the_endpoint() -> None:
    """Half a promotion helps nobody: it goes on, and a roll-back helps."""
    world = World(endpoint=an_endpoint())
    assert isinstance(end(world, wanted(a_command(), hold=HOLD)), Done)


def test_what_a_newer_promotion_has_is_superseded_and_not_on_hold() -> None:
    newer = a_command(version="4", model_created_at=NOON + timedelta(days=1))
    world = World(endpoint=a_live_endpoint(newer), deployments={newer.deployment: a_deployment(newer)})
    outcome = end(world, wanted(a_command(), hold=HOLD))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.SUPERSEDED


def test_an_older_version_is_brought_back_by_an_order() -> None:
    """Its order was accepted after the newer version was created: so it wins."""
    newer = a_command(version="4", model_created_at=NOON + timedelta(days=1))
    back = a_command(
        attempt=2,
        generation_time=NOON + timedelta(days=2),
        order=an_order(verb=Verb.ROLL_BACK, overrides_hold=True, replaces=newer.promotion_id),
    )
    world = World(
        endpoint=a_live_endpoint(newer),
        deployments={each.deployment: a_deployment(each) for each in (a_command(), newer)},
    )
    assert isinstance(end(world, wanted(back, hold=HOLD)), Done)
    assert world.endpoint is not None
    assert (world.endpoint.traffic, set(world.deployments)) == ({back.deployment: 100}, {back.deployment})
    assert tags.generation(world.endpoint.tags) == back.generation


def test_a_fresh_deployment_has_a_name_of_its_own_and_replaces_the_one_that_was_there() -> None:
    first = a_command()
    world = World(endpoint=a_live_endpoint(first), deployments={first.deployment: a_deployment(first)})
    fresh = a_command(attempt=2, fresh=2, generation_time=NOON + timedelta(days=1), order=an_order())
    assert fresh.deployment != first.deployment
    assert isinstance(end(world, wanted(fresh)), Done)
    assert set(world.deployments) == {fresh.deployment}
