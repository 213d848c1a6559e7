"""Retrieval among the items that a request's conditions keep.

Few rows are scored where they lie: exactly, and in the time that they take. Of many the index is asked, with a bit for
each row that may be found. What a condition keeps is found once and kept until an item has other attributes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.store import kernels
from forebay.store.index import ItemIndex
from forebay.store.selection import Selection
from forebay.store.table import SegmentTable

SCANNED_ROWS = 16_384  # that are scored one by one: 0.3 ms of 64 dimensions, about what an index takes of any number
MAX_KEPT = 32  # conditions whose rows are kept, a bool a row: 32 MB with a million items


@dataclass(frozen=True)
class _Found:
    """What a condition keeps of the table as it was after so many writes: bool [rows]."""

    writes: int
    kept: Bools
    count: int


class SelectedRows:
    """Any number of threads. Nothing is locked while conditions are met: a row that is written meanwhile may be judged
    by half of what it was, and whoever answers judges again what it answers."""

    def __init__(self, table: SegmentTable, index: ItemIndex) -> None:
        self._table, self._index = table, index
        self._lock = threading.Lock()
        self._found: OrderedDict[object, _Found] = OrderedDict()

    def search(self, query: Floats, k: int, deny_rows: Ints | None, selection: Selection) -> Ints:
        """Rows int64 of at most `k` items that `selection` keeps, best first by the inner product with `query` and what
        is added to it, without `deny_rows`. Exact where something is added, and where few are kept."""
        found = self._kept(selection)
        if not selection.boosts and found.count > SCANNED_ROWS:
            rows, _ = self._index.search(query, k, deny_rows, np.packbits(found.kept, bitorder="little"))
            return rows
        kept = found.kept
        if deny_rows is not None:
            kept = kept.copy()
            kept[deny_rows[(deny_rows >= 0) & (deny_rows < len(kept))]] = False
        table, places = self._table, np.flatnonzero(kept)
        with table.lock:  # arrays of one size, each as long as the rows that were judged
            vectors, scales, columns = table.vectors, table.scales, table.served
        nothing = np.zeros(len(table.codec.segments), np.float32)
        scores = kernels.gather_dot_i8(vectors, scales, places, query, table.codec.bounds, nothing)
        added = selection.added(columns[places])
        if added is not None:
            scores += added
        best: Ints = places[kernels.top_k(scores, k)]
        return best

    def _kept(self, selection: Selection) -> _Found:
        table, key = self._table, selection.chooses
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
        with table.lock:
            writes, columns, hashes = table.served_writes, table.served, table.hashes
        if found is not None and found.writes == writes:
            return found
        kept = selection.kept(columns) & (hashes != 0)  # the hash of a row that is free
        found = _Found(writes, kept, int(np.count_nonzero(kept)))
        with self._lock:
            self._found[key] = found
            self._found.move_to_end(key)
            while len(self._found) > MAX_KEPT:
                self._found.popitem(last=False)
        return found
