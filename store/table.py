"""The dense rows of one side that requests read: one row per entity, found by hash, updated in place.

The arrays are private memory today. Everything outside goes through the methods here, so that they can become the
shared, memory-mapped arena with a sequence number per row without a change to the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forebay.arrays import Array, Ints
from forebay.errors import HashCollision
from forebay.segments.state.ids import hash_ids
from forebay.store import kernels, timekernels
from forebay.store.codec import RowCodec, Rows


class SegmentTable:
    """One row per entity: codes, scales, times and flags of all segments of a side.

    One writer (the replica), many readers. `lock` is held by every method that writes, and by a reader from its `find`
    to the end of its gather: a row is some hundred bytes in several arrays, and without the lock a reader could see
    half of an update, a row that was given to another entity meanwhile, or arrays that were replaced by larger ones. A
    gather of 1,000 rows holds it for well under 0.1 ms. Methods whose names end in `_locked` want it held.
    """

    def __init__(self, codec: RowCodec, capacity: int = 1024, *, partitions: int) -> None:
        self.codec = codec
        self.lock = threading.Lock()
        self.ids: list[str] = [""]  # by row; "" for a row that is free, and one "" more at the end
        self.watermarks = np.zeros(partitions, np.int64)  # ms, by partition
        self._allocate(max(16, capacity))
        self._cells = np.full(_cells_for(len(self.hashes)), kernels.FREE, np.int32)
        self._free = np.arange(len(self.hashes) - 1, -1, -1, dtype=np.int64)  # taken from the end: row 0 first
        self._used_cells = 0  # live and dead
        self._writes = 0
        self.served_writes = 0  # another number whenever a row has other serving columns, or there is another row

    def __len__(self) -> int:
        """Entities in the table."""
        return len(self.hashes) - len(self._free)

    @property
    def capacity(self) -> int:
        """Rows allocated; every row number is below it."""
        return len(self.hashes)

    def upsert(self, ids: Sequence[str], rows: Rows, partitions: npt.NDArray[np.int32] | Sequence[int]) -> Ints:
        """Write `rows` of `ids` and their partitions; returns their row numbers, int64 [n].

        An id that comes twice ends with its last row. Raises HashCollision after all the other rows have been written:
        the ids that it names were refused, and those that had the hash first go on being served. Call `colliding` first
        to leave them out.
        """
        sources = np.asarray(partitions, np.int32)
        if len(sources) and (sources.min() < 0 or sources.max() >= len(self.watermarks)):
            raise ValueError(f"a partition outside 0 to {len(self.watermarks) - 1}")
        wanted = hash_ids(ids)
        with self.lock:
            refused = self._colliding_locked(ids, wanted)
            if refused:
                keep = [i for i, entity in enumerate(ids) if entity not in refused]
                self._upsert_locked([ids[i] for i in keep], wanted[keep], rows[keep], sources[keep])
            else:
                places = self._upsert_locked(ids, wanted, rows, sources)
        if refused:
            raise HashCollision(
                f"{len(refused)} ids share a 64-bit hash with another: {', '.join(sorted(refused)[:5])}",
                where=f"{self.codec.side} table",
                do="Rename these ids; the ones that came first go on being served",
            )
        return places

    def fill(self, ids: Sequence[str], rows: Rows, partitions: Ints) -> tuple[Ints, Ints]:
        """Write those of `rows` whose hash is not in the table yet, in a third of the time of `upsert`. Returns the row
        numbers of these, and the places in `ids` of the others, both int64: `upsert` is for those."""
        wanted = hash_ids(ids)
        with self.lock:
            self._make_room(len(ids))
            places, fresh = np.empty(len(ids), np.int64), np.empty(len(ids), np.bool_)
            taken = kernels.claim_rows(self._cells, self.hashes, wanted, self._free, places, fresh)
            self._free = self._free[: len(self._free) - taken]
            self._used_cells += taken
            left = np.flatnonzero(~fresh)
            if len(left):
                kept = np.flatnonzero(fresh)
                ids, rows, partitions, places = (
                    [ids[i] for i in kept.tolist()],
                    rows[kept],
                    partitions[kept],
                    places[kept],
                )
            if taken and int(places[-1]) - int(places[0]) == taken - 1 and (np.diff(places) == 1).all():
                self.ids[int(places[0]) : int(places[-1]) + 1] = ids
            else:
                for place, entity in zip(places.tolist(), ids, strict=True):
                    self.ids[place] = entity
            self.vectors[places], self.flags[places] = self.codec.vectors(rows), self.codec.column(rows, "flags")
            self.scales[places], self.as_of[places] = self.codec.column(rows, "scale"), self.codec.column(rows, "as_of")
            self.last_event[places], self.partitions[places] = self.codec.column(rows, "last_event"), partitions
            self.served[places] = self.codec.columns(rows)
            self.served_writes += len(places) > 0
            self._stamp(places)
        return places, left

    def named(self, hashes: Ints) -> list[str]:
        """The ids of the rows that have `hashes` int64; nothing for those that none has."""
        with self.lock:
            rows = self.probe_locked(hashes)
            return [self.ids[row] for row in rows[rows >= 0].tolist()]

    def colliding(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that `upsert` would refuse: another id in the table, or earlier in `ids`, has their hash."""
        wanted = hash_ids(ids)
        with self.lock:
            return self._colliding_locked(ids, wanted)

    def delete(self, ids: Sequence[str]) -> Ints:
        """Remove `ids` and overwrite their rows with zeros; returns the rows that are free now, -1 for unknown ids.

        A freed row may be given to another id by the next upsert: remove it from an index before that.
        """
        with self.lock:
            rows = self._find_locked(ids, hash_ids(ids))
            gone = np.unique(rows[rows >= 0])
            kernels.release_rows(self._cells, self.hashes, gone)
            for array in self._arrays():
                array[gone] = 0
            self.served_writes += len(gone) > 0
            self._stamp(gone)
            for row in gone.tolist():
                self.ids[row] = ""
            self._free = np.concatenate([self._free, gone[::-1]])
        return rows

    def find(self, ids: Sequence[str]) -> Ints:
        """Row numbers of `ids`, -1 where there is none. Valid only until the next write: see `find_locked`."""
        wanted = hash_ids(ids)
        with self.lock:
            return self._find_locked(ids, wanted)

    def find_locked(self, ids: Sequence[str], hashes: Ints) -> Ints:
        """As `find`, with `hash_ids(ids)` taken before; the caller holds `lock` until it has gathered."""
        return self._find_locked(ids, hashes)

    def probe_locked(self, hashes: Ints) -> Ints:
        """Row numbers by hash alone, -1 where there is none: an unknown id whose hash is another's gets that one's row.

        The caller compares `ids` for what it lets out. For a thousand rows in many that saves half of the time of a
        `find`: comparing reads a thousand strings from all over memory.
        """
        rows = np.empty(len(hashes), np.int64)
        kernels.find_rows(self._cells, self.hashes, hashes, rows)
        return rows

    def advance(self, partition: int, as_of_ms: int) -> None:
        """A heartbeat: everything appended to `partition` up to `as_of_ms` has been applied. Never goes back."""
        with self.lock:
            self.watermarks[partition] = max(int(self.watermarks[partition]), as_of_ms)

    def as_of_locked(self, rows: Ints) -> Ints:
        """int64 [n, segments] ms: `as_of` carried on by the partition's watermark unless HELD; 0 for row -1."""
        return timekernels.carried_as_of(self.as_of, self.flags, self.partitions, self.watermarks, rows)

    def weakest_locked(self, rows: Ints) -> Ints:
        """int64 [3, segments]: oldest `as_of`, oldest `last_event` (0: none), and how many of `rows` know nothing."""
        return timekernels.weakest_times(self.last_event, self.flags, rows, self.as_of_locked(rows))

    def warm(self) -> None:
        """Compile what this table runs, so that no request waits for it (2 s cold, 0.2 s from numba's cache)."""
        twin = SegmentTable(self.codec, 16, partitions=1)
        twin.upsert(["a", "b"], self.codec.empty(2), [0, 0])
        twin.delete(["a"])
        twin._rebuild_cells(32)
        with twin.lock:
            rows = twin.find_locked(["b"], hash_ids(["b"]))
            times = twin.as_of_locked(rows)
            twin.weakest_locked(rows)
        query = np.zeros(self.codec.dim, np.float32)
        default = np.zeros(len(self.codec.segments), np.float32)
        arrays = (twin.vectors, twin.scales, rows, query, self.codec.bounds, default)
        scores = kernels.gather_dot_i8(*arrays)
        kernels.replace_expired(scores, *arrays, times, np.ones(len(default), np.int64))
        kernels.top_k(scores, 1)

    def _find_locked(self, ids: Sequence[str], wanted: Ints) -> Ints:
        rows = self.probe_locked(wanted)
        # A hash is not an id: an unknown id that shares one must not be answered with another entity's vector.
        # Row -1 reads the empty name at the end of the list, so that the usual case is one comparison of lists.
        names = list(map(self.ids.__getitem__, rows.tolist()))
        if names != list(ids):
            for i, name in enumerate(names):
                if name != ids[i]:
                    rows[i] = -1
        return rows

    def _colliding_locked(self, ids: Sequence[str], wanted: Ints) -> set[str]:
        rows = self.probe_locked(wanted)
        refused, first = set(), dict[int, str]()
        for entity, key, row in zip(ids, wanted.tolist(), rows.tolist(), strict=True):
            if first.setdefault(key, self.ids[row] if row >= 0 else entity) != entity:
                refused.add(entity)
        return refused

    def _upsert_locked(self, ids: Sequence[str], wanted: Ints, rows: Rows, sources: npt.NDArray[np.int32]) -> Ints:
        self._make_room(len(ids))
        places = np.empty(len(ids), np.int64)
        fresh = np.empty(len(ids), np.bool_)
        taken = kernels.claim_rows(self._cells, self.hashes, wanted, self._free, places, fresh)
        self._free = self._free[: len(self._free) - taken]
        self._used_cells += taken
        for i in np.flatnonzero(fresh).tolist():
            self.ids[places[i]] = ids[i]
        vectors, scales, as_of = (
            self.codec.vectors(rows),
            self.codec.column(rows, "scale"),
            self.codec.column(rows, "as_of"),
        )
        # A worker that starts sends rows again as they were: what was made of them stays valid.
        other = (self.vectors[places] != vectors).any(axis=1) | (self.scales[places] != scales).any(axis=1)
        other |= ((self.as_of[places] == 0) != (as_of == 0)).any(axis=1)
        self.vectors[places], self.scales[places], self.as_of[places] = vectors, scales, as_of
        self.last_event[places] = self.codec.column(rows, "last_event")
        self.flags[places] = self.codec.column(rows, "flags")
        self.partitions[places] = sources
        columns = self.codec.columns(rows)
        if fresh.any() or (self.served[places] != columns).any():
            self.served_writes += 1
        self.served[places] = columns
        self._stamp(places[other | fresh])
        return places

    def _stamp(self, places: Ints) -> None:
        self._writes += 1
        self.versions[places] = self._writes

    def _make_room(self, n: int) -> None:
        if len(self._free) < n:
            target = used = self.capacity
            while target - len(self) < n:
                target *= 2
            kept = self._arrays()
            self._allocate(target)
            for before, after in zip(kept, self._arrays(), strict=True):
                after[:used] = before
            self._free = np.concatenate([np.arange(target - 1, used - 1, -1, dtype=np.int64), self._free])
        if (self._used_cells + n) * 2 > len(self._cells):
            self._rebuild_cells(_cells_for(max(self.capacity, len(self) + n)))

    def _rebuild_cells(self, size: int) -> None:
        """Without the dead ones, which are what fills a table that is much deleted from."""
        live = np.ones(self.capacity, np.bool_)
        live[self._free] = False
        self._cells = np.full(size, kernels.FREE, np.int32)
        kernels.fill_cells(self._cells, self.hashes, np.flatnonzero(live))
        self._used_cells = len(self)

    def _arrays(self) -> tuple[Array, ...]:
        times = (self.as_of, self.last_event)
        return self.vectors, self.scales, *times, self.flags, self.partitions, self.hashes, self.versions, self.served

    def _allocate(self, capacity: int) -> None:
        segments = len(self.codec.segments)
        self.vectors = np.zeros((capacity, self.codec.dim), np.int8)
        self.scales = np.zeros((capacity, segments), np.float32)
        self.as_of = np.zeros((capacity, segments), np.int64)  # ms
        self.last_event = np.zeros((capacity, segments), np.int64)  # ms; 0 is never
        self.flags = np.zeros((capacity, segments), np.uint32)
        self.partitions = np.zeros(capacity, np.int32)
        self.hashes = np.zeros(capacity, np.int64)
        self.served = np.zeros((capacity, len(self.codec.served)), np.int64)
        self.versions = np.zeros(
            capacity, np.int64
        )  # of the row's vectors: another number after each change, never used again
        self.ids.extend([""] * (capacity + 1 - len(self.ids)))


def _cells_for(rows: int) -> int:
    return 1 << max(5, (4 * rows - 1).bit_length())
