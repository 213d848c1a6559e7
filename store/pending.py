"""Pairs of an entity and a segment that wait to be encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebay.arrays import Ints


@dataclass(frozen=True)
class Pending:
    """Pairs of a partition that wait to be encoded: `rows` int64 [n] ascending, and for each the mask of its segments
    int64 [n]."""

    rows: Ints
    masks: Ints

    def __len__(self) -> int:
        """How many rows."""
        return len(self.rows)

    def of(self, segment: int) -> Ints:
        """The rows that wait for one segment, int64 ascending."""
        return self.rows[self.masks >> segment & 1 == 1]

    def only(self, masks: Ints) -> Pending:
        """Those pairs that are in `masks` int64 [n], too."""
        masks = self.masks & masks
        rows = masks != 0
        return Pending(self.rows[rows], masks[rows])

    def without(self, done: Pending) -> Pending:
        """Those that are not in `done`, each of whose rows is one of these."""
        masks = np.full(len(self), -1, np.int64)
        masks[np.searchsorted(self.rows, done.rows)] = ~done.masks
        return self.only(masks)

    def take(self, places: Ints) -> Pending:
        """The rows at `places` of these, ascending."""
        return Pending(self.rows[places], self.masks[places])


NONE = Pending(np.zeros(0, np.int64), np.zeros(0, np.int64))
