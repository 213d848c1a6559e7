"""Keeps an index's lists up to date beside one writer: notes what changes, and makes new lists of it in the background.

The writer says which rows it writes, and then writes them (`changing`). New lists are made of the rows
where they lie. What is written meanwhile is noted for both, the lists that are searched and those to come: so nothing
is lost at the turn, and nobody waits for it. Beside the old lists and the new ones the making needs 4 bytes a row, one
sample and one chunk of vectors.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forebay.arrays import Bools, Bytes, Floats, Ints
from forebay.errors import ForebayError
from forebay.store import indexkernels
from forebay.store.faissbuild import Clusters, best_of_many, few_threads, one_installed
from forebay.store.indexkernels import Rows32
from forebay.store.indexsearch import DEEP, SHALLOW, Changes, Frozen, Memory, Probes, parts_of
from forebay.store.indextuning import probes_for, ranks_of
from forebay.store.ivf import Ivf
from forebay.store.keptclusters import ClusterFile
from forebay.store.rowwriting import put_word

log = logging.getLogger("forebay.index")

_SAMPLE_QUERIES = 64
_SAMPLE_SEED = 2
_NICE = 10  # of the thread that makes lists: lookups come first


@dataclass(frozen=True)
class IndexOptions:
    """`flat_rows`: up to so many rows all are scanned, which is exact. 4,000 take 0.13 ms where lists take 0.08, 8,000
    0.22 and 0.11, 32,000 0.74 and 0.13 (64 dimensions, recall .98). `recall`: the share of the best rows that a search
    is to find. Lists are made anew when `changed_rows` and one row of `changed_part` have changed,
    and trained anew when half of the rows have."""

    flat_rows: int = 4_000
    recall: float = 0.98
    changed_rows: int = 4_096
    changed_part: int = 128
    pause_share: float = 3.0  # times as long as the making took, before the next one

    def lists_for(self, rows: int) -> int:
        """A power of two near 4 √rows: scoring centroids and scoring entries then cost about as much."""
        return int(2 ** round(np.log2(max(4.0, 4 * rows**0.5))))

    def due(self, entries: int, changed: int) -> bool:
        """Whether new lists are to be made."""
        return changed > self.changed_rows + entries // self.changed_part


class Home(Protocol):
    """Where lists are kept, and shown to those that search."""

    def kept(self, ivf: Ivf, data: Bytes) -> Ivf:
        """These lists, whose bytes are `data`, where they will be searched; nobody waits for it. Raises TableFull."""

    def show(self, ivf: Ivf, capacity: int, probes: Probes, fill: Callable[[Changes], None]) -> Frozen:
        """Lists that are searched from now on. `fill` notes in their Changes what changed while they were made, before
        anybody sees them. Raises TableFull."""

    def grown(self, frozen: Frozen, capacity: int) -> Frozen:
        """The same lists, with room for changes of so many rows. Raises TableFull."""

    def none(self) -> None:
        """All rows are scanned from now on."""


class Keeper:
    """For one writer. `changing` is called by it; `settle` by anybody."""

    def __init__(
        self,
        memory: Callable[[], Memory],
        bounds: Ints,
        home: Home,
        options: IndexOptions = IndexOptions(),
        read: Ints | None = None,
        file: ClusterFile | None = None,
    ) -> None:
        """`memory` tells where the rows lie now. `read` are the columns in which queries may be other than zero (None:
        all): rows are gathered by those alone. `file` is where clusters outlast the process."""
        one_installed()
        self.options, self.bounds = options, bounds
        self._reads = np.zeros(int(bounds[-1]), np.float32)
        self._reads[slice(None) if read is None else read] = 1.0
        self._memory, self._home = memory, home
        self._lock = threading.Lock()  # around what is noted, and the turn
        self._making = threading.Lock()  # one thread makes lists
        self.frozen: Frozen | None = None
        self._noted: Bools = np.zeros(0, np.bool_)  # by row: in the Changes already
        self._entry_of: Rows32 = np.zeros(0, np.int32)
        self._marked: Bools | None = None  # by row: changed since the making began
        self._file = file
        self._clusters: Clusters | None = None
        self._probes: Probes | None = None  # of the clusters
        if file is not None and (found := file.load(int(bounds[-1]))) is not None:
            self._clusters, self._probes = found
        self._drift = 0  # rows that changed since the clusters were trained
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._closed = self._filling = False
        self.made = 0  # lists, since the start

    @contextmanager
    def changing(self, rows: Ints, capacity: int) -> Iterator[None]:
        """`rows` int64 [n], all below `capacity`, are written or made nobody's in the block, and told of before it. No
        making begins within: it would know nothing of rows that it reads before they are written."""
        with self._lock:
            if self._marked is not None:
                self._marked = _longer(self._marked, capacity)
                self._marked[rows] = True
            if self.frozen is not None:
                self._note(rows, capacity)
            yield

    def look(self) -> None:
        """Begin to make lists, on a thread, when that is due. After a write."""
        if (
            self._closed
            or self._filling
            or self._thread is not None
            or time.monotonic() < self._not_before
            or not self._due()
        ):
            return
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._behind, name="index", daemon=True)
        self._thread.start()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """The rows of a whole store are written in the block: lists of the first of them would be of no use. At its end
        they are made if they are due."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False
        self.settle()

    def settle(self, *, patient: bool = True) -> None:
        """Make lists now if they are due, or if anything changed at all when not `patient`; returns when they are
        there. Raises TableFull."""
        if (thread := self._thread) is not None:
            thread.join()
        if self._due() or (not patient and self.frozen is not None and len(self.frozen.changes)):
            self._make()

    def resume(self, frozen: Frozen, capacity: int) -> None:
        """Go on with lists that another writer has made, and with what it noted. Before anything is written."""
        count = len(frozen.changes)
        self._entry_of, self._noted = frozen.ivf.entry_of(capacity), np.zeros(capacity, np.bool_)
        self._noted[frozen.changes.rows[:count]] = True
        self.frozen, self._clusters, self._probes = frozen, Clusters(frozen.ivf.centroids), frozen.probes

    def forget(self) -> None:
        """The lists are not there any more: others are due."""
        with self._lock:
            self.frozen = None

    def close(self) -> None:
        """Wait for what is being made."""
        self._closed = True
        if (thread := self._thread) is not None:
            thread.join()

    def _due(self) -> bool:
        if self.frozen is None:
            return self._memory().top > self.options.flat_rows
        return self.options.due(len(self.frozen.ivf), len(self.frozen.changes))

    def _note(self, rows: Ints, capacity: int) -> None:
        assert self.frozen is not None
        if capacity > len(self.frozen.changes.rows):
            try:
                self.frozen = self._home.grown(self.frozen, capacity)
            except ForebayError as error:
                log.error("%s; all items are scanned", error)
                self.frozen = None
                self._home.none()
                return
        self._noted = _longer(self._noted, capacity)
        changes = self.frozen.changes
        count = indexkernels.note_changes(rows, self._noted, self._entry_of, changes.since, changes.rows, len(changes))
        put_word(changes.count, 0, count)

    def _behind(self) -> None:
        started = time.monotonic()
        try:
            few_threads()
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            self._make()
        except Exception:
            log.exception("no index was made; the one before it goes on, and all items are scanned if there was none")
        finally:
            self._not_before = time.monotonic() + self.options.pause_share * (time.monotonic() - started)
            self._thread = None

    def _make(self) -> None:
        """1 mark from now on · 2 the list of each row · 3 fill · 4 turn."""
        with self._making:
            started = time.monotonic()
            with self._lock:
                memory, before = self._memory(), self.frozen
                self._marked = np.zeros(memory.top, np.bool_)
                changed = np.empty(0, np.int64) if before is None else before.changes.rows[: len(before.changes)]
            try:
                lists, clusters, trained = self._lists(memory, before, changed)
                if clusters is None:
                    return
                ivf = self._home.kept(*self._filled(memory, lists, clusters))
                probes = self._measured(ivf) if trained or self._probes is None else self._probes
                if trained and self._file is not None:
                    self._file.save(clusters, probes)
                entry_of = ivf.entry_of(memory.top)  # before the lock: it takes milliseconds
                with self._lock:
                    self._turn(ivf, entry_of, probes)
                    self._clusters, self._drift = clusters, 0 if trained else self._drift + len(changed)
                    self._probes = probes
                self.made += 1
                took = time.monotonic() - started
                how = "trained" if trained else "filled"
                log.info("%s entries in %s lists %s in %.1f s", f"{len(ivf):,}", f"{ivf.lists:,}", how, took)
            finally:
                with self._lock:
                    self._marked = None

    def _lists(
        self, memory: Memory, before: Frozen | None, changed: Ints | Rows32
    ) -> tuple[Rows32, Clusters | None, bool]:
        """int32 [top]: each live row's list, -1 for none; the clusters, and whether they were trained for it."""
        lists = np.full(memory.top, -1, np.int32)
        clusters, asked, trained = self._clusters, np.arange(memory.top), False
        if clusters is None or not self._fit(clusters, memory.top, before, len(changed)):
            sample = _sample(memory, self.bounds, self.options)
            if len(sample) == 0:
                return lists, None, False
            # Centroids are zero where the sample is, so that `nearest` reads the same columns.
            lists_wanted = min(self.options.lists_for(memory.top), len(sample))
            clusters, trained = Clusters.trained(sample * self._reads, lists_wanted), True
        elif before is not None:
            lists[before.ivf.rows] = before.ivf.list_of()
            lists[changed] = -1
            asked = np.sort(changed).astype(np.int64)
        for rows, vectors in parts_of(memory, self.bounds, asked):
            lists[rows] = clusters.nearest(vectors)
        return lists, clusters, trained

    def _fit(self, clusters: Clusters, rows: int, before: Frozen | None, changed: int) -> bool:
        """Whether rows are put into the lists of these clusters. Those of a file are of another time."""
        if before is not None:
            return 2 * (self._drift + changed) <= len(before.ivf)
        return 0.5 <= len(clusters.centroids) / self.options.lists_for(rows) <= 2

    def _filled(self, memory: Memory, lists: Rows32, clusters: Clusters) -> tuple[Ivf, Bytes]:
        counts = np.bincount(lists[lists >= 0], minlength=len(clusters.centroids))
        dim, segments = memory.place.dim, memory.place.segments
        ivf, data = Ivf.empty(len(counts), dim, segments, int(counts.sum()))
        ivf.centroids[:] = clusters.centroids
        ivf.starts[1:] = np.cumsum(counts)
        indexkernels.place_entries(lists, ivf.starts[:-1].copy(), ivf.rows)
        step = 8192
        for first in range(0, len(ivf), step):
            part = slice(first, first + step)
            rows = ivf.rows[part].astype(np.int64)
            # A row that is not there any more was marked: its entry is left out from the turn on.
            indexkernels.copy_rows(
                memory.words, memory.place, rows, ivf.codes[part], ivf.scales[part], np.zeros(len(rows), np.bool_)
            )
        return ivf, data

    def _measured(self, ivf: Ivf) -> Probes:
        """For the recall that is wanted, with some of the vectors as queries: lookups that come measure anew."""
        random, dims = np.random.default_rng(_SAMPLE_SEED), np.diff(self.bounds)
        some = random.integers(0, len(ivf), _SAMPLE_QUERIES)
        queries = ivf.codes[some].astype(np.float32) * np.repeat(ivf.scales[some], dims, axis=1) * self._reads

        def parts() -> Iterator[tuple[Ints, Floats]]:
            for first in range(0, len(ivf), 8192):
                part = slice(first, first + 8192)
                scales = np.repeat(ivf.scales[part], dims, axis=1)
                yield np.arange(first, min(first + 8192, len(ivf))), ivf.codes[part].astype(np.float32) * scales

        best = best_of_many(parts(), queries, min(DEEP, len(ivf)))
        ranks = np.stack(
            [ranks_of(ivf, query, ivf.list_of()[found]) for query, found in zip(queries, best, strict=True)]
        )
        return Probes(probes_for(ranks[:, :SHALLOW], self.options.recall), probes_for(ranks, self.options.recall))

    def _turn(self, ivf: Ivf, entry_of: Rows32, probes: Probes) -> None:
        assert self._marked is not None
        capacity, marked = max(len(self._marked), self._memory().top), np.flatnonzero(self._marked)
        noted = np.zeros(capacity, np.bool_)

        def fill(changes: Changes) -> None:
            count = indexkernels.note_changes(marked, noted, entry_of, changes.since, changes.rows, 0)
            put_word(changes.count, 0, count)

        self.frozen = self._home.show(ivf, capacity, probes, fill)
        self._entry_of, self._noted = entry_of, noted


def _longer(flags: Bools, capacity: int) -> Bools:
    if len(flags) >= capacity:
        return flags
    return np.concatenate([flags, np.zeros(capacity - len(flags), np.bool_)])


def _sample(memory: Memory, bounds: Ints, options: IndexOptions) -> Floats:
    """Vectors float32 of live rows to train on, each row as likely."""
    most = Clusters.sample_size(options.lists_for(memory.top))
    random = np.random.default_rng(_SAMPLE_SEED)
    rows = np.sort(random.choice(memory.top, min(memory.top, 2 * most), replace=False))
    parts = [vectors for _, vectors in parts_of(memory, bounds, rows)]
    found = np.concatenate(parts) if parts else np.empty((0, int(bounds[-1])), np.float32)
    return found if len(found) <= most else found[np.sort(random.choice(len(found), most, replace=False))]
