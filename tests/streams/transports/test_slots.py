"""A start that cannot be, beside a worker that is healthy: the mistaken one is refused by name, and the other one goes
on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import Fenced, StoreMissing
from forebay.segments.history import History
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.options import WorkerOptions

pytestmark = pytest.mark.broker
PARTITIONS = 2
STRICT = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2, session_timeout_ms=3000)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in a slot is waited for a minute: here for a second, beyond the two sessions."""
    monkeypatch.setattr("forebay.streams.transports.librdkafka.transport.PATIENCE_S", 1.0)


@pytest.fixture
def there(kafka: DevKafka, topics: Topics) -> Topics:
    """Topics of generation g1 that exist."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    return topics


@pytest.fixture
def send(there: Topics, make_history: Callable[..., History], feed: Callable[..., None]) -> Callable[[int], None]:
    """So many behaviours of now."""
    return lambda seed: feed(
        there, "user", make_history(50, seed=seed, until_ms=time.time_ns() // 1_000_000).behaviours
    )


@pytest.fixture
def healthy(
    there: Topics,
    tmp_path: Path,
    work: Callable[..., Any],
    send: Callable[[int], None],
    lag: Callable[..., int],
    wait_for: Callable[..., None],
) -> Callable[..., Any]:
    """`healthy(worker, seed)`: publish some more, and return when a running worker has done it."""
    with work(there, "user", tmp_path / "state", options=STRICT) as first:
        send(0)
        wait_for(lambda: lag(there.events("user"), first.group, PARTITIONS) == 0 or first.ended, "the first events")

    def goes_on(worker: Any, seed: int) -> None:
        send(seed)
        wait_for(lambda: lag(there.events("user"), worker.group, PARTITIONS) == 0 or worker.ended, "its events")
        assert not worker.ended, worker.error

    return goes_on


def test_a_start_without_any_state_is_refused_before_it_joins(
    there: Topics, tmp_path: Path, work: Callable[..., Any], healthy: Callable[..., None]
) -> None:
    """`forebay work --state elsewhere`, in the same slot: the running worker notices nothing."""
    with work(there, "user", tmp_path / "state", options=STRICT) as worker:
        healthy(worker, 1)
        with pytest.raises(StoreMissing, match="forebay backfill"):
            work(there, "user", tmp_path / "elsewhere", options=STRICT, checkpoints=tmp_path / "none")
        healthy(worker, 2)


@pytest.mark.parametrize("slot", ["0", "1"])
def test_a_start_without_the_state_of_its_partition_is_refused_and_evicts_nobody(
    slot: str,
    there: Topics,
    tmp_path: Path,
    work: Callable[..., Any],
    healthy: Callable[..., None],
    wait_for: Callable[..., None],
) -> None:
    """Only an assignment tells which state is needed: the transactional id, which ends whoever had it, is taken after
    that."""
    shutil.copytree(tmp_path / "state" / "user-0", tmp_path / "others" / "user-7")
    nowhere = {"checkpoints": tmp_path / "none"}
    with work(there, "user", tmp_path / "state", options=STRICT) as worker:
        healthy(worker, 1)
        with pytest.raises(StoreMissing, match="forebay backfill"):  # noqa: SIM117
            with work(there, "user", tmp_path / "others", options=replace(STRICT, slot=slot), **nowhere) as mistaken:
                wait_for(lambda: mistaken.ended, "the refusal")
        healthy(worker, 2)


def test_a_second_start_in_a_running_worker_s_slot_is_refused_by_name(
    there: Topics,
    tmp_path: Path,
    work: Callable[..., Any],
    healthy: Callable[..., None],
    wait_for: Callable[..., None],
) -> None:
    """Its own folder is in order: nothing but the name of the slot tells that somebody has it."""
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    with work(there, "user", tmp_path / "state", options=STRICT) as worker:
        healthy(worker, 1)
        with pytest.raises(Fenced, match="Give each worker process a --slot of its own"):  # noqa: SIM117
            with work(there, "user", tmp_path / "copy", options=STRICT) as second:
                wait_for(lambda: second.ended, "the refusal")
        healthy(worker, 2)
