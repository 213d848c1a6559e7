"""Metrics against their definitions."""

from __future__ import annotations

from itertools import product
from math import exp, isnan, log

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.segments.training.metrics import auc, grouped_auc, logloss

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 2)), max_size=25)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool, int]]) -> None:
    """Every positive against every negative, a tie counted half; grouped: within each group, by its size."""
    scores, labels, groups = (np.array([r[n] for r in rows], dtype=t) for n, t in enumerate((float, bool, int)))
    expected = _pairs(scores, labels)
    found = auc(scores, labels)
    assert isnan(found) if expected is None else abs(found - expected) < 1e-12
    parts = [(_pairs(scores[groups == g], labels[groups == g]), int((groups == g).sum())) for g in range(3)]
    weighed = [(a, n) for a, n in parts if a is not None]
    found = grouped_auc(scores, labels, groups)
    if weighed:
        assert abs(found - sum(a * n for a, n in weighed) / sum(n for _, n in weighed)) < 1e-12
    else:
        assert isnan(found)


def _pairs(scores: np.ndarray, labels: np.ndarray) -> float | None:
    pairs = [(p > n) + (p == n) / 2 for p, n in product(scores[labels].tolist(), scores[~labels].tolist())]
    return sum(pairs) / len(pairs) if pairs else None


def test_logloss_is_the_mean_negative_log_likelihood() -> None:
    """By the formula where it can be computed, and finite where e to the score overflows."""
    scores, labels = np.array([0.0, 2.0, -1.0]), np.array([True, True, False])
    expected = -sum(log(1 / (1 + exp(-s if y else s))) for s, y in zip(scores, labels, strict=True)) / 3
    assert abs(logloss(scores, labels) - expected) < 1e-12
    assert logloss(np.array([1e6, -1e6]), np.array([True, True])) == 5e5
