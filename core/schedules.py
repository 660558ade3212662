"""When a batch stage runs: the triggers of Azure ML schedules, with the limits that Azure ML does not tell.

Fields are those of a CLI v2 schedule YAML. What the service would ignore in silence is refused here.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from core.time_zones import TIME_ZONES

_LOCAL_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?")
_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_CRON_PART = re.compile(r"(?:\*|(?P<first>\d{1,2})(?:-(?P<last>\d{1,2}))?)(?:/(?P<step>\d{1,2}))?")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _time_zone(value: str) -> str:
    if value not in TIME_ZONES:
        raise ValueError(
            f"{value!r} is no time zone of Azure ML schedules: use a Windows name, such as 'W. Europe Standard Time'"
        )
    return value


def _as_text(value: Any) -> Any:
    """YAML reads an unquoted time as one."""
    return value.isoformat() if isinstance(value, datetime) else value


def _local_time(value: str) -> str:
    if not _LOCAL_TIME.fullmatch(value):
        raise ValueError(
            f"{value!r} must be a local time without offset, such as 2026-12-01T03:00:00: `time_zone` says where"
        )
    datetime.fromisoformat(value)
    return value


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


LocalTime = Annotated[str, BeforeValidator(_as_text), AfterValidator(_local_time)]


Hour = Annotated[int, Field(ge=0, le=23, strict=True)]
Minute = Annotated[int, Field(ge=0, le=59, strict=True)]
MonthDay = Annotated[int, Field(ge=1, le=31, strict=True)]
WeekDay = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Item = TypeVar("Item")
# One value may be written without a list, as in Azure ML's own YAML.
OneOrMore = Annotated[tuple[Item, ...], Field(min_length=1), BeforeValidator(_one_or_more)]


class _Trigger(_Strict):
    start_time: LocalTime | None = Field(None, description="Local time in `time_zone`; from now on by default.")
    end_time: LocalTime | None = Field(None, description="Local time; no end by default.")
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field("UTC", description="A Windows time zone name.")


class CronTrigger(_Trigger):
    """`minute hour day-of-month month day-of-week`, of which Azure ML ignores the third and the fourth."""

    type: Literal["cron"] = Field(description="By an expression.")
    expression: str = Field(description="Five fields, the third and fourth of them `*`, such as 0 3 * * 1-5.")

    @model_validator(mode="after")
    def _is_understood(self) -> Self:
        fields = self.expression.split()
        if len(fields) != len(_CRON_FIELDS):
            raise ValueError(f"{self.expression!r} must have five fields: minute hour day-of-month month day-of-week")
        for text, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
            if not all(_is_cron_part(part, low, high) for part in text.split(",")):
                raise ValueError(f"{text!r} is no {name} ({low} to {high}) of a cron expression")
        if (fields[2], fields[3]) != ("*", "*"):
            raise ValueError("Azure ML ignores day of month and month: write * for both, or use a monthly recurrence")
        return self


def _is_cron_part(part: str, low: int, high: int) -> bool:
    found = _CRON_PART.fullmatch(part)
    if not found:
        return False
    numbers = [int(found[name]) for name in ("first", "last") if found[name]]
    has_step = found["step"] is None or int(found["step"]) > 0
    return has_step and all(low <= number <= high for number in numbers) and numbers == sorted(numbers)


class RecurrencePattern(_Strict):
    """At which times of a period: `week_days` belong to a weekly, `month_days` to a monthly recurrence."""

    hours: OneOrMore[Hour] = Field(description="One or a list.")
    minutes: OneOrMore[Minute] = Field(description="One or a list.")
    week_days: OneOrMore[WeekDay] | None = Field(None, description="Of a weekly recurrence; one or a list.")
    month_days: OneOrMore[MonthDay] | None = Field(None, description="A month that has no such day is skipped.")


class RecurrenceTrigger(_Trigger):
    """Every `interval` minutes, hours, days, weeks or months; `schedule` says when in a day, week or month."""

    type: Literal["recurrence"] = Field(description="By an interval.")
    frequency: Literal["minute", "hour", "day", "week", "month"] = Field(description="What `interval` counts.")
    interval: int = Field(1, ge=1, le=1000, strict=True, description="Every so many.")
    schedule: RecurrencePattern | None = Field(None, description="When in it; at `start_time` by default.")

    @model_validator(mode="after")
    def _pattern_fits(self) -> Self:
        pattern = self.schedule
        if pattern is None:
            return self
        if self.frequency in ("minute", "hour"):
            raise ValueError(f"a recurrence by {self.frequency} has no `schedule`: it starts at start_time")
        if pattern.week_days and self.frequency != "week":
            raise ValueError("week_days belong to a recurrence by week")
        if pattern.month_days and self.frequency != "month":
            raise ValueError("month_days belong to a recurrence by month")
        if self.frequency == "month" and not pattern.month_days:
            raise ValueError("a recurrence by month needs month_days in its schedule")
        return self


class JobSchedule(_Strict):
    """The schedule that runs the promoted version. It has the endpoint's name."""

    trigger: Annotated[CronTrigger | RecurrenceTrigger, Field(discriminator="type")] = Field(
        description="When it runs."
    )
    enabled: bool = Field(True, description="false pauses it: promotions still give it the new version.")
