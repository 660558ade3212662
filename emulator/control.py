"""The control API: how tests and demos steer and observe the local Azure. The product never uses it."""

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from emulator.clock import Clock
from emulator.faults import Fault, Faults
from emulator.handed_out import all_secrets
from emulator.mounts import error_body
from emulator.request_log import Entry, RequestLog

FAULT = TypeAdapter(Fault)
FAULT_FIELDS = frozenset(field.name for field in fields(Fault))
LONGEST_POLL = 60.0


class Control:
    """An HTTP server on loopback with the routes of all services."""

    def __init__(self, *, clock: Clock, log: RequestLog, faults: Faults) -> None:
        self._clock = clock
        self._log = log
        self._faults = faults
        self._app = web.Application(client_max_size=64 * 1024 * 1024)
        self._app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/secrets", self._secrets),
                web.get("/clock", self._read_clock),
                web.post("/clock/advance", self._advance_clock),
                web.get("/requests", self._requests),
                web.get("/writes", self._writes),
                web.get("/faults", self._list_faults),
                web.post("/faults", self._plant),
                web.delete("/faults", self._clear),
                web.post(r"/faults/{number:\d+}/release", self._release),
                web.delete(r"/faults/{number:\d+}", self._remove),
            ]
        )
        self._runner: web.AppRunner | None = None

    def add_routes(self, routes: Iterable[web.RouteDef]) -> None:
        self._app.add_routes(routes)

    @property
    def control_url(self) -> str:
        assert self._runner is not None  # noqa: S101 - a URL exists once started
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def start(self) -> None:
        self._runner = web.AppRunner(self._app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _secrets(self, _: web.Request) -> web.Response:
        return web.json_response({"secrets": all_secrets()})

    async def _read_clock(self, _: web.Request) -> web.Response:
        return web.json_response({"now": self._clock.now().isoformat()})

    async def _advance_clock(self, request: web.Request) -> web.Response:
        seconds = (await json_object(request)).get("seconds")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
            raise refusal("seconds is a number that is not negative: the clock cannot go back")
        self._clock.advance(seconds)
        return await self._read_clock(request)

    async def _requests(self, request: web.Request) -> web.Response:
        """Entries after number `since`, narrowed by `service`, `method` or `principal`.

        With `wait` (seconds), an empty answer waits that long for the first one.
        """
        since = _number(request, "since")
        wait = min(_number(request, "wait"), LONGEST_POLL)
        wanted = {name: request.query[name] for name in ("service", "method", "principal") if name in request.query}

        def found() -> list[Entry]:
            entries = self._log.since(int(since))
            return [entry for entry in entries if all(getattr(entry, name) == v for name, v in wanted.items())]

        try:
            async with asyncio.timeout(wait):
                while wait and not found():
                    await self._log.grown()
        except TimeoutError:
            pass
        return web.json_response({"requests": [entry.as_json() for entry in found()]})

    async def _writes(self, request: web.Request) -> web.Response:
        """How many writes there were, once these are more than `since`, or after `wait` seconds.

        What follows within `rest` seconds is counted as well: who looks again after each write looks once after many.
        """
        since, rest = _number(request, "since"), min(_number(request, "rest"), LONGEST_POLL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_number(request, "wait"), LONGEST_POLL)):
                while self._log.writes <= since:
                    await self._log.written()
                await asyncio.sleep(rest)
        return web.json_response({"writes": self._log.writes})

    async def _list_faults(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": [planted.as_json() for planted in self._faults.all()]})

    async def _plant(self, request: web.Request) -> web.Response:
        return web.json_response(self._faults.plant(_fault(await json_object(request))).as_json(), status=201)

    async def _clear(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=204)

    async def _release(self, request: web.Request) -> web.Response:
        self._faults.release(self._planted(request))
        return web.Response(status=204)

    async def _remove(self, request: web.Request) -> web.Response:
        self._faults.remove(self._planted(request))
        return web.Response(status=204)

    def _planted(self, request: web.Request) -> int:
        number = int(request.match_info["number"])
        if number not in {planted.number for planted in self._faults.all()}:
            raise refusal(f"there is no fault {number}", web.HTTPNotFound)
        return number


def _fault(body: dict[str, Any]) -> Fault:
    if unknown := sorted(body.keys() - FAULT_FIELDS):
        raise refusal(f"a fault has no field {', '.join(unknown)}; it has {', '.join(sorted(FAULT_FIELDS))}")
    try:
        fault = FAULT.validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        raise refusal("; ".join(wrong)) from error
    for name, pattern in (("path", fault.path), ("query", fault.query)):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise refusal(f"{name}: not a regular expression: {error}") from error
    return fault


def _number(request: web.Request, name: str) -> float:
    try:
        return float(request.query.get(name, "0"))
    except ValueError as error:
        raise refusal(f"{name} is a number, got {request.query[name]!r}") from error


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body of a request; the error to raise says what is wrong with it."""
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise refusal(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise refusal("the body is a JSON object")
    return body


def refusal(message: str, kind: type[web.HTTPError] = web.HTTPBadRequest) -> web.HTTPError:
    code = "NotFound" if kind is web.HTTPNotFound else "InvalidBody"
    return kind(text=json.dumps(error_body(code, message)), content_type="application/json")
