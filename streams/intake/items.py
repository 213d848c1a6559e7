"""Items and their attributes in columns: of each item the newest update, found by the hash of its id.

Nothing is a Python object for an item. Attributes lie one behind the other as a reader finds them (Owned), and those of
an item are neighbours. An item that is put again leaves its old ones behind; they go when they are the greater part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from forebay.arrays import Array, Bools, Bytes, Ints
from forebay.store.kernels import FREE, fill_cells, find_rows
from forebay.streams.intake.fields import ITEM_SCOPE, TEXTS_KIND, Owned, packed, ranges

_FIRST = 64  # places of an empty column, and cells of an empty index
_NEVER = -1  # the time of an item that was forgotten


class Items:
    """One thread. Items are told apart by their 64-bit hashes, as in all state."""

    def __init__(self) -> None:
        self._cells: npt.NDArray[np.int32] = np.full(_FIRST, FREE, np.int32)
        self._hashes, self._times, self._ids = _Column(np.int64), _Column(np.int64), _Column(np.int64)
        self._first, self._count = _Column(np.int64), _Column(np.int32)  # of each item's attributes
        self._kind, self._number = _Column(np.int8), _Column(np.float64)
        self._name, self._text = _Column(np.int64, 2), _Column(np.int64, 2)
        self._members, self._letters = _Column(np.int64, 2), _Column(np.uint8)
        self._live = 0  # attributes that are some item's

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def nbytes(self) -> int:
        """Memory in bytes: what is taken, be it used or not."""
        return self._cells.nbytes + sum(column.nbytes for column in self._columns())

    def find(self, hashes: Ints) -> Ints:
        """int64 [n]: the number of each item, -1 for one that is not here."""
        numbers = np.empty(len(hashes), np.int64)
        find_rows(self._cells, self._hashes.values, hashes, numbers)
        return numbers

    def newer(self, hashes: Ints, times: Ints, ids: Ints) -> Bools:
        """bool [n]: whether an update of each item at `times` (ms), whose own id has the hash in `ids`, is newer than
        what is here. What is not here is older than any."""
        numbers = self.find(hashes)
        here = np.flatnonzero(numbers >= 0)
        had, name = self._times.values[numbers[here]], self._ids.values[numbers[here]]
        found = np.ones(len(hashes), np.bool_)
        found[here] = (times[here] > had) | ((times[here] == had) & (ids[here] > name))
        return found

    def put(self, hashes: Ints, times: Ints, ids: Ints, data: Bytes, owned: Owned) -> None:
        """Keep the updates of n different items, whatever was here. `owned` are their attributes, whose texts are in
        `data`; its `row` says of which of the n."""
        numbers = self.find(hashes)
        fresh = np.flatnonzero(numbers < 0)
        numbers[fresh] = np.arange(len(self), len(self) + len(fresh))
        for column, some in ((self._hashes, hashes), (self._times, times), (self._ids, ids)):
            column.add(some[fresh])
        self._first.add(np.zeros(len(fresh), np.int64))
        self._count.add(np.zeros(len(fresh), np.int32))
        self._index(numbers[fresh])
        letters, own = packed(data, owned, np.argsort(owned.row, kind="stable"))
        counts = np.bincount(own.row, minlength=len(hashes))
        self._live += len(own) - int(self._count.values[numbers].sum())
        self._times.values[numbers], self._ids.values[numbers] = times, ids
        self._first.values[numbers] = len(self._kind) + np.cumsum(counts) - counts
        self._count.values[numbers] = counts
        self._keep(letters, own)
        if len(self._kind) > 2 * self._live + _FIRST:
            self._compact()

    def forget(self, hashes: Ints) -> None:
        """Of these items nothing is known any more: any update is newer."""
        numbers = np.unique(self.find(hashes))
        numbers = numbers[numbers >= 0]
        self._live -= int(self._count.values[numbers].sum())
        self._times.values[numbers], self._count.values[numbers] = _NEVER, 0

    def attributes(self, numbers: Ints) -> tuple[Bytes, Owned]:
        """All attributes of the items of these numbers, int64 [n], and the buffer of their texts. Their `row` is a
        place in `numbers`; where an item is asked for twice, both have the same texts."""
        items, places = np.unique(numbers, return_inverse=True)
        first, counts = self._first.values[items], self._count.values[items].astype(np.int64)
        letters, own = packed(self._letters.values, self._owned(), ranges(first, counts))
        asked = counts[places]
        at = ranges((np.cumsum(counts) - counts)[places], asked)
        rows = np.repeat(np.arange(len(numbers)), asked)
        spread = (own.scope[at], own.kind[at], own.name[at], own.text[at], own.number[at])
        return letters, Owned(rows, *spread, own.members)

    def without(self, gone: Bools) -> Items:
        """The items that `gone` bool [len] does not say."""
        kept = np.flatnonzero(~gone)
        found = Items()
        letters, own = self.attributes(kept)
        found.put(self._hashes.values[kept], self._times.values[kept], self._ids.values[kept], letters, own)
        return found

    def stamps(self) -> tuple[Ints, Ints, Ints]:
        """int64 [len] each: hashes of items, and the times (ms) and hashed ids of their updates."""
        return self._hashes.values, self._times.values, self._ids.values

    def _owned(self) -> Owned:
        row = np.broadcast_to(np.zeros(1, np.int64), len(self._kind))
        scope = np.broadcast_to(np.full(1, ITEM_SCOPE, np.int8), len(self._kind))
        kept = (self._kind.values, self._name.values, self._text.values, self._number.values, self._members.values)
        return Owned(row, scope, *kept)

    def _keep(self, letters: Bytes, own: Owned) -> None:
        moved, lists = len(self._letters), (own.kind == TEXTS_KIND)[:, None]
        self._text.add(own.text + np.where(lists, len(self._members), moved))
        self._kind.add(own.kind)
        self._name.add(own.name + moved)
        self._number.add(own.number)
        self._members.add(own.members + moved)
        self._letters.add(letters)

    def _compact(self) -> None:
        first, counts = self._first.values, self._count.values.astype(np.int64)
        letters, own = packed(self._letters.values, self._owned(), ranges(first, counts))
        self._first.values[:] = np.cumsum(counts) - counts
        for column in (self._kind, self._number, self._name, self._text, self._members, self._letters):
            column.clear()
        self._keep(letters, own)

    def _index(self, fresh: Ints) -> None:
        """Half of the cells are free: probes stay short."""
        need = len(self._cells)
        while need < 2 * len(self):
            need *= 2
        if need > len(self._cells):
            self._cells, fresh = np.full(need, FREE, np.int32), np.arange(len(self), dtype=np.int64)
        fill_cells(self._cells, self._hashes.values, fresh)

    def _columns(self) -> tuple[_Column, ...]:
        return (
            self._hashes, self._times, self._ids, self._first, self._count, self._kind, self._number, self._name,
            self._text, self._members, self._letters,
        )  # fmt: skip


class _Column:
    """Values one behind the other, with room for more."""

    def __init__(self, dtype: Any, *shape: int) -> None:
        self._all: Array = np.empty((_FIRST, *shape), dtype)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def values(self) -> Array:
        return self._all[: self._used]

    @property
    def nbytes(self) -> int:
        return self._all.nbytes

    def add(self, values: Array) -> None:
        need = self._used + len(values)
        if need > len(self._all):
            wider = np.empty((max(need, len(self._all) * 3 // 2), *self._all.shape[1:]), self._all.dtype)
            wider[: self._used] = self.values
            self._all = wider
        self._all[self._used : need] = values
        self._used = need

    def clear(self) -> None:
        self._all, self._used = self._all[:0].copy(), 0
