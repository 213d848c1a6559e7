"""One side's rows as a request sees them: those of the hashes that it has, each as it was written by one write.

A row is some hundred bytes in several arrays. Between finding a row and the end of its gather nothing may be written,
or a reader could see half of an update, or a row that was given to another entity meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query
from forebay.segments.fusions.joinkernels import join_rows
from forebay.segments.spec import Side
from forebay.shard import Shard
from forebay.store import kernels
from forebay.store.codec import RowCodec
from forebay.store.halves import ItemHalves
from forebay.store.indexwatch import IndexStanding
from forebay.store.selection import Selection
from forebay.store.table import SegmentTable

NO_BOOST: Floats = np.zeros(0, np.float32)
_FIRST = np.zeros(1, np.int64)  # the place of one entity that was asked for alone


@dataclass(frozen=True)
class Lacking:
    """What stands in for a segment that is expired or missing: `default` float32 [dims of all segments], as a stored
    row would have it; and each segment's bound on the age of its `as_of`, `expires_ms` int64 [segments] (0: none)."""

    default: Floats
    expires_ms: Ints

    def oldest(self, now: int) -> Ints:
        """int64 [segments]: a segment whose as_of is before this is not used; 1 without an expiry (0 is never), and at
        `now` 0."""
        if self._never is not None:
            return self._never
        return np.where(self.expires_ms > 0, np.maximum(now - self.expires_ms, 1), 1)

    @cached_property
    def _never(self) -> Ints | None:
        """What `oldest` is at any time, where no segment expires."""
        return None if self.expires_ms.any() else np.ones(len(self.expires_ms), np.int64)


@dataclass(frozen=True)
class StoredSegment:
    """One segment of one row as it is stored."""

    codes: bytes
    scale: float


class EntityRow(NamedTuple):
    """One entity's row as a request uses it: whether there is one, what is to be used as its `vectors` float32 [dims],
    and `weakest` int64 [3, segments] as Reading.weakest tells it."""

    known: bool
    vectors: Floats
    weakest: Ints


class Reading(Protocol):
    """The rows of some hashes of one side, each of one version. Made by a copy's `read`, for its block.

    A place is a number below how many hashes were given. A hash that no row has is an entity that is not known: its
    vectors are the default ones, and it knows of no time.
    """

    @property
    def found(self) -> Bools:
        """bool [n]: which of the hashes have a row."""

    def names(self, places: Ints) -> list[str | None]:
        """The ids of those rows: an unknown id whose hash is another's has found that one's row, and the caller
        compares for what it lets out. None where there is no row, or none any more."""

    def strangers(self, places: Ints, names: Sequence[str]) -> Ints:
        """Those of `places` int64 [m] whose row is not that of the id in `names` [m]: another one's with its hash, or
        none any more. Places that have no row are not among them."""

    def one(self, entity: str, now: int) -> EntityRow:
        """The row of the first place, if it is that of `entity`, at `now` (ms)."""

    def forget(self, places: Ints) -> None:
        """Take those places for ones that are not known."""

    def scores(self, fusion: Fusion, query: Query, now: int) -> Floats:
        """float32 [n] of one user's half with every place at `now` (ms): of a fusion that folds to one inner product,
        or of the one that this copy keeps halves for."""

    def best(
        self, fusion: Fusion, query: Query, now: int, k: int, places: Ints | None = None, boost: Floats = NO_BOOST
    ) -> tuple[Ints, Floats]:
        """The `k` best of `places` int64 (None: of all), best first, and their scores float32, as `scores` has them
        with `boost` float32 [n] added (empty: nothing). Equal scores keep the order of `places`, which ascends. What
        is told of the best from then on is of the same version as their scores."""

    def vectors(self, places: Ints, now: int) -> Floats:
        """float32 [m, dims]: what is to be used of those places at `now`."""

    def weakest(self, places: Ints) -> Ints:
        """int64 [3, segments]: oldest `as_of`, oldest `last_event` (0: none), and how many of `places` know nothing."""

    def served(self) -> tuple[Ints, Bools]:
        """int64 [n, columns]: the serving columns of all places (ServedColumns), zeros where there is no row; and
        which of them have one, bool [n]."""

    def partition(self, place: int) -> int:
        """Of the log that the row comes from."""

    def stored(self, place: int) -> list[StoredSegment]:
        """The codes of one row, segment by segment."""


class Copy(Protocol):
    """One generation's rows, as an Engine knows them: a ServingCopy, or a SharedCopy."""

    generation: str
    bundle_hash: str
    shard: Shard  # of the users
    user_partitions: int

    @property
    def codecs(self) -> Mapping[Side, RowCodec]: ...

    def rows(self) -> Mapping[Side, int]: ...

    def as_of(self) -> int: ...

    def read(self, side: Side, hashes: Ints, ids: Sequence[str] = ()) -> AbstractContextManager[Reading]: ...

    def at_hand(self, side: Side, entity: str) -> bool: ...

    def search(self, query: Floats, k: int, deny: Ints, selection: Selection | None = None) -> Ints: ...

    def index(self) -> IndexStanding: ...

    def default(self, side: Side) -> Floats: ...

    def warm(self) -> None: ...


class LockedReading:
    """A Reading of a table in this process, whose lock is held meanwhile: all rows are of one moment."""

    def __init__(self, table: SegmentTable, lacking: Lacking, halves: ItemHalves | None, hashes: Ints) -> None:
        self._table, self._lacking, self._halves = table, lacking, halves
        self._rows = table.probe_locked(hashes)

    @property
    def found(self) -> Bools:
        return self._rows >= 0

    def names(self, places: Ints) -> list[str | None]:
        ids = self._table.ids
        return [ids[row] if row >= 0 else None for row in self._rows[places].tolist()]

    def strangers(self, places: Ints, names: Sequence[str]) -> Ints:
        pairs = zip(places.tolist(), self.names(places), names, strict=True)
        return np.array([place for place, name, wanted in pairs if name is not None and name != wanted], np.int64)

    def one(self, entity: str, now: int) -> EntityRow:
        if len(self.strangers(_FIRST, [entity])):
            self.forget(_FIRST)
        return EntityRow(bool(self.found[0]), self.vectors(_FIRST, now)[0], self.weakest(_FIRST))

    def forget(self, places: Ints) -> None:
        self._rows[places] = -1

    def scores(self, fusion: Fusion, query: Query, now: int) -> Floats:
        rows = self._rows
        if isinstance(fusion, InnerProduct):
            return self._folded(fusion, query[0], rows, now)
        assert self._halves is not None and self._halves.fusion is fusion, "halves are of the fusion for rank"
        known = np.flatnonzero(rows >= 0)
        stored, expired = self._halves.fresh_locked(rows[known], lambda old: self._vectors(old, 0)), known[:0]
        if self._lacking.expires_ms.any():
            expired = known[self._expired(rows[known], now).any(axis=1)]
        joined = fusion.compiled(query)
        if joined is None:
            halves = np.repeat(self._halves.default, len(rows), axis=0)
            halves[known] = stored[rows[known]]
            found = fusion.join(query, halves)
        else:
            found = np.empty(len(rows), np.float32)
            join_rows(joined, stored, rows, self._halves.default[0], found)
        if len(expired):
            found[expired] = fusion.join(query, fusion.item_half(self._vectors(rows[expired], now)))
        return found

    def best(
        self, fusion: Fusion, query: Query, now: int, k: int, places: Ints | None = None, boost: Floats = NO_BOOST
    ) -> tuple[Ints, Floats]:
        return kernels.best_of(self.scores(fusion, query, now), k, places, boost)

    def vectors(self, places: Ints, now: int) -> Floats:
        return self._vectors(self._rows[places], now)

    def weakest(self, places: Ints) -> Ints:
        return self._table.weakest_locked(self._rows[places])

    def served(self) -> tuple[Ints, Bools]:
        columns = self._table.served[self._rows]
        columns[self._rows < 0] = 0
        return columns, self._rows >= 0

    def partition(self, place: int) -> int:
        return int(self._table.partitions[self._rows[place]])

    def stored(self, place: int) -> list[StoredSegment]:
        table, bounds, row = self._table, self._table.codec.bounds, self._rows[place]
        return [
            StoredSegment(table.vectors[row, bounds[s] : bounds[s + 1]].tobytes(), float(table.scales[row, s]))
            for s in range(len(table.codec.segments))
        ]

    def _vectors(self, rows: Ints, now: int) -> Floats:
        table, dims = self._table, np.diff(self._table.codec.bounds)
        vectors = table.vectors[rows].astype(np.float32) * np.repeat(table.scales[rows], dims, axis=1)
        gone = np.repeat(self._expired(rows, now), dims, axis=1)
        return np.where(gone, self._lacking.default, vectors)

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
