"""Drift: where a target no longer shows what was promoted to it. What differs, what is told, and what is repaired. Pure.

The ledger says which deployment is live on an endpoint (its last `live` record), the promotion's own command says what
that came with: the model, the schedule. What others have added to an endpoint is theirs and no drift.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from core import batch, tags
from core.commands import PromoteModel, Verb
from core.ledger import AuditRecord, Promotion, State
from core.ports import Deployment, Endpoint, Provisioning, Schedule, TargetAsset
from core.stages import BatchStage

# A repair that did not last is not repeated before that: somebody else keeps changing the target.
REPAIR_AGAIN = timedelta(days=1)


class DriftKind(StrEnum):
    """What was found. Part of the contract (docs/drift.md)."""

    ENDPOINT_MISSING = "endpoint_missing"
    ENDPOINT_NOT_OURS = "endpoint_not_ours"
    DEPLOYMENT_MISSING = "deployment_missing"
    DEPLOYMENT_FAILED = "deployment_failed"
    TRAFFIC_CHANGED = "traffic_changed"
    MODEL_MISSING = "model_missing"
    MODEL_ARCHIVED = "model_archived"
    SCHEDULE_MISSING = "schedule_missing"
    SCHEDULE_CHANGED = "schedule_changed"
    SCHEDULE_DISABLED = "schedule_disabled"


# What no deployment of ours mends: a name that others have now, and registered models, which are the workspace's record.
_FOR_PEOPLE = frozenset({DriftKind.ENDPOINT_NOT_OURS, DriftKind.MODEL_MISSING, DriftKind.MODEL_ARCHIVED})


class Finding(BaseModel):
    """One difference between what was promoted and what the target shows, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    kind: DriftKind
    what: str
    remedy: str


class Drift(BaseModel):
    """What an endpoint or schedule shows other than was promoted, since when, and what became of it. Times in UTC.

    `promotion_id` and `attempt` are those of what should be live. No `findings`: it is as it was promoted, since `since`.
    `repair` says what this service did about it, or why it did nothing.
    """

    model_config = ConfigDict(frozen=True)

    target: str
    serve: str
    endpoint: str
    promotion_id: str
    attempt: int
    model: str
    version: str
    findings: tuple[Finding, ...] = ()
    since: datetime
    repair: str = ""

    @property
    def why(self) -> str:
        return "; ".join(finding.what for finding in self.findings)


@dataclass(frozen=True)
class Shown:
    """What the target shows of an endpoint that should be live. None: it is not there."""

    endpoint: Endpoint | None
    deployments: tuple[Deployment, ...] = ()
    model: TargetAsset | None = None
    schedule: Schedule | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nobody is changing it just now: what is being changed says nothing yet."""
        parts = [part for part in (self.endpoint, self.schedule, *self.deployments) if part is not None]
        return all(part.provisioning.is_settled for part in parts)


# ---------------------------------------------------------------------------------------------------------- what differs


def findings(command: PromoteModel, deployment: str, shown: Shown) -> tuple[Finding, ...]:
    """How the target differs from what was promoted to it: `deployment` has all traffic there, by the ledger."""
    return (
        *_of_endpoint(command, deployment, shown),
        *_of_model(command, shown.model),
        *_of_schedule(command, shown.schedule),
    )


def _of_endpoint(command: PromoteModel, deployment: str, shown: Shown) -> tuple[Finding, ...]:
    endpoint, name, target = shown.endpoint, command.endpoint, command.stage.target
    redeploy = f"Redeploy promotion {command.promotion_id}, or retire the endpoint if it is no longer wanted."
    if endpoint is None:
        return (_found(DriftKind.ENDPOINT_MISSING, f"endpoint {name} is not in {target} any more", redeploy),)
    if tags.generation(endpoint.tags) is None:
        what = f"endpoint {name} of {target} is not marked as this service's any more"
        remedy = "If somebody made it anew, choose another `endpoint` or set `adopt: true`, and promote again."
        return (_found(DriftKind.ENDPOINT_NOT_OURS, what, remedy),)
    ours = next((each for each in shown.deployments if each.name == deployment), None)
    if ours is None:
        return (_found(DriftKind.DEPLOYMENT_MISSING, f"deployment {deployment} of {name} is gone", redeploy),)
    found = []
    if ours.provisioning is Provisioning.FAILED:
        what = f"deployment {deployment} of {name} is in state Failed"
        remedy = f"Read its log; redeploy promotion {command.promotion_id} with `fresh` for a new deployment."
        found.append(_found(DriftKind.DEPLOYMENT_FAILED, what, remedy))
    if endpoint.traffic.get(deployment, 0) != 100:
        found.append(_found(DriftKind.TRAFFIC_CHANGED, _traffic(endpoint, deployment, command.is_batch), redeploy))
    return tuple(found)


def _traffic(endpoint: Endpoint, deployment: str, is_batch: bool) -> str:
    given = [f"{share} % to {name}" for name, share in sorted(endpoint.traffic.items()) if share]
    if is_batch:
        shown = next((name for name, share in endpoint.traffic.items() if share), "none")
        return f"the default deployment of {endpoint.name} is {shown}, not {deployment}"
    return f"the traffic of {endpoint.name} is {', '.join(given) or 'none'}, not 100 % to {deployment}"


def _of_model(command: PromoteModel, model: TargetAsset | None) -> tuple[Finding, ...]:
    name = f"{command.target_model_name}:{command.version}"
    if model is None:
        remedy = "The deployment goes on with its own copy; redeploying the promotion registers the model again."
        return (_found(DriftKind.MODEL_MISSING, f"model {name} is not registered in the target any more", remedy),)
    if model.archived:
        restore = f"az ml model restore --name {command.target_model_name} --version {command.version}"
        remedy = f"Retire the endpoint if the model is no longer wanted; otherwise: {restore}"
        return (_found(DriftKind.MODEL_ARCHIVED, f"model {name} is archived in the target", remedy),)
    return ()


def _of_schedule(command: PromoteModel, found: Schedule | None) -> tuple[Finding, ...]:
    stage = command.stage
    if not isinstance(stage, BatchStage) or stage.schedule is None:
        return ()
    redeploy = f"Redeploy promotion {command.promotion_id}."
    if found is None:
        return (_found(DriftKind.SCHEDULE_MISSING, f"schedule {command.endpoint} is gone", redeploy),)
    if not batch.is_as_wanted(command, stage, found):
        what = f"schedule {found.name} is not the one that was written for {command.model}:{command.version}"
        return (_found(DriftKind.SCHEDULE_CHANGED, what, redeploy),)
    if stage.schedule.enabled and not found.enabled:
        remedy = f"az ml schedule enable --name {found.name}; or set `enabled: false` in the policy if it shall rest."
        return (_found(DriftKind.SCHEDULE_DISABLED, f"schedule {found.name} is disabled", remedy),)
    return ()


def _found(kind: DriftKind, what: str, remedy: str) -> Finding:
    return Finding(kind=kind, what=what, remedy=remedy)


# -------------------------------------------------------------------------------------------------------------- repairs


@dataclass(frozen=True)
class Repair:
    """An order of the service to bring back what was promoted. `fresh` asks for a deployment of its own."""

    order_id: str
    fresh: bool

    def __str__(self) -> str:
        return "being repaired"


def repair(
    mode: str, live: AuditRecord, row: Promotion, found: Iterable[Finding], *, barred: str | None, now: datetime
) -> Repair | str:
    """What to do about it; or, in words, why nothing is done. One repair for each time that something went live.

    `mode` is the target's `drift` of the policy, `barred` what keeps automatic promotions from the endpoint now.
    """
    kinds = {finding.kind for finding in found}
    order_id = repair_id(live)
    if mode != "repair":
        return ""
    if row.order is not None and row.order.id == order_id:
        return f"the repair ended as {row.state}: {row.why}"
    if kinds & _FOR_PEOPLE:
        return "not repaired: that needs somebody"
    if row.state is not State.SUCCEEDED:
        return f"not repaired: promotion {row.id} is {row.state}"
    was_repaired = row.order is not None and row.order.verb is Verb.REPAIR
    if was_repaired and now - live.at < REPAIR_AGAIN:
        return f"not repaired again: the repair of {live.at:%Y-%m-%d %H:%M} UTC did not last; somebody else changes it"
    if barred:
        return f"not repaired: {barred}"
    return Repair(order_id, fresh=DriftKind.DEPLOYMENT_FAILED in kinds)


def repair_id(live: AuditRecord) -> str:
    """One for each time that something went live, so that passes at once and crashes give one repair."""
    return f"drift-{hashlib.sha256(f'{live.session_id}|{live.id}'.encode()).hexdigest()[:32]}"


def is_live(record: AuditRecord) -> bool:
    """Whether the last word about an endpoint says that something is live there."""
    return bool(record.after and record.after.get("promotion_id"))


def drift_of(command: PromoteModel, live: Mapping[str, Any], found: tuple[Finding, ...], since: datetime) -> Drift:
    """What was found, with what should be live by the ledger's record of it."""
    return Drift(
        target=command.stage.target,
        serve=command.stage.serve,
        endpoint=command.endpoint,
        promotion_id=command.promotion_id,
        attempt=int(live.get("attempt", 1)),
        model=command.model,
        version=command.version,
        findings=found,
        since=since,
    )
