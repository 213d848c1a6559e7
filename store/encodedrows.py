"""What an encode gives to the rows of one partition: vectors, the moments that they are as of, and what is held back.

An OwnedPartition calls it with what was encoded, before the commit that tells it. It changes arrays in memory alone: a
crash leaves the rows in the store and in the log as they were.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forebay.arrays import Ints
from forebay.segments.segmentvectors import SegmentVectors
from forebay.store.codec import DEFAULT, HELD, RowCodec, Rows
from forebay.store.pending import Pending
from forebay.telemetry import emit


def put_encoded(
    codec: RowCodec,
    rows: Rows,
    pending: Pending,
    vectors: Mapping[int, SegmentVectors],
    as_of: int,
    left: Pending,
    left_as_of: int,
) -> Ints:
    """Put what `pending` was encoded to into `rows` [capacity], and return the numbers of those that it and `left` are
    of, int64 ascending.

    `vectors` has an entry for each segment that waited, of `pending.of(segment)`. Pairs of `left` are held: those that
    were not before, as of `left_as_of` (ms). Every other pair of those rows is as of `as_of` (ms); one that is held
    stays where it was.
    """
    numbers = np.union1d(pending.rows, left.rows)
    for place, segment in enumerate(codec.segments):
        part = rows["segments"][segment.name]
        if place in vectors:
            _put_segment(codec.side, segment.name, part, pending.of(place), vectors[place])
        current = numbers[part["flags"][numbers] & HELD == 0]
        part["as_of"][current] = as_of
        waits = left.of(place)
        waits = waits[part["flags"][waits] & HELD == 0]
        part["as_of"][waits] = left_as_of
        part["flags"][waits] |= HELD
    return numbers


def unheld(codec: RowCodec, rows: Rows, numbers: Ints) -> Ints:
    """Masks int64 [n] of the segments of rows that are not held."""
    masks = np.zeros(len(numbers), np.int64)
    for place, segment in enumerate(codec.segments):
        free = rows["segments"][segment.name]["flags"][numbers] & HELD == 0
        masks |= free.astype(np.int64) << place
    return masks


def settle_all(codec: RowCodec, rows: Rows, numbers: Ints, as_of: int) -> None:
    """Every segment of these rows is as of `as_of` (ms), and one that is held of no time."""
    for segment in codec.segments:
        part = rows["segments"][segment.name]
        part["as_of"][numbers] = np.where(part["flags"][numbers] & HELD, 0, as_of)


def _put_segment(side: str, name: str, part: Rows, at: Ints, found: SegmentVectors) -> None:
    good, kept = at[found.finite], at[~found.finite]
    part["vector"][good] = found.vectors[found.finite]
    part["scale"][good] = found.scale[found.finite]
    part["last_event"][good] = newest = found.newest[found.finite]
    part["flags"][good] = np.where(found.stateful & (newest == 0), DEFAULT, 0)
    if len(kept):
        # No finite vector: the last good one stays, its as_of with it; the default one where there is none.
        emit("held", side=side, segment=name, rows=len(kept))
        part["flags"][kept] |= HELD
