"""Kafka's own partitioner: murmur2 of the key, as the Java client and kafka-python compute it.

librdkafka's default is CRC32 (220 of 2,000 keys fell on the same of 8 partitions): every producer of ours asks for
murmur2, and the Intake puts every event of the clean logs where its entity's state lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from forebay.arrays import Bytes, Ints


def partitions_of(keys: Sequence[bytes], partitions: int) -> Ints:
    """int64 [n] partition of each key among `partitions`."""
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    ends = np.cumsum(lengths)
    return partitions_at(np.frombuffer(b"".join(keys), dtype=np.uint8), ends - lengths, ends, partitions)


def partitions_at(data: Bytes, starts: Ints, ends: Ints, partitions: int) -> Ints:
    """int64 [n] partition of each key `data[starts[i]:ends[i]]`."""
    out = np.empty(len(starts), dtype=np.int64)
    _murmur2(data, starts, ends, partitions, out)
    return out


@njit(cache=True)
def _murmur2(data: Bytes, starts: Ints, ends: Ints, partitions: int, out: Ints) -> None:
    # In int64 with masks: numba turns mixed uint32 and int64 arithmetic into float64.
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    for e in range(len(starts)):
        start, length = starts[e], ends[e] - starts[e]
        h = (0x9747B28C ^ length) & mask
        whole = length // 4 * 4
        for i in range(start, start + whole, 4):
            k = data[i] | data[i + 1] << 8 | data[i + 2] << 16 | data[i + 3] << 24
            k = k * factor & mask
            k ^= k >> 24
            k = k * factor & mask
            h = h * factor & mask
            h ^= k
        tail = start + whole
        rest = length - whole
        if rest == 3:
            h ^= data[tail + 2] << 16
        if rest >= 2:
            h ^= data[tail + 1] << 8
        if rest >= 1:
            h ^= data[tail]
            h = h * factor & mask
        h ^= h >> 13
        h = h * factor & mask
        h ^= h >> 15
        out[e] = (h & 0x7FFFFFFF) % partitions
