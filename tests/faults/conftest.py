"""Worker processes that can be killed, paused and stopped, and what an undisturbed run over the same log gives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer

from forebay.errors import BrokerUnavailable
from forebay.events import Behaviour, Event, encode, entity_of
from forebay.segments.blocks.build import events_of
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES, Side
from forebay.store.checkpoints import Checkpoints, about
from forebay.store.codec import codec_of
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.intake.accept import Acceptor
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.offsets import committed
from forebay.streams.topics import Topics, describe, ensure
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source

from .proxy import Proxy

PARTITIONS = 2
STAGES = ("intake", *SIDES)
WORKER = Path(__file__).with_name("worker.py")
OPTIONS = {
    "batch_records": 64,
    "flush_batches": 3,
    "flush_interval_s": 0.2,
    "heartbeat_interval_s": 0.2,
    "session_timeout_ms": 2000,
    "transaction_timeout_ms": 3000,
}


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    """Before `mortal`: its connections may be cut."""
    with Proxy() as before:
        with socket.create_server(("127.0.0.1", 0)) as free:
            before.behind = free.getsockname()[1]
        yield before


@pytest.fixture(scope="session")
def mortal(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevKafka]:
    """A broker of these tests alone, which they may freeze, stop and kill."""
    with DevKafka(tmp_path_factory.mktemp("mortal"), proxied=(proxy.behind, proxy.port)) as broker:
        yield broker


@pytest.fixture
def kafka(mortal: DevKafka) -> DevKafka:
    """It runs, whatever the test before has left."""
    return mortal.start()


@pytest.fixture
def frozen(kafka: DevKafka) -> Callable[[], AbstractContextManager[None]]:
    """`with frozen():` SIGSTOP: the broker's connections stay open, and nothing answers."""

    @contextmanager
    def hold() -> Iterator[None]:
        assert kafka.pid is not None
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(kafka.pid, signal.SIGCONT)

    return hold


@pytest.fixture
def steady(
    kafka: DevKafka, topics: Topics, make_history: Callable[..., History], arrivals: Callable[..., Any]
) -> Callable[[float], AbstractContextManager[None]]:
    """`with steady(events_per_s):` a producer that goes on through everything; the block's end waits for its last
    record."""

    @contextmanager
    def publishing(rate: float) -> Iterator[None]:
        over = threading.Event()
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True,
                "message.timeout.ms": 600_000, "log_level": 0,
            }
        )  # fmt: skip

        def events() -> Iterator[Event]:
            for seed in count(1001):
                yield from arrivals(make_history(200, seed=seed, until_ms=time.time_ns() // 1_000_000), seed)

        def run() -> None:
            began = time.monotonic()
            for number, event in enumerate(events()):
                producer.produce(topics.behaviour, key=entity_of(event).encode(), value=encode(event))
                producer.poll(0)
                if over.wait(max(0.0, began + number / rate - time.monotonic())):
                    return

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(run)
            try:
                yield
            finally:
                over.set()
            sending.result()  # one that has stopped by itself has tried nothing
        assert producer.flush(120) == 0

    return publishing


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

    def start(slot: str, *, state: str, partitions: int, stages: Sequence[str] = STAGES, **more: Any) -> Worker:
        given = {
            "bootstrap": f"127.0.0.1:{port}" if (port := more.pop("port", None)) else kafka.bootstrap,
            "prefix": topics.prefix, "generation": "g1", "bundle": str(saved),
            "state": str(tmp_path / state), "partitions": partitions, "stages": stages,
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


@dataclass(frozen=True)
class Accepted:
    """What an undisturbed Intake makes of the sources: identities of behaviours, ids of updates, places of letters."""

    behaviours: Counter[tuple[Any, ...]]
    updates: set[str | None]
    letters: Counter[tuple[Any, ...]]


@pytest.fixture
def up_to(kafka: DevKafka, read: Callable[..., Any]) -> Callable[[str, str], Iterator[PartitionBatch]]:
    """`up_to(topic, group)`: the records of a topic that a group has committed, in batches of a partition."""

    def batches(topic: str, group: str) -> Iterator[PartitionBatch]:
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
        ends = {p: committed(consumer, topic, p) or 0 for p in range(PARTITIONS)}
        consumer.close()
        for partition, end in ends.items():
            messages = [m for m in read(topic, {partition: 0}) if m.offset() < end]
            for start in range(0, len(messages), 500):
                part = messages[start : start + 500]
                yield PartitionBatch(
                    partition,
                    [m.key() for m in part],
                    [m.value() for m in part],
                    [m.offset() for m in part],
                    [m.timestamp()[1] for m in part],
                    [m.headers() or () for m in part],
                )

    return batches


@pytest.fixture
def accepted(topics: Topics, up_to: Callable[..., Iterator[PartitionBatch]]) -> Callable[[], Accepted]:
    """What one Acceptor makes of all that the Intake's group has committed, read once and in order."""

    def run() -> Accepted:
        found = Accepted(Counter(), set(), Counter())
        for topic in topics.sources:
            acceptor = Acceptor(tuple(f"{topic}/{p}" for p in range(PARTITIONS)))
            sets = {p: HourSets() for p in range(PARTITIONS)}
            for batch in up_to(topic, topics.intake_group):
                part = acceptor.accept([batch], sets)
                found.letters.update((d.topic, d.partition, d.offset) for d in part.letters)
                for side in SIDES:
                    for event in (
                        e for bs in acceptor.blocks(part, side, 1).values() for b in bs for e in events_of(b)
                    ):
                        if not isinstance(event, Behaviour):
                            found.updates.add(event.id)  # type: ignore[union-attr]
                        elif side == "user":
                            found.behaviours[event.user, event.time, event.id] += 1
        return found

    return run


@pytest.fixture
def undisturbed(
    topics: Topics, bundle: Bundle, tmp_path: Path, stored: Callable[..., Any], up_to: Callable[..., Any]
) -> Callable[[Side], dict[str, tuple[bytes, bytes]]]:
    """The states and vectors that one Processor makes of all that a side's group has committed, without a fault."""

    def run(side: Side) -> dict[str, tuple[bytes, bytes]]:
        folder = tmp_path / "undisturbed"
        processor = Processor(bundle, side, topics, "g1", PARTITIONS, folder)
        for partition in range(PARTITIONS):
            processor.open(partition, Source(processor.topic, partition, "any"), 0)
        for batch in up_to(processor.topic, topics.group("g1", side)):
            processor.apply([batch])
        processor.flush()
        for partition in range(PARTITIONS):
            processor.close(partition)
        found: dict[str, tuple[bytes, bytes]] = stored(bundle, folder, side)
        return found

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
def kept(kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path) -> str:
    """A folder with the Checkpoints that a backfill of no history leaves."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    checkpoints, info = Checkpoints(str(tmp_path / "kept")), describe(kafka.bootstrap, map(topics.events, SIDES))
    for side in SIDES:
        built = Processor(bundle, side, topics, "g1", PARTITIONS, tmp_path / "built")
        for partition, name in enumerate(built.names):
            owned = built.open(partition, Source(built.topic, partition, info[built.topic].topic_id), 0)
            owned.snapshot(tmp_path / "copy")
            checkpoints.save(tmp_path / "copy", about(f"g1/{name}", owned.meta, 1))
            shutil.rmtree(tmp_path / "copy")
            built.close(partition)
    return checkpoints.url


@pytest.fixture
def hold_against(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, stored: Callable[..., Any],
    accepted: Callable[[], Accepted], undisturbed: Callable[..., Any], newest: Callable[..., Any],
    clean: Callable[..., Any],
) -> Callable[[str], int]:  # fmt: skip
    """Compare everything that is left, stores under `state` included, with an undisturbed run; returns the number of
    behaviours."""

    def check(state: str) -> int:
        wanted = accepted()
        letters = read_letters(kafka.bootstrap, topics, 10_000)
        assert Counter((d.topic, d.partition, d.offset) for d in letters) == wanted.letters
        assert set(wanted.behaviours.values()) == {1}
        updates: set[str] = set()
        for side in SIDES:
            events = clean(topics, side)
            counted = Counter((e.user, e.time, e.id) for e in events if isinstance(e, Behaviour))
            assert counted == wanted.behaviours, f"the clean log of {side}"
            updates |= {e.id for e in events if not isinstance(e, Behaviour)}
            left, whole = stored(bundle, tmp_path / state, side), undisturbed(side)
            assert set(left) == set(whole)
            assert {e: v[0] for e, v in left.items()} == {e: v[0] for e, v in whole.items()}
            assert left == whole
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
        assert updates == wanted.updates
        return len(wanted.behaviours)

    return check


def _without_id_bytes(dtype: Any, vectors: bytes) -> bytes:
    rows = np.frombuffer(vectors, dtype).copy()
    rows["id_bytes"] = 0
    return rows.tobytes()


@pytest.fixture
def drained(topics: Topics, lag: Callable[..., int], wait_for: Callable[..., None]) -> Callable[..., None]:
    """Return when every stage has committed all that is in its topics."""

    def behind(topic: str, group: str) -> int | None:
        """None where a transaction that the broker has not ended yet hides the offset: after a fault that may take
        long."""
        try:
            return lag(topic, group, PARTITIONS)
        except BrokerUnavailable:
            return None

    def wait(within_s: float = 90.0) -> None:
        reading = [(topic, topics.intake_group) for topic in topics.sources]
        for topic, group in [*reading, *((topics.events(side), topics.group("g1", side)) for side in SIDES)]:
            wait_for(lambda: behind(topic, group) == 0, topic, within_s)  # noqa: B023

    return wait
