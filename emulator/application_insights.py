"""Application Insights at the wire: takes telemetry as Azure Monitor's exporters send it, and shows it to tests.

Contract: `POST /v2.1/track` of the ingestion endpoint, a JSON array of envelopes, compressed or not. As with `DisableLocalAuth`,
only identities are let in. Envelopes are kept as they came: `name`, `time`, `tags` (`ai.operation.id` is the trace) and `data`.
"""

import json
import re
import uuid
from collections import deque
from typing import Any

from aiohttp import web

from emulator.mounts import Mount, error_body
from emulator.request_log import Entry
from emulator.topology import NAMESPACE, PROMOTION_SERVICE, Identity

AUDIENCES = ("https://monitor.azure.com",)
HOST = "westeurope-1.in.applicationinsights.azure.com"
LIVE_HOST = "westeurope.livediagnostics.monitor.azure.com"
# The exporter joins the endpoint of a connection string, which ends with a slash, and its own path, which begins with one.
TRACK = re.compile(r"/+v2\.1/track")
KEPT_ITEMS = 50_000
# What switches telemetry on in the function app, with the keys that infra/ gives it. The rest keeps the exporter from looking for
# hosts of Microsoft's own that are about the exporter itself.
SETTINGS = {
    "APPLICATIONINSIGHTS_CONNECTION_STRING": (
        f"InstrumentationKey={uuid.uuid5(NAMESPACE, 'application-insights')};IngestionEndpoint=https://{HOST}/;"
        f"LiveEndpoint=https://{LIVE_HOST}/"
    ),
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": f"ClientId={PROMOTION_SERVICE.client_id};Authorization=AAD",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "true",
    "OTEL_SERVICE_NAME": "model-promotion",
    "OTEL_TRACES_SAMPLER": "always_on",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": (
        "azure_sdk,django,fastapi,flask,httpx,httpx2,psycopg2,requests,urllib,urllib3"
    ),
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
}


class ApplicationInsights:
    """One component. Forgets the oldest items, so that it can run for weeks."""

    def __init__(self) -> None:
        self._items: deque[dict[str, Any]] = deque(maxlen=KEPT_ITEMS)

    def mounts(self) -> list[Mount]:
        return [
            Mount("application_insights", re.compile(re.escape(HOST)), self._respond, AUDIENCES),
            Mount("application_insights", re.compile(re.escape(LIVE_HOST)), _nobody_looks, AUDIENCES),
        ]

    def control_routes(self) -> list[web.RouteDef]:
        return [web.get("/application-insights/items", self._show)]

    async def _respond(self, request: web.Request, _caller: Identity | None, _entry: Entry) -> web.StreamResponse:
        if request.method != "POST" or not TRACK.fullmatch(request.path):
            return web.json_response(error_body("NotFound", f"Nothing at {request.path}."), status=404)
        try:
            items = json.loads(await request.read())
        except ValueError as error:
            return web.json_response({"itemsReceived": 0, "itemsAccepted": 0, "errors": [str(error)]}, status=400)
        self._items.extend(items)
        return web.json_response({"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []})

    async def _show(self, _: web.Request) -> web.Response:
        """All items, oldest first."""
        return web.json_response({"items": list(self._items)})


async def _nobody_looks(_request: web.Request, _caller: Identity | None, _entry: Entry) -> web.StreamResponse:
    """Live metrics, which are only sent while somebody has them on screen."""
    return web.Response(headers={"x-ms-qps-subscribed": "false"})
