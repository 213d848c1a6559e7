"""Experiments replayed from the log: two arms by a hash of the user, a check that equal arms look equal, and
interleaving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Ints, Reals
from forebay.segments.state.ids import hash_ids

_UNIT = 1 << 32


def in_arm_b(ids: Sequence[str], salt: str, share: float = 0.5) -> Bools:
    """bool [n]: which ids are in arm B, by a hash of (salt, id): the same in every process and order, independent
    between salts."""
    hashes = hash_ids([f"{salt}\x1f{i}" for i in ids])
    return (hashes.view(np.uint64) >> np.uint64(32)).astype(np.float64) < share * _UNIT


@dataclass(frozen=True)
class Comparison:
    """Arm B less arm A: the mean difference of what users have, its 95 % bounds, and the two-sided p-value."""

    users_a: int
    users_b: int
    difference: float
    low: float
    high: float
    p: float


def compare(outcomes: Reals, arm_b: Bools) -> Comparison:
    """Welch's test over users, float [n] one number for each: impressions of one user are not independent, users are.

    The normal distribution stands in for Student's: with fewer than 30 users in an arm nothing should be concluded
    anyway.
    """
    a, b = outcomes[~arm_b].astype(float), outcomes[arm_b].astype(float)
    if len(a) < 2 or len(b) < 2:
        return Comparison(len(a), len(b), math.nan, math.nan, math.nan, math.nan)
    difference = float(b.mean() - a.mean())
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(difference == 0)
    return Comparison(len(a), len(b), difference, difference - 1.96 * error, difference + 1.96 * error, p)


def aa_share(outcomes: Reals, ids: Sequence[str], salts: int = 500, level: float = 0.05) -> float:
    """Share of `salts` random splits of equal arms that a test at `level` calls different: near `level`, or the test is
    broken."""
    called = [compare(outcomes, in_arm_b(ids, f"aa{salt}")).p < level for salt in range(salts)]
    return float(np.mean(called))


def by_user(values: Reals, users: Ints) -> tuple[Reals, Ints]:
    """Mean of `values` [n] for each user, float64 [m], and their row numbers int64 [m]."""
    found, places = np.unique(users, return_inverse=True)
    return np.bincount(places, weights=values) / np.bincount(places), found


def interleave(a: Sequence[int], b: Sequence[int], k: int, random: np.random.Generator) -> tuple[list[int], list[bool]]:
    """Team draft (Radlinski et al., CIKM 2008): `k` items of rankings `a` and `b`, and for each whether B put it there.
    In each round a coin says who picks first, and each picks its best item that is not there yet."""
    shown: list[int] = []
    of_b: list[bool] = []
    there: set[int] = set()
    picks = {False: iter(a), True: iter(b)}
    while len(shown) < k:
        before = len(shown)
        first = bool(random.integers(2))
        for team in (first, not first):
            item = next((i for i in picks[team] if i not in there), None)
            if item is not None and len(shown) < k:
                there.add(item)
                shown.append(item)
                of_b.append(team)
        if len(shown) == before:
            break
    return shown, of_b


@dataclass(frozen=True)
class Interleaved:
    """Choices that fell on an item that A, or B, had put there; `p` is of a fair coin, two-sided."""

    wins_a: int
    wins_b: int
    p: float


def interleaved(a: Ints, b: Ints, targets: Ints, k: int = 20, seed: int = 0) -> Interleaved:
    """Rankings int64 [m, at least k] of A and B shown mixed to m users who then chose `targets` int64 [m]."""
    random, wins = np.random.default_rng(seed), [0, 0]
    for row, target in enumerate(targets.tolist()):
        shown, of_b = interleave(a[row].tolist(), b[row].tolist(), k, random)
        if target in shown:
            wins[of_b[shown.index(target)]] += 1
    count = sum(wins)
    # Two-sided, normal with continuity: choices number in the hundreds.
    distance = max(0.0, abs(wins[1] - count / 2) - 0.5)
    p = math.erfc(distance / math.sqrt(count / 4) / math.sqrt(2)) if count else math.nan
    return Interleaved(wins[0], wins[1], p)
