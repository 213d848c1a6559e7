"""Step 3: what waits in all owned partitions, encoded together.

An encoder that runs through torch has canonical batches of one fixed size, padded. The rows of four partitions that
got a few events each fill one batch together, where each by itself would pay for a whole one; and a row's bits do not
depend on its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.state.staterows import StateRows
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
    waits = {number: pairs for number, pairs in pending.items() if len(pairs)}
    found: dict[int, dict[int, SegmentVectors]] = {number: {} for number in pending}
    seconds: dict[int, float] = {}
    if not waits:
        return Encoded(found, seconds)
    masks = np.concatenate([pairs.masks for pairs in waits.values()])
    bounds = np.cumsum([0, *map(len, waits.values())])
    started = time.perf_counter()
    # Once for all segments: a row has kilobytes, and most rows wait for most segments.
    rows = np.concatenate([partitions[number].rows[pairs.rows] for number, pairs in waits.items()])
    hashes = np.concatenate([partitions[number].index.hashes[pairs.rows] for number, pairs in waits.items()])
    of_masks: dict[bytes, StateRows] = {}
    for place in range(len(encoders.segments)):
        wanted = masks >> place & 1 == 1
        if not wanted.any():
            continue
        if (key := wanted.tobytes()) not in of_masks:
            of_masks[key] = StateRows(rows, hashes) if wanted.all() else StateRows(rows[wanted], hashes[wanted])
        vectors = encoders.encode_rows(place, of_masks[key])
        ends = np.concatenate([[0], np.cumsum(wanted)])[bounds].tolist()
        for number, (start, end) in zip(waits, pairwise(ends), strict=True):
            if start < end:
                found[number][place] = vectors.take(slice(start, end))
        now = time.perf_counter()
        seconds[place], started = now - started, now
    return Encoded(found, seconds)
