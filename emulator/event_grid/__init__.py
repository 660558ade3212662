"""Azure Event Grid: custom topics that take events, and subscriptions that push events of topics to webhooks.

Reading order: `events` (the two schemas), `subscriptions` (what somebody wants), `delivery` (how it gets there, or to the
dead letters), `topics` (the endpoint of a custom topic), `service` (all of it together), `control` (for tests and demos).
"""

from emulator.event_grid.service import EventGrid
from emulator.event_grid.subscriptions import DeliverySchema, Subscription

__all__ = ["DeliverySchema", "EventGrid", "Subscription"]
