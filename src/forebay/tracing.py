"""Traces across the stream: which producer's span an event belongs to, as OpenTelemetry knows it.

A producer's context travels as W3C `traceparent` in the header of its record, and from the Intake on in a header of the
Block that the event is in: the contexts of up to 16 sampled events. Whether an event is traced is its producer's choice
alone, the sampled flag of its `traceparent`: nothing here samples. Without the extra `otel`, and before `turn_on`,
nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from forebay.errors import MissingExtra

PARENT = "traceparent"
CONTEXTS = "forebay.traces"  # of a Block's record: contexts, by comma
MOST = 16  # contexts of one record: a batch of sampled events is told by some of them
_BYTES = 55  # version 00

Headers: TypeAlias = Sequence[tuple[str, bytes]]


class Span:
    """One stage's work on one event, until its commit. Ended once."""

    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def context(self) -> bytes:
        """As it travels on."""
        return _packed(self._span.get_span_context())

    def end(self, error: BaseException | None = None) -> None:
        """It is committed, or it is not, for `error`: its batch is done again, with spans of its own."""
        if error is not None:
            self._span.set_status(_api().StatusCode.ERROR, type(error).__name__)
        self._span.end()


class Tracer:
    """Makes spans of a provider of OpenTelemetry's."""

    def __init__(self, provider: Any) -> None:
        self._tracer = provider.get_tracer("forebay")

    def begin(self, name: str, parent: bytes, since_ms: int, attributes: Mapping[str, str | int | bool]) -> Span | None:
        """A span below `parent`, which began when the log took the record (`since_ms`); None where `parent` is no
        context of a sampled span."""
        api = _api()
        carrier = {PARENT: parent.decode("ascii", "replace")}
        context = api.propagation.extract(carrier)
        above = api.trace.get_current_span(context).get_span_context()
        if not (above.is_valid and above.trace_flags.sampled):
            return None
        return Span(
            self._tracer.start_span(
                name, context, kind=api.trace.SpanKind.CONSUMER, attributes=dict(attributes),
                start_time=since_ms * 1_000_000,
            )
        )  # fmt: skip


_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """Who makes spans; None while nobody wants any."""
    return _tracer


def turn_on(provider: Any = None) -> Callable[[], None]:
    """Trace from now on, with `provider` or else the process's own; returns what ends it. Raises MissingExtra."""
    global _tracer
    if (api := _api()) is None:
        raise MissingExtra("opentelemetry", "otel")
    _tracer = Tracer(api.trace.get_tracer_provider() if provider is None else provider)

    def turn_off() -> None:
        global _tracer
        _tracer = None

    return turn_off


def sampled(headers: Headers) -> bytes | None:
    """The context in a producer's headers, where it says that it is sampled. Looks at one byte, and judges no more."""
    for name, value in headers:
        if name == PARENT:
            return value if value and len(value) >= _BYTES and value[_BYTES - 1] & 1 else None
    return None


def contexts_in(headers: Headers) -> list[bytes]:
    """Those that a Block's record carries."""
    for name, value in headers:
        if name == CONTEXTS and value:
            return value.split(b",")[:MOST]
    return []


def carrying(contexts: Iterable[bytes]) -> Headers:
    """The header of a Block's record for some contexts: the first 16."""
    kept = list(contexts)[:MOST]
    return ((CONTEXTS, b",".join(kept)),) if kept else ()


def of_producer() -> list[tuple[str, bytes]]:
    """Headers for a record that is sent now: the current span's context where there is one and it is sampled."""
    if (api := _api()) is None:
        return []
    context = api.trace.get_current_span().get_span_context()
    return [(PARENT, _packed(context))] if context.is_valid and context.trace_flags.sampled else []


def _packed(context: Any) -> bytes:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}".encode()


class _Api:
    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.trace, self.propagation, self.StatusCode = trace, TraceContextTextMapPropagator(), trace.StatusCode


@cache
def _api() -> Any:
    try:
        return _Api()
    except ModuleNotFoundError:
        return None
