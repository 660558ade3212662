"""Schedules: what they are, and firing them on the local Azure's clock."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes, SystemData, conflict, iso, page, resource
from emulator.azure_ml.jobs import SCHEDULE_NAME, Job
from emulator.azure_ml.operations import TRANSITIONAL, OperationFailed, Operations, Subject
from emulator.azure_ml.pipelines import Pipelines
from emulator.azure_ml.triggers import check, next_due
from emulator.azure_ml.workspaces import Workspace, Workspaces
from emulator.clock import Clock
from emulator.topology import Identity

SCHEDULES = WORKSPACE + "/schedules"
SCHEDULE = SCHEDULES + "/{schedule}"
# Jobs that a schedule starts at once when the clock has jumped over many due times; the rest of them are left out.
CATCH_UP = 100


@dataclass
class Schedule:
    """A schedule; `written` is when it last began to count."""

    name: str
    workspace: Workspace
    system_data: SystemData
    properties: dict[str, Any]
    written: datetime
    author: Identity
    state: str = "Creating"
    task: asyncio.Task[None] | None = None

    @property
    def enabled(self) -> bool:
        return bool(self.properties.get("isEnabled", True))


class Schedules:
    """ARM's routes of schedules. They create jobs; invoking endpoints on a schedule is not documented, and not here."""

    def __init__(self, *, workspaces: Workspaces, operations: Operations, pipelines: Pipelines, clock: Clock) -> None:
        self._workspaces = workspaces
        self._operations = operations
        self._pipelines = pipelines
        self._clock = clock
        self._schedules: dict[tuple[str, str], Schedule] = {}

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", SCHEDULES, self._list)
        routes.add("GET", SCHEDULE, self._get)
        routes.add("PUT", SCHEDULE, self._put)
        routes.add("DELETE", SCHEDULE, self._delete)
        routes.add("POST", SCHEDULE + "/trigger", self._trigger)

    async def stop(self) -> None:
        for schedule in self._schedules.values():
            await self._rest(schedule)

    async def _list(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        view = call.request.query.get("listViewType", "EnabledOnly").lower()
        wanted = {"all": (True, False), "disabledonly": (False,)}.get(view, (True,))
        found = [each for each in self._schedules.values() if each.workspace is workspace and each.enabled in wanted]
        return page(call, [self._as_json(each) for each in found])

    async def _get(self, call: Call) -> web.Response:
        return web.json_response(self._as_json(self._find(call)))

    async def _put(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        given = {
            key: value for key, value in ((await call.body()).get("properties") or {}).items() if value is not None
        }
        given.pop("provisioningState", None)
        check(given.get("trigger") or {})
        action = given.get("action") or {}
        if action.get("actionType") != "CreateJob":
            raise ArmError(400, "UserError", "Only schedules that create jobs are known: actionType CreateJob.")
        self._pipelines.check(workspace, action.get("jobDefinition") or {})
        now = self._clock.now()
        properties = {"tags": {}, "properties": {}, "isEnabled": True, "displayName": call["schedule"]} | given
        key = (workspace.spec.arm_id, call["schedule"].lower())
        schedule = self._schedules.get(key)
        new = schedule is None
        if schedule is None:
            schedule = Schedule(call["schedule"], workspace, SystemData(call.caller, now), properties, now, call.caller)
            self._schedules[key] = schedule
        else:
            _refuse_busy(schedule)
        schedule.properties, schedule.written, schedule.author = properties, now, call.caller
        schedule.system_data.modify(call.caller, now)
        schedule.state = "Creating" if new else "Updating"
        await self._rest(schedule)

        def ended(error: OperationFailed | None) -> None:
            schedule.state = "Failed" if error else "Succeeded"
            if not error and schedule.enabled:
                schedule.task = asyncio.create_task(self._fire(schedule))

        operation = self._operations.begin(call, Subject(workspace, "schedule", schedule.name), _nothing, ended)
        return web.json_response(self._as_json(schedule), status=201 if new else 200, headers=operation.headers)

    async def _delete(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        schedule = self._schedules.get((workspace.spec.arm_id, call["schedule"].lower()))
        if schedule is None:
            return web.Response(status=204)
        _refuse_busy(schedule)
        if schedule.enabled:
            raise ArmError(400, "UserError", f"Schedule {schedule.name} is enabled: disable it before you delete it.")
        schedule.state = "Deleting"

        async def work() -> None:
            await self._rest(schedule)
            del self._schedules[workspace.spec.arm_id, schedule.name.lower()]

        operation = self._operations.begin(call, Subject(workspace, "delete", schedule.name), work, lambda _: None)
        return web.Response(status=202, headers=operation.headers)

    async def _trigger(self, call: Call) -> web.Response:
        """Start its job once, now."""
        schedule = self._find(call)
        job = self._start(schedule, self._clock.now())
        return web.json_response({"submissionId": job.name, "scheduleActionType": "CreateJob"})

    async def _fire(self, schedule: Schedule) -> None:
        """Start a job at each due time, as long as the schedule is as it is."""
        last, at_once = schedule.written, 0
        while due := next_due(schedule.properties["trigger"], last, schedule.written):
            at_once = at_once + 1 if due <= self._clock.now() else 0
            if at_once == CATCH_UP:
                last, at_once = self._clock.now(), 0
                continue
            await self._clock.wait_until(due)
            last = due
            with contextlib.suppress(ArmError):  # what it refers to may have gone meanwhile
                self._start(schedule, due)

    def _start(self, schedule: Schedule, due: datetime) -> Job:
        definition = dict(schedule.properties["action"]["jobDefinition"])
        inputs = {name: _dated(each, due) for name, each in (definition.get("inputs") or {}).items()}
        properties = {SCHEDULE_NAME: schedule.name, **(definition.get("properties") or {})}
        display = f"{schedule.name}-{due:%Y%m%dT%H%M%SZ}"
        changes = {"inputs": inputs, "properties": properties, "displayName": display}
        return self._pipelines.submit(schedule.workspace, schedule.author, None, definition | changes)

    @staticmethod
    async def _rest(schedule: Schedule) -> None:
        if schedule.task is not None:
            schedule.task.cancel()
            await asyncio.gather(schedule.task, return_exceptions=True)
            schedule.task = None

    def _find(self, call: Call) -> Schedule:
        workspace = self._workspaces.of(call)
        schedule = self._schedules.get((workspace.spec.arm_id, call["schedule"].lower()))
        if schedule is None:
            raise ArmError(404, "UserError", f"Schedule {call['schedule']} was not found.")
        return schedule

    @staticmethod
    def _as_json(schedule: Schedule) -> dict[str, Any]:
        return resource(schedule.workspace.spec, "schedules", schedule.name) | {
            "systemData": schedule.system_data.as_json(),
            "properties": schedule.properties | {"provisioningState": schedule.state},
        }


def _refuse_busy(schedule: Schedule) -> None:
    if schedule.state in TRANSITIONAL:
        raise conflict(f"Schedule {schedule.name} is in {schedule.state} provisioning state. Wait until it has ended.")


async def _nothing() -> None:
    return


def _dated(given: Any, due: datetime) -> Any:
    """A literal input may name the time for which the job was started."""
    if isinstance(given, dict) and isinstance(given.get("value"), str):
        return given | {"value": given["value"].replace("${{creation_context.trigger_time}}", iso(due))}
    return given
