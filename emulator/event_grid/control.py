"""What tests and demos may see of Event Grid, and do to it; described in docs/contracts/control-api-event-grid.md."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from emulator.event_grid.delivery import SubscriptionDelivery
from emulator.event_grid.subscriptions import Subscription
from emulator.mounts import error_body

if TYPE_CHECKING:
    from emulator.event_grid.service import EventGrid


def control_routes(event_grid: "EventGrid") -> list[web.RouteDef]:
    control = Control(event_grid)
    return [
        web.get("/event-grid/topics/{name}/events", control.list_events),
        web.get("/event-grid/subscriptions", control.list_subscriptions),
        web.put("/event-grid/subscriptions/{name}", control.put_subscription),
        web.delete("/event-grid/subscriptions/{name}", control.delete_subscription),
        web.post("/event-grid/subscriptions/{name}/pause", control.pause),
        web.post("/event-grid/subscriptions/{name}/resume", control.resume),
        web.post("/event-grid/subscriptions/{name}/raw", control.send_raw),
        web.get("/event-grid/deliveries", control.list_deliveries),
        web.get("/event-grid/pending", control.list_pending),
        web.get("/event-grid/dead-letters", control.list_dead_letters),
        web.post("/event-grid/publish", control.publish),
    ]


class Control:
    def __init__(self, event_grid: "EventGrid") -> None:
        self._event_grid = event_grid

    def _delivery(self, request: web.Request) -> SubscriptionDelivery:
        name = request.match_info["name"]
        try:
            return self._event_grid.deliveries[name]
        except KeyError:
            raise web.HTTPNotFound(text=f"there is no event subscription {name}") from None

    async def list_events(self, request: web.Request) -> web.Response:
        """What was published to a custom topic, as it came, oldest first."""
        name = request.match_info["name"]
        try:
            return web.json_response([event.body for event in self._event_grid.published(name)])
        except KeyError:
            raise web.HTTPNotFound(text=f"there is no topic {name}") from None

    async def list_subscriptions(self, _: web.Request) -> web.Response:
        return web.json_response([delivery.as_json() for delivery in self._event_grid.deliveries.values()])

    async def put_subscription(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            await self._event_grid.subscribe(Subscription.from_json(name, await request.json()))
        except (ValueError, TypeError, AttributeError) as error:
            return _bad_request(error)
        return web.json_response(self._event_grid.deliveries[name].as_json(), status=201)

    async def delete_subscription(self, request: web.Request) -> web.Response:
        await self._event_grid.unsubscribe(self._delivery(request).subscription.name)
        return web.Response(status=204)

    async def pause(self, request: web.Request) -> web.Response:
        self._delivery(request).pause(True)
        return web.Response(status=204)

    async def resume(self, request: web.Request) -> web.Response:
        self._delivery(request).pause(False)
        return web.Response(status=204)

    async def send_raw(self, request: web.Request) -> web.Response:
        """Post the body to the webhook exactly as given, once, with the `aeg-*` and Content-Type headers given."""
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() == "content-type" or name.lower().startswith("aeg-")
        }
        headers.setdefault("aeg-event-type", "Notification")
        subscription = self._delivery(request).subscription
        answer = await self._event_grid.webhooks.send(subscription, await request.read(), headers, {"raw": True})
        return web.json_response({"status": answer.status, "outcome": answer.outcome, "body": answer.body})

    async def list_deliveries(self, request: web.Request) -> web.Response:
        return web.json_response([made for delivery in self._chosen(request) for made in delivery.history])

    async def list_pending(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"subscription": delivery.subscription.name} | pending.as_json()
                for delivery in self._chosen(request)
                for pending in delivery.pending()
            ]
        )

    def _chosen(self, request: web.Request) -> list[SubscriptionDelivery]:
        name = request.query.get("subscription")
        return [
            delivery for delivery in self._event_grid.deliveries.values() if name in (None, delivery.subscription.name)
        ]

    async def list_dead_letters(self, _: web.Request) -> web.Response:
        def read() -> list[dict[str, Any]]:
            files = sorted(self._event_grid.dead_letters.glob("*.json"))
            return [{"file": file.name, "events": json.loads(file.read_text())} for file in files]

        return web.json_response(await asyncio.to_thread(read))

    async def publish(self, request: web.Request) -> web.Response:
        """Raise an event of a system topic: `{"topic": ARM id, "event": event in Event Grid's schema}`."""
        try:
            body = await request.json()
            await self._event_grid.publish_system(body["topic"], body["event"])
        except (ValueError, TypeError, KeyError) as error:
            return _bad_request(error)
        return web.Response(status=202)


def _bad_request(error: Exception) -> web.Response:
    return web.json_response(error_body("BadRequest", str(error)), status=400)
