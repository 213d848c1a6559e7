"""Each kernel against its plain twin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.arrays import Doubles, Floats, Int8s, Ints
from forebay.store import kernels


def _naive_scores(
    vectors: Int8s,
    scales: Floats,
    rows: Ints,
    query: Floats,
    bounds: Ints,
    default: Floats,
) -> Doubles:
    scores = []
    for row in rows:
        parts = [
            default[s] if row < 0 else scales[row, s] * (vectors[row, a:b].astype(np.float64) @ query[a:b])
            for s, (a, b) in enumerate(itertools.pairwise(bounds))
        ]
        scores.append(sum(parts))
    return np.array(scores, np.float64)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dims=st.lists(st.integers(1, 40), min_size=1, max_size=5), n=st.integers(0, 50))
def test_the_fused_dot_equals_the_plain_one(seed: int, dims: list[int], n: int) -> None:
    """Gather, dequantise and dot in one pass score as the three steps do, to 1e-5 of the sum's size."""
    rng = np.random.default_rng(seed)
    bounds = np.cumsum([0, *dims], dtype=np.int64)
    vectors = rng.integers(-127, 128, (20, bounds[-1])).astype(np.int8)
    scales = rng.random((20, len(dims)), np.float32)
    query, default = rng.standard_normal(bounds[-1], np.float32), rng.standard_normal(len(dims), np.float32)
    rows = rng.integers(-1, 20, n)
    scores = kernels.gather_dot_i8(vectors, scales, rows, query, bounds, default)
    size = 127 * np.abs(query).sum() * scales.max() + np.abs(default).sum()
    np.testing.assert_allclose(scores, _naive_scores(vectors, scales, rows, query, bounds, default), atol=1e-5 * size)
    assert scores.dtype == np.float32


def test_an_expired_segment_scores_as_the_default_one() -> None:
    """Law 5 inside the kernel: only the expired segment of the expired row is replaced; the bound itself is fresh."""
    vectors = np.array([[1, 2], [3, 4], [5, 6]], np.int8)
    scales = np.ones((3, 2), np.float32)
    bounds, query = np.array([0, 1, 2]), np.array([1, 10], np.float32)
    default = np.array([100, 1000], np.float32)
    rows = np.array([0, 1, 2, -1])
    as_of = np.array([[9, 10], [10, 10], [10, 9], [0, 0]])
    arrays = (vectors, scales, rows, query, bounds, default)
    scores = kernels.gather_dot_i8(*arrays)
    kernels.replace_expired(scores, *arrays, as_of, np.array([10, 10]))
    assert scores.tolist() == [120, 43, 1005, 1100]


def test_segments_that_a_query_has_zeros_for_are_not_read() -> None:
    """What is there may be anything. A query of NaN is not one of zeros, and an expired segment is still the default
    one."""
    rng, bounds = np.random.default_rng(7), np.array([0, 3, 10, 14])
    vectors, scales = rng.integers(-127, 128, (20, 14)).astype(np.int8), rng.random((20, 3), np.float32)
    query, default, rows = rng.standard_normal(14, np.float32), np.array([3, 0, 5], np.float32), np.arange(-1, 20)
    query[3:10] = 0
    clean = kernels.gather_dot_i8(vectors, scales, rows, query, bounds, default)
    np.testing.assert_allclose(
        clean, _naive_scores(vectors, scales, rows, query, bounds, default), atol=1e-5 * 127 * np.abs(query).sum()
    )
    scales[:, 1] = np.nan
    arrays = (vectors, scales, rows, query, bounds, default)
    np.testing.assert_array_equal(kernels.gather_dot_i8(*arrays), clean)
    as_of, oldest = np.full((21, 3), 9), np.array([10, 0, 0])
    kernels.replace_expired(again := clean.copy(), *arrays, as_of, oldest)
    assert np.isfinite(again).all() and (again[1:] != clean[1:]).all()
    query[5] = np.nan
    assert np.isnan(kernels.gather_dot_i8(vectors, np.ones((20, 3), "f4"), rows[1:], query, bounds, default)).all()


@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.sampled_from([0.0, 1.0, -2.5, 3.0, float("inf"), float("-inf"), float("nan")]), max_size=40), st.data()
)
def test_top_k_orders_by_score_then_place(values: list[float], data: st.DataObject) -> None:
    """Equal to a stable sort, ties and NaN included, for every k."""
    k = data.draw(st.integers(0, len(values) + 2))
    scores = np.array(values, np.float32)
    clean = np.where(np.isnan(scores), -np.inf, scores)
    assert kernels.top_k(scores, k).tolist() == np.argsort(-clean, kind="stable")[:k].tolist()


@pytest.mark.parametrize("k", [1, 50, 999, 1000])
def test_top_k_of_a_thousand(k: int) -> None:
    """Also with many different scores."""
    scores = np.random.default_rng(k).standard_normal(1000, np.float32)
    assert kernels.top_k(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()
