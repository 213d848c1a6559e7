"""One owned partition in memory: rows of state, the vectors last emitted, and what its store has not been told
yet.

The table is a cache of the partition's store, and the store is a cache of the log. Rows come in from the store when an
event first touches them, and go out in the write-behind of `flush`. They stay in memory until `shrink` lets those leave
that were not touched for longest. Whatever goes wrong, the table is dropped and read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from forebay.arrays import Bools, Ints
from forebay.errors import StoreMissing
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.state.columns import Columns
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import NEWEST, UPDATED
from forebay.segments.state.serving import Served
from forebay.segments.state.stretch import Stretch
from forebay.store.census import Census
from forebay.store.codec import RowCodec, Rows
from forebay.store.encodedrows import put_encoded, settle_all, unheld
from forebay.store.partitionstore import PartitionMeta, PartitionStore
from forebay.store.pending import NONE, Pending
from forebay.store.residentrows import ResidentRows
from forebay.store.rowindex import RowIndex
from forebay.store.samelog import check_same_log
from forebay.store.writebehind import WriteBehind


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
        self.codec, self.meta = codec, meta
        self.layout, self._fold, self._retire_after_ms = fold.layout, fold, retire_after_ms
        feature = codec.served.feature
        self._here = ResidentRows(fold.layout, codec, blank)
        self._flushes = 0
        self._served = None if feature is None else Served.of(self.layout, feature)
        self._behind = WriteBehind(store, self._here, fold.layout, codec, meta.offset)
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
            check_same_log(meta, fresh, path)
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
        return len(self._here)

    @property
    def store(self) -> PartitionStore:
        """Of this partition, open. It may lag what is here."""
        return self._behind.store

    @property
    def index(self) -> RowIndex:
        """Which row an entity has."""
        return self._here.index

    @property
    def rows(self) -> Ints:
        """State by row, int64 [capacity, width]; another array once rows were added."""
        return self._here.states

    @property
    def vectors(self) -> Rows:
        """What was emitted last, by row [capacity]; another array once rows were added."""
        return self._here.vectors

    @property
    def pending(self) -> Ints:
        """By row, int64 [capacity]; bit s: segment s waits to be encoded. Another array once rows were added."""
        return self._here.waits.masks

    def rows_of(self, ids: Ids) -> Ints:
        """Row numbers int64 [n], read from the store or made new where they are not in memory yet.

        In a new row every segment is pending.
        """
        here = self._here
        rows = here.index.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            rows[missing], fresh = here.claim(ids.take(missing))
            new = rows[missing[fresh]]
            names = here.index.names(new)
            if not self._all_here:  # else all that the store has is here
                self._behind.read(new, names)
            self._behind.came_back(new, names)
        here.touched[rows] = self._flushes
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
            self._here.changed[at] = True
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
        self._here.changed[at] = True

    def _tick(self, time: int) -> Sequence[bytes]:
        """Move the partition's clock to `time` (ms): windows end, what that changed is pending, idle entities go."""
        if time > self.meta.clock:
            # By themselves: a pair that waits already says nothing of what the store knows.
            moved = np.zeros_like(self.pending)
            in_use = self.index.rows()
            clocks = np.full(in_use[-1] + 1 if len(in_use) else 0, time, np.int64)
            self._fold.advance(self.rows, self.meta.clock, clocks, moved)
            np.bitwise_or(self.pending, moved, out=self.pending)
            np.logical_or(self._here.changed, moved, out=self._here.changed)
            self.meta = msgspec.structs.replace(self.meta, clock=time)
        if not self._retire_after_ms:
            return ()
        rows = self.index.rows()
        newest = self.last_event(rows)
        here = self._here.release(rows[(newest < time - self._retire_after_ms) & (newest > 0)])
        self._behind.delete(here)
        return [*here, *self._behind.retired(time - self._retire_after_ms)]

    # -- vectors

    def waiting(self) -> Pending:
        """The pairs that wait to be encoded."""
        return self._here.waits.all()

    def waits_since(self, pending: Pending, now_ms: int) -> Ints:
        """Since when each pair of `pending` waits, int64 [n, segments] (ms): as WaitingPairs.since."""
        return self._here.waits.since(pending, now_ms)

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
        rows = put_encoded(self.codec, self.vectors, pending, vectors, self.meta.as_of, left, left_as_of)
        if self._served is not None:
            self.vectors["served"]["columns"][rows] = self._served.read(self.rows[rows])
        self._here.waits.encoded(pending, left)
        self._here.changed[rows] = True
        return self.records(rows)

    def silent(self) -> None:
        """What waits now was folded silently: the log has been told of it, as of when is not known here."""
        self._here.waits.silent()

    def older(self, rows: Ints) -> Bools:
        """Which of `rows` have a pair that waits since before this owner told anything, bool [n]."""
        found: Bools = self._here.waits.older(rows) != 0
        return found

    def unheld(self, pending: Pending) -> Pending:
        """Those of `pending` of which the log may not say yet that they wait."""
        return pending.only(self._here.waits.older(pending.rows) | unheld(self.codec, self.vectors, pending.rows))

    def records(self, rows: Ints) -> list[tuple[bytes, bytes]]:
        """The records (id, value) of rows, as they travel on the vectors topic."""
        names = self.index.names(rows)
        return list(zip(names, self.codec.pack_named(self.vectors[rows], names), strict=True))

    def settle(self, offset: int, as_of: int) -> None:
        """Backfill's last word: state is what the log has up to `offset`, as of `as_of` (ms), in every row."""
        self.meta = msgspec.structs.replace(self.meta, offset=offset, as_of=as_of)
        rows = self.index.rows()
        settle_all(self.codec, self.vectors, rows, as_of)
        self._here.changed[rows] = True

    # -- rows that were made elsewhere

    def adopt(self, ids: Ids, states: Ints, vectors: Rows, masks: Ints) -> Pending:
        """Take in entities that are not here yet: `states` int64 [n, width], `vectors` [n], and `masks` int64 [n] of
        the segments that wait. Returns all of them, the ones that wait for nothing too: `put` makes every pair as of
        `meta.as_of`."""
        at = self.rows_of(ids)
        self.rows[at], self.vectors[at], self.pending[at] = states, vectors, masks
        self._here.changed[at] = True
        rows = np.sort(at)
        return Pending(rows, self.pending[rows])

    def let_go(self) -> None:
        """Forget all rows, right after a flush: who builds a store part by part holds one part in memory. Whoever opens
        the store reads what it must hold."""
        self._here.release(self.index.rows())
        self._all_here = False

    # -- the store

    def flush(self) -> None:
        """Write behind: everything that changed since the last flush and the offset, in one batch.

        Called only between a commit and the next fold, so that the store never leads the group. What waits to be
        encoded is written as such, and the store's next owner encodes it.
        """
        self._behind.flush(self.meta)
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
            rows = rows[np.argpartition(self._here.touched[rows], count)[:count]]
        if len(rows) == 0:
            return 0
        newest = self.last_event(rows)
        names = self._here.release(rows)
        if self._retire_after_ms:
            self._behind.mark_idle(names, newest, self.meta)
        self._all_here = False
        return len(names)

    def move(self, path: Path) -> None:
        """Give the store the folder `path`, which must not exist. Raises StoreError and OSError: close this one then. A
        crash leaves a whole store at one of the two."""
        self._behind.move(path)

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
            stored=self._behind.stored,
            held={"entities": len(self)},
            pending={name: len(waits.of(place)) for place, name in enumerate(segments)},
            memory={
                "state": self.rows.nbytes,
                "vectors": self.vectors.nbytes,
                "index": self._here.index_nbytes,
            },
        )

    def _load_all(self, most_rows: int) -> None:
        self._all_here = True
        self._here.reserve(min(self.store.about(), most_rows))
        for _ in self._behind.read_all():
            self.shrink(most_rows)

    def _load_pending(self) -> None:
        """What the last owner left to be encoded: no event need touch it any more."""
        waits = self.store.pending()
        rows = self.rows_of(Ids.of_bytes([name for name, _ in waits]))
        self.pending[rows] |= np.fromiter((mask for _, mask in waits), np.int64, len(waits))
        self._here.marked[rows] = True
        self.silent()
