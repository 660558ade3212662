"""Service Bus trigger: one delivery of one command. The only place that settles messages."""

from collections.abc import Callable

import azure.functions as func

from core.promotion import Promoter
from core.settings import QUEUE, SERVICE_BUS


def blueprint(promoter: Callable[[], Promoter]) -> func.Blueprint:
    """`promoter` is asked for at the first message."""
    bp = func.Blueprint()  # type: ignore[no-untyped-call] # azure-functions leaves it bare

    @bp.function_name("worker")
    @bp.service_bus_queue_trigger(
        arg_name="message", queue_name=f"%{QUEUE}%", connection=SERVICE_BUS, is_sessions_enabled=True
    )
    def work(message: func.ServiceBusMessage) -> None:
        """Returning completes the message; raising gives it back, and after three deliveries it is dead-lettered."""
        promoter().deliver(message.get_body())

    return bp
