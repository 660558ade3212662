"""YAML of others, as plain values. Aliases let a few lines stand for more than memory holds, so there is a bound. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml


def load(text: str, limit: int) -> Any:
    """What the text says, as JSON would have it: dates and the like as text, even as keys, and nothing shared.

    Raises yaml.YAMLError, ValueError (a date that never was, more than `limit` values) or RecursionError.
    """
    return _plain(yaml.safe_load(text), iter(range(limit)), limit)


def _plain(value: Any, nodes: Iterator[int], limit: int) -> Any:
    if next(nodes, None) is None:
        raise ValueError(f"it stands for more than {limit} values")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, nodes, limit) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, nodes, limit) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
