"""Lists out of state rows, column by column in numpy: the plain twin of forebay.segments.state.listread."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.spec import SegmentSpec, Spec
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import Vocabulary


def read(
    spec: Spec, segment: SegmentSpec, layout: Layout, vocabulary: Vocabulary, rows: Ints
) -> tuple[Floats, Ints, Ints]:
    """The sequence, the items and the lengths of a segment's list, as Inputs has them."""
    (feature,) = [f for f in segment.features if f.kind == "last"]
    block = layout.block(feature)
    used = rows[:, block.offset]
    entries = rows[:, block.offset + 1 : block.offset + block.size].reshape(len(rows), feature.size, block.stride)
    valid = np.arange(feature.size) < used[:, None]
    items = np.zeros((len(rows), feature.size), np.int64)
    parts: list[Floats] = [np.zeros((len(rows), feature.size, 0), np.float32)]
    for column in feature.of:
        if column == "age":
            newest = entries[np.arange(len(rows)), np.maximum(used - 1, 0), 0]
            found = np.log1p(np.where(valid, (newest[:, None] - entries[:, :, 0]) / 1000.0, 0))[:, :, None]
        else:
            stored = entries[:, :, 2 + block.columns.index(column)]
            if column == "item":
                items = np.where(valid, vocabulary.places(stored), 0)
                continue
            if column == "value":
                found = stored[:, :, None] / 1000
            elif column == "action":
                found = stored[:, :, None] == np.arange(len(spec.events.actions) + 1)
            else:
                found = _spread(stored, spec.column(column))
        parts.append(np.where(valid[:, :, None], found, 0).astype(np.float32))
    return np.concatenate(parts, axis=2), items, used


def _spread(codes: Ints, attribute: AttributeSpec) -> Floats:
    if attribute.kind == "category":
        return (codes[:, :, None] == np.arange(attribute.width)).astype(np.float32)
    if attribute.kind == "set":
        return ((codes[:, :, None] >> np.arange(attribute.width)) & 1).astype(np.float32)
    return np.stack([(codes >> 1) / 1000, codes & 1], axis=2).astype(np.float32)
