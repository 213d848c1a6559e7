"""Times of rows, compiled: what a watermark carries on, and the weakest link of several rows.

Requests read them of a table in this process (table.py), of a shared one (sharedreading.py) and of one entity
(entityrow.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Ints
from forebay.store.kernels import _bare, _kernel

_DEFAULT = np.uint32(2)  # a flag: the segment has the default vector, and knows nothing


@_kernel
def carried_as_of(
    as_of: Ints,
    flags: npt.NDArray[np.uint32],
    partitions: npt.NDArray[np.int32],
    watermarks: Ints,
    rows: Ints,
) -> Ints:
    """int64 [n, segments]: each row's as_of, carried on by its partition's watermark unless HELD (bit 0); 0 for row
    -1."""
    segments = as_of.shape[1]
    times = np.zeros((len(rows), segments), np.int64)
    for i in range(len(rows)):
        row = rows[i]
        if row < 0:
            continue
        mark = watermarks[partitions[row]]
        for s in range(segments):
            time = as_of[row, s]
            if mark > time and flags[row, s] & np.uint32(1) == 0:
                time = mark
            times[i, s] = time
    return times


@_bare
def weaken(weakest: Ints, s: Any, time: Any, event: Any, flag: Any) -> None:
    """Segment `s` of one more row into `weakest` int64 [3, segments], zeros at first: the oldest `as_of` and the oldest
    `last_event` of the rows that have one (0: none has), and how many know nothing: as_of 0, or DEFAULT."""
    if time > 0 and (weakest[0, s] == 0 or time < weakest[0, s]):
        weakest[0, s] = time
    if event > 0 and (weakest[1, s] == 0 or event < weakest[1, s]):
        weakest[1, s] = event
    if time <= 0 or flag & _DEFAULT != 0:
        weakest[2, s] += 1


@_kernel
def weakest_times(last_event: Ints, flags: npt.NDArray[np.uint32], rows: Ints, carried: Ints) -> Ints:
    """int64 [3, segments] over `rows` int64 [n], whose `as_of` is `carried` int64 [n, segments] (`carried_as_of`): see
    `weaken`. A row of -1 knows nothing."""
    segments = last_event.shape[1]
    weakest = np.zeros((3, segments), np.int64)
    for i in range(len(rows)):
        for s in range(segments):
            if rows[i] < 0:
                weakest[2, s] += 1
            else:
                weaken(weakest, s, carried[i, s], last_event[rows[i], s], flags[rows[i], s])
    return weakest


@_kernel
def weakest_at(
    as_of: Ints, last_event: Ints, flags: npt.NDArray[np.uint32], found: Bools, gone: Bools, places: Ints
) -> Ints:
    """As `weakest_times`, of `places` int64 [m] in arrays [n, segments] whose `as_of` is carried on; a place that was
    not `found` bool [n], or is `gone`, knows nothing."""
    segments = as_of.shape[1]
    weakest = np.zeros((3, segments), np.int64)
    for place in places:
        for s in range(segments):
            if not found[place] or gone[place]:
                weakest[2, s] += 1
            else:
                weaken(weakest, s, as_of[place, s], last_event[place, s], flags[place, s])
    return weakest
