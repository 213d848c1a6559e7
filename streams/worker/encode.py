"""Step 3: what waits in all owned partitions, encoded together.

An encoder that runs through torch has canonical batches of one fixed size, padded. The rows of four partitions that
got a few events each fill one batch together, where each by itself would pay for a whole one; and a row's bits do not
depend on its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.sideencoders import SideEncoders
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.pending import Pending


@dataclass(frozen=True)
class Encoded:
    """Vectors by partition and segment, for each pair of both that had rows waiting; and the seconds that each segment
    took."""

    vectors: Mapping[int, Mapping[int, SegmentVectors]]
    seconds: Mapping[int, float]

    def pairs(self, place: int) -> int:
        """How many rows of segment `place` were encoded."""
        return sum(len(found[place]) for found in self.vectors.values() if place in found)


def encode_pending(
    encoders: SideEncoders, partitions: Mapping[int, OwnedPartition], pending: Mapping[int, Pending]
) -> Encoded:
    """What `pending` is encoded to."""
    shares = {
        place: {number: at for number, waits in pending.items() if len(at := waits.of(place))}
        for place in range(len(encoders.segments))
    }
    shares = {place: share for place, share in shares.items() if share}
    found: dict[int, dict[int, SegmentVectors]] = {number: {} for number in pending}
    seconds = {}
    for place, share in shares.items():
        started, start = time.perf_counter(), 0
        rows = np.concatenate([partitions[number].rows[at] for number, at in share.items()])
        hashes = np.concatenate([partitions[number].index.hashes[at] for number, at in share.items()])
        vectors = encoders.encode(place, rows, hashes)
        for number, at in share.items():
            found[number][place] = vectors.take(slice(start, start + len(at)))
            start += len(at)
        seconds[place] = time.perf_counter() - started
    return Encoded(found, seconds)
