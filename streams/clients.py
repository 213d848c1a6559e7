"""Settings of the librdkafka clients, each with its reason."""

from __future__ import annotations

from typing import Any


def worker_consumer(bootstrap: str, group: str, session_timeout_ms: int) -> dict[str, Any]:
    """A consumer of source records: committed ones only, nothing skipped, offsets committed by transactions alone."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",  # never skip silently
        "isolation.level": "read_committed",  # committed offsets are then read stable, too
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_timeout_ms,
        "heartbeat.interval.ms": session_timeout_ms // 5,
        "max.poll.interval.ms": 900_000,  # a silent fold stands between two polls: 100 million events fit into it
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,  # the default of 1,000 drains a backlog four times slower
        "fetch.wait.max.ms": 100,
        "log_level": 2,
    }
