"""The ids of a shared table's rows, in UTF-8, each in whole units of 16 bytes.

Only places that no live row names are given out again, and a row is written before its place is let go: who read the
place inside of a row's window reads that row's id.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from forebay.arrays import Bytes, Ints

UNIT = 16
STEP_BYTES = 1 << 20  # allocated at a time, at least


class NameHeap:
    """Which places are free: the writer's alone. It has no memory of its own but the lists."""

    def __init__(self, names: Bytes) -> None:
        """Over `names` uint8, nothing of which is in use."""
        self._names = names
        self.end = 0  # units in use, and free ones between them
        self._free: dict[int, list[int]] = {}  # by size, in units

    def occupy(self, starts: Ints, lengths: Ints) -> None:
        """Places (units) and bytes int64 [n] of ids that are there: what lies between them is free, and made zeros."""
        order = np.argsort(starts)
        begins, ends = starts[order], starts[order] + units(lengths[order])
        self.end = int(ends[-1]) if len(ends) else 0
        gaps_from = np.concatenate([[0], ends[:-1]])[: len(ends)]
        gaps = np.flatnonzero(begins > gaps_from)
        for start, stop in zip(gaps_from[gaps].tolist(), begins[gaps].tolist(), strict=True):
            self.release(start, (stop - start) * UNIT)

    def needed(self, sizes: list[int]) -> int:
        """Bytes that the file must have before ids of as many bytes are put."""
        return (self.end + sum(map(_units, sizes))) * UNIT

    def put(self, names: list[bytes]) -> list[int]:
        """Write ids; returns their places (units). The file has the bytes that `needed` said."""
        sizes = [_units(len(name)) for name in names]
        if not any(self._free.values()):  # as while a table is filled: one copy for all
            places = [self.end + before for before in accumulate(sizes, initial=0)][:-1]
            padded = b"".join(name.ljust(size * UNIT, b"\0") for name, size in zip(names, sizes, strict=True))
            self._names[self.end * UNIT : self.end * UNIT + len(padded)] = np.frombuffer(padded, np.uint8)
            self.end += len(padded) // UNIT
            return places
        places = [self._taken(size) for size in sizes]
        for place, name in zip(places, names, strict=True):
            self._names[place * UNIT : place * UNIT + len(name)] = np.frombuffer(name, np.uint8)
        return places

    def release(self, place: int, length: int) -> None:
        """Make zeros of what lies there; the row that named it has been written."""
        size = _units(length)
        self._names[place * UNIT : (place + size) * UNIT] = 0
        self._free.setdefault(size, []).append(place)

    def _taken(self, size: int) -> int:
        """A free place of `size` units: one that fits, or a part of the smallest larger one, or behind all."""
        fits = min((units for units, places in self._free.items() if units >= size and places), default=0)
        if not fits:
            place, self.end = self.end, self.end + size
            return place
        place = self._free[fits].pop()
        if fits > size:
            self._free.setdefault(fits - size, []).append(place + size)
        return place


def _units(length: int) -> int:
    return -(-length // UNIT)


def units(lengths: Ints) -> Ints:
    """int64 [n]: units that ids of so many bytes take."""
    return (lengths + UNIT - 1) // UNIT
