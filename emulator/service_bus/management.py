"""What can be asked of the `$cbs` node and of a queue's `$management` node."""

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emulator.service_bus.broker import Queue
from emulator.service_bus.codec import Int, Symbol, Timestamp
from emulator.service_bus.entities import BrokerError, Consumer
from emulator.service_bus.nodes import Request

if TYPE_CHECKING:
    from emulator.service_bus.channel import Channel
    from emulator.service_bus.connection import Connection

PREFIX = "com.microsoft:"
OK, NO_CONTENT = 200, 204
DELETE = 0  # receiver-settle-mode
DISPOSITIONS = {"completed": "COMPLETE", "abandoned": "ABANDON", "defered": "DEFER", "suspended": "DEAD_LETTER"}


class TokenNode:
    """`$cbs`: a client puts a token for an entity before it attaches to it. Here, and only here, names have dashes."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def respond(self, request: Request) -> bytes:
        status, description = OK, "OK"
        try:
            self._connection.put_token(str(request.body), str(request.application_properties.get("name", "")))
        except BrokerError as refused:
            status, description = refused.status, str(refused)
        return request.answer({"status-code": Int(status), "status-description": description}, None)


class Management:
    """The operations of a queue's management node."""

    def __init__(self, channel: "Channel", queue: Queue) -> None:
        self._channel = channel
        self._client = channel.connection
        self._operations = channel.connection.operations
        self._queue = queue
        self._methods = {
            "renew-lock": self._renew_lock,
            "renew-session-lock": self._renew_session_lock,
            "get-session-state": self._get_session_state,
            "set-session-state": self._set_session_state,
            "peek-message": self._peek_message,
            "schedule-message": self._schedule_message,
            "cancel-scheduled-message": self._cancel_scheduled_message,
            "receive-by-sequence-number": self._receive_by_sequence_number,
            "update-disposition": self._update_disposition,
            "get-message-sessions": self._get_message_sessions,
        }

    async def respond(self, request: Request) -> bytes:
        try:
            found = await self._carry_out(request)
        except BrokerError as refused:
            problem = {"statusCode": Int(refused.status), "statusDescription": str(refused)}
            return request.answer(problem | {"errorCondition": Symbol(refused.condition)}, {})
        if found is None:
            return request.answer({"statusCode": Int(NO_CONTENT), "statusDescription": "No Content"}, {})
        return request.answer({"statusCode": Int(OK), "statusDescription": "OK"}, found)

    async def _carry_out(self, request: Request) -> Any:
        operation = str(request.application_properties.get("operation", "")).removeprefix(PREFIX)
        if (method := self._methods.get(operation)) is None:
            raise BrokerError("amqp:not-implemented", f"A queue's management node has no operation '{operation}'.")
        try:
            return await method(request.body)
        except (KeyError, TypeError, ValueError) as error:
            text = f"The request's body does not suit '{operation}': {error!r}"
            raise BrokerError("com.microsoft:argument-error", text) from error

    def _holder(self, body: Mapping[str, Any]) -> Consumer | None:
        """The receiver with which this client holds the session that the request is about."""
        return self._channel.holder(self._queue, body.get("session-id"))

    async def _renew_lock(self, body: Mapping[str, Any]) -> Any:
        moments = [await self._operations.renew(self._client, self._queue, token) for token in body["lock-tokens"]]
        return {"expirations": [Timestamp.of(moment) for moment in moments]}

    async def _renew_session_lock(self, body: Mapping[str, Any]) -> Any:
        moment = await self._operations.renew_session(self._client, self._queue, self._holder(body))
        return {"expiration": Timestamp.of(moment)}

    async def _get_session_state(self, body: Mapping[str, Any]) -> Any:
        return {"session-state": self._queue.held(self._holder(body)).state}

    async def _set_session_state(self, body: Mapping[str, Any]) -> Any:
        self._queue.held(self._holder(body)).state = body["session-state"]
        return {}

    async def _peek_message(self, body: Mapping[str, Any]) -> Any:
        found = self._queue.peek(body["from-sequence-number"], body["message-count"], body.get("session-id"))
        return {"messages": [{"message": message.encoded()} for message in found]} if found else None

    async def _schedule_message(self, body: Mapping[str, Any]) -> Any:
        encoded = [entry["message"] for entry in body["messages"]]
        return {"sequence-numbers": await self._operations.send(self._client, self._queue, encoded)}

    async def _cancel_scheduled_message(self, body: Mapping[str, Any]) -> Any:
        self._queue.cancel_scheduled(body["sequence-numbers"])
        return {}

    async def _receive_by_sequence_number(self, body: Mapping[str, Any]) -> Any:
        deletes = body["receiver-settle-mode"] == DELETE
        found = self._queue.take_deferred(body["sequence-numbers"], consumer=self._holder(body), delete=deletes)
        tokens = [message.lock.token if message.lock else uuid.uuid4() for message in found]
        pairs = zip(tokens, found, strict=True)
        return {"messages": [{"lock-token": token, "message": message.encoded()} for token, message in pairs]}

    async def _update_disposition(self, body: Mapping[str, Any]) -> Any:
        for token in body["lock-tokens"]:
            await self._operations.settle(
                self._client,
                self._queue,
                token,
                DISPOSITIONS[body["disposition-status"]],
                consumer=self._holder(body),
                reason=body.get("deadletter-reason"),
                description=body.get("deadletter-description"),
            )
        return {}

    async def _get_message_sessions(self, body: Mapping[str, Any]) -> Any:
        skip = int(body.get("skip", 0))
        found = self._queue.sessions_with_messages()[skip : skip + int(body.get("top", 100))]
        return {"skip": Int(skip + len(found)), "sessions-ids": found} if found else None
