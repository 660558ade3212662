"""Managed identities: the token endpoint of App Service, and the check of its tokens.

The endpoint's form (2019-08-01): `GET $IDENTITY_ENDPOINT?resource=...&api-version=...` with header `X-IDENTITY-HEADER`.
"""

import secrets
import uuid
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from aiohttp import web

from emulator.answering import answer
from emulator.faults import Faults
from emulator.handed_out import remembered
from emulator.request_log import RequestLog
from emulator.topology import TENANT_ID, Identity

ISSUER = f"https://sts.windows.net/{TENANT_ID}/"
LIFETIME = timedelta(hours=24)
CLOCK_SKEW = timedelta(minutes=5)


class UnauthorizedError(Exception):
    """No token, or one that is not for this; the text says which."""


class IdentityProvider:
    """Gives tokens to those who know an identity's header secret, and knows its own tokens again."""

    def __init__(
        self,
        identities: Collection[Identity],
        *,
        log: RequestLog | None = None,
        faults: Faults | None = None,
        lifetime: timedelta = LIFETIME,
    ) -> None:
        """With `log` and `faults`, the token endpoint is a service like any other: `identity`."""
        self._log = log
        self._faults = faults
        self._lifetime = lifetime
        self._identities = {identity.object_id: identity for identity in identities}
        self._by_secret = {remembered(secrets.token_urlsafe(24)): identity for identity in identities}
        self._signing_key = secrets.token_bytes(32)
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/msi/token", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    def environment(self, identity: Identity) -> dict[str, str]:
        """The environment variables by which `ManagedIdentityCredential` finds this identity."""
        secret = next(secret for secret, known in self._by_secret.items() if known == identity)
        return {"IDENTITY_ENDPOINT": f"http://127.0.0.1:{self._port}/msi/token", "IDENTITY_HEADER": secret}

    def issue(self, identity: Identity, resource: str) -> tuple[str, datetime]:
        """A token of this identity for `resource`, and when it expires.

        Clients and Azurite go by the machine's clock, so tokens do as well, however far the local Azure's was advanced.
        """
        now = datetime.now(UTC)
        expires = now + self._lifetime
        claims = {
            "aud": resource,
            "iss": ISSUER,
            "iat": int(now.timestamp()),
            "nbf": int((now - CLOCK_SKEW).timestamp()),
            "exp": int(expires.timestamp()),
            "oid": identity.object_id,
            "sub": identity.object_id,
            "appid": identity.client_id,
            "tid": TENANT_ID,
            "ver": "1.0",
            "uti": uuid.uuid4().hex,
        }
        return jwt.encode(claims, self._signing_key, algorithm="HS256"), expires

    def verify(self, authorization: str | None, audiences: Collection[str]) -> Identity:
        """Whose token this Authorization header bears. Raises UnauthorizedError."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError("the request bears no token")
        claims = self._claims(token)
        if str(claims["aud"]).rstrip("/") not in {audience.rstrip("/") for audience in audiences}:
            raise UnauthorizedError(f"the token is for {claims['aud']}, not for {' or '.join(sorted(audiences))}")
        return self._identities[claims["oid"]]

    def bearer_of(self, authorization: str | None) -> Identity | None:
        """Whose token this header bears, whatever it is for: whether it is for this service is for `verify` to say."""
        scheme, _, token = (authorization or "").partition(" ")
        try:
            return self._identities[self._claims(token)["oid"]] if scheme.lower() == "bearer" else None
        except UnauthorizedError:
            return None

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token, self._signing_key, algorithms=["HS256"], issuer=ISSUER, options={"verify_aud": False}
            )
        except jwt.InvalidTokenError as error:
            raise UnauthorizedError(f"the token is not one of this Azure: {error}") from error

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._log is None or self._faults is None:
            return self._token(request)
        caller = self._by_secret.get(request.headers.get("X-IDENTITY-HEADER", ""))
        entry = self._log.begin(
            service="identity",
            method=request.method,
            host=request.host,
            path=request.path,
            query=dict(request.query),
            principal=caller.name if caller else None,
        )

        async def respond() -> web.StreamResponse:
            return self._token(request)

        return await answer(request, entry, self._log, self._faults, respond)

    def _token(self, request: web.Request) -> web.Response:
        identity = self._by_secret.get(request.headers.get("X-IDENTITY-HEADER", ""))
        resource = request.query.get("resource")
        if identity is None:
            return web.json_response({"statusCode": 401, "message": "X-IDENTITY-HEADER is wrong"}, status=401)
        if not resource:
            return web.json_response({"statusCode": 400, "message": "the query lacks resource"}, status=400)
        wanted = request.query.get("client_id")
        if wanted and wanted != identity.client_id:
            return web.json_response({"statusCode": 400, "message": "no such user-assigned identity"}, status=400)
        token, expires = self.issue(identity, resource)
        body = {
            "access_token": token,
            "expires_on": str(int(expires.timestamp())),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": identity.client_id,
        }
        return web.json_response(body)
