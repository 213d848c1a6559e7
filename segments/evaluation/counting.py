"""Baselines that only count: running means for ranking, popularity and EASE for retrieval."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Bools, Doubles, Floats, Ints
from forebay.clock import DAY_MS
from forebay.segments.history.choices import Choices
from forebay.segments.history.examples import Examples
from forebay.segments.training.metrics import ndcg, recall

PRIOR = 10.0  # impressions of the overall share that a running mean starts with


def running_means(examples: Examples, part: Examples) -> tuple[Floats, Floats]:
    """Shrunk shares of positives among all impressions of each item, and of each user, whose label was known before:
    two scores float32 [n] of `part`, as log odds. Their sum ranks better than either."""
    overall = float(examples.labels[examples.settled < part.times.min()].mean())
    found = []
    for of, asked in ((examples.items, part.items), (examples.users, part.users)):
        positive, count = _before(of, examples.settled, examples.labels, asked, part.times)
        share = (positive + PRIOR * overall) / (count + PRIOR)
        found.append(np.log(share / (1 - share)).astype(np.float32))
    return found[0], found[1]


def _before(of: Ints, times: Ints, labels: Bools, asked: Ints, moments: Ints) -> tuple[Doubles, Doubles]:
    """Positives and impressions of each `asked` entity strictly before its moment."""
    order = np.lexsort((times, of))
    ranks = np.searchsorted(np.unique(times), times)
    span = int(ranks.max()) + 2
    keys = of[order] * span + ranks[order]
    sums = np.concatenate([[0], np.cumsum(labels[order])])
    wanted = asked * span + np.searchsorted(np.unique(times), moments)
    first, last = np.searchsorted(keys, asked * span), np.searchsorted(keys, wanted)
    return (sums[last] - sums[first]).astype(float), (last - first).astype(float)


def popularity(examples: Examples, choices: Choices, window_days: float) -> Floats:
    """Positives of each item within `window_days` before each choice's midnight: float32 [m, items]."""
    scores = np.zeros((len(choices), choices.items), dtype=np.float32)
    for day, midnight in enumerate(choices.midnights.tolist()):
        since = midnight - window_days * DAY_MS
        counted = examples.labels & (examples.settled < midnight) & (examples.times >= since)
        counts = np.bincount(examples.items[counted], minlength=choices.items)
        # Ties among items without any are broken by age in the catalogue, not in the target's favour.
        scores[choices.day == day] = counts - np.arange(choices.items) * 1e-7
    return scores


class Ease:
    """EASE (Steck, WWW 2019) with fold-in: item-to-item weights in closed form, over what a user has had up to the
    request.

    `liked` counts likes only, else every rating. The history of a new user needs no training: it is multiplied with the
    weights.
    """

    def __init__(self, examples: Examples, until: int, regularisation: float, liked: bool) -> None:
        """Fit on the impressions before `until` (ms)."""
        self._examples, self._liked = examples, liked
        known = (examples.settled < until) & (examples.labels | (not liked))
        users, items = examples.users[known], examples.items[known]
        matrix = np.zeros((len(examples.logs["user"].entities), len(examples.logs["item"].entities)), np.float32)
        matrix[users, items] = 1
        gram = matrix.T.astype(np.float64) @ matrix
        gram[np.diag_indices_from(gram)] += regularisation
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        weights[np.diag_indices_from(weights)] = 0
        self.weights = weights.astype(np.float32)
        self._popular = matrix.sum(axis=0)

    def scores(self, choices: Choices, as_of: Ints) -> Floats:
        """float32 [m, items] from what each user had strictly before `as_of` int64 [m] (ms)."""
        examples = self._examples
        histories = np.zeros((len(choices), choices.items), dtype=np.float32)
        order = np.argsort(examples.users, kind="stable")
        bounds = np.searchsorted(examples.users[order], np.arange(int(examples.users.max()) + 2))
        for row, (user, time) in enumerate(zip(choices.users.tolist(), as_of.tolist(), strict=True)):
            own = order[bounds[user] : bounds[user + 1]]
            had = own[(examples.settled[own] < time) & (examples.labels[own] | (not self._liked))]
            histories[row, examples.items[had]] = 1
        # Who has no history yet gets what is popular; for all others this is far too small to matter.
        return histories @ self.weights + self._popular * np.float32(1e-6)


def tune_ease(examples: Examples, cut: int, validation: Choices) -> tuple[float, bool, float]:
    """The (regularisation, liked) with the best recall@50 on the validation part when fitted before `cut`; and that
    recall."""
    best = (0.0, 0.0, 100.0, True)
    for liked in (True, False):
        for regularisation in (30.0, 100.0, 300.0, 1000.0, 3000.0):
            ranks = validation.ranks(Ease(examples, cut, regularisation, liked).scores(validation, validation.times))
            best = max(best, (recall(ranks, 50), ndcg(ranks, 10), regularisation, liked))
    return best[2], best[3], best[0]
