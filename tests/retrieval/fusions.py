"""Fusions over two segments of eight dimensions on either side."""

from __future__ import annotations

import numpy as np

from forebay.segments.fusions.contract import Part, Shape
from forebay.segments.fusions.layers import Affinity
from forebay.segments.fusions.sums import WeightedSum
from forebay.segments.spec import FusionSpec, Use

D = 8
_PARTS = (Part(0, 0, D), Part(1, D, 2 * D))
SHAPE = Shape(_PARTS, _PARTS, 2 * D, 2 * D, 2)


def weighted_sum(use: Use) -> WeightedSum:
    weights = np.array([[1, 0.5], [-0.25, 2]], np.float32)
    return WeightedSum(FusionSpec(use, "weighted_sum", (), ()), SHAPE, {"weights": weights, "bias": np.full(1, 0.125)})


def affinity() -> Affinity:
    """A fusion that does not fold, so that its item halves are kept."""
    random = np.random.default_rng(8)
    shapes = {"weights": (2, 2), "bias": (1,), "user.weight": (6, 2 * D), "user.bias": (6,), "item.weight": (6, 2 * D)}
    shapes |= {"pairs.weight": (6, 4), "out.weight": (1, 6)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Affinity(FusionSpec("rank", "affinity", (), ()), SHAPE, tensors)
