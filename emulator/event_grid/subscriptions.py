"""Event subscriptions: which events of a topic go to which webhook, and how."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args
from urllib.parse import urlsplit

from emulator.event_grid.events import Event, Schema

DeliverySchema = Schema


@dataclass(frozen=True)
class Subscription:
    """An event subscription with a webhook.

    `topic` is the ARM id of a system topic's source, or the name of a custom topic. Filters and limits as in Azure: an
    empty filter lets everything pass; subjects are compared without regard to case.
    """

    name: str
    topic: str
    webhook_url: str
    delivery_schema: DeliverySchema = "EventGridSchema"
    included_event_types: tuple[str, ...] = ()
    subject_begins_with: str = ""
    subject_ends_with: str = ""
    max_events_per_batch: int = 1
    max_delivery_attempts: int = 30
    event_time_to_live_minutes: int = 1440

    def __post_init__(self) -> None:
        url = urlsplit(self.webhook_url)
        if url.scheme != "http" or url.hostname != "127.0.0.1":
            raise ValueError(f"webhook_url must start with http://127.0.0.1, nothing leaves this machine: {url.netloc}")
        if self.delivery_schema not in get_args(Schema):
            raise ValueError(f"delivery_schema is {' or '.join(get_args(Schema))}, not {self.delivery_schema}")
        for name, least, most in (
            ("max_events_per_batch", 1, 5000),
            ("max_delivery_attempts", 1, 30),
            ("event_time_to_live_minutes", 1, 1440),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is from {least} to {most}, not {getattr(self, name)}")

    @classmethod
    def from_json(cls, name: str, body: Mapping[str, Any]) -> "Subscription":
        known = {field.name for field in fields(cls)} - {"name"}
        if unknown := body.keys() - known:
            raise ValueError(f"a subscription has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        if missing := {"topic", "webhook_url"} - body.keys():
            raise ValueError(f"a subscription needs {', '.join(sorted(missing))}")
        values = dict(body)
        values["included_event_types"] = tuple(values.get("included_event_types", ()))
        return cls(name=name, **values)

    def as_json(self) -> dict[str, Any]:
        """For people and logs: without the key in the webhook's query."""
        return asdict(self) | {"webhook_url": self.webhook_url.partition("?")[0]}

    @property
    def is_azure_function(self) -> bool:
        """Whether the webhook is the Event Grid extension of a function app (endpoint type AzureFunction)."""
        return urlsplit(self.webhook_url).path.lower() == "/runtime/webhooks/eventgrid"

    def wants(self, event: Event) -> bool:
        types = {name.lower() for name in self.included_event_types}
        subject = event.subject.lower()
        return (
            (not types or event.type.lower() in types)
            and subject.startswith(self.subject_begins_with.lower())
            and subject.endswith(self.subject_ends_with.lower())
        )
