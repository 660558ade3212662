"""The control API: how tests and demos steer and observe the local Azure. The product never uses it."""

import asyncio
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from aiohttp import web

from emulator.clock import Clock
from emulator.faults import Fault, Faults
from emulator.request_log import Entry, RequestLog

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
                web.get("/clock", self._read_clock),
                web.post("/clock/advance", self._advance_clock),
                web.get("/requests", self._requests),
                web.get("/faults", self._list_faults),
                web.post("/faults", self._plant),
                web.delete("/faults", self._clear),
                web.post("/faults/{number}/release", self._release),
                web.delete("/faults/{number}", self._remove),
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

    async def _read_clock(self, _: web.Request) -> web.Response:
        return web.json_response({"now": self._clock.now().isoformat()})

    async def _advance_clock(self, request: web.Request) -> web.Response:
        self._clock.advance(float((await request.json())["seconds"]))
        return await self._read_clock(request)

    async def _requests(self, request: web.Request) -> web.Response:
        """Entries after number `since`, narrowed by `service`, `method` or `principal`.

        With `wait` (seconds), an empty answer waits that long for the first one.
        """
        since = int(request.query.get("since", "0"))
        wait = min(float(request.query.get("wait", "0")), LONGEST_POLL)
        wanted = {name: request.query[name] for name in ("service", "method", "principal") if name in request.query}

        def found() -> list[Entry]:
            entries = self._log.since(since)
            return [entry for entry in entries if all(getattr(entry, name) == v for name, v in wanted.items())]

        try:
            async with asyncio.timeout(wait):
                while wait and not found():
                    await self._log.grown()
        except TimeoutError:
            pass
        return web.json_response({"requests": [entry.as_json() for entry in found()]})

    async def _list_faults(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": [planted.as_json() for planted in self._faults.all()]})

    async def _plant(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json()
        if unknown := sorted(body.keys() - FAULT_FIELDS):
            text = f"a fault has no field {', '.join(unknown)}; it has {', '.join(sorted(FAULT_FIELDS))}"
            return web.json_response({"error": text}, status=400)
        return web.json_response(self._faults.plant(Fault(**body)).as_json(), status=201)

    async def _clear(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=204)

    async def _release(self, request: web.Request) -> web.Response:
        self._faults.release(int(request.match_info["number"]))
        return web.Response(status=204)

    async def _remove(self, request: web.Request) -> web.Response:
        self._faults.remove(int(request.match_info["number"]))
        return web.Response(status=204)
