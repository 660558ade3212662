"""HTTP: failed work, which is dead letters of the queue and refused promotions, and how it goes again."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from core.dead_letters import Letter
from core.replay import Failed, Replay
from functions.http import Body
from functions.routes import Nothing, Page, Request, Routes

REASON_LIMIT = 500


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
    """Which failed work goes again: `ids`, all with a `reason`, or `all`; and how many of it in a minute."""

    ids: tuple[str, ...] | None = None
    reason: str | None = None
    all: bool = False
    per_minute: int = Field(60, ge=1, le=6000)
    note: str = Field("", max_length=REASON_LIMIT)

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if sum((self.ids is not None, self.reason is not None, self.all)) != 1:
            raise ValueError("say which: one of ids, reason and all")
        return self


class NotRetried(Body):
    id: str
    why: str


class Retried(Body):
    """What went again, what did not, and how much is left: ask again for that."""

    retried: tuple[str, ...]
    failed: tuple[NotRetried, ...]
    remaining: int


class Letters(Body):
    dead_letters: tuple[Letter, ...]


class Why(Body):
    """Why it is worth another try."""

    reason: str = Field("", max_length=REASON_LIMIT)


class DropReason(Body):
    """Why nobody needs it any more."""

    reason: str = Field(min_length=1, max_length=REASON_LIMIT)


def routes(replay: Callable[[], Replay], *, platform_authentication: bool) -> Routes:
    api = Routes(platform_authentication=platform_authentication)
    _many(api, replay)
    _letters(api, replay)
    return api


def _many(api: Routes, replay: Callable[[], Replay]) -> None:
    @api.get("failed", "Dead letters and refused promotions in one view.", takes=Listing, answers=FailedWork)
    def list_failed(req: Request[Listing]) -> FailedWork:
        counted = Counter(replay().reasons()).most_common() if req.given.group else ()
        groups = tuple(Group(reason=reason, count=count) for reason, count in counted)
        return FailedWork(failed=replay().failed(req.given.limit), groups=groups)

    @api.post("failed/retry", "Send failed work again: some, a group by reason, or all.", takes=Retry, answers=Retried)
    def retry_failed(req: Request[Retry]) -> Retried:
        asked = req.given
        act = partial(replay().retry_all, asked.reason) if asked.ids is None else partial(replay().retry, asked.ids)
        came = act(req.caller, order_id=req.order_id, per_minute=asked.per_minute, note=asked.note)
        failed = tuple(NotRetried(id=name, why=why) for name, why in came.problems.items())
        return Retried(retried=came.done, failed=failed, remaining=came.remaining)


def _letters(api: Routes, replay: Callable[[], Replay]) -> None:
    place = "dead-letters/{sequence_number:long}"

    @api.get("dead-letters", "The dead letters, the oldest first.", takes=Page, answers=Letters)
    def list_dead_letters(req: Request[Page]) -> Letters:
        return Letters(dead_letters=replay().letters(req.given.limit))

    @api.get(place, "A dead letter.", takes=Nothing, answers=Letter)
    def show_dead_letter(req: Request[Nothing]) -> Letter:
        return replay().letter(_number(req))

    @api.post(f"{place}/resubmit", "Send a dead letter again.", takes=Why, answers=Letter)
    def resubmit_dead_letter(req: Request[Why]) -> Letter:
        return replay().resubmit(_number(req), req.caller, reason=req.given.reason)

    @api.post(f"{place}/drop", "Take a dead letter away for good.", takes=DropReason, answers=Letter, status=200)
    def drop_dead_letter(req: Request[DropReason]) -> Letter:
        return replay().drop(_number(req), req.caller, reason=req.given.reason)


def _number(req: Request[Nothing] | Request[Why] | Request[DropReason]) -> int:
    return int(req.path["sequence_number"])
