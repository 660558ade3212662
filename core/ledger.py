"""What was wanted and what came of it. Records only: the target workspace shows what is."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from core.commands import Order, PromoteModel
from core.errors import Reason


class State(StrEnum):
    """Where a promotion stands. Part of the contract (docs/contracts)."""

    REQUESTED = "requested"
    RUNNING = "running"
    WAITING = "waiting"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"

    @property
    def is_final(self) -> bool:
        return self not in (State.REQUESTED, State.RUNNING, State.WAITING, State.PARKED)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class NoticeType(StrEnum):
    """What people are told about a promotion: the types of its notifications. Part of the contract (docs/contracts)."""

    PARKED = "Promotion.Parked"
    APPROVAL_WANTED = "Promotion.ApprovalWanted"
    APPROVED = "Promotion.Approved"
    RECOVERED = "Promotion.Recovered"
    LIVE = "Promotion.Live"
    REFUSED = "Promotion.Refused"
    DEAD_LETTERED = "Promotion.DeadLettered"
    OVERDUE = "Promotion.Overdue"
    ROLLED_BACK = "Promotion.RolledBack"
    SUPERSEDED = "Promotion.Superseded"
    CANCELLED = "Promotion.Cancelled"
    RETIRED = "Promotion.Retired"
    DRIFTED = "Promotion.Drifted"
    DRIFT_RESOLVED = "Promotion.DriftResolved"


class Notice(_Record):
    """One thing that people are to be told, as it was at that time. The same news has the same `id`, always."""

    id: str
    type: NoticeType
    at: datetime
    attempt: int
    state: State
    reason: Reason | None = None
    why: str = ""
    remedy: str | None = None


class Promotion(_Record):
    """One model version in one stage: who asked, what for, how far it is, and what came of it.

    `hop` is the hop that is due next (at `due`), or the last one of a finished promotion. `result` tells how to call
    what was deployed, or holds what Azure said about a failure. `command` is the message that is due, and `etag` the
    version of the row as it was read. `question` is what somebody is asked while it is parked in doubt. `notices` is what people were told last, newest at the end; the last `owed` of them
    are not published yet.
    """

    id: str
    state: State
    why: str = ""
    reason: Reason | None = None
    remedy: str | None = None
    question: str = ""
    source: str
    model: str
    version: str
    origin: str | None = None
    evidence: str = ""
    target: str
    serve: str
    endpoint: str
    session_id: str
    trigger: str
    rule: str
    policy_digest: str
    manifest_digest: str | None = None
    recipe_digest: str | None = None
    requested_by: str
    requested_at: datetime
    updated_at: datetime
    attempt: int = 1
    hop: int = 0
    due: datetime | None = None
    result: Mapping[str, Any] | None = None
    order: Order | None = None
    redeployed_from: str | None = None
    notices: tuple[Notice, ...] = ()
    owed: int = 0
    command: str | None = None
    etag: str | None = None

    @classmethod
    def requested(cls, command: PromoteModel, *, now: datetime, evidence: str = "") -> Self:
        """The row that stands before the first message is sent."""
        return cls(
            id=command.promotion_id,
            state=State.REQUESTED,
            source=command.source_name,
            model=command.model,
            version=command.version,
            origin=command.origin,
            evidence=evidence,
            target=command.stage.target,
            serve=command.stage.serve,
            endpoint=command.endpoint,
            session_id=command.session_id,
            trigger=command.trigger,
            rule=command.rule,
            policy_digest=command.policy_digest,
            manifest_digest=command.manifest_digest,
            recipe_digest=command.recipe_digest,
            requested_by=command.requested_by,
            requested_at=command.requested_at,
            updated_at=now,
            attempt=command.attempt,
            hop=command.hop,
            order=command.order,
            redeployed_from=command.redeployed_from,
            command=command.encode().decode(),
        )

    def again(self, command: PromoteModel, *, now: datetime) -> Self:
        """The same promotion at a new attempt: it stays listed where it is, and what came of it before is in its steps."""
        asked = self.requested(command, now=now, evidence=self.evidence)
        kept: dict[str, Any] = {"etag": self.etag, "requested_by": self.requested_by, "requested_at": self.requested_at}
        kept |= {"notices": self.notices, "owed": self.owed}
        return asked.model_copy(update=kept)


class StepRecord(_Record):
    """One thing that a promotion did or saw, in the order of `hop` and `number`."""

    promotion_id: str
    hop: int
    number: int
    step: str
    detail: str = ""
    at: datetime


class Hold(_Record):
    """Automatic promotions stay away from this endpoint until it is released."""

    session_id: str
    target: str
    serve: str
    endpoint: str
    order: Order


class Decision(StrEnum):
    APPROVED = "approved"
    REJECTED = "rejected"


class Approval(_Record):
    """What somebody decided about one attempt of a promotion. It holds for this content only: another asks again.

    `question` is what was to be decided: whether it may be promoted (empty), or what the service could not tell by itself.
    """

    promotion_id: str
    attempt: int
    decision: Decision
    by: str
    at: datetime
    comment: str = ""
    question: str = ""
    manifest_digest: str
    recipe_digest: str


LIVE, REQUESTED = "live", "requested"


class AuditRecord(_Record):
    """Who did what to which endpoint, and what that changed. Never replaced, never deleted.

    `action` is a `Verb`, a `Decision`, `requested`, `live` (traffic or schedule is on `promotion_id` now), or `resubmit` or
    `drop` of a dead letter. `before` and
    `after` are what it changed, such as the version that was live. `id` makes a repeat harmless.
    """

    id: str
    at: datetime
    actor: str
    action: str
    target: str
    serve: str
    endpoint: str
    session_id: str
    promotion_id: str | None = None
    reason: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, row: Promotion, order: Order, action: str) -> Self:
        """That somebody asked something of a promotion; the same record however often the order is repeated."""
        return cls(
            id=f"{action}:{order.id}",
            at=order.at,
            actor=order.by,
            action=action,
            target=row.target,
            serve=row.serve,
            endpoint=row.endpoint,
            session_id=row.session_id,
            promotion_id=row.id,
            reason=order.reason,
        )

    @classmethod
    def requested(cls, row: Promotion) -> Self:
        """That a promotion was asked for; the same record however often its event comes."""
        return cls(
            id=f"{row.id}:{REQUESTED}",
            at=row.requested_at,
            actor=row.requested_by,
            action=REQUESTED,
            target=row.target,
            serve=row.serve,
            endpoint=row.endpoint,
            session_id=row.session_id,
            promotion_id=row.id,
            reason=f"rule {row.rule}, {row.trigger}",
        )


class Memo(_Record):
    """Something small that a timer keeps from one tick to the next: `value` by `kind` and `key`."""

    kind: str
    key: str
    value: Mapping[str, Any]
    etag: str | None = None


class EventOutcome(StrEnum):
    """What intake made of an event: a promotion, nothing (no rule asks for it), or a refusal that needs somebody."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REFUSED = "refused"


class EventRecord(_Record):
    """One event and what came of it; `promotion_id` if it asked for a promotion, `verdicts` what each rule said."""

    event_id: str
    event_type: str
    source: str
    subject: str
    outcome: EventOutcome
    reason: Reason | None = None
    why: str = ""
    remedy: str | None = None
    promotion_id: str | None = None
    verdicts: tuple[str, ...] = ()
    received_at: datetime
