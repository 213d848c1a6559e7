"""The recall that is told is that of live queries, and by it enough lists are searched."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.store.index import ItemIndex
from forebay.store.indexkeeper import IndexOptions
from forebay.store.indexsearch import Probes
from forebay.store.indextuning import probes_for, ranks_of
from forebay.store.indexwatch import IndexWatch

BOUNDS = np.array([0, 8])
ROWS = 3_000


@pytest.fixture(scope="module")
def index() -> ItemIndex:
    """Without clusters: many lists are needed."""
    made = ItemIndex(BOUNDS, IndexOptions(flat_rows=500))
    codes = np.random.default_rng(0).integers(-127, 128, (ROWS, 8)).astype(np.int8)
    made.upsert(np.arange(ROWS), codes, np.full((ROWS, 1), 0.01, np.float32))
    made.settle()
    assert made.frozen is not None
    return made


def _watch(index: ItemIndex) -> IndexWatch:
    index.searcher.queries.clear()
    index.searcher.probes = None
    return IndexWatch(index.searcher, lambda: index.frozen, index.now, 0.95)


def _ask(index: ItemIndex, queries: int, seed: int = 1) -> float:
    """So many live queries; returns the recall of what they were answered."""
    random, recall = np.random.default_rng(seed), []
    for query in random.standard_normal((queries, 8)).astype(np.float32):
        found = index.search(query, 100)[0]
        recall.append(np.isin(index.searcher.exact(index.memory(), query, 100)[0], found).mean())
    return float(np.mean(recall))


def test_what_is_told_is_what_live_queries_got(index: ItemIndex) -> None:
    """By far too few lists, and the newest 64 of all queries."""
    watch = _watch(index)
    assert not watch.step() and watch.standing().recall is None
    index.searcher.probes = Probes(20, 20)
    got = _ask(index, 10)
    for _ in range(10):
        assert watch.step()
    standing = watch.standing()
    assert standing.recall == pytest.approx(got) and standing.watched == 10 and got < 0.8
    assert (standing.entries, standing.changed, standing.probes) == (ROWS, 0, 20) and not watch.step()


def test_lists_are_searched_for_the_recall_that_is_aimed_at(index: ItemIndex) -> None:
    """From too few and from too many, by queries that are none of those that it is measured on."""
    for start in (1, 10**6):
        watch = _watch(index)
        index.searcher.probes = Probes(start, start)
        _ask(index, 60)
        while watch.step():
            pass
        probes = watch.standing().probes
        assert index.frozen is not None and 1 < probes < index.frozen.ivf.lists
        assert 0.93 <= _ask(index, 100, seed=2) <= 0.98


def test_rows_that_changed_need_no_list() -> None:
    """All of them written again: nothing is left in the lists, and one is enough."""
    index = ItemIndex(BOUNDS, IndexOptions(flat_rows=500))
    codes = np.random.default_rng(0).integers(-127, 128, (ROWS, 8)).astype(np.int8)
    index.upsert(np.arange(ROWS), codes, np.full((ROWS, 1), 0.01, np.float32))
    index.settle()
    watch = _watch(index)
    index.upsert(np.arange(ROWS), codes, np.full((ROWS, 1), 0.01, np.float32))
    _ask(index, 20)
    while watch.step():
        pass
    assert watch.standing().recall == 1 and index.searcher.probes == Probes(1, 1)
    assert watch.standing().changed == ROWS


def test_the_fewest_lists_that_hold_the_share() -> None:
    assert probes_for(np.array([[0, 0, 1, 9], [0, 2, 2, 30]]), 0.75) == 3
    assert probes_for(np.array([0, 4]), 1.0) == 5
    assert probes_for(np.empty(0, np.int64), 0.9) == 1


def test_ranks_are_the_order_in_which_lists_are_probed(index: ItemIndex) -> None:
    assert index.frozen is not None
    ivf, query = index.frozen.ivf, np.random.default_rng(3).standard_normal(8).astype(np.float32)
    order = index.searcher.order(ivf, query, ivf.lists)
    assert ranks_of(ivf, query, order.astype(np.int32)).tolist() == list(range(ivf.lists))
    assert ranks_of(ivf, query, np.array([-1], np.int32)).tolist() == [0]


def test_it_watches_by_itself(index: ItemIndex) -> None:
    """On a thread that ends when it is told to."""
    watch = _watch(index)
    _ask(index, 1)
    watch.start()
    for _ in range(600):
        if watch.standing().watched:
            break
        watch._stop.wait(0.05)
    watch.close()
    assert watch.standing().watched == 1 and watch._thread is not None and not watch._thread.is_alive()
