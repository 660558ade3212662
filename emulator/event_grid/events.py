"""Events in Event Grid's own schema and in CloudEvents 1.0, and the way from the first to the second."""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

# The last one is no schema of Azure's: a topic that takes both and leaves events as they are, for publishing by hand in
# the name of any workspace.
Schema = Literal["EventGridSchema", "CloudEventSchemaV1_0", "AsPublished"]
AS_PUBLISHED: Final = "AsPublished"

EVENT_GRID_REQUIRED = ("id", "subject", "data", "eventType", "eventTime", "dataVersion")
CLOUD_EVENT_TYPES = ("application/cloudevents+json", "application/cloudevents-batch+json")
CLOUD_EVENT_REQUIRED = ("id", "source", "type", "specversion")
VALIDATION_EVENT = "Microsoft.EventGrid.SubscriptionValidationEvent"


class MalformedEventsError(ValueError):
    """What was published does not conform to the schema; the text says where."""


@dataclass(frozen=True)
class Event:
    """An event as it was published, with its topic."""

    schema: Schema
    body: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def type(self) -> str:
        return str(self.body["eventType" if self.schema == "EventGridSchema" else "type"])

    @property
    def subject(self) -> str:
        return str(self.body.get("subject") or "")

    def rendered(self, schema: Schema) -> dict[str, Any]:
        """The event as a subscription with this delivery schema gets it. CloudEvents are delivered as such only."""
        if schema in (self.schema, AS_PUBLISHED):
            return self.body
        if schema == "EventGridSchema":
            raise ValueError("a topic for CloudEvents cannot deliver in Event Grid's own schema")
        return {
            "specversion": "1.0",
            "id": self.body["id"],
            "source": self.body["topic"],
            "type": self.body["eventType"],
            "subject": self.body["subject"],
            "time": self.body["eventTime"],
            "data": self.body["data"],
        }


def event_grid_event(body: dict[str, Any], topic: str) -> Event:
    """An event of a topic in Event Grid's schema; the service adds the topic and the metadata version."""
    _require(body, EVENT_GRID_REQUIRED, "EventGridEvent")
    return Event("EventGridSchema", body | {"topic": topic, "metadataVersion": "1"})


def cloud_event(body: dict[str, Any]) -> Event:
    _require(body, CLOUD_EVENT_REQUIRED, "CloudEventV10")
    if body["specversion"] != "1.0":
        raise MalformedEventsError(f"specversion must be '1.0', but is {body['specversion']!r}.")
    return Event("CloudEventSchemaV1_0", body)


def published_events(raw: bytes, schema: Schema, topic: str) -> list[Event]:
    """The events in the body of a publish request: an array, or in the CloudEvents schema also one event alone.

    With AS_PUBLISHED, each event tells its schema by itself, and one that names a topic keeps it.
    """
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise MalformedEventsError(f"The body is not JSON: {error}.") from None
    if schema == AS_PUBLISHED:
        return [_as_published(body, topic) for body in (content if isinstance(content, list) else [content])]
    if schema == "CloudEventSchemaV1_0":
        return [cloud_event(body) for body in (content if isinstance(content, list) else [content])]
    if not isinstance(content, list):
        raise MalformedEventsError("The body must be an array of events, even for one event.")
    return [event_grid_event(body, topic) for body in content]


def _as_published(body: Any, topic: str) -> Event:
    if isinstance(body, dict) and "specversion" in body:
        return cloud_event(body)
    return event_grid_event(body, str(body.get("topic") or topic) if isinstance(body, dict) else topic)


def _require(body: Any, names: tuple[str, ...], schema: str) -> None:
    if not isinstance(body, dict):
        raise MalformedEventsError(f"This resource is configured to receive '{schema}'; each event must be an object.")
    if missing := [name for name in names if name not in body]:
        raise MalformedEventsError(
            f"This resource is configured to receive event in '{schema}' schema. The JSON received does not conform to "
            f"the expected schema: {', '.join(missing)} missing."
        )
