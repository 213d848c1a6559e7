"""Rows as the partition's store has them, compiled: each state without its trailing zero bytes, and its vectors.

Its plain twin is PartitionStore's own packing of a StoredRow, with the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from forebay.arrays import Ints
from forebay.store.codec import Rows

_HEAD = 4  # bytes that say how long the state is


def packed_rows(states: Ints, vectors: Rows, at: Ints) -> list[bytes]:
    """What the store has under each of the rows `at` int64 [n]: u4 bytes of state | state | vectors. `states` are int64
    [capacity, width], `vectors` [capacity]; none of them is copied whole."""
    lengths = np.empty(len(at), np.int64)
    _measure(states, at, lengths)
    size = vectors.dtype.itemsize
    ends = np.cumsum(lengths + _HEAD + size)
    data = np.empty(int(ends[-1]) if len(at) else 0, np.uint8)
    raw = vectors.view(np.uint8).reshape(len(vectors), size)
    _fill(states.view(np.uint8).reshape(len(states), -1), raw, at, lengths, ends, data)
    whole, starts = data.tobytes(), (ends - lengths - _HEAD - size).tolist()
    return [whole[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]


@njit(cache=True, nogil=True)
def _measure(states: Any, at: Any, lengths: Any) -> None:
    for n in range(len(at)):
        row = states[at[n]]
        words = len(row)
        while words > 0 and row[words - 1] == 0:
            words -= 1
        size = 8 * words
        if words > 0:
            # The low bytes of a number come first: its high ones may be zero.
            last = row[words - 1]
            while last >> 56 & 0xFF == 0:
                last <<= 8
                size -= 1
        lengths[n] = size


@njit(cache=True, nogil=True)
def _fill(states: Any, vectors: Any, at: Any, lengths: Any, ends: Any, data: Any) -> None:
    size = vectors.shape[1]
    for n in range(len(at)):
        length = lengths[n]
        place = ends[n] - size - length - _HEAD
        for k in range(_HEAD):
            data[place + k] = length >> 8 * k & 0xFF
        data[place + _HEAD : place + _HEAD + length] = states[at[n], :length]
        data[ends[n] - size : ends[n]] = vectors[at[n]]
