"""Metrics over scores and labels. AUC is over all examples; grouped AUC is the mean over groups that have both labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def auc(scores: Floats, labels: Bools) -> float:
    """Area under the ROC curve, ties counted half; NaN where one label is absent."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def grouped_auc(scores: Floats, labels: Bools, groups: Ints) -> float:
    """AUC within each group, weighted by the group's size."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    total = weight = 0.0
    for part in np.split(order, cuts):
        if 0 < labels[part].sum() < len(part):
            total += auc(scores[part], labels[part]) * len(part)
            weight += len(part)
    return total / weight if weight else float("nan")


def logloss(scores: Floats, labels: Bools) -> float:
    """Mean negative log-likelihood of `labels` under sigmoid(scores), in nats."""
    signed = np.where(labels, scores, -scores)
    return float(np.logaddexp(0.0, -signed).mean())
