"""Watches the recall of an index on live queries, in the background, and tunes how many lists are searched by it.

Each of the newest queries is searched once more, and compared with a scan of all rows. Their lists' places in the order
of that query say how many lists its recall would need.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Ints
from forebay.store.indexkernels import Rows32
from forebay.store.indexsearch import DEEP, SHALLOW, Frozen, Moment, Probes, Searcher
from forebay.store.indextuning import probes_for, ranks_of
from forebay.store.ivf import Ivf

log = logging.getLogger("forebay.index")

_QUERIES = 64  # that the recall is of
_ENOUGH = 16  # of them to tune by
_PAUSE_S = 1.0
_PAUSE_SHARE = 50.0  # times as long as a query took: 2 % of one core at most
_NICE = 10


@dataclass(frozen=True)
class IndexStanding:
    """`entries` of the lists (0: all rows are scanned, exactly), rows `changed` since, `probes` of `lists` for 100
    results; `recall` of the last `watched` live queries, None before the first."""

    entries: int
    changed: int
    lists: int
    probes: int
    recall: float | None
    watched: int


class IndexWatch:
    """Of one Searcher. `step` by one thread."""

    def __init__(
        self, searcher: Searcher, frozen: Callable[[], Frozen | None], now: Callable[[], Moment], recall: float
    ) -> None:
        """`recall` is what is aimed at; `frozen` and `now` tell what a search would look at."""
        self._searcher, self._frozen, self._now, self._aim = searcher, frozen, now, recall
        self._recalls: deque[float] = deque(maxlen=_QUERIES)
        self._ranks: deque[Ints] = deque(maxlen=_QUERIES)
        self._of: tuple[Ivf, Rows32, Rows32] | None = None  # lists, and by row and by entry where it is in them
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """On a thread of its own, which ends with the process or with `close`."""
        self._thread = threading.Thread(target=self._run, name="recall", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def standing(self) -> IndexStanding:
        """How the index stands."""
        recalls, frozen = list(self._recalls), self._frozen()
        recall = float(np.mean(recalls)) if recalls else None
        if frozen is None:
            return IndexStanding(0, 0, 0, 0, recall, len(recalls))
        probes = min(self._searcher.probes_of(frozen).of(SHALLOW), frozen.ivf.lists)
        return IndexStanding(len(frozen.ivf), len(frozen.changes), frozen.ivf.lists, probes, recall, len(recalls))

    def step(self) -> bool:
        """Look at one live query; whether there was one."""
        try:
            query = self._searcher.queries.popleft()
        except IndexError:
            return False
        moment = self._now()
        truth, _ = self._searcher.exact(moment.memory, query, min(DEEP, moment.memory.top))
        found, _ = self._searcher.find(moment, query, SHALLOW)
        best = truth[: max(1, len(found))]
        if not len(best):
            return False
        self._recalls.append(float(np.isin(best, found).mean()))
        if (frozen := moment.frozen) is not None:
            self._ranks.append(ranks_of(frozen.ivf, query, self._lists(moment, frozen, truth)))
            if len(self._ranks) >= _ENOUGH:
                near = np.concatenate([ranks[:SHALLOW] for ranks in self._ranks])
                all_of = np.concatenate(list(self._ranks))
                self._searcher.probes = Probes(probes_for(near, self._aim), probes_for(all_of, self._aim))
        return True

    def _lists(self, moment: Moment, frozen: Frozen, rows: Ints) -> Rows32:
        """The list of each row, -1 for those that are found without one: new ones, and those that changed."""
        ivf = frozen.ivf
        if self._of is None or self._of[0] is not ivf:
            self._of = (ivf, ivf.entry_of(int(ivf.rows.max()) + 1 if len(ivf) else 0), ivf.list_of())
        _, entry_of, list_of = self._of
        lists = np.full(len(rows), -1, np.int32)
        inside = np.flatnonzero(rows < len(entry_of))
        entries = entry_of[rows[inside]]
        inside, entries = inside[entries >= 0], entries[entries >= 0]
        since = frozen.changes.since[entries]
        lists[inside] = np.where((since == 0) | (since > moment.changed), list_of[entries], -1)
        return lists

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        pause = _PAUSE_S
        while not self._stop.wait(pause):
            started = time.monotonic()
            try:
                self.step()
            except Exception:
                log.exception("the recall of the index was not measured")
            pause = max(_PAUSE_S, _PAUSE_SHARE * (time.monotonic() - started))
