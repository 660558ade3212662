"""Timer triggers: NCRONTAB expressions of six fields (five mean second 0), or a time span, in UTC.

A timer's function never runs twice at once, and an occurrence that came while it ran is past. `useMonitor` has no effect:
this host keeps nothing between two runs, so an occurrence that was missed while it was down is not made up for.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from croniter import croniter

from emulator.functions_host.configuration import TIME_SPAN, ConfigurationError, seconds
from emulator.functions_host.host import Host
from emulator.functions_host.worker import Function, TypedData, rpc

Schedule = Callable[[datetime], datetime]


def parse_schedule(expression: str, of_function: str) -> Schedule:
    """The function that tells the next occurrence after a moment."""
    if TIME_SPAN.match(expression):
        period = timedelta(seconds=seconds(expression, f"schedule of {of_function}"))
        return lambda after: after + period
    fields = expression.split()
    six_fields = " ".join(fields if len(fields) == 6 else ["0", *fields])
    # NCRONTAB takes day and day of week together; cron would take either.
    if len(fields) not in (5, 6) or not croniter.is_valid(six_fields, second_at_beginning=True):
        raise ConfigurationError(
            f"The '{of_function}' function is in error: The schedule expression '{expression}' was not recognized as a "
            f"valid cron expression or timespan string."
        )

    def following(after: datetime) -> datetime:
        occurrence: datetime = croniter(six_fields, after, second_at_beginning=True, day_or=False).get_next(datetime)
        return occurrence

    return following


class Timer:
    """Runs one function when its schedule says so."""

    def __init__(self, host: Host, function: Function) -> None:
        self._host = host
        self._function = function
        self._next = parse_schedule(str(function.trigger["schedule"]), function.name)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run_forever())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()

    async def _run_forever(self) -> None:
        last = datetime.now(UTC)
        if self._function.trigger.get("runOnStartup"):
            await self._run(last, last, past_due=False)
        while True:
            # A sleep may end a moment early: never compute the same occurrence twice.
            due = self._next(max(datetime.now(UTC), last))
            await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
            past_due = datetime.now(UTC) - due > timedelta(seconds=1)
            await self._run(last, due, past_due=past_due)
            last = due

    async def _run(self, last: datetime, due: datetime, *, past_due: bool) -> None:
        data = timer_info(last, self._next(due), past_due=past_due)
        await self._host.invoke(self._function, data, reason=f"Timer fired at {due.isoformat()}")


def timer_info(last: datetime, following: datetime, *, past_due: bool) -> TypedData:
    return rpc.TypedData(
        json=json.dumps(
            {
                "Schedule": {"AdjustForDST": True},
                "ScheduleStatus": {
                    "Last": last.isoformat(),
                    "Next": following.isoformat(),
                    "LastUpdated": last.isoformat(),
                },
                "IsPastDue": past_due,
            }
        )
    )
