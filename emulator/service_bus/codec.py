"""AMQP 1.0 types on the wire (OASIS standard, part 1) and the sections of a message (part 3)."""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any


class Symbol(str):
    """An AMQP symbol: ASCII text from a constrained domain."""

    __slots__ = ()


class UByte(int): ...


class UShort(int): ...


class UInt(int): ...


class ULong(int): ...


class Int(int): ...


class Byte(int): ...


class Short(int): ...


class Float(float): ...


class Timestamp(int):
    """Milliseconds since 1970."""

    @classmethod
    def of(cls, moment: datetime) -> "Timestamp":
        return cls((moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1))

    def as_datetime(self) -> datetime:
        return datetime.fromtimestamp(self / 1000, UTC)


@dataclass(frozen=True)
class Opaque:
    """A value that nothing here looks into (characters, decimals): its type code and its bytes."""

    code: int
    content: bytes


@dataclass(frozen=True)
class Described:
    """A value with the descriptor that says what it means."""

    descriptor: Any
    value: Any


class MalformedFrameError(ValueError):
    """Bytes that are no AMQP."""


# -------------------------------------------------------------------------------------------------------------- encode


def encode(value: Any) -> bytes:
    """One value. Plain ints are longs; the classes above name the other integer types."""
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case Described():
            return b"\x00" + encode(_descriptor(value.descriptor)) + encode(value.value)
        case UByte():
            return struct.pack(">BB", 0x50, value)
        case UShort():
            return struct.pack(">BH", 0x60, value)
        case UInt():
            return struct.pack(">BI", 0x70, value)
        case ULong():
            return struct.pack(">BB", 0x53, value) if value < 256 else struct.pack(">BQ", 0x80, value)
        case Timestamp():
            return struct.pack(">Bq", 0x83, value)
        case Int():
            return struct.pack(">Bi", 0x71, value)
        case Byte():
            return struct.pack(">Bb", 0x51, value)
        case Short():
            return struct.pack(">Bh", 0x61, value)
        case int():
            return struct.pack(">Bq", 0x81, value)
        case Float():
            return struct.pack(">Bf", 0x72, value)
        case float():
            return struct.pack(">Bd", 0x82, value)
        case Opaque():
            return bytes([value.code]) + value.content
        case uuid.UUID():
            return b"\x98" + value.bytes
        case Symbol():
            return _variable(0xA3, value.encode("ascii"))
        case str():
            return _variable(0xA1, value.encode())
        case bytes():
            return _variable(0xA0, value)
        case list() | tuple():
            return _compound(0xC0, [encode(item) for item in value])
        case dict():
            return _compound(0xC1, [encode(part) for item in value.items() for part in item])
        case _:
            raise TypeError(f"no AMQP type for {type(value).__name__}")


def _descriptor(descriptor: Any) -> Any:
    return ULong(descriptor) if isinstance(descriptor, int) else descriptor


def _variable(code: int, content: bytes) -> bytes:
    if len(content) < 256:
        return struct.pack(">BB", code, len(content)) + content
    return struct.pack(">BI", code + 0x10, len(content)) + content


def _compound(code: int, items: list[bytes]) -> bytes:
    content = b"".join(items)
    if code == 0xC0 and not items:
        return b"\x45"
    if len(content) < 255 and len(items) < 256:
        return struct.pack(">BBB", code, len(content) + 1, len(items)) + content
    return struct.pack(">BII", code + 0x10, len(content) + 4, len(items)) + content


# -------------------------------------------------------------------------------------------------------------- decode

_FIXED: dict[int, tuple[str, type]] = {
    0x50: (">B", UByte),
    0x51: (">b", Byte),
    0x52: (">B", UInt),
    0x53: (">B", ULong),
    0x54: (">b", Int),
    0x55: (">b", int),
    0x60: (">H", UShort),
    0x61: (">h", Short),
    0x70: (">I", UInt),
    0x71: (">i", Int),
    0x72: (">f", Float),
    0x80: (">Q", ULong),
    0x81: (">q", int),
    0x82: (">d", float),
    0x83: (">q", Timestamp),
}
_OPAQUE = {0x73: 4, 0x74: 4, 0x84: 8, 0x94: 16}
_CONSTANT: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: UInt(0), 0x44: ULong(0)}


def decode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """One value, and the position behind it. Raises MalformedFrameError."""
    try:
        return _decode(data, at)
    except (IndexError, struct.error, ValueError, TypeError, RecursionError) as error:
        raise MalformedFrameError(f"cannot decode at byte {at}: {error}") from error


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    code = data[at]
    if code == 0x00:
        descriptor, at = _decode(data, at + 1)
        value, at = _decode(data, at)
        return Described(descriptor, value), at
    return _decode_value(code, data, at + 1)


def _decode_value(code: int, data: bytes, at: int) -> tuple[Any, int]:
    if code in _CONSTANT:
        return _CONSTANT[code], at
    if code in _FIXED:
        form, kind = _FIXED[code]
        return kind(struct.unpack_from(form, data, at)[0]), at + struct.calcsize(form)
    if code == 0x45:
        return [], at
    if code == 0x56:
        return data[at] != 0, at + 1
    if code == 0x98:
        return uuid.UUID(bytes=data[at : at + 16]), at + 16
    if code in _OPAQUE:
        (content,) = struct.unpack_from(f"{_OPAQUE[code]}s", data, at)
        return Opaque(code, content), at + _OPAQUE[code]
    is_wide = bool(code & 0x10)
    size, at = _number(data, at, wide=is_wide)
    end = at + size
    if end > len(data):
        raise MalformedFrameError(f"a value of {size} bytes ends behind the frame")
    match code & 0xEF:
        case 0xA0:
            return data[at:end], end
        case 0xA1:
            return data[at:end].decode(), end
        case 0xA3:
            return Symbol(data[at:end].decode("ascii")), end
        case 0xC0:
            return _items(data, at, is_wide), end
        case 0xC1:
            items = _items(data, at, is_wide)
            return dict(zip(items[::2], items[1::2], strict=True)), end
        case 0xE0:
            return _array(data, at, is_wide), end
    raise MalformedFrameError(f"unknown type code 0x{code:02x}")


def _number(data: bytes, at: int, *, wide: bool) -> tuple[int, int]:
    return (struct.unpack_from(">I", data, at)[0], at + 4) if wide else (data[at], at + 1)


def _items(data: bytes, at: int, wide: bool) -> list[Any]:
    count, at = _number(data, at, wide=wide)
    items = []
    for _ in range(count):
        item, at = _decode(data, at)
        items.append(item)
    return items


def _array(data: bytes, at: int, wide: bool) -> list[Any]:
    count, at = _number(data, at, wide=wide)
    code, at = data[at], at + 1
    items = []
    for _ in range(count):
        item, at = _decode_value(code, data, at)
        items.append(item)
    return items


# ------------------------------------------------------------------------------------------------------------- message

HEADER, DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES = range(0x70, 0x75)
DATA, SEQUENCE, VALUE, FOOTER = range(0x75, 0x79)


@dataclass(frozen=True)
class Section:
    """A section of a message: what it is, its value, and its bytes as they came."""

    code: int
    value: Any
    raw: bytes


def sections(message: bytes) -> Iterator[Section]:
    """The sections, in the order in which they came: some senders do not keep the standard's."""
    at = 0
    while at < len(message):
        value, end = decode(message, at)
        if not isinstance(value, Described) or not isinstance(value.descriptor, int):
            raise MalformedFrameError("a message is a row of described sections")
        yield Section(value.descriptor, value.value, message[at:end])
        at = end
