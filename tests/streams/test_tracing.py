"""An event's trace: from its producer's span through the Intake into both sides, for sampled ones and no others."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from forebay import tracing
from forebay.cli.traces import VARIABLES, traces_sent
from forebay.clock import now_ms
from forebay.errors import BrokerError
from forebay.events import Behaviour, encode
from forebay.segments.blocks.block import Block
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES
from forebay.streams.intake.intake import Intake
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source

TOPICS, PARTITIONS = Topics("t."), 2
PARENT = b"00-%032x-%016x-01"


class Stream:
    """An Intake and both sides over a log in memory."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.log = MemoryLog(now_ms)
        for topic in (*TOPICS.sources, *map(TOPICS.events, SIDES), TOPICS.catalogue):
            self.log.create(topic, PARTITIONS)
        for side in SIDES:
            self.log.create(TOPICS.vectors("g1", side), PARTITIONS)
        sources = [Source(topic, p, topic) for topic in TOPICS.sources for p in range(PARTITIONS)]
        counts = dict.fromkeys(SIDES, PARTITIONS)
        self.workers = [
            self._worker(Intake(TOPICS, sources, counts, folder / "intake"), list(TOPICS.sources)),
            *(
                self._worker(Processor(bundle, side, TOPICS, "g1", PARTITIONS, folder), [TOPICS.events(side)])
                for side in SIDES
            ),
        ]
        for worker in self.workers:
            worker.join(threading.Event())

    def _worker(self, stage: Any, topics: Sequence[str]) -> Worker:
        options = WorkerOptions(poll_s=0, heartbeat_interval_s=0)
        return Worker(stage, MemoryTransport(self.log, topics, stage.name, options, moment=now_ms), options)

    def send(self, event: Behaviour, parent: bytes | None = None) -> None:
        headers = [] if parent is None else [(tracing.PARENT, parent)]
        self.log.append(Sent(TOPICS.behaviour, 0, event.user.encode(), encode(event), headers))

    def run(self) -> None:
        """Until everything is committed, and some turns more."""
        for worker in self.workers:
            for _ in range(6):
                worker.turn()


@pytest.fixture
def stream(bundle: Bundle, tmp_path: Path) -> Iterator[Stream]:
    made = Stream(bundle, tmp_path)
    made.run()
    yield made
    for worker in made.workers:
        worker.leave()


@pytest.fixture
def spans() -> Iterator[Callable[[], list[ReadableSpan]]]:
    """What was traced since the last call."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    off = tracing.turn_on(provider)

    def finished() -> list[ReadableSpan]:
        found = list(exporter.get_finished_spans())
        exporter.clear()
        return found

    yield finished
    off()
    assert tracing.tracer() is None


def _event(n: int, user: str = "u1", age_ms: int = 1000) -> Behaviour:
    return Behaviour(user, f"i{n}", "view", 1.0, now_ms() - age_ms, f"e{n}")


def test_a_sampled_event_is_one_trace_through_all_stages(
    stream: Stream, spans: Callable[[], list[ReadableSpan]]
) -> None:
    """The Intake's span below the producer's, a span of each side below the Intake's; other events leave none, and
    their Blocks no header."""
    for n in range(20):
        stream.send(_event(n, f"u{n}"))
    stream.send(_event(50), PARENT % (0xABC, 0x123))
    stream.run()
    found = {span.name: span for span in spans()}
    assert set(found) == {"intake", "user processor", "item processor"}
    assert {span.context.trace_id for span in found.values()} == {0xABC}
    intake = found["intake"]
    assert intake.parent is not None and intake.parent.span_id == 0x123 and intake.parent.is_remote
    for side in SIDES:
        below = found[f"{side} processor"]
        assert below.parent is not None and below.parent.span_id == intake.context.span_id
        assert below.start_time >= intake.start_time and below.end_time >= below.start_time
        assert below.attributes is not None and below.attributes["forebay.generation"] == "g1"
    assert intake.attributes is not None
    assert intake.attributes["forebay.accepted"] is True
    assert intake.attributes["messaging.destination.name"] == TOPICS.behaviour
    for side in SIDES:
        records = [r for p in range(PARTITIONS) for r in stream.log.records(TOPICS.events(side), p)]
        assert sum(tracing.CONTEXTS in dict(r.headers) for r in records) == 1  # of the partition that it is in
        assert all(len(Block.of_record(r.headers, r.value)) for r in records)  # whoever does not trace reads on


@pytest.mark.parametrize(
    "parent",
    [
        None, b"", b"00-%032x-%016x-00" % (5, 6), b"00-%032x-%016x-01" % (0, 6), b"00-%032x-%016x-01" % (5, 0),
        b"ff-%032x-%016x-01" % (5, 6), b"\xff" * 55, b"00-" + b"z" * 52, b"1" * 4000,
    ],
)  # fmt: skip
def test_an_event_without_a_sampled_context_is_not_traced(
    parent: bytes | None, stream: Stream, spans: Callable[[], list[ReadableSpan]]
) -> None:
    """Nobody samples on his own, and rubbish in a header ends nothing: the event is taken."""
    stream.send(_event(1), parent)
    stream.run()
    assert spans() == []
    records = [r for p in range(PARTITIONS) for r in stream.log.records(TOPICS.events("user"), p)]
    assert any(b"i1" in (r.value or b"") for r in records)
    assert not any(tracing.CONTEXTS in dict(r.headers) for r in records)


def test_nothing_is_looked_at_while_nobody_traces(stream: Stream) -> None:
    """The header of a sampled event stays where it is."""
    stream.send(_event(1), PARENT % (1, 2))
    stream.run()
    records = [r for p in range(PARTITIONS) for r in stream.log.records(TOPICS.events("user"), p)]
    assert records and not any(tracing.CONTEXTS in dict(r.headers) for r in records)


def test_an_event_that_is_not_accepted_ends_at_the_intake(
    stream: Stream, spans: Callable[[], list[ReadableSpan]]
) -> None:
    """A duplicate, and one that is too old."""
    stream.log.create(TOPICS.dead_letters, 1)
    event = _event(1)
    stream.send(event)
    stream.send(event, PARENT % (1, 2))
    stream.send(_event(2, age_ms=10**10), PARENT % (3, 4))
    stream.run()
    found = spans()
    assert [span.name for span in found] == ["intake", "intake"]
    assert {span.context.trace_id for span in found} == {1, 3}
    assert all(span.attributes is not None and span.attributes["forebay.accepted"] is False for span in found)


def test_a_record_carries_a_bounded_number_of_contexts(stream: Stream, spans: Callable[[], list[ReadableSpan]]) -> None:
    """Of many sampled events of one batch and partition: all are traced by the Intake, 16 of them further."""
    for n in range(50):
        stream.send(_event(n), PARENT % (n + 1, 7))
    stream.run()
    found = spans()
    assert sum(span.name == "intake" for span in found) == 50
    assert sum(span.name == "user processor" for span in found) == tracing.MOST
    records = [r for p in range(PARTITIONS) for r in stream.log.records(TOPICS.events("user"), p)]
    ((carried,),) = [[v for k, v in r.headers if k == tracing.CONTEXTS] for r in records if len(r.headers) > 1]
    assert len(carried.split(b",")) == tracing.MOST


def test_a_span_ends_with_its_commit(
    stream: Stream, spans: Callable[[], list[ReadableSpan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails ends it as an error, and the batch that is done again has a span of its own."""
    intake = stream.workers[0]
    stream.send(_event(1), PARENT % (1, 2))
    intake.turn()
    assert spans() == []  # under way
    monkeypatch.setattr(stream.log, "_refusal", lambda write: BrokerError("a transaction was aborted"))
    intake.turn()
    assert [span.status.status_code for span in spans()] == [trace.StatusCode.ERROR]
    monkeypatch.undo()
    stream.run()
    (again,) = [span for span in spans() if span.name == "intake"]
    assert again.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({}, "forebay-worker"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,team=a"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=a"}, "forebay-worker"),
    ],
)
def test_spans_go_where_opentelemetry_s_variables_say(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], service: str
) -> None:
    """To a collector's HTTP address, whole before the block ends, by the name that a variable gives; without an address
    nobody traces."""
    taken: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append(
                ExportTraceServiceRequest.FromString(
                    gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                )
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    for name in (*VARIABLES, "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with traces_sent():
        assert tracing.tracer() is None
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(VARIABLES[0], f"http://127.0.0.1:{server.server_port}")
        with traces_sent():
            tracer = tracing.tracer()
            assert tracer is not None
            span = tracer.begin("intake", PARENT % (0xABC, 0x123), now_ms(), {"forebay.stage": "intake"})
            assert span is not None
            span.end()
        server.shutdown()
    assert tracing.tracer() is None
    ((resource,),) = [request.resource_spans for request in taken]
    assert ("service.name", service) in [(a.key, a.value.string_value) for a in resource.resource.attributes]
    ((sent,),) = [scope.spans for scope in resource.scope_spans]
    assert (sent.name, sent.trace_id, sent.parent_span_id) == ("intake", (0xABC).to_bytes(16), (0x123).to_bytes(8))


def test_a_producer_s_span_travels_with_what_it_sends() -> None:
    """Where one is current and sampled; an event outside of any has no header."""
    assert tracing.of_producer() == []
    with TracerProvider().get_tracer("shop").start_as_current_span("checkout") as span:
        ((name, value),) = tracing.of_producer()
        context = span.get_span_context()
        begins = (PARENT % (context.trace_id, context.span_id))[:-2]  # the flags have a bit more than the sampled one
        assert name == "traceparent" and value.startswith(begins) and int(value[-2:], 16) & 1
        assert tracing.sampled([("other", b"x"), (name, value)]) == value
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("shop").start_as_current_span("checkout"):
        assert tracing.of_producer() == []
