"""The Kafka that the settings name."""

from __future__ import annotations

from forebay.streams.installation import cluster_of as cluster

__all__ = ["cluster"]
