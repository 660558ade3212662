"""When a schedule fires: cron expressions and recurrences, in the time zone that they name. Pure."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
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
HORIZON = timedelta(days=800)


def next_due(trigger: Mapping[str, Any], after: datetime, since: datetime) -> datetime | None:
    """The first time after `after` (UTC) at which the trigger fires, None if it never does again.

    `since` is when the schedule was written: it begins then, unless it says when.
    """
    zone = zone_of(trigger)
    start = _local(trigger.get("startTime"), zone) or since.astimezone(zone)
    end = _local(trigger.get("endTime"), zone)
    after = max(after.astimezone(zone), start - timedelta(microseconds=1))
    times = _cron(trigger, after) if _is_cron(trigger) else _recurrence(trigger, start)
    due = next((time for time in times if time > after), None)
    if due is None or (end is not None and due > end):
        return None
    return due.astimezone(UTC)


def check(trigger: Mapping[str, Any]) -> None:
    """Refuse a trigger that cannot be understood."""
    kind = str(trigger.get("triggerType", "")).lower()
    zone_of(trigger)
    if kind == "cron":
        if not croniter.is_valid(str(trigger.get("expression", ""))):
            raise ArmError(400, "UserError", f"The cron expression {trigger.get('expression')!r} is invalid.")
    elif kind == "recurrence":
        if str(trigger.get("frequency", "")).lower() not in ("minute", "hour", "day", "week", "month"):
            raise ArmError(400, "UserError", f"The frequency {trigger.get('frequency')!r} is unknown.")
    else:
        raise ArmError(400, "UserError", "A trigger is of type Cron or Recurrence.")


def zone_of(trigger: Mapping[str, Any]) -> ZoneInfo:
    name = str(trigger.get("timeZone") or "UTC")
    if name not in TIME_ZONES:
        raise ArmError(400, "UserError", f"The time zone {name!r} is unknown here: use one of {', '.join(TIME_ZONES)}.")
    return ZoneInfo(TIME_ZONES[name])


def _is_cron(trigger: Mapping[str, Any]) -> bool:
    return str(trigger.get("triggerType", "")).lower() == "cron"


def _local(text: Any, zone: ZoneInfo) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(str(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _cron(trigger: Mapping[str, Any], after: datetime) -> Iterator[datetime]:
    """The service ignores day of month and month of an expression."""
    minute, hour, _, _, weekday = str(trigger["expression"]).split()[:5]
    times = croniter(f"{minute} {hour} * * {weekday}", after)
    for _ in count():
        yield times.get_next(datetime)


def _recurrence(trigger: Mapping[str, Any], start: datetime) -> Iterator[datetime]:
    frequency, interval = str(trigger["frequency"]).lower(), int(trigger.get("interval") or 1)
    pattern = trigger.get("schedule") or {}
    if frequency in ("minute", "hour"):
        step = timedelta(minutes=interval) if frequency == "minute" else timedelta(hours=interval)
        return ((start.astimezone(UTC) + number * step).astimezone(start.tzinfo) for number in count())
    return _days(frequency, interval, pattern, start)


def _days(frequency: str, interval: int, pattern: Mapping[str, Any], start: datetime) -> Iterator[datetime]:
    hours = sorted(pattern.get("hours") or [start.hour])
    minutes = sorted(pattern.get("minutes") or [start.minute])
    for number in range(HORIZON.days):
        day = start + timedelta(days=number)
        if not _is_day(frequency, interval, pattern, start, day):
            continue
        for hour in hours:
            for minute in minutes:
                due = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
                if due >= start.replace(second=0, microsecond=0):
                    yield due


def _is_day(frequency: str, interval: int, pattern: Mapping[str, Any], start: datetime, day: datetime) -> bool:
    if frequency == "day":
        return (day.date() - start.date()).days % interval == 0
    if frequency == "week":
        monday = (start - timedelta(days=start.weekday())).date()
        wanted = [str(name).lower() for name in pattern.get("weekDays") or [WEEK_DAYS[start.weekday()]]]
        return ((day.date() - monday).days // 7) % interval == 0 and WEEK_DAYS[day.weekday()] in wanted
    months = (day.year - start.year) * 12 + day.month - start.month
    return months % interval == 0 and day.day in (pattern.get("monthDays") or [start.day])
