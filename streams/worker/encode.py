"""Step 3: what waits in all owned partitions, encoded together.

An encoder that runs through torch has canonical batches of one fixed size, padded. The rows of four partitions that
got a few events each fill one batch together, where each by itself would pay for a whole one; and a row's bits do not
depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.sideencoders import SideEncoders
from forebay.store.ownedpartition import OwnedPartition, Pending

Encoded = dict[int, dict[int, SegmentVectors]]  # partition -> segment -> vectors of its rows that waited


def encode_pending(
    encoders: SideEncoders, partitions: Mapping[int, OwnedPartition], pending: Mapping[int, Pending]
) -> Encoded:
    """The vectors of `pending`, by partition and segment: for each pair of both that has rows waiting."""
    shares = {
        place: {number: at for number, waits in pending.items() if len(at := waits.of(place))}
        for place in range(len(encoders.segments))
    }
    shares = {place: share for place, share in shares.items() if share}
    jobs = [
        (
            place,
            np.concatenate([partitions[number].rows[at] for number, at in share.items()]),
            np.concatenate([partitions[number].index.hashes[at] for number, at in share.items()]),
        )
        for place, share in shares.items()
    ]
    found: Encoded = {number: {} for number in pending}
    for (place, share), vectors in zip(shares.items(), encoders.encode_each(jobs), strict=True):
        start = 0
        for number, at in share.items():
            found[number][place] = vectors.take(slice(start, start + len(at)))
            start += len(at)
    return found
