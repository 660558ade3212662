"""What a promotion would do now, step by step, and what it would change. Nothing is written.

The same `decide` as in a delivery names the steps; looks are real, and effects are replaced by what they would leave behind.
Verification is taken to succeed: whether a model answers, only asking it tells.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from core import batch, tags
from core.commands import PromoteModel
from core.effects import look
from core.endpoints import decide
from core.errors import Blocked, Reason, Refusal
from core.events import WorkspaceId
from core.ledger import Approval, Decision
from core.outcomes import Done, Outcome, Parked, Refused, Waiting
from core.packaging import Manifest, Recipe
from core.ports import (
    CopyState,
    CopyStatus,
    Deployment,
    Endpoint,
    Job,
    JobStatus,
    Ledger,
    Provisioning,
    Schedule,
    ScoringAnswer,
    Target,
    TargetAsset,
)
from core.steps import Do, Effect, Look, Seen, Unseen, Wanted, known

LONGEST = 200
NEW = "(new)"
_ASKED = (Reason.APPROVAL_WANTED, Reason.ON_HOLD)
_WELL = Provisioning.SUCCEEDED


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlannedStep(_Value):
    step: str
    detail: str = ""


class Difference(_Value):
    """Something that would change: what the target shows, and what it would show."""

    what: str
    shown: str
    wanted: str


class Plan(_Value):
    """`outcome` is what it would come to; of `parked` by a gate, `steps` are those that follow once it is open."""

    outcome: Literal["done", "nothing_to_do", "waiting", "parked", "refused", "superseded"]
    changes: bool
    model: str
    version: str
    target: str
    endpoint: str
    why: str = ""
    remedy: str | None = None
    reason: Reason | None = None
    steps: tuple[PlannedStep, ...] = ()
    differences: tuple[Difference, ...] = ()
    later: tuple[str, ...] = ()

    def text(self) -> str:
        """For people, a line each."""
        place = f"{self.model}:{self.version} on endpoint {self.endpoint} of {self.target}"
        lines = [f"{place}: {self.outcome.replace('_', ' ')}" + (f" ({self.why})" if self.why else "")]
        lines += [f"  {self.remedy}"] if self.remedy else []
        lines += [f"  {number}. {each.step} {each.detail}".rstrip() for number, each in enumerate(self.steps, 1)]
        lines += [f"  {each.what}: {each.shown} -> {each.wanted}" for each in self.differences]
        return "\n".join([*lines, *(f"  then {each}" for each in self.later)])


def plan(target: Target, wanted: Wanted) -> Plan:
    """What would be done for this command in this target. Raises as the looks of `Target` do."""
    first = _walk(target, wanted)
    if isinstance(first.outcome, Parked) and first.outcome.reason in _ASKED:
        opened = replace(wanted, hold=None, approvals=(*wanted.approvals, _approved(wanted)))
        return _told(wanted, _walk(target, opened), parked=first.outcome)
    return _told(wanted, first, parked=None)


class _Walk:
    """The steps of one walk, what was seen first, and what would be seen at its end."""

    @property
    def changes(self) -> bool:
        """A claim alone says who was last; nothing else of the target is changed by it."""
        return any(each.step != Effect.CLAIM_ENDPOINT.value for each in self.steps)

    def __init__(self) -> None:
        self.steps: list[PlannedStep] = []
        self.before = Seen()
        self.after = Seen()
        self.outcome: Outcome | None = None


def _walk(target: Target, wanted: Wanted) -> _Walk:
    walk = _Walk()
    seen = Seen()
    for _ in range(LONGEST):
        step = decide(wanted, seen)
        if isinstance(step, Look):
            seen = look(target, wanted, seen, step)
            if not walk.steps:
                walk.before = seen
        elif isinstance(step, Do):
            walk.steps.append(PlannedStep(step=step.effect.value, detail=step.name))
            seen = simulate(wanted, seen, step)
        else:
            walk.outcome, walk.after = step, seen
            return walk
    raise RuntimeError(f"the plan of {wanted.command.promotion_id} does not end")


def _approved(wanted: Wanted) -> Approval:
    command = wanted.command
    return Approval(
        promotion_id=command.promotion_id,
        attempt=command.attempt,
        decision=Decision.APPROVED,
        by="",
        at=datetime.now(UTC),
        manifest_digest=command.manifest_digest,
        recipe_digest=command.recipe_digest,
    )


def _told(wanted: Wanted, walk: _Walk, *, parked: Parked | None) -> Plan:
    command = wanted.command
    outcome, why, remedy, reason = _outcome(walk, parked)
    following = command.stages[command.stage_number + 1 :]
    return Plan(
        outcome=outcome,
        changes=walk.changes,
        model=command.model,
        version=command.version,
        target=command.stage.target,
        endpoint=command.endpoint,
        why=why,
        remedy=remedy,
        reason=reason,
        steps=tuple(walk.steps) if walk.changes else (),
        differences=tuple(_differences(wanted, walk)),
        later=tuple(f"{stage.serve} in {stage.target}, once this has succeeded" for stage in following),
    )


def _outcome(
    walk: _Walk, parked: Parked | None
) -> tuple[
    Literal["done", "nothing_to_do", "waiting", "parked", "refused", "superseded"], str, str | None, Reason | None
]:
    found = parked or walk.outcome
    match found:
        case Done():
            return ("done", "", None, None) if walk.changes else ("nothing_to_do", "it is as wanted", None, None)
        case Waiting():
            return "waiting", found.why, None, None
        case Parked():
            return "parked", found.why, found.remedy, found.reason
        case Refused():
            kind: Literal["superseded", "refused"] = "superseded" if found.reason is Reason.SUPERSEDED else "refused"
            return kind, found.why, found.remedy, found.reason
        case _:
            raise RuntimeError("a walk without an outcome")


def _differences(wanted: Wanted, walk: _Walk) -> list[Difference]:
    pairs = [
        ("endpoint", *(_endpoint(seen) for seen in (walk.before, walk.after))),
        ("traffic", *(_traffic(seen) for seen in (walk.before, walk.after))),
        ("deployments", *(_deployments(seen) for seen in (walk.before, walk.after))),
    ]
    if wanted.command.is_batch:
        pairs.append(("schedule", _schedule(walk.before), _schedule(walk.after)))
    return [Difference(what=what, shown=shown, wanted=then) for what, shown, then in pairs if shown != then]


def _endpoint(seen: Seen) -> str:
    return seen.endpoint.name if isinstance(seen.endpoint, Endpoint) else "none"


def _traffic(seen: Seen) -> str:
    shares = seen.endpoint.traffic if isinstance(seen.endpoint, Endpoint) else {}
    return ", ".join(f"{share} % to {name}" for name, share in sorted(shares.items())) or "none"


def _deployments(seen: Seen) -> str:
    found = () if isinstance(seen.deployments, Unseen) else seen.deployments
    return ", ".join(sorted(each.name for each in found)) or "none"


def _schedule(seen: Seen) -> str:
    if not isinstance(seen.schedule, Schedule):
        return "none"
    runs = seen.schedule.tags.get(tags.COMPONENT, "something of others")
    return f"{'enabled' if seen.schedule.enabled else 'paused'}, runs {runs}"


# -------------------------------------------------------------------------------------------------------- simulated effects


def simulate(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    """What would be seen after an effect that goes well."""
    return _SIMULATED[do.effect](wanted, seen, do)


def _asset(wanted: Wanted) -> TargetAsset:
    return TargetAsset(id=NEW, tags=tags.provenance(wanted.command))


def _copied(wanted: Wanted, seen: Seen, _: Do) -> Seen:
    copies = tuple(
        CopyState(path=file.path, status=CopyStatus.COPIED, size=file.size, bytes_copied=file.size, md5=file.md5)
        for file in wanted.manifest.files
    )
    return replace(seen, copies=copies)


def _created_endpoint(wanted: Wanted, seen: Seen, _: Do) -> Seen:
    command = wanted.command
    endpoint = Endpoint(
        name=command.endpoint,
        tags=tags.claim(command),
        traffic={},
        provisioning=_WELL,
        scoring_uri=None,
        body={},
    )
    return replace(seen, endpoint=endpoint, deployments=())


def _endpoint_with(seen: Seen, *, tags: Mapping[str, str], traffic: Mapping[str, int] | None = None) -> Seen:
    before: Endpoint = known(seen.endpoint)
    changes = {"tags": {**before.tags, **tags}, "provisioning": _WELL}
    changes |= {"traffic": dict(traffic)} if traffic is not None else {}
    return replace(seen, endpoint=before.model_copy(update=changes))


def _created_deployment(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    made = Deployment(name=do.name, tags=tags.deployment(wanted.command), provisioning=_WELL)
    return replace(seen, deployments=(*_known(seen), made))


def _known(seen: Seen) -> tuple[Deployment, ...]:
    return () if isinstance(seen.deployments, Unseen) else seen.deployments


def _deleted_deployment(_: Wanted, seen: Seen, do: Do) -> Seen:
    return replace(seen, deployments=tuple(each for each in _known(seen) if each.name != do.name))


def _tested(_: Wanted, seen: Seen, do: Do) -> Seen:
    return replace(seen, test_job=Job(name=do.name, status=JobStatus.COMPLETED, detail="(not run)"))


def _shifted(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    return _endpoint_with(seen, tags={**tags.claim(wanted.command), tags.STABLE: do.name}, traffic={do.name: 100})


def _written_schedule(wanted: Wanted, seen: Seen, do: Do) -> Seen:
    stage = wanted.batch_stage
    enabled = stage.schedule is not None and stage.schedule.enabled and not batch.is_paused_by_hand(seen.schedule)
    written = tags.schedule(wanted.command, stage)
    return replace(seen, schedule=Schedule(name=do.name, tags=written, enabled=enabled, provisioning=_WELL, body={}))


def _paused(_: Wanted, seen: Seen, __: Do) -> Seen:
    return replace(seen, schedule=known(seen.schedule).model_copy(update={"enabled": False}))


_SIMULATED: Mapping[Effect, Callable[[Wanted, Seen, Do], Seen]] = {
    Effect.COPY: _copied,
    Effect.REGISTER_MODEL: lambda wanted, seen, _: replace(seen, model=_asset(wanted)),
    Effect.CREATE_CODE: lambda wanted, seen, _: replace(seen, code=_asset(wanted)),
    Effect.CREATE_ENVIRONMENT: lambda wanted, seen, _: replace(seen, environment=_asset(wanted)),
    Effect.CREATE_COMPONENT: lambda wanted, seen, _: replace(seen, component=_asset(wanted)),
    Effect.CREATE_ENDPOINT: _created_endpoint,
    Effect.CLAIM_ENDPOINT: lambda wanted, seen, _: _endpoint_with(seen, tags=tags.claim(wanted.command)),
    Effect.CREATE_DEPLOYMENT: _created_deployment,
    Effect.DELETE_FAILED_DEPLOYMENT: _deleted_deployment,
    Effect.SMOKE: lambda _, seen, __: replace(seen, smoke=ScoringAnswer(status=200, text="[]", seconds=0.0)),
    Effect.START_TEST_JOB: _tested,
    Effect.SHIFT_TRAFFIC: _shifted,
    Effect.WRITE_SCHEDULE: _written_schedule,
    Effect.PAUSE_SCHEDULE: _paused,
    Effect.RETIRE: _deleted_deployment,
    Effect.CLEAN_UP: _deleted_deployment,
    Effect.CANCEL_TEST_JOB: lambda _, seen, __: replace(seen, test_job=None),
    Effect.DELETE_SCHEDULE: lambda _, seen, __: replace(seen, schedule=None),
    Effect.DELETE_ENDPOINT: lambda _, seen, __: replace(seen, endpoint=None, deployments=()),
}


# ------------------------------------------------------------------------------------------------------------- planner


class Planner:
    """Plans of promotions that are there, and of those that a command would be. Writes nothing."""

    def __init__(self, *, ledger: Ledger, target_for: Callable[[WorkspaceId], Target]) -> None:
        self._ledger = ledger
        self._target_for = target_for

    def of(self, command: PromoteModel, manifest: Manifest | None = None, recipe: Recipe | None = None) -> Plan:
        """What a delivery of this command would do; documents that nobody has kept yet are given."""
        kept = self._ledger.kept
        wanted = Wanted(
            command,
            manifest or Manifest.model_validate_json(kept("manifest", command.manifest_digest)),
            recipe or Recipe.model_validate_json(kept("recipe", command.recipe_digest)),
            hold=self._ledger.hold(command.session_id),
            approvals=self._ledger.approvals(command.promotion_id) if command.stage.approval else (),
        )
        try:
            return plan(self._target_for(command.target), wanted)
        except (Refusal, Blocked) as found:
            return Plan(
                outcome="refused" if isinstance(found, Refusal) else "parked",
                changes=False,
                model=command.model,
                version=command.version,
                target=command.stage.target,
                endpoint=command.endpoint,
                why=str(found),
                remedy=found.remedy,
                reason=found.reason,
            )
