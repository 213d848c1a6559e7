"""How often each of very many keys was asked for lately, about: a count-min sketch whose counts age.

Four counts of a byte stand for a key, in four rows of cells; the least of them is the estimate, never under the truth
but where it has aged. A count ends at MOST. After `sample` requests all counts are halved: what was asked for long ago
counts less and less (TinyLFU, Einziger and others, 2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from forebay.arrays import Ints
from forebay.store.kernels import _kernel

Counts = npt.NDArray[np.uint8]

ROWS = 4
MOST = 255
SAMPLES = 10  # requests for each key that there is room for, until all counts are halved
_SEEDS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)


def counts_for(keys: int) -> Counts:
    """uint8 [ROWS, cells] zeros for so many keys: four cells or more for each in every row."""
    return np.zeros((ROWS, 1 << max(6, (4 * keys - 1).bit_length())), np.uint8)


@_kernel
def cell_of(key: Any, row: int, cells: int) -> Any:
    """The cell of `key` in a row of so many, a power of two. The keys are hashes; each row mixes them its own way."""
    mixed = np.uint64(key) * _SEEDS[row]
    return np.int64(mixed >> np.uint64(32)) & (cells - 1)


@_kernel
def estimate(counts: Counts, key: Any) -> int:
    """How often `key` was asked for, about."""
    least = MOST
    for row in range(ROWS):
        found = int(counts[row, cell_of(key, row, counts.shape[1])])
        least = min(least, found)
    return least


@_kernel
def count(counts: Counts, key: Any) -> None:
    """`key` was asked for once more. Only the least of its counts grow."""
    least = estimate(counts, key)
    if least < MOST:
        for row in range(ROWS):
            cell = cell_of(key, row, counts.shape[1])
            if counts[row, cell] == least:
                counts[row, cell] = least + 1


@_kernel
def count_all(counts: Counts, since: Ints, sample: int, keys: Ints) -> None:
    """`count` each of `keys`; `since` int64 [1] has how many there were since the counts were halved."""
    for i in range(len(keys)):
        count(counts, keys[i])
        since[0] += 1
        if since[0] >= sample:
            since[0] //= 2
            for row in range(ROWS):
                for cell in range(counts.shape[1]):
                    counts[row, cell] >>= 1
