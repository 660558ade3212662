"""Everything that falls due in a namespace, in one heap."""

import heapq
import itertools
from collections.abc import Callable
from datetime import datetime


class Timers:
    """Calls back what is due, whenever `run` is called; `on_sooner` says that the next moment to do so has moved up.

    Nothing can be taken out: whoever is called back looks whether there is still something to do.
    """

    def __init__(self, now: Callable[[], datetime], on_sooner: Callable[[], None] = lambda: None) -> None:
        self.now = now
        self._on_sooner = on_sooner
        self._heap: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: datetime, act: Callable[[], None]) -> None:
        sooner = not self._heap or moment < self._heap[0][0]
        heapq.heappush(self._heap, (moment, next(self._numbers), act))
        if sooner:
            self._on_sooner()

    @property
    def next_moment(self) -> datetime | None:
        return self._heap[0][0] if self._heap else None

    def run(self) -> None:
        while self._heap and self._heap[0][0] <= self.now():
            heapq.heappop(self._heap)[2]()
