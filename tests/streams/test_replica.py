"""The Replica against a real broker: tables are the topics' newest records, and a restart reads only what is new."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from forebay.errors import GenerationMismatch, LogGap, StoreCorrupt
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.shard import ALL, Shard
from forebay.store.codec import HEARTBEAT_KEY, codec_of, pack_heartbeat
from forebay.store.generation import Generation
from forebay.store.servingcopy import ServingCopy, served_vectors
from forebay.store.vectors import VectorStore
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.replica import Replica
from forebay.streams.topics import Topics, ensure
from forebay.telemetry import add_hook

pytestmark = pytest.mark.broker
PARTITIONS = 2
Send = Callable[..., None]


class Following:
    """A node: a store, tables, an index and the replica that keeps them, until the block ends."""

    def __init__(self, kafka: DevKafka, topics: Topics, bundle: Bundle, folder: Path, shard: Shard = ALL) -> None:
        generation = Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, PARTITIONS), {})
        self.copy = ServingCopy.open(bundle, generation, folder, shard)
        self.loaded = self.copy.load()
        self.replica = Replica(kafka.bootstrap, topics, self.copy)
        self.codecs, self.tables, self.index = self.copy.codecs, self.copy._tables, self.copy._index
        self.error: BaseException | None = None
        self.applied = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._remove = add_hook(self._count)

    def _count(self, name: str, details: Mapping[str, Any]) -> None:
        if name == "applied":
            self.applied += details["rows"]

    def _run(self) -> None:
        try:
            self.replica.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            self.error = error

    @property
    def ready(self) -> bool:
        """Caught up, or ended."""
        return self.replica.status().caught_up or not self._thread.is_alive()

    def values(self, side: Side) -> dict[str, dict[str, Any]]:
        """What the table shows: entity -> codes, scales, as_of and last_event of its segments."""
        table = self.tables[side]
        ids = [i for i in table.ids if i]
        rows = table.find(ids)
        return {
            e: {
                name: getattr(table, name)[r].tolist() for name in ("vectors", "scales", "as_of", "last_event", "flags")
            }
            for e, r in zip(ids, rows.tolist(), strict=True)
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)
        self._remove()
        self.copy.close()
        if self.error is not None and error is None:
            raise self.error


@pytest.fixture
def there(kafka: DevKafka, topics: Topics) -> Topics:
    """Topics of generation g1 that exist."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    return topics


@pytest.fixture
def follow(kafka: DevKafka, there: Topics, bundle: Bundle, tmp_path: Path) -> Callable[[], Following]:
    """A node over the same folder each time."""
    return lambda: Following(kafka, there, bundle, tmp_path / "vectors")


@pytest.fixture
def emit_rows(there: Topics, bundle: Bundle, publish: Callable[..., None]) -> Iterator[Send]:
    """Rows with random vectors, or tombstones (seed None), of entities of one side, in a partition."""

    def send(side: Side, ids: list[str], seed: int | None, partition: int = 0, bundle: Bundle = bundle) -> None:
        codec = codec_of(bundle, side)
        values: list[bytes | None] = [None] * len(ids)
        if seed is not None:
            rng, rows = np.random.default_rng(seed), codec.empty(len(ids))
            for slot in codec.segments:
                part = rows["segments"][slot.name]
                part["vector"] = rng.integers(-127, 128, (len(ids), slot.dim))
                part["scale"] = rng.random(len(ids), np.float32)
                part["as_of"], part["last_event"] = 1000 + seed, 900 + seed
            values = list(codec.pack(rows, ids))
        publish(there.vectors("g1", side), [(e.encode(), v) for e, v in zip(ids, values, strict=True)], partition)

    yield send


def test_a_node_of_a_shard_follows_its_users_and_all_items(
    kafka: DevKafka, there: Topics, bundle: Bundle, tmp_path: Path, emit_rows: Send, publish: Callable[..., None],
    wait_for: Callable[..., None]
) -> None:  # fmt: skip
    """It is as current as what it follows, whatever the other partitions of users do; a folder that has other users
    from before serves none of them."""
    for partition in range(PARTITIONS):
        emit_rows("user", [f"u{partition}-{n}" for n in range(9)], 1, partition)
        emit_rows("item", [f"i{partition}-{n}" for n in range(5)], 2, partition)
        publish(there.vectors("g1", "item"), [(HEARTBEAT_KEY, pack_heartbeat(7_000))], partition)
    publish(there.vectors("g1", "user"), [(HEARTBEAT_KEY, pack_heartbeat(9_000))], 1)
    with Following(kafka, there, bundle, tmp_path / "second", Shard(2, PARTITIONS)) as node:
        wait_for(lambda: node.ready, "caught up")
        assert set(node.values("user")) == {f"u1-{n}" for n in range(9)} and len(node.values("item")) == 10
        assert node.copy.as_of() == 7_000
    with Following(kafka, there, bundle, tmp_path / "second", Shard(1, PARTITIONS)) as node:
        assert set(node.values("user")) == set() and node.loaded == 19
        wait_for(lambda: node.ready, "caught up")
        assert set(node.values("user")) == {f"u0-{n}" for n in range(9)} and node.copy.as_of() == 0


def _expected(follow: Following, newest: Mapping[str, bytes], side: Side) -> dict[str, dict[str, Any]]:
    codec = follow.codecs[side]
    rows, ids = codec.unpack(list(newest.values()))
    columns = {
        "vectors": codec.vectors(rows), "scales": codec.column(rows, "scale"), "as_of": codec.column(rows, "as_of"),
        "last_event": codec.column(rows, "last_event"), "flags": codec.column(rows, "flags"),
    }  # fmt: skip
    return {e: {name: column[n].tolist() for name, column in columns.items()} for n, e in enumerate(ids)}


def test_tables_and_index_are_the_newest_records_and_a_restart_reads_only_the_tail(
    there: Topics, follow: Callable[[], Following], emit_rows: Send, newest: Callable[..., Any],
    wait_for: Callable[..., None]
) -> None:  # fmt: skip
    """The second start loads the rows from its own store and applies nothing but what came since."""
    for partition in range(PARTITIONS):
        emit_rows("user", [f"u{partition}-{n}" for n in range(50)], 1, partition)
        emit_rows("item", [f"i{partition}-{n}" for n in range(30)], 2, partition)
    emit_rows("user", ["u0-1", "u0-2"], 3)
    with follow() as node:
        wait_for(lambda: node.ready, "the end of the topics")
    assert node.loaded == 0
    for side in SIDES:
        assert node.values(side) == _expected(node, newest(there.vectors("g1", side), PARTITIONS), side)
    before = {side: node.values(side) for side in SIDES}

    emit_rows("user", ["u1-4", "new"], 5, partition=1)
    with follow() as node:
        assert node.loaded == 160
        wait_for(lambda: node.ready, "the tail")
    assert node.applied == 2
    assert node.values("item") == before["item"]
    assert node.values("user") == _expected(node, newest(there.vectors("g1", "user"), PARTITIONS), "user")
    assert node.replica.status().rows == {"user": 101, "item": 60}

    codec = node.codecs["item"]
    rows, ids = codec.unpack(list(newest(there.vectors("g1", "item"), PARTITIONS).values()))
    served = served_vectors(codec, rows)
    found, products = node.index.search(served[7], 1)
    assert node.tables["item"].ids[found[0]] == ids[int(np.argmax(served @ served[7]))]
    assert products[0] == pytest.approx((served @ served[7]).max())


def test_a_tombstone_takes_an_entity_out_of_everything(
    there: Topics, follow: Callable[[], Following], emit_rows: Send, wait_for: Callable[..., None]
) -> None:
    """Out of store, table and index, in this run and after a restart; one that comes back is served again."""
    emit_rows("item", ["a", "b", "c"], 1)
    emit_rows("user", ["u"], 1)
    emit_rows("user", ["u"], None)
    with follow() as node:
        wait_for(lambda: node.ready, "the first records")
        emit_rows("item", ["b", "c"], None)
        emit_rows("item", ["c"], 4)
        wait_for(
            lambda: (node.copy.store.get("item", ["b"]) == [None] and len(node.index) == 2) or node.error, "tombstones"
        )
        wait_for(lambda: set(node.values("item")) == {"a", "c"} and 1004 in node.values("item")["c"]["as_of"], "c")
        assert len(node.index) == 2
        assert set(node.values("user")) == set()
    with follow() as node:
        assert set(node.values("item")) == {"a", "c"} and len(node.index) == 2
        wait_for(lambda: node.ready, "the restart")
    assert set(node.values("item")) == {"a", "c"}


def test_heartbeats_move_the_watermark_and_outlive_a_restart(
    there: Topics, follow: Callable[[], Following], emit_rows: Send, publish: Callable[..., None],
    wait_for: Callable[..., None]
) -> None:  # fmt: skip
    """An idle user is as of the partition's newest heartbeat, on its own partition alone."""
    emit_rows("user", ["u"], 0, partition=1)
    publish(there.vectors("g1", "user"), [(HEARTBEAT_KEY, pack_heartbeat(5000))], 1)
    for _ in range(2):
        with follow() as node:
            wait_for(lambda: node.ready, "the records")
        table = node.tables["user"]
        assert table.watermarks.tolist() == [0, 5000]
        with table.lock:
            assert table.as_of_locked(table._find_locked(["u"], _hash("u")))[0].tolist() == [5000] * 3


def _hash(entity: str) -> Any:
    from forebay.segments.state.ids import hash_ids

    return hash_ids([entity])


def test_another_generations_record_is_refused_before_it_is_kept(
    there: Topics, follow: Callable[[], Following], emit_rows: Send, bundle: Bundle, wait_for: Callable[..., None]
) -> None:
    """By the encoder's hash that every row carries: neither store nor table takes any of it, now or after a restart."""
    name = "user.taste.layers.0.weight"
    other = Bundle(bundle.spec, {**bundle.tensors, name: bundle.tensors[name] * np.float32(2)})
    emit_rows("user", ["a"], 1)
    with follow() as node:
        wait_for(lambda: node.ready, "the first record")
    emit_rows("user", ["b", "a"], 2, bundle=other)
    for _ in range(2):
        with pytest.raises(GenerationMismatch, match=r"user\.taste"), follow() as node:
            wait_for(lambda: node.error is not None, "the refusal")
        assert list(node.values("user")) == ["a"] and node.values("user")["a"]["as_of"] == [1001] * 3


def test_a_nodes_folder_of_another_bundle_is_refused(
    kafka: DevKafka, there: Topics, bundle: Bundle, tmp_path: Path
) -> None:
    """Before anything of the topic is read."""
    VectorStore.open(tmp_path, create=True, generation="g1", bundle_hash="other").close()
    with pytest.raises(GenerationMismatch):
        Following(kafka, there, bundle, tmp_path)


def test_a_nodes_damaged_folder_is_deleted_and_filled_again(
    kafka: DevKafka, there: Topics, follow: Callable[[], Following], emit_rows: Send, wait_for: Callable[..., None]
) -> None:
    """The remedy as the error says it: the topics keep every row."""
    emit_rows("user", ["a", "b"], 1)
    emit_rows("item", ["i"], 2)
    with follow() as node:
        wait_for(lambda: node.ready, "the first records")
        before = {side: node.values(side) for side in SIDES}
        folder = node.copy.store.path
    (folder / "CURRENT").write_bytes(b"not this")
    with pytest.raises(StoreCorrupt, match="Delete the directory and start again") as caught:
        follow()
    shutil.rmtree(caught.value.where)
    with follow() as node:
        wait_for(lambda: node.ready, "the topics from their beginning")
        assert {side: node.values(side) for side in SIDES} == before and before["user"] and before["item"]


def test_a_gap_in_the_vectors_topic_is_refused_by_name(
    kafka: DevKafka, there: Topics, follow: Callable[[], Following], emit_rows: Send, wait_for: Callable[..., None]
) -> None:
    """A node that was away for too long is rebuilt, not patched."""
    emit_rows("user", ["a"], 1)
    with follow() as node:
        wait_for(lambda: node.ready, "the first record")
    emit_rows("user", [f"u{n}" for n in range(20)], 2)
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        from kafka import TopicPartition

        topic = there.vectors("g1", "user")
        _make_deletable(admin, topic)
        admin.delete_records({TopicPartition(topic, 0): 15})
    with pytest.raises(LogGap, match="Delete the node's vectors directory"), follow() as node:
        wait_for(lambda: node.error is not None, "the refusal")
    shutil.rmtree(node.copy.store.path)
    with follow() as node:
        wait_for(lambda: node.ready, "what the topic has")
        assert set(node.values("user")) == {f"u{n}" for n in range(14, 20)}


def _make_deletable(admin: Any, topic: str) -> None:
    """Records can be deleted from a topic with that policy only."""
    from kafka.admin import ConfigResource

    admin.alter_configs([ConfigResource("TOPIC", topic, {"cleanup.policy": "compact,delete"})])


def test_a_replica_of_a_live_topic_is_caught_up_though_its_end_never_stands_still(
    there: Topics, follow: Callable[[], Following], emit_rows: Send, publish: Callable[..., None],
    wait_for: Callable[..., None]
) -> None:  # fmt: skip
    """Reaching the end as it was at the start is enough: traffic of some records a second must not keep a node out."""
    stop = threading.Event()

    def traffic() -> None:
        while not stop.wait(0.02):
            for side in SIDES:
                for partition in range(PARTITIONS):
                    publish(there.vectors("g1", side), [(HEARTBEAT_KEY, pack_heartbeat(1))], partition)

    emit_rows("user", ["a"], 1)
    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        with follow() as node:
            wait_for(lambda: node.ready, "the end as it was", 30)
            assert node.error is None
    finally:
        stop.set()
        thread.join()
