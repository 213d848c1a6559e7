"""One pass over the candidates' rows: found, read, dequantised, joined and the best kept, by the row protocol.

What is scored lies in the nearest cache and goes nowhere from there but into its score; times are kept of the rows that
came among the best, and of no others. The numpy twin is SharedReading's `scores` with `kernels.top_k` behind it: the
same places, and scores to the bound that segments/fusions/joinkernels.py states.

A candidate that has no row, or is `gone`, scores as the default vectors do. `boost` float32 [n] is added to the scores
before the best are chosen; an empty one adds nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Floats, Ints
from forebay.segments.fusions.joined import Joined
from forebay.segments.fusions.joinkernels import join_half, room_for
from forebay.store.halfforms import half_words, load_half
from forebay.store.kernels import _bare, _kernel, _sift, reads_of
from forebay.store.reserved import Words
from forebay.store.rowkernels import (
    _TRIES,
    BUSY,
    FOUND,
    MISSING,
    ONE,
    States,
    ask_ahead,
    carried_of,
    code_words,
    dot_part,
    find_first,
    holds,
    marks_of,
    opened,
    probed,
    times_of,
    unchanged,
)
from forebay.store.rowlayout import Layout

EXPIRED = np.uint8(3)  # a state: the half is of a row of which a segment may not be used any more


class Passed(NamedTuple):
    """What a pass fills in, of n candidates: row numbers int64 [n], states [n], scores float32 [n] with the boost; the
    times int64 and flags uint32 [n, segments] of those that were among the best; and the places of the best int64
    [k], best first."""

    rows: Ints
    states: States
    scores: Floats
    as_of: Ints
    last_event: Ints
    flags: npt.NDArray[np.uint32]
    best: Ints

    @classmethod
    def empty(cls, n: int, segments: int, k: int) -> Passed:
        shape = (n, segments)
        return cls(
            np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n, np.float32), np.empty(shape, np.int64),
            np.empty(shape, np.int64), np.empty(shape, np.uint32), np.empty(min(k, n), np.int64),
        )  # fmt: skip


@_bare
def push(keys: Floats, heap: Ints, size: int, score: Any, place: int) -> int:
    """Keep (score, place) if it is among the best of those that came; later places come later. Returns how many are
    kept. As in `kernels.top_k`, whose loop this is."""
    if np.isnan(score):
        score = np.float32(-np.inf)
    if size < len(keys):
        at = size
        while at > 0:
            up = (at - 1) >> 1
            if keys[up] < score or (keys[up] == score and heap[up] > place):
                break
            keys[at], heap[at] = keys[up], heap[up]
            at = up
        keys[at], heap[at] = score, place
        return size + 1
    if size > 0 and score > keys[0]:
        _sift(keys, heap, size, score, place)
    return size


@_bare
def drain(keys: Floats, heap: Ints, size: int, best: Ints) -> None:
    """The kept places into `best`, best first."""
    for out in range(size - 1, -1, -1):
        best[out] = heap[0]
        size -= 1
        if size > 0:
            _sift(keys, heap, size, keys[size], heap[size])


@_bare
def enters(keys: Floats, size: int, score: Any) -> Any:
    """Whether `push` may keep a score: times are read of such rows alone."""
    return size < len(keys) or (size > 0 and not score <= keys[0])


@_bare
def dot_row(
    words: Words, ints: Ints, flags: npt.NDArray[np.uint32], codes: npt.NDArray[np.int8], scales: Floats,
    layout: Layout, at: int, marks: Ints, query: Floats, bounds: Ints, oldest: Ints, default: Floats, reads: Bools,
) -> Any:  # fmt: skip
    """The inner product of the row at word `at` with `query`, of segments that `reads` bool [segments] names, and for
    those that are not to be used `default`."""
    total, start = np.float32(0), np.uint64(8 * at + layout.codes)
    for s in range(layout.segments):
        time = ints[at + layout.as_of + s]
        if time < oldest[s] and carried_of(words, flags, layout, at, marks, s, time) < oldest[s]:
            total += default[s]
            continue
        if not reads[s]:
            continue
        dot = dot_part(codes, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
        total += dot * scales[2 * at + layout.scales + s]
    return total


@_bare
def has_expired(
    words: Words, ints: Ints, flags: npt.NDArray[np.uint32], layout: Layout, at: int, marks: Ints, oldest: Ints
) -> Any:
    """Whether the half of the row at word `at` has a segment that is not to be used any more. What was never written is
    the default vector in a half."""
    expired = False
    for s in range(layout.segments):
        time = ints[at + layout.as_of + s]
        if time < oldest[s]:
            expired |= 0 < carried_of(words, flags, layout, at, marks, s, time) < oldest[s]
    return expired


@_kernel
def pass_halves(
    words: Words, layout: Layout, cells: Words, first_mark: int, partitions: int, wanted: Ints, gone: Bools,
    boost: Floats, oldest: Ints, parts: Ints, joined: Joined, lacking: Floats, out: Passed,
) -> int:  # fmt: skip
    """By halves as rows have them (`parts` as `load_half` wants them), `lacking` float32 [half_width] for what has
    none. Returns how many rows are not settled: EXPIRED ones have no score, and BUSY ones that of `lacking`."""
    ints, flags, bits = words.view(np.int64), words.view(np.uint32), words.view(np.uint16)
    codes, scales = words.view(np.int8), words.view(np.float32)
    mask, n, unsettled, size = len(cells) - 1, len(wanted), 0, 0
    marks, looked = np.empty(partitions, np.int64), np.empty(n, np.int64)
    marks_of(words, first_mark, marks)
    rows, states, scores, as_of, last_event, told, best = out
    find_first(words, layout, cells, wanted, rows, looked)
    keys, heap = np.empty(len(best), np.float32), np.empty(len(best), np.int64)
    kind, user, outward, bias, vector, meets, weights, mixing = joined
    products, hidden, noughts = room_for(joined)
    half = np.empty(layout.half_width, np.float32)
    first, last = half_words(layout, parts)
    missing = join_half(kind, user, outward, bias, vector, meets, weights, mixing, lacking, products, hidden, noughts)
    carried, events = np.empty(layout.segments, np.int64), np.empty(layout.segments, np.int64)
    said = np.empty(layout.segments, np.uint32)
    for i in range(n):
        ask_ahead(words, layout, rows, i, layout.as_of + layout.segments, first, last)
        more = boost[i] if len(boost) > 0 else np.float32(0)
        state, score, tries = MISSING, missing + more, 0
        while rows[i] >= 0 and not gone[i]:
            at = layout.origin + rows[i] * layout.width
            seq = opened(words, at)
            tries += 1
            if seq & ONE or tries > _TRIES:
                state = BUSY
                break
            if holds(words, at, wanted[i]):
                expired = has_expired(words, ints, flags, layout, at, marks, oldest)
                load_half(bits, codes, scales, layout, parts, at, half)
                own = more + join_half(
                    kind, user, outward, bias, vector, meets, weights, mixing, half, products, hidden, noughts
                )
                if enters(keys, size, own):
                    times_of(words, ints, flags, layout, at, marks, carried, events, said)
                if unchanged(words, at, seq):
                    state = EXPIRED if expired else FOUND
                    score = score if expired else own
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])
        states[i], scores[i] = state, score
        if state in (EXPIRED, BUSY):
            unsettled += 1
        if enters(keys, size, score):
            for s in range(layout.segments):
                as_of[i, s], last_event[i, s], told[i, s] = carried[s], events[s], said[s]
            size = push(keys, heap, size, score, i)
    drain(keys, heap, size, best)
    return unsettled


@_kernel
def pass_dots(
    words: Words, layout: Layout, cells: Words, first_mark: int, partitions: int, wanted: Ints, gone: Bools,
    boost: Floats, oldest: Ints, query: Floats, bounds: Ints, default: Floats, bias: Any, out: Passed,
) -> int:  # fmt: skip
    """By the inner product of codes and `query` float32 [dim], segment by segment, and `bias`. A segment whose `as_of`
    is before `oldest` int64 [segments] counts as `default` float32 [segments] says; one that the query has zeros for is
    not read (`reads_of`). Returns how many rows are BUSY."""
    ints, flags = words.view(np.int64), words.view(np.uint32)
    codes, scales = words.view(np.int8), words.view(np.float32)
    mask, n, unsettled, size = len(cells) - 1, len(wanted), 0, 0
    marks, looked = np.empty(partitions, np.int64), np.empty(n, np.int64)
    marks_of(words, first_mark, marks)
    rows, states, scores, as_of, last_event, told, best = out
    find_first(words, layout, cells, wanted, rows, looked)
    keys, heap = np.empty(len(best), np.float32), np.empty(len(best), np.int64)
    reads, missing = np.empty(layout.segments, np.bool_), np.float32(bias)
    reads_of(query, bounds, reads)
    first, last = code_words(layout, bounds, reads)
    head = (layout.flags + layout.segments + 1) // 2  # with the scales
    for s in range(layout.segments):
        missing += default[s]
    carried, events = np.empty(layout.segments, np.int64), np.empty(layout.segments, np.int64)
    said = np.empty(layout.segments, np.uint32)
    for i in range(n):
        ask_ahead(words, layout, rows, i, head, first, last)
        more = boost[i] if len(boost) > 0 else np.float32(0)
        state, score, tries = MISSING, missing + more, 0
        while rows[i] >= 0 and not gone[i]:
            at = layout.origin + rows[i] * layout.width
            seq = opened(words, at)
            tries += 1
            if seq & ONE or tries > _TRIES:
                state = BUSY
                break
            if holds(words, at, wanted[i]):
                total = dot_row(
                    words, ints, flags, codes, scales, layout, at, marks, query, bounds, oldest, default, reads
                )
                own = (total + np.float32(bias)) + more
                if enters(keys, size, own):
                    times_of(words, ints, flags, layout, at, marks, carried, events, said)
                if unchanged(words, at, seq):
                    state, score = FOUND, own
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])
        states[i], scores[i] = state, score
        if state == BUSY:
            unsettled += 1
        if enters(keys, size, score):
            for s in range(layout.segments):
                as_of[i, s], last_event[i, s], told[i, s] = carried[s], events[s], said[s]
            size = push(keys, heap, size, score, i)
    drain(keys, heap, size, best)
    return unsettled
