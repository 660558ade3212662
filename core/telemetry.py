"""What is said of work while it is done: the trace that it belongs to, and the fields that every log record in it bears.

Free of any library: spans are handed to whoever `trace_with` names, which is OpenTelemetry in Azure (core.adapters.tracing).
A trace is named by a W3C `traceparent` (version-trace-parent-flags). It travels in the command, and never changes from hop
to hop: so all deliveries of a promotion are spans of one trace, whatever was repeated or killed in between.

Fields are ids, names, states and numbers: never a payload, a key, a token or a URL.
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

Field = str | int | float
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_fields: ContextVar[Mapping[str, Field] | None] = ContextVar("fields", default=None)
_parent: ContextVar[str | None] = ContextVar("parent", default=None)


class Tracer(Protocol):
    """Where spans go."""

    def span(self, name: str, parent: str | None, fields: Mapping[str, Field]) -> AbstractContextManager[str | None]:
        """A span while the block runs, below `parent` or at the root of a new trace; its traceparent, if it has one."""
        ...


class _Nowhere:
    def span(self, name: str, parent: str | None, fields: Mapping[str, Field]) -> AbstractContextManager[str | None]:
        return nullcontext(parent)


_tracer: Tracer = _Nowhere()


def trace_with(tracer: Tracer) -> None:
    """From now on, spans go there."""
    global _tracer
    _tracer = tracer


@contextmanager
def span(name: str, parent: str | None = None, **fields: Field | None) -> Iterator[None]:
    """A piece of work: a span below `parent` (below the span around it if there is none), with fields for its log records."""
    with bearing(**fields), _tracer.span(name, _valid(parent) or _parent.get(), fields_now()) as opened:
        token = _parent.set(opened or _valid(parent) or _parent.get())
        try:
            yield
        finally:
            _parent.reset(token)


@contextmanager
def bearing(**fields: Field | None) -> Iterator[None]:
    """Fields for all log records of a block, besides those of the blocks around it. None says nothing."""
    token = _fields.set({**fields_now(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _fields.reset(token)


def fields_now() -> Mapping[str, Field]:
    return _fields.get() or {}


def traceparent() -> str:
    """That of the span that is open; that of a new trace if none is."""
    return _parent.get() or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _valid(parent: str | None) -> str | None:
    """What comes from outside and is no traceparent counts as none (W3C Trace Context, 3.2.2.2: restart the trace)."""
    return parent if parent is not None and _TRACEPARENT.fullmatch(parent) else None


def on_every_record(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """A factory of log records that puts the fields of the moment on each, for `logging.setLogRecordFactory`.

    A filter would have to be on every handler, also on those that a host adds later. Whatever exports records takes their
    attributes along; Application Insights shows them as custom dimensions.
    """

    def made(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        for name, value in fields_now().items():
            record.__dict__.setdefault(name, value)
        return record

    return made
