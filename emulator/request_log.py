"""What arrived at the local Azure, in order: one entry for each HTTP request and each AMQP send or settlement."""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from emulator.clock import Clock

# Enough for the longest test by far; a bound, so that `make up` can run for weeks.
KEPT_ENTRIES = 200_000


@dataclass
class Entry:
    """One request.

    `service` is the emulated service (`arm`, `azureml`, `blob`, `table`, `queue`, `scoring`, `event_grid`,
    `service_bus`, `identity`); `method` the HTTP method, or SEND, COMPLETE, ABANDON, DEAD_LETTER, DEFER, RENEW for AMQP;
    `path` the URL's path, or the queue; `query` holds no signature or key; `principal` the name of the caller, if known.
    `status` stays None while the request is under way, and 0 when its connection was dropped without an answer.
    """

    number: int
    at: datetime
    service: str
    method: str
    host: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    principal: str | None = None
    status: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"at": self.at.isoformat()}


class RequestLog:
    """Append-only, bounded; `since` lets a reader follow it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=KEPT_ENTRIES)
        self._numbers = itertools.count(1)
        self._grown = asyncio.Event()
        self._writes = 0
        self._written = asyncio.Event()

    @property
    def writes(self) -> int:
        """How often a request that is no mere look has begun, or has been answered."""
        return self._writes

    async def written(self) -> None:
        """Return once `writes` has become more."""
        await self._written.wait()

    async def grown(self) -> None:
        """Return once another entry has begun."""
        await self._grown.wait()

    def begin(
        self,
        *,
        service: str,
        method: str,
        host: str,
        path: str,
        query: dict[str, str] | None = None,
        principal: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Entry:
        entry = Entry(
            number=next(self._numbers),
            at=self._clock.now(),
            service=service,
            method=method,
            host=host,
            path=path,
            query=query or {},
            principal=principal,
            detail=detail or {},
        )
        self._entries.append(entry)
        self._grown.set()
        self._grown = asyncio.Event()
        self._count(entry)
        return entry

    def end(self, entry: Entry, status: int) -> None:
        """The entry's request has been answered with this status; 0 if its connection was dropped."""
        entry.status = status
        self._count(entry)

    def _count(self, entry: Entry) -> None:
        if entry.is_write:
            self._writes += 1
            self._written.set()
            self._written = asyncio.Event()

    def since(self, number: int) -> Iterator[Entry]:
        """The entries after the one with this number, oldest first."""
        newer = itertools.takewhile(lambda entry: entry.number > number, reversed(self._entries))
        return reversed(list(newer))
