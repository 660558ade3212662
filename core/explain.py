"""Why a model version was or was not promoted, from all that is known about it, in the order in which it happened."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from core import policy as rules
from core import tags
from core.commands import PromoteModel
from core.errors import Blocked, PromotionError, Reason, Refusal
from core.events import WorkspaceId
from core.evidence import gather
from core.gates import gate_verdicts
from core.ledger import LIVE, Approval, AuditRecord, Decision, EventRecord, Promotion, StepRecord
from core.measuring import measure
from core.origin import Classification, Origin, classify
from core.policy import ModelFacts, Policy, Rule, Trigger
from core.ports import Ledger, Source, SourceModel
from core.quality import Quality, Verdict
from core.quality import verdicts as verdicts_on
from core.said import said_about

EVENTS = 50
_CHECK_THE_SUBSCRIPTION = (
    "Check that the Event Grid subscription of its workspace delivers ModelRegistered to the function intake. "
    "The reconcile timer finds it a few minutes after its registration, if a rule is about it."
)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class RuleVerdict(_Value):
    """Whether a rule of today's policy matches; `decides` is the first that does."""

    rule: str
    matches: bool
    decides: bool
    why: str = ""

    def __str__(self) -> str:
        verdict = "decides" if self.decides else "matches, behind the one that decides" if self.matches else ""
        return f"{self.rule}: {', '.join(part for part in (verdict, self.why) if part)}"


class Told(_Value):
    """A promotion with all that is written about it; `replaced_by` is the promotion that is live in its place."""

    promotion: Promotion
    steps: tuple[StepRecord, ...] = ()
    approvals: tuple[Approval, ...] = ()
    audit: tuple[AuditRecord, ...] = ()
    replaced_by: str | None = None


class Happening(_Value):
    """Something that happened to the version, or to one of its promotions."""

    at: datetime
    what: str
    detail: str = ""
    promotion_id: str | None = None

    def __str__(self) -> str:
        whose = f"  [{self.promotion_id}]" if self.promotion_id else ""
        return f"{self.at:%Y-%m-%d %H:%M:%S}{whose}  {self.what}: {self.detail}".rstrip(": ")


class Explanation(_Value):
    """`answer` is one sentence. `origin` and `evidence` are as they were decided on, or as they would be now.

    `gates` are those of the newest promotion, or of the rule that decides, held against what is live now.
    """

    answer: str
    remedy: str | None = None
    source: str
    model: str
    version: str
    in_source: str = ""
    origin: str | None = None
    evidence: str = ""
    rules: tuple[RuleVerdict, ...] = ()
    gates: tuple[Verdict, ...] = ()
    happened: tuple[Happening, ...] = ()
    events: tuple[EventRecord, ...] = ()
    promotions: tuple[Told, ...] = ()

    def text(self) -> str:
        """For people."""
        lines = [self.answer, *([f"What to do: {self.remedy}"] if self.remedy else [])]
        lines += [f"In the source: {self.in_source}"]
        lines += [f"Origin: {self.evidence or self.origin}"] if self.evidence or self.origin else []
        lines += ["What happened (UTC):" if self.happened else "Nothing is written down about it."]
        lines += [f"  {each}" for each in self.happened]
        lines += ["Gates, by what is live now:", *(f"  {each}" for each in self.gates)] if self.gates else []
        return "\n".join([*lines, "Rules of the policy as it is now:", *(f"  {each}" for each in self.rules)])


@dataclass(frozen=True)
class Known:
    """What is known of a version. `found` is None if the source does not show it, for the reason in `problem`.

    `gates` are the verdicts on its newest promotion; `quality` is what the source shows of one that has none.
    """

    source: str
    model: str
    version: str
    found: SourceModel | None = None
    problem: PromotionError | None = None
    origin: Classification | None = None
    events: tuple[EventRecord, ...] = ()
    told: tuple[Told, ...] = ()
    gates: tuple[Verdict, ...] = ()
    quality: Quality | None = None

    @property
    def name(self) -> str:
        return f"{self.model}:{self.version} of {self.source}"

    @property
    def newest(self) -> Promotion | None:
        return self.told[-1].promotion if self.told else None


def explain(policy: Policy, known: Known) -> Explanation:
    """Pure."""
    verdicts = _verdicts(policy, known)
    deciding = next((each.rule for each in verdicts if each.decides), None)
    answer, remedy = _answer(known, deciding)
    newest, now = known.newest, known.origin
    return Explanation(
        answer=answer,
        remedy=remedy,
        source=known.source,
        model=known.model,
        version=known.version,
        in_source=_in_source(known),
        origin=newest.origin if newest else now.origin if now else None,
        evidence=newest.evidence if newest else str(now) if now else "",
        rules=verdicts,
        gates=known.gates or _gates(policy, known.quality, deciding),
        happened=tuple(sorted(_happened(known), key=lambda each: each.at)),
        events=known.events,
        promotions=known.told,
    )


def _gates(policy: Policy, quality: Quality | None, deciding: str | None) -> tuple[Verdict, ...]:
    """What the version itself must show, for the first stage."""
    rule = next((rule for rule in policy.rules if rule.name == deciding), None)
    if rule is None or quality is None:
        return ()
    gates = [each for each in (rule.gates, rule.stages[0].gates) if each is not None]
    return tuple(verdict for each in gates for verdict in verdicts_on(each, quality))


def _in_source(known: Known) -> str:
    found = known.found
    if found is None:
        return f"it cannot be read: {known.problem}"
    shown = ", ".join(f"{key}: {value}" for key, value in sorted(found.tags.items())) or "no tags"
    archived = ", archived" if found.archived else ""
    return f"registered {found.created_at:%Y-%m-%d %H:%M:%S} by {found.created_by}{archived}; {shown}"


# ------------------------------------------------------------------------------------------------------------- answer


def _answer(known: Known, deciding: str | None) -> tuple[str, str | None]:
    """One sentence, and what to do."""
    if known.told:
        remedies = [each.promotion.remedy for each in known.told if each.promotion.remedy]
        return f"{known.name} {'; '.join(map(_standing, known.told))}", remedies[-1] if remedies else None
    if known.events:
        last = known.events[-1]
        return f"{known.name} was {last.outcome}: {last.why}", last.remedy
    if known.found is None:
        return _unread(known)
    if known.found.archived:
        return f"{known.name} is archived, and archived versions are not promoted", "Restore it, or register another."
    if tags.is_copy(known.found.tags):
        return f"{known.name} was put there by a promotion, so it is no news", None
    if deciding is None:
        remedy = "See why each rule does not match; then correct the policy, or the tags of the version."
        return f"no event has arrived for {known.name}, and no rule would promote it", remedy
    return f"no event has arrived for {known.name}, which rule {deciding} would promote", _CHECK_THE_SUBSCRIPTION


def _standing(told: Told) -> str:
    row = told.promotion
    text = f"is {row.state} on endpoint {row.endpoint} of {row.target}" + (f": {row.why}" if row.why else "")
    return text + (f", where promotion {told.replaced_by} is live now" if told.replaced_by else "")


def _unread(known: Known) -> tuple[str, str]:
    problem = known.problem
    if isinstance(problem, Refusal) and problem.reason is Reason.MODEL_NOT_FOUND:
        return f"nothing is known of {known.name}", "Check the name, the version and the source."
    remedy = problem.remedy if isinstance(problem, Refusal | Blocked) else "Ask again in a moment."
    return f"no event has arrived for {known.name}, and its source cannot be read: {problem}", remedy


# -------------------------------------------------------------------------------------------------------------- rules


def _verdicts(policy: Policy, known: Known) -> tuple[RuleVerdict, ...]:
    """Each rule by itself, so that what stands behind the one that decides is judged as well."""
    newest, now = known.newest, known.origin
    facts = ModelFacts(
        source=known.source,
        name=known.model,
        origin=Origin(newest.origin) if newest and newest.origin else now.origin if now else None,
        tags=known.found.tags if known.found else {},
        trigger=Trigger(newest.trigger) if newest else Trigger.MODEL_REGISTERED,
    )
    verdicts: list[RuleVerdict] = []
    for rule in policy.rules:
        matches, why = _judged(policy, rule, facts, known)
        decides = matches and not any(each.matches for each in verdicts)
        verdicts.append(RuleVerdict(rule=rule.name, matches=matches, decides=decides, why=why))
    return tuple(verdicts)


def _judged(policy: Policy, rule: Rule, facts: ModelFacts, known: Known) -> tuple[bool, str]:
    """What speaks of the version itself first; then what it depends on besides."""
    wanted = rule.match
    tagged = {} if known.found is None else wanted.tags
    version = wanted.model_copy(update={"trigger": (facts.trigger,), "experiment": None, "tags": tagged})
    alone = rule.model_copy(update={"match": version})
    _, (verdict,) = rules.judge(policy.model_copy(update={"rules": (alone,)}), facts)
    if not verdict.matches:
        return False, verdict.why
    if facts.trigger not in wanted.trigger:
        return False, f"trigger {facts.trigger} is not {' or '.join(wanted.trigger)}; all else matches"
    if wanted.tags and known.found is None:
        return False, "it asks for tags, and those of the version cannot be read"
    if wanted.experiment and not (known.newest and known.newest.rule == rule.name):
        return False, f"it is about runs of experiment {wanted.experiment}"
    if wanted.origin and facts.origin is None:
        return True, f"if its origin, which is not known, is {' or '.join(wanted.origin)}"
    return True, ""


# ----------------------------------------------------------------------------------------------------------- happened


def _happened(known: Known) -> Iterator[Happening]:
    if known.found is not None:
        by = f"by {known.found.created_by}"
        yield Happening(at=known.found.created_at, what="registered in the source", detail=by)
    for event in known.events:
        kind = event.event_type.rpartition(".")[2] or "unknown"
        yield Happening(at=event.received_at, what=f"event {kind}", detail=f"{event.outcome}: {event.why}")
    for told in known.told:
        yield from _happened_to(told)


def _happened_to(told: Told) -> Iterator[Happening]:
    row = told.promotion
    about = {"promotion_id": row.id}
    for record in told.audit:
        if record.action not in set(Decision):  # told with the approvals
            by = f"by {record.actor}" + (f": {record.reason}" if record.reason else "")
            yield Happening(at=record.at, what=record.action.replace("_", " "), detail=by, **about)
    for given in told.approvals:
        by = f"by {given.by}" + (f": {given.comment}" if given.comment else "")
        yield Happening(at=given.at, what=given.decision, detail=by, **about)
    for step in told.steps:
        yield Happening(at=step.at, what=step.step, detail=step.detail, **about)
    due = f", looked at again at {row.due:%H:%M:%S}" if row.due else ""
    yield Happening(at=row.updated_at, what=row.state.replace("_", " "), detail=row.why + due, **about)


# ------------------------------------------------------------------------------------------------------------ reading


class History(Ledger, Protocol):
    def promotions(
        self, *, model: str | None = None, version: str | None = None, limit: int = 100
    ) -> tuple[Promotion, ...]: ...

    def events(
        self,
        *,
        model: str | None = None,
        version: str | None = None,
        promotion_id: str | None = None,
        limit: int = 100,
    ) -> tuple[EventRecord, ...]: ...


class Explainer:
    """Reads the ledger, and the source if that can be read."""

    def __init__(
        self, *, policy: Policy, ledger: History, source: Callable[[], Source], now: Callable[[], datetime]
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._source = source
        self._now = now

    def explain(self, source: str, model: str, version: str) -> Explanation:
        """`source` is the name of one in the policy."""
        workspace = self._policy.sources[source].id
        rows = [row for row in self._ledger.promotions(model=model, version=version) if row.source == source]
        told = tuple(self._told(row.id) for row in reversed(rows))
        found, problem = self._read(workspace, model, version)
        origin, quality = None, None
        if found is not None and not told:
            origin, quality = self._judged(workspace, found)
        known = Known(
            source=source,
            model=model,
            version=version,
            found=found,
            problem=problem,
            origin=origin,
            quality=quality,
            gates=self._gates(rows[0].id) if rows else (),
            events=self._events(workspace, model, version, told),
            told=told,
        )
        return explain(self._policy, known)

    def _read(
        self, workspace: WorkspaceId, model: str, version: str
    ) -> tuple[SourceModel | None, PromotionError | None]:
        try:
            return self._source().model(workspace, model, version), None
        except PromotionError as problem:
            return None, problem

    def _judged(self, workspace: WorkspaceId, found: SourceModel) -> tuple[Classification, Quality | None]:
        """What intake would find out about a version now."""
        try:
            evidence = gather(self._source(), workspace, found).evidence
        except PromotionError as problem:
            return Classification(origin=None, because=(f"its files cannot be read now: {problem}",)), None
        origin, at = classify(evidence), self._now()
        runs = evidence.runs
        return origin, measure(self._source(), workspace, found, runs, origin=origin.origin, at=at, needed=False)

    def _gates(self, promotion_id: str) -> tuple[Verdict, ...]:
        row = self._ledger.promotion(promotion_id)
        if row is None or row.command is None:
            return ()
        command = PromoteModel.model_validate_json(row.command)
        return gate_verdicts(command, said_about(self._ledger, command, self._now()))

    def _events(
        self, workspace: WorkspaceId, model: str, version: str, told: tuple[Told, ...]
    ) -> tuple[EventRecord, ...]:
        """Of the version, and of the runs whose outputs its promotions are; oldest first."""
        found = list(self._ledger.events(model=model, version=version, limit=EVENTS))
        for row in (each.promotion for each in told):
            if row.trigger == Trigger.RUN_COMPLETED:
                found += self._ledger.events(promotion_id=row.id, limit=EVENTS)
        of_source = {each.event_id: each for each in found if each.source.lower().rstrip("/") == workspace.key}
        return tuple(sorted(of_source.values(), key=lambda each: each.received_at))

    def _told(self, promotion_id: str) -> Told:
        row = self._ledger.promotion(promotion_id)
        assert row is not None  # noqa: S101 - it is listed
        trail = self._ledger.trail(row.session_id)
        live = [each for each in trail if each.action == LIVE]
        was_live = any(each.promotion_id == promotion_id for each in live)
        is_replaced = was_live and live[0].promotion_id != promotion_id and live[0].after is not None
        return Told(
            promotion=row.model_copy(update={"command": None, "etag": None}),
            steps=self._ledger.steps(promotion_id),
            approvals=self._ledger.approvals(promotion_id),
            audit=tuple(each for each in reversed(trail) if each.promotion_id == promotion_id),
            replaced_by=live[0].promotion_id if is_replaced else None,
        )
