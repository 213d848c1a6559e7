"""The rows of one partition that are in memory: arrays over row numbers, and the index that finds a number by its id.

An OwnedPartition claims rows as events touch their entities, and releases those that retire or leave. What the store
has of a row is the caller's to load and to write: nothing here survives a crash, and the log has all of it.
"""

from __future__ import annotations

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import Layout
from forebay.store.codec import RowCodec, Rows
from forebay.store.grown import grown
from forebay.store.rowindex import RowIndex
from forebay.store.waitingpairs import WaitingPairs


class ResidentRows:
    """`states` int64 [capacity, width], `vectors` [capacity], and by row what the store was told of it. A row that is
    not in use is zero, and its vectors are blank. One thread at a time."""

    def __init__(self, layout: Layout, codec: RowCodec, blank: Rows) -> None:
        """`blank` is what the vectors of a new entity are (RowCodec.blank)."""
        self._layout, self._codec, self._blank = layout, codec, blank
        self.index = RowIndex()
        count = self.index.capacity
        self.states: Ints = np.zeros((count, layout.width), np.int64)
        self.vectors: Rows = codec.empty(count)
        self.waits = WaitingPairs(count, len(codec.segments))
        self.changed: Bools = np.zeros(count, np.bool_)  # the store has an older copy
        self.marked: Bools = np.zeros(count, np.bool_)  # the store says that the row waits
        self.touched: Ints = np.zeros(count, np.int64)  # the number of flushes when an event came last

    def __len__(self) -> int:
        """How many entities are in memory."""
        return len(self.index)

    def reserve(self, count: int) -> None:
        """Make room for so many before they come: else half of the time goes into growing."""
        self.index.reserve(count)
        self._fit()

    def claim(self, ids: Ids) -> tuple[Ints, Bools]:
        """Row numbers int64 [n] of entities that are not here yet, and bool [n]: the first of each. In a new row every
        segment is pending."""
        rows, fresh = self.index.claim(ids)
        self._fit()
        new = rows[fresh]
        self.waits.masks[new], self.vectors[new] = self._layout.segment_bits, self._blank
        return rows, fresh

    def release(self, rows: Ints) -> list[bytes]:
        """Take rows out of memory; returns their ids. They are zeroed and used again."""
        names = self.index.names(rows)
        self.index.release(rows)
        self.states[rows] = 0
        self.vectors[rows] = self._blank
        self.waits.forget(rows)
        self.changed[rows] = self.marked[rows] = False
        return names

    @property
    def index_nbytes(self) -> int:
        """Bytes of all that is neither state nor vectors."""
        return self.index.nbytes + self.waits.nbytes + sum(a.nbytes for a in (self.changed, self.marked, self.touched))

    def _fit(self) -> None:
        if (more := self.index.capacity - len(self.states)) <= 0:
            return
        self.states = grown(self.states, more)
        self.vectors = np.concatenate([self.vectors, self._codec.empty(more)])
        self.waits.grow(more)
        self.changed, self.marked = grown(self.changed, more), grown(self.marked, more)
        self.touched = grown(self.touched, more)
