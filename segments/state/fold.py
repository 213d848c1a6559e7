"""The fold: accepted events into state rows. Stream, backfill, training and evaluation all call this one.

Callers give rows int64 [capacity, layout.width], and for each event the row it belongs to. A fold is in place and
touches only those rows; if it raises, the rows are unknown and the caller drops them and reads its store again.
"""

from __future__ import annotations

import numpy as np

from forebay.arrays import Bools, Ints, Places
from forebay.segments.state import kernels
from forebay.segments.state.columns import Columns
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import ACCEPTED, NEWEST, UPDATED, Block, Layout


class Fold:
    """One side's fold. Holds no state of its own: any number of threads may fold different rows at once."""

    def __init__(self, layout: Layout, *, lists: bool = True) -> None:
        """Without `lists` the entries of lists are left out, for who reads them off the log itself."""
        self.layout, self._lists = layout, lists
        self._pick = {b: np.array([self._source(b).index(c) for c in b.columns], dtype=np.int64) for b in layout.blocks}
        self._keys = {b: self._key(b) for b in layout.blocks if b.feature.kind in ("count", "mean")}
        self._windows = [b for b in layout.blocks if b.feature.over_ms]

    def warm(self) -> None:
        """Compile every kernel, so that no batch waits for it: 2 s once on a machine, 0.2 s from numba's cache after
        that."""
        rows, none = np.zeros((1, self.layout.width), dtype=np.int64), np.zeros(0, dtype=np.int64)
        acted, updated = (
            Columns(Ids.of([]), none, none, np.zeros((0, len(columns)), dtype=np.int64))
            for columns in (self.layout.event_columns, self.layout.update_columns)
        )
        self.behaviours(rows, none, acted, 0, none)
        self.updates(rows, none, updated, none)
        self.advance(rows, 0, none, none)

    def _source(self, block: Block) -> tuple[str, ...]:
        return self.layout.update_columns if block.feature.kind == "latest" else self.layout.event_columns

    @staticmethod
    def order(at: Ints, events: Columns) -> Places:
        """The order that a fold wants: by (row, time, id)."""
        return np.lexsort((events.ids, events.times, at))

    def behaviours(self, rows: Ints, at: Ints, events: Columns, clock: int, pending: Ints) -> None:
        """Fold ordered, accepted events: each of them once. `clock` is the partition's newest tick (ms).

        Sets in `pending` int64 [capacity] the bits of the segments whose state changed.
        """
        columns = self.layout.event_columns
        named = dict(zip(columns, events.matrix.T, strict=True))
        everything = np.ones(len(at), dtype=bool)
        for block in self.layout.blocks:
            feature = block.feature
            match = everything if feature.where is None else feature.where(named)
            if feature.kind == "last":
                if not self._lists:
                    continue
                kernels.fold_last(
                    rows, block.offset, feature.size, block.stride, self._pick[block], at, events.times, events.ids,
                    events.matrix, match, block.bits, pending,
                )  # fmt: skip
            elif feature.kind in ("count", "mean"):
                key_kind, key, pair = self._keys[block]
                kernels.fold_sums(
                    rows, block.offset, feature.buckets, block.keys, feature.bucket_ms, feature.kind == "mean",
                    key_kind, key, pair, columns.index("value"), at, events.times, events.matrix, match, clock,
                    block.bits, pending,
                )  # fmt: skip
        kernels.fold_header(rows, NEWEST, ACCEPTED, at, events.times)

    def updates(self, rows: Ints, at: Ints, events: Columns, pending: Ints) -> None:
        """Fold attribute updates, in any order. An update seen twice changes nothing: no duplicate check is needed."""
        for block in self.layout.blocks:
            if block.feature.kind == "latest":
                kernels.fold_latest(
                    rows,
                    block.offset,
                    self._pick[block],
                    at,
                    events.times,
                    events.ids,
                    events.matrix,
                    block.bits,
                    pending,
                )
        kernels.fold_header(rows, UPDATED, -1, at, events.times)

    def advance(self, rows: Ints, clock: int, new_clocks: Ints, pending: Ints) -> None:
        """A tick: the windows of the first len(new_clocks) rows end no earlier than `new_clocks` int64 [m] (ms); until
        now no earlier than `clock`."""
        for block in self._windows:
            feature = block.feature
            kernels.advance_sums(
                rows, block.offset, feature.buckets, block.keys, feature.bucket_ms, feature.kind == "mean", clock,
                new_clocks, block.bits, pending,
            )  # fmt: skip

    def still(self, rows: Ints, at: Ints) -> Bools:
        """bool [n]: which of the rows `at` no tick would change. Their windows hold nothing."""
        found = np.ones(len(at), np.bool_)
        for block in self._windows:
            counts = rows[at, block.offset + 1 : block.offset + 1 + block.feature.buckets * block.keys]
            found &= ~counts.any(axis=1)
        return found

    def _key(self, block: Block) -> tuple[int, int, Ints]:
        keys, none = block.feature.keys, np.zeros(5, dtype=np.int64)
        if keys == ("events",):
            return kernels.KEY_ONE, 0, none
        places = [self.layout.event_columns.index(k) for k in keys]
        # A set is the one column whose codes are masks; `action` and categories are plain codes.
        masks = [k in self.layout.sets for k in keys]
        if len(keys) == 2:
            return kernels.KEY_PAIR, 0, np.array([*places, *masks, block.widths[1]], dtype=np.int64)
        return (kernels.KEY_MASK if masks[0] else kernels.KEY_CODE), places[0], none
