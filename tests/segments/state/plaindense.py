"""Dense features out of state rows, feature by feature in numpy: the plain twin of forebay.segments.state.denseread.

What decays is not in it: test_readout.py has that number by number.
"""

from __future__ import annotations

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.spec import FeatureSpec, SegmentSpec, Spec
from forebay.segments.state.layout import Block, Layout


def read(spec: Spec, segment: SegmentSpec, layout: Layout, rows: Ints) -> Floats:
    """The dense features of a segment, float32 [n, dense width], as Inputs has them."""
    parts: list[Floats] = [np.zeros((len(rows), 0), np.float32)]
    for feature in segment.features:
        if feature.kind == "latest":
            parts += _attributes(spec, segment, layout.block(feature), feature, rows)
        elif feature.kind in ("count", "mean"):
            parts.append(_sums(layout.block(feature), feature, rows))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _sums(block: Block, feature: FeatureSpec, rows: Ints) -> Floats:
    assert not feature.half_life_ms
    count, *rest = np.split(
        rows[:, block.offset + 1 : block.offset + block.size], 1 if feature.kind == "count" else 2, axis=1
    )
    counts = count.reshape(len(rows), feature.buckets, block.keys).sum(axis=1)
    if feature.kind == "count":
        logs = np.log1p(counts.astype(np.float32))
        if block.keys == 1:
            return logs
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return np.concatenate([logs, shares], axis=1, dtype=np.float32)
    sums = rest[0].reshape(len(rows), feature.buckets, block.keys).sum(axis=1)
    weight = 1.0 / (counts + 5.0)
    return np.concatenate([sums / 1000 * weight, counts * weight], axis=1, dtype=np.float32)


def _attributes(spec: Spec, segment: SegmentSpec, block: Block, feature: FeatureSpec, rows: Ints) -> list[Floats]:
    found: list[Floats] = []
    for place, name in enumerate(feature.of):
        codes, attribute = rows[:, block.offset + 2 + place], spec.attribute(segment.side, name)
        if attribute.kind == "category":
            found.append((codes[:, None] == np.arange(attribute.width)).astype(np.float32))
        elif attribute.kind == "set":
            found.append(((codes[:, None] >> np.arange(attribute.width)) & 1).astype(np.float32))
        else:
            found.append(np.stack([(codes >> 1) / 1000, codes & 1], axis=1).astype(np.float32))
    return found
