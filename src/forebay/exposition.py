"""What every /metrics says first, whoever answers it: which build of what runs there, and how much the process takes.

Imports prometheus_client: the core does not import this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder

from forebay import __version__


@dataclass(frozen=True)
class Build:
    """`generation` and `bundle` (its hash) are empty for a process that has none; `platform` is what the bits of its
    vectors depend on."""

    generation: str = ""
    bundle: str = ""
    platform: str = ""


def registry_of(build: Build) -> CollectorRegistry:
    """A registry of its own, so that two in one process do not collide, with `build` and the process's figures."""
    registry = CollectorRegistry()
    info = Gauge(
        "forebay_build_info",
        "1; what runs here: the package's version, the generation and its bundle, the platform of its numbers",
        ["version", "generation", "bundle", "platform"],
        registry=registry,
    )
    info.labels(__version__, build.generation, build.bundle, build.platform).set(1)
    ProcessCollector(registry=registry)
    return registry


def exposed(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """All metrics as the request header `accept` wants them, Prometheus's text or OpenMetrics, and the content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
