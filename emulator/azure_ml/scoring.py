"""The scoring URI of online endpoints: who may call, which deployment answers, how its errors are shown.

Status codes and headers are those of the article on troubleshooting online endpoints.
"""

import time
from collections.abc import Callable, Collection
from http import HTTPStatus

import aiohttp
from aiohttp import web

from emulator.azure_ml.online import Deployment, Endpoint
from emulator.azure_ml.online_endpoints import OnlineEndpoints
from emulator.azure_monitor import AzureMonitor
from emulator.clock import Clock
from emulator.mounts import error_body
from emulator.request_log import Entry
from emulator.topology import Identity

DEPLOYMENT_HEADER = "azureml-model-deployment"
AUDIENCES = ("https://ml.azure.com", "https://ml.azure.com/")
# Headers that belong to one hop, and what the front door sets itself.
NOT_PASSED_ON = {
    "connection",
    "content-length",
    "transfer-encoding",
    "host",
    "authorization",
    "date",
    "server",
    "keep-alive",
}

# Identifies the bearer of an Authorization header with a token for one of the audiences, or raises.
VerifyToken = Callable[[str | None, Collection[str]], Identity]


class Scoring:
    def __init__(
        self, *, endpoints: OnlineEndpoints, clock: Clock, monitor: AzureMonitor, verify_token: VerifyToken | None
    ) -> None:
        self._endpoints = endpoints
        self._monitor = monitor
        self._clock = clock
        self._verify_token = verify_token
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(trust_env=False, auto_decompress=False)

    async def stop(self) -> None:
        if self._session:
            await self._session.close()

    async def respond(self, request: web.Request, _caller: Identity | None, entry: Entry) -> web.StreamResponse:
        name, location, *_ = request.host.split(".")
        endpoint = self._endpoints.at(location, name)
        if endpoint is None:
            return _error(404, "NotFound", f"There is no endpoint {name} in {location}.")
        entry.principal = self._bearer(endpoint, request)
        if entry.principal is None:
            return _error(401, "Unauthorized", "You do not have permission, or your key or token has expired.")
        if request.path not in ("/score", "/swagger.json", "/"):
            return _error(404, "NotFound", f"The endpoint has no route {request.path}.")
        deployment = self._choose(endpoint, request)
        if deployment is None or deployment.server is None:
            return _error(404, "NotFound", "The endpoint doesn't have any valid deployment with positive weight.")
        entry.detail["deployment"] = deployment.name
        started = time.monotonic()
        answer = await self._ask(deployment, request)
        if request.path == "/score":
            self._monitor.record(endpoint.arm_id, deployment.name, answer.status, time.monotonic() - started)
        return answer

    def _bearer(self, endpoint: Endpoint, request: web.Request) -> str | None:
        """Who calls, in the endpoint's way to authenticate; None for nobody who may."""
        header = request.headers.get("Authorization")
        mode = endpoint.properties["authMode"].lower()
        if mode == "aadtoken":
            try:
                return self._verify_token(header, AUDIENCES).name if self._verify_token else None
            except Exception:
                return None
        token = (header or "").removeprefix("Bearer ").strip()
        if mode == "key":
            return f"key of {endpoint.name}" if token in endpoint.keys.values() else None
        expires = endpoint.tokens.get(token)
        return f"token of {endpoint.name}" if expires and expires > self._clock.now() else None

    def _choose(self, endpoint: Endpoint, request: web.Request) -> Deployment | None:
        """The deployment that the header names, whatever its traffic, else the one whose turn it is."""
        if wanted := request.headers.get(DEPLOYMENT_HEADER):
            return endpoint.deployments.get(wanted.lower())
        return endpoint.route()

    async def _ask(self, deployment: Deployment, request: web.Request) -> web.Response:
        server = deployment.server
        if server is None or not server.alive or self._session is None:
            return _error(503, "ServiceUnavailable", f"Deployment {deployment.name} has no running container.")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED_ON}
        url = server.url(request.path_qs)
        timeout = aiohttp.ClientTimeout(total=deployment.request_timeout)
        try:
            body = await request.read()
            async with self._session.request(
                request.method, url, data=body, headers=headers, timeout=timeout
            ) as answer:
                return _passed_on(deployment, answer.status, dict(answer.headers), await answer.read())
        except TimeoutError:
            message = f"The model took longer than request_timeout_ms, {deployment.request_timeout * 1000:.0f} ms."
            return _error(408, "RequestTimeout", message)
        except aiohttp.ClientError as error:
            return _error(503, "ServiceUnavailable", f"Deployment {deployment.name} does not answer: {error}")


def _passed_on(deployment: Deployment, status: int, headers: dict[str, str], body: bytes) -> web.Response:
    """The container's answer; anything but a success becomes 424, with the container's own status in headers."""
    kept = {name: value for name, value in headers.items() if name.lower() not in NOT_PASSED_ON}
    kept[DEPLOYMENT_HEADER] = deployment.name
    if status < 300:
        return web.Response(status=status, body=body, headers=kept)
    kept["ms-azureml-model-error-statuscode"] = str(status)
    kept["ms-azureml-model-error-reason"] = _reason(status)
    return web.Response(status=424, body=body, headers=kept)


def _reason(status: int) -> str:
    try:
        return f"model_error: {HTTPStatus(status).phrase}"
    except ValueError:
        return "model_error"


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response(error_body(code, message), status=status)
