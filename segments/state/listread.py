"""Lists out of state rows, compiled: an entry's columns into the floats and vocabulary places that an encoder takes.

Its plain twin is tests/segments/state/plainlists.py, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from forebay.arrays import Doubles, Floats, Ints

# What a column of an entry becomes.
ITEM, AGE, THOUSANDTH, CODE, SET, NUMBER = range(6)


def table_of(hashes: Ints) -> npt.NDArray[np.int32]:
    """An open-addressing table of places (1 … m) of the sorted `hashes` int64 [m], at most half full."""
    table = np.zeros(1 << max(3, (2 * len(hashes)).bit_length()), np.int32)
    _fill(table, hashes)
    return table


def read_lists(
    rows: Ints, offset: int, stride: int, ages: Doubles, plan: Ints, table: npt.NDArray[np.int32], hashes: Ints,
    sequence: Floats, items: Ints,
) -> None:  # fmt: skip
    """Fill `sequence` float32 [n, size, width] and `items` int64 [n, size], which are zero, from lists at column
    `offset` of rows int64 [n, …]: how many entries are in use, then `stride` columns for each.

    `plan` int64 [k, 4] says of each column of an entry what it becomes, where it is stored in the entry, and the first
    column and the width of what it becomes. `ages` float64 [n, size] are those of entries, as they are to be told.
    `table` and `hashes` are the vocabulary's.
    """
    _read(rows, offset, stride, ages, plan, table, hashes, sequence, items)


def read_ages(rows: Ints, offset: int, stride: int, ages: Doubles) -> None:
    """Fill `ages` float64 [n, size], which is zero: of each entry in use, how many seconds it is older than the newest
    one of its list. `offset` and `stride` as in read_lists."""
    _ages(rows, offset, stride, ages)


@njit(cache=True, nogil=True)
def _ages(rows: Any, offset: int, stride: int, ages: Any) -> None:
    for n in range(len(rows)):
        used = rows[n, offset]
        for e in range(used):
            newest = rows[n, offset + 1 + (used - 1) * stride]
            ages[n, e] = (newest - rows[n, offset + 1 + e * stride]) / 1000.0


@njit(cache=True, nogil=True)
def _fill(table: Any, hashes: Any) -> None:
    mask = len(table) - 1
    for number in range(len(hashes)):
        cell = hashes[number] & mask
        while table[cell] != 0:
            cell = (cell + 1) & mask
        table[cell] = number + 1


@njit(cache=True, nogil=True)
def _place(table: Any, hashes: Any, wanted: int) -> int:
    mask = len(table) - 1
    cell = wanted & mask
    while table[cell] != 0:
        if hashes[table[cell] - 1] == wanted:
            return table[cell]
        cell = (cell + 1) & mask
    return 0


@njit(cache=True, nogil=True)
def _read(
    rows: Any, offset: int, stride: int, ages: Any, plan: Any, table: Any, hashes: Any, sequence: Any, items: Any
) -> None:
    for n in range(len(rows)):
        for e in range(rows[n, offset]):
            base = offset + 1 + e * stride
            for column in range(len(plan)):
                kind, stored, start, width = plan[column, 0], plan[column, 1], plan[column, 2], plan[column, 3]
                value = rows[n, base + stored]
                if kind == ITEM:
                    items[n, e] = _place(table, hashes, value)
                elif kind == AGE:
                    sequence[n, e, start] = np.float32(ages[n, e])
                elif kind == THOUSANDTH:
                    sequence[n, e, start] = np.float32(value / 1000.0)
                elif kind == CODE:
                    if 0 <= value < width:
                        sequence[n, e, start + value] = np.float32(1)
                elif kind == SET:
                    for k in range(width):
                        sequence[n, e, start + k] = np.float32((value >> k) & 1)
                else:
                    # Odd codes are numbers (columns.py); 0, the column of a row without an update, is none.
                    sequence[n, e, start] = np.float32((value >> 1) / 1000.0)
                    sequence[n, e, start + 1] = np.float32(value & 1)
