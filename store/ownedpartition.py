"""One owned source partition in memory: rows of state, the vectors last emitted, and what its store has not been told
yet.

The table is a cache of the partition's store, and the store is a cache of the log. Rows come in from the store when an
event first touches them and stay; they go out in the write-behind of `flush`. Whatever goes wrong, the table is dropped
and read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from forebay.arrays import Bools, Ints
from forebay.clock import HOUR_MS
from forebay.errors import StoreError, StoreMissing, TopicMismatch
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import NEWEST, UPDATED, Layout
from forebay.store.codec import HELD, RowCodec, Rows
from forebay.store.partitionstore import PartitionMeta, PartitionStore, spilled_keys


class OwnedPartition:
    """State of one source partition, in step with `meta.offset` once `apply` has returned. One thread at a time."""

    def __init__(self, layout: Layout, codec: RowCodec, store: PartitionStore, meta: PartitionMeta) -> None:
        self.layout, self.codec, self.store, self.meta = layout, codec, store, meta
        self.rows = np.zeros((1024, layout.width), dtype=np.int64)
        self.vectors: Rows = codec.empty(1024)
        self.dirty = np.zeros(1024, dtype=np.int64)  # bit s: segment s waits to be encoded
        self.hashes = np.zeros(1024, dtype=np.int64)
        self._encoders = codec.column(codec.empty(1), "encoder")
        self.ids: list[str] = []
        self._row: dict[str, int] = {}
        self._free: list[int] = []
        self._changed: set[int] = set()  # rows that the store has an older copy of
        self._deleted: set[str] = set()
        self._spilled: dict[bytes, None] = {}  # event ids that the store does not have yet
        self._expired_to = 0
        # Windows and retirement are moved by ticks, which touch every row: those layouts are held whole.
        self.whole = any(b.feature.over_ms for b in layout.blocks)

    @classmethod
    def open(
        cls, path: Path, layout: Layout, codec: RowCodec, fresh: PartitionMeta, *, whole: bool, create: bool
    ) -> OwnedPartition:
        """Open, or with `create` make, the store at `path`. `fresh` is what an empty one starts from.

        Raises StoreLocked, StoreCorrupt, StoreMissing (nothing was ever written, and `create` is false), TopicMismatch
        (the topic is another one than the state was folded from) or StoreError (the rows are of another layout).
        """
        store = PartitionStore.open(path, create=create)
        try:
            meta = store.meta()
            if meta is None and not create:
                raise StoreMissing("the store was never written to", where=str(path), do="Let an empty one be made")
            if meta is None:
                # At once: where it began must be known after a crash, or a gap would look like a new start.
                meta = fresh
                store.write(puts=[], deletes=[], spilled=[], expire_before_ms=None, meta=meta)
            _check(meta, fresh, path)
            partition = cls(layout, codec, store, meta)
            partition.whole |= whole
            if partition.whole:
                partition._load_all()
            return partition
        except BaseException:
            store.close()
            raise

    def __len__(self) -> int:
        return len(self.ids)

    def is_known(self, entity: str) -> bool:
        """Whether the entity has a row in memory. True is final; False may still be on disk."""
        return entity in self._row

    def rows_of(self, entities: Sequence[str]) -> Ints:
        """Row numbers int64 [n] of `entities`, read from the store or made new where they are not in memory yet.

        A new row has every segment dirty.
        """
        row = self._row
        missing = [e for e in dict.fromkeys(entities) if e not in row]
        if missing:
            found = [None] * len(missing) if self.whole else self.store.get(missing)
            hashes = hash_ids(missing)
            for entity, value, hashed in zip(missing, found, hashes.tolist(), strict=True):
                self._place(entity, hashed, value)
        return np.fromiter((row[e] for e in entities), dtype=np.int64, count=len(entities))

    def seen(self, times: Ints, entities: Ints, ids: Ints) -> Bools:
        """Whether each deep event (its time, entity hash and id hash) was accepted before, bool [n]."""
        keys = spilled_keys(times, entities, ids)
        return np.array([k in self._spilled or s for k, s in zip(keys, self.store.seen(keys), strict=True)], dtype=bool)

    def spill(self, times: Ints, entities: Ints, ids: Ints) -> None:
        """Remember event ids that left their entity's list."""
        self._spilled.update(dict.fromkeys(spilled_keys(times, entities, ids)))

    def touched(self, rows: Ints) -> None:
        """`rows` differ from the store's copies."""
        self._changed.update(rows.tolist())

    def tick(self, fold: Fold, time: int) -> None:
        """Move the partition's clock to `time` (ms): windows end, and what that changed is dirty."""
        if time <= self.meta.clock:
            return
        before = self.dirty.copy()
        fold.advance(self.rows, self.meta.clock, np.full(len(self.ids), time, dtype=np.int64), self.dirty)
        self.touched(np.flatnonzero(self.dirty != before))
        self.meta = msgspec.structs.replace(self.meta, clock=time)

    def idle(self, before: int) -> list[int]:
        """Rows whose entity has had neither behaviour nor update since `before` (ms)."""
        newest = np.maximum(self.rows[: len(self.ids), NEWEST], self.rows[: len(self.ids), UPDATED])
        return [r for r in np.flatnonzero((newest < before) & (newest > 0)).tolist() if self.ids[r]]

    def delete(self, row: int) -> str:
        """Forget an entity; returns its id. Its row is zeroed and used again."""
        entity = self.ids[row]
        del self._row[entity]
        self.ids[row] = ""
        self.rows[row] = 0
        self.vectors[row : row + 1] = self.codec.empty(1)
        self.dirty[row] = self.hashes[row] = 0
        self._changed.discard(row)
        self._deleted.add(entity)
        self._free.append(row)
        return entity

    def advance(self, offset: int, newest_append: int) -> None:
        """All records below `offset` are applied, the newest of them appended at `newest_append` (ms)."""
        self.meta = msgspec.structs.replace(
            self.meta, offset=offset, newest_append=max(newest_append, self.meta.newest_append)
        )

    def settle(self, offset: int, as_of: int) -> None:
        """Backfill's last word: state is what the log has up to `offset`, at append time `as_of` (ms), in every row."""
        self.meta = msgspec.structs.replace(self.meta, offset=offset, newest_append=as_of)
        rows = np.array([r for r, entity in enumerate(self.ids) if entity], dtype=np.int64)
        for segment in self.codec.segments:
            part = self.vectors["segments"][segment.name]
            part["as_of"][rows] = np.where(part["flags"][rows] & HELD, 0, as_of)
        self.touched(rows)

    def flush(self, keep_ids_ms: int) -> None:
        """Write behind: everything that changed since the last flush and the offset, in one batch.

        Called only between a commit and the next fold, so that the store never leads the group. Event ids older than
        `keep_ids_ms` before the newest append time are forgotten: their duplicates are late by then. A partition with
        dirty pairs (folded silently, not yet emitted) is left alone: the store does not keep that mark, a second silent
        fold does.
        """
        if self.dirty[: len(self.ids)].any():
            return
        puts = [
            (self.ids[r], self.layout.pack(self.rows[r]), self.vectors[r : r + 1].tobytes())
            for r in sorted(self._changed)
        ]
        horizon = self.meta.newest_append - keep_ids_ms
        # A range delete leaves a tombstone that reads pay for: one for each hour of log time is enough.
        expire = horizon if horizon - self._expired_to >= HOUR_MS else None
        self.store.write(
            puts=puts,
            deletes=sorted(self._deleted),
            spilled=list(self._spilled),
            expire_before_ms=expire,
            meta=self.meta,
        )
        self._expired_to = horizon if expire is not None else self._expired_to
        self._changed.clear()
        self._deleted.clear()
        self._spilled.clear()

    def close(self) -> None:
        """Let go of the store without writing: what was not flushed is in the log."""
        self.store.close()

    def _load_all(self) -> None:
        entities, values = [], []
        for entity, state, vectors in self.store.scan():
            entities.append(entity)
            values.append((state, vectors))
        for entity, hashed, value in zip(entities, hash_ids(entities).tolist(), values, strict=True):
            self._place(entity, hashed, value)

    def _place(self, entity: str, hashed: int, value: tuple[bytes, bytes] | None) -> None:
        if self._free:
            row = self._free.pop()
            self.ids[row] = entity
        else:
            row = len(self.ids)
            if row == len(self.rows):
                self._grow()
            self.ids.append(entity)
        self._row[entity], self.hashes[row] = row, hashed
        if value is None:
            self.dirty[row] = self.layout.segment_bits
            self._deleted.discard(entity)
        else:
            self.rows[row] = self.layout.unpack(value[0])
            stored = np.frombuffer(value[1], dtype=self.codec.dtype)
            if len(stored) == 1 and (self.codec.column(stored, "encoder") == self._encoders).all():
                self.vectors[row] = stored[0]
            else:  # emitted by other encoders over the same state
                self.dirty[row] = self.layout.segment_bits

    def _grow(self) -> None:
        size = len(self.rows)
        self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.vectors = np.concatenate([self.vectors, self.codec.empty(size)])
        self.dirty = np.concatenate([self.dirty, np.zeros(size, dtype=np.int64)])
        self.hashes = np.concatenate([self.hashes, np.zeros(size, dtype=np.int64)])


def _check(meta: PartitionMeta, fresh: PartitionMeta, path: Path) -> None:
    mend = "Build another generation (forebay backfill --generation NEW): the state of this one belongs to the old log"
    if (meta.topic, meta.partition) != (fresh.topic, fresh.partition):
        raise StoreError(f"holds {meta.topic}[{meta.partition}], not {fresh.topic}[{fresh.partition}]", where=str(path))
    if meta.topic_id != fresh.topic_id:
        raise TopicMismatch(f"topic {meta.topic} was deleted and created again since", where=str(path), do=mend)
    if meta.partitions != fresh.partitions:
        raise TopicMismatch(
            f"topic {meta.topic} has {fresh.partitions} partitions, and had {meta.partitions} when the state was "
            f"folded",
            where=str(path),
            do=mend,
        )
    if meta.layout != fresh.layout:
        raise StoreError(
            "its rows are of another spec",
            where=str(path),
            do="Give each generation a --state folder of its own, or build another one: forebay backfill --generation "
            "NEW",
        )
