"""Compiled kernels of tables and rows: hash lookup and insert, fused gather and dot, top-k. No other code is native.

At top level and with `cache=True`: kernels made in a factory are compiled again at every start. Dtypes are fixed at the
boundary by their callers, for each new one compiles again. All of them release the GIL.

Open addressing: a cell holds a row number, FREE or DEAD (deleted; probing goes on behind it). Linear probing from the
low bits of the hash, which xxh3 mixes well; at most half of the cells are in use, the dead ones included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from forebay.arrays import Bools, Bytes, Floats, Int8s, Ints

FREE, DEAD = np.int32(-1), np.int32(-2)

F = TypeVar("F", bound=Callable[..., Any])


def _kernel(function: F) -> F:
    compiled: F = njit(cache=True, nogil=True)(function)
    return compiled


def _bare(function: F) -> F:
    """For what runs for each row and makes no array: nobody counts who holds those that it is given, which costs two
    locked additions for each (numba's option for it has an underscore)."""
    compiled: F = njit(cache=True, nogil=True, _nrt=False, forceinline=True)(function)
    return compiled


@_kernel
def find_rows(cells: npt.NDArray[np.int32], hashes: Ints, wanted: Ints, rows: Any) -> None:
    """Write the row of each wanted hash to `rows` (int64 [n]), -1 where there is none."""
    mask = len(cells) - 1
    for i in range(len(wanted)):
        at = wanted[i] & mask
        found = np.int64(-1)
        while cells[at] != -1:
            row = cells[at]
            if row >= 0 and hashes[row] == wanted[i]:
                found = np.int64(row)
                break
            at = (at + 1) & mask
        rows[i] = found


@_kernel
def claim_rows(
    cells: npt.NDArray[np.int32],
    hashes: Ints,
    wanted: Ints,
    free: Ints,
    rows: Ints,
    fresh: Bools,
) -> int:
    """Find or insert each wanted hash. New ones take rows off the end of `free`; returns how many were taken.

    The caller has made room: free cells and free rows for all of `wanted`. A hash that comes twice gets one row.
    """
    mask = len(cells) - 1
    taken = 0
    for i in range(len(wanted)):
        at = wanted[i] & mask
        fresh[i] = True
        while cells[at] != -1:  # dead cells are not reused: they go when the table is rebuilt
            row = cells[at]
            if row >= 0 and hashes[row] == wanted[i]:
                rows[i] = row
                fresh[i] = False
                break
            at = (at + 1) & mask
        if fresh[i]:
            taken += 1
            row = free[len(free) - taken]
            hashes[row] = wanted[i]
            cells[at] = row
            rows[i] = row
    return taken


@_kernel
def release_rows(cells: npt.NDArray[np.int32], hashes: Ints, rows: Ints) -> None:
    """Mark the cells of `rows` (all present) as dead."""
    mask = len(cells) - 1
    for i in range(len(rows)):
        at = hashes[rows[i]] & mask
        while cells[at] != rows[i]:
            at = (at + 1) & mask
        cells[at] = -2


@_kernel
def fill_cells(cells: npt.NDArray[np.int32], hashes: Ints, rows: Ints) -> None:
    """Insert `rows`, whose hashes differ from each other and from those that are in `cells`, into free ones."""
    mask = len(cells) - 1
    for i in range(len(rows)):
        at = hashes[rows[i]] & mask
        while cells[at] != -1:
            at = (at + 1) & mask
        cells[at] = rows[i]


@_kernel
def probe_id(
    cells: npt.NDArray[np.int32], hashes: Ints, starts: Ints, lengths: Ints, names: Bytes,
    wanted: int, data: Bytes, start: int, length: int,
) -> tuple[np.int64, int]:  # fmt: skip
    """The row of one id, -1 where it has none, and the cell at which probing ended: its own, or a free one.

    Row r has the hash `hashes[r]`, and its id lies in `names` from `starts[r]`, `lengths[r]` bytes long; the wanted
    one, of hash `wanted`, lies in `data` from `start`. Ids of one hash are told apart by their bytes.
    """
    mask = len(cells) - 1
    at = wanted & mask
    while cells[at] != -1:  # dead cells are not reused: they go when the cells are filled anew
        row = np.int64(cells[at])
        if row >= 0 and hashes[row] == wanted and lengths[row] == length:
            k = 0
            while k < length and names[starts[row] + k] == data[start + k]:
                k += 1
            if k == length:
                return row, at
        at = (at + 1) & mask
    return np.int64(-1), at


@_kernel
def find_ids(
    cells: npt.NDArray[np.int32], hashes: Ints, starts: Ints, lengths: Ints, names: Bytes, wanted: Ints,
    wanted_starts: Ints, wanted_ends: Ints, data: Bytes, rows: Ints,
) -> None:  # fmt: skip
    """Write the row of each wanted id to `rows` int64 [n], -1 where there is none. Wanted id i lies in `data` from
    `wanted_starts[i]` to `wanted_ends[i]`; the rest is as in `probe_id`."""
    for i in range(len(wanted)):
        start = wanted_starts[i]
        length = wanted_ends[i] - start
        rows[i] = probe_id(cells, hashes, starts, lengths, names, wanted[i], data, start, length)[0]


@_kernel
def claim_ids(
    cells: npt.NDArray[np.int32], hashes: Ints, starts: Ints, lengths: Ints, names: Bytes, wanted: Ints,
    wanted_starts: Ints, wanted_ends: Ints, data: Bytes, free: Ints, end: int, rows: Ints, fresh: Bools,
) -> tuple[int, int]:  # fmt: skip
    """Find or insert each wanted id; an id that comes twice gets one row. New ones take rows off the end of `free`, and
    their bytes are put into `names` from `end` on. Returns how many rows were taken, and the new end.

    The caller has made room: free cells, free rows and bytes for all of `wanted`.
    """
    taken = 0
    for i in range(len(wanted)):
        start = wanted_starts[i]
        length = wanted_ends[i] - start
        row, at = probe_id(cells, hashes, starts, lengths, names, wanted[i], data, start, length)
        fresh[i] = row < 0
        if fresh[i]:
            taken += 1
            row = free[len(free) - taken]
            hashes[row], starts[row], lengths[row] = wanted[i], end, length
            for k in range(length):
                names[end + k] = data[start + k]
            end += length
            cells[at] = row
        rows[i] = row
    return taken, end


@_kernel
def pack_names(names: Bytes, starts: Ints, lengths: Ints, rows: Ints, out: Bytes) -> int:
    """Put the ids of `rows` into `out` one behind the other, and make `starts` say so. Returns how many bytes."""
    end = 0
    for i in range(len(rows)):
        row = rows[i]
        for k in range(lengths[row]):
            out[end + k] = names[starts[row] + k]
        starts[row] = end
        end += lengths[row]
    return end


@_bare
def reads_of(query: Floats, bounds: Ints, reads: Bools) -> None:
    """Whether `query` float32 [dim] has anything but zeros for each segment, into `reads` bool [segments]. What it has
    zeros for adds nothing, since scales are finite (RowCodec.unpack): those codes are not read. A fusion that reads
    some of a side's segments folds to such a query."""
    for s in range(len(reads)):
        reads[s] = False
        for d in range(bounds[s], bounds[s + 1]):
            reads[s] = reads[s] or query[d] != 0  # NaN is something


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def gather_dot_i8(
    vectors: Int8s,
    scales: Floats,
    rows: Ints,
    query: Floats,
    bounds: Ints,
    default: Floats,
) -> Floats:
    """Scores float32 [n]: for each row the sum over segments of scale · <codes, query>, in one pass and without a copy.

    `vectors` int8 [capacity, dim], `scales` float32 [capacity, segments], `query` float32 [dim], `bounds` int64
    [segments + 1]. A row of -1 scores as the default vectors do: `default` float32 [segments] holds their dots. NaN and
    infinity keep their meaning; only the order of additions is the compiler's.
    """
    segments = len(bounds) - 1
    scores, reads = np.empty(len(rows), np.float32), np.empty(segments, np.bool_)
    reads_of(query, bounds, reads)
    missing = np.float32(0)
    for s in range(segments):
        missing += default[s]
    for i in range(len(rows)):
        row = rows[i]
        if row < 0:
            scores[i] = missing
            continue
        score = np.float32(0)
        for s in range(segments):
            if not reads[s]:
                continue
            # Slices, and an index that is known not to be negative: numba's wrap-around test would stop vectorisation.
            codes, part = vectors[row, bounds[s] : bounds[s + 1]], query[bounds[s] : bounds[s + 1]]
            dot = np.float32(0)
            for d in range(len(codes)):
                dot += np.float32(codes[d]) * part[d]
            score += dot * scales[row, s]
        scores[i] = score
    return scores


@_kernel
def replace_expired(
    scores: Floats,
    vectors: Int8s,
    scales: Floats,
    rows: Ints,
    query: Floats,
    bounds: Ints,
    default: Floats,
    as_of: Ints,
    oldest: Ints,
) -> None:
    """Score again, in place, each row with a segment whose `as_of` int64 [n, segments] is before `oldest` [segments].

    Such a segment counts as its default vector does. Only called for sides that have an expiry at all.
    """
    segments = len(bounds) - 1
    reads = np.empty(segments, np.bool_)
    reads_of(query, bounds, reads)
    for i in range(len(rows)):
        row = rows[i]
        if row < 0:
            continue
        expired = False
        for s in range(segments):
            expired = expired or as_of[i, s] < oldest[s]
        if not expired:
            continue
        score = np.float32(0)
        for s in range(segments):
            if as_of[i, s] < oldest[s]:
                score += default[s]
                continue
            if not reads[s]:
                continue
            dot = np.float32(0)
            for d in range(bounds[s], bounds[s + 1]):
                dot += np.float32(vectors[row, d]) * query[d]
            score += dot * scales[row, s]
        scores[i] = score


@_kernel
def top_k(scores: Floats, k: int) -> Ints:
    """Places of the `k` highest scores, best first; equal scores in order of place. NaN counts as lowest.

    A heap of k places with the worst on top: a later place with an equal score never displaces an earlier one.
    """
    n = len(scores)
    k = min(k, n)
    keys = np.empty(k, np.float32)
    heap = np.empty(k, np.int64)
    size = 0
    for place in range(n):
        score = scores[place]
        if np.isnan(score):
            score = np.float32(-np.inf)
        if size < k:
            at = size
            size += 1
            while at > 0:
                up = (at - 1) >> 1
                # up is worse than the new one (lower score, or equal and later): the new one stays below it
                if keys[up] < score or (keys[up] == score and heap[up] > place):
                    break
                keys[at], heap[at] = keys[up], heap[up]
                at = up
            keys[at], heap[at] = score, place
        elif k > 0 and score > keys[0]:
            _sift(keys, heap, k, score, place)
    order = np.empty(k, np.int64)
    for out in range(k - 1, -1, -1):  # the top is the worst that is left
        order[out] = heap[0]
        size -= 1
        if size > 0:
            _sift(keys, heap, size, keys[size], heap[size])
    return order


def best_of(scores: Floats, k: int, places: Ints | None, boost: Floats) -> tuple[Ints, Floats]:
    """The `k` best of `places` (None: of all) by `scores` float32 [n] with `boost` [n] added (empty: nothing), and what
    they score."""
    if len(boost):
        scores = scores + boost
    found: Ints = top_k(scores, k) if places is None else places[top_k(scores[places], k)]
    return found, scores[found]


@_bare
def _sift(keys: Floats, heap: Ints, size: int, score: Any, place: Any) -> None:
    """Put (score, place) in the top's stead and restore the heap of `size`."""
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        other = down + 1
        if other < size and (keys[other] < keys[down] or (keys[other] == keys[down] and heap[other] > heap[down])):
            down = other
        if keys[down] > score or (keys[down] == score and heap[down] < place):
            break
        keys[at], heap[at] = keys[down], heap[down]
        at = down
    keys[at], heap[at] = score, place
