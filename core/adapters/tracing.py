"""Spans for OpenTelemetry. Which SDK there is, and where it sends them, is for whoever runs the process.

In Azure that is the Functions worker: told to by PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY, it sets up Azure Monitor's
distribution of OpenTelemetry before it loads the app. Without an SDK the API does nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from core.telemetry import Field

TRACEPARENT = "traceparent"


class OpenTelemetryTracer:
    """`core.telemetry.Tracer`. Whatever else is current in the thread counts for nothing: a parent is always given."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        """Without a provider, that of the process."""
        self._tracer = trace.get_tracer("model-promotion", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, parent: str | None, fields: Mapping[str, Field]) -> Iterator[str | None]:
        """What an exception says stays in the log, where it is told once."""
        above = self._propagator.extract({TRACEPARENT: parent} if parent else {}, Context())
        with self._tracer.start_as_current_span(
            name, above, attributes=dict(fields), record_exception=False, set_status_on_exception=False
        ) as opened:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            try:
                yield carrier.get(TRACEPARENT, parent)
            except BaseException as error:
                opened.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise
