"""What the guides for operators promise: about lost ledgers and adopted endpoints, in a pure model of the target; and about
messages of other versions of the service.
"""

import json
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from core.commands import Order, PromoteModel, Verb, decode
from core.errors import Reason, UndecodableMessage
from core.ledger import Promotion
from core.orders import OrderProblem, OrderRefused, command_of
from core.outcomes import Done, Parked, Refused
from core.ports import Deployment, Provisioning
from core.steps import Do, Effect, Seen, Wanted
from tests.unit.builders import NOON, a_command, a_stage, a_wanted, an_endpoint
from tests.unit.world import World, end

BLUE = Deployment(name="blue", tags={"made": "by hand"}, provisioning=Provisioning.SUCCEEDED)
LATER = NOON + timedelta(days=1)
ORDER = Order(id="1", verb=Verb.PROMOTE, by="Operator", at=LATER)


@dataclass
class Watched(World):
    """A world that remembers what was done to it."""

    done: list[Effect] = field(default_factory=list)

    def perform(self, wanted: Wanted, seen: Seen, do: Do) -> Seen:
        self.done.append(do.effect)
        return super().perform(wanted, seen, do)


def live() -> Watched:
    """churn:3 is live, and the ledger that brought it there is gone."""
    world = Watched()
    assert isinstance(end(world, a_wanted()), Done)
    world.settle()
    world.done.clear()
    return world


def by_hand() -> Watched:
    """An endpoint that a script of a team made."""
    return Watched(
        endpoint=an_endpoint(tags={"team": "churn"}, traffic={"blue": 100}), deployments={"blue": BLUE.model_copy()}
    )


def test_promoted_again_with_an_empty_ledger_what_is_live_is_claimed_and_nothing_else() -> None:
    world = live()
    assert isinstance(end(world, a_wanted(a_command(order=ORDER, generation_time=LATER))), Done)
    assert world.done == [Effect.CLAIM_ENDPOINT]


def test_its_event_again_with_an_empty_ledger_changes_nothing() -> None:
    world = live()
    assert isinstance(end(world, a_wanted()), Done)
    assert world.done == []


def test_promoted_again_with_another_policy_it_gets_a_new_deployment() -> None:
    world = live()
    other = a_command(order=ORDER, generation_time=LATER, stages=(a_stage(instance_count=2),))
    assert isinstance(end(world, a_wanted(other)), Done)
    assert Effect.CREATE_DEPLOYMENT in world.done


def test_its_event_again_changes_nothing_either_where_an_order_has_claimed_the_endpoint() -> None:
    world = live()
    end(world, a_wanted(a_command(order=ORDER, generation_time=LATER)))
    world.settle()
    world.done.clear()
    assert isinstance(end(world, a_wanted()), Done)
    assert world.done == []


def test_an_endpoint_made_by_hand_parks_and_is_not_touched() -> None:
    world = by_hand()
    outcome = end(world, a_wanted())
    assert isinstance(outcome, Parked)
    assert outcome.reason is Reason.ENDPOINT_NOT_OURS
    assert world.done == []


def test_an_adopted_endpoint_keeps_the_deployment_made_by_hand_without_traffic() -> None:
    world = by_hand()
    command = a_command(stages=(a_stage(adopt=True),))
    assert isinstance(end(world, a_wanted(command)), Done)
    assert world.endpoint is not None
    assert world.endpoint.traffic == {command.deployment: 100}
    assert world.endpoint.tags["team"] == "churn"
    assert world.deployments["blue"] == BLUE


def test_a_canary_on_an_adopted_endpoint_shares_with_the_deployment_made_by_hand() -> None:
    world = by_hand()
    command = a_command(stages=(a_stage(adopt=True, rollout={"steps": [10], "bake": "3m"}),))
    shares = set()

    @dataclass
    class Shared(Watched):
        def settle(self) -> None:
            super().settle()
            if self.endpoint is not None:
                shares.add(tuple(sorted(self.endpoint.traffic.items())))

    world = Shared(**vars(world))
    assert isinstance(end(world, a_wanted(command)), Done)
    assert (("blue", 90), (command.deployment, 10)) in shares


def test_an_adopted_endpoint_is_not_retired_while_it_has_a_deployment_made_by_hand() -> None:
    world = by_hand()
    stages = (a_stage(adopt=True),)
    assert isinstance(end(world, a_wanted(a_command(stages=stages))), Done)
    world.settle()
    retire = a_command(stages=stages, goal="retired", generation_time=LATER, attempt=2)
    outcome = end(world, a_wanted(retire))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.ENDPOINT_NOT_OURS
    assert world.endpoint is not None


# ------------------------------------------------------------------------------------------------------------- upgrading


def test_a_message_of_before_is_read_whatever_fields_have_come_since() -> None:
    """Each field that a message had from its beginning is required; every other one has its default."""
    whole = json.loads(a_command().encode())
    before = {name: value for name, value in whole.items() if PromoteModel.model_fields[name].is_required()}
    assert len(before) < len(whole)
    assert decode(json.dumps(before).encode()) == a_command()


def test_a_message_of_a_newer_service_is_kept_whole_for_it() -> None:
    newer = json.dumps(json.loads(a_command().encode()) | {"colour": "blue"})
    with pytest.raises(UndecodableMessage, match="colour"):
        decode(newer.encode())


def test_an_order_about_a_promotion_of_a_newer_service_is_refused() -> None:
    """And so the timer passes it by: it wakes by orders."""
    newer = json.dumps(json.loads(a_command().encode()) | {"colour": "blue"})
    row = Promotion.requested(a_command(), now=NOON).model_copy(update={"command": newer})
    with pytest.raises(OrderRefused, match="another version") as caught:
        command_of(row)
    assert caught.value.problem is OrderProblem.CONFLICT


def test_a_row_of_a_newer_service_is_read_without_what_is_not_known() -> None:
    row = Promotion.requested(a_command(), now=NOON)
    assert Promotion.model_validate(row.model_dump() | {"colour": "blue"}) == row
