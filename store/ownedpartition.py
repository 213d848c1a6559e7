"""One owned partition in memory: rows of state, the vectors last emitted, and what its store has not been told
yet.

The table is a cache of the partition's store, and the store is a cache of the log. Rows come in from the store when an
event first touches them, and go out in the write-behind of `flush`. They stay in memory until `shrink` lets those leave
that were not touched for longest. Whatever goes wrong, the table is dropped and read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Ints
from forebay.errors import StoreError, StoreMissing, TopicMismatch
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.state.columns import Columns
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import NEWEST, UPDATED
from forebay.segments.state.serving import Served
from forebay.segments.state.stretch import Stretch
from forebay.store.census import Census
from forebay.store.codec import DEFAULT, HELD, RowCodec, Rows
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow
from forebay.store.pending import NONE, Pending
from forebay.store.rowindex import RowIndex
from forebay.telemetry import emit

T = TypeVar("T")
A = TypeVar("A", bound=npt.NDArray[Any])
CHUNK = 4096  # rows of a scan that are in memory at once
SINCE_MS = 16  # of a clock in 32 bits: it lasts for two years


class OwnedPartition:
    """State of one partition, in step with `meta.offset` once `advance` has returned. One thread at a time."""

    def __init__(
        self,
        fold: Fold,
        codec: RowCodec,
        blank: Rows,
        store: PartitionStore,
        meta: PartitionMeta,
        *,
        retire_after_ms: int = 0,
    ) -> None:
        self.codec, self.store, self.meta = codec, store, meta
        self._blank = blank
        self.layout, self._fold, self._retire_after_ms = fold.layout, fold, retire_after_ms
        feature = codec.served.feature
        self.index = RowIndex()
        count = self.index.capacity
        self.rows: Ints = np.zeros((count, self.layout.width), np.int64)
        self.vectors: Rows = codec.empty(count)
        self.pending: Ints = np.zeros(count, np.int64)  # bit s: segment s waits to be encoded
        self._changed: Bools = np.zeros(count, np.bool_)  # the store has an older copy
        self._marked: Bools = np.zeros(count, np.bool_)  # the store says that the row waits
        self._touched: Ints = np.zeros(count, np.int64)  # the number of flushes when an event came last
        # Of each pair, when it began to wait, in steps of SINCE_MS after the first time that somebody asked, from 1 on;
        # 0: it does not, or nobody has asked yet.
        self._first_ms: int | None = None
        self._since: npt.NDArray[np.uint32] = np.zeros((count, len(codec.segments)), np.uint32)
        # Bit s: segment s waits since before this owner told anything, so that what the log has of it may be newer.
        self._older: Ints = np.zeros(count, np.int64)
        self._flushes = 0
        self._encoders = codec.column(codec.empty(1), "encoder")
        self._served = None if feature is None else Served.of(self.layout, feature)
        self._deleted: set[bytes] = set()
        self._no_marks: list[tuple[int, bytes]] = []  # of idle entities in the store, to be taken away
        self._stored = meta.offset
        # Windows and retirement are moved by ticks, which touch every row: those layouts are read whole. An entity
        # whose windows are empty may leave all the same, with a mark in the store of when it retires.
        self.whole = retire_after_ms > 0 or any(b.feature.over_ms for b in self.layout.blocks)
        self._all_here = False

    @classmethod
    def open(
        cls,
        path: Path,
        fold: Fold,
        codec: RowCodec,
        blank: Rows,
        fresh: PartitionMeta,
        *,
        create: bool,
        retire_after_ms: int = 0,
        most_rows: int = 1 << 62,
    ) -> OwnedPartition:
        """Open, or with `create` make, the store at `path`. `fresh` is what an empty one starts from, and `blank` what
        the vectors of a new entity do (RowCodec.blank). Entities that are idle for `retire_after_ms` of log time go
        with a tick; 0: never. Past `most_rows` rows that are read here leave again.

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
                store.write(meta=meta)
            _check(meta, fresh, path)
            partition = cls(fold, codec, blank, store, meta, retire_after_ms=retire_after_ms)
            if partition.whole:
                partition._load_all(most_rows)
            partition._load_pending()
            return partition
        except BaseException:
            store.close()
            raise

    def __len__(self) -> int:
        """How many entities are in memory."""
        return len(self.index)

    def rows_of(self, ids: Ids) -> Ints:
        """Row numbers int64 [n], read from the store or made new where they are not in memory yet.

        In a new row every segment is pending.
        """
        rows = self.index.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            rows[missing], fresh = self.index.claim(ids.take(missing))
            self._fit()
            new = rows[missing[fresh]]
            self.pending[new], self.vectors[new] = self.layout.segment_bits, self._blank
            names = self.index.names(new)
            if not self._all_here:  # else all that the store has is here
                self._load(new, self._stored_of(names))
            if self._deleted:  # one that came back: the store may still say of the old one that it waits
                self._marked[new] = [name in self._deleted for name in names]
                self._deleted.difference_update(names)
        self._touched[rows] = self._flushes
        return rows

    # -- the fold

    def fold(self, stretch: Stretch) -> Sequence[bytes]:
        """Step 2: move the state past a stretch, each of whose events comes once; returns the ids (UTF-8) that its tick
        ended, whose rows are gone. If it raises, state is unknown: close the partition and open it again."""
        if len(stretch.behaviours):
            self._fold_behaviours(stretch.behaviours)
        if len(stretch.updates):
            at = self.rows_of(stretch.updates.entities)
            self._fold.updates(self.rows, at, stretch.updates, self.pending)
            self._changed[at] = True
        return self._tick(stretch.tick) if stretch.tick else ()

    def advance(self, offset: int, as_of: int) -> None:
        """All records below `offset` are applied, and with them all that the sources took before `as_of` (ms; 0 claims
        nothing new)."""
        self.meta = msgspec.structs.replace(self.meta, offset=offset, as_of=max(as_of, self.meta.as_of))

    def _fold_behaviours(self, columns: Columns) -> None:
        at = self.rows_of(columns.entities)
        order = Fold.order(at, columns)
        at, columns = at[order], columns.take(order)
        self._fold.behaviours(self.rows, at, columns, self.meta.clock, self.pending)
        self._changed[at] = True

    def _tick(self, time: int) -> Sequence[bytes]:
        """Move the partition's clock to `time` (ms): windows end, what that changed is pending, idle entities go."""
        if time > self.meta.clock:
            # By themselves: a pair that waits already says nothing of what the store knows.
            moved = np.zeros_like(self.pending)
            in_use = self.index.rows()
            clocks = np.full(in_use[-1] + 1 if len(in_use) else 0, time, np.int64)
            self._fold.advance(self.rows, self.meta.clock, clocks, moved)
            self.pending |= moved
            self._changed |= moved != 0
            self.meta = msgspec.structs.replace(self.meta, clock=time)
        if not self._retire_after_ms:
            return ()
        rows = self.index.rows()
        newest = self.last_event(rows)
        here = self._release(rows[(newest < time - self._retire_after_ms) & (newest > 0)])
        self._deleted.update(here)
        elsewhere = self._retired_elsewhere(time - self._retire_after_ms)
        self._deleted.update(elsewhere)
        return [*here, *elsewhere]

    def _retired_elsewhere(self, before_ms: int) -> list[bytes]:
        """The ids of entities that are not in memory and had their last event before `before_ms`."""
        gone = []
        for marks in _chunks(self.store.idle(before_ms)):
            names = [name for _, name in marks]
            away = self.index.find(Ids.of_bytes(names)) < 0
            for (newest, name), is_away, stored in zip(marks, away, self._stored_of(names), strict=True):
                self._no_marks.append((newest, name))
                if is_away and stored is not None and self._newest(stored) == newest:
                    gone.append(name)
        return gone

    def _newest(self, stored: StoredRow) -> int:
        row = self.layout.unpack(stored.state)
        return int(max(row[NEWEST], row[UPDATED]))

    def _release(self, rows: Ints) -> list[bytes]:
        """Take rows out of memory; returns their ids. They are zeroed and used again."""
        names = self.index.names(rows)
        self.index.release(rows)
        self.rows[rows] = self.pending[rows] = 0
        self.vectors[rows] = self._blank
        self._since[rows] = self._older[rows] = 0
        self._changed[rows] = self._marked[rows] = False
        return names

    # -- vectors

    def waiting(self) -> Pending:
        """The pairs that wait to be encoded."""
        rows = np.flatnonzero(self.pending)
        return Pending(rows, self.pending[rows])

    def waits_since(self, pending: Pending, now_ms: int) -> Ints:
        """Since when each pair of `pending` waits, int64 [n, segments] (ms, at most SINCE_MS too early): those of which
        it is not known begin at `now_ms`, and what is no pair has that."""
        since = self._since[pending.rows]
        waits = (pending.masks[:, None] >> np.arange(since.shape[1]) & 1) == 1
        if self._first_ms is None:
            self._first_ms = now_ms
        since[waits & (since == 0)] = (now_ms - self._first_ms) // SINCE_MS + 1
        self._since[pending.rows] = since
        return np.where(waits, self._first_ms + (since.astype(np.int64) - 1) * SINCE_MS, now_ms)

    def last_event(self, rows: Ints) -> Ints:
        """When the newest event of each of `rows` happened (ms), int64 [n]; 0 where none did."""
        newest: Ints = np.maximum(self.rows[rows, NEWEST], self.rows[rows, UPDATED])
        return newest

    def put(
        self, pending: Pending, vectors: Mapping[int, SegmentVectors], left: Pending = NONE, left_as_of: int = 0
    ) -> list[tuple[bytes, bytes]]:
        """Take what `pending` was encoded to, and return the records (id, value) of its rows and of those of `left`,
        for the log.

        `vectors` has an entry for each segment that waited, of `pending.of(segment)`. Pairs of `left` go on waiting and
        are held: those that were not before, as of `left_as_of` (ms), when they were up to date last. Every other pair
        of those rows is up to date as of `meta.as_of` then, whether an event touched it or not; one that is held stays
        where it was. The serving columns are those of the state as it is, whatever waits.
        """
        rows, as_of = np.union1d(pending.rows, left.rows), self.meta.as_of
        for place, segment in enumerate(self.codec.segments):
            part = self.vectors["segments"][segment.name]
            if place in vectors:
                self._put_segment(part, segment.name, pending.of(place), vectors[place])
            self._since[pending.of(place), place] = 0
            current = rows[part["flags"][rows] & HELD == 0]
            part["as_of"][current] = as_of
            waits = left.of(place)
            waits = waits[part["flags"][waits] & HELD == 0]
            part["as_of"][waits] = left_as_of
            part["flags"][waits] |= HELD
        if self._served is not None:
            self.vectors["served"]["columns"][rows] = self._served.read(self.rows[rows])
        self.pending[pending.rows] &= ~pending.masks
        self._older[pending.rows] &= ~pending.masks
        self._older[left.rows] &= ~left.masks
        self._changed[rows] = True
        return self.records(rows)

    def silent(self) -> None:
        """What waits now was folded silently: the log has been told of it, as of when is not known here."""
        self._older |= self.pending

    def older(self, rows: Ints) -> Bools:
        """Which of `rows` have a pair that waits since before this owner told anything, bool [n]."""
        found: Bools = self._older[rows] != 0
        return found

    def unheld(self, pending: Pending) -> Pending:
        """Those of `pending` of which the log may not say yet that they wait."""
        masks = self._older[pending.rows]
        for place, segment in enumerate(self.codec.segments):
            free = self.vectors["segments"][segment.name]["flags"][pending.rows] & HELD == 0
            masks |= free.astype(np.int64) << place
        return pending.only(masks)

    def _put_segment(self, part: Rows, name: str, at: Ints, found: SegmentVectors) -> None:
        good, kept = at[found.finite], at[~found.finite]
        part["vector"][good] = found.vectors[found.finite]
        part["scale"][good] = found.scale[found.finite]
        part["last_event"][good] = newest = found.newest[found.finite]
        part["flags"][good] = np.where(found.stateful & (newest == 0), DEFAULT, 0)
        if len(kept):
            # No finite vector: the last good one stays, its as_of with it; the default one where there is none.
            emit("held", side=self.codec.side, segment=name, rows=len(kept))
            part["flags"][kept] |= HELD

    def records(self, rows: Ints) -> list[tuple[bytes, bytes]]:
        """The records (id, value) of rows, as they travel on the vectors topic."""
        names = self.index.names(rows)
        return list(zip(names, self.codec.pack_named(self.vectors[rows], names), strict=True))

    def settle(self, offset: int, as_of: int) -> None:
        """Backfill's last word: state is what the log has up to `offset`, as of `as_of` (ms), in every row."""
        self.meta = msgspec.structs.replace(self.meta, offset=offset, as_of=as_of)
        rows = self.index.rows()
        for segment in self.codec.segments:
            part = self.vectors["segments"][segment.name]
            part["as_of"][rows] = np.where(part["flags"][rows] & HELD, 0, as_of)
        self._changed[rows] = True

    # -- rows that were made elsewhere

    def adopt(self, ids: Ids, states: Ints, vectors: Rows, masks: Ints) -> Pending:
        """Take in entities that are not here yet: `states` int64 [n, width], `vectors` [n], and `masks` int64 [n] of
        the segments that wait. Returns all of them, the ones that wait for nothing too: `put` makes every pair as of
        `meta.as_of`."""
        at = self.rows_of(ids)
        self.rows[at], self.vectors[at], self.pending[at] = states, vectors, masks
        self._changed[at] = True
        rows = np.sort(at)
        return Pending(rows, self.pending[rows])

    def let_go(self) -> None:
        """Forget all rows, right after a flush: who builds a store part by part holds one part in memory. Whoever opens
        the store reads what it must hold."""
        self._release(self.index.rows())
        self._all_here = False

    # -- the store

    def flush(self) -> None:
        """Write behind: everything that changed since the last flush and the offset, in one batch.

        Called only between a commit and the next fold, so that the store never leads the group. What waits to be
        encoded is written as such, and the store's next owner encodes it.
        """
        rows = np.flatnonzero(self._changed)
        waits, names = self.pending[rows], self.index.names(rows)
        self.store.write(
            puts=list(zip(names, self._rows_stored(rows), strict=True)),
            deletes=sorted(self._deleted),
            pending=[(name, mask) for name, mask in zip(names, waits.tolist(), strict=True) if mask],
            settled=self.index.names(rows[self._marked[rows] & (waits == 0)]),
            busy=self._no_marks,
            meta=self.meta,
        )
        self._stored = self.meta.offset
        self._marked[rows] = waits != 0
        self._changed[:] = False
        self._deleted.clear()
        self._no_marks = []
        self._flushes += 1

    def shrink(self, most_rows: int) -> int:
        """Let the rows leave memory that were not touched for longest, down to `most_rows` or as far as that goes;
        returns how many left. They come back from the store with the same bytes.

        Called right after a flush: the store has all of them then. What waits to be encoded stays, and so does what the
        next tick may change. A crash leaves marks of entities that are read again, which change nothing.
        """
        if len(self) <= most_rows:
            return 0
        rows = self.index.rows()
        may_go = self.pending[rows] == 0
        if self.whole:
            may_go &= self._fold.still(self.rows, rows)
        rows = rows[may_go]
        count = min(len(rows), len(self) - most_rows + most_rows // 8)  # more than must: not after every flush
        if count < len(rows):
            rows = rows[np.argpartition(self._touched[rows], count)[:count]]
        if len(rows) == 0:
            return 0
        newest = self.last_event(rows)
        names = self._release(rows)
        if self._retire_after_ms:
            marks = [(ms, name) for ms, name in zip(newest.tolist(), names, strict=True) if ms > 0]
            self.store.write(meta=self.meta, idle=marks)
        self._all_here = False
        return len(names)

    def move(self, path: Path) -> None:
        """Give the store the folder `path`, which must not exist. Raises StoreError and OSError: close this one then. A
        crash leaves a whole store at one of the two."""
        at = self.store.path
        self.store.close()
        os.rename(at, path)
        self.store = PartitionStore.open(path, create=False)

    def snapshot(self, folder: Path) -> PartitionMeta:
        """Make `folder`, which must not exist, a copy of the store, and return what that is of: memory may be ahead of
        it."""
        self.store.snapshot(folder)
        return self.store.meta() or self.meta  # opening wrote one

    def close(self) -> None:
        """Let go of the store without writing: what was not flushed is in the log."""
        self.store.close()

    def census(self) -> Census:
        """What is in memory and what waits. It looks at all rows for what waits, as each batch does."""
        waits = self.waiting()
        segments = (segment.name for segment in self.codec.segments)
        return Census(
            stored=self._stored,
            held={"entities": len(self)},
            pending={name: len(waits.of(place)) for place, name in enumerate(segments)},
            memory={
                "state": self.rows.nbytes,
                "vectors": self.vectors.nbytes,
                "index": self.index.nbytes + sum(a.nbytes for a in self._small()),
            },
        )

    def _rows_stored(self, rows: Ints) -> list[StoredRow]:
        states, vectors = self.rows[rows].tobytes(), self.vectors[rows].tobytes()
        width, size = self.layout.width * 8, self.codec.dtype.itemsize
        return [
            StoredRow(states[n * width : (n + 1) * width].rstrip(b"\0"), vectors[n * size : (n + 1) * size])
            for n in range(len(rows))
        ]

    def _load(self, rows: Ints, found: Sequence[StoredRow | None]) -> None:
        """Put what the store has into `rows`; where it has nothing they stay as they are."""
        here = [n for n, stored in enumerate(found) if stored is not None]
        if not here:
            return
        kept = [stored for stored in found if stored is not None]
        at, size = rows[here], 8 * self.layout.width
        states = b"".join(stored.state.ljust(size, b"\0") for stored in kept)
        self.rows[at] = np.frombuffer(states, np.int64).reshape(len(kept), self.layout.width)
        # Others are those of other encoders over the same state, and all of the row waits.
        fits = np.array([len(stored.vectors) == self.codec.dtype.itemsize for stored in kept])
        vectors = np.frombuffer(b"".join(s.vectors for s, fit in zip(kept, fits, strict=True) if fit), self.codec.dtype)
        same = (self.codec.column(vectors, "encoder") == self._encoders).all(axis=1)
        current = at[fits][same]
        self.vectors[current], self.pending[current] = vectors[same], 0

    def _stored_of(self, names: Sequence[bytes]) -> list[StoredRow | None]:
        """What the store has of entities, without those that were forgotten since it was written to."""
        found = self.store.get(names)
        if not self._deleted:
            return found
        return [None if name in self._deleted else row for name, row in zip(names, found, strict=True)]

    def _load_all(self, most_rows: int) -> None:
        self._all_here = True
        self.index.reserve(min(self.store.about(), most_rows))  # else half of the time goes into growing
        self._fit()
        for found in self.store.scan_by(CHUNK):
            rows, _ = self.index.claim(Ids.of_bytes([name for name, _ in found]))
            self._fit()
            self.pending[rows], self.vectors[rows] = self.layout.segment_bits, self._blank
            self._load(rows, [row for _, row in found])
            self.shrink(most_rows)

    def _load_pending(self) -> None:
        """What the last owner left to be encoded: no event need touch it any more."""
        waits = self.store.pending()
        rows = self.rows_of(Ids.of_bytes([name for name, _ in waits]))
        self.pending[rows] |= np.fromiter((mask for _, mask in waits), np.int64, len(waits))
        self._marked[rows] = True
        self.silent()

    def _fit(self) -> None:
        if (more := self.index.capacity - len(self.pending)) <= 0:
            return
        self.rows, self.pending = _grown(self.rows, more), _grown(self.pending, more)
        self.vectors = np.concatenate([self.vectors, self.codec.empty(more)])
        self._changed, self._marked = _grown(self._changed, more), _grown(self._marked, more)
        self._touched, self._since = _grown(self._touched, more), _grown(self._since, more)
        self._older = _grown(self._older, more)

    def _small(self) -> Sequence[npt.NDArray[Any]]:
        return self.pending, self._changed, self._marked, self._touched, self._since, self._older


def _grown(array: A, more: int) -> A:
    """With so many zeros behind it. They are not touched, so that the system gives no memory for them yet: a row of
    state has kilobytes."""
    grown = np.zeros((len(array) + more, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return cast("A", grown)


def _chunks(found: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(found)
    while part := list(islice(rest, CHUNK)):
        yield part


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
