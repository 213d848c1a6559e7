"""A Reading of one user who may be in the shared table or not.

Memory is left and entered at any moment, between two calls of one answer, too. Whatever is asked is therefore read from
the table, and where it is not there by then, the replica is asked for the row, which is that of all later calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.segments.fusions.contract import Fusion, Query
from forebay.store.reading import NO_BOOST, EntityRow, Reading, StoredSegment
from forebay.store.sharedreading import SharedReading

_FIRST = np.zeros(1, np.int64)


class UserReading:
    """See Reading. Of one place."""

    def __init__(self, shared: SharedReading, user: str, elsewhere: Callable[[], Reading]) -> None:
        """`elsewhere` asks the replica, and may raise ServerUnavailable. So does each call that comes to need it."""
        self._shared, self._user, self._elsewhere = shared, user, elsewhere
        self._read: Reading | None = None

    @property
    def found(self) -> Bools:
        return self._whole().found

    def names(self, places: Ints) -> list[str | None]:
        there = self.found
        return [self._user if there[place] else None for place in places.tolist()]

    def strangers(self, places: Ints, names: Sequence[str]) -> Ints:
        there = self.found
        return np.array(
            [p for p, name in zip(places.tolist(), names, strict=True) if there[p] and name != self._user], np.int64
        )

    def one(self, entity: str, now: int) -> EntityRow:
        if self._read is None or self._read is self._shared:
            row = self._shared.one(entity, now)
            if row.known or entity != self._user:
                return row
            self._read = self._elsewhere()
        return self._read.one(entity, now)

    def forget(self, places: Ints) -> None:
        self._whole().forget(places)

    def scores(self, fusion: Fusion, query: Query, now: int) -> Floats:
        return self._whole().scores(fusion, query, now)

    def best(
        self, fusion: Fusion, query: Query, now: int, k: int, places: Ints | None = None, boost: Floats = NO_BOOST
    ) -> tuple[Ints, Floats]:
        return self._whole().best(fusion, query, now, k, places, boost)

    def vectors(self, places: Ints, now: int) -> Floats:
        return self._whole().vectors(places, now)

    def weakest(self, places: Ints) -> Ints:
        return self._whole().weakest(places)

    def served(self) -> tuple[Ints, Bools]:
        if self._read is None or self._read is self._shared:
            columns, there = self._shared.served()
            if there[0]:
                return columns, there
            self._read = self._elsewhere()
        return self._read.served()

    def partition(self, place: int) -> int:
        return self._whole().partition(place)

    def stored(self, place: int) -> list[StoredSegment]:
        return self._whole().stored(place)

    def _whole(self) -> Reading:
        """The row as it was read once: the table's, under the user's name, or the replica's."""
        if self._read is None:
            in_memory = self._shared.names(_FIRST) == [self._user]
            self._read = self._shared if in_memory else self._elsewhere()
        return self._read
