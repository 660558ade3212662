"""A custom topic of Event Grid, over azure-eventgrid, with the service's own identity and never with a key."""

import logging
from collections.abc import Sequence

from azure.core.credentials import TokenCredential
from azure.core.exceptions import ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridPublisherClient

from core.adapters.faults import translated
from core.errors import Blocked, Reason
from core.notifications import Notification

# A promotion must not wait for those who listen: what takes longer is brought by the timer.
CONNECT_SECONDS, READ_SECONDS = 3, 5
# The client hands the options of a request on to its model of an event as well, which warns that it has no use for them.
logging.getLogger("azure.eventgrid._legacy._generated").setLevel(logging.ERROR)


class EventGridTopic:
    """`core.publishing.Topic`: one request for all events, as a batch of CloudEvents 1.0."""

    def __init__(self, endpoint: str, credential: TokenCredential) -> None:
        self._endpoint = endpoint
        self._client = EventGridPublisherClient(endpoint, credential)

    def publish(self, events: Sequence[Notification]) -> None:
        """Nothing is tried twice here. Raises as the port says."""
        with translated("publishing notifications"):
            try:
                self._client.send(
                    [_cloud_event(event) for event in events],
                    retry_total=0,
                    connection_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                )
            except ResourceNotFoundError as error:  # which the client raises anew, without the answer's status
                remedy = "Correct PROMOTION_NOTIFICATIONS_ENDPOINT, or create the topic."
                raise Blocked(Reason.TARGET_NOT_FOUND, f"there is no topic {self._endpoint}", remedy=remedy) from error


def _cloud_event(event: Notification) -> CloudEvent[dict[str, object]]:
    return CloudEvent(
        id=event.id,
        source=event.source,
        type=str(event.type),
        subject=event.subject,
        time=event.time,
        datacontenttype="application/json",
        data=event.data.model_dump(mode="json"),
    )
