"""What a delivery of a command ends with: one channel, matched exhaustively."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.commands import Operation, Phase
from core.errors import Reason


@dataclass(frozen=True)
class Done:
    """The target shows what the command wants. `result` tells how to call it."""

    result: Mapping[str, Any]


@dataclass(frozen=True)
class Waiting:
    """Something takes its time: look again. `operation` is what Azure is busy with, if it said so.

    `live` is the result of a deployment that has all traffic already, and soaks.
    """

    phase: Phase
    why: str
    operation: Operation | None = None
    retry_after: float | None = None
    live: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Parked:
    """Somebody must do something first (`remedy`); it is looked at again by itself: at `until` if that is known, after
    `retry_after` seconds if that is, seldom otherwise. A `question` can be answered by approving or rejecting it.
    """

    reason: Reason
    why: str
    remedy: str
    phase: Phase = Phase.PARK
    retry_after: float | None = None
    until: datetime | None = None
    question: str = ""


@dataclass(frozen=True)
class Refused:
    """It ends here. `remedy` says what to do; a newer promotion that took over is the reason SUPERSEDED."""

    reason: Reason
    why: str
    remedy: str
    detail: Mapping[str, str] = field(default_factory=dict)


Outcome = Done | Waiting | Parked | Refused
