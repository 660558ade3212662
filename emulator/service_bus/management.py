"""The `$management` and `$cbs` nodes: requests and answers that are messages themselves."""

import base64
import hashlib
import hmac
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from emulator.service_bus.broker import BrokerError, Queue, session_lock_lost
from emulator.service_bus.codec import (
    APPLICATION_PROPERTIES,
    PROPERTIES,
    VALUE,
    Described,
    Int,
    Symbol,
    Timestamp,
    encode,
    sections,
)

if TYPE_CHECKING:
    from emulator.service_bus.connection import Connection

PREFIX = "com.microsoft:"
NO_CONTENT, BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, GONE = 204, 400, 401, 404, 410
_STATUS = {
    "com.microsoft:message-lock-lost": GONE,
    "com.microsoft:session-lock-lost": GONE,
    "com.microsoft:message-not-found": NOT_FOUND,
}


def parse_request(raw: bytes) -> tuple[Any, dict[str, Any], Any]:
    """Message id, application properties and body value of a request."""
    found = {section.code: section.value for section in sections(raw)}
    properties = found.get(PROPERTIES) or [None]
    application = {str(key): value for key, value in (found.get(APPLICATION_PROPERTIES) or {}).items()}
    return properties[0], application, found.get(VALUE)


def answer(correlation_id: Any, application: Mapping[str, Any], body: Any) -> bytes:
    properties = [None, None, None, None, None, correlation_id]
    return b"".join(
        encode(Described(code, value))
        for code, value in ((PROPERTIES, properties), (APPLICATION_PROPERTIES, dict(application)), (VALUE, body))
    )


# ----------------------------------------------------------------------------------------------------------------- cbs


def put_token(raw: bytes, access_keys: Mapping[str, str]) -> tuple[bytes, str | None]:
    """Check a token; the answer, and the name of its key if it is good. Here, and only here, names have dashes."""
    correlation_id, _, token = parse_request(raw)
    name, problem = _key_of(str(token), access_keys)
    status = {"status-code": Int(UNAUTHORIZED if problem else 200), "status-description": problem or "OK"}
    return answer(correlation_id, status, None), name


def _key_of(token: str, access_keys: Mapping[str, str]) -> tuple[str | None, str | None]:
    parts = {key: values[0] for key, values in parse_qs(token.partition(" ")[2]).items()}
    key = access_keys.get(parts.get("skn", ""))
    if key is None:
        return None, "The token names no access key of this namespace."
    raw = dict(part.partition("=")[::2] for part in token.partition(" ")[2].split("&"))
    signed = f"{raw.get('sr', '')}\n{raw.get('se', '')}".encode()
    expected = base64.b64encode(hmac.new(key.encode(), signed, hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(unquote(raw.get("sig", "")), expected):
        return None, "The token's signature is wrong."
    if not parts.get("se", "").isdecimal() or int(parts["se"]) < time.time():
        return None, "The token has expired."
    return parts["skn"], None


# ---------------------------------------------------------------------------------------------------------- management


class Management:
    """The operations of a queue's management node."""

    def __init__(self, connection: "Connection", queue: Queue) -> None:
        self._connection = connection
        self._queue = queue

    async def respond(self, raw: bytes) -> bytes:
        correlation_id, application, body = parse_request(raw)
        operation = str(application.get("operation", "")).removeprefix(PREFIX)
        method = getattr(self, "_" + operation.replace("-", "_"), self._unknown)
        try:
            found = await method(body or {})
        except BrokerError as refused:
            status = _STATUS.get(refused.condition, BAD_REQUEST)
            problem = {"statusCode": Int(status), "statusDescription": str(refused)}
            return answer(correlation_id, problem | {"errorCondition": Symbol(refused.condition)}, {})
        if found is None:
            return answer(correlation_id, {"statusCode": Int(NO_CONTENT), "statusDescription": "No Content"}, {})
        return answer(correlation_id, {"statusCode": Int(200), "statusDescription": "OK"}, found)

    async def _unknown(self, _: Mapping[str, Any]) -> Any:
        raise BrokerError("amqp:not-implemented", "There is no such operation here.")

    async def _renew_lock(self, body: Mapping[str, Any]) -> Any:
        moments = [await self._connection.renew(self._queue, token) for token in body["lock-tokens"]]
        return {"expirations": [Timestamp.of(moment) for moment in moments]}

    async def _renew_session_lock(self, body: Mapping[str, Any]) -> Any:
        self._held(body["session-id"])
        moment: datetime = await self._connection.renew_session(self._queue, body["session-id"])
        return {"expiration": Timestamp.of(moment)}

    async def _get_session_state(self, body: Mapping[str, Any]) -> Any:
        self._held(body["session-id"])
        return {"session-state": self._queue.session(body["session-id"]).state}

    async def _set_session_state(self, body: Mapping[str, Any]) -> Any:
        self._held(body["session-id"])
        self._queue.session(body["session-id"]).state = body.get("session-state")
        return {}

    def _held(self, session_id: str) -> None:
        if self._queue.session(session_id).locked_until is None:
            raise session_lock_lost()

    async def _peek_message(self, body: Mapping[str, Any]) -> Any:
        found = self._queue.peek(body["from-sequence-number"], body["message-count"], body.get("session-id"))
        return {"messages": [{"message": message.encoded()} for message in found]} if found else None

    async def _schedule_message(self, body: Mapping[str, Any]) -> Any:
        numbers = [await self._connection.send_to(self._queue, entry["message"]) for entry in body["messages"]]
        return {"sequence-numbers": numbers}

    async def _cancel_scheduled_message(self, body: Mapping[str, Any]) -> Any:
        for number in body["sequence-numbers"]:
            self._queue.cancel_scheduled(number)
        return {}

    async def _receive_by_sequence_number(self, body: Mapping[str, Any]) -> Any:
        found = []
        for number in body["sequence-numbers"]:
            message = self._queue.deferred(number, body.get("session-id"))
            session = self._queue.session(message.session_id if self._queue.has_sessions else None)
            lock = self._queue.lock(message, session)
            found.append({"lock-token": lock.token, "message": message.encoded()})
            if body.get("receiver-settle-mode") == 0:
                self._queue.complete(lock.token)
        return {"messages": found}

    async def _update_disposition(self, body: Mapping[str, Any]) -> Any:
        status = body["disposition-status"]
        name = {"completed": "COMPLETE", "abandoned": "ABANDON", "defered": "DEFER", "suspended": "DEAD_LETTER"}[status]
        arguments: dict[str, Any] = {}
        if name == "DEAD_LETTER":
            reason, text = body.get("deadletter-reason"), body.get("deadletter-description")
            arguments = {"reason": reason, "description": text}
        for token in body["lock-tokens"]:
            await self._connection.settle(self._queue, uuid.UUID(str(token)), name, arguments)
        return {}

    async def _get_message_sessions(self, body: Mapping[str, Any]) -> Any:
        skip = int(body.get("skip", 0))
        found = self._queue.sessions_with_messages()[skip : skip + int(body.get("top", 100))]
        return {"skip": Int(skip + len(found)), "sessions-ids": found} if found else None
