"""A serving node's follower of one generation: the vectors topics into its VectorStore, then into the tables that
requests read.

Rows, watermarks and topic offsets go into the store in one batch, and into the tables after it: a restart loads the
store and reads only the tail. Vectors are a function of state, so that a record read twice writes the same row again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from forebay.arrays import Floats
from forebay.errors import LogGap
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import HEARTBEAT_KEY, RowCodec, Rows, unpack_heartbeat
from forebay.store.index import ItemIndex
from forebay.store.table import SegmentTable
from forebay.store.vectors import VectorStore
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import replica_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics, describe
from forebay.telemetry import emit

log = logging.getLogger("forebay.replica")
LOAD_ROWS = 8192


@dataclass(frozen=True)
class ReplicaStatus:
    """`caught_up`: the end of every partition was reached since the start; `lag_s`: now minus the oldest watermark."""

    caught_up: bool
    lag_s: float
    rows: dict[str, int]


class Replica:
    """Follows one generation until `stop` is set. `run` has one thread; `status` may be asked from any."""

    def __init__(
        self,
        bootstrap: Address,
        topics: Topics,
        generation: str,
        store: VectorStore,
        codecs: dict[Side, RowCodec],
        tables: dict[Side, SegmentTable],
        index: ItemIndex,
    ) -> None:
        """Raises BrokerUnavailable or TopicMissing. The tables and the index are empty; `load` fills them."""
        self._store, self._codecs, self._tables, self._index = store, codecs, tables, index
        self._side_of: dict[str, Side] = {topics.vectors(generation, side): side for side in SIDES}
        info = describe(bootstrap, list(self._side_of))
        self._places = [(t, p) for t in self._side_of for p in range(info[t].partitions)]
        self._behind = set(self._places)
        self._ends: dict[tuple[str, int], int] = {}  # as they were at the start
        self._consumer = Consumer(replica_consumer(bootstrap))

    def load(self) -> int:
        """Fill tables and index from the store, as they were when it was last written; returns the rows read."""
        rows = 0
        for side in SIDES:
            part: list[tuple[str, int, bytes]] = []
            for row in self._store.scan(side):
                part.append(row)
                if len(part) == LOAD_ROWS:
                    self._load_part(side, part)
                    rows, part = rows + len(part), []
            self._load_part(side, part)
            rows += len(part)
            for partition, as_of in self._store.watermarks(side).items():
                self._tables[side].advance(partition, as_of)
        return rows

    def _load_part(self, side: Side, part: Sequence[tuple[str, int, bytes]]) -> None:
        rows, ids = self._codecs[side].unpack([v for _, _, v in part])
        self._show(side, ids, rows, [p for _, p, _ in part])

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Raises what the store or the log refuses: the process ends, and restarts from the
        store."""
        offsets = self._store.offsets()
        # A live topic may have no end that stands still: reaching where it was is enough to be caught up.
        self._ends = {(t, p): bounds(self._consumer, t, p)[1] for t, p in self._places}
        self._consumer.assign([TopicPartition(t, p, offsets.get((t, p), OFFSET_BEGINNING)) for t, p in self._places])
        try:
            while not stop.is_set():
                messages = self._consumer.consume(1, 0.1)
                if messages and not messages[0].error():
                    messages += self._consumer.consume(4095, 0)
                self._apply([m for m in messages if not self._is_mark(m)])
        finally:
            within(CLOSE_S, self._consumer.close)

    def status(self) -> ReplicaStatus:
        """Where this copy stands."""
        marks = [int(m) for side in SIDES for m in self._tables[side].watermarks]
        lag = time.time() - min(marks, default=0) / 1000
        return ReplicaStatus(not self._behind, lag, {side: len(self._tables[side]) for side in SIDES})

    def _is_mark(self, message: Message) -> bool:
        """Take in what is no record: an end of a partition, or an error."""
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._PARTITION_EOF:
            self._behind.discard((message.topic(), message.partition()))
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LogGap(
                "the vectors after this copy's offset have left the log",
                where=f"{message.topic()}[{message.partition()}]",
                do="Delete the node's vectors directory: it is rebuilt from the topic",
            )
        else:
            log.warning("kafka: %s", error.str())
        return True

    def _apply(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        newest: dict[Side, dict[str, tuple[int, bytes | None]]] = {side: {} for side in SIDES}
        marks: dict[Side, dict[int, int]] = {side: {} for side in SIDES}
        offsets: dict[Side, dict[tuple[str, int], int]] = {side: {} for side in SIDES}
        for message in messages:
            side, partition = self._side_of[message.topic()], message.partition()
            key, value = message.key(), message.value()
            offsets[side][message.topic(), partition] = message.offset() + 1
            if key == HEARTBEAT_KEY:
                marks[side][partition] = unpack_heartbeat(value or b"")
            elif key is not None:
                newest[side].pop(entity := key.decode(), None)
                newest[side][entity] = (partition, value)
        for side in SIDES:
            if not offsets[side]:
                continue
            puts = [(e, p, v) for e, (p, v) in newest[side].items() if v is not None]
            gone = [e for e, (_, v) in newest[side].items() if v is None]
            rows, ids = self._codecs[side].unpack(
                [v for _, _, v in puts]
            )  # refuses another generation's before it is kept
            self._store.write(side, puts, gone, marks[side], offsets[side])
            self._show(side, ids, rows, [p for _, p, _ in puts])
            self._hide(side, gone)
            self._behind -= {place for place, offset in offsets[side].items() if offset >= self._ends[place]}
            # After its rows: a watermark must not carry on rows that it has come before.
            for partition, as_of in marks[side].items():
                self._tables[side].advance(partition, as_of)
            if newest[side]:
                emit(
                    "applied",
                    side=side,
                    rows=len(newest[side]),
                    seconds=time.time() - messages[-1].timestamp()[1] / 1000,
                )

    def _show(self, side: Side, ids: list[str], rows: Rows, partitions: list[int]) -> None:
        table = self._tables[side]
        if refused := table.colliding(ids):
            log.error("%d ids have the hash of another one and are not served: %s", len(refused), sorted(refused)[:3])
            keep = [place for place, entity in enumerate(ids) if entity not in refused]
            ids, rows, partitions = [ids[k] for k in keep], rows[keep], [partitions[k] for k in keep]
        if ids:
            places = table.upsert(ids, rows, partitions)
            if side == "item":
                self._index.upsert(places, served_vectors(self._codecs[side], rows))

    def _hide(self, side: Side, ids: list[str]) -> None:
        if ids:
            freed = self._tables[side].delete(ids)
            if side == "item":
                self._index.remove(freed[freed >= 0])


def served_vectors(codec: RowCodec, rows: Rows) -> Floats:
    """float32 [n, dim of all segments] of stored rows: what the index searches."""
    segments = rows["segments"]
    parts = [segments[s.name]["vector"] * segments[s.name]["scale"][:, None] for s in codec.segments]
    return np.concatenate(parts, axis=1, dtype=np.float32)
