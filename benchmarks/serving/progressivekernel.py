"""Compiled passes over the codes of rows that leave out what cannot matter, beside those of the product: for
progressive.py.

Both leave out segments that the query has nothing for. With `bounded` they read the others in `order`, the worthiest
first, and leave a row where the sum of what was read, and of the most that the rest can be, does not reach the worst of
the k best so far. Scores of rows that are read whole are added up in the order of the segments, so that they have the
bits of the plain pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.store.indexkernels import Place, _push
from forebay.store.kernels import _kernel
from forebay.store.onepass import Passed, drain, push
from forebay.store.reserved import Words
from forebay.store.rowkernels import (
    _TRIES,
    BUSY,
    FOUND,
    HIGH,
    MISSING,
    ONE,
    OWNER,
    ask_ahead,
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


@_kernel
def pass_ordered(
    words: Words, layout: Layout, cells: Words, first_mark: int, partitions: int, wanted: Ints, gone: Bools,
    boost: Floats, oldest: Ints, query: Floats, bounds: Ints, default: Floats, bias: Any, order: Ints, bounded: bool,
    ahead: int, lengths: Floats, centred: Floats, slack: Any, out: Passed,
) -> int:  # fmt: skip
    """As `pass_dots`. `order` int64 [m] are segments; `lengths` float32 [segments] are the norms of the query's,
    `centred` float32 [segments] its products with the centres, and `slack` what rounding may come to. The radii of a
    row are float32 [segments] where halves would lie. The codes of the first `ahead` of `order` are asked for."""
    ints, flags = words.view(np.int64), words.view(np.uint32)
    codes, scales = words.view(np.int8), words.view(np.float32)
    mask, n, unsettled, size = len(cells) - 1, len(wanted), 0, 0
    marks, looked = np.empty(partitions, np.int64), np.empty(n, np.int64)
    marks_of(words, first_mark, marks)
    rows, states, scores, as_of, last_event, told, best = out
    find_first(words, layout, cells, wanted, rows, looked)
    keys, heap = np.empty(len(best), np.float32), np.empty(len(best), np.int64)
    low, high = layout.dim, 0
    for m in range(min(ahead, len(order))):
        low, high = min(low, bounds[order[m]]), max(high, bounds[order[m] + 1])
    first = (layout.scales // 2 if not bounded else (layout.codes + low) // 8) // 8 * 8
    last = (layout.codes + high + 7) // 8
    missing, middle = np.float32(bias), np.float32(bias) + np.float32(slack)
    for s in range(layout.segments):
        missing += default[s]
        middle += centred[s]
    carried, events = np.empty(layout.segments, np.int64), np.empty(layout.segments, np.int64)
    said, parts = np.empty(layout.segments, np.uint32), np.zeros(layout.segments, np.float32)
    reach = np.zeros(layout.segments, np.float32)
    for i in range(n):
        ask_ahead(words, layout, rows, i, (layout.flags + layout.segments + 1) // 2, first, last)
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
                times_of(words, ints, flags, layout, at, marks, carried, events, said)
                upper, least = np.float32(np.inf), np.float32(-np.inf)
                if bounded and size == len(keys) and size > 0:
                    least, upper = keys[0], middle + more
                    for m in range(len(order)):
                        s = order[m]
                        reach[s] = lengths[s] * scales[2 * at + layout.half // 2 + s]
                        upper += reach[s]
                    for s in range(layout.segments):
                        if carried[s] < oldest[s]:
                            upper = np.float32(np.inf)  # what stands in for it is no part of the bound
                m, start = 0, np.uint64(8 * at + layout.codes)
                while m < len(order) and not upper <= least:
                    s = order[m]
                    dot = dot_part(codes, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
                    parts[s] = dot * scales[2 * at + layout.scales + s]
                    upper += (parts[s] - centred[s]) - reach[s]
                    m += 1
                total = np.float32(-np.inf)
                if m == len(order):
                    total = np.float32(0)
                    for s in range(layout.segments):
                        total += default[s] if carried[s] < oldest[s] else parts[s]
                if unchanged(words, at, seq):
                    state, score = FOUND, (total + np.float32(bias)) + more
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])
        states[i], scores[i] = state, score
        if state == BUSY:
            unsettled += 1
        if size < len(keys) or (size > 0 and not score <= keys[0]):
            for s in range(layout.segments):
                as_of[i, s], last_event[i, s], told[i, s] = carried[s], events[s], said[s]
            size = push(keys, heap, size, score, i)
    drain(keys, heap, size, best)
    return unsettled


@_kernel
def scan_ordered(
    words: Words, place: Place, last: int, bounds: Ints, query: Floats, order: Ints, bounded: bool, radii: Floats,
    lengths: Floats, centred: Floats, slack: Any, keys: Floats, heap: Ints,
) -> Any:  # fmt: skip
    """As `scan_all` of the rows before `last`; `radii` float32 [rows, segments], the rest as in `pass_ordered`."""
    scales, codes = words.view(np.float32), words.view(np.int8)
    parts, reach = np.zeros(place.segments, np.float32), np.zeros(place.segments, np.float32)
    middle, size = np.float32(slack), 0
    for s in range(place.segments):
        middle += centred[s]
    for row in range(last):
        at = place.origin + row * place.width
        for _ in range(_TRIES):
            seq = opened(words, at)
            if seq & ONE:
                break
            live = words[at + OWNER] >> HIGH != np.uint64(0)
            score, start, m = np.float32(-np.inf), np.uint64(8 * at + place.codes), 0
            if live:
                upper, least = np.float32(np.inf), np.float32(-np.inf)
                if bounded and size == len(keys):
                    least, upper = keys[0], middle
                    for m in range(len(order)):
                        s = order[m]
                        reach[s] = lengths[s] * radii[row, s]
                        upper += reach[s]
                    m = 0
                while m < len(order) and not upper < least:
                    s = order[m]
                    dot = dot_part(codes, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
                    parts[s] = dot * scales[2 * at + place.scales + s]
                    upper += (parts[s] - centred[s]) - reach[s]
                    m += 1
                if m == len(order):
                    score = np.float32(0)
                    for s in range(place.segments):
                        score += parts[s]
            if unchanged(words, at, seq):
                if live and (size < len(keys) or score >= keys[0]):
                    size = _push(keys, heap, size, score, np.int64(row))
                break
    return size
