"""How every HTTP request arrives: a CONNECT proxy in front of one TLS listener, and services mounted by host name.

A client that is given `HTTPS_PROXY` and our certificate authority asks for `management.azure.com:443`; the proxy joins
it to the listener here, which shows a certificate for that name. Nothing ever leaves the machine: a host that nobody
mounted is refused.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping

from aiohttp import web

from emulator.access import Access
from emulator.answering import answer
from emulator.certificates import CertificateAuthority
from emulator.faults import Faults
from emulator.identity import IdentityProvider, UnauthorizedError
from emulator.mounts import Mount, error_body
from emulator.request_log import RequestLog

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
# Clients that arrive at the same moment and wait to be accepted.
BACKLOG = 1024
BODY_LIMIT = 1024**3
# Query parameters whose values are secrets: signatures and keys.
SECRET_PARAMETERS = frozenset({"sig", "code", "key", "token", "access_token", "skoid", "sktid"})


class Gateway:
    """The proxy, the listener, and what is mounted on it."""

    def __init__(
        self,
        *,
        log: RequestLog,
        faults: Faults,
        identities: IdentityProvider,
        ca: CertificateAuthority,
        access: Access | None = None,
    ) -> None:
        self._log = log
        self._faults = faults
        self._identities = identities
        self._access = access or Access()
        self._ca = ca
        self._mounts: list[Mount] = []
        self._runner: web.AppRunner | None = None
        self._proxy: asyncio.Server | None = None
        self._tls_port = 0
        self._tunnels: set[asyncio.Task[None]] = set()

    @property
    def proxy_url(self) -> str:
        assert self._proxy is not None  # noqa: S101 - a URL exists once started
        return f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"

    def mount(self, mounts: Iterable[Mount]) -> None:
        self._mounts.extend(mounts)

    async def start(self) -> None:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._ca.server_context(), backlog=BACKLOG).start()
        self._tls_port = self._runner.addresses[0][1]
        self._proxy = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=BACKLOG)

    async def stop(self) -> None:
        if self._proxy:
            self._proxy.close()
        for tunnel in list(self._tunnels):
            tunnel.cancel()
        if self._runner:
            await self._runner.cleanup()

    # ------------------------------------------------------------------------------------------------------- proxy

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs us as a task
        self._tunnels.add(task)
        try:
            await self._tunnel(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._tunnels.discard(task)
            writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.decode("latin-1").partition(" ")
        target = rest.partition(" ")[0]
        host, _, port = target.rpartition(":")
        if method != "CONNECT":
            await _refuse(writer, "405 Method Not Allowed", "this proxy takes https only; set NO_PROXY for 127.0.0.1")
        elif port != "443" or self._mount_for(host.lower()) is None:
            log.warning("nothing here answers for %s", target)
            await _refuse(
                writer, "502 Bad Gateway", f"the local Azure has no {target}, and nothing leaves this machine"
            )
        else:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._tls_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, inner_writer))
                    group.create_task(_pump(inner_reader, writer))
            finally:
                inner_writer.close()

    # ---------------------------------------------------------------------------------------------------- requests

    def _mount_for(self, host: str) -> Mount | None:
        return next((mount for mount in self._mounts if mount.hosts.fullmatch(host)), None)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0].lower()
        mount = self._mount_for(host)
        if mount is None:
            return web.json_response(error_body("HostNotFound", f"nothing here answers for {host}"), status=502)
        authorization = request.headers.get("Authorization")
        bearer = self._identities.bearer_of(authorization)
        entry = self._log.begin(
            service=mount.service,
            method=request.method,
            host=host,
            path=request.path,
            query=_without_secrets(request.query),
            principal=bearer.name if bearer else None,
        )

        async def respond() -> web.StreamResponse:
            try:
                caller = self._identities.verify(authorization, mount.audiences) if mount.audiences else None
            except UnauthorizedError as error:
                return _unauthorized(error)
            if refusal := self._access.refusal(entry, bearer):
                return refusal
            return await mount.handler(request, caller, entry)

        return await answer(request, entry, self._log, self._faults, respond)


def _without_secrets(query: Mapping[str, str]) -> dict[str, str]:
    return {name: "..." if name.lower() in SECRET_PARAMETERS else value for name, value in query.items()}


def _unauthorized(error: UnauthorizedError) -> web.Response:
    """As Azure Resource Manager refuses a token."""
    challenge = (
        'Bearer authorization_uri="https://login.microsoftonline.com", error="invalid_token", '
        f'error_description="{error}"'
    )
    body = error_body("InvalidAuthenticationToken", f"Authentication failed: {error}.")
    return web.json_response(body, status=401, headers={"WWW-Authenticate": challenge})


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError, RuntimeError):
        writer.write_eof() if writer.can_write_eof() else writer.close()


async def _refuse(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
