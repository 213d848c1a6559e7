"""The item index of one process: its rows, and lists of them once there are many (ivf.py).

An index row is the item's stored codes, segment by segment; the query is the user half of a fusion that folds to one
inner product. Any number of threads search beside one that writes, and none of them waits: rows are read by the row
protocol (rowkernels.py), and lists are never changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from forebay.arrays import Bytes, Floats, Int8s, Ints
from forebay.store import indexkernels
from forebay.store.indexkeeper import IndexOptions, Keeper
from forebay.store.indexkernels import Place
from forebay.store.indexsearch import Changes, Frozen, Memory, Moment, Probes, Searcher
from forebay.store.ivf import Ivf
from forebay.store.keptclusters import ClusterFile
from forebay.store.reserved import Words

_HEAD_WORDS = 4  # as the rows of shared tables begin: sequence number, hash, name, owner
_LEAST_ROWS = 1024


class ItemIndex:
    """Rows of `bounds[-1]` codes in `len(bounds) - 1` segments, under the item table's row numbers."""

    def __init__(
        self,
        bounds: Ints,
        options: IndexOptions = IndexOptions(),
        read: Ints | None = None,
        file: ClusterFile | None = None,
    ) -> None:
        """`read` and `file` as a Keeper has them."""
        self.bounds, self.dim = np.ascontiguousarray(bounds, np.int64), int(bounds[-1])
        segments = len(bounds) - 1
        scale_words = (segments + 1) // 2
        width = _HEAD_WORDS + scale_words + (self.dim + 7) // 8
        self._place = Place(0, width, segments, 2 * _HEAD_WORDS, 8 * (_HEAD_WORDS + scale_words), self.dim)
        self._write = threading.Lock()
        self._words: Words = np.zeros(_LEAST_ROWS * width, np.uint64)
        self._top = self._count = 0
        self._frozen: Frozen | None = None  # what is searched
        self.searcher = Searcher(self.bounds)
        self.keeper = Keeper(self.memory, self.bounds, self, options, read, file)

    def __len__(self) -> int:
        """Rows that a search can return."""
        return self._count

    @property
    def frozen(self) -> Frozen | None:
        """The lists that are searched, None while there are none."""
        return self._frozen

    def memory(self) -> Memory:
        """Where the rows lie now."""
        top = self._top  # before the words: they have all rows below it
        return Memory(self._words, self._place, top)

    def now(self) -> Moment:
        """What a search looks at."""
        return Moment.now(self._frozen, self.memory)

    def upsert(self, rows: Ints, codes: Int8s, scales: Floats) -> None:
        """Set `rows` int64 [n] to `codes` int8 [n, dim] with `scales` float32 [n, segments], in place or beyond the
        end. The last of a repeated row wins.

        Raises ValueError, before anything is changed, for a wrong shape, a negative row, or a scale that is not finite:
        no search would return the row.
        """
        if codes.shape != (len(rows), self.dim) or scales.shape != (len(rows), len(self.bounds) - 1):
            raise ValueError(
                f"codes of shape {codes.shape} and scales of {scales.shape} for {len(rows)} rows of {self.dim} codes"
            )
        if not len(rows):
            return
        if int(rows.min()) < 0:
            raise ValueError("a negative row")
        if not np.isfinite(scales).all():
            raise ValueError("a scale that is not finite")
        images = np.zeros((len(rows), self._place.width), np.uint64)
        images[:, 3] = 1 << 32  # live
        at = 4 * self._place.scales
        images.view(np.uint8)[:, at : at + 4 * scales.shape[1]] = np.ascontiguousarray(scales, np.float32).view(
            np.uint8
        )
        images.view(np.int8)[:, self._place.codes : self._place.codes + self.dim] = codes
        with self._write:
            self._make_room(int(rows.max()) + 1)
            self._put(np.ascontiguousarray(rows, np.int64), images)
        self.keeper.look()

    def remove(self, rows: Ints) -> None:
        """Forget `rows`: their numbers become zeros, and no search returns them until they are set again."""
        with self._write:
            rows = np.unique(rows[(rows >= 0) & (rows < self._top)])
            if len(rows):
                self._put(rows, np.zeros((len(rows), self._place.width), np.uint64))
        self.keeper.look()

    def search(
        self, query: Floats, k: int, deny_rows: Ints | None = None, allowed: Bytes | None = None
    ) -> tuple[Ints, Floats]:
        """The `k` rows with the highest inner product with `query` float32 [dim], best first, and the products.

        Exact while there are no lists; from then on a share of them, `IndexOptions.recall` on average, and the products
        are exact. Fewer than `k` when fewer are left after `deny_rows` (unknown rows among them do no harm) and of the
        `allowed` ones: uint8, one bit a row, lowest bit first. Raises ValueError for a query of another shape or one
        that is not finite.
        """
        found = self.searcher.find(self.now(), query, k, deny_rows, allowed)
        self.searcher.queries.append(query)
        return found

    def settle(self) -> None:
        """Make lists now if they are due."""
        self.keeper.settle()

    def filling(self) -> AbstractContextManager[None]:
        """For a block that writes the rows of a whole store: lists are made at its end."""
        return self.keeper.filling()

    def warm(self) -> None:
        """Compile what searches run, with lists and without: the first lists may come in the middle of requests."""
        twin, segments = ItemIndex(self.bounds, IndexOptions(flat_rows=0)), len(self.bounds) - 1
        query, allowed = np.ones(self.dim, np.float32), np.array([3], np.uint8)
        twin.searcher.exact(Memory(self._words, self._place, 0), query, 1)
        with twin.filling():
            twin.upsert(np.arange(2), np.ones((2, self.dim), np.int8), np.ones((2, segments), np.float32))
        twin.search(query, 1, np.zeros(1, np.int64), allowed)
        twin.searcher.exact(twin.memory(), query, 1)

    def close(self) -> None:
        """Wait for what is being made in the background."""
        self.keeper.close()

    # -- the keeper's: see Home

    def kept(self, ivf: Ivf, data: Bytes) -> Ivf:
        return ivf

    def show(self, ivf: Ivf, capacity: int, probes: Probes, fill: Callable[[Changes], None]) -> Frozen:
        changes = Changes.empty(len(ivf), max(capacity, self._capacity))
        fill(changes)
        self._frozen = Frozen(ivf, changes, probes)
        return self._frozen

    def grown(self, frozen: Frozen, capacity: int) -> Frozen:
        old, longer = frozen.changes, np.zeros(max(capacity, self._capacity), np.int32)
        longer[: len(old.rows)] = old.rows
        self._frozen = Frozen(frozen.ivf, Changes(old.count, longer, old.since), frozen.probes)
        return self._frozen

    def none(self) -> None:
        self._frozen = None

    # -- under the lock

    @property
    def _capacity(self) -> int:
        return len(self._words) // self._place.width

    def _put(self, rows: Ints, images: Words) -> None:
        """One version of each row after another; the keeper knows of them first."""
        heads = self._words.reshape(-1, self._place.width)[:, 3]
        once = np.unique(rows)
        before = int((heads[once] != 0).sum())
        with self.keeper.changing(rows, self._capacity):
            indexkernels.write_images(self._words, self._place, rows, images)
            self._top = max(self._top, int(rows.max()) + 1)
        self._count += int((heads[once] != 0).sum()) - before

    def _make_room(self, rows: int) -> None:
        """Twice as many, elsewhere: a search goes on in the memory that it has."""
        if rows > self._capacity:
            larger = np.zeros(max(rows, 2 * self._capacity) * self._place.width, np.uint64)
            larger[: len(self._words)] = self._words
            self._words = larger
