"""A received Service Bus message as the worker library takes it: its body and the trigger's metadata.

Names are those of ServiceBusTriggerBindingStrategy in Microsoft's extension; a batch has them as arrays, `NAMEArray`.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from emulator.functions_host.worker import TypedData, rpc


def one_message(message: ServiceBusReceivedMessage, *, binary: bool) -> tuple[TypedData, dict[str, TypedData]]:
    metadata = {name: value for name, value in _metadata(message).items() if value is not None}
    return _typed_body(_body(message), binary=binary), {name: _typed(value) for name, value in metadata.items()}


def many_messages(messages: Sequence[ServiceBusReceivedMessage]) -> tuple[TypedData, dict[str, TypedData]]:
    columns: dict[str, list[Any]] = {}
    for message in messages:
        for name, value in _metadata(message).items():
            columns.setdefault(f"{name}Array", []).append(value)
    body = rpc.TypedData(collection_bytes=rpc.CollectionBytes(bytes=[_body(message) for message in messages]))
    return body, {name: rpc.TypedData(json=json.dumps(column)) for name, column in columns.items()}


def by_hand(text: str) -> tuple[TypedData, dict[str, TypedData]]:
    """A message that never was in a queue: what an invocation through the admin API brings."""
    metadata: dict[str, Any] = {"MessageId": str(uuid.uuid4()), "UserProperties": {}, "ApplicationProperties": {}}
    return rpc.TypedData(string=text), {name: _typed(value) for name, value in metadata.items()}


def trace_of(message: ServiceBusReceivedMessage) -> str | None:
    """The traceparent that its sender put on it, under one of the names that the .NET SDK looks for."""
    properties = _properties(message.application_properties or {})
    found = properties.get("Diagnostic-Id") or properties.get("traceparent")
    return found if isinstance(found, str) else None


def _metadata(message: ServiceBusReceivedMessage) -> dict[str, Any]:
    properties = _properties(message.application_properties or {})
    return {
        "ApplicationProperties": properties,
        "UserProperties": properties,
        "ContentType": message.content_type,
        "CorrelationId": message.correlation_id,
        "DeadLetterErrorDescription": message.dead_letter_error_description,
        "DeadLetterReason": message.dead_letter_reason,
        "DeadLetterSource": message.dead_letter_source,
        # The .NET SDK, which Azure's host receives with, counts the delivery that is under way; the wire and the Python
        # SDK count those that failed.
        "DeliveryCount": (message.delivery_count or 0) + 1,
        "EnqueuedSequenceNumber": message.enqueued_sequence_number,
        "EnqueuedTimeUtc": _time(message.enqueued_time_utc),
        "ExpiresAtUtc": _time(message.expires_at_utc),
        "Label": message.subject,
        "LockToken": str(message.lock_token) if message.lock_token else None,
        "MessageId": message.message_id,
        # Where apps look for the session of a message that was decoded without `SessionId`.
        "MessageSession": {"SessionId": message.session_id} if message.session_id else None,
        "PartitionKey": message.partition_key,
        "ReplyTo": message.reply_to,
        "ReplyToSessionId": message.reply_to_session_id,
        "ScheduledEnqueueTimeUtc": _time(message.scheduled_enqueue_time_utc),
        "SequenceNumber": message.sequence_number,
        "SessionId": message.session_id,
        "Subject": message.subject,
        "To": message.to,
    }


def _body(message: ServiceBusReceivedMessage) -> bytes:
    if message.body_type == AmqpMessageBodyType.DATA:
        return b"".join(message.body)
    return str(message).encode()


def _typed_body(body: bytes, *, binary: bool) -> TypedData:
    """Text unless the binding says `dataType: binary`, as the host does; bytes also where text is impossible."""
    if not binary:
        try:
            return rpc.TypedData(string=body.decode())
        except UnicodeDecodeError:
            pass
    return rpc.TypedData(bytes=body)


def _typed(value: Any) -> TypedData:
    return rpc.TypedData(string=value) if isinstance(value, str) else rpc.TypedData(json=json.dumps(value))


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def _properties(raw: Mapping[Any, Any]) -> dict[str, Any]:
    return {_plain(name): _plain(value) for name, value in raw.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, datetime):
        return _time(value)
    return str(value) if isinstance(value, uuid.UUID) else value
