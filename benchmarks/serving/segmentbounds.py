"""Exact top-k that reads each candidate's parts in order of worth, and stops where a bound says that what is left
cannot bring it among the best: what such a pass would read, in numpy.

A part is the vector of one item segment that a fusion takes apart (Part). Of a part that was not read it is known that
it lies within a `radius` of a `centre`: the mean of that part over all items, and either the largest distance from it
of all items, which is one number, or the item's own, which is kept with its row. Bounds are float64 [n, parts + 1]: of
n candidates after the first 0, 1, … parts in the order; the last column is the score that the full pass gives.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from forebay.arrays import Floats, Ints
from forebay.segments.fusions.contract import InnerProduct, Part
from forebay.segments.fusions.layers import Affinity

Doubles: TypeAlias = npt.NDArray[np.float64]
Kind: TypeAlias = Literal["largest", "own"]
KINDS: tuple[Kind, ...] = ("largest", "own")


@dataclass(frozen=True)
class Balls:
    """Where the parts of items lie: `centre` float64 [item dim], and `radius` float64 [items, parts] of each part's
    vector around it. `spread` float64 [parts] is the root mean square of the distances."""

    parts: tuple[Part, ...]
    centre: Doubles
    radius: Doubles
    spread: Doubles

    @classmethod
    def around(cls, parts: tuple[Part, ...], items: Floats, kind: Kind) -> Balls:
        """Of items float32 [n, item dim]. One that is not finite makes the bounds NaN, which spare nothing."""
        vectors = items.astype(np.float64)
        centre = vectors.mean(axis=0)
        away = vectors - centre
        own = np.stack([np.sqrt((away[:, p.start : p.stop] ** 2).sum(axis=1)) for p in parts], axis=1)
        own *= 1 + 1e-12  # the rounding of the sum
        radius = own if kind == "own" else np.broadcast_to(own.max(axis=0), own.shape)
        return cls(parts, centre, radius, np.sqrt((own**2).mean(axis=0)))

    def centre_of(self, part: int) -> Doubles:
        """Of one part: float64 [width]."""
        return self.centre[self.parts[part].start : self.parts[part].stop]


@dataclass(frozen=True)
class Bounds:
    """`order` int64 [parts], the worthiest first, and `lower` and `upper` float64 [n, parts + 1]."""

    order: Ints
    lower: Doubles
    upper: Doubles


def bounds_of_sum(fusion: InnerProduct, user: Floats, items: Floats, balls: Balls, rows: Ints) -> Bounds:
    """By Cauchy and Schwarz, of the candidates `rows` int64 [n] of all `items` float32 [items, item dim]."""
    query = fusion.query(user).astype(np.float64)
    slices = [slice(p.start, p.stop) for p in balls.parts]
    norms = np.array([np.sqrt((query[at] ** 2).sum()) for at in slices])
    order = np.argsort(-np.nan_to_num(norms * balls.spread), kind="stable")
    candidates = items[rows].astype(np.float64)
    known = np.full(len(rows), float(fusion.bias))
    for part in order:
        known += query[slices[part]] @ balls.centre_of(part)
    left = balls.radius[rows] * norms
    reach = left.sum(axis=1)
    sizes = np.sqrt((candidates**2).sum(axis=1)) * np.sqrt((query**2).sum()) + abs(float(fusion.bias))
    slack = _rounding(len(query), sizes)
    lower, upper = [known - reach - slack], [known + reach + slack]
    for part in order:
        known = known + (candidates[:, slices[part]] - balls.centre_of(part)) @ query[slices[part]]
        reach = reach - left[:, part]
        lower.append(known - reach - slack)
        upper.append(known + reach + slack)
    return _closed(order, lower, upper, fusion.join((query.astype(np.float32),), items[rows]))


def bounds_of_affinity(fusion: Affinity, user: Floats, halves: Floats, balls: Balls, rows: Ints) -> Bounds:
    """Of item halves float32 [items, half width], of whose hidden layers' halves all are read first.

    Each hidden number lies in an interval, and so does what relu makes of it. Beside the interval's bound there is the
    one of relu's chord (Zhang and others, CROWN, NeurIPS 2018), which keeps what two hidden numbers have in common; the
    tighter of both is taken. Parts of an item are met by several user parts: what they do together is one vector.
    """
    shape, (base, vector) = fusion.shape.packed, fusion.user_half(user)
    width, joined = len(base), fusion.compiled((base, vector))
    assert joined is not None
    out, mixing, weights = (np.asarray(a, np.float64) for a in (joined.out, joined.mixing, joined.weights))
    direct = [np.zeros(p.width) for p in shape.item]
    hidden = [np.zeros((width, p.width)) for p in shape.item]
    for number, (p, q) in enumerate(shape.pairs):
        own = user[shape.user[p].start : shape.user[p].stop].astype(np.float64)
        direct[q] += weights[number] * own
        hidden[q] += mixing[number][:, None] * own
    stored = halves[rows].astype(np.float64)
    candidates, middle = stored[:, width:], stored[:, :width] + base
    parts = range(len(shape.item))
    centred = middle + sum(hidden[q] @ balls.centre_of(q) for q in parts)
    mean = (halves[:, :width].astype(np.float64).mean(axis=0) + base) + sum(
        hidden[q] @ balls.centre_of(q) for q in parts
    )
    worth = [float(np.linalg.norm(direct[q] + (out * (mean > 0)) @ hidden[q])) * balls.spread[q] for q in parts]
    order = np.argsort(-np.nan_to_num(np.array(worth)), kind="stable")
    known = np.full(len(rows), float(joined.bias)) + sum(float(direct[q] @ balls.centre_of(q)) for q in parts)
    slack = _rounding(halves.shape[1] + len(shape.pairs), _sizes_of_affinity(fusion, user, stored, base))
    lower, upper = [], []
    left = list(order)
    while True:
        reach = sum(
            (balls.radius[rows, q][:, None] * np.sqrt((hidden[q] ** 2).sum(axis=1)) for q in left),
            np.zeros_like(centred),
        )
        low, high = centred - reach, centred + reach
        for sign, found in ((1.0, upper), (-1.0, lower)):
            most = _most(sign, known, direct, hidden, out, low, high, centred, balls, rows, left)
            found.append(sign * (most + slack))
        if not left:
            break
        q = left.pop(0)
        part = candidates[:, shape.item[q].start : shape.item[q].stop] - balls.centre_of(q)
        known, centred = known + part @ direct[q], centred + part @ hidden[q].T
    return _closed(order, lower, upper, fusion.join((base, vector), halves[rows]))


def _most(
    sign: float, known: Doubles, direct: list[Doubles], hidden: list[Doubles], out: Doubles, low: Doubles,
    high: Doubles, centred: Doubles, balls: Balls, rows: Ints, left: list[int],
) -> Doubles:  # fmt: skip
    """The most that `sign` times the score can be: float64 [n]."""
    signed = sign * out
    interval = sign * known + np.where(signed > 0, signed * np.maximum(high, 0), signed * np.maximum(low, 0)).sum(
        axis=1
    )
    for q in left:
        interval = interval + balls.radius[rows, q] * np.linalg.norm(direct[q])
    with np.errstate(divide="ignore", invalid="ignore"):
        chord = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / (high - low)))
    between = (low < 0) & (high > 0)
    slope = np.where(between & (signed < 0), (high > -low).astype(float), chord)
    above = np.where(between & (signed > 0), -chord * low, 0.0)
    line = sign * known + (signed * (slope * centred + above)).sum(axis=1)
    for q in left:
        line = line + balls.radius[rows, q] * np.linalg.norm(sign * direct[q] + (signed * slope) @ hidden[q], axis=1)
    return np.minimum(interval, line)


def _sizes_of_affinity(fusion: Affinity, user: Floats, stored: Doubles, base: Floats) -> Doubles:
    """The sum of the sizes of all that the score of a half is added up of: float64 [n]."""
    shape, joined, width = fusion.shape.packed, fusion.compiled((base, user)), len(base)
    assert joined is not None
    found = np.full(len(stored), abs(float(joined.bias)))
    out = np.abs(joined.out.astype(np.float64))
    found += (np.abs(stored[:, :width]) + np.abs(base)) @ out
    for number, (p, q) in enumerate(shape.pairs):
        own = user[shape.user[p].start : shape.user[p].stop].astype(np.float64)
        part = stored[:, width + shape.item[q].start : width + shape.item[q].stop]
        most = np.sqrt((own**2).sum()) * np.sqrt((part**2).sum(axis=1))
        found += most * (abs(float(joined.weights[number])) + np.abs(joined.mixing[number].astype(np.float64)) @ out)
    return found


def _rounding(terms: int, sizes: Doubles) -> Doubles:
    """What the full pass may be off by, in float32 and in any order, where it adds up so many terms, whose sizes add up
    to `sizes` float64 [n]."""
    return (terms + 8) * 2.0**-23 * sizes


def _closed(order: Ints, lower: list[Doubles], upper: list[Doubles], scores: Floats) -> Bounds:
    low, high = np.stack(lower, axis=1), np.stack(upper, axis=1)
    low[:, -1], high[:, -1] = scores, scores
    return Bounds(order, low, high)


# -- passes: the places of the best, best first, and how many parts of each candidate were read


def whole(scores: Doubles, k: int) -> Ints:
    """What every pass must find: NaN counts as lowest, and equal scores keep their order."""
    keys = np.where(np.isnan(scores), -np.inf, scores)
    return np.argsort(-keys, kind="stable")[:k]


def row_by_row(bounds: Bounds, k: int) -> tuple[Ints, Ints]:
    """One candidate after another, as a kernel would: each is left where it cannot be better than the worst of the k
    best so far. A later one of the same score would not be taken either."""
    n, parts = bounds.upper.shape[0], bounds.upper.shape[1] - 1
    read, best = np.zeros(n, np.int64), list[tuple[float, int]]()  # a heap: the worst first, of equal ones the latest
    least = np.nan  # the worst that is kept, once k are
    for i in range(n):
        m = 0
        while m < parts and not bounds.upper[i, m] <= least:
            m += 1
        read[i] = m
        score = bounds.upper[i, parts]
        if k == 0 or m < parts or score <= least:
            continue
        heapq.heappush(best, (-np.inf if np.isnan(score) else float(score), -i))
        if len(best) > k:
            heapq.heappop(best)
        least = best[0][0] if len(best) == k else np.nan
    return np.array([-i for _, i in sorted(best, reverse=True)], np.int64), read


def part_by_part(bounds: Bounds, k: int) -> tuple[Ints, Ints]:
    """All candidates' first part, then the second part of those that are left, and so on: the k-th greatest lower bound
    is what an upper bound has to reach."""
    n, parts = bounds.upper.shape[0], bounds.upper.shape[1] - 1
    read, alive = np.zeros(n, np.int64), np.arange(n)
    for m in range(parts + 1):
        low = np.where(np.isnan(bounds.lower[alive, m]), -np.inf, bounds.lower[alive, m])
        if 0 < k < len(alive):
            least = np.partition(low, -k)[-k]
            alive = alive[~(bounds.upper[alive, m] < least)]
        if m < parts:
            read[alive] = m + 1
    return alive[whole(bounds.upper[alive, parts], k)], read


def foretold(bounds: Bounds, k: int) -> Ints:
    """How many parts of each are read where the k-th best score is known from the start: no pass by these bounds and in
    this order reads fewer."""
    scores, parts = bounds.upper[:, -1], bounds.upper.shape[1] - 1
    if not 0 < k <= len(scores):
        return np.full(len(scores), parts)
    least = scores[whole(scores, k)[-1]]
    over = ~(bounds.upper[:, :parts] < least)
    return np.where(over.all(axis=1), parts, np.argmin(over, axis=1))
