"""Azure Monitor's metrics of online endpoints: what clients of `*.metrics.monitor.azure.com` can ask.

Contract: `POST /subscriptions/{id}/metrics:getBatch` (2024-02-01), with the two kinds of metrics of online endpoints that say how
requests went. Minutes are those of the real clock: requests take real time, whatever the clock of this local Azure says.
Unlike Azure's, the values are there at once.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from emulator.mounts import Mount, error_body
from emulator.request_log import Entry
from emulator.topology import Identity

AUDIENCES = ("https://metrics.monitor.azure.com", "https://metrics.monitor.azure.com/")
NAMESPACE = "microsoft.machinelearningservices/workspaces/onlineendpoints"
KEPT = timedelta(days=1)
_LATENCY = re.compile(r"RequestLatency_P(50|90|95|99)", re.IGNORECASE)
_CONDITION = re.compile(r"\s*(\w+)\s+eq\s+'([^']*)'\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """One answered request; `seconds` is how long it took."""

    at: datetime
    deployment: str
    status: int
    seconds: float


class AzureMonitor:
    """Remembers requests to endpoints, by the endpoint's ARM id."""

    def __init__(self) -> None:
        self._requests: dict[str, list[Request]] = defaultdict(list)

    def record(self, endpoint_id: str, deployment: str, status: int, seconds: float) -> None:
        now = datetime.now(UTC)
        kept = self._requests[endpoint_id.lower()]
        kept.append(Request(now, deployment, status, seconds))
        if kept[0].at < now - KEPT:
            self._requests[endpoint_id.lower()] = [each for each in kept if each.at >= now - KEPT]

    def mounts(self) -> list[Mount]:
        hosts = re.compile(r"[a-z0-9-]+\.metrics\.monitor\.azure\.com")
        return [Mount("monitor", hosts, self._respond, AUDIENCES)]

    async def _respond(self, request: web.Request, _caller: Identity | None, entry: Entry) -> web.StreamResponse:
        if request.method != "POST" or not re.fullmatch(r"/subscriptions/[^/]+/metrics:getBatch", request.path):
            return web.json_response(error_body("NotFound", f"Nothing at {request.path}."), status=404)
        query = request.query
        try:
            start, end = (datetime.fromisoformat(query[name]) for name in ("starttime", "endtime"))
            conditions = _conditions(query.get("filter", ""))
            ids = [str(each) for each in (await request.json())["resourceids"]]
        except (KeyError, ValueError, TypeError) as error:
            return web.json_response(error_body("BadRequest", f"The query is not valid: {error}"), status=400)
        if query.get("metricnamespace", "").lower() != NAMESPACE or query.get("interval") != "PT1M":
            message = f"Only PT1M of {NAMESPACE} can be asked here."
            return web.json_response(error_body("BadRequest", message), status=400)
        names = query.get("metricnames", "").split(",")
        values = []
        for each in ids:
            found = [
                request
                for request in self._requests.get(each.lower(), ())
                if start <= request.at < end and _fits(request, conditions)
            ]
            values.append(
                {
                    "starttime": query["starttime"],
                    "endtime": query["endtime"],
                    "interval": "PT1M",
                    "namespace": query["metricnamespace"],
                    "resourceregion": request.host.partition(".")[0],
                    "resourceid": each,
                    "value": [_metric(each, name, found, conditions) for name in names],
                }
            )
        return web.json_response({"values": values})


def _conditions(text: str) -> dict[str, str]:
    """`deployment eq 'x' and statusCode eq '*'`, by lower-case name."""
    found = {}
    for part in re.split(r"\s+and\s+", text, flags=re.IGNORECASE) if text else ():
        match = _CONDITION.fullmatch(part)
        if not match:
            raise ValueError(f"filter {part!r} is not understood")
        found[match[1].lower()] = match[2]
    return found


def _fits(request: Request, conditions: Mapping[str, str]) -> bool:
    has = {"deployment": request.deployment, "statuscode": str(request.status)}
    return all(wanted in ("*", has.get(name)) for name, wanted in conditions.items())


def _metric(endpoint_id: str, name: str, requests: Iterable[Request], conditions: Mapping[str, str]) -> dict[str, Any]:
    """One time series for each combination of the dimensions that the filter names."""
    series: dict[tuple[tuple[str, str], ...], dict[datetime, list[Request]]] = defaultdict(lambda: defaultdict(list))
    for each in requests:
        has = {"deployment": each.deployment, "statuscode": str(each.status)}
        labels = tuple((dimension, has[dimension]) for dimension in conditions)
        series[labels][each.at.replace(second=0, microsecond=0)].append(each)
    latency = _LATENCY.fullmatch(name)
    return {
        "id": f"{endpoint_id}/providers/Microsoft.Insights/metrics/{name}",
        "type": "Microsoft.Insights/metrics",
        "name": {"value": name, "localizedValue": name},
        "unit": "MilliSeconds" if latency else "Count",
        "errorCode": "Success",
        "timeseries": [
            {
                "metadatavalues": [
                    {"name": {"value": key, "localizedValue": key}, "value": text} for key, text in labels
                ],
                "data": [
                    {
                        "timeStamp": minute.isoformat().replace("+00:00", "Z"),
                        "average": _percentile(those, int(latency[1])) if latency else float(len(those)),
                    }
                    for minute, those in sorted(minutes.items())
                ],
            }
            for labels, minutes in series.items()
        ],
    }


def _percentile(requests: list[Request], percent: int) -> float:
    """In milliseconds, by nearest rank."""
    ordered = sorted(each.seconds for each in requests)
    return 1000 * ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
