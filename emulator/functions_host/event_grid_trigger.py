"""The webhook of the Event Grid extension, `/runtime/webhooks/eventgrid?functionName=NAME&code=SYSTEMKEY`.

Behaviour as in HttpRequestProcessor and EventGridExtensionConfigProvider of Microsoft.Azure.WebJobs.Extensions.EventGrid:
the header `aeg-event-type` says what a request is. All events of a batch run in parallel, and one failure makes Event
Grid send the whole batch again; so functions must be idempotent for each event's id.

The OPTIONS handshake of the CloudEvents webhook specification is answered too. The extension itself has no part in it:
Event Grid validates a function with a SubscriptionValidation event in both schemas.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from emulator.functions_host.host import Host
from emulator.functions_host.worker import Function, InvocationResult, rpc


class EventGridWebhook:
    def __init__(self, host: Host, functions: Mapping[str, Function]) -> None:
        self._host = host
        self._functions = functions

    async def handle(self, request: web.Request) -> web.Response:
        name = request.query.get("functionName", "")
        if (function := self._functions.get(name)) is None:
            return web.Response(status=404, text=f"cannot find function: '{name}'")
        if request.method == "OPTIONS":
            return _allow_origin(request)
        match request.headers.get("aeg-event-type", "").lower():
            case "subscriptionvalidation":
                return web.json_response({"validationResponse": _validation_code(await request.json())})
            case "notification":
                body = await request.json()
                events = body if isinstance(body, list) else [body]
                return await self._notify(function, events, request.headers.get("traceparent"))
            case "unsubscribe":
                return web.Response(status=202)
            case _:
                return web.Response(status=400)

    async def _notify(self, function: Function, events: list[Any], trace: str | None) -> web.Response:
        batches = [events] if function.is_batch else events
        results: list[InvocationResult] = await asyncio.gather(
            *(
                self._host.invoke(
                    function, rpc.TypedData(json=json.dumps(batch)), reason="EventGrid trigger fired.", trace=trace
                )
                for batch in batches
            )
        )
        for result in results:
            if not result.succeeded:
                return web.Response(status=500, text=f"Exception while executing function: {result.error}")
        return web.Response(status=202)


def _validation_code(body: Any) -> str:
    if isinstance(body, list):
        return str(body[0]["data"]["validationCode"])
    # In the CloudEvents schema the data of this one event is a string that holds JSON.
    data = body["data"]
    return str((json.loads(data) if isinstance(data, str) else data)["validationCode"])


def _allow_origin(request: web.Request) -> web.Response:
    origin = request.headers.get("WebHook-Request-Origin")
    if origin is None:
        return web.Response(status=400)
    return web.Response(headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"})
