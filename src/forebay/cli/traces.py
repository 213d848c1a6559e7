"""Spans of `forebay work` to a collector, where OpenTelemetry's own variables name one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from forebay import tracing
from forebay.errors import MissingExtra

log = logging.getLogger("forebay")
VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LEAVE_S = 1.0  # for the last spans: a process ends within ten seconds of SIGTERM


@contextmanager
def traces_sent() -> Iterator[None]:
    """Trace while the block runs, if there is anywhere to send to. Raises MissingExtra."""
    if not any(os.environ.get(name) for name in VARIABLES):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingExtra("opentelemetry", "otel") from None
    # By OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES, which what is given here would overrule.
    named = OTELResourceDetector().detect().attributes.get("service.name")
    # The default sampler goes by the parent's flag, and every span here has a parent.
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": "forebay-worker"}),
        shutdown_on_exit=False,  # it would wait for a collector that does not answer
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    off = tracing.turn_on(provider)
    log.info("traces are sent to %s", next(os.environ[name] for name in VARIABLES if os.environ.get(name)))
    try:
        yield
    finally:
        off()
        leaving = threading.Thread(target=provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)
