"""The clock, and the way of every request of the service: where faults strike, and where others come between."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from core.errors import Blocked, Conflict, Reason, Transient
from tests.unit.builders import NOON

A_REQUEST = timedelta(milliseconds=20)
P = ParamSpec("P")
R = TypeVar("R")


class Died(BaseException):
    """The process ends here."""


class Fault(Enum):
    """What a request can end with."""

    THROTTLED = auto()
    UNAVAILABLE = auto()
    OVERTAKEN = auto()
    FORBIDDEN = auto()
    UNKNOWN = auto()
    DEATH = auto()

    def error(self, request: str) -> BaseException:
        match self:
            case Fault.THROTTLED:
                return Transient(f"too many requests (HTTP 429 while {request})", retry_after=20)
            case Fault.UNAVAILABLE:
                return Transient(f"not available (HTTP 503 while {request})")
            case Fault.OVERTAKEN:
                return Conflict(f"somebody else was first (HTTP 412 while {request})")
            case Fault.FORBIDDEN if request == "send":
                return Transient("no token could be had")  # what keeps the queue's adapter is always Transient
            case Fault.FORBIDDEN:
                return Blocked(Reason.PERMISSION_MISSING, f"HTTP 403 while {request}", remedy="Give the role.")
            case Fault.UNKNOWN:
                return ArithmeticError(f"nobody has thought of this in {request}")
            case Fault.DEATH:
                return Died(request)


@dataclass
class Strike:
    """A fault of one request: the one after so many others. `is_done`: it was carried out, only its answer is lost."""

    after: int
    fault: Fault
    is_done: bool = False


@dataclass
class Between:
    """What somebody else does between two requests of the service."""

    after: int
    act: Callable[[], None]


@dataclass
class Wire:
    """All that the models share. `broken` has what must never happen and did."""

    now: datetime = NOON
    armed: Strike | Between | None = None
    struck: list[Fault] = field(default_factory=list)
    ever_struck: set[Fault] = field(default_factory=set)
    writes: int = 0
    broken: list[str] = field(default_factory=list)
    _depth: int = 0

    @contextmanager
    def service(self) -> Iterator[None]:
        """What is asked inside is asked by the service."""
        self._depth += 1
        outside, self.struck = self.struck, []
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth:
                self.struck = outside

    def never(self, what: str) -> None:
        self.broken.append(what)

    def carried_out(self, request: str, is_write: bool, do: Callable[[], R]) -> R:
        if self._depth == 0:
            return do()
        self.now += A_REQUEST
        strike = self._due()
        if strike is not None and not strike.is_done:
            raise self._failed(strike, request)
        answer = do()
        self.writes += is_write  # what was refused by a condition has written nothing
        if strike is not None:
            raise self._failed(strike, request)
        return answer

    def _due(self) -> Strike | None:
        armed = self.armed
        if armed is None:
            return None
        if armed.after > 0:
            armed.after -= 1
            return None
        self.armed = None
        if isinstance(armed, Strike):
            return armed
        armed.act()
        return None

    def _failed(self, strike: Strike, request: str) -> BaseException:
        self.struck.append(strike.fault)
        self.ever_struck.add(strike.fault)
        return strike.fault.error(request)


class _Wired(Protocol):
    wire: Wire


def _request(is_write: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def over_the_wire(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def asked(self: _Wired, *args: Any, **given: Any) -> Any:
            return self.wire.carried_out(method.__name__, is_write, lambda: method(self, *args, **given))

        return asked

    return over_the_wire


W = TypeVar("W", bound=_Wired)


def reads(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """One request that changes nothing."""
    return _request(False)(method)


def writes(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """One request that may change something."""
    return _request(True)(method)
