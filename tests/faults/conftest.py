"""Worker processes that can be killed, paused and stopped, and what an undisturbed run over the same log gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer

from forebay.errors import BrokerUnavailable
from forebay.events import Interaction, decode
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import codec_of
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.offsets import committed
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.processor import Processor

PARTITIONS = 2
GROUP = "forebay.g1."
WORKER = Path(__file__).with_name("worker.py")
OPTIONS = {
    "batch_events": 64,
    "flush_batches": 3,
    "flush_interval_s": 0.2,
    "heartbeat_interval_s": 0.2,
    "session_timeout_ms": 2000,
    "transaction_timeout_ms": 3000,
}


@dataclass
class Worker:
    """A worker process of this test."""

    process: subprocess.Popen[bytes]
    said: Path

    def wait(self, within_s: float = 120) -> int:
        """Its exit code; a signal's number, negative."""
        return self.process.wait(within_s)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def state(self) -> str:
        """The kernel's letter: T while it is paused."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def worker(kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """`worker("a", state=…, fault=…)`: starts a process in that slot; whatever is left of them ends with the test."""
    saved = bundle.save(tmp_path / "bundles")
    started: list[Worker] = []

    def start(
        slot: str, *, state: str, partitions: int, sides: tuple[Side, ...] = ("user", "item"), **more: Any
    ) -> Worker:
        given = {
            "bootstrap": kafka.bootstrap, "prefix": topics.prefix, "generation": "g1", "bundle": str(saved),
            "state": str(tmp_path / state), "partitions": partitions, "sides": sides,
            "options": {**OPTIONS, "slot": slot, **more.pop("options", {})}, **more,
        }  # fmt: skip
        said = tmp_path / f"worker-{len(started)}-{slot}.log"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with said.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(WORKER), json.dumps(given)], stdout=out, stderr=out, env=environment
            )
        started.append(Worker(process, said))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        print(one.said.name, one.process.returncode, one.said.read_text(), sep="\n")  # shown when the test failed


@dataclass
class Undisturbed:
    """What one processor makes of a log, up to where a group has come."""

    outcome: Outcome
    states: dict[str, tuple[bytes, bytes]]


@pytest.fixture
def undisturbed(
    kafka: DevKafka,
    topics: Topics,
    bundle: Bundle,
    tmp_path: Path,
    stored: Callable[..., Any],
    read: Callable[..., Any],
) -> Callable[[Side, int], Undisturbed]:
    """The records that a side's group has committed, read back and applied in one process without a fault."""

    def run(side: Side, partitions: int) -> Undisturbed:
        topic, folder = topics.source(side), tmp_path / "undisturbed"
        processor = Processor(bundle, side, topic, partitions, folder)
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"{topics.prefix}forebay.g1.{side}"})
        ends = {p: committed(consumer, topic, p) or 0 for p in range(partitions)}
        consumer.close()
        by_partition: dict[int, list[Any]] = {p: [] for p in range(partitions)}
        for message in read(topic, dict.fromkeys(range(partitions), 0)):
            if message.offset() < ends[message.partition()]:
                by_partition[message.partition()].append(message)
        found: list[Outcome] = []
        for partition, messages in by_partition.items():
            processor.open(partition, "any", 0)
            for start in range(0, len(messages), 500):
                part = messages[start : start + 500]
                batch = PartitionBatch(
                    partition,
                    [m.key() for m in part],
                    [m.value() for m in part],
                    [m.offset() for m in part],
                    [m.timestamp()[1] for m in part],
                )
                found.append(processor.apply([batch]))
        total = Outcome(
            interactions=[i for o in found for i in o.interactions],
            dead_letters=[d for o in found for d in o.dead_letters],
            events=sum(o.events for o in found),
            accepted=sum(o.accepted for o in found),
        )
        processor.flush()
        for partition in range(partitions):
            processor.close(partition)
        return Undisturbed(total, stored(bundle, folder, side))

    return run


@pytest.fixture
def replay(
    kafka: DevKafka, topics: Topics, make_history: Callable[..., History], arrivals: Callable[..., Any],
    publish: Callable[..., None],
) -> Callable[..., None]:  # fmt: skip
    """Topics with item updates in them; each call publishes another part of the log, 2 % of it unreadable."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    now = time.time_ns() // 1_000_000
    publish(topics.item_updates, make_history(1, until_ms=now).items)

    def send(count: int, seed: int = 0) -> None:
        events = arrivals(make_history(count, seed=seed, until_ms=now), seed)
        publish(topics.behaviour, events)
        publish(topics.behaviour, [(b"u1", b"no event %d" % n) for n in range(count // 50)])

    return send


@pytest.fixture
def hold_against(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, stored: Callable[..., Any],
    undisturbed: Callable[..., Any], newest: Callable[..., Any], read: Callable[..., Any],
) -> Callable[[str], int]:  # fmt: skip
    """Compare everything that is left, stores under `state` included, with an undisturbed run; returns the
    interactions."""

    def check(state: str) -> int:
        runs = {side: undisturbed(side, PARTITIONS) for side in SIDES}
        sent = [decode(m.value()) for m in read(topics.item_updates, dict.fromkeys(range(PARTITIONS), 0))]
        counted = Counter((e.user, e.time, e.id) for e in sent if isinstance(e, Interaction))
        assert set(counted.values()) == {1}, "an interaction was sent twice"
        assert len(counted) == len(runs["user"].outcome.interactions)
        letters = read_letters(kafka.bootstrap, topics, 10_000)
        assert Counter((d.partition, d.offset) for d in letters) == Counter(
            (d.partition, d.offset) for side in SIDES for d in runs[side].outcome.dead_letters
        )
        for side in SIDES:
            left = stored(bundle, tmp_path / state, side)
            assert set(left) == set(runs[side].states)
            assert {e: v[0] for e, v in left.items()} == {e: v[0] for e, v in runs[side].states.items()}
            assert left == runs[side].states
            codec = codec_of(bundle, side)
            emitted = newest(topics.vectors("g1", side), PARTITIONS)
            assert set(emitted) == set(left)
            rows, ids = codec.unpack(list(emitted.values()))
            for slot in codec.segments:
                rows["segments"][slot.name]["as_of"] = 0
            rows["id_bytes"] = 0
            assert {e: rows[n : n + 1].tobytes() for n, e in enumerate(ids)} == {
                e: _without_id_bytes(codec.dtype, v[1]) for e, v in left.items()
            }
        return len(counted)

    return check


def _without_id_bytes(dtype: Any, vectors: bytes) -> bytes:
    rows = np.frombuffer(vectors, dtype).copy()
    rows["id_bytes"] = 0
    return rows.tobytes()


@pytest.fixture
def drained(topics: Topics, lag: Callable[..., int], wait_for: Callable[..., None]) -> Callable[..., None]:
    """Return when both sides have committed all that is in their topics."""

    def behind(topic: str, group: str) -> int | None:
        """None where a transaction that the broker has not ended yet hides the offset: after a fault that may take
        long."""
        try:
            return lag(topic, group, PARTITIONS)
        except BrokerUnavailable:
            return None

    def wait(within_s: float = 90.0) -> None:
        for side in SIDES:
            group = f"{topics.prefix}{GROUP}{side}"
            wait_for(lambda: behind(topics.source(side), group) == 0, f"the {side} side", within_s)  # noqa: B023
        # Nothing came to the user side meanwhile: its last interactions are on the item side's account.

    return wait
