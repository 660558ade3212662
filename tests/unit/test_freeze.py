"""When a target is frozen, and when that ends."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from core.freeze import LONGEST, Freeze, Freezes, frozen_until, reasons
from core.time_zones import TIME_ZONES, zone

ALL = TypeAdapter(tuple[Freeze, ...])
BERLIN = "W. Europe Standard Time"
WEEKEND = {"start": "friday 16:00", "end": "monday 08:00", "time_zone": BERLIN}
YEAR_END = {"start": "2026-12-18", "end": "2027-01-04", "time_zone": "Europe/Berlin", "reason": "year end"}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("windows", "at", "until"),
    [
        ([], "2026-03-07T12:00", None),
        ([WEEKEND], "2026-03-06T14:59", None),
        ([WEEKEND], "2026-03-06T15:00", "2026-03-09T07:00"),
        ([WEEKEND], "2026-03-07T12:00", "2026-03-09T07:00"),
        ([WEEKEND], "2026-03-09T07:00", None),
        ([WEEKEND], "2026-03-28T12:00", "2026-03-30T06:00"),
        ([WEEKEND], "2026-10-24T12:00", "2026-10-26T07:00"),
        ([YEAR_END], "2026-12-17T22:59", None),
        ([YEAR_END], "2026-12-17T23:00", "2027-01-03T23:00"),
        ([YEAR_END, WEEKEND], "2026-12-30T12:00", "2027-01-04T07:00"),
        ([WEEKEND | {"end": "friday 15:00"}], "2026-03-04T12:00", "2026-03-06T14:00"),
        ([{"start": "2026-03-04T11:30", "end": "2026-03-04 12:30:30"}], "2026-03-04T12:30", "2026-03-04T12:30:30"),
    ],
    ids=[
        "no windows",
        "just before the weekend",
        "its first moment",
        "within it",
        "its end is free",
        "clocks go forward in it",
        "clocks go back in it",
        "just before the days, by local time",
        "the first of the days",
        "the end of one lies in another",
        "nearly the whole week",
        "to the second, in UTC",
    ],
)
def test_until_when_it_is_frozen(windows: list[dict[str, Any]], at: str, until: str | None) -> None:
    assert frozen_until(ALL.validate_python(windows), utc(at)) == (utc(until) if until else None)


def test_a_time_that_comes_twice_does_not_begin_a_freeze_again() -> None:
    """02:30 to 02:45 on the night on which 02:00 to 03:00 happens twice: the first time only."""
    (night,) = ALL.validate_python([{"start": "sunday 02:30", "end": "sunday 02:45", "time_zone": BERLIN}])
    assert frozen_until([night], utc("2026-10-25T00:40")) == utc("2026-10-25T00:45")
    assert frozen_until([night], utc("2026-10-25T01:40")) is None


def test_it_says_why() -> None:
    windows = ALL.validate_python([YEAR_END, WEEKEND])
    assert reasons(windows, utc("2026-12-30T12:00")) == ("year end",)


@pytest.mark.parametrize(
    "windows",
    [
        [{"start": "friday 16:00", "end": "friday 16:00"}],
        [{"start": "friday 16:00", "end": "2026-01-01"}],
        [{"start": "2026-01-02", "end": "2026-01-01"}],
        [{"start": "2026-02-30", "end": "2026-03-01"}],
        [{"start": "2026-01-01T00:00+01:00", "end": "2026-03-01"}],
        [{"start": "freitag 16:00", "end": "monday 08:00"}],
        [{"start": "friday 24:00", "end": "monday 08:00"}],
        [{"start": "2026-01-01", "end": "2026-03-01", "time_zone": "Middle Earth Standard Time"}],
        [{"start": "monday 00:00", "end": "friday 00:00"}, {"start": "friday 00:00", "end": "monday 00:00"}],
    ],
)
def test_windows_that_make_no_sense_are_mistakes(windows: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Freezes).validate_python(windows)


def test_each_windows_name_is_a_zone() -> None:
    """The offsets are those of the name where the name tells: UTC-11 is 11 hours behind."""
    winter = datetime(2026, 1, 15, 12, tzinfo=UTC)
    offsets = {name: winter.astimezone(zone(name)).utcoffset() for name in TIME_ZONES}
    told = {"UTC": 0, "UTC-11": -11, "UTC-02": -2, "UTC+12": 12, "GMT Standard Time": 0, "Tokyo Standard Time": 9}
    assert {name: offsets[name] for name in told} == {name: timedelta(hours=hours) for name, hours in told.items()}


MINUTES = st.integers(0, 7 * 24 * 60 - 1)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _of_week(minute: int) -> str:
    return f"{DAYS[minute // 1440]} {minute % 1440 // 60}:{minute % 60:02}"


WEEKLY = st.builds(
    lambda start, lasts, name: Freeze(
        start=_of_week(start), end=_of_week((start + lasts) % (7 * 1440)), time_zone=name
    ),
    MINUTES,
    st.integers(1, 3 * 1440),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(lambda at: at.replace(tzinfo=UTC))


@given(windows=st.lists(WEEKLY, max_size=3), at=TIMES)
def test_the_end_is_the_first_free_moment(windows: list[Freeze], at: datetime) -> None:
    until = frozen_until(windows, at)
    if until is None:
        assert all(window.end_at(at) is None for window in windows)
        return
    assert at < until
    if until - at < LONGEST:
        assert frozen_until(windows, until) is None
        before = until - timedelta(microseconds=1)
        assert any(window.end_at(before) == until for window in windows)


@given(window=WEEKLY, at=TIMES, ahead=st.timedeltas(timedelta(0), timedelta(days=3)))
def test_within_a_window_the_end_does_not_move(window: Freeze, at: datetime, ahead: timedelta) -> None:
    """So a promotion that is looked at again goes on when it was told to."""
    until = frozen_until([window], at)
    if until is not None and at + ahead < until:
        assert frozen_until([window], at + ahead) == until
