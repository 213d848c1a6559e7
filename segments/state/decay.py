"""What decays: time buckets added up, each by the weight of its age. readout.py says what an age is."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Doubles, Floats, Ints
from forebay.segments.spec import FeatureSpec
from forebay.segments.spec.attribute import THOUSANDTHS
from forebay.segments.state.layout import Block


def decayed(feature: FeatureSpec, block: Block, rows: Ints) -> Floats:
    """float32 [n, width] of a count or a mean whose buckets are weighed by their ages."""
    first = block.offset + 1
    counts = _weighed(feature, block, rows, first)
    if feature.kind == "count":
        total = np.log1p(counts.astype(np.float32))
        if block.keys == 1:
            return total
        return np.concatenate(
            [total, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)], axis=1, dtype=np.float32
        )
    sums = _weighed(feature, block, rows, first + feature.buckets * block.keys)
    weight = 1.0 / (counts + 5.0)
    return np.concatenate([sums / THOUSANDTHS * weight, counts * weight], axis=1, dtype=np.float32)


def _weighed(feature: FeatureSpec, block: Block, rows: Ints, first: int) -> Doubles:
    """float64 [n, keys]: the buckets that start at column `first`, added up by weight."""
    ring = rows[:, first : first + feature.buckets * block.keys].reshape(len(rows), feature.buckets, block.keys)
    # No bucket above the newest event's holds anything, so that one bucket's column tells every other column's age.
    newest = rows[:, block.offset] // feature.bucket_ms
    total = np.zeros((len(rows), block.keys))
    everyone = np.arange(len(rows))
    # From the newest on, one at a time: the order of the sum, and so its last bit, is the same for every row and batch.
    for age in range(feature.buckets):
        weight = 2.0 ** (-age * feature.bucket_ms / feature.half_life_ms)
        total += ring[everyone, (newest - age) % feature.buckets] * weight
    return total
