"""Notices on their way to the topic: at once if it takes them, by the timer otherwise. At least once, with the same id.

A notice stands in the row that it is about until it was published, so a crash or a topic that is down loses none and holds
up no promotion. The row is saved once more after its notices were published; a hop without news costs no request.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from core.errors import PromotionError, Refusal, Transient
from core.events import WorkspaceId
from core.ledger import Promotion, State
from core.notifications import KEPT, Notification, is_overdue, noted_drift, noted_overdue, notifications

log = logging.getLogger(__name__)

# While the topic is down, deliveries leave it to the timer, so that no promotion waits for it again and again.
QUIET_SECONDS = 60.0
ROWS_A_TICK = 200


class Topic(Protocol):
    def publish(self, events: Sequence[Notification]) -> None:
        """Publish all or none. Raises Transient or Blocked if the topic takes nothing, Refusal if it does not take these."""
        ...


class NoticeLedger(Protocol):
    """The ledger as far as publishing needs it."""

    def promotion(self, promotion_id: str) -> Promotion | None: ...

    def save(self, promotion: Promotion) -> Promotion: ...

    def owing(self, *, limit: int) -> tuple[str, ...]: ...


class Publisher:
    """`core.ports.News`, and the timer's part of it. `overdue_after` is how long a promotion may take."""

    def __init__(self, *, topic: Topic, ledger: NoticeLedger, overdue_after: timedelta) -> None:
        self._topic = topic
        self._ledger = ledger
        self._overdue_after = overdue_after
        self._quiet_until = 0.0

    def tell(self, promotion: Promotion, source: WorkspaceId) -> None:
        """Publish what this row owes, if the topic was not down just now. What goes wrong is logged, and mended later."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._publish(promotion)
        except Refusal as refusal:
            log.warning("promotion %s: the topic refuses its notifications: %s", promotion.id, refusal)
        except PromotionError as fault:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            log.warning("promotion %s: its notifications are published later: %s", promotion.id, fault)

    def catch_up(self, under_way: Iterable[Promotion], now: datetime) -> int:
        """Publish what is owed and what is overdue; how many notifications that were.

        `under_way` are listed promotions that have not ended. Raises the first PromotionError that kept one back, after
        all others were tried; at once if the topic takes nothing at all.
        """
        late = [row.id for row in under_way if is_overdue(row, now, self._overdue_after)]
        published, kept_back = 0, None
        for promotion_id in dict.fromkeys([*self._ledger.owing(limit=ROWS_A_TICK), *late[:ROWS_A_TICK]]):
            row = self._ledger.promotion(promotion_id)
            if row is None:
                continue
            try:
                published += self._publish(noted_overdue(row, now, self._overdue_after))
            except Refusal as refusal:
                kept_back = kept_back or refusal
                log.warning("promotion %s: the topic refuses its notifications: %s", promotion_id, refusal)
        if kept_back:
            raise kept_back
        return published

    def tell_of_drift(self, row: Promotion, notice_id: str, why: str, now: datetime) -> None:
        """That the target shows something else than this promotion, or no longer does (no `why`); once for each id."""
        self._publish(noted_drift(row, notice_id, why, now))

    def _publish(self, row: Promotion) -> int:
        """How many were published; none while a delivery is about to save this row again."""
        events = notifications(row)
        if not events or row.state is State.RUNNING:
            return 0
        if len(events) == KEPT:
            log.warning("promotion %s: notifications older than %s may have been dropped", row.id, events[0].time)
        self._topic.publish(events)
        try:
            self._ledger.save(row.model_copy(update={"owed": 0}))
        except Transient as fault:
            log.info("promotion %s: its %d notifications will be repeated: %s", row.id, len(events), fault)
        return len(events)
