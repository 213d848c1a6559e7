"""Dense features out of state rows, compiled: sums, means and attributes into the floats that an encoder takes.

Its plain twin is tests/segments/state/plaindense.py, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from forebay.arrays import Floats, Ints

# What columns of a row become.
COUNT, MEAN, CODE, SET, NUMBER = range(5)


def read_dense(rows: Ints, plan: Ints, found: Floats) -> None:
    """Fill columns of `found` float32 [n, dense width], which is zero, from rows int64 [n, …].

    `plan` int64 [k, 5] says of each part what it becomes, the first column that it is read from and the first that it
    is written to; then, of a count or a mean, how many buckets and keys it has, and of an attribute 1 and its width.
    """
    sizes = plan[plan[:, 0] == COUNT][:, 4]
    totals = np.empty((len(rows), int(sizes.sum())), np.float32)
    _read(np.ascontiguousarray(rows), plan, totals, found)
    # Not in the kernel: the last bit of a logarithm is its library's affair.
    logs, at = np.log1p(totals), 0
    for first, keys in zip(plan[plan[:, 0] == COUNT][:, 2].tolist(), sizes.tolist(), strict=True):
        found[:, first : first + keys] = logs[:, at : at + keys]
        at += keys


@njit(cache=True, nogil=True, error_model="numpy")
def _read(rows: Any, plan: Any, totals: Any, found: Any) -> None:
    for n in range(len(rows)):
        row, to, log = rows[n], found[n], 0
        for part in range(len(plan)):
            kind, first, at, buckets, keys = plan[part, 0], plan[part, 1], plan[part, 2], plan[part, 3], plan[part, 4]
            if kind == COUNT:
                all_keys = 0
                for k in range(keys):
                    total = _total(row, first + k, buckets, keys)
                    totals[n, log + k] = np.float32(total)
                    all_keys += total
                log += keys
                # Shares beside sizes: taste is what part of the events a key had, however many there were.
                for k in range(keys if keys > 1 else 0):
                    to[at + keys + k] = np.float32(_total(row, first + k, buckets, keys) / max(all_keys, 1))
            elif kind == MEAN:
                # Sum and count over (count + 5): a linear layer makes of the two a mean shrunk towards any prior that
                # it learns.
                for k in range(keys):
                    count = _total(row, first + k, buckets, keys)
                    weight = 1.0 / (count + 5.0)
                    whole = _total(row, first + buckets * keys + k, buckets, keys)
                    to[at + k] = np.float32(whole / 1000.0 * weight)
                    to[at + keys + k] = np.float32(count * weight)
            elif kind == CODE:
                if 0 <= row[first] < keys:
                    to[at + row[first]] = np.float32(1)
            elif kind == SET:
                for k in range(keys):
                    to[at + k] = np.float32((row[first] >> k) & 1)
            else:
                # Odd codes are numbers (columns.py); 0, the column of a row without an update, is none.
                to[at] = np.float32((row[first] >> 1) / 1000.0)
                to[at + 1] = np.float32(row[first] & 1)


@njit(cache=True, nogil=True)
def _total(row: Any, first: int, buckets: int, keys: int) -> int:
    """Of one key over all buckets."""
    total = 0
    for bucket in range(buckets):
        total += row[first + bucket * keys]
    return total
