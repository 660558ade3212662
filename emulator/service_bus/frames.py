"""AMQP 1.0 frames and performatives (OASIS standard, part 2), as far as a broker meets them."""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emulator.service_bus.codec import Described, MalformedFrameError, Symbol, decode, encode

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
SASL_MECHANISMS, SASL_INIT, SASL_CHALLENGE, SASL_RESPONSE, SASL_OUTCOME = range(0x40, 0x45)
RECEIVED, ACCEPTED, REJECTED, RELEASED, MODIFIED = range(0x23, 0x28)
ERROR, SOURCE, TARGET = 0x1D, 0x28, 0x29

AMQP_TYPE, SASL_TYPE = 0, 1
SASL_HEADER, AMQP_HEADER = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
MAX_FRAME_SIZE = 1024 * 1024


@dataclass(frozen=True)
class Frame:
    """A performative on a channel, with the payload behind it; `code` is 0 for an empty frame (a heartbeat)."""

    channel: int
    code: int
    fields: list[Any]
    payload: bytes = b""

    def field(self, index: int, default: Any = None) -> Any:
        value = self.fields[index] if index < len(self.fields) else None
        return default if value is None else value


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises IncompleteReadError at the end, MalformedFrameError for what is none."""
    size, offset, _, channel = struct.unpack(">IBBH", await reader.readexactly(8))
    if size < 8 or size > 2 * MAX_FRAME_SIZE or offset < 2:
        raise MalformedFrameError(f"a frame of {size} bytes")
    body = (await reader.readexactly(size - 8))[offset * 4 - 8 :]
    if not body:
        return Frame(channel, 0, [])
    performative, end = decode(body)
    if not isinstance(performative, Described) or not isinstance(performative.value, list):
        raise MalformedFrameError("a frame holds a performative")
    return Frame(channel, int(performative.descriptor), performative.value, body[end:])


def frame(channel: int, code: int, fields: Sequence[Any], payload: bytes = b"", *, kind: int = AMQP_TYPE) -> bytes:
    body = encode(Described(code, list(fields))) + payload
    return struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body


def error(condition: str, description: str) -> Described:
    """An error with all three of its fields: the Python SDK's decoder indexes them."""
    return Described(ERROR, [Symbol(condition), description, {Symbol("tracking-id"): "local"}])
