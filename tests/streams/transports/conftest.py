"""Topics of a generation on a real broker, what is in them, and a worker that has done some events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.store.codec import HEARTBEAT_KEY, unpack_heartbeat
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.options import WorkerOptions

PARTITIONS = 2
BRISK = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2, session_timeout_ms=3000)


@pytest.fixture
def there(kafka: DevKafka, topics: Topics) -> Topics:
    """Topics of generation g1 that exist."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    return topics


@pytest.fixture
def now_history(make_history: Callable[..., History]) -> Callable[[int], History]:
    """A history that ends now."""
    return lambda count: make_history(count, until_ms=time.time_ns() // 1_000_000)


@pytest.fixture
def whole(read: Callable[..., list[Any]]) -> Callable[[str], list[Any]]:
    """All committed records of a topic."""
    return lambda topic: read(topic, dict.fromkeys(range(PARTITIONS), 0))


@pytest.fixture
def vectors(there: Topics, whole: Callable[..., list[Any]]) -> Callable[[], list[Any]]:
    """The records of the user side's vectors topic that are no heartbeats."""
    return lambda: [m for m in whole(there.vectors("g1", "user")) if m.key() != HEARTBEAT_KEY]


@pytest.fixture
def heartbeats(there: Topics, whole: Callable[..., list[Any]]) -> Callable[[], dict[int, int]]:
    """The newest heartbeat of each partition of the user side."""
    topic = there.vectors("g1", "user")
    return lambda: {m.partition(): unpack_heartbeat(m.value()) for m in whole(topic) if m.key() == HEARTBEAT_KEY}


@pytest.fixture
def counted(bundle: Bundle, stored: Callable[..., Any]) -> Callable[[Path], Counter[str]]:
    """How many behaviours of each user are in the state that a folder has."""
    return lambda folder: Counter(
        {user: int.from_bytes(state[8:16], "little") for user, (state, _) in stored(bundle, folder, "user").items()}
    )


@pytest.fixture
def worked(
    there: Topics, tmp_path: Path, work: Callable[..., Any], feed: Callable[..., None], lag: Callable[..., int],
    wait_for: Callable[..., None], now_history: Callable[..., History],
) -> Callable[..., None]:  # fmt: skip
    """The user side's worker has done so many more events and is gone, its state in `tmp_path`."""

    def run(count: int) -> None:
        feed(there, "user", now_history(count).behaviours)
        with work(there, "user", tmp_path, options=BRISK) as worker:
            wait_for(lambda: lag(there.events("user"), worker.group, PARTITIONS) == 0 or worker.ended, "the events")

    return run
