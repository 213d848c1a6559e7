"""A trace over a real broker: the headers of records and of Blocks are what stages look for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forebay import tracing
from forebay.events import Behaviour
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

pytestmark = pytest.mark.broker


def test_a_trace_begins_with_its_producer_and_ends_with_the_vectors_of_both_sides(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Of two events the one that was sent within a span."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    off = tracing.turn_on(provider)
    try:
        with EventPublisher(kafka.bootstrap, topics=there) as events:
            events.send(Behaviour("u1", "i1", "view"))
            with provider.get_tracer("shop").start_as_current_span("checkout") as checkout:
                events.send(Behaviour("u1", "i2", "view"))
        with (
            work(there, "intake", tmp_path),
            work(there, "user", tmp_path) as user,
            work(there, "item", tmp_path) as item,
        ):
            wait_for(lambda: len(exporter.get_finished_spans()) == 4 or user.ended or item.ended, "the spans")
    finally:
        off()
    names = sorted(span.name for span in exporter.get_finished_spans())
    assert names == ["checkout", "intake", "item processor", "user processor"]
    assert {s.context.trace_id for s in exporter.get_finished_spans()} == {checkout.get_span_context().trace_id}
