"""A Reading of a table that another process writes: nothing is held, and each row is one version of it.

What is told of a row, its score and its times, is of one version. A call behind another one may read a later version:
the vectors of `vectors` may be newer than the scores of `scores`, and `weakest` tells the times of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query
from forebay.store import kernels, timekernels
from forebay.store.codec import RowCodec
from forebay.store.onepass import Passed
from forebay.store.reading import NO_BOOST, EntityRow, Lacking, StoredSegment
from forebay.store.rowkernels import FOUND
from forebay.store.tablereader import Images, TableReader, Times


@dataclass(frozen=True)
class Kept:
    """Which fusion's halves the rows have, and the half of an item that is not known: float32 [half_width]."""

    fusion: Fusion
    default: Floats


class SharedReading:
    """See Reading."""

    def __init__(self, reader: TableReader, lacking: Lacking, kept: Kept | None, hashes: Ints) -> None:
        self._reader, self._lacking, self._kept, self._hashes = reader, lacking, kept, hashes
        self._gone = np.zeros(len(hashes), np.bool_)
        self._told: tuple[Times, Bools, Ints] | None = None  # of the rows, as they were read for the last time
        self._images: Images | None = None
        self._timed: Ints | None = None  # the places whose times are told, where not all are

    @property
    def found(self) -> Bools:
        return self._state()[1] & ~self._gone

    def names(self, places: Ints) -> list[str | None]:
        rows = np.where(self.found, self._state()[2], -1)[places]
        return self._reader.names(rows, self._hashes[places])

    def strangers(self, places: Ints, names: Sequence[str]) -> Ints:
        return self._reader.strangers(self._state()[2], self.found, self._hashes, places, names)

    def one(self, entity: str, now: int) -> EntityRow:
        lacking = self._lacking
        return self._reader.entity(int(self._hashes[0]), entity.encode(), lacking.oldest(now), lacking.default)

    def forget(self, places: Ints) -> None:
        self._gone[places] = True

    def scores(self, fusion: Fusion, query: Query, now: int) -> Floats:
        oldest, self._images, self._timed = self._lacking.oldest(now), None, None
        if isinstance(fusion, InnerProduct):
            default = np.add.reduceat(query[0] * self._lacking.default, self._codec.bounds[:-1])
            scores, times, found, rows = self._reader.dots(self._hashes, query[0], default, oldest)
            self._told = (times, found, rows)
            scores[self._gone] = default.sum(dtype=np.float32)
            scores += fusion.bias
            return scores
        assert self._kept is not None and self._kept.fusion is fusion, "halves are of the fusion for rank"
        halves, times, found, rows = self._reader.halves(self._hashes)
        self._told = (times, found, rows)
        if self._lacking.expires_ms.any():
            expired = np.flatnonzero((times.as_of < oldest).any(axis=1) & self.found)
            if len(expired):  # a half is of the row as it was written: these rows have other ones by now
                images, again, there, _ = self._reader.read(self._hashes[expired])
                times.as_of[expired], times.last_event[expired] = again.as_of, again.last_event
                times.flags[expired], found[expired] = again.flags, there
                halves[expired] = fusion.item_half(vectors_of(self._codec, images, again.as_of < oldest, self._lacking))
        halves[~self.found] = self._kept.default
        return fusion.join(query, halves)

    def best(
        self, fusion: Fusion, query: Query, now: int, k: int, places: Ints | None = None, boost: Floats = NO_BOOST
    ) -> tuple[Ints, Floats]:
        passed = None if places is not None else self._passed(fusion, query, self._lacking.oldest(now), k, boost)
        if passed is None:
            return kernels.best_of(self.scores(fusion, query, now), k, places, boost)
        times, self._images = Times(passed.as_of, passed.last_event, passed.flags), None
        self._told, self._timed = (times, passed.states == FOUND, passed.rows), passed.best
        return passed.best, passed.scores[passed.best]

    def _passed(self, fusion: Fusion, query: Query, oldest: Ints, k: int, boost: Floats) -> Passed | None:
        """What one pass found; None where there is no kernel for it."""
        wanted = (self._hashes, self._gone, boost, k, oldest)
        if isinstance(fusion, InnerProduct):
            default = np.add.reduceat(query[0] * self._lacking.default, self._codec.bounds[:-1])
            return self._reader.best_by_dots(*wanted, query[0], default, fusion.bias)
        assert self._kept is not None and self._kept.fusion is fusion, "halves are of the fusion for rank"
        joined = fusion.compiled(query)
        return None if joined is None else self._reader.best_by_halves(*wanted, joined, self._kept.default)

    def vectors(self, places: Ints, now: int) -> Floats:
        if self._images is None:
            images, times, found, _ = self._reader.read(self._hashes[places])
            unknown = ~found | self._gone[places]
        else:
            images, times = self._images[places], self._state()[0]
            times, unknown = Times(times.as_of[places], times.last_event, times.flags), ~self.found[places]
        lacking = (times.as_of < self._lacking.oldest(now)) | unknown[:, None]
        return vectors_of(self._codec, images, lacking, self._lacking)

    def weakest(self, places: Ints) -> Ints:
        if self._timed is not None and places is not self._timed:
            self._whole()
        times, found, _ = self._state()
        weakest: Ints = timekernels.weakest_at(times.as_of, times.last_event, times.flags, found, self._gone, places)
        return weakest

    def served(self) -> tuple[Ints, Bools]:
        columns, found = self._reader.served(self._hashes)
        columns[self._gone] = 0
        return columns, found & ~self._gone

    def partition(self, place: int) -> int:
        return int(self._whole()["partition"][place])

    def stored(self, place: int) -> list[StoredSegment]:
        image, bounds = self._whole()[place], self._codec.bounds
        return [
            StoredSegment(image["codes"][bounds[s] : bounds[s + 1]].tobytes(), float(image["scale"][s]))
            for s in range(len(self._codec.segments))
        ]

    @property
    def _codec(self) -> RowCodec:
        return self._reader.identity.layout.codec

    def _state(self) -> tuple[Times, Bools, Ints]:
        if self._told is None:
            self._whole()
        assert self._told is not None
        return self._told

    def _whole(self) -> Images:
        """All of the rows; what was told of them before is told anew."""
        if self._images is None:
            self._images, times, found, rows = self._reader.read(self._hashes)
            # Fields of the images lie apart: kernels want arrays.
            times = Times(times.as_of, np.ascontiguousarray(times.last_event), np.ascontiguousarray(times.flags))
            self._told, self._timed = (times, found, rows), None
        return self._images


def vectors_of(codec: RowCodec, images: Images, without: Bools, lacking: Lacking) -> Floats:
    """float32 [n, dims] of rows, with the default vector for segments `without` bool [n, segments]."""
    dims = np.diff(codec.bounds)
    vectors = images["codes"].astype(np.float32) * np.repeat(images["scale"], dims, axis=1)
    found: Floats = np.where(np.repeat(without, dims, axis=1), lacking.default, vectors)
    return found
