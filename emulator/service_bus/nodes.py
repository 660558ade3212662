"""`$cbs` and `$management`: a request comes on one link as a message, its answer goes out on the other."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from emulator.service_bus.codec import (
    APPLICATION_PROPERTIES,
    PROPERTIES,
    VALUE,
    Described,
    encode,
    sections,
)
from emulator.service_bus.frames import ACCEPTED, Frame

if TYPE_CHECKING:
    from emulator.service_bus.channel import Channel

CBS, MANAGEMENT = "$cbs", "/$management"


@dataclass(frozen=True)
class Request:
    message_id: Any
    application_properties: Mapping[str, Any]
    body: Any

    @classmethod
    def decode(cls, raw: bytes) -> "Request":
        found = {section.code: section.value for section in sections(raw)}
        properties = found.get(PROPERTIES) or [None]
        application = {str(key): value for key, value in (found.get(APPLICATION_PROPERTIES) or {}).items()}
        return cls(properties[0], application, found.get(VALUE))

    def answer(self, application: Mapping[str, Any], body: Any) -> bytes:
        properties = [None, None, None, None, None, self.message_id]
        parts = ((PROPERTIES, properties), (APPLICATION_PROPERTIES, dict(application)), (VALUE, body))
        return b"".join(encode(Described(code, value)) for code, value in parts)


class Responder(Protocol):
    async def respond(self, request: Request) -> bytes: ...


class Node:
    """One link of a node: the one for requests, or (`answers`) the one for answers."""

    def __init__(self, channel: "Channel", handle: int, path: str, responder: Responder, *, answers: bool) -> None:
        self._channel = channel
        self._handle = handle
        self._responder = responder
        self._parts: list[bytes] = []
        self._first: Frame | None = None
        self.path = path
        self.answers = answers

    async def on_transfer(self, received: Frame) -> None:
        first = self._first = self._first or received
        self._parts.append(received.payload)
        if received.field(5, False):
            return
        raw, self._parts, self._first = b"".join(self._parts), [], None
        if not first.field(4, False):
            self._channel.dispose(first.field(1), Described(ACCEPTED, []), is_receiver=True)
        response = await self._responder.respond(Request.decode(raw))
        if node := self._channel.node_to_answer(self.path):
            node.answer(response)

    def answer(self, response: bytes) -> None:
        self._channel.transfer(self._handle, uuid.uuid4().bytes, response)
