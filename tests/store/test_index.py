"""The item index: scanned while it is small, in lists once it is large, and only ever of rows that are there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.arrays import Floats, Int8s, Ints
from forebay.segments.quantize import dequantize, quantize
from forebay.store.index import ItemIndex
from forebay.store.indexkeeper import IndexOptions

BOUNDS = np.array([0, 3, 8])
WHOLE = IndexOptions(flat_rows=0, recall=1.0, changed_rows=5, changed_part=1 << 30, pause_share=0)  # all lists probed
KINDS = {"flat": IndexOptions(), "lists": WHOLE}


def _stored(vectors: Floats, bounds: Ints = BOUNDS) -> tuple[Int8s, Floats, Floats]:
    """Codes, scales, and the vectors that these are."""
    parts = [quantize(vectors[:, a:b]) for a, b in pairwise(bounds)]
    codes, scales = np.concatenate([c for c, _ in parts], axis=1), np.stack([s for _, s in parts], axis=1)
    return codes, scales, np.concatenate([dequantize(*part) for part in parts], axis=1)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), k=st.integers(1, 80))
def test_search_equals_a_plain_scan(kind: str, seed: int, n: int, k: int) -> None:
    """After updates, removals and with a deny list and allowed rows, the same rows as a sort of all products; in lists,
    too, of which all are probed, and which are made anew again and again."""
    rng = np.random.default_rng(seed)
    index, vectors = ItemIndex(BOUNDS, KINDS[kind]), np.zeros((n, 8), np.float32)
    alive = np.zeros(n, bool)
    for _ in range(4):
        rows = rng.permutation(n)[: rng.integers(0, n + 1)]
        codes, scales, vectors[rows] = _stored(rng.standard_normal((len(rows), 8), np.float32))
        index.upsert(rows, codes, scales)
        alive[rows] = True
        gone = rng.permutation(n)[: rng.integers(0, n // 2 + 1)]
        index.remove(gone)
        alive[gone] = False
        if rng.integers(2):
            index.settle()
    index.close()
    assert len(index) == alive.sum() and (kind == "lists" or index.frozen is None)
    deny, query = rng.integers(-1, n + 5, 5), rng.standard_normal(8, np.float32)
    share = rng.random(n) < rng.choice([0.05, 0.5, 1.0])
    for allowed in (None, np.packbits(share, bitorder="little")):
        rows, products = index.search(query, k, deny, allowed)
        found = alive & ~np.isin(np.arange(n), deny) & (share if allowed is not None else True)
        expected = np.sort((vectors @ query)[found])[::-1][:k]
        np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-5)
        assert found[rows].all() and len(set(rows.tolist())) == len(rows)


def test_rows_are_gathered_by_the_columns_that_queries_read() -> None:
    """Those that no query reads would only keep apart what a query finds together."""
    rng, n = np.random.default_rng(5), 3000
    codes, scales, vectors = _stored(rng.standard_normal((n, 8), np.float32) * ([1.0] * 3 + [4.0] * 5))
    made = {}
    for name, read in ("read", np.arange(3)), ("all", None):
        made[name] = index = ItemIndex(BOUNDS, IndexOptions(flat_rows=100), read)
        index.upsert(np.arange(n), codes, scales)
        index.settle()
    ours, theirs = (made[name].frozen for name in ("read", "all"))
    assert ours is not None and theirs is not None
    assert not ours.ivf.centroids[:, 3:].any() and theirs.ivf.centroids[:, 3:].any()
    recalls = dict.fromkeys(made, 0.0)
    for _ in range(100):
        query = np.zeros(8, np.float32)
        query[:3] = rng.standard_normal(3)
        best = set(np.argsort(-(vectors @ query))[:20].tolist())
        for name, index in made.items():
            recalls[name] += len(best & set(index.search(query, 20)[0].tolist())) / 2000
    assert recalls["read"] > 0.95 > recalls["all"] + 0.2


def test_what_is_not_a_vector_is_refused() -> None:
    """NaN would be counted and never returned; a wrong shape would be an assertion without a text."""
    index = ItemIndex(np.array([0, 2]))
    for rows, codes, scales in (
        ([0], [[1, 0]], [[np.nan]]),
        ([0], [[1, 0]], [[np.inf]]),
        ([-1], [[1, 0]], [[1]]),
        ([0], [[1, 0, 0]], [[1]]),
        ([0], [[1, 0]], [[1, 1]]),
        ([0, 1], [[1, 0]], [[1]]),
    ):
        with pytest.raises(ValueError):
            index.upsert(np.array(rows), np.array(codes, np.int8), np.array(scales, np.float32))
    assert len(index) == 0
    for query in ([np.nan, 0], [1], [[1, 2]]):
        with pytest.raises(ValueError):
            index.search(np.array(query, np.float32), 1)


def test_an_empty_index_answers_nothing() -> None:
    """Neither does one whose rows were all removed, nor k = 0."""
    index, query = ItemIndex(np.array([0, 2]), WHOLE), np.ones(2, np.float32)
    assert len(index.search(query, 5)[0]) == 0
    index.upsert(np.array([9]), np.ones((1, 2), np.int8), np.ones((1, 1), np.float32))
    assert index.search(query, 10**9)[0].tolist() == [9]
    assert len(index.search(query, 0)[0]) == 0
    index.remove(np.array([9, 500]))
    assert len(index.search(query, 5)[0]) == 0
    index.settle()
    assert len(index.search(query, 5)[0]) == 0


def _filled(rows: int, options: IndexOptions, seed: int = 0) -> tuple[ItemIndex, Floats, Callable[[int], Floats]]:
    """An index over clustered vectors, those, and more of their kind."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((100, 32), np.float32)

    def more(count: int) -> Floats:
        return centres[rng.integers(100, size=count)] + 0.35 * rng.standard_normal((count, 32), np.float32)

    bounds = np.array([0, 16, 32])
    index = ItemIndex(bounds, options)
    codes, scales, vectors = _stored(more(rows), bounds)
    index.upsert(np.arange(rows), codes, scales)
    return index, vectors, more


def _recall(index: ItemIndex, vectors: Floats, queries: Floats, k: int = 50) -> float:
    hits = 0
    for query in queries:
        best = np.argpartition(-(vectors @ query), k)[:k]
        hits += len(set(index.search(query, k)[0].tolist()) & set(best.tolist()))
    return hits / (k * len(queries))


def test_the_recall_is_the_one_that_was_asked_for_and_stays_so_under_churn() -> None:
    """After 30 % of the rows have been written again it is within .01 of a new index's."""
    index, vectors, more = _filled(20_000, IndexOptions(recall=0.98, pause_share=0, changed_rows=500))
    index.settle()
    frozen, queries = index.frozen, more(100)
    assert frozen is not None and index.searcher.probes_of(frozen).shallow < frozen.ivf.lists / 2
    assert _recall(index, vectors, queries) >= 0.97
    rng = np.random.default_rng(1)
    for _ in range(30):
        rows = rng.choice(20_000, 200, replace=False)
        codes, scales, vectors[rows] = _stored(more(200), index.bounds)
        index.upsert(rows, codes, scales)
    index.close()
    assert index.keeper.made > 1
    fresh = ItemIndex(index.bounds, IndexOptions(recall=0.98))
    codes, scales, _ = _stored(vectors, index.bounds)
    fresh.upsert(np.arange(20_000), codes, scales)
    fresh.settle()
    assert _recall(index, vectors, queries) >= _recall(fresh, vectors, queries) - 0.01


def test_a_write_is_in_the_next_search() -> None:
    """In place, new, removed; while new lists are made, and after the turn."""
    index, _, _ = _filled(9_000, IndexOptions(pause_share=0))
    index.settle()
    assert index.frozen is not None
    peak, query = np.full((1, 32), 127, np.int8), np.ones(32, np.float32)
    making = threading.Thread(target=lambda: index.keeper.settle(patient=False))
    for step, row in enumerate((5, 8_999, 12_000)):
        index.upsert(np.array([row]), peak, np.full((1, 2), 10 + step, np.float32))
        assert index.search(query, 1)[0].tolist() == [row]
        if not step:
            making.start()
    making.join()
    assert index.search(query, 3)[0].tolist() == [12_000, 8_999, 5]
    index.remove(np.array([12_000, 5]))
    assert index.search(query, 1)[0].tolist() == [8_999]
    index.keeper.settle(patient=False)
    assert index.search(query, 1)[0].tolist() == [8_999] and len(index) == 8_999
    assert not set(index.search(query, 100)[0].tolist()) & {5, 12_000}


def test_searches_beside_a_writer_find_what_does_not_change() -> None:
    """Three threads search, one writes and removes, and lists are made all the while: the best row is always there, no
    row twice, and none that was removed for good."""
    options = IndexOptions(flat_rows=1_000, changed_rows=300, changed_part=1 << 30, pause_share=0)
    index, _, more = _filled(5_000, options)
    query, wrong, stop = np.ones(32, np.float32), [], threading.Event()
    index.upsert(np.array([77]), np.full((1, 32), 127, np.int8), np.full((1, 2), 9, np.float32))
    index.remove(np.arange(100, 200))
    index.settle()

    def read() -> None:
        while not stop.is_set():
            rows = index.search(query, 60)[0].tolist()
            if rows[0] != 77 or len(set(rows)) != len(rows) or any(100 <= row < 200 for row in rows):
                wrong.append(rows)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(3)
    for step in range(150):
        rows = rng.choice(np.arange(200, 5_000 + 40 * step), 64)  # some of them new: memory grows, too
        codes, scales, _ = _stored(more(64), index.bounds)
        index.upsert(rows, codes, scales)
        index.remove(rows[:8])
    stop.set()
    for reader in readers:
        reader.join()
    index.close()
    assert not wrong and index.keeper.made > 2


def test_making_lists_does_not_lose_what_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written after its row was copied and before the turn: the new lists have the old version, and leave it out."""
    index, _, _ = _filled(9_000, IndexOptions())
    filled, query = index.keeper._filled, np.ones(32, np.float32)

    def late(*given):  # type: ignore[no-untyped-def]
        made = filled(*given)
        index.upsert(np.array([3, 9_100]), np.full((2, 32), 127, np.int8), np.array([[9, 9], [8, 8]], np.float32))
        index.remove(np.array([4]))
        return made

    monkeypatch.setattr(index.keeper, "_filled", late)
    index.settle()
    assert index.frozen is not None and len(index.frozen.changes) == 3
    assert index.search(query, 2)[0].tolist() == [3, 9_100]
    assert 4 not in index.search(query, 9_000)[0]


def test_no_lists_are_made_of_the_first_part_of_a_store() -> None:
    """Once, when all of it is there."""
    index = ItemIndex(BOUNDS, IndexOptions(flat_rows=100, pause_share=0))
    with index.filling():
        for at in range(0, 2_000, 500):
            codes, scales, _ = _stored(np.random.default_rng(at).standard_normal((500, 8)).astype(np.float32))
            index.upsert(np.arange(at, at + 500), codes, scales)
            assert index.keeper._thread is None
    assert index.keeper.made == 1 and index.frozen is not None and len(index.frozen.ivf) == 2_000
