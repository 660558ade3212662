"""Freeze windows: times at which nothing new is promoted to a target, and when they end. Pure.

A window is written in local time and lasts from `start` until `end`; `end` itself is outside. Both are local times by
date, or both a day of the week and a time of day, which come again every week.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from core.time_zones import zone

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?")
_WEEKLY = re.compile(r"(?P<day>[a-z]+)\s+(?P<hour>\d{1,2}):(?P<minute>\d{2})", re.IGNORECASE)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEK = timedelta(days=7)
# Nobody freezes for longer; it bounds the search for an end.
LONGEST = timedelta(days=400)
# Any week does to find out whether weekly windows leave a gap; clocks are put forward and back in this year as well.
_SOME_TIME = datetime(2026, 1, 5, tzinfo=UTC)


def _moment(value: str) -> str:
    if _DATE.fullmatch(value):
        datetime.fromisoformat(value)
    elif _of_week(value) is None:
        raise ValueError(
            f"{value!r} is neither a local time, such as 2026-12-18T16:00, nor one of a week: friday 16:00"
        )
    return value


def _of_week(value: str) -> timedelta | None:
    """Time since the week began on Monday; None for what is no time of a week."""
    found = _WEEKLY.fullmatch(value)
    if not found or found["day"].lower() not in _DAYS or int(found["hour"]) > 23 or int(found["minute"]) > 59:
        return None
    return timedelta(days=_DAYS.index(found["day"].lower()), hours=int(found["hour"]), minutes=int(found["minute"]))


def _zone_name(value: str) -> str:
    zone(value)
    return value


def _as_text(value: Any) -> Any:
    """YAML reads an unquoted date as one."""
    return value.isoformat() if isinstance(value, date) else value


Moment = Annotated[str, BeforeValidator(_as_text), AfterValidator(_moment)]


class Freeze(BaseModel):
    """One window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Moment = Field(
        description="Local time such as 2026-12-18T16:00 or 2026-12-18, or friday 16:00 of each week."
    )
    end: Moment = Field(description="In the same form as `start`; the first moment that is free again.")
    time_zone: Annotated[str, AfterValidator(_zone_name)] = Field(
        "UTC", description="An IANA name such as Europe/Berlin, or a Windows name as in a schedule."
    )
    reason: str = Field("", max_length=200, description="For whoever waits.")

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.is_weekly != (_of_week(self.end) is not None):
            raise ValueError("start and end must both be dates, or both be days of the week")
        if self.is_weekly and _of_week(self.start) == _of_week(self.end):
            raise ValueError("start and end are the same time of the week")
        if not self.is_weekly and datetime.fromisoformat(self.start) >= datetime.fromisoformat(self.end):
            raise ValueError("it must end after it starts")
        return self

    @property
    def is_weekly(self) -> bool:
        return _of_week(self.start) is not None

    def end_at(self, at: datetime) -> datetime | None:
        """When it ends (UTC), if `at` is in it."""
        return next((end for start, end in self._around(at) if start <= at < end), None)

    def _around(self, at: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The occurrences that `at` can be in."""
        start, end = _of_week(self.start), _of_week(self.end)
        if start is None or end is None:
            yield self._utc(datetime.fromisoformat(self.start)), self._utc(datetime.fromisoformat(self.end))
            return
        local = at.astimezone(zone(self.time_zone)).replace(tzinfo=None)
        monday = datetime(local.year, local.month, local.day) - timedelta(days=local.weekday())
        lasts = (end - start) % _WEEK
        for week in (monday - _WEEK, monday, monday + _WEEK):
            yield self._utc(week + start), self._utc(week + start + lasts)

    def _utc(self, local: datetime) -> datetime:
        return local.replace(tzinfo=zone(self.time_zone)).astimezone(UTC)


def frozen_until(windows: Iterable[Freeze], at: datetime) -> datetime | None:
    """When the last of the windows that follow each other without a gap ends; None if `at` is in none."""
    windows, until = tuple(windows), at
    while until - at < LONGEST:
        ends = [end for window in windows if (end := window.end_at(until)) is not None]
        if not ends:
            break
        until = max(ends)
    return until if until > at else None


def reasons(windows: Iterable[Freeze], at: datetime) -> tuple[str, ...]:
    """Why it is frozen, of the windows that say so."""
    return tuple(window.reason for window in windows if window.reason and window.end_at(at) is not None)


def _leaves_a_gap(windows: tuple[Freeze, ...]) -> tuple[Freeze, ...]:
    until = frozen_until([window for window in windows if window.is_weekly], _SOME_TIME)
    if until is not None and until - _SOME_TIME > 2 * _WEEK:
        raise ValueError("the weekly windows leave no time at all: nothing would ever be promoted")
    return windows


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Freezes = Annotated[tuple[Freeze, ...], BeforeValidator(_listed), AfterValidator(_leaves_a_gap)]
