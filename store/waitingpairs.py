"""Which pairs of a row and a segment wait to be encoded, since when, and which of them the log may know better.

An OwnedPartition asks before each encode and clears what was encoded. The masks go into the store with their rows; the
times and what is older are of this owner alone, and a crash leaves nothing of them: the next owner begins both anew.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forebay.arrays import Ints
from forebay.store.grown import grown
from forebay.store.pending import Pending

SINCE_MS = 16  # of a clock in 32 bits: it lasts for two years


class WaitingPairs:
    """`masks` int64 [capacity], bit s: segment s of the row waits. One thread at a time."""

    def __init__(self, count: int, segments: int) -> None:
        """For `count` rows of so many `segments`."""
        self.masks: Ints = np.zeros(count, np.int64)
        # Of each pair, when it began to wait, in steps of SINCE_MS after the first time that somebody asked, from 1 on;
        # 0: it does not, or nobody has asked yet.
        self._first_ms: int | None = None
        self._since: npt.NDArray[np.uint32] = np.zeros((count, segments), np.uint32)
        # Bit s: segment s waits since before this owner told anything, so that what the log has of it may be newer.
        self._older: Ints = np.zeros(count, np.int64)

    def all(self) -> Pending:
        """The pairs that wait to be encoded."""
        rows = np.flatnonzero(self.masks)
        return Pending(rows, self.masks[rows])

    def since(self, pending: Pending, now_ms: int) -> Ints:
        """Since when each pair of `pending` waits, int64 [n, segments] (ms, at most SINCE_MS too early): those of which
        it is not known begin at `now_ms`, and what is no pair has that."""
        since = self._since[pending.rows]
        waits = (pending.masks[:, None] >> np.arange(since.shape[1]) & 1) == 1
        if self._first_ms is None:
            self._first_ms = now_ms
        since[waits & (since == 0)] = (now_ms - self._first_ms) // SINCE_MS + 1
        self._since[pending.rows] = since
        return np.where(waits, self._first_ms + (since.astype(np.int64) - 1) * SINCE_MS, now_ms)

    def silent(self) -> None:
        """What waits now was folded silently: the log has been told of it, as of when is not known here."""
        self._older |= self.masks

    def older(self, rows: Ints) -> Ints:
        """Masks int64 [n] of the pairs of `rows` that wait since before this owner told anything."""
        found: Ints = self._older[rows]
        return found

    def encoded(self, pending: Pending, left: Pending) -> None:
        """`pending` wait no more; of `left`, which go on waiting, the log is told now."""
        for place in range(self._since.shape[1]):
            self._since[pending.of(place), place] = 0
        self.masks[pending.rows] &= ~pending.masks
        self._older[pending.rows] &= ~pending.masks
        self._older[left.rows] &= ~left.masks

    def forget(self, rows: Ints) -> None:
        """Nothing is in these rows any more."""
        self.masks[rows] = self._older[rows] = 0
        self._since[rows] = 0

    def grow(self, more: int) -> None:
        """Room for so many more rows."""
        self.masks, self._older = grown(self.masks, more), grown(self._older, more)
        self._since = grown(self._since, more)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.masks.nbytes + self._older.nbytes + self._since.nbytes
