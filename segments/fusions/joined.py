"""What a compiled join needs of a fusion and of one user: numbers alone, and no kernel (joinkernels.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from forebay.arrays import Floats, Ints

HIDDEN, AFFINITY, MAXSIM = 0, 1, 2
MIXED = 16  # products that enter the hidden layer together: as many as processors have registers to spare
NO_FLOATS, NO_ROWS, NO_MEETS = np.zeros(0, np.float32), np.zeros((0, 0), np.float32), np.zeros((0, 4), np.int64)


class Joined(NamedTuple):
    """One user's half of a fusion, and the fusion's own numbers.

    HIDDEN: relu(half + `user`) · `out` + `bias`. AFFINITY: the products of `meets`, the hidden layer of them (`mixing`
    [products, h], rows of noughts up to a multiple of MIXED) and of `user` and the half's first h numbers, and both
    weighted (`out` [h], `weights` [products]).
    MAXSIM: for each item part the greatest weighted product, summed.

    `meets` int64 [m, 4]: one user part with one item part: where they begin in `vector` float32 [user_dim] and in the
    half, how wide both are, and the number of the item part, whose meets stand together.
    """

    kind: int
    user: Floats
    out: Floats
    bias: Any
    vector: Floats
    meets: Ints
    weights: Floats
    mixing: Floats


def rows_for_mixing(weights: Floats) -> Floats:
    """`mixing` of weights float32 [products, h]."""
    rows = np.zeros((-(-max(1, len(weights)) // MIXED) * MIXED, weights.shape[1]), np.float32)
    rows[: len(weights)] = weights
    return rows
