"""Joins as compiled kernels take them: one user's half with one item's half, in a processor's nearest cache.

The numpy twin of `join_half` is the `join` of the fusion that made the Joined. Both add up the same products in other
orders (the compiler chooses the fastest), so a score of n products differs by at most n · 2^-23 of the sum of their
sizes. A score's bits depend on the user and the item alone, and not on the other candidates.

At top level and with `cache=True`: kernels made in a factory are compiled again at every start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from forebay.arrays import Floats, Ints
from forebay.prefetch import LINE_BYTES, prefetch
from forebay.segments.fusions.joined import HIDDEN, MAXSIM, MIXED, Joined

_U = np.uint64  # of places: one that may be negative is tested for each access, and nothing is vectorised
_FASTMATH = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning
_fast = njit(cache=True, nogil=True, fastmath=_FASTMATH)
# These make no array. They need not count who holds one, which costs more than a score: two locked additions for each
# array that is passed on (numba's option for it has an underscore).
_bare = njit(cache=True, nogil=True, fastmath=_FASTMATH, _nrt=False, forceinline=True)

# A row is asked for so many rows before its turn. Of 100,000 halves of 640 bytes, 1,000 at random took 662 µs without
# (2 cores, other work beside), and 320, 276, 303 and 301 with 1, 2, 4 and 8.
_AHEAD = 2


@_bare  # type: ignore[untyped-decorator]
def multiply(meets: Ints, vector: Floats, half: Floats, products: Floats) -> None:
    """The product of each of `meets` into `products`. Four meets of one item part read it once."""
    n, count = _U(0), _U(len(meets))
    while n < count:
        a, item, width = _U(meets[n, 0]), _U(meets[n, 1]), _U(meets[n, 2])
        x, y, z, w = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        if n + _U(3) < count and meets[n + _U(3), 1] == meets[n, 1]:
            b, c, d = _U(meets[n + _U(1), 0]), _U(meets[n + _U(2), 0]), _U(meets[n + _U(3), 0])
            for k in range(width):
                value = half[item + k]
                x += value * vector[a + k]
                y += value * vector[b + k]
                z += value * vector[c + k]
                w += value * vector[d + k]
            products[n], products[n + _U(1)], products[n + _U(2)], products[n + _U(3)] = x, y, z, w
            n += _U(4)
        else:
            for k in range(width):
                x += half[item + k] * vector[a + k]
            products[n] = x
            n += _U(1)


@_bare  # type: ignore[untyped-decorator]
def mix(half: Floats, user: Floats, mixing: Floats, products: Floats, n: Any, hidden: Floats) -> None:
    """The hidden layer of `half`, `user` and products n to n + 15, into `hidden`. Numbers are taken out of arrays
    before the loop, which then runs in vectors."""
    a, b, c, d = products[n], products[n + _U(1)], products[n + _U(2)], products[n + _U(3)]
    e, f, g, h = products[n + _U(4)], products[n + _U(5)], products[n + _U(6)], products[n + _U(7)]
    i, j, l, m = products[n + _U(8)], products[n + _U(9)], products[n + _U(10)], products[n + _U(11)]
    o, p, q, r = products[n + _U(12)], products[n + _U(13)], products[n + _U(14)], products[n + _U(15)]
    for k in range(_U(len(user))):
        value = half[k] + user[k]
        value += a * mixing[n + _U(0), k] + b * mixing[n + _U(1), k]
        value += c * mixing[n + _U(2), k] + d * mixing[n + _U(3), k]
        value += e * mixing[n + _U(4), k] + f * mixing[n + _U(5), k]
        value += g * mixing[n + _U(6), k] + h * mixing[n + _U(7), k]
        value += i * mixing[n + _U(8), k] + j * mixing[n + _U(9), k]
        value += l * mixing[n + _U(10), k] + m * mixing[n + _U(11), k]
        value += o * mixing[n + _U(12), k] + p * mixing[n + _U(13), k]
        value += q * mixing[n + _U(14), k] + r * mixing[n + _U(15), k]
        hidden[k] = value


@_bare  # type: ignore[untyped-decorator]
def mix_out(half: Floats, user: Floats, out: Floats, mixing: Floats, products: Floats, n: Any) -> Any:
    """As `mix`, and its product with `out` float32, in which nothing is stored."""
    score = np.float32(0)
    a, b, c, d = products[n], products[n + _U(1)], products[n + _U(2)], products[n + _U(3)]
    e, f, g, h = products[n + _U(4)], products[n + _U(5)], products[n + _U(6)], products[n + _U(7)]
    i, j, l, m = products[n + _U(8)], products[n + _U(9)], products[n + _U(10)], products[n + _U(11)]
    o, p, q, r = products[n + _U(12)], products[n + _U(13)], products[n + _U(14)], products[n + _U(15)]
    for k in range(_U(len(user))):
        value = half[k] + user[k]
        value += a * mixing[n + _U(0), k] + b * mixing[n + _U(1), k]
        value += c * mixing[n + _U(2), k] + d * mixing[n + _U(3), k]
        value += e * mixing[n + _U(4), k] + f * mixing[n + _U(5), k]
        value += g * mixing[n + _U(6), k] + h * mixing[n + _U(7), k]
        value += i * mixing[n + _U(8), k] + j * mixing[n + _U(9), k]
        value += l * mixing[n + _U(10), k] + m * mixing[n + _U(11), k]
        value += o * mixing[n + _U(12), k] + p * mixing[n + _U(13), k]
        value += q * mixing[n + _U(14), k] + r * mixing[n + _U(15), k]
        score += (np.float32(0) if value < 0 else value) * out[k]
    return score


@_bare  # type: ignore[untyped-decorator]
def join_half(
    kind: int, user: Floats, out: Floats, bias: Any, vector: Floats, meets: Ints, weights: Floats, mixing: Floats,
    half: Floats, products: Floats, hidden: Floats, noughts: Floats,
) -> Any:  # fmt: skip
    """The score float32 of one item's `half` float32 [half_width], by the parts of a Joined: each time that a kernel
    takes an array out of a tuple, it counts who holds it. The last three are of `room_for`."""
    score, n, count = np.float32(bias), _U(0), _U(len(meets))
    if kind == HIDDEN:
        for k in range(_U(len(user))):
            value = half[k] + user[k]
            score += (np.float32(0) if value < 0 else value) * out[k]
        return score
    multiply(meets, vector, half, products)
    if kind == MAXSIM:
        while n < count:
            part, most = meets[n, 3], products[n] * weights[n]
            n += _U(1)
            while n < count and meets[n, 3] == part:
                value = products[n] * weights[n]
                if value > most or np.isnan(value):  # a product that is no number makes the score none
                    most = value
                n += _U(1)
            score += most
        return score
    for k in range(count):
        score += products[k] * weights[k]
    last = _U(len(mixing) - MIXED)
    if last == n:  # the usual case
        return score + mix_out(half, user, out, mixing, products, n)
    mix(half, user, mixing, products, n, hidden)
    n += _U(MIXED)
    while n < last:
        mix(hidden, noughts, mixing, products, n, hidden)
        n += _U(MIXED)
    return score + mix_out(hidden, noughts, out, mixing, products, n)


@_fast  # type: ignore[untyped-decorator]
def room_for(joined: Joined) -> tuple[Floats, Floats, Floats]:
    """Products, hidden layer and a layer of noughts; all are noughts at first."""
    size, width = max(len(joined.meets), len(joined.mixing)), len(joined.user)
    return np.zeros(size, np.float32), np.zeros(width, np.float32), np.zeros(width, np.float32)


@_fast  # type: ignore[untyped-decorator]
def join_rows(joined: Joined, halves: Floats, rows: Ints, lacking: Floats, scores: Floats) -> None:
    """Scores float32 [n] of `halves` float32 [capacity, half_width] at `rows` int64 [n]; a row of -1 has the half
    `lacking` float32 [half_width]."""
    kind, user, out, bias, vector, meets, weights, mixing = joined
    products, hidden, noughts = room_for(joined)
    missing = join_half(kind, user, out, bias, vector, meets, weights, mixing, lacking, products, hidden, noughts)
    for i in range(len(rows)):
        if i + _AHEAD < len(rows) and rows[i + _AHEAD] >= 0:
            ahead = halves[_U(rows[i + _AHEAD])]
            for k in range(0, len(ahead), LINE_BYTES // 4):
                prefetch(ahead, k)
        if rows[i] < 0:
            scores[i] = missing
            continue
        half = halves[_U(rows[i])]
        scores[i] = join_half(kind, user, out, bias, vector, meets, weights, mixing, half, products, hidden, noughts)


@_bare  # type: ignore[untyped-decorator]
def fold_pairs(user: Floats, weights: Floats, pairs: Ints, query: Floats) -> None:
    """Add weights[p, q] · u_p to the columns of item part q in `query` float32 [item_dim], for each of `pairs` int64
    [m, 5]: p, q, where both begin, and how wide they are."""
    for n in range(len(pairs)):
        weight, width = weights[pairs[n, 0], pairs[n, 1]], pairs[n, 4]
        source, target = user[pairs[n, 2] : pairs[n, 2] + width], query[pairs[n, 3] : pairs[n, 3] + width]
        for k in range(len(source)):
            target[k] += source[k] * weight
