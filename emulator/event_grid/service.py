"""Event Grid as the rest of the local Azure uses it."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

from emulator.clock import Clock
from emulator.event_grid.control import control_routes
from emulator.event_grid.delivery import SubscriptionDelivery
from emulator.event_grid.events import Event, Schema, event_grid_event
from emulator.event_grid.subscriptions import Subscription
from emulator.event_grid.topics import HOSTS, PublishEndpoint, TokenVerifier, Topic
from emulator.event_grid.webhook import Webhooks
from emulator.faults import Faults
from emulator.mounts import Mount
from emulator.request_log import RequestLog


class EventGrid:
    """Custom topics, system topics and their subscriptions. Dead letters are files below `directory`.

    `verify_token` tells the identity behind an Authorization header, or raises UnauthorizedError; without it, topics take
    keys only.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        log: RequestLog,
        faults: Faults,
        directory: Path,
        verify_token: TokenVerifier | None = None,
    ) -> None:
        self.deliveries: dict[str, SubscriptionDelivery] = {}
        self.dead_letters = directory / "dead-letters"
        self.webhooks = Webhooks(clock=clock, log=log, faults=faults)
        self._clock = clock
        self._topics: dict[str, Topic] = {}
        self._endpoint = PublishEndpoint(
            topics=self._topics, clock=clock, publish=self._publish_custom, verify_token=verify_token
        )

    async def start(self) -> None:
        await self.webhooks.start()

    async def stop(self) -> None:
        for delivery in self.deliveries.values():
            await delivery.stop()
        await self.webhooks.stop()

    def mounts(self) -> list[Mount]:
        return [Mount(service="event_grid", hosts=HOSTS, handler=self._endpoint.handle)]

    def control_routes(self) -> list[web.RouteDef]:
        return control_routes(self)

    def create_topic(
        self,
        name: str,
        region: str,
        input_schema: Schema = "EventGridSchema",
        *,
        senders: Collection[str] | None = None,
    ) -> tuple[str, str]:
        """Create a custom topic; return its endpoint and its key. `senders` are the identities that may publish."""
        topic = Topic(name, region, input_schema, frozenset(senders) if senders is not None else None)
        self._topics[topic.host] = topic
        return topic.endpoint, topic.key

    def published(self, topic: str) -> list[Event]:
        """What was published to a custom topic, oldest first. KeyError if there is none of this name."""
        found = {each.name: each for each in self._topics.values()}[topic]
        return list(found.published)

    async def subscribe(self, subscription: Subscription) -> None:
        """Create or replace a subscription. Its handshake goes on in the background, see `deliveries[name].state`.

        Events that the former subscription of this name had not delivered go over to the new one.
        """
        if any(
            topic.name == subscription.topic
            and topic.input_schema == "CloudEventSchemaV1_0"
            and subscription.delivery_schema == "EventGridSchema"
            for topic in self._topics.values()
        ):
            raise ValueError(f"topic {subscription.topic} takes CloudEvents and can deliver only those")
        former = self.deliveries.pop(subscription.name, None)
        delivery = SubscriptionDelivery(
            subscription, clock=self._clock, webhooks=self.webhooks, dead_letters=self.dead_letters
        )
        self.deliveries[subscription.name] = delivery
        if former:
            await former.stop()
            delivery.take_over(former)

    async def unsubscribe(self, name: str) -> None:
        """Remove a subscription, and what it had not delivered. KeyError if there is none."""
        await self.deliveries.pop(name).stop()

    async def publish_system(self, topic_arm_id: str, event: dict[str, Any]) -> None:
        """Raise an event of an Azure resource, in Event Grid's schema without topic; deliver it in the background."""
        self._offer([event_grid_event(event, topic_arm_id)], topic_arm_id)

    def _publish_custom(self, topic: Topic, events: list[Event]) -> None:
        self._offer(events, topic.name)

    def _offer(self, events: Iterable[Event], topic: str) -> None:
        for event in events:
            for delivery in self.deliveries.values():
                if delivery.subscription.topic.lower() == topic.lower() and delivery.subscription.wants(event):
                    delivery.offer(event)
