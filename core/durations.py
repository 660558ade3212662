"""Durations as the policy writes them: a number and s, m, h or d."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

_DURATION = re.compile(r"(?P<number>[0-9]{1,9})\s*(?P<unit>s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def seconds(duration: str) -> float:
    """A duration of the policy, such as `60m`, in seconds."""
    found = _DURATION.fullmatch(duration)
    if not found:
        raise ValueError(f"{duration!r} is no duration: write a number and s, m, h or d, such as 60m")
    return timedelta(**{_UNITS[found["unit"]]: int(found["number"])}).total_seconds()


def _duration(value: str) -> str:
    seconds(value)
    return value


# The same for editors, in the schema of the policy.
PATTERN = r"^[0-9]{1,9}\s*(s|m|h|d)$"
Duration = Annotated[str, AfterValidator(_duration), WithJsonSchema({"type": "string", "pattern": PATTERN})]
