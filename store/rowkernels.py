"""The row protocol of shared tables: one process writes rows in place, others read them without a lock.

A row begins with a sequence number: odd while it is written, and another even one after each write. A reader takes it,
sees that the row has the wanted hash, uses the row, and takes the number again: if it is another one, what was read is
not used. The hash inside of this window is what catches a row that went to another entity meanwhile, which is much more
common than half a row.

A cell of the index is one word: the upper half of the hash, and the row's number + 1; 0 is free. So that no reader
finds what is not there yet, a new row is written before its cell; and so that none finds a row that is somebody else's
by then, a cell is dead before its row is overwritten. A writer that dies between two lines leaves an odd row, a row
without a cell, or a cell's row that should be gone: opening the table mends all three (rowwriting.py).

At top level and with `cache=True`, as those of kernels.py. Payloads are read by plain loads beside a writer, which is
formally a race: the fence in `unchanged` is what makes it right, since nothing of such a read is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from forebay.arrays import Bools, Bytes, Floats, Ints
from forebay.prefetch import prefetch
from forebay.store.atomics import fence_acquire, load_acquire
from forebay.store.halfforms import half_words, load_half
from forebay.store.kernels import _bare, _kernel, reads_of
from forebay.store.reserved import Words
from forebay.store.rowlayout import Layout

FOUND, MISSING, BUSY = np.uint8(1), np.uint8(0), np.uint8(2)
States = npt.NDArray[np.uint8]

HASH, NAME, OWNER = 1, 2, 3  # words of a row
ONE, LOW, HIGH = np.uint64(1), np.uint64(0xFFFFFFFF), np.uint64(32)
DEAD = np.uint64(0xFFFFFFFF)
FREE = np.uint64(0)
_SPINS = 1000  # on an odd number, about 1 µs: a row is written in less, unless its writer is not running
_AHEAD = 6  # rows: one takes as long as memory takes to answer several times over
_TRIES = 100  # of a row that is written all the time


@_bare
def opened(words: Words, at: int) -> Any:
    """The sequence number of the row at word `at`; an odd one when its writer does not come to an end."""
    seq = load_acquire(words, at)
    spins = 0
    while seq & ONE and spins < _SPINS:
        seq = load_acquire(words, at)
        spins += 1
    return seq


@_bare
def unchanged(words: Words, at: int, seq: Any) -> bool:
    """Whether what was read of the row since `opened` is of one version."""
    fence_acquire()
    return load_acquire(words, at) == seq


@_bare
def holds(words: Words, at: int, wanted: int) -> Any:
    """Whether the row at `at` is live and of that hash."""
    return words[at + HASH] == np.uint64(wanted) and words[at + OWNER] >> HIGH != np.uint64(0)


@_bare
def probed(cells: Words, wanted: int, start: int, done: int) -> tuple[Any, Any]:
    """The row of the first cell from `start` on whose print is that of hash `wanted`, and the cells looked at, `done`
    included; -1 where there is none. The row's hash is to be compared."""
    mask = len(cells) - 1
    mark = np.uint64(wanted) >> HIGH
    while done <= mask:
        cell = load_acquire(cells, (start + done) & mask)
        if cell == FREE:
            break
        done += 1
        if cell >> HIGH == mark and cell & LOW != DEAD:
            return np.int64(cell & LOW) - 1, done
    return -1, done


@_bare
def find_first(words: Words, layout: Layout, cells: Words, wanted: Ints, rows: Ints, looked: Ints) -> None:
    """For each wanted hash the first row that may be its own, and how many cells were looked at."""
    mask = len(cells) - 1
    for i in range(len(wanted)):
        rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, 0)


@_bare
def ask_ahead(words: Words, layout: Layout, rows: Ints, i: int, head: int, first: int, last: int) -> None:
    """Ask for the first `head` words of a row that is `_AHEAD` rows further on, and for its words `first` to `last`, a
    line each."""
    if i + _AHEAD < len(rows) and rows[i + _AHEAD] >= 0:
        at = layout.origin + rows[i + _AHEAD] * layout.width
        for k in range(0, head, 8):
            prefetch(words, at + k)
        for k in range(first, last, 8):
            prefetch(words, at + k)


@_kernel
def read_rows(words: Words, layout: Layout, cells: Words, wanted: Ints, rows: Ints, states: States, out: Words) -> None:
    """Copy the row of each wanted hash int64 [n] to `out` uint64 [n, width]. `rows` int64 [n] gets its number, -1 where
    there is none, and `states` FOUND, MISSING, or BUSY: written for as long as this looked on."""
    mask = len(cells) - 1
    looked = np.empty(len(wanted), np.int64)
    find_first(words, layout, cells, wanted, rows, looked)
    for i in range(len(wanted)):
        ask_ahead(words, layout, rows, i, 8, 8, layout.width)
        states[i] = MISSING
        tries = 0
        while rows[i] >= 0:
            at = layout.origin + rows[i] * layout.width
            seq = opened(words, at)
            tries += 1
            if seq & ONE or tries > _TRIES:
                states[i] = BUSY
                break
            if holds(words, at, wanted[i]):
                for k in range(layout.width):
                    out[i, k] = words[at + k]
                if unchanged(words, at, seq):
                    states[i] = FOUND
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])


@_bare
def carried_of(
    words: Words, flags: npt.NDArray[np.uint32], layout: Layout, at: int, marks: Ints, s: int, time: Any
) -> Any:
    """The `as_of` of segment `s` of the row at word `at`, which is written as `time`: see `times_of`."""
    owner = np.int64(words[at + OWNER] & LOW)
    mark = marks[owner] if owner < len(marks) else np.int64(0)
    return mark if mark > time and flags[2 * at + layout.flags + s] & np.uint32(1) == 0 else time


@_bare
def times_of(
    words: Words, ints: Ints, flags: npt.NDArray[np.uint32], layout: Layout, at: int, marks: Ints,
    carried: Ints, events: Ints, said: npt.NDArray[np.uint32],
) -> None:  # fmt: skip
    """One row's `as_of` carried on by its partition's watermark unless HELD (bit 0), `last_event` and flags, each
    [segments].

    `marks` int64 [partitions] were taken before the row was opened. Taken after it, a mark could be one that came with
    a later version of the row, and make this one seem to be as new.
    """
    for s in range(layout.segments):
        carried[s] = carried_of(words, flags, layout, at, marks, s, ints[at + layout.as_of + s])
        events[s] = ints[at + layout.last_event + s]
        said[s] = flags[2 * at + layout.flags + s]


@_bare
def marks_of(words: Words, first: int, marks: Ints) -> None:
    """The watermarks that lie from word `first` on."""
    for p in range(len(marks)):
        marks[p] = np.int64(load_acquire(words, first + p))


@_kernel
def read_halves(
    words: Words, layout: Layout, cells: Words, first_mark: int, partitions: int, parts: Ints, wanted: Ints, rows: Ints,
    states: States, halves: Floats, carried: Ints, events: Ints, said: npt.NDArray[np.uint32],
) -> None:  # fmt: skip
    """As `read_rows`, of halves as float32 [n, half_width] (`parts` as `load_half` wants them) and of the times [n,
    segments] that `times_of` tells."""
    mask = len(cells) - 1
    ints, flags, bits = words.view(np.int64), words.view(np.uint32), words.view(np.uint16)
    codes, scales = words.view(np.int8), words.view(np.float32)
    first, last = half_words(layout, parts)
    marks = np.empty(partitions, np.int64)
    marks_of(words, first_mark, marks)
    looked = np.empty(len(wanted), np.int64)
    find_first(words, layout, cells, wanted, rows, looked)
    for i in range(len(wanted)):
        ask_ahead(words, layout, rows, i, layout.scales // 2, first, last)
        states[i] = MISSING
        tries = 0
        while rows[i] >= 0:
            at = layout.origin + rows[i] * layout.width
            seq = opened(words, at)
            tries += 1
            if seq & ONE or tries > _TRIES:
                states[i] = BUSY
                break
            if holds(words, at, wanted[i]):
                times_of(words, ints, flags, layout, at, marks, carried[i], events[i], said[i])
                load_half(bits, codes, scales, layout, parts, at, halves[i])
                if unchanged(words, at, seq):
                    states[i] = FOUND
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def dot_part(codes: npt.NDArray[np.int8], start: Any, query: Floats, first: Any, last: Any) -> Any:
    """The inner product of the codes from `start` on with `query` float32 [dim], of its places `first` to `last`, all
    uint64, in the fastest order. NaN and infinity keep their meaning. No slice is made: it costs what 30 codes cost."""
    dot = np.float32(0)
    for k in range(first, last):
        dot += np.float32(codes[start + k]) * query[k]
    return dot


@_bare
def code_words(layout: Layout, bounds: Ints, reads: Bools) -> tuple[Any, Any]:
    """Where the codes of the segments that `reads` bool [segments] names begin and end in a row, in words; the
    beginning is that of a cache line."""
    low, high = layout.dim, 0
    for s in range(layout.segments):
        if reads[s]:
            low, high = min(low, bounds[s]), bounds[s + 1]
    if low >= high:
        return 0, 0
    return (layout.codes + low) // 64 * 8, (layout.codes + high + 7) // 8


@_kernel
def dot_rows(
    words: Words, layout: Layout, cells: Words, first_mark: int, partitions: int, wanted: Ints, rows: Ints,
    states: States, query: Floats, bounds: Ints, default: Floats, oldest: Ints, scores: Floats, carried: Ints,
    events: Ints, said: npt.NDArray[np.uint32],
) -> None:  # fmt: skip
    """As `read_halves`, of scores float32 [n]: the sum over segments of scale · <codes, query> inside of the window.

    A segment whose carried `as_of` is before `oldest` int64 [segments] counts as `default` float32 [segments] says, and
    so does all of a row that is not found. Segments that the query has zeros for are not read: see `reads_of`.
    """
    mask = len(cells) - 1
    ints, flags, scales, codes = (
        words.view(np.int64),
        words.view(np.uint32),
        words.view(np.float32),
        words.view(np.int8),
    )
    marks = np.empty(partitions, np.int64)
    marks_of(words, first_mark, marks)
    looked = np.empty(len(wanted), np.int64)
    find_first(words, layout, cells, wanted, rows, looked)
    missing, reads = np.float32(0), np.empty(layout.segments, np.bool_)
    reads_of(query, bounds, reads)
    first, last = code_words(layout, bounds, reads)
    for s in range(layout.segments):
        missing += default[s]
    for i in range(len(wanted)):
        ask_ahead(words, layout, rows, i, (layout.flags + layout.segments + 1) // 2, first, last)
        states[i] = MISSING
        scores[i] = missing
        tries = 0
        while rows[i] >= 0:
            at = layout.origin + rows[i] * layout.width
            seq = opened(words, at)
            tries += 1
            if seq & ONE or tries > _TRIES:
                states[i] = BUSY
                break
            if holds(words, at, wanted[i]):
                times_of(words, ints, flags, layout, at, marks, carried[i], events[i], said[i])
                score, start = np.float32(0), np.uint64(8 * at + layout.codes)
                for s in range(layout.segments):
                    if carried[i, s] < oldest[s]:
                        score += default[s]
                        continue
                    if not reads[s]:
                        continue
                    dot = dot_part(codes, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
                    score += dot * scales[2 * at + layout.scales + s]
                if unchanged(words, at, seq):
                    states[i] = FOUND
                    scores[i] = score
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])


@_kernel
def read_names(words: Words, layout: Layout, names: Bytes, rows: Ints, hashes: Ints, lengths: Ints, out: Bytes) -> None:
    """The ids of `rows` int64 [n] into `out` uint8 [n, most bytes], and their `lengths`: -1 for a row that has another
    hash than the one given, or none, by now, and -2 for one that is being written."""
    for i in range(len(rows)):
        lengths[i] = -1
        if rows[i] < 0:
            continue
        at = layout.origin + rows[i] * layout.width
        for _ in range(_TRIES):
            seq = opened(words, at)
            lengths[i] = -2
            if seq & ONE:
                break
            mine = holds(words, at, hashes[i])
            place = words[at + NAME]
            start, length = np.int64(place & LOW) * 16, np.int64(place >> HIGH)
            mine = mine and length <= out.shape[1] and start + length <= len(names)
            if mine:
                for k in range(length):
                    out[i, k] = names[start + k]
            if unchanged(words, at, seq):
                lengths[i] = length if mine else -1
                break


@_kernel
def scan_rows(
    words: Words, layout: Layout, top: int, query: Floats, bounds: Ints, wanted: Any, added: Floats, scores: Floats,
    hashes: Ints,
) -> int:  # fmt: skip
    """Inner products of all live rows below `top` with `query` float32 [dim], and their hashes, one behind the other;
    returns how many. A row that is being written all the while is left out. Of rows that `wanted` bool [top] has as
    False nothing is read; `added` float32 [top] goes on top of the products. Either may be empty: all rows, nothing."""
    scales, codes = words.view(np.float32), words.view(np.int8)
    reads = np.empty(layout.segments, np.bool_)
    reads_of(query, bounds, reads)
    count = 0
    for row in range(top):
        if len(wanted) and not wanted[row]:
            continue
        at = layout.origin + row * layout.width
        for _ in range(_TRIES):
            seq = opened(words, at)
            if seq & ONE:
                break
            live = words[at + OWNER] >> HIGH != np.uint64(0)
            if live:
                score, start = np.float32(0), np.uint64(8 * at + layout.codes)
                for s in range(layout.segments):
                    if not reads[s]:
                        continue
                    dot = dot_part(codes, start, query, np.uint64(bounds[s]), np.uint64(bounds[s + 1]))
                    score += dot * scales[2 * at + layout.scales + s]
                if len(added):
                    score += added[row]
                scores[count], hashes[count] = score, np.int64(words[at + HASH])
            if unchanged(words, at, seq):
                if live:
                    count += 1
                break
    return count


@_kernel
def read_served(
    words: Words, layout: Layout, cells: Words, wanted: Ints, rows: Ints, states: States, columns: Ints
) -> None:  # fmt: skip
    """As `read_rows`, of the serving columns int64 [n, columns]."""
    mask = len(cells) - 1
    ints = words.view(np.int64)
    looked = np.empty(len(wanted), np.int64)
    find_first(words, layout, cells, wanted, rows, looked)
    for i in range(len(wanted)):
        if i + _AHEAD < len(rows) and rows[i + _AHEAD] >= 0:
            ahead = layout.origin + rows[i + _AHEAD] * layout.width
            for k in range(0, layout.served + layout.columns, 8):
                prefetch(words, ahead + k)
        states[i] = MISSING
        tries = 0
        while rows[i] >= 0:
            at = layout.origin + rows[i] * layout.width
            seq = opened(words, at)
            tries += 1
            if seq & ONE or tries > _TRIES:
                states[i] = BUSY
                break
            if holds(words, at, wanted[i]):
                for k in range(layout.columns):
                    columns[i, k] = ints[at + layout.served + k]
                if unchanged(words, at, seq):
                    states[i] = FOUND
                    break
            elif unchanged(words, at, seq):
                rows[i], looked[i] = probed(cells, wanted[i], wanted[i] & mask, looked[i])


@_kernel
def scan_served(words: Words, layout: Layout, top: int, columns: Ints, live: Any) -> None:
    """The serving columns int64 [top, columns] of all rows below `top`, and which of them are `live` bool [top]. A row
    that is being written all the while is not."""
    ints = words.view(np.int64)
    for row in range(top):
        at = layout.origin + row * layout.width
        if row + _AHEAD < top:
            for k in range(0, layout.served + layout.columns, 8):
                prefetch(words, at + _AHEAD * layout.width + k)
        live[row] = False
        for _ in range(_TRIES):
            seq = opened(words, at)
            if seq & ONE:
                break
            there = words[at + OWNER] >> HIGH != np.uint64(0)
            for k in range(layout.columns):
                columns[row, k] = ints[at + layout.served + k]
            if unchanged(words, at, seq):
                live[row] = there
                break


@_kernel
def word_of(words: Words, at: int) -> Any:
    """`words[at]`, before all that is read after it."""
    return load_acquire(words, at)
