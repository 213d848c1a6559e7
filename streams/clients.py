"""Settings of every Kafka client, each with its reason. Where the brokers are, and who asks, comes from the Cluster."""

from __future__ import annotations

from typing import Any

from forebay.streams.cluster import Address, cluster_of

CONNECT_TIMEOUT_S = 5.0
BATCH_BYTES = 256 << 10  # kafka-python's 16 kB: 17 k events/s instead of 32 k
_QUIET = 2  # librdkafka's log: what is critical; the rest comes back as an error of the call, and is told there


def worker_consumer(address: Address, group: str, session_timeout_ms: int) -> dict[str, Any]:
    """A consumer of source records: committed ones only, nothing skipped, offsets committed by transactions alone."""
    return cluster_of(address).for_librdkafka() | {
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",  # never skip silently
        "isolation.level": "read_committed",  # committed offsets are then read stable, too
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_timeout_ms,
        "heartbeat.interval.ms": min(3000, session_timeout_ms // 5),  # by which a rebalance is heard of, too
        "max.poll.interval.ms": 900_000,  # a silent fold stands between two polls: 100 million events fit into it
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,  # the default of 1,000 drains a backlog four times slower
        "fetch.wait.max.ms": 100,
        "log_level": _QUIET,
    }


def worker_producer(address: Address, transactional_id: str, timeout_ms: int) -> dict[str, Any]:
    """A transactional producer. `timeout_ms` is how long a transaction may stay open."""
    return cluster_of(address).for_librdkafka() | {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": timeout_ms,
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "queue.buffering.max.messages": 1_000_000,
        "delivery.report.only.error": True,
        "log_level": _QUIET,
    }


def follower_consumer(address: Address) -> dict[str, Any]:
    """A consumer that reads a compacted topic whole, outside any group: committed records, and nothing skipped."""
    return cluster_of(address).for_librdkafka() | {
        "group.id": "forebay.follower",  # required by the library; nothing is ever committed to it
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 100,
        "log_level": _QUIET,
    }


def tail_consumer(address: Address) -> dict[str, Any]:
    """A consumer that reads a topic once, outside any group, from what is there."""
    return cluster_of(address).for_librdkafka() | {
        "group.id": "forebay.tail",  # required by the library; never joined
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "log_level": _QUIET,
    }


def log_consumer(address: Address) -> dict[str, Any]:
    """As `tail_consumer`, of records none of which may be missing: where the next one has left the log, that is an
    error."""
    return tail_consumer(address) | {"group.id": "forebay.log", "auto.offset.reset": "error"}


def asking_consumer(address: Address, *, committed: bool) -> dict[str, Any]:
    """A consumer that reads nothing, and asks where partitions end: counting what is `committed` only, or open
    transactions as well."""
    return cluster_of(address).for_librdkafka() | {
        "group.id": "forebay.asking",  # required by the library; never joined
        "isolation.level": "read_committed" if committed else "read_uncommitted",
        "log_level": 0,  # it asks again
    }


def letters_consumer() -> dict[str, Any]:
    """kafka-python's consumer of dead letters, outside any group: committed ones only."""
    return {
        "group_id": None,
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
    }


def publisher_producer(timeout_s: float, linger_ms: int) -> dict[str, Any]:
    """kafka-python's producer of an event publisher; `timeout_s` is how long an event may stay unacknowledged."""
    timeout_ms = round(timeout_s * 1000)
    return {
        "linger_ms": linger_ms,
        "batch_size": BATCH_BYTES,
        "acks": "all",
        "enable_idempotence": True,
        "delivery_timeout_ms": timeout_ms,
        "request_timeout_ms": (timeout_ms - linger_ms) // 2,  # so that one lost answer leaves time for a second try
        "reconnect_backoff_max_ms": 1000,  # 30 s by default: a broker that came back would wait that long for us
        "max_block_ms": round(min(timeout_s, CONNECT_TIMEOUT_S) * 1000),  # for a topic's metadata, in send()
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
