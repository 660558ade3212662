"""The time of the local Azure: the machine's clock plus an offset that tests and demos may advance."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta


class Clock:
    """A clock that only moves forward; everything in the local Azure that expires or is due asks it.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._advanced = asyncio.Event()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    def advance(self, seconds: float) -> None:
        """Move the clock forward by `seconds`; whoever waits for a moment that has now come is woken."""
        if seconds < 0:
            raise ValueError(f"the clock cannot go back, got {seconds} s")
        self._offset += timedelta(seconds=seconds)
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def wait_until(self, moment: datetime) -> None:
        """Return once this clock shows `moment` (timezone-aware) or later."""
        while (left := (moment - self.now()).total_seconds()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._advanced.wait(), timeout=left)

    async def wait(self, seconds: float) -> None:
        """Return once `seconds` of this clock have passed."""
        await self.wait_until(self.now() + timedelta(seconds=seconds))
