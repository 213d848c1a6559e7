"""The row of one entity by its id, as kernels read it: whose row it is, its vectors and its times, in one window."""

from __future__ import annotations

from typing import Any

import numpy as np

from forebay.arrays import Bools, Bytes, Floats, Ints
from forebay.store.atomics import load_acquire
from forebay.store.kernels import _bare, _kernel
from forebay.store.nameheap import UNIT
from forebay.store.reserved import Words
from forebay.store.rowkernels import (
    _TRIES,
    BUSY,
    FOUND,
    HIGH,
    LOW,
    MISSING,
    NAME,
    ONE,
    States,
    holds,
    marks_of,
    opened,
    probed,
    times_of,
    unchanged,
)
from forebay.store.rowlayout import Layout
from forebay.store.timekernels import weaken


@_bare
def is_named(words: Words, at: int, names: Bytes, named: Any, data: Bytes, start: int, end: int) -> bool:
    """Whether the id of the row at `at` is `data[start:end]`. Of `names` there are `named` bytes."""
    place = words[at + NAME]
    first, length = np.int64(place & LOW) * UNIT, np.int64(place >> HIGH)
    if length != end - start or first + length > named:
        return False
    for k in range(length):  # noqa: SIM110 - a kernel
        if names[first + k] != data[start + k]:
            return False
    return True


@_kernel
def read_entity(
    words: Words, layout: Layout, cells: Words, first_mark: int, partitions: int, named_at: int, names: Bytes,
    wanted: int, entity: Bytes, bounds: Ints, oldest: Ints, default: Floats, vectors: Floats, weakest: Ints,
) -> tuple[Any, Any]:  # fmt: skip
    """The row's number and its state. `vectors` float32 [dim] are what is to be used of it: `default` for a segment
    whose `as_of` is before `oldest` int64 [segments], and for all of them where the entity has no row. `weakest` int64
    [3, segments] is as `weaken` has it of this one row. Word `named_at` has how many bytes of `names`
    there are."""
    ints, flags = words.view(np.int64), words.view(np.uint32)
    codes, scales = words.view(np.int8), words.view(np.float32)
    marks = np.empty(partitions, np.int64)
    marks_of(words, first_mark, marks)
    carried, events = np.empty(layout.segments, np.int64), np.empty(layout.segments, np.int64)
    said = np.empty(layout.segments, np.uint32)
    mask, state, tries = len(cells) - 1, MISSING, 0
    row, looked = probed(cells, wanted, wanted & mask, 0)
    while row >= 0:
        at = layout.origin + row * layout.width
        seq = opened(words, at)
        tries += 1
        if seq & ONE or tries > _TRIES:
            state = BUSY
            break
        if holds(words, at, wanted):
            named = np.int64(load_acquire(words, named_at))
            own = is_named(words, at, names, named, entity, 0, len(entity))
            times_of(words, ints, flags, layout, at, marks, carried, events, said)
            for s in range(layout.segments):
                start, scale = 8 * at + layout.codes, scales[2 * at + layout.scales + s]
                for k in range(bounds[s], bounds[s + 1]):
                    vectors[k] = default[k] if carried[s] < oldest[s] else np.float32(codes[start + k]) * scale
            if unchanged(words, at, seq):
                state = FOUND if own else MISSING  # another entity has this hash
                break
        elif unchanged(words, at, seq):
            row, looked = probed(cells, wanted, wanted & mask, looked)
    weakest[:] = 0
    if state == FOUND:
        for s in range(layout.segments):
            weaken(weakest, s, carried[s], events[s], said[s])
    else:
        vectors[:], weakest[2] = default, 1
    return row, state


@_kernel
def own_rows(
    words: Words, layout: Layout, named_at: int, names: Bytes, rows: Ints, found: Bools, hashes: Ints, places: Ints,
    data: Bytes, starts: Ints, ends: Ints, states: States,
) -> None:  # fmt: skip
    """FOUND in `states` [m] for each of `places` int64 [m] in `rows` and `hashes` int64 [n] that was not `found` bool
    [n], or whose row has that hash and the id `data[starts[i]:ends[i]]`; MISSING for one that has not, or not any more,
    and BUSY for one that is being written."""
    named = np.int64(load_acquire(words, named_at))
    for i in range(len(places)):
        place = places[i]
        states[i] = FOUND
        if not found[place]:
            continue
        at = layout.origin + rows[place] * layout.width
        for _ in range(_TRIES):
            seq = opened(words, at)
            states[i] = BUSY
            if seq & ONE:
                break
            own = holds(words, at, hashes[place]) and is_named(words, at, names, named, data, starts[i], ends[i])
            if unchanged(words, at, seq):
                states[i] = FOUND if own else MISSING
                break
