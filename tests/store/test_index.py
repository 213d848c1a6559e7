"""The item index: exact, and only ever of rows that are there."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.store.index import ItemIndex


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), k=st.integers(1, 80))
def test_search_equals_a_plain_scan(seed: int, n: int, k: int) -> None:
    """After updates, removals and with a deny list, the same rows as a sort of all products."""
    rng = np.random.default_rng(seed)
    index, vectors = ItemIndex(8), np.zeros((n, 8), np.float32)
    alive = np.zeros(n, bool)
    for _ in range(4):
        rows = rng.permutation(n)[: rng.integers(0, n + 1)]
        vectors[rows] = rng.standard_normal((len(rows), 8), np.float32)
        index.upsert(rows, vectors[rows])
        alive[rows] = True
        gone = rng.permutation(n)[: rng.integers(0, n // 2 + 1)]
        index.remove(gone)
        alive[gone] = False
    assert len(index) == alive.sum()
    deny = rng.integers(-1, n + 5, 5)
    query = rng.standard_normal(8, np.float32)
    rows, products = index.search(query, k, deny)
    allowed = alive & ~np.isin(np.arange(n), deny)
    expected = np.sort((vectors @ query)[allowed])[::-1][:k]
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-5)
    assert allowed[rows].all() and len(set(rows.tolist())) == len(rows)


def test_what_is_not_a_vector_is_refused() -> None:
    """NaN would be counted and never returned; a wrong shape would be an assertion without a text."""
    index = ItemIndex(2)
    for rows, vectors in (
        ([0], [[np.nan, 0]]),
        ([0], [[np.inf, 0]]),
        ([-1], [[1, 0]]),
        ([0], [[1, 0, 0]]),
        ([0, 1], [[1, 0]]),
    ):
        with pytest.raises(ValueError):
            index.upsert(np.array(rows), np.array(vectors, np.float32))
    assert len(index) == 0
    for query in ([np.nan, 0], [1], [[1, 2]]):
        with pytest.raises(ValueError):
            index.search(np.array(query, np.float32), 1)


def test_an_empty_index_answers_nothing() -> None:
    """Neither does one whose rows were all removed, nor k = 0."""
    index = ItemIndex(2)
    assert len(index.search(np.ones(2, np.float32), 5)[0]) == 0
    index.upsert(np.array([9]), np.ones((1, 2), np.float32))
    assert index.search(np.ones(2, np.float32), 10**9)[0].tolist() == [9]
    assert len(index.search(np.ones(2, np.float32), 0)[0]) == 0
    index.remove(np.array([9, 500]))
    assert len(index.search(np.ones(2, np.float32), 5)[0]) == 0


def test_adding_and_searching_in_two_threads_is_safe() -> None:
    """FAISS alone crashes the process here within seconds."""
    index, stop = ItemIndex(32), threading.Event()

    def write() -> None:
        rng = np.random.default_rng(0)
        rows = 0
        while not stop.is_set():
            rows += 16
            index.upsert(np.arange(rows - 16, rows), rng.standard_normal((16, 32), np.float32))
            index.remove(np.array([rows - 1]))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            index.search(np.ones(32, np.float32), 10)
    finally:
        stop.set()
        writer.join()


def test_faiss_is_never_entered_without_the_lock() -> None:
    """The crash above needs luck; this does not: every touch of the FAISS index is watched."""
    index = ItemIndex(4)

    class Watched:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            assert index._lock.locked(), name
            return getattr(self.inner, name)

    index._index = Watched(index._index)
    index.upsert(np.arange(3), np.eye(4, dtype=np.float32)[:3])
    index.remove(np.array([1]))
    assert index.search(np.ones(4, np.float32), 5, np.array([0]))[0].tolist() == [2]
    assert len(index) == 2
