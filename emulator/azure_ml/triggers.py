"""When a schedule fires: cron expressions and recurrences, in the time zone that they name. Pure."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from emulator.azure_ml.arm import ArmError

# Windows names, which schedules use, to the names of the time zone database; those that people here are likely to try.
TIME_ZONES = {
    "UTC": "UTC",
    "GMT Standard Time": "Europe/London",
    "W. Europe Standard Time": "Europe/Berlin",
    "Romance Standard Time": "Europe/Paris",
    "Central Europe Standard Time": "Europe/Budapest",
    "Central European Standard Time": "Europe/Warsaw",
    "E. Europe Standard Time": "Europe/Chisinau",
    "FLE Standard Time": "Europe/Kiev",
    "Eastern Standard Time": "America/New_York",
    "Central Standard Time": "America/Chicago",
    "Mountain Standard Time": "America/Denver",
    "Pacific Standard Time": "America/Los_Angeles",
    "India Standard Time": "Asia/Kolkata",
    "China Standard Time": "Asia/Shanghai",
    "Tokyo Standard Time": "Asia/Tokyo",
    "AUS Eastern Standard Time": "Australia/Sydney",
}
WEEK_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FIXED_STEPS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1)}
FREQUENCIES = (*FIXED_STEPS, "day", "week", "month")
# How far ahead a day is looked for: a 29 February may be eight years away.
HORIZON_DAYS = 366 * 9
# By how much clocks are put back at most.
SHIFT = timedelta(hours=2)

# What may stand in the pattern of a recurrence.
PATTERN: dict[str, Callable[[Any], bool]] = {
    "hours": lambda value: value in range(24),
    "minutes": lambda value: value in range(60),
    "weekDays": lambda value: str(value).lower() in WEEK_DAYS,
    "monthDays": lambda value: value in range(1, 32),
}


def next_due(trigger: Mapping[str, Any], after: datetime, since: datetime) -> datetime | None:
    """The first time after `after` at which the trigger fires, None if it never does again. All times are UTC.

    `since` is when the schedule was written: it begins then, unless it says when.
    """
    zone = zone_of(trigger)
    start, end = _moment(trigger.get("startTime"), zone) or since, _moment(trigger.get("endTime"), zone)
    after = max(after, start - timedelta(microseconds=1))
    if _kind(trigger) == "cron":
        due = _earliest(_cron(trigger, after, zone), _folds(trigger), after, zone)
    elif step := FIXED_STEPS.get(_frequency(trigger)):
        step *= _interval(trigger)
        due = start + ((after - start) // step + 1) * step
    else:
        due = _earliest(_recurrence(trigger, start.astimezone(zone), after.astimezone(zone)), (0,), after, zone)
    return None if due is None or (end is not None and due > end) else due


def check(trigger: Mapping[str, Any]) -> None:
    """Refuse a trigger that cannot be understood."""
    zone = zone_of(trigger)
    for name in ("startTime", "endTime"):
        try:
            _moment(trigger.get(name), zone)
        except ValueError:
            raise _refusal(f"{name} {trigger[name]!r} is not a time in ISO 8601.") from None
    kind = _kind(trigger)
    if kind == "cron":
        _check_expression(str(trigger.get("expression", "")))
    elif kind == "recurrence":
        _check_recurrence(trigger)
    else:
        raise _refusal("A trigger is of type Cron or Recurrence.")


def zone_of(trigger: Mapping[str, Any]) -> ZoneInfo:
    name = str(trigger.get("timeZone") or "UTC")
    if name not in TIME_ZONES:
        raise _refusal(f"The time zone {name!r} is unknown here: use one of {', '.join(TIME_ZONES)}.")
    return ZoneInfo(TIME_ZONES[name])


def _check_expression(expression: str) -> None:
    if len(expression.split()) != 5 or not croniter.is_valid(expression):
        raise _refusal(
            f"The cron expression {expression!r} is invalid: five fields are minute, hour, day, month, weekday."
        )


def _check_recurrence(trigger: Mapping[str, Any]) -> None:
    if _frequency(trigger) not in FREQUENCIES:
        raise _refusal(f"The frequency {trigger.get('frequency')!r} is none of {', '.join(FREQUENCIES)}.")
    interval = trigger.get("interval")
    if not isinstance(interval, int) or interval < 1:
        raise _refusal(f"The interval {interval!r} is not a whole number of 1 or more.")
    for name, is_good in PATTERN.items():
        if bad := [value for value in (trigger.get("schedule") or {}).get(name) or () if not is_good(value)]:
            raise _refusal(f"{bad[0]!r} is none of the {name} of a schedule.")


def _refusal(message: str) -> ArmError:
    return ArmError(400, "UserError", message)


def _kind(trigger: Mapping[str, Any]) -> str:
    return str(trigger.get("triggerType", "")).lower()


def _frequency(trigger: Mapping[str, Any]) -> str:
    return str(trigger.get("frequency", "")).lower()


def _interval(trigger: Mapping[str, Any]) -> int:
    return int(trigger["interval"])


def _moment(text: Any, zone: ZoneInfo) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(str(text))
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def _earliest(
    clock_times: Iterator[datetime], folds: tuple[int, ...], after: datetime, zone: ZoneInfo
) -> datetime | None:
    """The first moment after `after` at which clocks in the zone show one of these times.

    A time that clocks skip counts as much later as they skip. One that they show twice counts once for each fold.
    """
    best, found_at = None, datetime.max
    for shown in clock_times:
        if shown - found_at > SHIFT:
            break
        for fold in folds:
            moment = shown.replace(tzinfo=zone, fold=fold).astimezone(UTC)
            if moment > after and (best is None or moment < best):
                best, found_at = moment, shown
    return best


def _folds(trigger: Mapping[str, Any]) -> tuple[int, ...]:
    """What is due in every hour is due in both of two hours of the same name; what names an hour, in the first."""
    return (0, 1) if str(trigger["expression"]).split()[1].startswith("*") else (0,)


def _cron(trigger: Mapping[str, Any], after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """The service ignores day of month and month of an expression."""
    minute, hour, _, _, weekday = str(trigger["expression"]).split()
    times = croniter(f"{minute} {hour} * * {weekday}", after.astimezone(zone).replace(tzinfo=None) - SHIFT)
    while True:
        yield times.get_next(datetime)


def _recurrence(trigger: Mapping[str, Any], start: datetime, after: datetime) -> Iterator[datetime]:
    """The times that a daily, weekly or monthly recurrence names; without a pattern, the time of its start."""
    pattern = trigger.get("schedule") or {}
    hours, minutes = (sorted(pattern.get(name) or ()) for name in ("hours", "minutes"))
    times = [time(hour, minute) for hour in hours or [start.hour] for minute in minutes or [start.minute]]
    if not hours and not minutes:
        times = [start.time().replace(microsecond=0)]
    first = max(start.date(), after.date() - timedelta(days=1))
    for number in range(HORIZON_DAYS):
        day = datetime.combine(first + timedelta(days=number), time())
        if _is_day(trigger, pattern, datetime.combine(start.date(), time()), day):
            yield from (datetime.combine(day, each) for each in times)


def _is_day(trigger: Mapping[str, Any], pattern: Mapping[str, Any], start: datetime, day: datetime) -> bool:
    frequency, interval = _frequency(trigger), _interval(trigger)
    if frequency == "day":
        return (day - start).days % interval == 0
    if frequency == "week":
        monday = start - timedelta(days=start.weekday())
        wanted = [str(name).lower() for name in pattern.get("weekDays") or [WEEK_DAYS[start.weekday()]]]
        return ((day - monday).days // 7) % interval == 0 and WEEK_DAYS[day.weekday()] in wanted
    months = (day.year - start.year) * 12 + day.month - start.month
    return months % interval == 0 and day.day in (pattern.get("monthDays") or [start.day])
