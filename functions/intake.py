"""Event Grid trigger: what happened in a source workspace."""

from collections.abc import Callable
from typing import Any

import azure.functions as func

from core.intake import Intake


def blueprint(intake: Callable[[], Intake]) -> func.Blueprint:
    """`intake` is asked for at the first event: a host that only runs the worker never builds it."""
    bp = func.Blueprint()  # type: ignore[no-untyped-call] # azure-functions leaves it bare

    @bp.function_name("intake")
    @bp.event_grid_trigger(arg_name="event")
    def receive(event: func.EventGridEvent) -> None:
        """Returning accepts the event. Raising (only for what may succeed later) makes Event Grid deliver it again."""
        intake().receive(_envelope(event))

    return bp


def _envelope(event: func.EventGridEvent | func.CloudEvent) -> dict[str, Any]:
    """The worker hands over a CloudEvent where the subscription delivers that schema, whatever the annotation says."""
    common = {"id": event.id, "subject": event.subject, "data": event.get_json()}
    if isinstance(event, func.CloudEvent):
        return common | {"source": event.source, "type": event.type, "time": event.time}
    return common | {"topic": event.topic, "eventType": event.event_type, "eventTime": event.event_time}
