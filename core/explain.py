"""Why a model version was or was not promoted, from all that is known about it."""

from collections.abc import Callable
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from core import policy as rules
from core.errors import PromotionError
from core.ledger import Approval, AuditRecord, EventRecord, Promotion, StepRecord
from core.origin import Origin
from core.policy import ModelFacts, Policy, Trigger
from core.ports import Ledger, Source, SourceModel

EVENTS = 50


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class RuleVerdict(_Value):
    """Whether a rule of today's policy matches; `decides` is the first that does."""

    rule: str
    matches: bool
    decides: bool
    why: str = ""


class Told(_Value):
    """A promotion with all that is written about it."""

    promotion: Promotion
    steps: tuple[StepRecord, ...]
    approvals: tuple[Approval, ...]
    audit: tuple[AuditRecord, ...]


class Explanation(_Value):
    """`answer` is one sentence; `origin` and its evidence are those of the promotion or of the event that was refused."""

    answer: str
    remedy: str | None = None
    source: str
    model: str
    version: str
    origin: str | None = None
    evidence: str = ""
    in_source: str = ""
    events: tuple[EventRecord, ...] = ()
    rules: tuple[RuleVerdict, ...] = ()
    promotions: tuple[Told, ...] = ()

    def text(self) -> str:
        """For people, in the order in which it happened."""
        lines = [self.answer, *([f"What to do: {self.remedy}"] if self.remedy else [])]
        lines += [f"In the source: {self.in_source}"] if self.in_source else []
        for event in self.events:
            lines.append(f"{event.received_at:%Y-%m-%d %H:%M:%S} {event.event_type}: {event.outcome}: {event.why}")
        for each in self.rules:
            verdict = (
                "decides" if each.decides else "matches, behind the one that decides" if each.matches else each.why
            )
            lines.append(f"Rule {each.rule}: {verdict}")
        for told in self.promotions:
            row = told.promotion
            lines.append(f"Promotion {row.id} to {row.target}, {row.serve}: {row.state} {row.why}".rstrip())
            lines += [f"  {step.at:%H:%M:%S} {step.step}: {step.detail}".rstrip(": ") for step in told.steps]
            lines += [f"  {each.decision} by {each.by}: {each.comment}".rstrip(": ") for each in told.approvals]
        return "\n".join(lines)


class History(Ledger, Protocol):
    def promotions(
        self, *, model: str | None = None, version: str | None = None, limit: int = 100
    ) -> tuple[Promotion, ...]: ...

    def events(
        self, *, model: str | None = None, version: str | None = None, limit: int = 100
    ) -> tuple[EventRecord, ...]: ...


class Explainer:
    """Reads the ledger, and the source if that can be read."""

    def __init__(self, *, policy: Policy, ledger: History, source: Callable[[], Source]) -> None:
        self._policy = policy
        self._ledger = ledger
        self._source = source

    def explain(self, source: str, model: str, version: str) -> Explanation:
        """`source` is the name of one in the policy."""
        workspace = self._policy.sources[source].id
        found, in_source = self._read(source, model, version)
        events = tuple(
            event
            for event in reversed(self._ledger.events(model=model, version=version, limit=EVENTS))
            if event.source.lower().rstrip("/") == workspace.key
        )
        rows = [row for row in self._ledger.promotions(model=model, version=version) if row.source == source]
        told = tuple(self._told(row.id) for row in reversed(rows))
        newest = told[-1].promotion if told else None
        answer, remedy = _answer(source, model, version, newest, events, found)
        return Explanation(
            answer=answer,
            remedy=remedy,
            source=source,
            model=model,
            version=version,
            origin=newest.origin if newest else None,
            evidence=newest.evidence if newest else "",
            in_source=in_source,
            events=events,
            rules=self._verdicts(source, model, found, newest),
            promotions=told,
        )

    def _read(self, source: str, model: str, version: str) -> tuple[SourceModel | None, str]:
        try:
            found = self._source().model(self._policy.sources[source].id, model, version)
        except PromotionError as problem:
            return None, f"it cannot be read now: {problem}"
        shown = ", ".join(f"{key}: {value}" for key, value in sorted(found.tags.items())) or "no tags"
        return found, f"registered {found.created_at:%Y-%m-%d %H:%M:%S} by {found.created_by}, {shown}"

    def _told(self, promotion_id: str) -> Told:
        row = self._ledger.promotion(promotion_id)
        assert row is not None  # noqa: S101 - it is listed
        audit = tuple(each for each in self._ledger.trail(row.session_id) if each.promotion_id == promotion_id)
        return Told(
            promotion=row.model_copy(update={"command": None, "etag": None}),
            steps=self._ledger.steps(promotion_id),
            approvals=self._ledger.approvals(promotion_id),
            audit=audit[::-1],
        )

    def _verdicts(
        self, source: str, model: str, found: SourceModel | None, newest: Promotion | None
    ) -> tuple[RuleVerdict, ...]:
        """Each rule by itself, so that what stands behind the one that decides is judged as well."""
        if found is None:
            return ()
        facts = ModelFacts(
            source=source,
            name=model,
            origin=Origin(newest.origin) if newest and newest.origin else None,
            tags=found.tags,
            trigger=Trigger.MODEL_REGISTERED,
        )
        verdicts: list[RuleVerdict] = []
        for rule in self._policy.rules:
            _, (verdict,) = rules.judge(self._policy.model_copy(update={"rules": (rule,)}), facts)
            decides = verdict.matches and not any(each.matches for each in verdicts)
            verdicts.append(RuleVerdict(rule=rule.name, matches=verdict.matches, decides=decides, why=verdict.why))
        return tuple(verdicts)


def _answer(
    source: str,
    model: str,
    version: str,
    newest: Promotion | None,
    events: tuple[EventRecord, ...],
    found: SourceModel | None,
) -> tuple[str, str | None]:
    name = f"{model}:{version} of {source}"
    if newest is not None:
        why = f": {newest.why}" if newest.why else ""
        return f"{name} is {newest.state} on endpoint {newest.endpoint} of {newest.target}{why}", newest.remedy
    if events:
        return f"{name} was {events[-1].outcome}: {events[-1].why}", events[-1].remedy
    if found is None:
        return f"nothing is known of {name}", "Check the name, the version and the source."
    return (
        f"no event has arrived for {name}",
        "Check that the Event Grid subscription of its workspace delivers ModelRegistered to the function intake. "
        "The reconcile timer finds it a few minutes after its registration, if a rule is about it.",
    )
