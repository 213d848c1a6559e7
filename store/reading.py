"""One side's rows as a request sees them: all of one moment.

A row is some hundred bytes in several arrays. Between finding a row and the end of its gather nothing is written, or a
reader could see half of an update, or a row that was given to another entity meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query
from forebay.store import kernels
from forebay.store.halves import ItemHalves
from forebay.store.table import SegmentTable


@dataclass(frozen=True)
class Lacking:
    """What stands in for a segment that is expired or missing: `default` float32 [dims of all segments], as a stored
    row would have it; and each segment's bound on the age of its `as_of`, `expires_ms` int64 [segments] (0: none)."""

    default: Floats
    expires_ms: Ints

    def oldest(self, now: int) -> Ints:
        """int64 [segments]: a segment whose as_of is before this is not used; 1 without an expiry (0 is never), and at
        `now` 0."""
        return np.where(self.expires_ms > 0, np.maximum(now - self.expires_ms, 1), 1)


@dataclass(frozen=True)
class StoredSegment:
    """One segment of one row as it is stored."""

    codes: bytes
    scale: float


class Reading:
    """Rows of one side while nobody writes. Made by ServingCopy.read; row numbers mean nothing after its block.

    Row -1 is an entity that is not known: its vectors are the default ones, and it knows of no time.
    """

    def __init__(self, table: SegmentTable, lacking: Lacking, halves: ItemHalves | None) -> None:
        self._table, self._lacking, self._halves = table, lacking, halves

    def find(self, ids: Sequence[str], hashes: Ints) -> Ints:
        """Row numbers int64 [n] of `ids` with those hashes, -1 where there is none."""
        return self._table.find_locked(ids, hashes)

    def probe(self, hashes: Ints) -> Ints:
        """Row numbers by hash alone: an unknown id whose hash is another's gets that one's row. The caller compares
        `name` for what it lets out."""
        return self._table.probe_locked(hashes)

    def name(self, row: int) -> str:
        """The id that has a row now; "" for one that is free."""
        return self._table.ids[row] if row < self._table.capacity else ""

    def partition(self, row: int) -> int:
        """Of the log that the row comes from."""
        return int(self._table.partitions[row])

    def vectors(self, rows: Ints, now: int) -> Floats:
        """float32 [n, dims]: what is to be used of `rows` at `now` (ms)."""
        table, dims = self._table, np.diff(self._table.codec.bounds)
        vectors = table.vectors[rows].astype(np.float32) * np.repeat(table.scales[rows], dims, axis=1)
        gone = np.repeat(self._expired(rows, now), dims, axis=1)
        return np.where(gone, self._lacking.default, vectors)

    def scores(self, fusion: Fusion, query: Query, rows: Ints, now: int) -> Floats:
        """float32 [n] of one user's half with each row: of a fusion that folds to one inner product, or of the one that
        this copy keeps halves for."""
        if isinstance(fusion, InnerProduct):
            return self._folded(fusion, query[0], rows, now)
        assert self._halves is not None and self._halves.fusion is fusion, "halves are of the fusion for rank"
        halves = np.repeat(self._halves.default, len(rows), axis=0)
        known = np.flatnonzero(rows >= 0)
        halves[known] = self._halves.gather_locked(rows[known], lambda old: self.vectors(old, 0))
        if self._lacking.expires_ms.any():
            expired = known[self._expired(rows[known], now).any(axis=1)]
            if len(expired):
                halves[expired] = fusion.item_half(self.vectors(rows[expired], now))
        return fusion.join(query, halves)

    def weakest(self, rows: Ints) -> Ints:
        """int64 [3, segments]: oldest `as_of`, oldest `last_event` (0: none), and how many of `rows` know nothing."""
        return self._table.weakest_locked(rows)

    def stored(self, row: int) -> list[StoredSegment]:
        """The codes of one row, segment by segment."""
        table, bounds = self._table, self._table.codec.bounds
        return [
            StoredSegment(table.vectors[row, bounds[s] : bounds[s + 1]].tobytes(), float(table.scales[row, s]))
            for s in range(len(table.codec.segments))
        ]

    def _folded(self, fusion: InnerProduct, query: Floats, rows: Ints, now: int) -> Floats:
        """One pass over the stored codes: nothing is gathered into memory first."""
        table, bounds = self._table, self._table.codec.bounds
        default = np.add.reduceat(query * self._lacking.default, bounds[:-1])
        arrays = (table.vectors, table.scales, rows, query, bounds, default)
        scores: Floats = kernels.gather_dot_i8(*arrays)
        kernels.replace_expired(scores, *arrays, table.as_of_locked(rows), self._lacking.oldest(now))
        scores += fusion.bias
        return scores

    def _expired(self, rows: Ints, now: int) -> Bools:
        """bool [n, segments]: not to be used any more, or never written."""
        return self._table.as_of_locked(rows) < self._lacking.oldest(now)
