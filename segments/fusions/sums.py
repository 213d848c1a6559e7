"""Fusions that are sums of products of parts: weighted (global and user-gated), and MaxSim."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forebay.arrays import Floats
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query, Shape, part_bounds
from forebay.segments.fusions.joined import MAXSIM, NO_FLOATS, NO_ROWS, Joined
from forebay.segments.spec import FusionSpec


class WeightedSum(InnerProduct):
    """score = Σ w[p, q] · <u_p, v_q> + bias, over all pairs of a user part and an item part of equal width.

    Tensors: `weights` float32 [user parts, item parts], `bias` [1].
    """

    kind = "weighted_sum"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self._weights = self.tensor("weights")

    def weights(self, user: Floats) -> Floats:
        return self._weights


class GatedSum(InnerProduct):
    """A weighted sum whose weights depend on the user: w[p, q] · (1 + tanh(g[p, q] · u + c[p, q])).

    A gate near zero leaves the global weight, so that it starts as the plain sum; at -1 a pair is shut off for this
    user. It folds all the same, since the gate is one number for a whole request. Tensors besides the plain sum's:
    `gate.weight` float32 [user parts · item parts, width of the user parts read], `gate.bias`.
    """

    kind = "gated_sum"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self._weights = self.tensor("weights")
        self._gate, self._shift = self.tensor("gate.weight"), self.tensor("gate.bias")

    def weights(self, user: Floats) -> Floats:
        gate = np.tanh(self._gate @ user[self.shape.user_columns] + self._shift)
        return self._weights * (1 + gate.reshape(self._weights.shape))


class MaxSim(Fusion):
    """score = Σ_q max_p w[p, q] · <u_p, v_q> + bias: each item part is met by the user part that suits it best.

    Khattab & Zaharia, ColBERT, SIGIR 2020, with weights. The maximum is per candidate: it does not fold.
    """

    kind = "maxsim"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self._weights, self._bias = self.tensor("weights"), np.float32(self.tensor("bias").reshape(-1)[0])
        items = [q for _, q in shape.pairs]
        self._starts = np.array([items.index(q) for q in sorted(set(items))])
        self._meets = shape.packed.meets()
        self._by_pair = np.array([self._weights[p, q] for p, q in shape.pairs], np.float32)

    @property
    def half_width(self) -> int:
        return self.shape.packed.item_dim

    @property
    def half_parts(self) -> tuple[int, ...]:
        return part_bounds(self.shape.packed.item, 0, self.half_width)

    def item_half(self, items: Floats) -> Floats:
        return items[:, self.shape.item_columns]

    def user_half(self, user: Floats) -> Query:
        return (user,)

    def join(self, query: Query, halves: Floats) -> Floats:
        best = np.maximum.reduceat(halves @ self.shape.packed.meet(query[0], self._weights), self._starts, axis=1)
        summed: Floats = best.sum(axis=1) + self._bias
        return summed

    def compiled(self, query: Query) -> Joined | None:
        return Joined(MAXSIM, NO_FLOATS, NO_FLOATS, self._bias, query[0], self._meets, self._by_pair, NO_ROWS)
