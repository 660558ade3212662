"""Requests to webhooks: the validation handshake, and notifications."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from emulator.clock import Clock
from emulator.event_grid.events import VALIDATION_EVENT, Event
from emulator.event_grid.subscriptions import Subscription
from emulator.faults import Faults
from emulator.request_log import RequestLog

ANSWER_TIMEOUT = 30.0
ORIGIN = "eventgrid.azure.net"


@dataclass(frozen=True)
class Answer:
    """What a webhook answered; status 0 is no answer, with the reason as `outcome` (TimedOut or SocketError)."""

    status: int
    outcome: str
    body: str = ""
    headers: Mapping[str, str] | None = None


OUTCOMES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    408: "TimedOut",
    413: "PayloadTooLarge",
    503: "Busy",
}


class Webhooks:
    """Sends requests to webhooks, each of them an entry of the request log that faults may meet.

    A fault before the effect keeps the request from the webhook; one after it replaces the answer that Event Grid sees.
    """

    def __init__(self, *, clock: Clock, log: RequestLog, faults: Faults) -> None:
        self._clock = clock
        self._log = log
        self._faults = faults
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(trust_env=False, auto_decompress=True)

    async def stop(self) -> None:
        if self._session:
            await self._session.close()

    async def send(
        self,
        subscription: Subscription,
        body: bytes | None,
        headers: Mapping[str, str],
        detail: dict[str, Any],
        method: str = "POST",
    ) -> Answer:
        url = urlsplit(subscription.webhook_url)
        entry = self._log.begin(
            service="event_grid",
            method=method,
            host=url.netloc,
            path=url.path,
            query={"subscription": subscription.name},
            detail=detail,
        )
        answer = None
        if (fault := await self._faults.meet(entry, "before")) is None:
            answer = await self._answer_in_time(subscription.webhook_url, method, body, headers)
            fault = await self._faults.meet(entry, "after")
        if fault is not None:
            answer = Answer(0, "SocketError") if fault.drop else _answer(fault.status or 0, json.dumps(fault.body), {})
        assert answer is not None  # noqa: S101 -- either a fault replaced it, or the webhook gave it
        self._log.end(entry, answer.status)
        return answer

    async def _answer_in_time(self, url: str, method: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        request = asyncio.create_task(self._request(url, method, body, headers))
        late = asyncio.create_task(self._clock.wait(ANSWER_TIMEOUT))
        try:
            await asyncio.wait({request, late}, return_when=asyncio.FIRST_COMPLETED)
            return request.result() if request.done() else Answer(0, "TimedOut")
        finally:
            for task in (request, late):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(request, late, return_exceptions=True)

    async def _request(self, url: str, method: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        if self._session is None:
            raise RuntimeError("Event Grid is not started")
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response:
                return _answer(response.status, await response.text(errors="replace"), response.headers)
        except (aiohttp.ClientError, OSError):
            return Answer(0, "SocketError")

    async def validate(self, subscription: Subscription) -> Answer:
        """The handshake: `outcome` is Delivered if the webhook proved that it wants the events."""
        if subscription.delivery_schema == "CloudEventSchemaV1_0" and not subscription.is_azure_function:
            headers = {"WebHook-Request-Origin": ORIGIN}
            answer = await self.send(subscription, None, headers, {"handshake": "OPTIONS"}, method="OPTIONS")
            allowed = (answer.headers or {}).get("WebHook-Allowed-Origin", "")
            proved = answer.status == 200 and allowed in ("*", ORIGIN)
        else:
            code = str(uuid.uuid4())
            body, headers = _validation_request(subscription, code, self._clock.now().isoformat())
            answer = await self.send(subscription, body, headers, {"handshake": "SubscriptionValidation"})
            proved = answer.status == 200 and _validation_response(answer.body) == code
        if proved or answer.outcome != "Delivered":
            return answer
        return Answer(answer.status, "ValidationFailed", answer.body)

    async def notify(self, subscription: Subscription, events: Sequence[Event], attempts: int) -> Answer:
        """Deliver these events, `attempts` of which were made before."""
        body, headers = notification(subscription, events, attempts)
        detail = {"event_ids": [event.id for event in events], "attempt": attempts + 1}
        return await self.send(subscription, body, headers, detail)


def notification(subscription: Subscription, events: Sequence[Event], attempts: int) -> tuple[bytes, dict[str, str]]:
    """A delivery as the service words it: an array, but in the CloudEvents schema without batching one event alone."""
    rendered: Any = [event.rendered(subscription.delivery_schema) for event in events]
    content_type = "application/json; charset=utf-8"
    if subscription.delivery_schema == "CloudEventSchemaV1_0":
        batching = subscription.max_events_per_batch > 1
        content_type = f"application/cloudevents{'-batch' if batching else ''}+json; charset=utf-8"
        rendered = rendered if batching else rendered[0]
    headers = _headers(subscription, "Notification", content_type) | {
        "aeg-delivery-count": str(attempts),
        "aeg-output-event-id": str(uuid.uuid4()),
    }
    if subscription.delivery_schema == "EventGridSchema":
        headers |= {"aeg-data-version": str(events[0].body["dataVersion"]), "aeg-metadata-version": "1"}
    return json.dumps(rendered).encode(), headers


def _validation_request(subscription: Subscription, code: str, now: str) -> tuple[bytes, dict[str, str]]:
    data = {"validationCode": code}
    event_id = str(uuid.uuid4())
    body: Any
    if subscription.delivery_schema == "CloudEventSchemaV1_0":
        content_type = "application/cloudevents+json; charset=utf-8"
        # The data of this event alone is JSON within a string, which the Event Grid extension of Functions expects.
        body = {
            "specversion": "1.0",
            "id": event_id,
            "source": subscription.topic,
            "type": VALIDATION_EVENT,
            "subject": "",
            "time": now,
            "data": json.dumps(data),
        }
    else:
        content_type = "application/json; charset=utf-8"
        body = [
            {
                "id": event_id,
                "topic": subscription.topic,
                "subject": "",
                "data": data,
                "eventType": VALIDATION_EVENT,
                "eventTime": now,
                "metadataVersion": "1",
                "dataVersion": "2",
            }
        ]
    return json.dumps(body).encode(), _headers(subscription, "SubscriptionValidation", content_type)


def _headers(subscription: Subscription, event_type: str, content_type: str) -> dict[str, str]:
    return {
        "Content-Type": content_type,
        "aeg-event-type": event_type,
        "aeg-subscription-name": subscription.name.upper(),
    }


def _validation_response(body: str) -> str | None:
    try:
        answered = json.loads(body)
    except ValueError:
        return None
    return str(answered.get("validationResponse")) if isinstance(answered, dict) else None


def _answer(status: int, body: str, headers: Mapping[str, str]) -> Answer:
    outcome = "Delivered" if 200 <= status <= 204 else OUTCOMES.get(status, "Error")
    return Answer(status, outcome, body, headers)
