"""Several targets of one request: how the policy says so, what begins when, and what a crash leaves."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from core import asks
from core.commands import Order, PromoteModel, Verb, decode
from core.errors import Reason, Refusal, Transient, UndecodableMessage
from core.events import WorkspaceId
from core.ledger import AuditRecord, Promotion, State
from core.orders import Orders
from core.outcomes import Refused
from core.plan import Planner
from core.policy import Policy, Rule
from core.policy_file import PolicyInvalid, parse
from core.ports import Target
from core.promotion import Promoter, stage_before_is_gone
from core.reconcile import TIMER
from tests.unit.builders import NOON, TEST, a_command, a_policy_with, a_stage
from tests.unit.test_runs import DELIVERIES, Died, World, a_world, registered
from tests.unit.test_runs import a_policy as a_run_policy

# --------------------------------------------------------------------------------------------------------------- policy

STAGE = """\
      - target: prod
        serve: realtime
        endpoint: "{model}"
        instance_count: 1
"""
TARGETS = "targets:\n" + "".join(
    f'  {name}: {{subscription_id: "1", resource_group: r, workspace: {name}}}\n' for name in ("eu", "us", "test")
)


def a_policy(*stages: str) -> bytes:
    """POLICY with three targets more and these stages, the first of them in line 22."""
    text = a_policy_with(STAGE, "".join(f"      - {stage}\n" for stage in stages)).decode()
    return text.replace("targets:\n", TARGETS).encode()


def rule_of(*stages: str) -> Rule:
    return parse(a_policy(*stages)).policy.rules[0]


FIRST, GROUP = "{target: test, serve: realtime}", "{target: [eu, us, prod], serve: realtime, instance_count: 2}"


@pytest.mark.parametrize(
    ("stages", "targets", "fan_out"),
    [
        ([FIRST], ["test"], 1),
        ([FIRST, "{target: eu, serve: realtime}"], ["test", "eu"], 1),
        (["{target: [eu], serve: realtime}", FIRST], ["eu", "test"], 1),
        ([GROUP], ["eu", "us", "prod"], 3),
        ([FIRST, GROUP], ["test", "eu", "us", "prod"], 3),
        (["{target: [eu, us], serve: realtime, endpoint: same}"], ["eu", "us"], 2),
    ],
)
def test_a_stage_with_several_targets_is_one_stage_in_each(stages: list[str], targets: list[str], fan_out: int) -> None:
    rule = rule_of(*stages)
    assert ([stage.target for stage in rule.stages], rule.fan_out, rule.alone) == (targets, fan_out, False)


def test_they_differ_in_nothing_but_their_target() -> None:
    eu, us, prod = rule_of(GROUP).stages
    assert eu == us.model_copy(update={"target": "eu"}) == prod.model_copy(update={"target": "eu"})
    assert eu.model_dump()["instance_count"] == 2


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([GROUP, FIRST], "line 22: rules.0.stages.0.target: only the last stage of a rule may name several targets"),
        ([FIRST, "{target: [], serve: realtime}"], "line 23: rules.0.stages.1.target: must name a target"),
        ([FIRST, "{target: [eu, eu], serve: realtime}"], "line 23: rules.0.stages.1.target: names 'eu' twice"),
        ([FIRST, "{target: [eu, moon], serve: realtime}"], "line 23: rules.0.stages.1.target: 'moon' is none of the"),
        ([FIRST, "{target: [eu, 1], serve: realtime}"], "line 23: rules.0.stages.1.target: is no text for YAML"),
        ([FIRST, "{target: [eu, us], serve: both}"], "line 23: rules.0.stages.1: is 'both', none of"),
        ([FIRST, "{target: [eu, us], serve: realtime, x: 1}"], "line 23: rules.0.stages.1.x: unknown field"),
        ([FIRST, "{target: [eu, us], serve: realtime, fan_out: 2}"], "line 23: rules.0.stages.1.fan_out: unknown"),
        (
            [FIRST, "{target: [eu, test], serve: realtime}"],
            "line 23: rules.0.stages.1.endpoint: stage 1 has the same endpoint in the same target",
        ),
    ],
)
def test_what_cannot_be_meant_is_told_by_line_and_field(stages: list[str], expected: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse(a_policy(*stages))
    (problem,) = map(str, caught.value.problems)
    assert problem.startswith(expected)


@pytest.mark.parametrize("field", ["fan_out: 2", "_fan_out: 2", "alone: true"])
def test_nobody_sets_how_many_begin_together(field: str) -> None:
    with pytest.raises(PolicyInvalid, match="unknown field"):
        parse(a_policy(FIRST) + f"    {field}\n".encode())


# -------------------------------------------------------------------------------------------------------------- command


def of_rule(rule: Rule, stage_number: int = 0) -> PromoteModel:
    targets = {stage.target: TEST for stage in rule.stages}
    begin = {"fan_out": rule.fan_out, "alone": rule.alone, "stage_number": stage_number}
    return a_command(stages=rule.stages, targets=targets, **begin)


def in_targets(*targets: str, **changes: Any) -> PromoteModel:
    return a_command(
        stages=tuple(a_stage(target=target) for target in targets), targets=dict.fromkeys(targets, TEST), **changes
    )


ONE, THREE, TOGETHER, FORKED = ("a",), ("a", "b", "c"), ("a", "b"), ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("targets", "fan_out", "alone", "number", "beginning", "later", "following", "before"),
    [
        (ONE, 1, False, 0, (0,), (), (), None),
        (THREE, 1, False, 0, (0,), (1, 2), (1,), None),
        (THREE, 1, False, 1, (0,), (2,), (2,), 0),
        (THREE, 1, False, 2, (0,), (), (), 1),
        (TOGETHER, 2, False, 0, (0, 1), (), (), None),
        (TOGETHER, 2, False, 1, (0, 1), (), (), None),
        (TOGETHER, 2, True, 1, (1,), (), (), None),
        (FORKED, 2, False, 0, (0,), (1, 2, 3), (1,), None),
        (FORKED, 2, False, 1, (0,), (2, 3), (2, 3), 0),
        (FORKED, 2, False, 2, (0,), (), (), 1),
        (FORKED, 2, False, 3, (0,), (), (), 1),
        (FORKED, 2, True, 0, (0,), (1, 3), (1,), None),
        (FORKED, 2, True, 1, (0,), (3,), (3,), 0),
        (FORKED, 2, True, 3, (0,), (), (), 1),
        (FORKED, 3, False, 0, (0,), (1, 2, 3), (1, 2, 3), None),
        (FORKED, 4, False, 2, (0, 1, 2, 3), (), (), None),
    ],
)
def test_what_begins_when(
    targets: tuple[str, ...],
    fan_out: int,
    alone: bool,
    number: int,
    beginning: tuple[int, ...],
    later: tuple[int, ...],
    following: tuple[int, ...],
    before: int | None,
) -> None:
    command = in_targets(*targets, fan_out=fan_out, alone=alone, stage_number=number)
    assert (command.beginning, command.later, command.following, command.before) == (
        beginning,
        later,
        following,
        before,
    )


def test_each_stage_has_its_own_promotion_and_session() -> None:
    eu, us = (of_rule(rule_of(FIRST, GROUP)).at_stage(number) for number in (1, 2))
    assert (eu.promotion_id[-2:], us.promotion_id[-2:]) == ("-2", "-3")
    assert eu.at_stage(2) == us
    assert eu.deployment == us.deployment


# ----------------------------------------------------------------------------------------------------------------- asks


@pytest.mark.parametrize(
    ("stages", "target", "beginning", "path"),
    [
        ([FIRST, GROUP], "test", (0,), ["test"]),
        ([FIRST, GROUP], "eu", (0,), ["test", "eu"]),
        ([FIRST, GROUP], "prod", (0,), ["test", "prod"]),
        ([GROUP], "eu", (0,), ["eu"]),
        ([GROUP], "us", (1,), ["us"]),
        ([GROUP], "prod", (2,), ["prod"]),
    ],
)
def test_a_tag_asks_for_one_target_alone(
    stages: list[str], target: str, beginning: tuple[int, ...], path: list[str]
) -> None:
    """Under the number that it has for everybody else, so that it is the same promotion."""
    policy: Policy = parse(a_policy(*stages)).policy
    (rule,) = asks.allowed(policy, asks.read(f"{target}|", policy)).rules
    command = of_rule(rule)
    assert command.beginning == beginning
    start = command.at_stage(beginning[0])
    assert [start.stages[number].target for number in (start.stage_number, *start.later)] == path
    assert asks.is_fulfilled(f"{target}|", rule)


# --------------------------------------------------------------------------------------------------------------- engine


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("state", "gone"),
    [(State.SUCCEEDED, None), (State.ROLLED_BACK, Reason.SUPERSEDED), (State.RUNNING, Transient)],
)
def test_each_needs_the_stage_before_the_fork_and_none_of_the_others(number: int, state: State, gone: object) -> None:
    world: Any = World()
    for command in map(of_rule(rule_of(FIRST, GROUP)).at_stage, range(4)):
        row = Promotion.requested(command, now=NOON)
        mine = state if command.stage_number == 0 else State.REFUSED
        world.rows[row.id] = row.model_copy(update={"state": mine})
    command = of_rule(rule_of(FIRST, GROUP), number)
    if gone is Transient:
        with pytest.raises(Transient, match="stage 1 of this path"):
            stage_before_is_gone(world, command)
        return
    found = stage_before_is_gone(world, command)
    assert (found.reason if isinstance(found, Refused) else None) is gone


def test_a_crash_between_the_stages_that_follow_loses_none() -> None:
    """The delivery that sends them has not written its end, and comes again."""
    command = of_rule(rule_of(FIRST, GROUP))
    for point in range(7):
        world: Any = World(dies_at=point)
        promoter = Promoter(
            ledger=world, queue=world, archive=world, target_for=lambda _: pytest.fail("none"), now=lambda: NOON
        )
        for _ in range(2):
            try:
                promoter._send_following_stages(command)
            except Died:
                continue
        assert {each.stage_number for each in world.sent} == {1, 2, 3}, point
        assert {each.promotion_id for each in world.sent} == set(world.rows), point


def test_a_path_that_is_asked_for_anew_begins_again_what_had_ended() -> None:
    """However often its first stage tells so; what goes on by itself is left alone."""
    world: Any = an_asked_world()
    fork = of_rule(rule_of(FIRST, GROUP))
    for number, state in ((1, State.REFUSED), (2, State.SUPERSEDED), (3, State.WAITING)):
        row = Promotion.requested(fork.at_stage(number), now=NOON)
        world.rows[row.id] = row.model_copy(update={"state": state})
    promoter = Promoter(
        ledger=world, queue=world, archive=world, target_for=lambda _: pytest.fail("none"), now=lambda: NOON
    )
    for _ in range(2):
        promoter._send_following_stages(fork.model_copy(update={"order": an_order("again"), "attempt": 2}))
    attempts = {
        row.command and PromoteModel.model_validate_json(row.command).stage_number: row for row in world.rows.values()
    }
    assert [(attempts[number].attempt, attempts[number].state) for number in (1, 2, 3)] == [
        (2, State.REQUESTED),
        (2, State.REQUESTED),
        (1, State.WAITING),
    ]
    assert {(each.stage_number, each.attempt) for each in world.sent} == {(1, 2), (2, 2)}


# --------------------------------------------------------------------------------------------------------------- intake

SEVERAL = """\
  - name: churn
    match: {trigger: [model_registered, run_completed, requested, tagged]}
    register_as: churn
    stages: [{target: [prod, us], serve: realtime}]
"""


@dataclass
class Asked(World):
    """With an audit, so that people can ask."""

    def __post_init__(self) -> None:
        self.records: dict[str, AuditRecord] = {}

    def audit(self, record: AuditRecord) -> None:
        self.effect()
        self.records.setdefault(f"{record.session_id}|{record.id}", record)

    def trail(self, session: str) -> list[AuditRecord]:
        return [record for record in self.records.values() if record.session_id == session]

    def save(self, row: Promotion) -> Promotion:
        self.effect()
        self.rows[row.id] = row
        return row

    def targets(self, *, attempt: int = 1) -> list[str]:
        return sorted(each.stage.target for each in self.sent if each.attempt == attempt)


def several() -> bytes:
    us = f'us: {{subscription_id: "{TEST.subscription_id}", resource_group: r, workspace: us}}'
    return a_run_policy(SEVERAL).replace(b"targets: {", f"targets: {{{us}, ".encode())


def an_asked_world() -> Asked:
    made = a_world()
    return Asked(runs_=made.runs_, files=made.files, models=made.models)


def an_order(order_id: str, verb: Verb = Verb.PROMOTE) -> Order:
    return Order(id=order_id, verb=verb, by="Ada", at=NOON + timedelta(days=2))


def events(world: Asked) -> None:
    for envelope in DELIVERIES["model, then run"]:
        world.intake(several()).receive(envelope)


def request(world: Asked) -> None:
    world.intake(several()).request("dev", "churn", "1", an_order("o"))


@pytest.mark.parametrize("ask", [events, request])
def test_a_crash_anywhere_still_opens_and_sends_each_of_them(ask: Callable[[Asked], None]) -> None:
    died = 0
    for point in range(20):
        world = an_asked_world()
        world.dies_at = point
        for _ in range(3):
            try:
                ask(world)
            except Died:
                died += 1
        assert {command.promotion_id for command in world.sent} == set(world.rows), point
        assert sorted({command.stage.target for command in world.sent}) == ["prod", "us"], point
        assert all(row.attempt == 1 for row in world.rows.values()), point
    assert died > 5


def test_a_tag_opens_the_one_that_it_names_and_the_event_the_others() -> None:
    world = an_asked_world()
    intake = world.intake(several())
    record = intake.tagged("dev", "churn", "1", "us|", an_order("t"))
    (sent,) = world.sent
    assert (sent.stage.target, sent.promotion_id, record.promotion_id) == ("us", record.promotion_id, sent.promotion_id)
    assert sent.promotion_id.endswith(f"-{sent.stage_number + 1}")
    world.rows = {key: row.model_copy(update={"state": State.SUCCEEDED}) for key, row in world.rows.items()}
    intake.receive(registered("churn", "1"))
    assert world.targets() == ["prod", "us"]


def test_who_asks_anew_asks_for_each_that_has_ended() -> None:
    """One that is under way is the answer; the same order again is one order."""
    world = an_asked_world()
    request(world)
    first, second = sorted(world.rows)
    world.rows[first] = world.rows[first].model_copy(update={"state": State.REFUSED})
    world.rows[second] = world.rows[second].model_copy(update={"state": State.WAITING})
    for _ in range(2):
        world.intake(several()).request("dev", "churn", "1", an_order("again"))
    assert (world.rows[first].attempt, world.rows[second].attempt) == (2, 1)
    assert set(world.targets(attempt=2)) == {world.rows[first].target}


def test_a_plan_tells_what_begins_at_the_same_time() -> None:
    world: Any = an_asked_world()
    world.kept, world.hold = None, lambda _: None

    def nowhere(_: WorkspaceId) -> Target:
        raise Refusal(Reason.MODEL_NOT_FOUND, "nothing to look at", remedy="none")

    planner = Planner(ledger=world, target_for=nowhere, now=lambda: NOON)
    decided = world.intake(several()).planned("dev", "churn", "1", None, "Ada")
    found = planner.asked(decided)
    assert (found.target, found.beside) == ("prod", ("realtime endpoint churn of us",))
    assert "At the same time: realtime endpoint churn of us" in found.text()
    assert world.rows == {}


def test_elsewhere_it_is_a_path_of_its_own() -> None:
    """A redeploy to another target takes nothing of the others along."""
    world: Any = an_asked_world()
    events(world)
    last = world.sent[-1]
    world.rows[last.promotion_id] = world.rows[last.promotion_id].model_copy(update={"state": State.SUCCEEDED})
    orders = Orders(policy=parse(several()).policy, ledger=world, queue=world, now=lambda: NOON + timedelta(days=3))
    there = orders.redeploy(last.promotion_id, TIMER, order_id="r", target="prod")
    sent = decode(world.sent[-1].encode())
    assert isinstance(sent, PromoteModel)
    assert (there.id, there.target, len(sent.stages), sent.fan_out) == (sent.promotion_id, "prod", 1, 1)
    assert (sent.following, sent.before) == ((), None)


def test_a_retry_is_of_one_of_them_alone() -> None:
    world: Any = an_asked_world()
    events(world)
    first, second = (command.promotion_id for command in world.sent[:2])
    world.rows[second] = world.rows[second].model_copy(update={"state": State.REFUSED})
    sent_before = len(world.sent)
    orders = Orders(policy=parse(several()).policy, ledger=world, queue=world, now=lambda: NOON + timedelta(days=3))
    orders.retry(second, TIMER, order_id="r")
    assert [(each.promotion_id, each.attempt) for each in world.sent[sent_before:]] == [(second, 2)]
    assert world.rows[first].attempt == 1


def test_more_together_than_there_are_stages_is_no_command() -> None:
    with pytest.raises(UndecodableMessage, match="it has not 2 stages to begin together"):
        decode(a_command(fan_out=2).encode())
