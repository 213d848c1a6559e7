"""A search of the item index: what changed since the lists were made, where it lies now, and then the best lists.

A search takes the number of changes once, and what it answers is of that moment or later: an entry of the lists whose
row had changed by then is left out, and its row is scored where it lies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bytes, Floats, Ints
from forebay.store import indexkernels, kernels
from forebay.store.indexkernels import Place, Rows32
from forebay.store.ivf import Ivf
from forebay.store.reserved import Words
from forebay.store.rowkernels import word_of

SHALLOW, DEEP = 100, 1000  # for so many results probes are measured
_ALL = np.zeros(0, np.uint8)  # a bitmap that allows every row
_NONE32 = np.zeros(0, np.int32)
_NOTHING = np.empty(0, np.int64), np.empty(0, np.float32)
_CHUNK = 8192


@dataclass(frozen=True)
class Memory:
    """Rows where they lie: `words` uint64, and all live rows are below `top`."""

    words: Words
    place: Place
    top: int


@dataclass(frozen=True)
class Probes:
    """How many lists are searched for SHALLOW and for DEEP results."""

    shallow: int
    deep: int

    def of(self, results: float) -> int:
        """For so many results: in between as between the two, and beyond in proportion."""
        if results <= DEEP:
            share = max(0.0, (results - SHALLOW) / (DEEP - SHALLOW))
            return round(self.shallow + (self.deep - self.shallow) * share)
        return round(self.deep * results / DEEP)


@dataclass(frozen=True)
class Changes:
    """Rows that changed since the lists were made: `count` uint64 [1] and so many row numbers in `rows` int32
    [capacity], each once. `since` int32 [entries] has for each entry of the lists the number of its row's change, from
    1 on, or 0."""

    count: Words
    rows: Rows32
    since: Rows32

    @classmethod
    def empty(cls, entries: int, capacity: int) -> Changes:
        """In this process's memory."""
        return cls(np.zeros(1, np.uint64), np.zeros(capacity, np.int32), np.zeros(entries, np.int32))

    def __len__(self) -> int:
        return int(word_of(self.count, 0))


@dataclass(frozen=True)
class Frozen:
    """Lists and what changed since, which go together; `probes` is what their maker measured."""

    ivf: Ivf
    changes: Changes
    probes: Probes


@dataclass(frozen=True)
class Moment:
    """What one search looks at: the lists, None where all rows are scanned, and how many changes of them it knows."""

    memory: Memory
    frozen: Frozen | None
    changed: int = 0

    @classmethod
    def now(cls, frozen: Frozen | None, memory: Callable[[], Memory]) -> Moment:
        """The memory after the changes: it has the rows of all of them. Changes that `frozen` has no room for came
        later."""
        changed = 0 if frozen is None else min(len(frozen.changes), len(frozen.changes.rows))
        return cls(memory(), frozen, changed)


class Searcher:
    """Finds rows. `frozen` is None below the size from which lists pay, and as long as there are none."""

    def __init__(self, bounds: Ints) -> None:
        """`bounds` int64 [segments + 1] of the dimensions."""
        self.bounds, self.dim = bounds, int(bounds[-1])
        self.queries: deque[Floats] = deque(maxlen=64)  # the newest live ones
        self.probes: Probes | None = None  # measured on live queries, for lists that were made since, too

    def probes_of(self, frozen: Frozen) -> Probes:
        """What is searched."""
        return self.probes or frozen.probes

    def find(
        self,
        moment: Moment,
        query: Floats,
        k: int,
        deny_rows: Ints | None = None,
        allowed: Bytes | None = None,
    ) -> tuple[Ints, Floats]:
        """The `k` rows int64 with the highest inner product with `query` float32 [dim], best first, and the products.

        Fewer than `k` when fewer are left of those `allowed` (uint8, one bit a row, lowest bit first) and not among
        `deny_rows`. Raises ValueError for a query of another shape or one that is not finite.
        """
        query, memory, frozen = checked(query, self.dim), moment.memory, moment.frozen
        k = min(k, memory.top)
        if k <= 0:
            return _NOTHING
        bits, left = _bits(memory.top, deny_rows, allowed)
        if frozen is not None and left:
            ivf = frozen.ivf
            wanted = k if allowed is None else k * memory.top / left
            probes = min(self.probes_of(frozen).of(wanted), ivf.lists)
            # Of few rows that are allowed each is scored sooner than the lists that may hold them.
            if allowed is None or left > probes * len(ivf) / ivf.lists:
                return self._in_lists(moment, frozen, query, k, bits, probes)
        return self.exact(memory, query, k, bits)

    def exact(self, memory: Memory, query: Floats, k: int, bits: Bytes = _ALL) -> tuple[Ints, Floats]:
        """As `find`, of every row."""
        keys, heap = np.empty(k, np.float32), np.empty(k, np.int64)
        size = 0
        for first in range(0, memory.top, _CHUNK):
            last = min(first + _CHUNK, memory.top)
            size = indexkernels.scan_all(
                memory.words, memory.place, first, last, self.bounds, query, bits, keys, heap, size
            )
        return _taken(keys, heap, size)

    def order(self, ivf: Ivf, query: Floats, probes: int) -> Ints:
        """The lists that are probed, the best ones first."""
        lists: Ints = kernels.top_k(ivf.centroids @ query, probes)
        return lists

    def _in_lists(
        self, moment: Moment, frozen: Frozen, query: Floats, k: int, bits: Bytes, probes: int
    ) -> tuple[Ints, Floats]:
        memory, ivf, changes, changed = moment.memory, frozen.ivf, frozen.changes, moment.changed
        keys, heap = np.empty(k, np.float32), np.empty(k, np.int64)
        size = changed_size = indexkernels.scan_changed(
            memory.words, memory.place, changes.rows, changed, self.bounds, query, bits, keys, heap, 0
        )
        arrays = (ivf.starts, ivf.rows, ivf.codes, ivf.scales, self.bounds, query, changes.since, changed, bits)
        lists = self.order(ivf, query, probes)
        size = indexkernels.scan_lists(lists, *arrays, keys, heap, changed_size)
        if size < k and probes < ivf.lists:  # filters left too few in these lists
            rest = self.order(ivf, query, ivf.lists)[probes:]
            size = indexkernels.scan_lists(rest, *arrays, keys, heap, size)
        return _taken(keys, heap, size)


def checked(query: Floats, dim: int) -> Floats:
    """As float32 [dim]. Raises ValueError."""
    query = np.ascontiguousarray(query, np.float32)
    if query.shape != (dim,) or not np.isfinite(query).all():
        raise ValueError(f"a query of shape {query.shape}, or not finite; {dim} finite numbers are needed")
    return query


def parts_of(memory: Memory, bounds: Ints, numbers: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Live ones of the rows `numbers` int64 and their vectors float32 [n, dim], some thousands at a time."""
    dims = np.diff(bounds)
    for first in range(0, len(numbers), _CHUNK):
        rows = numbers[first : first + _CHUNK]
        codes, scales = np.zeros((len(rows), int(bounds[-1])), np.int8), np.zeros((len(rows), len(dims)), np.float32)
        live = np.zeros(len(rows), np.bool_)
        indexkernels.copy_rows(memory.words, memory.place, rows, codes, scales, live)
        yield rows[live], codes[live].astype(np.float32) * np.repeat(scales[live], dims, axis=1)


def _bits(top: int, deny_rows: Ints | None, allowed: Bytes | None) -> tuple[Bytes, int]:
    """The bitmap of what may be found, empty for all, and how many rows of it there are at most."""
    denies = deny_rows is not None and len(deny_rows)
    if allowed is None and not denies:
        return _ALL, top
    size = (top + 7) >> 3
    bits = np.full(size, 255, np.uint8) if allowed is None else np.ascontiguousarray(allowed[:size], np.uint8)
    if denies:
        assert deny_rows is not None
        bits = bits.copy() if allowed is not None else bits
        indexkernels.take_bits(bits, np.ascontiguousarray(deny_rows, np.int64))
    if not len(bits):
        bits = np.zeros(1, np.uint8)
    return bits, int(indexkernels.ones_of(bits))


def _taken(keys: Floats, heap: Ints, size: int) -> tuple[Ints, Floats]:
    products, rows = np.empty(size, np.float32), np.empty(size, np.int64)
    indexkernels.sorted_heap(keys, heap, size, products, rows)
    return rows, products
