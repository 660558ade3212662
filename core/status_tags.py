"""Where a promotion stands, as a tag of the model version in its source: there its author looks.

Opt-in for each source (`status_tags: true`); without it the service only reads the source. A tag is written when its text
changes, and what could not be written is mended by the timer (`core/reconcile.py`).
"""

import logging
import threading
from collections import OrderedDict
from typing import Protocol

from core.errors import PromotionError, Reason
from core.events import WorkspaceId
from core.ledger import Promotion, State
from core.policy import Policy
from core.tags import VALUE_LIMIT

log = logging.getLogger(__name__)

PREFIX = "promotion."
KEPT = 4096
_WORDS = {
    State.SUPERSEDED: "superseded by a newer one",
    State.CANCELLED: "cancelled",
    State.ROLLED_BACK: "rolled back",
    State.RETIRED: "retired",
}


class TagWriter(Protocol):
    def set_tag(self, workspace: WorkspaceId, name: str, version: str, key: str, value: str) -> None:
        """Give a model version this tag and leave all others as they are, also those that come at the same moment."""
        ...


def key_of(target: str) -> str:
    return f"{PREFIX}{target}"


def text_of(row: Promotion) -> str:
    """The value of the tag: 256 characters at most."""
    match row.state:
        case State.SUCCEEDED:
            return "live at 100 %" if row.serve == "realtime" else "live"
        case State.PARKED if row.reason is Reason.APPROVAL_WANTED:
            return "waiting for approval"
        case State.PARKED if row.reason is Reason.ON_HOLD:
            return "waiting: the endpoint is on hold"
        case State.PARKED:
            return f"waiting: {row.why}"[:VALUE_LIMIT]
        case State.REFUSED:
            return refused(row.why)
        case _:
            return _WORDS.get(row.state, "in progress")


def refused(why: str) -> str:
    return f"refused: {why}"[:VALUE_LIMIT]


class StatusTags:
    """`core.ports.News`. Remembers what it has written, so that a hop without news costs no request."""

    def __init__(self, policy: Policy, writer: TagWriter) -> None:
        self._writer = writer
        self._opted_in = {source.id.key for source in policy.sources.values() if source.status_tags}
        self._written: OrderedDict[tuple[str, ...], str] = OrderedDict()
        self._lock = threading.Lock()

    def is_wanted(self, source: WorkspaceId) -> bool:
        return source.key in self._opted_in

    def tell(self, promotion: Promotion, source: WorkspaceId) -> None:
        self.show(source, promotion.model, promotion.version, promotion.target, text_of(promotion))

    def mend(self, source: WorkspaceId, model: str, version: str, target: str, text: str) -> None:
        """Write the tag that should be there and is not, whatever was written before."""
        with self._lock:
            self._written.pop((source.key, model, version, target), None)
        self.show(source, model, version, target, text)

    def show(self, source: WorkspaceId, model: str, version: str, target: str, text: str) -> None:
        """Write the tag if it is wanted and not known to be there. What goes wrong is logged, and mended later."""
        if not self.is_wanted(source):
            return
        place = (source.key, model, version, target)
        with self._lock:
            if self._written.get(place) == text:
                return
        try:
            self._writer.set_tag(source, model, version, key_of(target), text)
        except PromotionError as fault:
            log.warning("could not tag %s:%s with %s: %s", model, version, text, fault)
            return
        with self._lock:
            self._written[place] = text
            while len(self._written) > KEPT:
                self._written.popitem(last=False)
