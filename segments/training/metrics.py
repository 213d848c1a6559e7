"""Metrics over scores and labels. AUC is over all examples; grouped AUC is the mean over groups that have both
labels."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Bools, Ints, Reals


def auc(scores: Reals, labels: Bools) -> float:
    """Area under the ROC curve, ties counted half; NaN where one label is absent."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def grouped_auc(scores: Reals, labels: Bools, groups: Ints) -> float:
    """AUC within each group, weighted by the group's size, over the groups that have both labels."""
    if not len(scores):
        return float("nan")
    order = np.lexsort((scores, groups))
    score, label, group = scores[order], labels[order], groups[order]
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    sizes = np.diff(np.append(starts, len(order)))
    # Ranks from 1 within the group; equal scores have the mean of theirs.
    ties = np.flatnonzero(np.concatenate([[True], (group[1:] != group[:-1]) | (score[1:] != score[:-1])]))
    lengths = np.diff(np.append(ties, len(order)))
    ranks = np.repeat(ties + (lengths + 1) / 2, lengths) - np.repeat(starts, sizes)
    positives = np.add.reduceat(label.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(label, ranks, 0.0), starts)
    both = (positives > 0) & (positives < sizes)
    if not both.any():
        return float("nan")
    found = (sums - positives * (positives + 1) / 2)[both] / (positives * (sizes - positives))[both]
    return float((found * sizes[both]).sum() / sizes[both].sum())


def logloss(scores: Reals, labels: Bools) -> float:
    """Mean negative log-likelihood of `labels` under sigmoid(scores), in nats."""
    signed = np.where(labels, scores, -scores)
    return float(np.logaddexp(0.0, -signed).mean())


def request_groups(users: Ints, times: Ints) -> Ints:
    """int64 [n]: one number for each (user, second) of `times` (ms): what was shown to one user at once."""
    _, groups = np.unique(np.stack([users, times // 1000]), axis=1, return_inverse=True)
    return groups.reshape(-1)


def calibration(scores: Reals, labels: Bools, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean predicted, observed share, count) of `bins` parts of equal size by predicted probability
    sigmoid(scores)."""
    predicted = 1 / (1 + np.exp(-np.asarray(scores, dtype=np.float64)))
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    return [(float(predicted[p].mean()), float(labels[p].mean()), len(p)) for p in parts if len(p)]


def calibration_error(scores: Reals, labels: Bools, bins: int = 10) -> float:
    """Mean distance of predicted and observed over the bins, weighted by their size (ECE; Naeini et al., AAAI 2015)."""
    parts = calibration(scores, labels, bins)
    return sum(abs(p - o) * n for p, o, n in parts) / max(1, sum(n for _, _, n in parts))


def recall(ranks: Ints, k: int) -> float:
    """Share of targets whose rank, from 1, is at most `k`: each question has one target."""
    return float((ranks <= k).mean()) if len(ranks) else float("nan")


def ndcg(ranks: Ints, k: int) -> float:
    """Mean of 1 / log2(rank + 1) where the rank is at most `k`, else 0."""
    gains = np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)
    return float(gains.mean()) if len(ranks) else float("nan")


def coverage(shown: Ints, items: int) -> float:
    """Share of the catalogue of `items` that is shown to anybody; `shown` int64 [m, k]."""
    return len(np.unique(shown)) / items
