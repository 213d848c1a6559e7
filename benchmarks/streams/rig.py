"""A broker, an installation on it, and worker processes: what the benchmarks of this folder run."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from confluent_kafka import Consumer, TopicPartition

from figures import Seen
from forebay.cli import source
from forebay.cli.console import err
from forebay.clock import now_ms
from forebay.events import Behaviour
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.store.checkpoints import Checkpoints
from forebay.streams.backfill import backfill
from forebay.streams.clients import tail_consumer
from forebay.streams.connection import connected
from forebay.streams.dev.child import end, spawn
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from load import Pair, item_of

PARTITIONS = 4
LOOK_S = 0.1
FIRST_USER = "somebody"  # of the one event that each generation is built from
START_S, STALL_S, READ_S = 120.0, 60.0, 120.0  # until the first commit, and between two
WORK = Path(__file__).with_name("contestants") / "forebay_work.py"


def say(line: str) -> None:
    """A line of progress, on standard error."""
    err.print(f"      {line}", markup=False)


def movielens(items: int) -> Bundle:
    """Five user segments and six of items, with random weights."""
    return untrained(source.spec(None, "movielens"), hash_ids([item_of(n) for n in range(items)]))


@dataclass(frozen=True)
class Site:
    """An installation: topics, a bundle, and generations that know nothing but one event of long ago."""

    broker: DevKafka
    topics: Topics
    bundle: Bundle
    folder: Path

    @classmethod
    def made(
        cls, broker: DevKafka, topics: Topics, bundle: Bundle, folder: Path, generations: Sequence[str] = ("g1",)
    ) -> Site:
        """Topics made, bundle saved, generations built."""
        site = cls(broker, topics, bundle, folder)
        bundle.save(folder / "data" / "bundles")
        first = History.of(
            [Behaviour(FIRST_USER, item_of(0), "rate", 3.0, now_ms() - 1, "first", {"genres": ["Drama"]})]
        )
        for name in generations:
            ensure(broker.bootstrap, topics, generation=name, partitions=PARTITIONS)
            backfill(
                bundle, first, name=name, bootstrap=broker.bootstrap, topics=topics,
                folder=folder / "data" / "generations" / name, state_folder=folder / "data" / "state" / name,
                now_ms=now_ms(), checkpoints=Checkpoints(str(folder / "data" / "checkpoints")),
            )  # fmt: skip
        return site

    def environment(self, generation: str = "g1") -> dict[str, str]:
        """Of a command of forebay that works here."""
        return {
            **os.environ, "FOREBAY_BOOTSTRAP": self.broker.bootstrap, "FOREBAY_TOPIC_PREFIX": self.topics.prefix,
            "FOREBAY_DATA_DIR": str(self.folder / "data"), "FOREBAY_GENERATION": generation,
        }  # fmt: skip

    @contextmanager
    def working(
        self, stages: Sequence[str], generation: str = "g1", slot: str = "0", **settings: str
    ) -> Iterator[Child]:
        """A process with these stages, until the block ends. `settings` are FOREBAY_* variables in small letters."""
        more = {f"FOREBAY_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, str(WORK), *stages, "--slot", slot]
        log = self.folder / f"{generation}-{'-'.join(stages)}-{slot}.log"
        with running(command, log, self.environment(generation) | more) as child:
            yield child


@dataclass(frozen=True)
class Child:
    """A process that runs, and what it has written."""

    process: Popen[bytes]
    log: Path

    def commits(self) -> list[Seen]:
        """Of a forebay_work.py: its commits so far, with all events until each of them. While something waits to be
        encoded, the last event is not done."""
        found, events = [], 0
        for line in self.log.read_text().splitlines(keepends=True):
            if line.startswith('{"at"') and line.endswith("\n"):  # the last one may be half written
                one = json.loads(line)
                events += one["events"]
                found.append(Seen(one["at"], events - one["waits"], one["cpu"]))
        return found

    def look(self) -> None:
        """Raises SystemExit with its last words where it has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace").splitlines()[-30:]
            raise SystemExit("\n".join([f"{self.log.name}: it ended with {self.process.returncode}", *words]))


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[Child]:
    """A process until the block ends, or until this one does; its words are in `log`."""
    with log.open("wb") as file:
        process = spawn(command, file, environment=environment)
        try:
            yield Child(process, log)
        finally:
            end(process)


def followed(
    child: Child,
    look: Callable[[], list[Seen]],
    events: int,
    seconds: float,
    told: Callable[[int], None] = lambda n: None,
) -> list[Seen]:
    """What `look` saw until all `events` were committed, or `seconds` after the first commit. `told(events)` hears of
    progress. Raises SystemExit where the process ends, or commits nothing for a minute."""
    started = grew = time.monotonic()
    seen: list[Seen] = []
    before = 0
    while True:
        child.look()
        seen = look()
        done, now = seen[-1].events if seen else 0, time.monotonic()
        if done > before:
            before, grew = done, now
            told(done)
        if done >= events:
            return seen
        first = next((one.at_s for one in seen if one.events), None)
        if first is not None and now - first > seconds:
            return seen
        if now - grew > (START_S if first is None else STALL_S):
            raise SystemExit(f"{child.log.name}: {done:,} events after {now - started:.0f} s, and nothing since")
        time.sleep(LOOK_S)


def make_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Topics for those that are not ours."""
    with connected("KafkaAdminClient", bootstrap) as admin:
        admin.create_topics({name: {"num_partitions": PARTITIONS, "replication_factor": 1} for name in names})
        admin.wait_for_topics(list(names))


def drop_topics(bootstrap: str, prefix: str) -> None:
    """All topics with this prefix: a broker's disk is not without end."""
    with connected("KafkaAdminClient", bootstrap) as admin:
        if gone := [name for name in admin.list_topics() if name.startswith(prefix)]:
            admin.delete_topics(gone)


def records(bootstrap: str, topic: str, most: int | None = None) -> Iterator[tuple[int, bytes, bytes]]:
    """Partition, key and value of the first `most` committed records of each partition, or of all as of now."""
    consumer = Consumer(tail_consumer(bootstrap))
    try:
        for partition in sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions):
            for key, value in itertools.islice(_read(consumer, topic, partition), most):
                yield partition, key, value
    finally:
        consumer.close()


def _read(consumer: Consumer, topic: str, partition: int) -> Iterator[Pair]:
    """Raises TimeoutError where its end is not met."""
    consumer.assign([TopicPartition(topic, partition, 0)])
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        for message in consumer.consume(5_000, 0.2):
            if message.partition() != partition:  # of the assignment before
                continue
            if message.error() is not None:
                return  # its end
            yield message.key(), message.value()
    raise TimeoutError(f"{topic}/{partition} was not read within {READ_S:.0f} s")


def cpu_s(pid: int | None) -> float:
    """CPU seconds of a process until now, children that have ended included; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB. Raises OSError where it has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
