"""Text of others, made fit for a terminal; and times as the reader's own clock shows them. Pure."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

# Joiners that scripts need in the middle of words; every other format character could hide or turn text around.
_HARMLESS = frozenset("\u200c\u200d")
_UNFIT = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")


def clean(text: Any, *, lines: bool = False) -> str:
    """On one line, and with what a terminal would obey (escape sequences, bidirectional overrides) spelled out.

    `lines` keeps line breaks, for logs.
    """
    return "".join(_shown(character, lines) for character in str(text).replace("\r\n", "\n"))


def _shown(character: str, lines: bool) -> str:
    if character == "\n":
        return "\n" if lines else " "
    if character == "\t":
        return "    " if lines else " "
    if unicodedata.category(character) not in _UNFIT or character in _HARMLESS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def is_time(value: Any) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def parsed_time(value: Any) -> datetime | None:
    """A time of the service; None for what is none."""
    if not is_time(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def local_time(value: Any) -> str:
    """`2026-03-04 13:00:05 +01:00`: local time with its offset; what is no time is shown as it came."""
    try:
        there = parsed_time(value)
        here = there.astimezone() if there else None
    except (OverflowError, OSError):
        here = None
    if here is None:
        return clean(value if value is not None else "")
    offset = here.strftime("%z")
    return f"{here:%Y-%m-%d %H:%M:%S} {offset[:3]}:{offset[3:5]}"


def utc(text: str) -> str:
    """What a user typed as a time, in UTC as the service takes it; without an offset it is local. Raises ValueError."""
    return datetime.fromisoformat(text.strip()).astimezone(UTC).isoformat().replace("+00:00", "Z")
