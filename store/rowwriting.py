"""The writer's half of the row protocol (rowkernels.py): one process, one thread at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from forebay.arrays import Bools, Bytes, Ints
from forebay.store.atomics import fence_release, load_acquire, store_release
from forebay.store.kernels import _kernel
from forebay.store.reserved import Words
from forebay.store.rowkernels import DEAD, FREE, HASH, HIGH, LOW, ONE, holds, probed
from forebay.store.rowlayout import Layout


@_kernel
def find_own(words: Words, layout: Layout, cells: Words, wanted: Ints, rows: Ints) -> None:
    """The row of each wanted hash, -1 where there is none, for the writer, beside whom nobody writes."""
    mask = len(cells) - 1
    for i in range(len(wanted)):
        row, looked = probed(cells, wanted[i], wanted[i] & mask, 0)
        while row >= 0 and not holds(words, layout.origin + row * layout.width, wanted[i]):
            row, looked = probed(cells, wanted[i], wanted[i] & mask, looked)
        rows[i] = row


@_kernel
def write_row(words: Words, at: int, image: Words) -> None:
    """Make the row at word `at` hold `image` uint64 [width], but for its sequence number."""
    seq = words[at] | ONE
    store_release(words, at, seq)
    fence_release()
    for k in range(1, len(image)):
        words[at + k] = image[k]
    store_release(words, at, seq + ONE)


@_kernel
def add_cell(cells: Words, wanted: Any, row: int) -> None:
    """Let readers find `row` under its hash. There is a free cell."""
    mask = len(cells) - 1
    at = wanted & mask
    while load_acquire(cells, at) != FREE:  # dead cells are not reused: they go when the index is built anew
        at = (at + 1) & mask
    store_release(cells, at, (np.uint64(wanted) >> HIGH) << HIGH | np.uint64(row + 1))


@_kernel
def write_rows(words: Words, layout: Layout, cells: Words, images: Words, rows: Ints, fresh: Bools) -> None:
    """Write `images` uint64 [n, width] to `rows` int64 [n], and give those that are `fresh` their cells."""
    for i in range(len(rows)):
        write_row(words, layout.origin + rows[i] * layout.width, images[i])
        if fresh[i]:
            add_cell(cells, np.int64(images[i, HASH]), rows[i])


@_kernel
def same_names(names: Bytes, places: Ints, lengths: Ints, data: Bytes, starts: Ints, ends: Ints, same: Bools) -> None:
    """Whether the id in `names` from `places[i]` on, `lengths[i]` bytes long, is that in `data` from `starts[i]` to
    `ends[i]`."""
    for i in range(len(places)):
        same[i] = lengths[i] == ends[i] - starts[i]
        for k in range(lengths[i]):
            if not same[i]:
                break
            same[i] = names[places[i] + k] == data[starts[i] + k]


@_kernel
def drop_rows(words: Words, layout: Layout, cells: Words, rows: Ints) -> None:
    """Take `rows`, each live and once, out of the index, and then make them zeros."""
    mask = len(cells) - 1
    nothing = np.zeros(layout.width, np.uint64)
    for i in range(len(rows)):
        at = layout.origin + rows[i] * layout.width
        cell = np.int64(words[at + HASH]) & mask
        while cells[cell] & LOW != np.uint64(rows[i] + 1):
            cell = (cell + 1) & mask
        store_release(cells, cell, DEAD)
        write_row(words, at, nothing)


@_kernel
def fill_cells(words: Words, layout: Layout, cells: Words, rows: Ints) -> None:
    """Put live `rows` into cells that nobody reads yet."""
    for i in range(len(rows)):
        add_cell(cells, np.int64(words[layout.origin + rows[i] * layout.width + HASH]), rows[i])


@_kernel
def mend_rows(words: Words, layout: Layout, top: int) -> int:
    """Make zeros of rows below `top` whose writer died in them; returns how many there were."""
    nothing = np.zeros(layout.width, np.uint64)
    mended = 0
    for row in range(top):
        at = layout.origin + row * layout.width
        if words[at] & ONE:
            write_row(words, at, nothing)
            mended += 1
    return mended


@_kernel
def put_word(words: Words, at: int, value: Any) -> None:
    """`words[at] = value`, seen after all that was written before."""
    store_release(words, at, np.uint64(value))
