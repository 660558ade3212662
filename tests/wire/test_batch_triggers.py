"""When schedules fire, as moments: no service is needed for that."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from azure.ai.ml.constants import TimeZone

from emulator.azure_ml.arm import ArmError
from emulator.azure_ml.triggers import TIME_ZONES, check, next_due

BERLIN = "W. Europe Standard Time"


def cron(expression: str, **more: Any) -> dict[str, Any]:
    return {"triggerType": "Cron", "expression": expression, **more}


def every(frequency: str, interval: int = 1, /, *, start: str | None = None, **schedule: Any) -> dict[str, Any]:
    zone = {"timeZone": schedule.pop("zone")} if "zone" in schedule else {}
    trigger = {"triggerType": "Recurrence", "frequency": frequency, "interval": interval, "schedule": schedule}
    return trigger | zone | ({"startTime": start} if start else {})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(trigger: dict[str, Any], since: str, count: int) -> list[str]:
    """The first times at which it fires, in UTC, if it is written at `since`."""
    check(trigger)
    after = at(since)
    found: list[str] = []
    while len(found) < count and (moment := next_due(trigger, after, at(since))):
        found.append(f"{moment:%Y-%m-%dT%H:%M}")
        after = moment
    return found


@pytest.mark.parametrize(
    ("trigger", "since", "expected"),
    [
        (cron("15 3 * * 1-5"), "2026-11-20T04:00", ["2026-11-23T03:15", "2026-11-24T03:15"]),
        (cron("0 */6 * * *"), "2026-11-20T05:59", ["2026-11-20T06:00", "2026-11-20T12:00"]),
        (cron("0 0 13 5 *"), "2026-11-20T04:00", ["2026-11-21T00:00", "2026-11-22T00:00"]),
        (cron("0 3 * * *", timeZone=BERLIN), "2026-11-20T04:00", ["2026-11-21T02:00"]),
        (cron("0 3 * * *", startTime="2027-01-01T12:00:00"), "2026-11-20T04:00", ["2027-01-02T03:00"]),
        (cron("0 3 * * *", startTime="2027-01-01T03:00:00"), "2026-11-20T04:00", ["2027-01-01T03:00"]),
        (cron("0 3 * * *", endTime="2026-11-21T04:00:00"), "2026-11-20T04:00", ["2026-11-21T03:00"]),
        (every("minute", 20), "2026-11-20T04:05", ["2026-11-20T04:25", "2026-11-20T04:45"]),
        (every("hour", 6, start="2026-11-20T01:30:00"), "2026-11-20T04:00", ["2026-11-20T07:30", "2026-11-20T13:30"]),
        (every("day"), "2026-11-20T04:00", ["2026-11-21T04:00", "2026-11-22T04:00"]),
        (
            every("day", 2, start="2026-11-20T00:00:00", hours=[18, 6], minutes=[30, 0]),
            "2026-11-20T06:00",
            ["2026-11-20T06:30", "2026-11-20T18:00", "2026-11-20T18:30", "2026-11-22T06:00"],
        ),
        (
            every("week", 2, start="2026-11-18T00:00:00", hours=[3], minutes=[0], weekDays=["monday", "Friday"]),
            "2026-11-18T00:00",
            ["2026-11-20T03:00", "2026-11-30T03:00", "2026-12-04T03:00"],
        ),
        (
            every("month", hours=[3], minutes=[15], monthDays=[1, 31]),
            "2027-01-15T00:00",
            ["2027-01-31T03:15", "2027-02-01T03:15", "2027-03-01T03:15", "2027-03-31T03:15"],
        ),
        (
            every("month", 12, start="2028-02-29T03:00:00", monthDays=[29], hours=[3], minutes=[0]),
            "2026-11-20T00:00",
            ["2028-02-29T03:00", "2032-02-29T03:00"],
        ),
    ],
)
def test_when_it_fires(trigger: dict[str, Any], since: str, expected: list[str]) -> None:
    assert due(trigger, since, len(expected)) == expected


@pytest.mark.parametrize(
    ("trigger", "since", "expected"),
    [
        # Clocks are put back at 01:00 UTC on 25 October 2026, and forward at 01:00 UTC on 28 March 2027.
        (cron("0 * * * *", timeZone=BERLIN), "2026-10-24T23:30", ["25T00:00", "25T01:00", "25T02:00"]),
        (cron("*/30 * * * *", timeZone=BERLIN), "2026-10-25T00:15", ["25T00:30", "25T01:00", "25T01:30", "25T02:00"]),
        (cron("30 2 * * *", timeZone=BERLIN), "2026-10-24T23:30", ["25T00:30", "26T01:30"]),
        (every("hour", zone=BERLIN), "2026-10-24T23:30", ["25T00:30", "25T01:30", "25T02:30"]),
        (every("day", hours=[2], minutes=[30], zone=BERLIN), "2026-10-24T12:00", ["25T00:30", "26T01:30"]),
        (cron("0 * * * *", timeZone=BERLIN), "2027-03-27T23:30", ["28T00:00", "28T01:00", "28T02:00"]),
        (cron("30 2 * * *", timeZone=BERLIN), "2027-03-27T12:00", ["28T01:30", "29T00:30"]),
        (every("day", hours=[2], minutes=[30], zone=BERLIN), "2027-03-27T12:00", ["28T01:30", "29T00:30"]),
    ],
)
def test_when_clocks_change(trigger: dict[str, Any], since: str, expected: list[str]) -> None:
    """What is due every hour is due every hour; what names a time is due once on that day."""
    assert [moment[8:] for moment in due(trigger, since, len(expected))] == expected


def test_an_old_start_costs_nothing() -> None:
    began = time.monotonic()
    for frequency, expected in (
        ("minute", "2026-11-20T04:01"),
        ("hour", "2026-11-20T05:00"),
        ("day", "2026-11-21T00:00"),
    ):
        assert due(every(frequency, start="2010-01-01T00:00:00"), "2026-11-20T04:00", 1) == [expected]
    assert time.monotonic() - began < 1


def test_what_can_never_be_due_is_not() -> None:
    assert due(every("month", 12, start="2026-02-01T00:00:00", monthDays=[30]), "2026-11-20T04:00", 1) == []


@pytest.mark.parametrize(
    ("trigger", "named"),
    [
        ({"triggerType": "Sometimes"}, "Cron or Recurrence"),
        (cron("@daily"), "@daily"),
        (cron("0 0 * * * 5"), "five fields"),
        (cron("61 * * * *"), "61"),
        (cron("0 3 * * *", timeZone="Europe/Berlin"), "Europe/Berlin"),
        (cron("0 3 * * *", startTime="soon"), "startTime"),
        (cron("0 3 * * *", endTime="2026-13-01"), "endTime"),
        (every("year"), "year"),
        (every("day", 0), "interval 0"),
        (every("day", hours=[24]), "24"),
        (every("week", weekDays=["funday"]), "funday"),
        (every("month", monthDays=[0]), "monthDays"),
    ],
)
def test_what_is_not_understood_is_refused(trigger: dict[str, Any], named: str) -> None:
    with pytest.raises(ArmError, match=named) as refused:
        check(trigger)
    assert refused.value.status == 400


def test_the_time_zones_are_those_of_the_client_library() -> None:
    assert set(TIME_ZONES) <= {each.value for each in TimeZone}
    for name in TIME_ZONES:
        check(cron("0 3 * * *", timeZone=name))
