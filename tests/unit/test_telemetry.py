"""Traces and fields: OpenTelemetry's own SDK, with an exporter in memory, behind `core.telemetry`."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import azure.functions as func
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core import telemetry
from core.adapters.tracing import OpenTelemetryTracer
from core.telemetry import bearing, fields_now, on_every_record, span, traceparent
from functions.intake import traceparent_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = PARENT.split("-")[1]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = telemetry._tracer
    telemetry.trace_with(OpenTelemetryTracer(provider))
    yield exporter
    telemetry.trace_with(before)


def ended(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {each.name: each for each in spans.get_finished_spans()}


def trace_of(each: ReadableSpan) -> str:
    assert each.context is not None
    return f"{each.context.trace_id:032x}"


def test_spans_lie_in_the_trace_of_their_parent(spans: InMemorySpanExporter) -> None:
    with span("delivery", PARENT, promotion_id="p", hop=3), span("create endpoint", effect="create endpoint"):
        inside = traceparent()

    found = ended(spans)
    assert {trace_of(each) for each in found.values()} == {TRACE} == {inside.split("-")[1]}
    outer, inner = found["delivery"], found["create endpoint"]
    assert outer.parent is not None
    assert f"{outer.parent.span_id:016x}" == PARENT.split("-")[2]
    assert inner.parent is not None and outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes or {}) == {"promotion_id": "p", "hop": 3, "effect": "create endpoint"}


@pytest.mark.parametrize(
    "given", [None, "", "no traceparent", PARENT.upper(), "00-" + "0" * 32 + "-b7ad6b7169203331-01"]
)
def test_without_a_valid_parent_a_trace_begins(spans: InMemorySpanExporter, given: str | None) -> None:
    with span("intake", given):
        begun = traceparent()

    assert trace_of(ended(spans)["intake"]) == begun.split("-")[1] != TRACE


def test_what_is_current_in_a_thread_is_no_parent(spans: InMemorySpanExporter) -> None:
    """The Functions worker attaches a context to its threads, and never takes it off again."""
    from opentelemetry import context, trace

    other = TracerProvider().get_tracer("other").start_span("left behind")
    token = context.attach(trace.set_span_in_context(other))
    with span("intake"):
        pass
    context.detach(token)

    assert ended(spans)["intake"].parent is None


def test_a_span_that_fails_says_so_but_not_what_was_in_it(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="secret"), span("delivery", PARENT):
        raise ValueError("secret")

    failed = ended(spans)["delivery"]
    assert not failed.status.is_ok
    assert "secret" not in failed.to_json()
    assert fields_now() == {}


def test_without_a_tracer_a_trace_goes_on_all_the_same() -> None:
    with span("intake", PARENT), span("inside"):
        assert traceparent() == PARENT
    assert traceparent() != traceparent()


def test_every_record_bears_the_fields_of_its_moment() -> None:
    made = on_every_record(logging.LogRecord)

    def record() -> dict[str, object]:
        return vars(made("azure", logging.INFO, __file__, 1, "said", (), None))

    with bearing(promotion_id="p", hop=1, reason=None), bearing(hop=2, name="not the logger's"):
        inside = record()
    outside = record()

    assert (inside["promotion_id"], inside["hop"], inside["name"]) == ("p", 2, "azure")
    assert "reason" not in inside
    assert {"promotion_id", "hop"} & outside.keys() == set()


# --------------------------------------------------------------------------------------------------------------- intake


def a_context(trace_parent: str) -> func.Context:
    return cast(func.Context, SimpleNamespace(trace_context=SimpleNamespace(trace_parent=trace_parent)))


@pytest.mark.parametrize(
    ("extensions", "of_host", "expected"),
    [
        ({}, "of the host", "of the host"),
        ({"traceparent": PARENT}, "of the host", PARENT),
        ({}, "", None),
    ],
)
def test_an_event_is_part_of_its_publishers_trace_or_of_the_hosts(
    extensions: dict[str, str], of_host: str, expected: str | None
) -> None:
    event = func.CloudEvent(id="1", source="s", type="t", specversion="1.0", data={}, **cast(Any, extensions))
    assert (traceparent_of(event, a_context(of_host)) or None) == expected


def test_an_event_in_event_grids_schema_is_part_of_the_hosts_trace() -> None:
    event = func.EventGridEvent(
        id="1", data={}, topic="t", subject="s", event_type="e", event_time=None, data_version="1"
    )
    assert traceparent_of(event, a_context(PARENT)) == PARENT
