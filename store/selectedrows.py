"""Retrieval among the items that a request's conditions keep.

Few rows are scored where they lie: exactly, and in the time that they take. Of many the index is asked, with a bit for
each row that may be found. What a condition keeps is found once and kept until an item has other attributes.
"""

from __future__ import annotations

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.store import kernels
from forebay.store.index import ItemIndex
from forebay.store.keptrows import Kept, KeptRows
from forebay.store.selection import Selection
from forebay.store.table import SegmentTable

SCANNED_ROWS = 16_384  # that are scored one by one: about 0.6 ms of 64 dimensions


class SelectedRows:
    """Any number of threads. Nothing is locked while conditions are met: a row that is written meanwhile may be judged
    by half of what it was, and whoever answers judges again what it answers."""

    def __init__(self, table: SegmentTable, index: ItemIndex) -> None:
        self._table, self._index = table, index
        self._rows = KeptRows()

    def search(self, query: Floats, k: int, deny_rows: Ints | None, selection: Selection) -> Ints:
        """Rows int64 of at most `k` items that `selection` keeps, best first by the inner product with `query` and what
        is added to it, without `deny_rows`. Exact where something is added, and where few are kept."""
        found = self._kept(selection)
        if not selection.boosts and found.count > SCANNED_ROWS:
            rows, _ = self._index.search(query, k, deny_rows, np.packbits(found.rows, bitorder="little"))
            return rows
        kept = found.rows
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

    def _kept(self, selection: Selection) -> Kept:
        table = self._table
        with table.lock:
            writes, columns, hashes = table.served_writes, table.served, table.hashes
        return self._rows.of(selection, writes, columns, hashes != 0)  # 0: the hash of a row that is free
