"""Whether a text is a policy, and which of the known models its rules would match. Nothing is written."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from core import policy as rules
from core import tags
from core.errors import PromotionError
from core.events import WorkspaceId, is_asset_name
from core.ledger import EventRecord, Promotion
from core.origin import Origin
from core.policy import ModelFacts, Policy, Rule, Trigger
from core.policy_file import PolicyInvalid, parse
from core.ports import ListedVersion, Listings

MISTAKES = 100
RECENT = 1000
# The newest version and its tags cost a request for each model; the others are judged by their names.
LOOKED_AT = 25
_SUBJECT = "models/"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Mistake(_Value):
    """Where a person has to correct something."""

    line: int | None
    field: str
    message: str


class MatchedModel(_Value):
    """A known model that a rule matches; `decides` if no rule before it does. `by_name`: its tags were not looked at."""

    source: str
    model: str
    version: str
    decides: bool
    by_name: bool


class RuleMatches(_Value):
    rule: str
    matches: tuple[MatchedModel, ...] = ()


class Checked(_Value):
    """`notes` say what could not be found out; scripts that a rule names by path are not looked for."""

    valid: bool
    mistakes: tuple[Mistake, ...] = ()
    rules: tuple[RuleMatches, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownModel:
    """A model by its newest version; `tags` is None where nobody has looked."""

    workspace: WorkspaceId
    model: str
    version: str
    origin: Origin | None = None
    tags: Mapping[str, str] | None = None
    seen_at: datetime | None = None


@dataclass
class KnownModels:
    """What is known of models, and what could not be found out."""

    models: tuple[KnownModel, ...] = ()
    notes: list[str] = field(default_factory=list)


def check(content: bytes, known: Callable[[Policy], KnownModels]) -> Checked:
    """`known` is asked about a policy that is one."""
    try:
        policy = parse(content).policy
    except PolicyInvalid as invalid:
        found = [Mistake(line=each.line, field=each.field, message=each.message) for each in invalid.problems]
        more = (f"... and {len(found) - MISTAKES} mistakes more",) if len(found) > MISTAKES else ()
        return Checked(valid=False, mistakes=tuple(found[:MISTAKES]), notes=more)
    models = known(policy)
    matches: dict[str, list[MatchedModel]] = {rule.name: [] for rule in policy.rules}
    for each in models.models:
        for rule, match in _matches(policy, each):
            matches[rule.name].append(match)
    found_rules = tuple(RuleMatches(rule=rule, matches=tuple(each)) for rule, each in matches.items())
    return Checked(valid=True, rules=found_rules, notes=tuple(models.notes))


def _matches(policy: Policy, known: KnownModel) -> list[tuple[Rule, MatchedModel]]:
    """Each rule that one of its triggers could start for this model."""
    source = policy.source_name(known.workspace)
    if source is None:
        return []
    whole = policy if known.tags is not None else _without_tags(policy)

    def facts(trigger: Trigger) -> ModelFacts:
        given = known.tags or {}
        return ModelFacts(source=source, name=known.model, origin=known.origin, tags=given, trigger=trigger)

    deciding = {rule.name for trigger in Trigger if (rule := rules.judge(whole, facts(trigger))[0])}
    found = []
    for rule in whole.rules:
        alone = whole.model_copy(update={"rules": (rule,)})
        if any(rules.judge(alone, facts(trigger))[0] for trigger in rule.match.trigger):
            match = MatchedModel(
                source=source,
                model=known.model,
                version=known.version,
                decides=rule.name in deciding,
                by_name=known.tags is None,
            )
            found.append((rule, match))
    return found


def _without_tags(policy: Policy) -> Policy:
    """For models whose tags nobody has looked at: what tags ask for is taken to be given."""
    loosened = (rule.model_copy(update={"match": rule.match.model_copy(update={"tags": {}})}) for rule in policy.rules)
    return policy.model_copy(update={"rules": tuple(loosened)})


# ------------------------------------------------------------------------------------------------------------ reading


class Recent(Protocol):
    """What the ledger has seen of models lately."""

    def promotions(self, *, limit: int = 100) -> tuple[Promotion, ...]: ...

    def events(self, *, limit: int = 100) -> tuple[EventRecord, ...]: ...


class ModelFinder:
    """Finds the models that a policy can be about: what the ledger has seen lately, and what its sources list.

    `policy` is the one in force, by whose names the ledger calls its sources.
    """

    def __init__(self, *, policy: Policy, ledger: Recent, listings: Callable[[], Listings]) -> None:
        self._policy = policy
        self._ledger = ledger
        self._listings = listings

    def known(self, checked: Policy) -> KnownModels:
        """Of the sources of the policy that is checked, as far as its rules can be about them."""
        found = KnownModels()
        seen = {(each.workspace.key, each.model): each for each in self._seen()}
        listings = self._listings()
        names: list[tuple[WorkspaceId, str]] = []
        for name, source in checked.sources.items():
            if self._policy.source_name(source.id) is None:
                # With the service's rights nobody looks into a workspace that it is not there for.
                found.notes.append(f"source {name} is new: its models are not looked at")
                continue
            of_source = {model for key, model in seen if key == source.id.key}
            of_source |= self._listed(listings, name, source.id, found.notes)
            names += [(source.id, model) for model in sorted(of_source) if _is_about(checked, name, model)]
        # What was seen last is looked at first.
        names.sort(key=lambda each: _newest_first(seen.get((each[0].key, each[1]))))
        looked = [self._newest(listings, *each, seen, found.notes) for each in names[:LOOKED_AT]]
        rest = [seen[place] for workspace, model in names[LOOKED_AT:] if (place := (workspace.key, model)) in seen]
        if unseen := len(names[LOOKED_AT:]) - len(rest):
            found.notes.append(f"{unseen} models more are listed in the sources; {LOOKED_AT} were looked at")
        found.models = tuple(each for each in looked if each is not None) + tuple(rest)
        return found

    def _seen(self) -> list[KnownModel]:
        """The newest version of each model in the ledger."""
        found: dict[tuple[str, str], KnownModel] = {}
        for each in (*self._promoted(), *self._registered()):
            there = found.get((each.workspace.key, each.model))
            if there is None or (each.seen_at and there.seen_at and each.seen_at > there.seen_at):
                found[each.workspace.key, each.model] = each
        return list(found.values())

    def _promoted(self) -> Iterable[KnownModel]:
        for row in self._ledger.promotions(limit=RECENT):
            source = self._policy.sources.get(row.source)
            if source is not None:
                origin = Origin(row.origin) if row.origin else None
                yield KnownModel(source.id, row.model, row.version, origin, seen_at=row.requested_at)

    def _registered(self) -> Iterable[KnownModel]:
        for event in self._ledger.events(limit=RECENT):
            model, _, version = event.subject.removeprefix(_SUBJECT).rpartition(":")
            if not (event.subject.startswith(_SUBJECT) and is_asset_name(model) and is_asset_name(version)):
                continue
            try:
                workspace = WorkspaceId.parse(event.source)
            except ValueError:
                continue
            yield KnownModel(workspace, model, version, seen_at=event.received_at)

    @staticmethod
    def _listed(listings: Listings, name: str, workspace: WorkspaceId, notes: list[str]) -> set[str]:
        try:
            return set(listings.model_names(workspace))
        except PromotionError as problem:
            notes.append(f"the models of {name} cannot be listed now: {problem}")
            return set()

    @staticmethod
    def _newest(
        listings: Listings,
        workspace: WorkspaceId,
        model: str,
        seen: Mapping[tuple[str, str], KnownModel],
        notes: list[str],
    ) -> KnownModel | None:
        """As its source lists it, else as the ledger has it. None for a model that was put there by a promotion."""
        known = seen.get((workspace.key, model))
        try:
            listed = listings.versions(workspace, model)
        except PromotionError as problem:
            notes.append(f"the versions of {model} cannot be listed now: {problem}")
            return known
        newest: ListedVersion | None = max(listed, key=lambda each: each.created_at, default=None)
        if newest is None:
            return known
        origin = known.origin if known is not None and known.version == newest.version else None
        is_copy = tags.is_copy(newest.tags)
        return None if is_copy else KnownModel(workspace, model, newest.version, origin, newest.tags)


def _is_about(policy: Policy, source: str, model: str) -> bool:
    return any(rules.could_concern(policy, source, model, trigger) for trigger in Trigger)


def _newest_first(known: KnownModel | None) -> float:
    return -known.seen_at.timestamp() if known is not None and known.seen_at else 0.0
