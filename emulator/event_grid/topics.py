"""Custom topics: an endpoint at which events are published, with a key, a signature made with it, or an identity."""

import base64
import hashlib
import hmac
import re
import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote

from aiohttp import web

from emulator.clock import Clock
from emulator.event_grid.events import CLOUD_EVENT_TYPES, Event, MalformedEventsError, Schema, published_events
from emulator.handed_out import remembered
from emulator.identity import UnauthorizedError
from emulator.mounts import error_body
from emulator.request_log import Entry
from emulator.topology import Identity

HOSTS = re.compile(r"(?P<topic>[a-z0-9-]+)\.(?P<region>[a-z0-9]+)-1\.eventgrid\.azure\.net")
AUDIENCES = ("https://eventgrid.azure.net", "https://eventgrid.azure.net/")
LARGEST_REQUEST = 1024 * 1024
KEYS = ("aeg-sas-key", "aeg-sas-token")
KEPT_EVENTS = 10_000
TokenVerifier = Callable[[str | None, Collection[str]], Identity]


@dataclass(frozen=True)
class Topic:
    """A custom topic. `senders` are the identities with the role EventGrid Data Sender here; None for all that there are.

    `published` is what came last, for tests and demos to see.
    """

    name: str
    region: str
    input_schema: Schema
    senders: frozenset[str] | None = None
    published: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS), compare=False)
    key: str = field(default_factory=lambda: remembered(base64.b64encode(secrets.token_bytes(32)).decode()))

    @property
    def host(self) -> str:
        return f"{self.name}.{self.region}-1.eventgrid.azure.net"

    @property
    def endpoint(self) -> str:
        return f"https://{self.host}/api/events"

    @property
    def arm_id(self) -> str:
        return (
            "/subscriptions/00000000-0000-4000-8000-000000000000/resourceGroups/rg-events"
            f"/providers/Microsoft.EventGrid/topics/{self.name}"
        )


class PublishEndpoint:
    """`POST /api/events` of every custom topic; hands valid events to `publish`."""

    def __init__(
        self,
        *,
        topics: Mapping[str, Topic],
        clock: Clock,
        publish: Callable[[Topic, list[Event]], None],
        verify_token: TokenVerifier | None,
    ) -> None:
        self._topics = topics
        self._clock = clock
        self._publish = publish
        self._verify_token = verify_token

    async def handle(self, request: web.Request, _: Identity | None, entry: Entry) -> web.StreamResponse:
        if (topic := self._topics.get(entry.host.partition(":")[0].lower())) is None:
            return _refuse(404, "ResourceNotFound", f"There is no topic at {entry.host}.")
        if request.method != "POST" or request.path != "/api/events":
            return _refuse(404, "NotFound", f"Events are published with POST to {topic.endpoint}.")
        if not self._authorized(request, topic, entry):
            return _refuse(
                401,
                "Unauthorized",
                "Request must contain one of the following authorization signature: aeg-sas-token, aeg-sas-key, or a "
                "bearer token for https://eventgrid.azure.net, and it must be valid.",
            )
        if topic.senders is not None and entry.principal not in (*topic.senders, *KEYS):
            return _refuse(403, "Forbidden", f"{entry.principal} may not send events to {topic.arm_id}.")
        if topic.input_schema == "CloudEventSchemaV1_0" and request.content_type not in CLOUD_EVENT_TYPES:
            return _refuse(400, "BadRequest", f"The Content-Type must be {' or '.join(CLOUD_EVENT_TYPES)}.")
        raw = await request.read()
        if len(raw) > LARGEST_REQUEST:
            return _refuse(413, "PayloadTooLarge", f"The maximum size is {LARGEST_REQUEST} bytes, got {len(raw)}.")
        try:
            events = published_events(raw, topic.input_schema, topic.arm_id)
        except MalformedEventsError as error:
            return _refuse(400, "BadRequest", str(error))
        entry.detail["event_ids"] = [event.id for event in events]
        topic.published.extend(events)
        self._publish(topic, events)
        return web.Response(status=200)

    def _authorized(self, request: web.Request, topic: Topic, entry: Entry) -> bool:
        if key := request.headers.get("aeg-sas-key"):
            entry.principal = KEYS[0]
            return hmac.compare_digest(key.encode(), topic.key.encode())
        if token := request.headers.get("aeg-sas-token"):
            entry.principal = KEYS[1]
            return self._signed(token, topic)
        if self._verify_token is None or "Authorization" not in request.headers:
            return False
        try:
            entry.principal = self._verify_token(request.headers["Authorization"], AUDIENCES).name
        except UnauthorizedError:
            return False
        return True

    def _signed(self, token: str, topic: Topic) -> bool:
        """Check a shared access signature, `r=RESOURCE&e=EXPIRY&s=SIGNATURE`, each part URL-encoded."""
        signed, _, signature = token.rpartition("&s=")
        parts = dict(part.partition("=")[::2] for part in signed.split("&"))
        expected = hmac.new(base64.b64decode(topic.key), signed.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(unquote(signature), base64.b64encode(expected).decode()):
            return False
        if not unquote(parts.get("r", "")).lower().startswith(topic.endpoint.lower()):
            return False
        try:
            expiry = datetime.fromisoformat(unquote(parts["e"]).strip())
        except (KeyError, ValueError):
            return False
        return (expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)) > self._clock.now()


def _refuse(status: int, code: str, message: str) -> web.Response:
    return web.json_response(error_body(code, message), status=status)
