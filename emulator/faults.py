"""Faults that a test puts in the way of requests: a status, a delay, a dropped connection, a hold.

A fault meets a request either *before* its effect (the service never sees the request) or *after* it (the effect stands,
the answer is what suffers). That difference is what a crash test is about, so each fault names its phase.
"""

import asyncio
import itertools
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from emulator.clock import Clock
from emulator.request_log import Entry

Phase = Literal["before", "after"]


@dataclass
class Fault:
    """Which requests it meets, and what it does to them. Unset fields match everything.

    `path` is a regular expression searched in the path, case-insensitively; `query` one searched in `k=v&k=v`.
    It lets `skip` matching requests pass, meets the next `times`, and is then spent.
    What it does, in this order: wait `delay` seconds of the local Azure's clock; if `hold`, wait until it is released or
    removed; then, if `drop`, close the connection without an answer; else, if `status`, answer with `status`, `headers`
    and `body` (JSON). With none of the last two the request goes on as if nothing had happened.
    """

    service: str | None = None
    method: str | None = None
    path: str | None = None
    query: str | None = None
    principal: str | None = None
    phase: Phase = "before"
    skip: int = 0
    times: int = 1
    delay: float = 0.0
    hold: bool = False
    drop: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None

    def meets(self, entry: Entry, phase: Phase) -> bool:
        query = "&".join(f"{key}={value}" for key, value in entry.query.items())
        return (
            phase == self.phase
            and self.service in (None, entry.service)
            and self.method in (None, entry.method)
            and self.principal in (None, entry.principal)
            and (self.path is None or re.search(self.path, entry.path, re.IGNORECASE) is not None)
            and (self.query is None or re.search(self.query, query, re.IGNORECASE) is not None)
        )

    @property
    def replaces_answer(self) -> bool:
        return self.drop or self.status is not None


@dataclass
class Planted:
    """A fault in place, and how often it has met a request. `held` is the entry that waits in it, for tests to see."""

    number: int
    fault: Fault
    seen: int = 0
    met: int = 0
    held: list[int] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def as_json(self) -> dict[str, Any]:
        return {"number": self.number, "fault": asdict(self.fault), "met": self.met, "held": list(self.held)}


class Faults:
    """The faults in place. Each service calls `meet` before and after the effect of every request it logs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._planted: dict[int, Planted] = {}
        self._numbers = itertools.count(1)

    def plant(self, fault: Fault) -> Planted:
        planted = Planted(next(self._numbers), fault)
        self._planted[planted.number] = planted
        return planted

    def all(self) -> list[Planted]:
        return list(self._planted.values())

    def release(self, number: int) -> None:
        """Let what waits in this fault go on."""
        self._planted[number].released.set()

    def remove(self, number: int) -> None:
        if planted := self._planted.pop(number, None):
            planted.released.set()

    def clear(self) -> None:
        for number in list(self._planted):
            self.remove(number)

    async def meet(self, entry: Entry, phase: Phase) -> Fault | None:
        """Carry out the first fault that meets this request; return it if the answer is to be replaced or dropped."""
        for planted in self.all():
            fault = planted.fault
            if planted.met >= fault.times or not fault.meets(entry, phase):
                continue
            planted.seen += 1
            if planted.seen <= fault.skip:
                continue
            planted.met += 1
            if fault.delay:
                await self._clock.wait(fault.delay)
            if fault.hold:
                await self._hold(planted, entry)
            return fault if fault.replaces_answer else None
        return None

    async def _hold(self, planted: Planted, entry: Entry) -> None:
        planted.held.append(entry.number)
        try:
            await planted.released.wait()
        finally:
            planted.held.remove(entry.number)
