"""What is counted of promotions, as log records with fields: queries and alerts over them are KQL (docs/operations.md).

Records, not counters: a counter would forget with its process what a killed delivery had counted, and count a repeated one
twice. Of a record that is written twice, a query takes the last. `record` names its kind.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from core.events import WorkspaceId
from core.ledger import Promotion, State
from core.telemetry import bearing

log = logging.getLogger(__name__)

CHANGE, TICK = "change", "tick"


class Changes:
    """`core.ports.News` of each change of a promotion's row: its state, why, and how long it has taken since it was asked for."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def tell(self, promotion: Promotion, source: WorkspaceId) -> None:
        with bearing(
            record=CHANGE,
            promotion_id=promotion.id,
            attempt=promotion.attempt,
            state=promotion.state.value,
            reason=promotion.reason.value if promotion.reason else None,
            origin=promotion.origin,
            model=promotion.model,
            target=promotion.target,
            endpoint=promotion.endpoint,
            serve=promotion.serve,
            seconds=round((self._now() - promotion.requested_at).total_seconds(), 1),
        ):
            log.info("promotion %s is %s", promotion.id, promotion.state)


def tick(under_way: Iterable[Promotion], now: datetime, *, woken: int, problems: int, drifted: int) -> None:
    """That the timer has run, and how long the promotion that is most overdue has waited for its delivery."""
    with bearing(
        record=TICK, queue_age_seconds=queue_age(under_way, now), woken=woken, problems=problems, drifted=drifted
    ):
        log.info("the timer has run")


def queue_age(under_way: Iterable[Promotion], now: datetime) -> float:
    """The seconds by which the oldest message is late: counted from when it was due, or was sent to be delivered at once."""
    due = (row.due or (row.updated_at if row.state is State.REQUESTED else None) for row in under_way)
    return max((round((now - at).total_seconds(), 1) for at in due if at is not None and at < now), default=0.0)
