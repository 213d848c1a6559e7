"""Prometheus's view of the hooks: requests by path and status, and how long they took."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from forebay.telemetry import Detail

# Around the budget: p50 0.2 ms in process, p99 under 1 ms over loopback.
_BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)


class RequestMetrics:
    """A hook (`add_hook(metrics)`) with a registry of its own, so that two apps in one process do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "forebay_request_seconds",
            "Time from a request's headers to its answer",
            ["path", "status"],
            registry=self._registry,
            buckets=_BOUNDS,
        )

    def __call__(self, name: str, details: Mapping[str, Detail]) -> None:
        if name == "request":
            self._seconds.labels(details["path"], details["status"]).observe(float(details["seconds"]))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
