"""Worker processes that can be killed, paused and stopped, and what an undisturbed run over the same log gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from forebay.segments.bundle import Bundle
from forebay.segments.spec import Side
from forebay.streams.devkafka import DevKafka
from forebay.streams.offsets import committed
from forebay.streams.processor import Outcome, PartitionBatch, Processor
from forebay.streams.topics import Topics

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
        total = Outcome()
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
                outcome = processor.apply([batch])
                total.interactions += outcome.interactions
                total.dead_letters += outcome.dead_letters
                total.events += outcome.events
                total.accepted += outcome.accepted
        processor.flush()
        for partition in range(partitions):
            processor.close(partition)
        return Undisturbed(total, stored(bundle, folder, side))

    return run
