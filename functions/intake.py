"""Event Grid trigger: what happened in a source workspace, and what was written in the resource group around it."""

from collections.abc import Callable
from typing import Any

import azure.functions as func

from core.events import is_resource_write
from core.intake import Intake
from core.reconcile import Reconciler


def blueprint(intake: Callable[[], Intake], reconciler: Callable[[], Reconciler]) -> func.Blueprint:
    """Both are asked for at the first event: a host that only runs the worker never builds them."""
    bp = func.Blueprint()  # type: ignore[no-untyped-call] # azure-functions leaves it bare

    @bp.function_name("intake")
    @bp.event_grid_trigger(arg_name="event")
    def receive(event: func.EventGridEvent, context: func.Context) -> None:
        """Returning accepts the event. Raising (only for what may succeed later) makes Event Grid deliver it again."""
        envelope = _envelope(event)
        if is_resource_write(envelope):
            reconciler().hint(envelope)
        else:
            intake().receive(envelope, traceparent_of(event, context))

    return bp


def _envelope(event: func.EventGridEvent | func.CloudEvent) -> dict[str, Any]:
    """The worker hands over a CloudEvent where the subscription delivers that schema, whatever the annotation says."""
    common = {"id": event.id, "subject": event.subject, "data": event.get_json()}
    if isinstance(event, func.CloudEvent):
        return common | {"source": event.source, "type": event.type, "time": event.time}
    return common | {"topic": event.topic, "eventType": event.event_type, "eventTime": event.event_time}


def traceparent_of(event: func.EventGridEvent | func.CloudEvent, context: func.Context) -> str | None:
    """The trace of whoever published the event, where it says so (CloudEvents distributed tracing); else the host's."""
    given = event.extension_attrs.get("traceparent") if isinstance(event, func.CloudEvent) else None
    found: str | None = given or context.trace_context.trace_parent
    return found
