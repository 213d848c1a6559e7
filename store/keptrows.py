"""Which rows of a table a condition keeps, found once for each state of their serving columns."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.store.selection import Selection

MAX_KEPT = 32  # conditions whose rows are kept, a byte a row: 32 MB with a million items


@dataclass(frozen=True)
class Kept:
    """Of all rows: which are kept, bool [rows], and how many."""

    rows: Bools
    count: int


class KeptRows:
    """A bounded cache, for any number of threads: two that miss at once both compute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[object, tuple[int, Kept]] = OrderedDict()

    def __len__(self) -> int:
        """Conditions whose rows are kept."""
        return len(self._found)

    def of(self, selection: Selection, state: int, columns: Ints, live: Bools) -> Kept:
        """The rows that `selection` keeps of `columns` int64 [rows, attributes] where they are `live` bool [rows].
        `state` is another number for other columns."""
        key = selection.chooses
        with self._lock:
            before, found = self._found.get(key, (-1, None))
            if found is not None:
                self._found.move_to_end(key)
        if found is not None and before == state:
            return found
        rows = selection.kept(columns) & live
        found = Kept(rows, int(np.count_nonzero(rows)))
        with self._lock:
            self._found[key] = state, found
            self._found.move_to_end(key)
            while len(self._found) > MAX_KEPT:
                self._found.popitem(last=False)
        return found
