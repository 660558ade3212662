"""HTTP: failed work, which is dead letters of the queue and refused promotions, and how it goes again."""

from collections import Counter
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from core.replay import AT_ONCE, Failed, Letter, Replay
from functions.http import Body, Problem
from functions.routes import Nothing, Page, Request, Routes

ALL = 10_000


class Listing(Page):
    """`group` adds how many failed for which reason."""

    group: Literal["reason"] | None = None


class Group(Body):
    reason: str
    count: int


class FailedWork(Body):
    """What failed, the last first; `groups` are over all of it, the largest first."""

    failed: tuple[Failed, ...]
    groups: tuple[Group, ...] = ()


class Retry(Body):
    """Which failed work goes again: `ids`, all with a `reason`, or `all`; so many dead letters in a minute."""

    ids: tuple[str, ...] | None = None
    reason: str | None = None
    all: bool = False
    per_minute: int = Field(60, ge=1, le=6000)
    note: str = Field("", max_length=500)


class NotRetried(Body):
    id: str
    why: str


class Retried(Body):
    """What went again and what did not; ask again for those that remain."""

    retried: tuple[str, ...]
    failed: tuple[NotRetried, ...]
    remaining: int


class Letters(Body):
    dead_letters: tuple[Letter, ...]


class Why(Body):
    reason: str = Field("", max_length=500)


class Because(Body):
    reason: str = Field(min_length=1, max_length=500)


def routes(replay: Callable[[], Replay], *, platform_authentication: bool) -> Routes:
    api = Routes(platform_authentication=platform_authentication)

    @api.get("failed", "Dead letters and refused promotions in one view.", takes=Listing, answers=FailedWork)
    def list_failed(req: Request[Listing]) -> FailedWork:
        if req.given.group is None:
            return FailedWork(failed=replay().failed(req.given.limit))
        everything = replay().failed(ALL)
        counted = Counter(each.reason for each in everything).most_common()
        groups = tuple(Group(reason=reason, count=count) for reason, count in counted)
        return FailedWork(failed=everything[: req.given.limit], groups=groups)

    @api.post("failed/retry", "Send failed work again: some, a group by reason, or all.", takes=Retry, answers=Retried)
    def retry_failed(req: Request[Retry]) -> Retried:
        ids = _chosen(req.given, replay)
        done, problems = replay().retry(
            ids[:AT_ONCE],
            req.caller,
            order_id=req.order_id,
            per_minute=req.given.per_minute,
            note=req.given.note,
        )
        failed = tuple(NotRetried(id=name, why=why) for name, why in problems.items())
        return Retried(retried=tuple(done), failed=failed, remaining=max(0, len(ids) - AT_ONCE))

    @api.get("dead-letters", "The dead letters, the oldest first.", takes=Page, answers=Letters)
    def list_dead_letters(req: Request[Page]) -> Letters:
        return Letters(dead_letters=replay().letters(req.given.limit))

    @api.get("dead-letters/{sequence_number:long}", "A dead letter.", takes=Nothing, answers=Letter)
    def show_dead_letter(req: Request[Nothing]) -> Letter:
        return replay().letter(int(req.path["sequence_number"]))

    @api.post("dead-letters/{sequence_number:long}/resubmit", "Send a dead letter again.", takes=Why, answers=Letter)
    def resubmit_dead_letter(req: Request[Why]) -> Letter:
        return replay().resubmit(int(req.path["sequence_number"]), req.caller, reason=req.given.reason)

    @api.post(
        "dead-letters/{sequence_number:long}/drop",
        "Take a dead letter away.",
        takes=Because,
        answers=Letter,
        status=200,
    )
    def drop_dead_letter(req: Request[Because]) -> Letter:
        return replay().drop(int(req.path["sequence_number"]), req.caller, reason=req.given.reason)

    return api


def _chosen(asked: Retry, replay: Callable[[], Replay]) -> list[str]:
    if sum((asked.ids is not None, asked.reason is not None, asked.all)) != 1:
        raise Problem(400, "say which: one of `ids`, `reason` and `all`")
    if asked.ids is not None:
        return list(dict.fromkeys(asked.ids))
    return [each.id for each in replay().failed(ALL) if asked.all or each.reason == asked.reason]
