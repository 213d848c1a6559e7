"""Item halves of a fusion, computed once for each version of an item's row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.fusions.contract import Fusion
from forebay.store.table import SegmentTable


class ItemHalves:
    """Beside the item table, row by row. The caller holds the table's lock; memory is touched only for rows that were
    asked for.

    A half is of the row as it was written; whoever finds a segment of it expired computes another one for that request.
    """

    def __init__(self, fusion: Fusion, table: SegmentTable, default: Floats) -> None:
        """`default` float32 [item dims] is what stands in for an item that is not known."""
        self.fusion, self._table = fusion, table
        self.default = fusion.item_half(default[None])
        self._allocate(table.capacity)

    def fresh_locked(self, rows: Ints, vectors: Callable[[Ints], Floats]) -> Floats:
        """float32 [capacity, half_width], in which those of `rows` int64 [n], each in the table, are current.
        `vectors(rows)` gives item vectors [m, item_dim] of those that were written since their half was computed."""
        if len(self._versions) != self._table.capacity:
            kept, versions = self._halves, self._versions
            self._allocate(self._table.capacity)
            self._halves[: len(kept)], self._versions[: len(versions)] = kept, versions
        old = np.unique(rows[self._versions[rows] != self._table.versions[rows]])
        if len(old):
            self._halves[old] = self.fusion.item_half(vectors(old))
            self._versions[old] = self._table.versions[old]
        return self._halves

    def _allocate(self, capacity: int) -> None:
        self._halves = np.zeros((capacity, self.fusion.half_width), np.float32)
        self._versions = np.zeros(capacity, np.int64)  # the table's start at 1
