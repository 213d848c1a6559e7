"""Which events were accepted before: for each hour of event time a set of identities.

An identity is (entity, time, id) as 128 bits: the id's hash, and the entity's with the time in it. A false duplicate
would be a lost event, and among 2**32 events of an hour two identities meet with a chance of 2**-65. The hour that is
written to is an open-addressing table, a closed one a sorted array (16 bytes an event).

What was added since the last flush is handed out as one blob for each hour, to be kept in the same write as the offset
that accounts for it; the sets are made again of all blobs. So a crash between two flushes forgets what the log is then
read again for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from forebay.arrays import Bools, Ints
from forebay.clock import HOUR_MS

_FIRST = 1024  # cells of a new table
_OPEN_HOURS = 2  # the newest ones: late events go to older ones, which are searched and not often added to
_TIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two times of one entity give the same bits
Identities = npt.NDArray[np.uint64]  # [n, 2]


def identities_of(entities: Ints, times: Ints, ids: Ints) -> Identities:
    """uint64 [n, 2] of the hashes of entities and ids, and times (ms), int64 [n]."""
    found = np.empty((len(times), 2), np.uint64)
    found[:, 0] = entities.view(np.uint64) ^ (times.view(np.uint64) * _TIME)
    found[:, 1] = ids.view(np.uint64)
    found[(found == 0).all(axis=1), 1] = 1  # a free cell has two zeros; no hash is likely to be either
    return found


class HourSets:
    """The identities of one source partition. Of events before `since` (ms) nothing is known any more: whoever accepts
    one would count it twice. One thread."""

    def __init__(self) -> None:
        self.since = 0
        self._hours: dict[int, _Hour] = {}
        self._added: dict[int, list[Identities]] = {}

    def __len__(self) -> int:
        return sum(len(hour) for hour in self._hours.values())

    @property
    def nbytes(self) -> int:
        """Memory of all sets, in bytes."""
        return sum(hour.nbytes for hour in self._hours.values())

    @property
    def oldest(self) -> int | None:
        """The first hour (since 1970) that has an identity in it."""
        return min(self._hours, default=None)

    def add(self, times: Ints, identities: Identities) -> Bools:
        """bool [n]: whether each was not there before, nor earlier in this very batch; all are there after it."""
        new = np.zeros(len(times), np.bool_)
        hours = times // HOUR_MS
        for hour in np.unique(hours).tolist():
            at = np.flatnonzero(hours == hour)
            new[at] = self._hour(hour).add(identities[at])
            fresh = identities[at[new[at]]]
            if len(fresh):
                self._added.setdefault(hour, []).append(fresh)
        self._close()
        return new

    def taken(self) -> list[tuple[int, bytes]]:
        """What was added since the last call: hour and blob of each hour that got some, to be kept."""
        found = [(hour, np.concatenate(parts).tobytes()) for hour, parts in sorted(self._added.items())]
        self._added.clear()
        return found

    def load(self, blobs: Iterable[tuple[int, bytes]]) -> None:
        """Take what was kept. Raises ValueError for a blob that is no whole number of identities."""
        for hour, blob in blobs:
            if len(blob) % 16:
                raise ValueError(f"{len(blob)} bytes are no identities")
            self._hour(hour).add(np.frombuffer(blob, np.uint64).reshape(-1, 2))
        self._close()

    def forget(self, before_ms: int) -> None:
        """Drop the hours that ended by `before_ms`: their events are late from now on."""
        self.since = max(self.since, before_ms)
        for hour in [h for h in self._hours if (h + 1) * HOUR_MS <= before_ms]:
            del self._hours[hour]
            self._added.pop(hour, None)

    def _hour(self, number: int) -> _Hour:
        return self._hours.setdefault(number, _Hour())

    def _close(self) -> None:
        for number in sorted(self._hours)[:-_OPEN_HOURS]:
            self._hours[number].close()


class IdentitySet:
    """The identities of a whole history, whatever their hours, in one table of at most `max_bytes`. One thread."""

    since = 0

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._all = max_bytes, _Hour()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, times: Ints, identities: Identities) -> Bools:
        """As HourSets.add. Raises MemoryError before the table grows past its bound."""
        if self._all.cells_with(len(identities)) * 16 > self._max_bytes:
            raise MemoryError(f"the identities of {len(self):,} events take more than {self._max_bytes >> 20} MB")
        return self._all.add(identities)


class _Hour:
    def __init__(self) -> None:
        self._sorted: Identities = np.zeros((0, 2), np.uint64)
        self._cells: Identities = np.zeros((0, 2), np.uint64)
        self._used = 0

    def __len__(self) -> int:
        return len(self._sorted) + self._used

    @property
    def nbytes(self) -> int:
        return int(self._sorted.nbytes + self._cells.nbytes)

    def cells_with(self, more: int) -> int:
        """How many cells the table has after so many more identities."""
        need = max(_FIRST, len(self._cells))
        while need < 2 * (self._used + more):  # half of the cells are free: probes stay short
            need *= 2
        return need

    def add(self, identities: Identities) -> Bools:
        new = np.ones(len(identities), np.bool_)
        if len(self._sorted):
            _search(self._sorted, identities, new)
        need = self.cells_with(len(identities))
        if need > len(self._cells):
            old = self._cells
            self._cells = np.zeros((need, 2), np.uint64)
            kept = old[(old != 0).any(axis=1)]
            _insert(self._cells, kept, np.ones(len(kept), np.bool_))
        self._used += _insert(self._cells, identities, new)
        return new

    def close(self) -> None:
        """Give the free cells back, where there is something to give back."""
        if not self._used and not len(self._cells):
            return
        if len(self._sorted) and self._used < len(self._sorted) // 8:
            return  # a few late ones: sorting all again for each batch would cost more than their table
        both = np.concatenate([self._sorted, self._cells[(self._cells != 0).any(axis=1)]])
        self._sorted = both[np.lexsort((both[:, 1], both[:, 0]))]
        self._cells, self._used = np.zeros((0, 2), np.uint64), 0


@njit(cache=True, nogil=True)
def _insert(cells: Any, identities: Any, new: Any) -> int:
    """Put those that `new` says into `cells`; one that is there already is not new. Returns how many were put."""
    mask = np.uint64(len(cells) - 1)
    put = 0
    for i in range(len(identities)):
        if not new[i]:
            continue
        one, other = identities[i, 0], identities[i, 1]
        at = (one ^ other) & mask
        while cells[at, 0] != 0 or cells[at, 1] != 0:
            if cells[at, 0] == one and cells[at, 1] == other:
                new[i] = False
                break
            at = (at + np.uint64(1)) & mask
        if new[i]:
            cells[at, 0], cells[at, 1] = one, other
            put += 1
    return put


@njit(cache=True, nogil=True)
def _search(ordered: Any, identities: Any, new: Any) -> None:
    """Clear `new` of those that are in `ordered` [m, 2], which ascends."""
    for i in range(len(identities)):
        one, other = identities[i, 0], identities[i, 1]
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            if ordered[middle, 0] < one or (ordered[middle, 0] == one and ordered[middle, 1] < other):
                low = middle + 1
            else:
                high = middle
        if low < len(ordered) and ordered[low, 0] == one and ordered[low, 1] == other:
            new[i] = False
