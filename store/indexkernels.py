"""Compiled kernels of the item index: scans of inverted lists, of what changed since, and of some or all rows.

Rows lie in memory that another thread or process writes, by the row protocol (rowkernels.py); the lists never change.
All of them put what they find into one heap of the `k` best, worst on top, which its caller hands on from one to the
next. At top level and with `cache=True`, as those of kernels.py; all release the GIL.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from forebay.arrays import Bools, Bytes, Floats, Int8s, Ints
from forebay.prefetch import prefetch
from forebay.store.kernels import _bare, _kernel, _sift, reads_of
from forebay.store.reserved import Words
from forebay.store.rowkernels import HASH, HIGH, ONE, OWNER, dot_part, opened, unchanged
from forebay.store.rowwriting import write_row

_TRIES = 100  # of a row that is written all the time
_AHEAD = 8  # rows that are asked for before they are used

Rows32 = npt.NDArray[np.int32]


class Place(NamedTuple):
    """What the index needs of a Layout. `origin` words lie before row 0, and a row is `width` words; `scales` and
    `codes` are offsets in a row, in units of their own type."""

    origin: int
    width: int
    segments: int
    scales: int
    codes: int
    dim: int


@_bare
def _push(keys: Floats, heap: Ints, size: int, score: Any, row: Any) -> Any:
    """Put (score, row) into the heap if it is among the best; returns how many there are. NaN counts as lowest."""
    k = len(keys)
    if np.isnan(score):
        score = np.float32(-np.inf)
    if size < k:
        at = size
        while at > 0:
            up = (at - 1) >> 1
            if keys[up] < score or (keys[up] == score and heap[up] > row):
                break
            keys[at], heap[at] = keys[up], heap[up]
            at = up
        keys[at], heap[at] = score, row
        return size + 1
    if k > 0 and (score > keys[0] or (score == keys[0] and row < heap[0])):
        _sift(keys, heap, k, score, row)
    return size


@_kernel
def sorted_heap(keys: Floats, heap: Ints, size: int, out_keys: Floats, out: Ints) -> None:
    """Take the heap of `size` apart into `out_keys` and `out`, best first; equal scores in order of row."""
    for at in range(size - 1, -1, -1):
        out_keys[at], out[at] = keys[0], heap[0]
        size -= 1
        if size > 0:
            _sift(keys, heap, size, keys[size], heap[size])


@_bare
def _allows(allowed: Bytes, row: Any) -> Any:
    """Whether the bit of `row` is set; a bitmap of no bytes allows all, and what lies behind its end is not allowed."""
    if len(allowed) == 0:
        return True
    return (row >> 3) < len(allowed) and (allowed[row >> 3] >> np.uint8(row & 7)) & np.uint8(1) != np.uint8(0)


@_kernel
def scan_lists(
    lists: Ints, starts: Ints, rows: Rows32, codes: Int8s, scales: Floats, bounds: Ints, query: Floats,
    since: Rows32, changed: int, allowed: Bytes, keys: Floats, heap: Ints, size: int,
) -> Any:  # fmt: skip
    """Score the entries of `lists` int64 [probes], but those that changed: `since` int32 [n] holds 0, or the number of
    the change, and changes after number `changed` are not known of yet. Returns the size of the heap."""
    segments, flat = len(bounds) - 1, codes.reshape(codes.size)
    reads = np.empty(segments, np.bool_)
    reads_of(query, bounds, reads)
    for l in range(len(lists)):
        for e in range(starts[lists[l]], starts[lists[l] + 1]):
            gone = since[e]
            if gone != 0 and gone <= changed:
                continue
            row = np.int64(rows[e])
            if not _allows(allowed, row):
                continue
            score, start = np.float32(0), np.uint64(e * codes.shape[1])
            for s in range(segments):
                if not reads[s]:
                    continue
                dot = dot_part(flat, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
                score += dot * scales[e, s]
            if size < len(keys) or score >= keys[0]:
                size = _push(keys, heap, size, score, row)
    return size


@_bare
def _score_of(
    words: Words, scales: Floats, codes: Int8s, place: Place, row: Any, bounds: Ints, query: Floats, reads: Bools
) -> tuple[Any, Any]:
    """Whether `row` is live and what it scores, as one version of it; one that is being written all the while is
    not. Segments that `reads` bool [segments] does not name are not read."""
    at = place.origin + row * place.width
    for _ in range(_TRIES):
        seq = opened(words, at)
        if seq & ONE:
            break
        live = words[at + OWNER] >> HIGH != np.uint64(0)
        score, start = np.float32(0), np.uint64(8 * at + place.codes)
        if live:
            for s in range(place.segments):
                if not reads[s]:
                    continue
                dot = dot_part(codes, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
                score += dot * scales[2 * at + place.scales + s]
        if unchanged(words, at, seq):
            return live, score
    return False, np.float32(0)


@_kernel
def scan_changed(
    words: Words, place: Place, changes: Rows32, changed: int, bounds: Ints, query: Floats, allowed: Bytes,
    keys: Floats, heap: Ints, size: int,
) -> Any:  # fmt: skip
    """Score the first `changed` rows of `changes`, where they lie. Returns the size of the heap."""
    scales, codes = words.view(np.float32), words.view(np.int8)
    reads = np.empty(place.segments, np.bool_)
    reads_of(query, bounds, reads)
    for i in range(changed):
        if i + _AHEAD < changed:
            ahead = place.origin + np.int64(changes[i + _AHEAD]) * place.width
            for k in range(0, place.width, 8):
                prefetch(words, ahead + k)
        row = np.int64(changes[i])
        if _allows(allowed, row):
            live, score = _score_of(words, scales, codes, place, row, bounds, query, reads)
            if live:
                size = _push(keys, heap, size, score, row)
    return size


@_kernel
def scan_all(
    words: Words, place: Place, first: int, last: int, bounds: Ints, query: Floats, allowed: Bytes, keys: Floats,
    heap: Ints, size: int,
) -> Any:  # fmt: skip
    """Score the rows from `first` to before `last` that are allowed, where they lie. Returns the size of the heap."""
    scales, codes = words.view(np.float32), words.view(np.int8)
    reads = np.empty(place.segments, np.bool_)
    reads_of(query, bounds, reads)
    row: Any = np.int64(first)
    while row < last:
        # With few rows allowed most bytes of the bitmap are 0: eight rows are left out at once.
        if len(allowed) and row & 7 == 0 and ((row >> 3) >= len(allowed) or allowed[row >> 3] == 0):
            row += 8
            continue
        if _allows(allowed, row):
            live, score = _score_of(words, scales, codes, place, row, bounds, query, reads)
            if live and (size < len(keys) or score >= keys[0]):
                size = _push(keys, heap, size, score, row)
        row += 1
    return size


@_kernel
def copy_rows(words: Words, place: Place, rows: Ints, codes: Int8s, scales: Floats, live: Bools) -> None:
    """Codes int8 [n, dim] and scales float32 [n, segments] of `rows` int64 [n], each as one version, and which of them
    are live; those that are not, or are being written all the while, keep what was there."""
    all_scales, all_codes = words.view(np.float32), words.view(np.int8)
    for i in range(len(rows)):
        at = place.origin + rows[i] * place.width
        live[i] = False
        for _ in range(_TRIES):
            seq = opened(words, at)
            if seq & ONE:
                break
            there = words[at + OWNER] >> HIGH != np.uint64(0)
            for d in range(place.dim):
                codes[i, d] = all_codes[8 * at + place.codes + d]
            for s in range(place.segments):
                scales[i, s] = all_scales[2 * at + place.scales + s]
            if unchanged(words, at, seq):
                live[i] = there
                break


@_kernel
def hashes_of(words: Words, place: Place, rows: Ints, hashes: Ints) -> Any:
    """The hashes of those of `rows` that are live, one behind the other; returns how many."""
    count = 0
    for i in range(len(rows)):
        at = place.origin + rows[i] * place.width
        for _ in range(_TRIES):
            seq = opened(words, at)
            if seq & ONE:
                break
            live = words[at + OWNER] >> HIGH != np.uint64(0)
            hashes[count] = np.int64(words[at + HASH])
            if unchanged(words, at, seq):
                count += 1 if live else 0
                break
    return count


@_kernel
def write_images(words: Words, place: Place, rows: Ints, images: Words) -> None:
    """Make `rows` int64 [n] hold `images` uint64 [n, width], by the row protocol."""
    for i in range(len(rows)):
        write_row(words, place.origin + rows[i] * place.width, images[i])


@_kernel
def note_changes(
    rows: Ints, noted: Bools, entry_of: Rows32, since: Rows32, changes: Rows32, count: int
) -> Any:  # fmt: skip
    """Put those of `rows` that are not `noted` yet into `changes` from number `count` on, and the numbers of their
    changes into `since`, which readers of a later count will see; returns the new count."""
    for i in range(len(rows)):
        row = rows[i]
        if noted[row]:
            continue
        noted[row] = True
        changes[count] = np.int32(row)
        count += 1
        if row < len(entry_of) and entry_of[row] >= 0:
            since[entry_of[row]] = np.int32(count)
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def place_entries(lists: Rows32, cursor: Ints, rows: Rows32) -> None:
    """Fill `rows` int32 [n] with the rows of each list in order; `lists` int32 [rows] has -1 where there is no entry,
    and `cursor` int64 [lists] the place of each list's next entry."""
    for row in range(len(lists)):
        if lists[row] >= 0:
            rows[cursor[lists[row]]] = np.int32(row)
            cursor[lists[row]] += 1


@_kernel
def ones_of(bits: Bytes) -> Any:
    """How many bits are set."""
    ones: Any = 0
    for i in range(len(bits)):
        x = bits[i]
        x = x - ((x >> np.uint8(1)) & np.uint8(0x55))
        x = (x & np.uint8(0x33)) + ((x >> np.uint8(2)) & np.uint8(0x33))
        ones += np.int64((x + (x >> np.uint8(4))) & np.uint8(0x0F))
    return ones


@_kernel
def take_bits(bits: Bytes, rows: Ints) -> None:
    """Clear the bits of `rows` int64 [n]; those outside are nobody's."""
    for i in range(len(rows)):
        at = rows[i] >> 3
        if rows[i] >= 0 and at < len(bits):
            bits[at] &= ~(np.uint8(1) << np.uint8(rows[i] & 7))
