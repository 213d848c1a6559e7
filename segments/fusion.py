"""Late fusion: what is left to do at request time, torch-free.

A fusion is split in three so that each part is computed as seldom as possible: `item_half` once per item, `user_half` once per
request, `join` per pair. Vectors come as they are stored, one per segment; the user half takes in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forebay.errors import BundleError

Floats = npt.NDArray[np.float32]


class Fusion(Protocol):
    """The request-time side of a fusion; its torch twin scores the same to 1e-6 (tests/segments/test_fusion.py)."""

    def user_half(self, user: Floats) -> Floats:
        """Query float32 [item segments · d] of one user's segment vectors float32 [user segments, d]."""
        ...

    def join(self, query: Floats, items: Floats) -> Floats:
        """Scores float32 [n] of item vectors float32 [n, item segments, d]."""
        ...

    def shares(self, user: Floats, item: Floats) -> Floats:
        """What each pair of segments adds to one score: float32 [user segments, item segments]; sums to score - bias."""
        ...


@dataclass(frozen=True)
class WeightedSum:
    """score = Σ w[i, j] · <u_i, v_j> + bias, over all pairs of a user segment i and an item segment j.

    It folds to one inner product: the query's part for item segment j is Σ_i w[i, j] · u_i, exactly as trained, so an
    inner-product index can serve it.
    """

    weights: Floats  # [user segments, item segments]
    bias: float

    @classmethod
    def from_tensors(cls, tensors: dict[str, Floats]) -> WeightedSum:
        try:
            return cls(tensors["fusion.weights"].astype(np.float32), float(tensors["fusion.bias"].reshape(-1)[0]))
        except KeyError as error:
            raise BundleError(f"the bundle has no tensor {error}", where="weights.safetensors") from None

    def user_half(self, user: Floats) -> Floats:
        return (self.weights.T @ user).reshape(-1)

    def join(self, query: Floats, items: Floats) -> Floats:
        return items.reshape(len(items), len(query)) @ query + np.float32(self.bias)

    def shares(self, user: Floats, item: Floats) -> Floats:
        return self.weights * (user @ item.T)
