"""Waiting for what shall come: looks again whenever something was written, and shows what is new."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from demo.azure import Operations
from demo.progress import Progress
from emulator.control_client import ControlClient

PATIENCE = 600.0
FINAL = frozenset({"succeeded", "refused", "superseded", "cancelled", "rolled_back", "retired"})
T = TypeVar("T")


class Watch:
    """Events and promotions as they come about."""

    def __init__(self, operations: Operations, control: ControlClient, progress: Progress) -> None:
        self._operations = operations
        self._control = control
        self._progress = progress
        self._newest = 0

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """What `look` finds. Raises TimeoutError if that takes too long."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            if (found := look()) is not None:
                return found
            self._newest = self._control.next_write(self._newest)
        raise TimeoutError(f"{what}: not seen within {PATIENCE:.0f} s")

    def event(self, model: str, version: str) -> dict[str, Any]:
        """What came of the registration of a model version."""

        def received() -> dict[str, Any] | None:
            events = self._operations.events_of(model, version)
            for event in events:
                self._progress.event(event)
            return events[0] if events else None

        return self.until(received, f"an event about {model}:{version}")

    def promotion(self, model: str, version: str, target: str | None = None) -> dict[str, Any]:
        """The promotion of a model version, as soon as there is one."""
        return self.until(
            lambda: self._operations.promotion_of(model, version, target), f"a promotion of {model}:{version}"
        )

    def reached(self, promotion_id: str, *states: str, attempt: int = 1) -> dict[str, Any]:
        """The promotion once it is in one of these states, or has ended in another, at this attempt or a later one."""

        def there() -> dict[str, Any] | None:
            row = self._operations.promotion(promotion_id)
            self._progress.promotion(row)
            has_ended = row["state"] in states or (row["state"] in FINAL)
            return row if row["attempt"] >= attempt and has_ended else None

        return self.until(there, f"promotion {promotion_id} {' or '.join(states)}")
