"""Fusions with a hidden layer over both vectors, split in a half for each side: W [u; v] = Wu u + Wv v."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forebay.arrays import Floats
from forebay.segments.fusions.contract import Fusion, Query, Shape, each_times, part_bounds
from forebay.segments.fusions.joined import AFFINITY, HIDDEN, NO_FLOATS, NO_MEETS, NO_ROWS, Joined, rows_for_mixing
from forebay.segments.spec import FusionSpec


class ConcatFc(Fusion):
    """A perceptron over [u; v] (`hidden`, default [64]). The first layer's item half is kept, the request only adds.

    Tensors: `user.weight` [h, user columns] and `user.bias` [h], `item.weight` [h, item columns], `layers.N.weight`,
    `.bias` of further hidden layers, `out.weight` [1, h], `out.bias`.
    """

    kind = "concat_fc"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self._user, self._shift = self.tensor("user.weight"), self.tensor("user.bias")
        self._item = np.ascontiguousarray(self.tensor("item.weight").T)
        deeper = _deeper(tensors)
        self._layers = [(self.tensor(f"layers.{n}.weight").T, self.tensor(f"layers.{n}.bias")) for n in deeper]
        self._out, self._bias = self.tensor("out.weight")[0], self.tensor("out.bias")[0]

    @property
    def half_width(self) -> int:
        return self._item.shape[1]

    def item_half(self, items: Floats) -> Floats:
        return each_times(items[:, self.shape.item_columns], self._item)

    def user_half(self, user: Floats) -> Query:
        return (self._user @ user[self.shape.user_columns] + self._shift,)

    def join(self, query: Query, halves: Floats) -> Floats:
        hidden = np.maximum(halves + query[0], 0)
        for weight, bias in self._layers:
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden @ self._out + self._bias

    def compiled(self, query: Query) -> Joined | None:
        """With one hidden layer. Further ones are products of matrices, at which numpy's library is faster."""
        if self._layers:
            return None
        return Joined(HIDDEN, query[0], self._out, self._bias, NO_FLOATS, NO_MEETS, NO_FLOATS, NO_ROWS)


class Affinity(Fusion):
    """Weighted sum + perceptron over [Wu u + Wv v + Wd · products], `hidden` wide (default 32).

    The products <u_p, v_q> enter twice: as they are, weighted, and into the hidden layer, where they meet each other.
    With a raw affinity segment on both sides these are the crosses that make an early-interaction ranker better than
    two towers. Kept for an item: its half of the hidden layer, and its parts for the products. Tensors: `weights`
    [user parts, item parts], `bias` [1], `user.weight`, `user.bias`, `item.weight`, `pairs.weight` [h, pairs],
    `out.weight` [1, h].
    """

    kind = "affinity"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        weights = self.tensor("weights")
        self._ones = np.ones_like(weights)
        self._weights = np.array([weights[p, q] for p, q in shape.pairs], dtype=np.float32)
        self._bias = np.float32(self.tensor("bias").reshape(-1)[0])
        self._user, self._shift = self.tensor("user.weight"), self.tensor("user.bias")
        self._item = np.ascontiguousarray(self.tensor("item.weight").T)
        self._pairs = np.ascontiguousarray(self.tensor("pairs.weight").T)
        self._out = self.tensor("out.weight")[0]
        self._meets, self._mixing = shape.packed.meets(self._item.shape[1]), rows_for_mixing(self._pairs)

    @property
    def half_width(self) -> int:
        return self._item.shape[1] + self.shape.packed.item_dim

    @property
    def half_parts(self) -> tuple[int, ...]:
        return part_bounds(self.shape.packed.item, self._item.shape[1], self.half_width)

    def item_half(self, items: Floats) -> Floats:
        read = items[:, self.shape.item_columns]
        return np.concatenate([each_times(read, self._item), read], axis=1)

    def user_half(self, user: Floats) -> Query:
        return self._user @ user[self.shape.user_columns] + self._shift, user

    def join(self, query: Query, halves: Floats) -> Floats:
        half, user = query
        products = halves[:, len(half) :] @ self.shape.packed.meet(user, self._ones)
        hidden = products @ self._pairs
        hidden += halves[:, : len(half)]
        hidden += half
        np.maximum(hidden, 0, out=hidden)
        return hidden @ self._out + products @ self._weights + self._bias

    def compiled(self, query: Query) -> Joined | None:
        half, user = query
        return Joined(AFFINITY, half, self._out, self._bias, user, self._meets, self._weights, self._mixing)


def _deeper(tensors: Mapping[str, Floats]) -> list[int]:
    """Numbers of the hidden layers after the first, in order."""
    return sorted(int(n.split(".")[1]) for n in tensors if n.startswith("layers.") and n.endswith(".weight"))
