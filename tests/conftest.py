"""What several rooms' tests need: a real Kafka broker for the run, or for each process of `pytest -n`, and topic names
that no other test uses.

The broker starts when the first test asks for it, on free ports and in a folder of this run, and ends by its own
process id.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest

from forebay.clock import HOUR_MS
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, Tick, UserProfile, encode, entity_of
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics

from . import scratch
from .sharing import in_order, unit_of

if TYPE_CHECKING:  # torch and numba are loaded by the tests that need them
    from forebay.segments.bundle import Bundle
    from forebay.segments.history import History
    from forebay.store.codec import RowCodec
    from forebay.streams.sources.foreign import Foreign
    from forebay.streams.worker.protocol import Worker

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is loaded
scratch.choose()  # before the first folder is made
_number = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of `pytest -n`: see sharing.py."""
    if hasattr(config, "workerinput"):
        items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Units of sharing.py instead of files, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return Units(config, log)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevKafka]:
    """The run's broker. A test that stops or kills a broker starts one of its own."""
    with DevKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topics() -> Topics:
    """Names under a prefix that no other test of this run has."""
    return Topics(f"t{next(_number)}.")


# -- a small model, its events, and workers over them: for streams, faults and integration

NOW = 1_790_000_000_000
SMALL_SPEC: dict[str, Any] = {
    "events": {"actions": ["rate", "view"]},
    "label": {"positive": "value >= 4"},
    "attributes": {
        "item": {"genres": {"set": ["a", "b", "c"]}, "year": {"number": True}},
        "user": {"age": {"number": True}, "plan": {"category": ["free", "paid"]}},
    },
    "user": {
        "profile": {
            "features": [{"latest": ["age", "plan"]}],
            "encoder": {"kind": "mlp", "hidden": [8]},
            "dim": 8,
        },
        # A short list, so that deep duplicates (older than the list) are the rule.
        "recent": {
            "features": [{"last": 6, "of": ["item", "genres", "value", "action", "age"]}],
            "encoder": {"kind": "attention_pool", "queries": 2, "hidden": 8, "embedding": 4},
            "dim": 8,
        },
        "taste": {
            "features": [{"count": "genres"}, {"mean": "value", "by": "genres", "where": "action == 'rate'"}],
            "encoder": {"kind": "mlp", "hidden": [8]},
            "dim": 8,
        },
    },
    "item": {
        "id": {"features": [{"id": 4}], "encoder": {"kind": "mlp", "hidden": []}, "dim": 8},
        "content": {"features": [{"latest": ["genres", "year"]}], "encoder": {"kind": "mlp", "hidden": [8]}, "dim": 8},
        "stats": {
            "features": [{"count": "events"}, {"mean": "value", "bucket": "1h", "over": "6h"}],
            "encoder": {"kind": "mlp", "hidden": [8]},
            "dim": 8,
        },
    },
}


@pytest.fixture(scope="session")
def make_history() -> Callable[..., History]:
    """Random behaviours of the hours before `until_ms`, profiles for half of the users and updates for most items."""
    from forebay.segments.history import History

    def make(
        count: int, *, seed: int = 0, users: int = 40, items: int = 25, until_ms: int = NOW, span_ms: int = 9 * HOUR_MS
    ) -> History:
        pick = random.Random(seed)
        attributes: dict[str, Attributes] = {
            f"i{n}": {"genres": pick.sample(["a", "b", "c", "other"], 2), "year": float(1950 + n)} for n in range(items)
        }
        acted = []
        for n in range(count):
            user, item = f"u{int(users * pick.random() ** 2)}", f"i{int(items * pick.random() ** 2)}"
            acted.append(
                Behaviour(
                    user, item, pick.choice(["rate", "view", "unlisted"]), float(pick.randint(1, 5)),
                    # Whole seconds: many events share one.
                    until_ms - 1000 - int(pick.random() * span_ms) // 1000 * 1000, f"e{seed}-{n}", attributes[item],
                )
            )  # fmt: skip
        profiles = [
            UserProfile(f"u{n}", {"age": float(20 + n), "plan": "paid"}, until_ms - span_ms - n, f"p{n}")
            for n in range(0, users, 2)
        ]
        updates = [
            ItemUpdate(i, a, until_ms - span_ms, f"up{i}") for n, (i, a) in enumerate(attributes.items()) if n % 5
        ]
        return History.of([*acted, *profiles, *updates])

    return make


@pytest.fixture(scope="session")
def arrivals() -> Callable[..., list[Event]]:
    """A history's user-side events as they come in: shuffled within some hundred places, and 5 % of them twice."""

    def arrive(history: History, seed: int = 0) -> list[Event]:
        pick = random.Random(seed)
        events: list[Event] = [*history.profiles, *history.behaviours]
        places = [(n + pick.uniform(0, 200), e) for n, e in enumerate(events)]
        places += [(n + pick.uniform(0, 900), e) for n, e in enumerate(events) if pick.random() < 0.05]
        return [e for _, e in sorted(places, key=lambda pair: pair[0])]

    return arrive


@pytest.fixture(scope="session")
def bundle(make_history: Callable[..., History]) -> Bundle:
    """SMALL_SPEC after one epoch over a small history: weights like any, and no quality."""
    from forebay.segments.spec import parse_spec
    from forebay.segments.training import TrainingOptions, train

    return train(parse_spec(SMALL_SPEC), make_history(600), TrainingOptions(epochs=1, seed=1))


@pytest.fixture(scope="session")
def spec_tables() -> dict[str, Any]:
    """The tables of the small model's segments.toml, to vary: a copy for each caller is the caller's business."""
    return SMALL_SPEC


@pytest.fixture(scope="session")
def stored() -> Callable[..., dict[str, tuple[bytes, bytes]]]:
    """All that partition stores hold, closed ones (by folder and side): entity -> (state, vectors without their
    as_of)."""
    from forebay.segments.spec import Side
    from forebay.store.codec import codec_of
    from forebay.store.partitionstore import PartitionStore

    def read(bundle: Bundle, folder: Path, side: Side) -> dict[str, tuple[bytes, bytes]]:
        found: dict[str, tuple[bytes, bytes]] = {}
        for path in _furthest(folder, side):
            with PartitionStore.open(path, create=False) as store:
                for name, (state, vectors) in store.scan():
                    entity = name.decode()
                    assert entity not in found
                    found[entity] = (state, without_as_of(codec_of(bundle, side), vectors))
        return found

    return read


def _furthest(folder: Path, side: str) -> list[Path]:
    """The store of each partition: where there are several of one, that which has come furthest."""
    from forebay.store.partitionstore import PartitionStore

    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob(f"{side}-*")):
        with PartitionStore.open(path, create=False) as store:
            meta = store.meta()
        assert meta is not None
        name = path.name.partition("~")[0]
        found[name] = max(found.get(name, (-1, path)), (meta.offset, path))
    return [path for _, path in found.values()]


def without_as_of(codec: RowCodec, vectors: bytes) -> bytes:
    rows = np.frombuffer(vectors, codec.dtype).copy()
    for slot in codec.segments:
        rows["segments"][slot.name]["as_of"] = 0
    return rows.tobytes()


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Return when a condition holds; fail after a generous time."""

    def wait(condition: Callable[[], object], what: str, within_s: float = 90.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def producer_of() -> Iterator[Callable[[str], Any]]:
    """`producer_of(bootstrap)`: a producer like any other: murmur2, no transactions. There is one for each broker: a
    new one waits half a second for its identity."""
    from confluent_kafka import Producer

    @cache
    def made(bootstrap: str) -> Producer:
        return Producer(
            {
                "bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True,
                "reconnect.backoff.max.ms": 500, "log_level": 0,
            }
        )  # fmt: skip

    yield made
    made.cache_clear()


@pytest.fixture
def publish(kafka: DevKafka, producer_of: Callable[[str], Any]) -> Callable[..., None]:
    """Events, or (key, value) pairs, to a topic."""

    def send(topic: str, records: Iterable[Event | tuple[bytes | None, bytes | None]], partition: int = -1) -> None:
        producer = producer_of(kafka.bootstrap)
        for record in records:
            key, value = record if isinstance(record, tuple) else (entity_of(record).encode(), encode(record))
            if partition < 0:
                producer.produce(topic, key=key, value=value)
            else:
                producer.produce(topic, key=key, value=value, partition=partition)
            producer.poll(0)
        assert producer.flush(30) == 0

    return send


@pytest.fixture
def feed(kafka: DevKafka) -> Callable[..., None]:
    """`feed(topics, side, events, partitions=2, size=1)`: events into a clean log, as an Intake puts them there: Blocks
    of up to so many, each event in its entity's partition and a tick in all of them."""
    from confluent_kafka import Producer

    from forebay.segments.blocks.build import block_of
    from forebay.segments.blocks.schema import HEADER
    from forebay.streams.routing import partitions_of

    def send(topics: Topics, side: str, events: Iterable[Event], partitions: int = 2, size: int = 1) -> None:
        producer, by_partition = Producer({"bootstrap.servers": kafka.bootstrap}), dict[int, list[Event]]()
        for event in events:
            key = None if isinstance(event, Tick) else str(getattr(event, side)).encode()
            for place in range(partitions) if key is None else partitions_of([key], partitions).tolist():
                by_partition.setdefault(place, []).append(event)
        now = time.time_ns() // 1_000_000
        for partition, found in by_partition.items():
            for start in range(0, len(found), size):
                part = found[start : start + size]
                block = block_of(part, [now] * len(part), range(len(part)), [0] * len(part), ("tests/0",))
                for header, value in block.encode():
                    producer.produce(topics.events(side), value=value, partition=partition, headers=[(HEADER, header)])
        assert producer.flush(30) == 0

    return send


@pytest.fixture
def clean(read: Callable[..., list[Any]]) -> Callable[..., list[Event]]:
    """`clean(topics, side, partitions=2)`: the events of a clean log, ticks left out, a partition at a time."""
    from forebay.segments.blocks.block import Block
    from forebay.segments.blocks.build import events_of
    from forebay.segments.blocks.schema import HEADER

    def events(topics: Topics, side: str, partitions: int = 2) -> list[Event]:
        found: list[Event] = []
        for partition in range(partitions):
            for message in read(topics.events(side), {partition: 0}):
                found += events_of(Block.decode(dict(message.headers() or ())[HEADER], message.value()))
        return [event for event in found if not isinstance(event, Tick)]

    return events


@pytest.fixture
def read(kafka: DevKafka) -> Callable[..., list[Any]]:
    """The committed records of a topic from `starts` (partition -> offset) to its end at this moment, live or not.

    Transactions that stand open at this moment are waited for: a commit returns before readers see it.
    """
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    from forebay.streams.offsets import bounds

    def read_now(topic: str, starts: dict[int, int]) -> list[Any]:
        common = {"bootstrap.servers": kafka.bootstrap, "group.id": "tests", "enable.auto.commit": False}
        everything = Consumer(common | {"isolation.level": "read_uncommitted"})
        ends = {p: bounds(everything, topic, p) for p in starts}
        everything.close()
        consumer = Consumer(
            common | {"isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 50}
        )
        found: list[Any] = []
        deadline = time.monotonic() + 60
        try:
            left = {p for p, (_, end) in ends.items() if starts[p] < end}
            consumer.assign([TopicPartition(topic, p, max(starts[p], ends[p][0])) for p in left])
            while left:
                assert time.monotonic() < deadline, f"{topic} {left} does not end at {ends}"
                for message in consumer.consume(1000, 0.1):
                    error, partition, offset = message.error(), message.partition(), message.offset()
                    assert error is None or error.code() == KafkaError._PARTITION_EOF, error
                    if error is None and offset < ends[partition][1]:
                        found.append(message)
                    # The end may be a transaction's mark, and a live topic may have no end that stands still.
                    if offset >= ends[partition][1] - (error is None):
                        left.discard(partition)
        finally:
            consumer.close()
        return found

    return read_now


@pytest.fixture
def lag(kafka: DevKafka, read: Callable[..., list[Any]]) -> Iterator[Callable[[str, str, int], int]]:
    """How many records of a topic are committed and not yet behind a group's offsets.

    Who waits asks again and again: one client stays connected, and what was read is not read again.
    """
    from confluent_kafka import Consumer

    from forebay.streams.offsets import bounds, committed

    clients: dict[str, Consumer] = {}
    found: dict[tuple[str, int], list[int]] = {}  # the offsets of a partition's committed records, in order
    behind: dict[tuple[str, int], int] = {}  # all before this offset is in `found`; the last ones may be marks

    def count(topic: str, group: str, partitions: int) -> int:
        if group not in clients:
            clients[group] = Consumer(
                {"bootstrap.servers": kafka.bootstrap, "group.id": group, "reconnect.backoff.max.ms": 500}
            )
        places = [(topic, partition) for partition in range(partitions)]
        starts = {place: committed(clients[group], *place) or 0 for place in places}
        ends = {place: bounds(clients[group], *place)[1] for place in places}
        new = {place[1]: behind.get(place, 0) for place in places if behind.get(place, 0) < ends[place]}
        for message in read(topic, new) if new else ():
            found.setdefault((topic, message.partition()), []).append(message.offset())
        for place in places:
            last = found.setdefault(place, [])[-1:]  # a read may go further than `ends`
            behind[place] = max(behind.get(place, 0), ends[place], *(offset + 1 for offset in last))
        return sum(len(found[place]) - bisect_left(found[place], starts[place]) for place in places)

    yield count
    for client in clients.values():
        client.close()


@pytest.fixture
def newest(read: Callable[..., list[Any]]) -> Callable[[str, int], dict[str, bytes]]:
    """The newest record of each entity in a vectors topic, heartbeats and gone ones left out."""
    from forebay.store.codec import HEARTBEAT_KEY

    def read_all(topic: str, partitions: int) -> dict[str, bytes]:
        found: dict[str, bytes | None] = {}
        for message in read(topic, dict.fromkeys(range(partitions), 0)):
            if message.key() != HEARTBEAT_KEY:
                found[message.key().decode()] = message.value()
        return {entity: value for entity, value in found.items() if value is not None}

    return read_all


class Work:
    """A worker on a thread of its own until the block ends; what it raised is raised there."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.group, self.stage = worker, worker.group, worker.stage
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.worker.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the worker did not stop"
        if self.error is not None and error is None:
            raise self.error


@pytest.fixture
def work(kafka: DevKafka, bundle: Bundle) -> Callable[..., Work]:
    """`with work(topics, stage, folder, generation="g1", partitions=2, options=…, checkpoints=…)`: a
    worker of the intake, or of one side, running. Without a folder of Checkpoints, what is not there is folded from the
    log. An intake may read what others fill: `foreign`."""
    from forebay.store.checkpoints import Checkpoints
    from forebay.streams.intake.accept import Rules
    from forebay.streams.intake.breaker import BreakerOptions
    from forebay.streams.transports.librdkafka.start import intake_worker, side_worker
    from forebay.streams.worker.options import WorkerOptions
    from forebay.streams.worker.processor import Processor

    def start(
        topics: Topics,
        stage: str,
        folder: Path,
        *,
        generation: str = "g1",
        partitions: int = 2,
        options: WorkerOptions = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2),
        bundle: Bundle = bundle,
        rules: Rules = Rules(),
        checkpoints: Path | None = None,
        foreign: Sequence[Foreign] = (),
        breaker: BreakerOptions | None = None,
    ) -> Work:
        kept = None if checkpoints is None else Checkpoints(str(checkpoints))
        if stage == "intake":
            more: dict[str, Any] = {"rules": rules, "foreign": foreign, "breaker": breaker}
            return Work(intake_worker(kafka.bootstrap, topics, folder / "intake", options, kept, **more))
        processor = Processor(bundle, "user" if stage == "user" else "item", topics, generation, partitions, folder)
        return Work(side_worker(processor, kafka.bootstrap, options, kept))

    return start
