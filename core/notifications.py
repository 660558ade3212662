"""What people are told about a promotion, and when: pure, from its row alone.

A row is saved together with the notices that it owes (`noted`), so that no crash can lose one. `notifications` makes of them
the CloudEvents that are published; `core/publishing.py` brings them to the topic. The contract is
docs/contracts/notifications.md.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict

from core.errors import Reason
from core.ledger import Notice, NoticeType, Promotion, State

SOURCE = "/promotion-service"
# A row keeps so many notices, each with a little text: what a topic that is down for long may be behind by.
KEPT = 10
TEXT_LIMIT = 300
_OF_FINAL = MappingProxyType(
    {
        State.SUCCEEDED: NoticeType.LIVE,
        State.REFUSED: NoticeType.REFUSED,
        State.SUPERSEDED: NoticeType.SUPERSEDED,
        State.CANCELLED: NoticeType.CANCELLED,
        State.ROLLED_BACK: NoticeType.ROLLED_BACK,
        State.RETIRED: NoticeType.RETIRED,
    }
)
# What the timer tells of a row that has not changed.
_BY_THE_TIMER = (NoticeType.OVERDUE, NoticeType.DRIFTED, NoticeType.DRIFT_RESOLVED)
# What is told once a promotion goes on that had stopped with the type on the left.
_GOES_ON = MappingProxyType(
    {
        NoticeType.PARKED: NoticeType.RECOVERED,
        NoticeType.DEAD_LETTERED: NoticeType.RECOVERED,
        NoticeType.APPROVAL_WANTED: NoticeType.APPROVED,
    }
)


# --------------------------------------------------------------------------------------------------------------- notices


def noted(row: Promotion) -> Promotion:
    """The row with the notices that it owes now; the row as it is if there is no news. The oldest beyond KEPT are dropped."""
    return _with(row, *_news(row))


def noted_overdue(row: Promotion, now: datetime, after: timedelta) -> Promotion:
    """The row with the notice that it is not live yet, if that is so and was not told at this attempt."""
    if not is_overdue(row, now, after):
        return row
    waited = (now - _since(row)) // timedelta(minutes=1)
    notice = _notice(row, NoticeType.OVERDUE).model_copy(
        update={
            "id": f"{row.id}:{row.attempt}:{_word(NoticeType.OVERDUE)}",
            "at": now,
            "why": f"not live after {waited} minutes; {row.state}: {row.why}"[:TEXT_LIMIT],
        }
    )
    return _with(row, notice)


def noted_drift(row: Promotion, notice_id: str, why: str, now: datetime) -> Promotion:
    """The row with the notice that the target shows something else than it, or, with nothing to say (`why`), no longer does."""
    kind = NoticeType.DRIFTED if why else NoticeType.DRIFT_RESOLVED
    if any(notice.id == notice_id for notice in row.notices):
        return row
    text = why or "the target shows again what was promoted"
    changes = {"id": notice_id, "at": now, "reason": None, "remedy": None, "why": text[:TEXT_LIMIT]}
    return _with(row, _notice(row, kind).model_copy(update=changes))


def is_overdue(row: Promotion, now: datetime, after: timedelta) -> bool:
    """Whether nobody knows yet that this attempt takes longer than `after`. Who waits for an approval is not late."""
    if row.state.is_final or row.reason is Reason.APPROVAL_WANTED or now - _since(row) < after:
        return False
    return all(notice.type is not NoticeType.OVERDUE or notice.attempt != row.attempt for notice in row.notices)


def _since(row: Promotion) -> datetime:
    """When this attempt began, or went on after somebody had to do something."""
    began = [row.requested_at] + ([row.order.at] if row.order else [])
    went_on = [notice.at for notice in row.notices if notice.type in _GOES_ON.values()]
    return max(began + went_on)


def _news(row: Promotion) -> list[Notice]:
    told = [notice for notice in row.notices if notice.type not in _BY_THE_TIMER]
    last = told[-1] if told else None
    news = []
    if last and (after_all := _after_all(row, last)):
        news.append(_notice(row, after_all))
    kind = _kind(row)
    if kind and (last is None or (kind, row.attempt, row.reason) != (last.type, last.attempt, last.reason)):
        news.append(_notice(row, kind))
    return news


def _kind(row: Promotion) -> NoticeType | None:
    """What the row says to people as it is; None if it is simply under way."""
    if row.state.is_final:
        return _OF_FINAL.get(row.state)
    if row.reason is Reason.DEAD_LETTERED:
        return NoticeType.DEAD_LETTERED
    if row.state is State.PARKED:
        return NoticeType.APPROVAL_WANTED if row.reason is Reason.APPROVAL_WANTED else NoticeType.PARKED
    return None


def _after_all(row: Promotion, last: Notice) -> NoticeType | None:
    """That what the last notice told is over. A hop that met a fault has seen nothing, so it does not say so."""
    if row.state is State.SUCCEEDED:
        is_new = row.attempt != last.attempt
        return NoticeType.RECOVERED if last.type is NoticeType.REFUSED and is_new else _GOES_ON.get(last.type)
    goes_on = row.state is State.WAITING and row.reason is None and not _met_a_fault(row)
    return _GOES_ON.get(last.type) if goes_on else None


def _met_a_fault(row: Promotion) -> bool:
    """Whether the message that is due counts faults. Read without a model: whatever it holds, the row must be saved."""
    due = json.loads(row.command) if row.command else {}
    return bool(due.get("faults") or due.get("transients"))


def _notice(row: Promotion, kind: NoticeType) -> Notice:
    return Notice(
        id=f"{row.id}:{row.attempt}:{row.hop}:{_word(kind)}",
        type=kind,
        at=row.updated_at,
        attempt=row.attempt,
        state=row.state,
        reason=row.reason,
        why=row.why[:TEXT_LIMIT],
        remedy=row.remedy[:TEXT_LIMIT] if row.remedy else None,
    )


def _word(kind: NoticeType) -> str:
    return kind.partition(".")[2]


def _with(row: Promotion, *news: Notice) -> Promotion:
    if not news:
        return row
    return row.model_copy(
        update={"notices": (*row.notices, *news)[-KEPT:], "owed": min(row.owed + len(news), KEPT)},
    )


# --------------------------------------------------------------------------------------------------------- notifications


class PromotionData(BaseModel):
    """What every notification tells: which promotion, of what, to where, asked for by whom, and how it stood then."""

    model_config = ConfigDict(frozen=True)

    promotion_id: str
    attempt: int
    state: State
    reason: Reason | None
    why: str
    remedy: str | None
    model: str
    version: str
    source: str
    target: str
    serve: str
    endpoint: str
    requested_by: str
    requested_at: datetime


class Parked(PromotionData):
    """It waits until somebody has done what `remedy` says, and looks again by itself."""

    state: Literal[State.PARKED]
    reason: Reason


class ApprovalWanted(PromotionData):
    """It waits for the decision of somebody who may approve."""

    state: Literal[State.PARKED]
    reason: Literal[Reason.APPROVAL_WANTED]


class Approved(PromotionData):
    """It was approved and goes on."""

    state: Literal[State.WAITING, State.SUCCEEDED]


class Recovered(PromotionData):
    """It goes on after it was parked or dead-lettered, or is live after it was refused at an earlier attempt."""

    state: Literal[State.WAITING, State.SUCCEEDED]


class Live(PromotionData):
    """It has all traffic, or its schedule runs."""

    state: Literal[State.SUCCEEDED]


class Refused(PromotionData):
    """It has failed: `why` says what is wrong, `remedy` what to do before it is asked for again."""

    state: Literal[State.REFUSED]
    reason: Reason


class DeadLettered(PromotionData):
    """The service gave up because of something that it does not know. The message is in the dead-letter queue."""

    state: Literal[State.REQUESTED, State.RUNNING, State.WAITING, State.PARKED]
    reason: Literal[Reason.DEAD_LETTERED]


class Overdue(PromotionData):
    """It is not live as long after it was asked for, or went on, as the setting allows. Told once for each attempt."""

    state: Literal[State.REQUESTED, State.RUNNING, State.WAITING, State.PARKED]


class RolledBack(PromotionData):
    """It was live, and what was live before it is again; `why` says by whom and for what."""

    state: Literal[State.ROLLED_BACK]


class Superseded(PromotionData):
    """A newer version went before it."""

    state: Literal[State.SUPERSEDED]


class Cancelled(PromotionData):
    """Somebody cancelled it."""

    state: Literal[State.CANCELLED]


class Drifted(PromotionData):
    """It should be live, and the target shows something else: `why` says what."""


class DriftResolved(PromotionData):
    """The target shows again what was promoted to it."""


class Retired(PromotionData):
    """Its endpoint was taken down."""

    state: Literal[State.RETIRED]


DATA: Mapping[NoticeType, type[PromotionData]] = MappingProxyType(
    {
        NoticeType.PARKED: Parked,
        NoticeType.APPROVAL_WANTED: ApprovalWanted,
        NoticeType.APPROVED: Approved,
        NoticeType.RECOVERED: Recovered,
        NoticeType.LIVE: Live,
        NoticeType.REFUSED: Refused,
        NoticeType.DEAD_LETTERED: DeadLettered,
        NoticeType.OVERDUE: Overdue,
        NoticeType.ROLLED_BACK: RolledBack,
        NoticeType.SUPERSEDED: Superseded,
        NoticeType.CANCELLED: Cancelled,
        NoticeType.RETIRED: Retired,
        NoticeType.DRIFTED: Drifted,
        NoticeType.DRIFT_RESOLVED: DriftResolved,
    }
)


class Notification(BaseModel):
    """A CloudEvent 1.0, as far as it is ours to say."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: NoticeType
    source: str = SOURCE
    subject: str
    time: datetime
    data: PromotionData


def notifications(row: Promotion) -> tuple[Notification, ...]:
    """What a row owes, oldest first."""
    return tuple(_notification(row, notice) for notice in row.notices[len(row.notices) - row.owed :])


def _notification(row: Promotion, notice: Notice) -> Notification:
    data = DATA[notice.type](
        promotion_id=row.id,
        attempt=notice.attempt,
        state=notice.state,
        reason=notice.reason,
        why=notice.why,
        remedy=notice.remedy,
        model=row.model,
        version=row.version,
        source=row.source,
        target=row.target,
        serve=row.serve,
        endpoint=row.endpoint,
        requested_by=row.requested_by,
        requested_at=row.requested_at,
    )
    subject = f"targets/{row.target}/{row.serve}/{row.endpoint}/models/{row.model}:{row.version}"
    return Notification(id=notice.id, type=notice.type, subject=subject, time=notice.at, data=data)
