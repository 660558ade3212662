"""The queue of commands, over azure-servicebus: in code, because the output binding cannot set session or message id."""

import threading
import uuid
from datetime import datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender
from azure.servicebus.exceptions import ServiceBusError

from core.commands import Command, PromoteModel
from core.errors import Transient
from core.settings import ServiceBusConnection

SEND_SECONDS = 20.0


class ServiceBusCommandQueue:
    """`core.ports.CommandQueue`. One sender for the process: each costs a connection. Safe to use from many threads."""

    def __init__(self, connection: ServiceBusConnection, queue: str, credential: TokenCredential) -> None:
        self._connection = connection
        self._queue = queue
        self._credential = credential
        self._lock = threading.Lock()
        self._sender: ServiceBusSender | None = None

    def send(self, command: Command, *, not_before: datetime | None = None) -> None:
        """Send in the endpoint's session, under the hop's own message id; Transient if the queue did not take it."""
        message = message_of(command, not_before=not_before)
        with self._lock:
            try:
                self._connected().send_messages(message, timeout=SEND_SECONDS)
            except ServiceBusError as error:
                self._sender = None
                raise Transient(f"the queue {self._queue} did not take {command.message_id}: {error}") from error

    def _connected(self) -> ServiceBusSender:
        if self._sender is None:
            self._sender = client(self._connection, self._credential).get_queue_sender(self._queue)
        return self._sender


def client(connection: ServiceBusConnection, credential: TokenCredential) -> ServiceBusClient:
    """One retry at most inside a client: what takes longer is ours to try again."""
    options: dict[str, Any] = {"retry_total": 1, "retry_backoff_factor": 0.5}
    if connection.connection_string:
        return ServiceBusClient.from_connection_string(connection.connection_string, **options)
    return ServiceBusClient(connection.namespace or "", credential, **options)


def message_of(command: Command, *, not_before: datetime | None = None) -> ServiceBusMessage:
    return ServiceBusMessage(
        command.encode(),
        session_id=command.session_id,
        message_id=command.message_id,
        correlation_id=command.promotion_id or command.endpoint,
        subject=command.kind,
        content_type="application/json",
        scheduled_enqueue_time_utc=not_before,
        application_properties=_properties(command),
    )


def _properties(command: Command) -> dict[str | bytes, int | float | bytes | bool | str | uuid.UUID]:
    """What people look for in a queue without reading bodies."""
    found: dict[str, str | int | None] = {
        "promotion_id": command.promotion_id,
        "endpoint": command.endpoint,
        "hop": command.hop,
        "attempt": command.attempt if isinstance(command, PromoteModel) else None,
        # By this name Azure's SDKs and the Functions host find the trace that a message belongs to.
        "Diagnostic-Id": command.traceparent if isinstance(command, PromoteModel) else None,
    }
    return {name: value for name, value in found.items() if value is not None}
