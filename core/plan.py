"""What a promotion would do now, step by step, and what it would change. Nothing is written.

The same `decide` as in a delivery names the steps. Looks are real; effects, and the ends of what is waited for, are
replaced by what they would leave behind (`simulated`), which takes them to go well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core import batch, tags
from core.commands import Phase, PromoteModel
from core.effects import look
from core.endpoints import decide
from core.errors import Blocked, Reason, Refusal
from core.events import WorkspaceId
from core.intake import Decided
from core.ledger import Approval, Decision, Promotion
from core.orders import RETRIED, command_of, renewed
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.packaging import Manifest, Recipe
from core.ports import Endpoint, Ledger, Metrics, Schedule, Target, TargetAsset, TestSummary
from core.preflight import told
from core.promotion import stage_before_is_gone
from core.quality import Quality
from core.rollout import of
from core.said import said_about
from core.simulated import settled, simulate
from core.stages import RealtimeStage, asks_people, seconds
from core.steps import UNSEEN, Do, Effect, Look, Performed, Seen, Unseen, Wanted

LONGEST = 200
WAIT = "wait"
_GATES = (Reason.APPROVAL_WANTED, Reason.ON_HOLD, Reason.FROZEN)

What = Literal["done", "nothing_to_do", "waiting", "parked", "refused", "superseded"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlannedStep(_Value):
    """`step` is that of a promotion's history, or `wait` with what is waited for."""

    step: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.step}: {self.detail}" if self.detail else self.step


class Difference(_Value):
    """Something that would change: what the target shows, and what it would show."""

    what: str
    shown: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.what}: {self.shown} -> {self.wanted}"


class Ending(_Value):
    """What it comes to, and why."""

    outcome: What
    why: str = ""
    reason: Reason | None = None
    remedy: str | None = None


class Plan(Ending):
    """`outcome` is what it comes to; where that is an approval or a hold, `steps` go on behind it, and `then` is their end.

    `about` says which promotion this is a plan of. A claim alone says who was last, and changes nothing else of the target:
    it is nothing to do.
    """

    changes: bool = Field(description="Whether anything would be done to the target.")
    about: str
    promotion_id: str
    model: str
    version: str
    target: str
    serve: str
    endpoint: str
    steps: tuple[PlannedStep, ...] = ()
    differences: tuple[Difference, ...] = ()
    then: Ending | None = None
    later: tuple[str, ...] = Field((), description="The stages that follow once this one has succeeded.")
    beside: tuple[str, ...] = Field((), description="The other stages that begin at the same time.")

    def text(self) -> str:
        """For people, a line each."""
        place = f"{self.serve} endpoint {self.endpoint} of {self.target}"
        lines = [f"{self.model}:{self.version} on {place}: {_told(self)}", f"  This is {self.about}."]
        lines += [f"  What to do: {self.remedy}"] if self.remedy else []
        lines += ["Steps:"] if self.steps else []
        lines += [f"  {number}. {step}" for number, step in enumerate(self.steps, 1)]
        lines += [f"Then: {_told(self.then)}"] if self.then else []
        lines += ["Differences, from what is shown to what would be:"] if self.differences else []
        lines += [f"  {each}" for each in self.differences]
        lines += [f"At the same time: {each}" for each in self.beside]
        return "\n".join([*lines, *(f"Later: {each}" for each in self.later)])


def _place(command: PromoteModel) -> str:
    return f"{command.stage.serve} endpoint {command.endpoint} of {command.stage.target}"


def _told(ending: Ending) -> str:
    return ending.outcome.replace("_", " ") + (f" ({ending.why})" if ending.why else "")


def plan(target: Target, wanted: Wanted, *, about: str) -> Plan:
    """What would be done for this command in this target. Raises as the looks of `Target` do."""
    command = wanted.command
    walk = _Walk(target, wanted)
    outcomes = walk.to_the_end()
    first, last = _ending(outcomes[0], walk), _ending(outcomes[-1], walk)
    following = command.later if isinstance(outcomes[-1], Done) else ()
    return _of(
        command,
        about,
        first,
        changes=walk.changes,
        steps=tuple(walk.steps) if walk.changes else (),
        differences=tuple(_differences(wanted, walk.before, walk.seen)) if walk.changes else (),
        then=last if len(outcomes) > 1 else None,
        later=tuple(_place(command.at_stage(number)) for number in following),
    )


def _of(command: PromoteModel, about: str, ending: Ending, *, changes: bool = False, **more: Any) -> Plan:
    stage = command.stage
    return Plan(
        **ending.model_dump(),
        changes=changes,
        about=about,
        promotion_id=command.promotion_id,
        model=command.model,
        version=command.version,
        target=stage.target,
        serve=stage.serve,
        endpoint=command.endpoint,
        **more,
    )


@dataclass
class _Walk:
    """From what the target shows to the end. `before` is all that was looked at, `seen` what would be there."""

    target: Target
    wanted: Wanted
    steps: list[PlannedStep] = field(default_factory=list)
    changes: bool = False
    before: Seen = field(default_factory=Seen)
    seen: Seen = field(default_factory=Seen)

    def to_the_end(self) -> list[Outcome]:
        """The gates that are shut, each taken to be opened, and the outcome behind them."""
        met: list[Outcome] = []
        for _ in range(LONGEST):
            step = decide(self.wanted, self.seen)
            match step:
                case Look():
                    self._look(step)
                case Do():
                    self._do(step)
                case Waiting() if (later := settled(self.wanted, self.seen)) != self.seen:
                    self.steps.append(PlannedStep(step=WAIT, detail=step.why))
                    self.seen = later
                case Waiting(phase=Phase.BAKE):
                    self.steps.append(PlannedStep(step=WAIT, detail=step.why))
                    self._let_bake()
                case Parked(reason=reason) if reason in _GATES:
                    self.steps.append(PlannedStep(step=WAIT, detail=step.why))
                    self.wanted = _opened(self.wanted, reason)
                    met.append(step)
                case _:
                    return [*met, step]
        raise RuntimeError(f"the plan of {self.wanted.command.promotion_id} does not end")

    def _let_bake(self) -> None:
        """The bake time passes, and its analysis finds nothing."""
        rollout = of(self.wanted.command)
        longest = max(seconds(rollout.bake), seconds(rollout.soak))
        self.wanted = replace(self.wanted, now=self.wanted.now + timedelta(seconds=longest))
        enough = rollout.analysis.minimum_requests if rollout.analysis else 0
        self.seen = replace(self.seen, metrics=Metrics(requests=enough, failed=0, latency=0.0))

    def _look(self, at: Look) -> None:
        if self.changes and at is Look.METRICS:
            self.seen = replace(self.seen, metrics=Metrics(requests=0, failed=0))
            return
        if self.changes and at is Look.SUMMARY:  # its test job would count what that of the live version did
            before = TestSummary.parse(_tags(self.seen).get(tags.TESTED, ""))
            self.seen = replace(self.seen, summary=before or TestSummary(files=0, failed_files=0, rows=0, data=""))
            return
        self.seen = look(self.target, self.wanted, self.seen, at)
        first = {each.name: getattr(self.seen, each.name) for each in fields(Seen)}
        self.before = replace(
            self.before, **{name: value for name, value in first.items() if getattr(self.before, name) is UNSEEN}
        )

    def _do(self, do: Do) -> None:
        done = told(Performed(simulate(self.wanted, self.seen, do), _detail(self.wanted, do)))
        self.steps.append(PlannedStep(step=do.effect.value, detail=done.detail))
        self.changes |= do.effect is not Effect.CLAIM_ENDPOINT
        self.seen = done.seen


def _opened(wanted: Wanted, reason: Reason) -> Wanted:
    """As if somebody had approved it, or had released the hold, or the freeze were over."""
    if reason is Reason.ON_HOLD:
        return replace(wanted, hold=None)
    if reason is Reason.FROZEN:
        return replace(wanted, said=replace(wanted.said, frozen_until=None))
    command = wanted.command
    approval = Approval(
        promotion_id=command.promotion_id,
        attempt=command.attempt,
        decision=Decision.APPROVED,
        by="",
        at=command.requested_at,
        manifest_digest=command.manifest_digest,
        recipe_digest=command.recipe_digest,
    )
    return replace(wanted, approvals=(*wanted.approvals, approval))


def _ending(outcome: Outcome, walk: _Walk) -> Ending:
    match outcome:
        case Done():
            return Ending(outcome="done") if walk.changes else Ending(outcome="nothing_to_do", why="it is as wanted")
        case Waiting():
            return Ending(outcome="waiting", why=outcome.why)
        case Parked():
            return Ending(outcome="parked", why=outcome.why, reason=outcome.reason, remedy=outcome.remedy)
        case Refused():
            return _refused(outcome)


def _refused(found: Refused | Refusal) -> Ending:
    why = found.why if isinstance(found, Refused) else str(found)
    outcome: What = "superseded" if found.reason is Reason.SUPERSEDED else "refused"
    return Ending(outcome=outcome, why=why, reason=found.reason, remedy=found.remedy)


# ----------------------------------------------------------------------------------------------- details, differences


def _detail(wanted: Wanted, do: Do) -> str:
    """What an operator wants to know before it is done."""
    command, serving, stage = wanted.command, wanted.serving, wanted.command.stage
    match do.effect:
        case Effect.COPY:
            return f"{len(wanted.manifest.files)} files, {wanted.manifest.size} bytes"
        case Effect.REGISTER_MODEL:
            return f"{command.target_model_name}:{command.version}"
        case Effect.CREATE_CODE:
            return serving.code.scoring_script if serving.code else ""
        case Effect.CREATE_ENVIRONMENT:
            return serving.environment.image if serving.environment else ""
        case Effect.CREATE_COMPONENT:
            return f"{command.component}:{command.deployment}"
        case Effect.CREATE_ENDPOINT | Effect.CLAIM_ENDPOINT:
            return command.endpoint
        case Effect.CREATE_DEPLOYMENT:
            on = stage.instance_type if isinstance(stage, RealtimeStage) else stage.compute
            return f"{do.name}, {stage.instance_count} x {on}"
        case Effect.SMOKE:
            return f"{do.name}, with {wanted.recipe.sample_source or 'the sample'}"
        case Effect.START_TEST_JOB:
            return f"{do.name}, on {batch.data_to_test_with(wanted)}"
        case Effect.SHIFT_TRAFFIC:
            return f"{do.share} % to {do.name}"
        case _:
            return do.name


def _differences(wanted: Wanted, before: Seen, after: Seen) -> list[Difference]:
    """What is shown and what would be, where that differs; of what was never looked at, nothing is shown."""
    command, code, environment = wanted.command, wanted.serving.code, wanted.serving.environment
    names: dict[str, Callable[[Seen], str]] = {
        "model": lambda seen: _there(seen.model, f"{command.target_model_name}:{command.version}"),
        "scoring code": lambda seen: _there(seen.code, f"{code.scoring_script} ({code.digest[:8]})" if code else ""),
        "environment": lambda seen: _there(seen.environment, environment.image if environment else ""),
        "component": lambda seen: _there(seen.component, f"{command.component}:{command.deployment}"),
        "endpoint": lambda seen: seen.endpoint.name if isinstance(seen.endpoint, Endpoint) else "none",
        "promotion of the endpoint": lambda seen: _tags(seen).get(tags.PROMOTION, "none"),
        "deployments": _deployments,
        "traffic": _traffic,
        "schedule": _schedule,
    }
    pairs = ((what, told(before), told(after)) for what, told in names.items())
    return [Difference(what=what, shown=shown, wanted=then) for what, shown, then in pairs if shown != then]


def _there(asset: TargetAsset | Unseen | None, name: str) -> str:
    return name if isinstance(asset, TargetAsset) else "none"


def _tags(seen: Seen) -> Mapping[str, str]:
    return seen.endpoint.tags if isinstance(seen.endpoint, Endpoint) else {}


def _deployments(seen: Seen) -> str:
    found = () if isinstance(seen.deployments, Unseen) else seen.deployments
    return ", ".join(sorted(each.name for each in found)) or "none"


def _traffic(seen: Seen) -> str:
    shares = seen.endpoint.traffic if isinstance(seen.endpoint, Endpoint) else {}
    return ", ".join(f"{share} % to {name}" for name, share in sorted(shares.items()) if share) or "none"


def _schedule(seen: Seen) -> str:
    if not isinstance(seen.schedule, Schedule):
        return "none"
    runs = seen.schedule.tags.get(tags.COMPONENT, "something of others")
    return f"{'enabled' if seen.schedule.enabled else 'paused'}, runs {runs}"


# ------------------------------------------------------------------------------------------------------------- planner


class Planner:
    """Plans of promotions that are there, and of those that somebody could ask for. Writes nothing."""

    def __init__(
        self, *, ledger: Ledger, target_for: Callable[[WorkspaceId], Target], now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._target_for = target_for
        self._now = now

    def of(self, row: Promotion) -> Plan:
        """What a promotion would do next: its next delivery, or, if it has ended, a retry."""
        due = command_of(row)
        if not row.state.is_final:
            return self._planned(due, f"promotion {row.id}, which is {row.state}")
        if row.state not in RETRIED:
            return self._planned(
                due, f"promotion {row.id}, which is {row.state}, held against what the target shows now"
            )
        again = renewed(due).model_copy(update={"attempt": row.attempt + 1, "goal": due.goal})
        return self._planned(again, f"a retry of promotion {row.id}, which is {row.state}")

    def asked(self, decided: Decided) -> Plan:
        """What would follow if somebody asked for a promotion now, as intake has decided about it."""
        command = decided.command
        others = (number for number in command.beginning if number != command.stage_number)
        beside = tuple(_place(command.at_stage(number)) for number in others)
        return self._first_of(decided).model_copy(update={"beside": beside})

    def _first_of(self, decided: Decided) -> Plan:
        command = decided.command
        row = self._ledger.promotion(command.promotion_id)
        if row is not None and not row.state.is_final:
            return self.of(row)
        about = "a promotion that somebody asks for now"
        if row is not None:
            command = command.model_copy(update={"attempt": row.attempt + 1})
            about = f"a new attempt of promotion {row.id}, which is {row.state}, that somebody asks for now"
        return self._planned(command, about, decided.packaged.manifest, decided.packaged.recipe, decided.quality)

    def _planned(
        self,
        command: PromoteModel,
        about: str,
        manifest: Manifest | None = None,
        recipe: Recipe | None = None,
        quality: Quality | None = None,
    ) -> Plan:
        """Documents that nobody has kept yet are given."""
        kept = self._ledger.kept
        wanted = Wanted(
            command,
            manifest or Manifest.model_validate_json(kept("manifest", command.manifest_digest)),
            recipe or Recipe.model_validate_json(kept("recipe", command.recipe_digest)),
            hold=self._ledger.hold(command.session_id),
            approvals=self._ledger.approvals(command.promotion_id) if asks_people(command.stage) else (),
            now=datetime.now(UTC),
            said=said_about(self._ledger, command, self._now(), quality),
        )
        try:
            if gone := stage_before_is_gone(self._ledger, command):
                return _of(command, about, _refused(gone))
            return plan(self._target_for(command.target), wanted, about=about)
        except Refusal as refusal:
            return _of(command, about, _refused(refusal))
        except Blocked as blocked:
            why = Ending(outcome="parked", why=str(blocked), reason=blocked.reason, remedy=blocked.remedy)
            return _of(command, about, why)
