"""From an event to commands on the queue: read the facts, decide, write down, send.

Every event ends as a record that an operator can find: accepted, ignored with the reason, or refused with the remedy.
Only what may succeed later raises (Transient, or Blocked by a missing right to the ledger), so that Event Grid delivers it again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core import asks, measuring, runs, tags, telemetry
from core import policy as rules
from core.commands import MESSAGE_LIMIT, Order, PromoteModel, Verb, path_id, promotion_id
from core.errors import Blocked, Reason, Refusal, Transient
from core.events import Fact, ModelRegistered, RunEnded, WorkspaceId, parse
from core.evidence import Findings, StoredArtifacts, gather
from core.ledger import AuditRecord, EventOutcome, EventRecord, Memo, Promotion, State
from core.mlmodel import MLMODEL
from core.once import promoted_already
from core.orders import winning_time
from core.origin import OVERRIDE_TAG, Classification, Evidence, Run, classify
from core.policy import ModelFacts, Policy, Rule, Trigger
from core.policy_file import LoadedPolicy
from core.ports import CommandQueue, Ledger, Source, SourceModel
from core.quality import Quality, check
from core.quality import verdicts as gate_verdicts
from core.recipes import Material, Packaged, package
from core.said import QUALITY
from core.stages import Stage

log = logging.getLogger(__name__)

SUBJECT_LIMIT = 500
# Asked for by nobody: what one of them has promoted, the other leaves alone.
EVENTS = frozenset({Trigger.MODEL_REGISTERED, Trigger.RUN_COMPLETED})
TAG_EVENT = "promotion.tag"


class _Ignored(Exception):
    """No rule asks for anything: normal, and recorded."""

    def __init__(
        self, reason: Reason, why: str, verdicts: tuple[str, ...] = (), *, promotion_id: str | None = None
    ) -> None:
        super().__init__(why)
        self.reason = reason
        self.verdicts = verdicts
        self.promotion_id = promotion_id


@dataclass(frozen=True)
class Decided:
    """A promotion that is asked for, with what it was decided from."""

    command: PromoteModel
    packaged: Packaged
    rule: Rule
    model: SourceModel
    evidence: str
    verdicts: tuple[rules.Verdict, ...]
    run_id: str | None
    quality: Quality

    def is_to_register(self, policy: Policy) -> bool:
        """Whether the output of a run becomes a registered model of its source first."""
        from_run = self.command.trigger is Trigger.RUN_COMPLETED and self.run_id is not None
        return from_run and policy.sources[self.command.source_name].register_models


@contextmanager
def _as_refusal() -> Iterator[None]:
    """What an event may be ignored for is a refusal to whoever asks for it."""
    try:
        yield
    except _Ignored as ignored:
        is_about_rules = ignored.reason is Reason.NO_RULE_MATCHES
        raise Refusal(
            Reason.NOT_ALLOWED if is_about_rules else ignored.reason,
            "; ".join((str(ignored), *ignored.verdicts)),
            remedy="Ask for what a rule allows, or correct the policy." if is_about_rules else "Ask for another one.",
        ) from ignored


class Intake:
    """Turns events into promotions. `now` is the current time (UTC)."""

    def __init__(
        self,
        *,
        policy: LoadedPolicy,
        source: Source,
        ledger: Ledger,
        queue: CommandQueue,
        now: Callable[[], datetime],
    ) -> None:
        self._policy = policy.policy
        self._policy_digest = policy.digest
        self._scoring = policy.scoring
        self._source = source
        self._ledger = ledger
        self._queue = queue
        self._now = now

    def receive(self, envelope: Mapping[str, Any], traceparent: str | None = None) -> EventRecord:
        """Handle one event; its record, as written to the ledger. Safe to repeat. `traceparent` is the trace that it is part of.

        Raises Transient for what may succeed later, and Blocked if the service may not write its own ledger: Event Grid tells it again.
        """
        record = self._blank(envelope)
        with telemetry.span("intake", traceparent, event_id=record.event_id, event_type=record.event_type):
            return self._recorded(record, lambda: self._handle(parse(envelope)))

    def tagged(self, source_name: str, model: str, version: str, text: str, order: Order) -> EventRecord:
        """What the tags of a model version ask for (`asks.text_of`), as an order; recorded like an event. Safe to repeat."""
        workspace = self._policy.sources[source_name].id
        record = EventRecord(
            event_id=order.id,
            event_type=TAG_EVENT,
            source=workspace.arm_id,
            subject=f"models/{model}:{version}",
            outcome=EventOutcome.ACCEPTED,
            received_at=order.at,
        )

        def promote() -> Promotion:
            policy = asks.allowed(self._policy, asks.read(text, self._policy))
            try:
                return self._promote(workspace, source_name, model, version, Trigger.TAGGED, order, policy=policy)
            except _Ignored as ignored:
                if ignored.reason is not Reason.NO_RULE_MATCHES:
                    raise
                why = "; ".join((f"the policy allows no promotion as the tag asks: {ignored}", *ignored.verdicts))
                raise Refusal(Reason.NOT_ALLOWED, why, remedy="Ask for what a rule allows, or change it.") from ignored

        with telemetry.span("intake", event_id=record.event_id, event_type=record.event_type):
            return self._recorded(record, promote)

    def _recorded(self, record: EventRecord, handle: Callable[[], Promotion]) -> EventRecord:
        try:
            promotion = handle()
        except _Ignored as ignored:
            changes = {"outcome": EventOutcome.IGNORED, "reason": ignored.reason, "why": str(ignored)}
            more = {"verdicts": ignored.verdicts, "promotion_id": ignored.promotion_id}
            record = record.model_copy(update=changes | more)
        except Refusal as refusal:
            changes = {"outcome": EventOutcome.REFUSED, "reason": refusal.reason, "why": str(refusal)}
            record = record.model_copy(update=changes | {"remedy": refusal.remedy})
        except Blocked as blocked:
            # A missing role assignment, say: it may be given, and Event Grid keeps the event for a day.
            raise Transient(f"{blocked} {blocked.remedy}") from blocked
        else:
            ended = f"; the promotion is {promotion.state} already" if promotion.state.is_final else ""
            record = record.model_copy(update={"promotion_id": promotion.id, "why": promotion.evidence + ended})
        self._ledger.record_event(record)
        level = logging.WARNING if record.outcome is EventOutcome.REFUSED else logging.INFO
        log.log(level, "event %s (%s): %s %s", record.event_id, record.subject, record.outcome, record.why)
        return record

    def _blank(self, envelope: Mapping[str, Any]) -> EventRecord:
        def text(*names: str) -> str:
            found = next((envelope[name] for name in names if envelope.get(name)), "")
            return str(found)[:SUBJECT_LIMIT]

        return EventRecord(
            event_id=text("id"),
            event_type=text("eventType", "type"),
            source=text("topic", "source"),
            subject=text("subject"),
            outcome=EventOutcome.ACCEPTED,
            received_at=self._now(),
        )

    def _handle(self, fact: Fact) -> Promotion:
        source_name = self._policy.source_name(fact.source)
        if source_name is None:
            raise Refusal(
                Reason.SOURCE_UNKNOWN,
                f"workspace {fact.source.arm_id} is none of the policy's sources",
                remedy="Add it to `sources`, or remove the Event Grid subscription of that workspace.",
            )
        if isinstance(fact, RunEnded):
            return self._run_ended(fact, source_name)
        return self._model_registered(fact, source_name)

    # ------------------------------------------------------------------------------------------------------------- runs

    def _run_ended(self, fact: RunEnded, source_name: str) -> Promotion:
        """What the event tells by itself comes first: the ends of most runs cost no request."""
        if not fact.completed:
            raise _Ignored(Reason.RUN_FAILED, f"run {fact.run_id} failed; only completed runs are promoted")
        if not rules.could_concern_run(self._policy, source_name, fact.experiment):
            why = f"no rule promotes from this run (experiment {fact.experiment!r}); a registered model does"
            raise _Ignored(Reason.NOT_A_TRIGGER, why)
        if found := runs.nothing_by_itself(Run(id=fact.run_id, tags=fact.tags, properties=fact.properties)):
            raise _Ignored(*found)
        return self._promote_run(fact.source, source_name, fact.run_id)

    def _promote_run(self, source: WorkspaceId, source_name: str, run_id: str) -> Promotion:
        """As if the output of the run were a registered version; where the policy says so, it becomes one first."""
        run = self._source.run(source, run_id)
        if found := runs.nothing_by_itself(run.run):
            raise _Ignored(*found)
        if not runs.has_completed(run):
            raise _Ignored(Reason.RUN_FAILED, f"run {run_id} is {run.status}; only completed runs are promoted")
        facts = ModelFacts(
            source=source_name,
            experiment=run.experiment,
            origin=classify(Evidence(tags=run.run.tags, runs=(run.run,))).origin,
            tags=run.run.tags,
            trigger=Trigger.RUN_COMPLETED,
        )
        rule, verdicts = rules.judge(self._policy, facts)
        if rule is None:
            raise _Ignored(Reason.NO_RULE_MATCHES, "no rule matches", _lines(verdicts))
        output = runs.find_output(run, rule.output, StoredArtifacts(self._source, source), rule=rule.name)
        model = runs.as_model(run, output, name=rule.model_of(run.experiment))
        findings = gather(self._source, source, model)
        if MLMODEL in findings.folder.manifest.paths():
            model = model.model_copy(update={"model_type": runs.MLFLOW})
        origin = self._origin(classify(findings.evidence), rule)
        decided, verdicts = rules.judge(self._policy, facts.model_copy(update={"origin": origin.origin}))
        if decided != rule:
            why = f"rule {rule.name!r} is about the run, and not about its output {output.name}, of origin {origin}"
            raise _Ignored(Reason.NO_RULE_MATCHES, why, _lines(verdicts))
        packaged = package(self._material(findings, model, origin, rule))
        quality = self._quality(source, model, findings, origin, rule)
        command = self._command(
            source, source_name, model, origin, packaged, quality, rule, Trigger.RUN_COMPLETED, None, run_id
        )
        evidence = f"run {run_id} completed, its output is {model.uri}; {origin}"
        return self._open(Decided(command, packaged, rule, model, evidence, verdicts, run_id, quality))

    def _register(self, source: WorkspaceId, model: SourceModel, packaged: Packaged, run_id: str) -> None:
        """Register the output in the source, with the run's name on it: a repeat finds the version that is there."""
        tagged = model.model_copy(update={"tags": {tags.RUN: run_id}})
        found = self._source.register(source, tagged, flavors=packaged.recipe.flavors)
        if found.tags.get(tags.RUN) != run_id:
            raise Refusal(
                Reason.MODEL_NAME_TAKEN,
                f"the source has another model {model.name}:{model.version}, which is not the output of run {run_id}",
                remedy="Set another `register_as` in the rule, or register the output by hand.",
            )
        if found.archived:
            raise _Ignored(Reason.MODEL_ARCHIVED, f"{model.name}:{model.version}, its output, is archived")

    # ----------------------------------------------------------------------------------------------------------- models

    def request(self, source_name: str, model: str, version: str, order: Order, rule: str | None = None) -> Promotion:
        """What a person asks for: promote this model version, by the rule that the policy has for it.

        The first rule that matches decides, as for an event; `rule` is the one that is expected, so that a policy which
        says otherwise is noticed. A promotion under way is the answer; one that has ended is asked for anew, with what
        the source and the policy say now. The same order twice is one order. Raises Refusal for what is not promoted.
        """
        with telemetry.span("intake", event_id=order.id, event_type=order.verb.value), _as_refusal():
            workspace = self._source_named(source_name)
            return self._promote(workspace, source_name, model, version, Trigger.REQUESTED, order, rule)

    def _source_named(self, source_name: str) -> WorkspaceId:
        workspace = self._policy.sources.get(source_name)
        if workspace is None:
            raise Refusal(
                Reason.SOURCE_UNKNOWN,
                f"{source_name!r} is none of the policy's sources: {', '.join(self._policy.sources)}",
                remedy="Ask with one of those names.",
            )
        return workspace.id

    def planned(self, source_name: str, model: str, version: str, rule: str | None, by: str) -> Decided:
        """What `request` would ask for now. Writes nothing; raises Refusal as that does."""
        order = Order(id="plan", verb=Verb.PROMOTE, by=by, at=self._now())
        with _as_refusal():
            workspace = self._source_named(source_name)
            return self._decide(workspace, source_name, model, version, Trigger.REQUESTED, order, rule)

    def _model_registered(self, fact: ModelRegistered, source_name: str) -> Promotion:
        return self._promote(fact.source, source_name, fact.model, fact.version, Trigger.MODEL_REGISTERED)

    def _promote(
        self,
        source: WorkspaceId,
        source_name: str,
        name: str,
        version: str,
        trigger: Trigger,
        order: Order | None = None,
        expected: str | None = None,
        policy: Policy | None = None,
    ) -> Promotion:
        decided = self._decide(source, source_name, name, version, trigger, order, expected, policy)
        promotion = self._open(decided)
        if trigger is Trigger.MODEL_REGISTERED:
            self._note_ask(decided)
        return promotion

    def _decide(
        self,
        source: WorkspaceId,
        source_name: str,
        name: str,
        version: str,
        trigger: Trigger,
        order: Order | None = None,
        expected: str | None = None,
        policy: Policy | None = None,
    ) -> Decided:
        """What is asked for, from what the source shows and the policy says. Nothing is written yet."""
        policy = policy or self._policy
        if not rules.could_concern(policy, source_name, name, trigger):
            raise _Ignored(Reason.NO_RULE_MATCHES, f"no rule is about models named {name!r} of {source_name}")
        model = self._source.model(source, name, version)
        if model.archived:
            raise _Ignored(Reason.MODEL_ARCHIVED, f"{model.name}:{model.version} is archived")
        if tags.is_copy(model.tags):
            raise _Ignored(Reason.OWN_COPY, f"{model.name}:{model.version} was put here by a promotion")
        if trigger is Trigger.MODEL_REGISTERED and (run_id := runs.registered_for(model)):
            row = self._promote_run(source, source_name, run_id)
            why = f"this service registered it as the output of run {run_id}, which {row.id} promotes"
            raise _Ignored(Reason.PROMOTED_FROM_RUN, why, promotion_id=row.id)
        facts = ModelFacts(source=source_name, name=model.name, origin=None, tags=model.tags, trigger=trigger)
        candidate, verdicts = rules.judge(policy, facts)
        if candidate is None:
            raise _Ignored(Reason.NO_RULE_MATCHES, "no rule matches", _lines(verdicts))
        findings = gather(self._source, source, model)
        origin = self._origin(classify(findings.evidence), candidate)
        rule, verdicts = rules.judge(policy, facts.model_copy(update={"origin": origin.origin}))
        if rule is None:
            raise _Ignored(Reason.NO_RULE_MATCHES, f"no rule matches a model of origin {origin}", _lines(verdicts))
        if expected not in (None, rule.name):
            raise _Ignored(Reason.NO_RULE_MATCHES, f"rule {expected!r} is not the one that decides", _lines(verdicts))
        packaged = package(self._material(findings, model, origin, rule))
        root = findings.evidence.runs[-1].id if findings.evidence.runs else None
        quality = self._quality(source, model, findings, origin, rule)
        command = self._command(source, source_name, model, origin, packaged, quality, rule, trigger, order, None)
        return Decided(command, packaged, rule, model, str(origin), verdicts, root, quality)

    def _note_ask(self, decided: Decided) -> None:
        """A tag that the promotion of the registration fulfils has been heard: the timer must not take it for a new ask."""
        model = decided.model
        text = asks.text_of(model.tags)
        kind = asks.memo_kind(decided.command.source, model.name)
        if asks.is_fulfilled(text, decided.rule) and self._ledger.memo(kind, model.version) is None:
            self._ledger.save_memo(Memo(kind=kind, key=model.version, value={"text": text, "number": 0}))

    @staticmethod
    def _origin(found: Classification, candidate: Rule) -> Classification:
        """What was found, or what the rule says that unknown origins are to be taken for."""
        if found.origin is not None:
            return found
        if candidate.origin_if_unknown is None:
            raise Refusal(
                Reason.ORIGIN_UNKNOWN,
                f"rule {candidate.name!r} would promote it, but its origin is {found}",
                remedy=f"Tag the model version `{OVERRIDE_TAG}: designer`, `notebook` or `automl` and register it again "
                "(of a run: tag the job when it is submitted), "
                "or say in the rule what such models are to be taken for: `origin_if_unknown`.",
            )
        because = (*found.because, f"rule {candidate.name!r} takes unknown origins for it")
        return found.model_copy(update={"origin": candidate.origin_if_unknown, "because": because})

    def _material(self, findings: Findings, model: SourceModel, origin: Classification, rule: Rule) -> Material:
        return Material(
            name=model.name,
            version=model.version,
            folder=findings.folder,
            run_folder=findings.run_folder,
            modes=frozenset(stage.serve for stage in rule.stages),
            given=self._scoring.get(rule.name),
            is_packed_graph=origin.is_packed_graph,
        )

    def _quality(
        self, source: WorkspaceId, model: SourceModel, findings: Findings, origin: Classification, rule: Rule
    ) -> Quality:
        """What is known of the version now. Raises the refusal of what the rule or its first stage does not let pass."""
        needed, runs = measuring.is_needed(rule), findings.evidence.runs
        quality = measuring.measure(
            self._source, source, model, runs, origin=origin.origin, at=self._now(), needed=needed
        )
        gates = [each for each in (rule.gates, rule.stages[0].gates) if each is not None]
        check((verdict for each in gates for verdict in gate_verdicts(each, quality)), quality)
        return quality

    def _stage(self, stage: Stage) -> Stage:
        """A stage with the windows of its target."""
        return stage.model_copy(update={"freeze": (*self._policy.targets[stage.target].freeze, *stage.freeze)})

    def _command(
        self,
        source: WorkspaceId,
        source_name: str,
        model: SourceModel,
        origin: Classification,
        packaged: Packaged,
        quality: Quality,
        rule: Rule,
        trigger: Trigger,
        order: Order | None,
        run_id: str | None,
    ) -> PromoteModel:
        """`run_id` is that of the run whose output this is, if that was not registered."""
        assert origin.origin is not None  # noqa: S101 - refused before
        manifest, how = packaged.manifest, packaged.recipe
        path = path_id(source, model.name, model.version, rule.name)
        command = PromoteModel(
            promotion_id=promotion_id(path, 0),
            source_name=source_name,
            source=source,
            model=model.name,
            version=model.version,
            model_created_at=model.created_at,
            origin=origin.origin,
            trigger=trigger,
            requested_by=order.by if order else model.created_by,
            requested_at=order.at if order else self._now(),
            run_id=run_id,
            rule=rule.name,
            policy_digest=self._policy_digest,
            manifest_digest=manifest.digest,
            recipe_digest=how.digest,
            quality_digest=quality.digest,
            gates=rule.gates,
            targets={stage.target: self._policy.targets[stage.target].id for stage in rule.stages},
            stages=tuple(self._stage(stage) for stage in rule.stages),
            fan_out=rule.fan_out,
            alone=rule.alone,
            order=order,
            generation_time=order.at if order else None,
            traceparent=telemetry.traceparent(),
        )
        command = command.at_stage(command.beginning[0])
        if len(command.encode()) > MESSAGE_LIMIT:
            raise Refusal(
                Reason.POLICY_INVALID,
                f"rule {rule.name!r} is too large for a message ({len(command.encode())} bytes)",
                remedy="Shorten the rule: fewer stages, or less in `environment_variables`.",
            )
        return command

    def _open(self, decided: Decided) -> Promotion:
        """Documents first, then the rows, then the messages: a crash between them leaves nothing that a repeat cannot use.

        One promotion for each stage that the path begins with; the first of them is the answer.
        """
        manifest, how = decided.packaged.manifest, decided.packaged.recipe
        command = decided.command
        self._check_it_is_no_output(decided)
        if decided.is_to_register(self._policy):
            self._register(command.source, decided.model, decided.packaged, str(decided.run_id))
        self._ledger.keep("manifest", manifest.digest, manifest.model_dump_json())
        self._ledger.keep("recipe", how.digest, how.model_dump_json())
        self._ledger.keep(QUALITY, decided.quality.digest, decided.quality.model_dump_json())
        rows = [self._open_row(command.at_stage(number), decided.evidence) for number in command.beginning]
        for row in rows:
            # Sent as long as no delivery has been seen: an earlier try may have died right here.
            if row.state is State.REQUESTED and row.command is not None:
                self._queue.send(PromoteModel.model_validate_json(row.command))
        return rows[0]

    def _open_row(self, command: PromoteModel, evidence: str) -> Promotion:
        """The row of one promotion, at a new attempt if somebody asks anew, and who asked for it in the audit."""
        order = command.order
        if order is not None:
            wins = winning_time(self._ledger, command.session_id, order.at)
            command = command.model_copy(update={"generation_time": wins})
        row = self._ledger.open(Promotion.requested(command, now=self._now(), evidence=evidence))
        if order is not None and self._is_new(row, order):
            command = command.model_copy(update={"attempt": row.attempt + 1})
            row = self._ledger.save(row.again(command, now=self._now()))
        if row.order is None:
            self._ledger.audit(AuditRecord.requested(row))
        elif order is not None and row.order.id == order.id:
            self._ledger.audit(AuditRecord.of(row, row.order, Verb.PROMOTE))
        return row

    def _check_it_is_no_output(self, decided: Decided) -> None:
        """Raises _Ignored for the registration of what was promoted when its run completed, and the other way round."""
        command, run_id = decided.command, decided.run_id
        if run_id is None or command.trigger not in EVENTS:
            return
        if not rules.could_concern_run(self._policy, command.source_name, None):
            return
        if other := promoted_already(self._ledger, command, run_id):
            why = f"these files are the output of run {run_id}, which {other} promotes"
            raise _Ignored(Reason.PROMOTED_FROM_RUN, why, promotion_id=other)

    def _is_new(self, row: Promotion, order: Order) -> bool:
        """Whether an order asks for a new attempt of a promotion that has ended: not if it was accepted before."""
        if not row.state.is_final or (row.order is not None and row.order.id == order.id):
            return False
        trail = self._ledger.trail(row.session_id)
        return not any(found.id == f"{Verb.PROMOTE}:{order.id}" for found in trail)


def _lines(verdicts: tuple[rules.Verdict, ...]) -> tuple[str, ...]:
    return tuple(f"{verdict.rule}: {verdict.why or 'matches'}" for verdict in verdicts)
