"""The HTTP client: one request, tried again where that is safe, and every fault as one sentence.

On `azure-core`'s pipeline, which signs requests with tokens that it keeps and renews. Redirects are not followed, so that a
key goes nowhere but to the service. Orders carry an `Idempotency-Key`, so that a request that is sent again is one order.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline import Pipeline
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, HTTPPolicy, SansIOHTTPPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse

from promotions.exits import Exit, Failure
from promotions.signing_in import KEY, URL, Service, credential
from promotions.text import clean

TRIES = 4
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0  # an app that slept takes a while for its first answer
_LATER = frozenset({429, 502, 503, 504})
_LOST = frozenset({502, 504})  # of a gateway, which may have passed the request on
_NOT_ASKED = frozenset({400, 401, 405, 413, 415})


class Unanswered(Failure):
    """Nobody answered, or not now: asking again may help."""


@dataclass(frozen=True)
class Answer:
    """`at` is the server's own time, if it told it."""

    content: Any
    at: datetime | None = None


class Client:
    """Asks the service. `sleep` waits between two tries; `notice` tells the user what is being waited for."""

    def __init__(self, service: Service, *, sleep: Callable[[float], None], notice: Callable[[str], None]) -> None:
        policies: list[HTTPPolicy[Any, Any] | SansIOHTTPPolicy[Any, Any]] = []
        if service.scope:
            policies.append(BearerTokenCredentialPolicy(credential(), service.scope))
        transport = RequestsTransport(connection_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS)
        self._pipeline: Pipeline[HttpRequest, HttpResponse] = Pipeline(transport, policies)
        self._service = service
        self._sleep = sleep
        self._notice = notice

    def get(self, *path: str, **query: Any) -> Answer:
        return self._json(self._send("GET", path, query))

    def post(self, *path: str, body: Mapping[str, Any], key: str | None = None) -> Answer:
        """`key` makes an order of it that is one however often it is sent."""
        content = json.dumps(dict(body)).encode()
        return self._json(self._send("POST", path, {}, content, "application/json", key))

    def post_text(self, *path: str, text: bytes, content_type: str) -> Answer:
        return self._json(self._send("POST", path, {}, text, content_type))

    def download(self, *path: str, **query: Any) -> bytes:
        return self._send("GET", path, query).read()

    def _send(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, Any],
        content: bytes | None = None,
        content_type: str | None = None,
        key: str | None = None,
    ) -> HttpResponse:
        headers = {"Accept": "application/json, application/zip", "User-Agent": "promotions-console"}
        headers |= {"x-functions-key": self._service.key} if self._service.key else {}
        headers |= {"Content-Type": content_type} if content_type else {}
        headers |= {"Idempotency-Key": key} if key else {}
        url = self._url(path, query)
        lost = False
        for number in range(TRIES):
            again = number + 1 < TRIES
            try:
                response = self._once(HttpRequest(method, url, headers=headers, content=content))
            except (ServiceRequestError, ServiceResponseError) as fault:
                lost |= isinstance(fault, ServiceResponseError)
                why, wait = _no_answer(self._service, fault), FIRST_WAIT * 2**number
                if not again or _is_certificate(fault):
                    raise Unanswered(why, _after_no_answer(key) if lost else _CHECK_URL) from None
            else:
                if response.status_code not in _LATER or not again:
                    return self._judged(response, lost=lost)
                lost |= response.status_code in _LOST
                why = f"The service answered HTTP {response.status_code}."
                wait = _retry_after(response, FIRST_WAIT * 2**number)
            self._notice(f"{why} Trying again in {wait:.1f} s.")
            self._sleep(wait)
        raise AssertionError("the last try answers or raises")

    def _once(self, request: HttpRequest) -> HttpResponse:
        try:
            options = {"enforce_https": False} if self._service.is_local and self._service.scope else {}
            return self._pipeline.run(request, stream=False, **options).http_response
        except ClientAuthenticationError as error:
            raise Failure(
                f"Nobody is signed in for {clean(self._service.scope)}: {_first_line(error)}",
                "Run `az login`, or sign in by the environment variables or the managed identity of azure-identity.",
            ) from None
        except (ServiceRequestError, ServiceResponseError):
            raise
        except AzureError as error:
            raise Failure(f"The request failed: {_first_line(error)}") from None

    def _url(self, path: tuple[str, ...], query: Mapping[str, Any]) -> str:
        for part in path:
            if part in ("", ".", ".."):
                raise Failure(f"{part!r} is no name or id.")
        given = urlencode({name: value for name, value in query.items() if value is not None})
        route = "/".join(quote(part, safe="") for part in ("api", *path))
        return f"{self._service.url}/{route}" + (f"?{given}" if given else "")

    def _json(self, response: HttpResponse) -> Answer:
        try:
            content = json.loads(response.read())
        except (ValueError, RecursionError):
            kind = clean(response.headers.get("Content-Type", "something else"))
            raise Failure(f"{self._service.url} answered with {kind} where JSON was expected.", _CHECK_URL) from None
        return Answer(content, _date(response))

    def _judged(self, response: HttpResponse, *, lost: bool) -> HttpResponse:
        """The response, if it is a success; otherwise the Failure that it tells of."""
        status = response.status_code
        if 200 <= status < 300:
            return response
        if 300 <= status < 400:
            host = clean(urlsplit(response.headers.get("Location", "")).hostname or "elsewhere")
            raise Failure(
                f"{self._service.url} sends the client on to {host} (HTTP {status}), which it does not follow.",
                f"If that is a sign-in page, give --scope; otherwise set {URL} to the app's own address.",
            )
        problem = _problem(response)
        if problem is None:
            raise _without_details(self._service, status)
        detail = clean(problem["detail"]).strip()
        if self._service.key:
            detail = detail.replace(self._service.key, "***")
        reason = f", {clean(problem['reason'])}" if problem.get("reason") else ""
        remedy = _REMEDIES.get(status, "")
        if lost and status in (404, 409):
            remedy = "The answer to an earlier try was lost: that try may have done it, so look before you repeat it."
        kind = Unanswered if status in _LATER else Failure
        code = Exit.NOT_ASKED if status in _NOT_ASKED or status >= 500 else Exit.REFUSED
        raise kind(f"{detail.rstrip('.')} (HTTP {status}{reason}).", remedy, code=code)


_CHECK_URL = f"Is {URL} or --url the address of the function app, and is there a network?"
_REMEDIES = {
    400: "Correct what it names; --help says what each option may hold.",
    401: f"Check the function key in {KEY} or --key-file, or the sign-in (--scope).",
    403: "Ask somebody who may, or sign in as somebody who may (--scope).",
    404: "`python -m promotions list` shows what there is.",
    409: "Look at it again: `python -m promotions show ID`.",
    413: "Send less.",
    429: "Ask again in a moment.",
    503: "Ask again in a moment.",
}


def _without_details(service: Service, status: int) -> Failure:
    """An answer that is not the service's own: the host's, a gateway's, or somebody else's."""
    if status == 401:
        if service.key:
            return Failure(f"The function key is wrong for {service.url} (HTTP 401).", _REMEDIES[401])
        return Failure(
            f"{service.url} takes nobody without a function key, or not this sign-in (HTTP 401).", _REMEDIES[401]
        )
    if status == 403:
        return Failure(f"{service.url} lets nobody in from here, or not as who you are (HTTP 403).", _REMEDIES[403])
    if status == 404:
        return Failure(
            f"{service.url} is not the promotion service, or an older one without this (HTTP 404).", _CHECK_URL
        )
    sentence = f"{service.url} answered HTTP {status} without saying why."
    if status in _LATER:
        return Unanswered(sentence, _REMEDIES[503])
    return Failure(sentence, "The app's log says why.")


def _problem(response: HttpResponse) -> Mapping[str, Any] | None:
    """Problem details (RFC 9457); None if the answer holds none."""
    try:
        content = json.loads(response.read())
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("detail"), str) else None


def _after_no_answer(key: str | None) -> str:
    if key is None:
        return _CHECK_URL
    return f"It may have been done all the same: repeat the command with --idempotency-key {clean(key)}, which makes it one order."


def _retry_after(response: HttpResponse, otherwise: float) -> float:
    """Seconds to wait; as a number only, for the service answers with nothing else. Bounded either way."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), LONGEST_WAIT) if text.isascii() and text.isdigit() else otherwise


def _date(response: HttpResponse) -> datetime | None:
    try:
        found = parsedate_to_datetime(response.headers.get("Date", ""))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _is_certificate(fault: AzureError) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(fault) or "certificate verify failed" in str(fault)


def _no_answer(service: Service, fault: AzureError) -> str:
    text = str(fault)
    if _is_certificate(fault):
        return (
            f"The certificate of {service.url} is not one that this machine trusts (REQUESTS_CA_BUNDLE names others)."
        )
    if isinstance(fault, ServiceResponseError):
        return f"{service.url} took the request and did not answer."
    if "ProxyError" in text or "proxy" in text.lower():
        return f"The proxy on the way to {service.url} did not let the request through (HTTPS_PROXY)."
    if "NameResolution" in text or "getaddrinfo" in text or "Name or service not known" in text:
        return f"The name in {service.url} is not known."
    if "refused" in text:
        return f"Nobody listens at {service.url}."
    return f"{service.url} cannot be reached."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return clean(lines[0] if lines else type(error).__name__)
