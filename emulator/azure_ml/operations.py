"""Long-running operations: how long they take, how they end, and what a client sees meanwhile.

The first answer and every poll carry `Azure-AsyncOperation`, `Location` and `Retry-After`. The reason of a failure is at
the operation's URL only; the resource shows `provisioningState: Failed`, and that URL in its properties.
"""

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Literal

from aiohttp import web

from emulator.azure_ml.arm import PROVIDER, ArmError, Call, Routes, iso
from emulator.azure_ml.workspaces import Workspace
from emulator.clock import Clock

RETRY_AFTER = {"Retry-After": "1"}
Kind = Literal["endpoint", "deployment", "batch_endpoint", "batch_deployment", "schedule", "delete", "job"]
TRANSITIONAL = {"Creating", "Updating", "Deleting"}


class OperationFailed(Exception):
    """The work of an operation failed; the client finds `code` and `message` at the operation's URL."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class Outcome:
    """What befalls the next operations on matching resources, instead of what they would do.

    Unset fields match everything; `job` is a pattern (`nightly-*`) of a job's name, display name or experiment. `fail` ends the operation with `code` and `message` after its usual duration; `stick`
    keeps it in progress until it is released.
    """

    kind: Kind | None = None
    workspace: str | None = None
    endpoint: str | None = None
    deployment: str | None = None
    job: str | None = None
    outcome: Literal["fail", "stick"] = "fail"
    code: str = "InternalServerError"
    message: str = "An internal server error occurred. Please try again."
    times: int = 1


@dataclass
class PlantedOutcome:
    number: int
    outcome: Outcome
    met: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def befall(self) -> None:
        if self.outcome.outcome == "fail":
            raise OperationFailed(self.outcome.code, self.outcome.message)
        await self.released.wait()


@dataclass(frozen=True)
class Subject:
    """The resource that an operation is about."""

    workspace: Workspace
    kind: Kind
    endpoint: str | None = None
    deployment: str | None = None
    names: tuple[str, ...] = ()  # under which a job is known

    def matches(self, outcome: Outcome) -> bool:
        spec = self.workspace.spec
        return (
            outcome.kind in (None, self.kind)
            and outcome.workspace in (None, spec.key, spec.name)
            and outcome.endpoint in (None, self.endpoint)
            and outcome.deployment in (None, self.deployment)
            and (outcome.job is None or any(fnmatchcase(name, outcome.job) for name in self.names))
        )


@dataclass
class Operation:
    """One operation, from its acceptance to its end."""

    identifier: str
    workspace: Workspace
    api_version: str
    started: datetime
    ended: datetime | None = None
    error: OperationFailed | None = None
    gone: bool = False  # a deletion: its result is 204

    @property
    def status(self) -> str:
        if self.ended is None:
            return "InProgress"
        return "Failed" if self.error else "Succeeded"

    def url(self, what: str) -> str:
        spec = self.workspace.spec
        return (
            f"https://management.azure.com/subscriptions/{spec.subscription_id}/providers/{PROVIDER}"
            f"/locations/{spec.location}/{what}/{self.identifier}?api-version={self.api_version}"
        )

    @property
    def status_url(self) -> str:
        return self.url("mfeOperationsStatus")

    @property
    def headers(self) -> dict[str, str]:
        location = self.url("mfeOperationResults")
        return {"Azure-AsyncOperation": self.status_url, "Location": location} | RETRY_AFTER

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"name": self.identifier, "status": self.status, "startTime": iso(self.started)}
        if self.ended:
            body |= {"endTime": iso(self.ended), "percentComplete": 100}
        if self.error:
            body["error"] = {"code": self.error.code, "message": self.error.message, "details": []}
        return body


class Operations:
    """Runs operations as tasks of the emulator's loop, on its clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._operations: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self.planted: dict[int, PlantedOutcome] = {}
        # Seconds on the clock. A deployment also takes the time that its server needs to be live.
        self.durations: dict[Kind, float] = {
            "endpoint": 0.2,
            "deployment": 0.0,
            "batch_endpoint": 0.2,
            "batch_deployment": 0.2,
            "schedule": 0.1,
            "delete": 0.2,
            "job": 0.0,  # until the first step of a pipeline begins
        }

    def add_routes(self, routes: Routes) -> None:
        base = f"/subscriptions/{{subscription}}/providers/{PROVIDER}/locations/{{location}}"
        routes.add("GET", f"{base}/mfeOperationsStatus/{{operation}}", self._get_status)
        routes.add("GET", f"{base}/mfeOperationResults/{{operation}}", self._get_result)

    def plant(self, outcome: Outcome) -> PlantedOutcome:
        planted = PlantedOutcome(next(self._numbers), outcome)
        self.planted[planted.number] = planted
        return planted

    def remove(self, number: int) -> None:
        """Forget an outcome; operations that it holds go on."""
        if planted := self.planted.pop(number, None):
            planted.released.set()

    def begin(
        self,
        call: Call,
        subject: Subject,
        work: Callable[[], Awaitable[None]],
        ended: Callable[[OperationFailed | None], None],
    ) -> Operation:
        """Start an operation: wait its duration, then do `work`; `ended` settles the resource, with the error if any."""
        operation = Operation(
            identifier=f"{'oe' if subject.deployment is None else 'od'}:{subject.workspace.spec.workspace_guid}:{uuid.uuid4()}",
            workspace=subject.workspace,
            api_version=call.request.query.get("api-version", "2023-10-01"),
            started=self._clock.now(),
            gone=subject.kind == "delete",
        )
        self._operations[operation.identifier] = operation
        task = asyncio.create_task(self._run(operation, subject, work, ended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self,
        operation: Operation,
        subject: Subject,
        work: Callable[[], Awaitable[None]],
        ended: Callable[[OperationFailed | None], None],
    ) -> None:
        try:
            await self.take_course(subject)
            await work()
        except OperationFailed as error:
            operation.error = error
        except Exception as error:
            operation.error = OperationFailed("InternalServerError", f"{type(error).__name__}: {error}")
        ended(operation.error)
        operation.ended = self._clock.now()

    async def take_course(self, subject: Subject) -> None:
        """Let the duration of such an operation pass, then what was planted for this one befall it."""
        planted = self._meet(subject)
        await self._clock.wait(self.durations[subject.kind])
        if planted:
            await planted.befall()

    def _meet(self, subject: Subject) -> PlantedOutcome | None:
        for planted in self.planted.values():
            if planted.met < planted.outcome.times and subject.matches(planted.outcome):
                planted.met += 1
                return planted
        return None

    def _find(self, call: Call) -> Operation:
        operation = self._operations.get(call["operation"])
        if operation is None:
            raise ArmError(404, "NotFound", f"The operation {call['operation']} was not found.")
        return operation

    async def _get_status(self, call: Call) -> web.Response:
        return web.json_response(self._find(call).as_json(), headers=RETRY_AFTER)

    async def _get_result(self, call: Call) -> web.Response:
        operation = self._find(call)
        if operation.ended is None:
            return web.Response(status=202, headers=operation.headers)
        if operation.error:
            return ArmError(400, operation.error.code, operation.error.message).answer()
        return web.Response(status=204 if operation.gone else 200)
