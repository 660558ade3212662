"""Event Grid with Microsoft's publisher on one side and a webhook on the other; time is advanced, never waited for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from azure.core.credentials import AzureKeyCredential, AzureSasCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, generate_sas
from azure.eventgrid.aio import EventGridPublisherClient

from emulator.clock import Clock
from emulator.event_grid import EventGrid, Subscription
from emulator.event_grid.events import Schema
from emulator.faults import Fault, Faults
from emulator.identity import UnauthorizedError
from emulator.request_log import RequestLog
from emulator.topology import PROMOTION_SERVICE, Identity

WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
TOPIC_HOST = "promotions.westeurope-1.eventgrid.azure.net"


@dataclass
class Received:
    headers: dict[str, str]
    body: Any


@dataclass
class Webhook:
    """An endpoint that agrees to the handshake and answers notifications with the next of `answers`, then with 200."""

    answers: list[int] = field(default_factory=list)
    refuses: int | None = None
    received: list[Received] = field(default_factory=list)
    handshakes: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        if self.refuses:
            self.handshakes.append("refused")
            return web.Response(status=self.refuses)
        if request.method == "OPTIONS":
            self.handshakes.append("OPTIONS")
            return web.Response(headers={"WebHook-Allowed-Origin": request.headers["WebHook-Request-Origin"]})
        body = await request.json()
        if request.headers["aeg-event-type"] == "SubscriptionValidation":
            self.handshakes.append("POST")
            return web.json_response({"validationResponse": body[0]["data"]["validationCode"]})
        self.received.append(Received({name.lower(): value for name, value in request.headers.items()}, body))
        if self.gate:
            await self.gate.wait()
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    @property
    def ids(self) -> list[str]:
        return [
            event["id"]
            for received in self.received
            for event in (received.body if isinstance(received.body, list) else [received.body])
        ]


@dataclass
class World:
    event_grid: EventGrid
    clock: Clock
    log: RequestLog
    faults: Faults
    webhook: Webhook
    topic_url: str
    topic_key: str
    control_url: str
    dead_letters: Path

    async def subscribe(self, name: str = "s", topic: str = WORKSPACE, **more: Any) -> None:
        await self.event_grid.subscribe(Subscription(name, topic, **({"webhook_url": self.webhook.url} | more)))
        await until(lambda: self.event_grid.deliveries[name].state == "Succeeded")

    async def raise_event(self, number: str, kind: str = "Happened", subject: str = "models/m:1") -> None:
        body = {"id": number, "subject": subject, "eventType": kind, "eventTime": "2026-11-23T00:00:00Z", "data": {}}
        await self.event_grid.publish_system(WORKSPACE, body | {"dataVersion": ""})

    def publisher(self, key: str) -> EventGridPublisherClient:
        return EventGridPublisherClient(self.topic_url, AzureKeyCredential(key), retry_total=0)

    def dead_letter(self) -> dict[str, Any]:
        files = list(self.dead_letters.glob("*.json"))
        assert len(files) == 1
        events = json.loads(files[0].read_text())
        assert len(events) == 1
        return dict(events[0])

    async def control(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.control_url + path, data=data, headers=named) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("[", "{")) else text


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks of this loop bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- conditions of the tests have no event of their own
            await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def verify_token(authorization: str | None, audiences: Collection[str]) -> Identity:
    if authorization == "Bearer good" and "https://eventgrid.azure.net" in audiences:
        return PROMOTION_SERVICE
    raise UnauthorizedError("not a token of this local Azure")


@asynccontextmanager
async def world(directory: Path, input_schema: Schema = "EventGridSchema") -> AsyncIterator[World]:
    clock = Clock()
    log, faults, webhook = RequestLog(clock), Faults(clock), Webhook()
    event_grid = EventGrid(clock=clock, log=log, faults=faults, directory=directory, verify_token=verify_token)
    endpoint, key = event_grid.create_topic("promotions", "westeurope", input_schema)
    assert endpoint == f"https://{TOPIC_HOST}/api/events"
    mount = event_grid.mounts()[0]
    assert mount.hosts.fullmatch(TOPIC_HOST)

    async def publish(request: web.Request) -> web.StreamResponse:
        entry = log.begin(service="event_grid", method=request.method, host=TOPIC_HOST, path=request.path)
        return await mount.handler(request, None, entry)

    hook, topics, control = web.Application(), web.Application(client_max_size=2**24), web.Application()
    hook.router.add_route("*", "/hook", webhook.handle)
    topics.router.add_route("*", "/{path:.*}", publish)
    control.add_routes(event_grid.control_routes())
    await event_grid.start()
    try:
        async with serving(hook) as hook_url, serving(topics) as topics_url, serving(control) as control_url:
            webhook.url = f"{hook_url}/hook?code=secret"
            yield World(
                event_grid, clock, log, faults, webhook, f"{topics_url}/api/events", key, control_url,
                directory / "dead-letters",
            )  # fmt: skip
            await event_grid.stop()
    finally:
        await event_grid.stop()


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a scenario in a world of its own."""

    def run(scenario: Callable[[World], Coroutine[Any, Any, None]], input_schema: Schema = "EventGridSchema") -> None:
        async def main() -> None:
            async with world(tmp_path, input_schema) as here:
                await scenario(here)

        asyncio.run(main())

    return run


def eg_event(number: str) -> EventGridEvent:
    return EventGridEvent(id=number, subject="models/m:1", event_type="Happened", data={"a": 1}, data_version="1")


class TestPublishing:
    def test_event_grid_events_reach_the_webhook(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(topic="promotions")
            async with here.publisher(here.topic_key) as publisher:
                await publisher.send([eg_event("1"), eg_event("2")])
            await until(lambda: sorted(here.webhook.ids) == ["1", "2"])
            first = here.webhook.received[0]
            assert isinstance(first.body, list)
            assert first.body[0]["topic"].endswith("/providers/Microsoft.EventGrid/topics/promotions")
            assert first.body[0]["metadataVersion"] == "1"
            assert first.body[0]["data"] == {"a": 1}
            assert first.headers["aeg-event-type"] == "Notification"
            assert first.headers["aeg-subscription-name"] == "S"
            assert first.headers["aeg-delivery-count"] == "0"
            assert first.headers["aeg-data-version"] == "1"
            assert first.headers["content-type"] == "application/json; charset=utf-8"

        play(scenario)

    def test_cloud_events_reach_the_webhook(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(topic="promotions", delivery_schema="CloudEventSchemaV1_0")
            assert here.webhook.handshakes == ["OPTIONS"]
            async with here.publisher(here.topic_key) as publisher:
                await publisher.send(CloudEvent(source="/here", type="Happened", data={"a": 1}, id="1"))
            await until(lambda: here.webhook.ids == ["1"])
            received = here.webhook.received[0]
            assert received.body["source"] == "/here"
            assert received.body["data"] == {"a": 1}
            assert received.headers["content-type"] == "application/cloudevents+json; charset=utf-8"

        play(scenario, "CloudEventSchemaV1_0")

    def test_a_signature_made_with_the_key_is_enough_until_it_expires(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            endpoint = f"https://{TOPIC_HOST}/api/events"
            expiry = datetime.now(UTC) + timedelta(hours=1)
            signature = generate_sas(endpoint, here.topic_key, expiry)
            credential = AzureSasCredential(signature)
            async with EventGridPublisherClient(here.topic_url, credential, retry_total=0) as publisher:
                await publisher.send(eg_event("1"))
                here.clock.advance(3601)
                with pytest.raises(ClientAuthenticationError):
                    await publisher.send(eg_event("2"))

        play(scenario)

    @pytest.mark.parametrize(("token", "status"), [("good", 200), ("bad", 401)])
    def test_an_identity_may_publish_with_a_token(self, play: Callable[..., None], token: str, status: int) -> None:
        async def scenario(here: World) -> None:
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                aiohttp.ClientSession() as session,
                session.post(here.topic_url, data="[]", headers=headers) as answer,
            ):
                assert answer.status == status
            principal = next(here.log.since(0)).principal
            assert principal == (PROMOTION_SERVICE.name if status == 200 else None)

        play(scenario)

    def test_refusals(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(topic="promotions")
            async with here.publisher("d3Jvbmc=") as stranger:
                with pytest.raises(ClientAuthenticationError):
                    await stranger.send(eg_event("1"))
            async with here.publisher(here.topic_key) as publisher:
                for wrong, status in (
                    ([{"id": "1"}], 400),
                    (CloudEvent(source="/here", type="Happened"), 400),
                    (EventGridEvent(subject="s", event_type="T", data="x" * 2**20, data_version="1"), 413),
                ):
                    with pytest.raises(HttpResponseError) as refusal:
                        await publisher.send(wrong)
                    assert refusal.value.status_code == status
            assert here.webhook.received == []
            assert here.event_grid.deliveries["s"].pending() == []

        play(scenario)


class TestSubscriptions:
    def test_only_matching_events_are_delivered(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe("types", included_event_types=("Wanted",))
            await here.subscribe("subjects", subject_begins_with="MODELS/", subject_ends_with=":2")
            await here.subscribe("elsewhere", topic=WORKSPACE + "2")
            await here.raise_event("1", "wanted", "runs/x")
            await here.raise_event("2", "Other", "models/m:2")
            await here.raise_event("3", "Other", "models/m:3")
            await until(lambda: len(here.webhook.ids) == 2)
            by_subscription = {
                received.headers["aeg-subscription-name"]: received.body[0]["id"] for received in here.webhook.received
            }
            assert by_subscription == {"TYPES": "1", "SUBJECTS": "2"}
            assert here.webhook.received[0].body[0]["topic"] == WORKSPACE

        play(scenario)

    def test_system_events_as_cloud_events(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(delivery_schema="CloudEventSchemaV1_0")
            await here.raise_event("1")
            await until(lambda: here.webhook.ids == ["1"])
            assert here.webhook.received[0].body == {
                "specversion": "1.0",
                "id": "1",
                "source": WORKSPACE,
                "type": "Happened",
                "subject": "models/m:1",
                "time": "2026-11-23T00:00:00Z",
                "data": {},
            }

        play(scenario)

    def test_a_refused_handshake_fails_the_subscription(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            here.webhook.refuses = 401
            await here.event_grid.subscribe(Subscription("s", WORKSPACE, here.webhook.url))
            await until(lambda: here.event_grid.deliveries["s"].state == "Failed")
            await here.raise_event("1")
            _, listed = await here.control("GET", "/event-grid/subscriptions")
            assert listed[0]["state"] == "Failed"
            assert "status 401" in listed[0]["reason"]
            assert "secret" not in json.dumps(listed)
            assert here.webhook.handshakes == ["refused"]
            assert here.webhook.received == []

        play(scenario)

    def test_a_webhook_that_is_not_up_yet_is_asked_again(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            here.webhook.refuses = 503
            await here.event_grid.subscribe(Subscription("s", WORKSPACE, here.webhook.url))
            await here.raise_event("1")
            await until(lambda: bool(here.webhook.handshakes))
            assert here.event_grid.deliveries["s"].state == "Creating"
            here.webhook.refuses = None
            here.clock.advance(1)
            await until(lambda: here.webhook.ids == ["1"])

        play(scenario)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"webhook_url": "https://example.com/hook"},
            {"max_delivery_attempts": 31},
            {"max_events_per_batch": 0},
            {"event_time_to_live_minutes": 1441},
            {"delivery_schema": "Custom"},
        ],
    )
    def test_wrong_subscriptions_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            Subscription("s", WORKSPACE, **({"webhook_url": "http://127.0.0.1:1/hook"} | wrong))


class TestDelivery:
    def test_a_failed_delivery_comes_again_on_schedule(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            here.webhook.answers = [500, 503, 404]
            await here.raise_event("1")
            delivery = here.event_grid.deliveries["s"]
            for attempts, pause in enumerate((10, 30, 60), start=1):
                await until(lambda attempts=attempts: [p.attempts for p in delivery.pending()] == [attempts])  # type: ignore[misc]
                due = delivery.pending()[0].due
                assert timedelta(seconds=pause - 5) < due - here.clock.now() <= timedelta(seconds=pause)
                here.clock.advance((due - here.clock.now()).total_seconds() - 3)
                await asyncio.sleep(0)
                assert len(here.webhook.received) == attempts
                here.clock.advance(3)
            await until(lambda: len(here.webhook.received) == 4 and not delivery.pending())
            counts = [received.headers["aeg-delivery-count"] for received in here.webhook.received]
            assert counts == ["0", "1", "2", "3"]
            await until(lambda: len(delivery.history) == 4)
            _, deliveries = await here.control("GET", "/event-grid/deliveries?subscription=s")
            assert [made["outcome"] for made in deliveries] == ["Error", "Busy", "NotFound", "Delivered"]
            entries = [entry for entry in here.log.since(0) if entry.detail.get("event_ids") == ["1"]]
            assert [entry.status for entry in entries] == [500, 503, 404, 200]
            assert all(entry.path == "/hook" and "secret" not in str(entry) for entry in entries)

        play(scenario)

    @pytest.mark.parametrize(
        ("status", "reason", "outcome"),
        [
            (400, "UndeliverableDueToHttpBadRequest", "BadRequest"),
            (401, "UndeliverableDueToHttpUnauthorized", "Unauthorized"),
            (403, "UndeliverableDueToHttpForbidden", "Forbidden"),
            (413, "UndeliverableDueToHttpRequestEntityTooLarge", "PayloadTooLarge"),
        ],
    )
    def test_what_a_retry_cannot_mend_goes_to_the_dead_letters(
        self, play: Callable[..., None], status: int, reason: str, outcome: str
    ) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            here.webhook.answers = [status]
            await here.raise_event("1")
            await until(lambda: any(here.dead_letters.glob("*.json")))
            letter = here.dead_letter()
            assert (letter["id"], letter["topic"]) == ("1", WORKSPACE)
            assert (letter["deadLetterReason"], letter["lastDeliveryOutcome"]) == (reason, outcome)
            assert (letter["deliveryAttempts"], letter["lastHttpStatusCode"]) == (1, status)
            assert letter["publishTime"] <= letter["lastDeliveryAttemptTime"]
            _, letters = await here.control("GET", "/event-grid/dead-letters")
            assert letters[0]["events"] == [letter]
            assert here.event_grid.deliveries["s"].pending() == []

        play(scenario)

    def test_attempts_run_out(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(max_delivery_attempts=2, delivery_schema="CloudEventSchemaV1_0")
            here.webhook.answers = [500, 500]
            await here.raise_event("1")
            delivery = here.event_grid.deliveries["s"]
            await until(lambda: [pending.attempts for pending in delivery.pending()] == [1])
            here.clock.advance(10)
            await until(lambda: any(here.dead_letters.glob("*.json")))
            letter = here.dead_letter()
            assert (letter["deadletterreason"], letter["deliveryattempts"]) == ("MaxDeliveryAttemptsExceeded", 2)

        play(scenario)

    def test_time_to_live_runs_out(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(event_time_to_live_minutes=1)
            here.webhook.answers = [500]
            await here.raise_event("1")
            await until(lambda: len(here.event_grid.deliveries["s"].history) == 1)
            here.clock.advance(60)
            await until(lambda: any(here.dead_letters.glob("*.json")))
            assert here.dead_letter()["deadLetterReason"] == "TimeToLiveExceeded"
            assert len(here.webhook.received) == 1

        play(scenario)

    def test_no_answer_within_30_seconds_is_a_failure(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            here.webhook.gate = asyncio.Event()
            await here.raise_event("1")
            await until(lambda: here.webhook.ids == ["1"])
            here.clock.advance(29)
            assert here.event_grid.deliveries["s"].as_json()["under_way"] == 1
            here.clock.advance(1)
            await until(lambda: len(here.event_grid.deliveries["s"].history) == 1)
            assert here.event_grid.deliveries["s"].history[0]["outcome"] == "TimedOut"
            here.webhook.gate.set()
            here.clock.advance(10)
            await until(lambda: here.webhook.ids == ["1", "1"])

        play(scenario)

    def test_batches_and_pause(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe(max_events_per_batch=3)
            assert (await here.control("POST", "/event-grid/subscriptions/s/pause"))[0] == 204
            for number in range(5):
                await here.raise_event(str(number))
            _, pending = await here.control("GET", "/event-grid/pending")
            assert [event["event_id"] for event in pending] == ["0", "1", "2", "3", "4"]
            assert here.webhook.received == []
            await here.control("POST", "/event-grid/subscriptions/s/resume")
            await until(lambda: len(here.webhook.ids) == 5)
            assert sorted(len(received.body) for received in here.webhook.received) == [2, 3]

        play(scenario)

    def test_faults_before_and_after_the_effect(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            here.faults.plant(Fault(service="event_grid", path="/hook", drop=True))
            await here.raise_event("1")
            delivery = here.event_grid.deliveries["s"]
            await until(lambda: len(delivery.history) == 1)
            assert here.webhook.received == []
            here.faults.plant(Fault(service="event_grid", path="/hook", phase="after", status=500))
            here.clock.advance(10)
            await until(lambda: len(delivery.history) == 2)
            assert here.webhook.ids == ["1"]
            here.clock.advance(30)
            await until(lambda: len(delivery.history) == 3)
            assert here.webhook.ids == ["1", "1"]
            assert [made["outcome"] for made in delivery.history] == ["SocketError", "Error", "Delivered"]

        play(scenario)

    def test_a_replaced_subscription_goes_on_with_what_was_pending(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            here.webhook.gate = asyncio.Event()
            await here.raise_event("1")
            await until(lambda: here.webhook.ids == ["1"])
            here.webhook.gate = None
            body = {"topic": WORKSPACE, "webhook_url": here.webhook.url}
            assert (await here.control("PUT", "/event-grid/subscriptions/s", body))[0] == 201
            await until(lambda: here.webhook.ids == ["1", "1"])

        play(scenario)


class TestControl:
    def test_a_raw_body_arrives_exactly_as_given(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            here.webhook.answers = [500]
            path = "/event-grid/subscriptions/s/raw"
            status, answer = await here.control("POST", path, b'[{"id":  "odd"}]', content_type="application/json")
            assert (status, answer["status"]) == (200, 500)
            assert here.webhook.received[0].body == [{"id": "odd"}]
            assert here.event_grid.deliveries["s"].pending() == []

        play(scenario)

    def test_publish_remove_and_refusals(self, play: Callable[..., None]) -> None:
        async def scenario(here: World) -> None:
            await here.subscribe()
            body = {"id": "1", "subject": "x", "data": {}, "eventType": "T", "eventTime": "t", "dataVersion": ""}
            assert (await here.control("POST", "/event-grid/publish", {"topic": WORKSPACE, "event": body}))[0] == 202
            await until(lambda: here.webhook.ids == ["1"])
            assert (await here.control("POST", "/event-grid/publish", {"topic": WORKSPACE, "event": {}}))[0] == 400
            assert (await here.control("PUT", "/event-grid/subscriptions/x", {"topik": 1}))[0] == 400
            assert (await here.control("DELETE", "/event-grid/subscriptions/s"))[0] == 204
            assert (await here.control("DELETE", "/event-grid/subscriptions/s"))[0] == 404

        play(scenario)
