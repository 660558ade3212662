"""HTTP: functions under their routes, the Event Grid webhook, and the admin API.

As Azure's host does: a path that no function takes is 404, and so is a method that its function does not take; a missing
or wrong key is 401; an exception in a function is 500 without a body.

`X-MS-CLIENT-PRINCIPAL` is handed on as it comes. App Service does so as well where its authentication is off, and takes it
from nobody but itself where it is on: whoever calls the local host plays the part of App Service, and of who has signed in.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from emulator.functions_host.configuration import Keys
from emulator.functions_host.event_grid_trigger import EventGridWebhook
from emulator.functions_host.host import Host
from emulator.functions_host.routes import Route
from emulator.functions_host.service_bus_messages import by_hand
from emulator.functions_host.timer_trigger import timer_info
from emulator.functions_host.worker import Function, InvocationResult, TypedData, rpc

log = logging.getLogger("Host.Triggers.Http")

LARGEST_REQUEST = 100 * 1024 * 1024  # FUNCTIONS_REQUEST_BODY_SIZE_LIMIT of Azure's host


class HttpFunction:
    """A function with an HTTP trigger, and what a request must be to reach it."""

    def __init__(self, function: Function) -> None:
        trigger = function.trigger
        self.function = function
        self.route = Route(str(trigger.get("route") or function.name))
        self.auth_level = str(trigger.get("authLevel", "function")).lower()
        self._methods = {str(method).upper() for method in trigger.get("methods") or ()}

    def match(self, method: str, path: str) -> dict[str, str] | None:
        if self._methods and method not in self._methods:
            return None
        return self.route.match(path)


class HttpServer:
    """The HTTP face of the host."""

    def __init__(self, host: Host, functions: Sequence[Function], keys: Keys, route_prefix: str) -> None:
        self._host = host
        self._keys = keys
        self._prefix = f"/{route_prefix}/" if route_prefix else "/"
        self._by_name = {function.name: function for function in functions}
        http = [HttpFunction(function) for function in functions if function.trigger_type == "httpTrigger"]
        self._functions = sorted(http, key=lambda function: function.route.precedence)
        self._by_hand: set[asyncio.Task[InvocationResult]] = set()
        self._event_grid = EventGridWebhook(
            host,
            {name: function for name, function in self._by_name.items() if function.trigger_type == "eventGridTrigger"},
        )

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_REQUEST)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._host.stopping.is_set():
            return web.Response(status=503, text="Function host is not running.")
        if request.path.lower() == "/runtime/webhooks/eventgrid":
            if not self._bears(request, self._keys.eventgrid, self._keys.master):
                return web.Response(status=401)
            return await self._event_grid.handle(request)
        if request.path.startswith("/admin/"):
            return (
                await self._administer(request) if self._bears(request, self._keys.master) else web.Response(status=401)
            )
        return await self._call(request)

    async def _call(self, request: web.Request) -> web.Response:
        if not request.path.lower().startswith(self._prefix.lower()):
            return web.Response(status=404)
        path = request.path[len(self._prefix) :]
        for candidate in self._functions:
            parameters = candidate.match(request.method, path)
            if parameters is None:
                continue
            if not self._may_call(request, candidate):
                return web.Response(status=401)
            data = await _rpc_http(request, parameters)
            reason = "This function was programmatically called via the host APIs."
            return _answer(await self._host.invoke(candidate.function, data, reason=reason))
        return web.Response(status=404)

    def _may_call(self, request: web.Request, function: HttpFunction) -> bool:
        if function.auth_level == "anonymous":
            return True
        keys = (self._keys.master,) if function.auth_level == "admin" else (self._keys.function, self._keys.master)
        return self._bears(request, *keys)

    @staticmethod
    def _bears(request: web.Request, *keys: str) -> bool:
        given = request.headers.get("x-functions-key") or request.query.get("code", "")
        return any(hmac.compare_digest(given.encode(), key.encode()) for key in keys)

    async def _administer(self, request: web.Request) -> web.Response:
        """`GET /admin/host/status`, and `POST /admin/functions/NAME` with `{"input": ...}`, which answers at once."""
        path = request.path.rstrip("/")
        if request.method == "GET" and path == "/admin/host/status":
            return web.json_response({"id": "local", "state": "Running", "processUptime": 0})
        area, _, name = path.removeprefix("/admin/").partition("/")
        if request.method != "POST" or area != "functions" or name not in self._by_name:
            return web.Response(status=404)
        function = self._by_name[name]
        if function.trigger_type == "httpTrigger":
            return web.Response(status=400, text=f"'{name}' is an HTTP function; call it at its route.")
        try:
            given = json.loads(await request.text() or "null")
            data, metadata = _by_hand(function, (given or {}).get("input"))
        except (ValueError, TypeError, AttributeError):
            return web.Response(status=400, text='The body is {"input": ...}, with what the trigger would bring.')
        running = asyncio.create_task(
            self._host.invoke(
                function, data, metadata, reason="This function was programmatically called via the host APIs."
            )
        )
        self._by_hand.add(running)
        running.add_done_callback(self._by_hand.discard)
        return web.Response(status=202)


def _by_hand(function: Function, given: Any) -> tuple[TypedData, dict[str, TypedData]]:
    """What an invocation by hand brings to a function; `given` is text, or JSON that stands for itself."""
    text = given if isinstance(given, str) else json.dumps(given if given is not None else "")
    match function.trigger_type:
        case "timerTrigger":
            now = datetime.now(UTC)
            return timer_info(now, now, past_due=False), {}
        case "serviceBusTrigger":
            return by_hand(text)
        case "eventGridTrigger":
            return rpc.TypedData(json=json.dumps(dict(json.loads(text)))), {}
        case _:
            return rpc.TypedData(string=text), {}


async def _rpc_http(request: web.Request, parameters: dict[str, str]) -> TypedData:
    body = await request.read()
    message = rpc.RpcHttp(
        method=request.method,
        url=str(request.url),
        headers={name.lower(): ",".join(request.headers.getall(name)) for name in request.headers},
        query={name: ",".join(request.query.getall(name)) for name in request.query},
        params=parameters,
    )
    if body:
        message.body.bytes = body
    return rpc.TypedData(http=message)


def _answer(result: InvocationResult) -> web.Response:
    if not result.succeeded:
        return web.Response(status=500)
    if result.value is None:
        return web.Response(status=204)
    match kind := result.value.WhichOneof("data"):
        case "http":
            return _http_answer(result.value.http)
        case "bytes":
            return web.Response(body=result.value.bytes)
        case "string" | "json":
            return web.Response(text=getattr(result.value, kind))
        case _:
            return web.Response(status=204)


def _http_answer(message: Any) -> web.Response:
    kind = message.body.WhichOneof("data")
    body = getattr(message.body, kind) if kind else b""
    response = web.Response(
        status=int(message.status_code or 200),
        body=body.encode() if isinstance(body, str) else body,
        headers={name: value for name, value in message.headers.items() if name.lower() != "content-length"},
    )
    for cookie in message.cookies:
        attributes: dict[str, Any] = {
            "domain": cookie.domain.value if cookie.HasField("domain") else None,
            "path": cookie.path.value if cookie.HasField("path") else "/",
            "secure": cookie.secure.value if cookie.HasField("secure") else None,
            "httponly": cookie.http_only.value if cookie.HasField("http_only") else None,
            "max_age": int(cookie.max_age.value) if cookie.HasField("max_age") else None,
            "samesite": {1: "Lax", 2: "Strict", 3: "None"}.get(cookie.same_site),
        }
        response.set_cookie(cookie.name, cookie.value, **attributes)
    return response
