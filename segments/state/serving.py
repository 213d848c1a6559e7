"""What requests may ask of a row beside its vectors, read out of state: an item's attributes, a user's last items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebay.arrays import Ints
from forebay.segments.spec import FeatureSpec
from forebay.segments.state.layout import Block, Layout


@dataclass(frozen=True)
class Served:
    """Reads the columns of one `latest` or one `last` block."""

    block: Block

    @classmethod
    def of(cls, layout: Layout, feature: FeatureSpec) -> Served:
        """Of a layout that was made for serving."""
        return cls(layout.block(feature))

    def read(self, rows: Ints) -> Ints:
        """Of state rows int64 [n, width]: codes int64 [n, attributes] as Columns has them, or the hashes of a user's
        items int64 [n, size], newest first and zeros behind them."""
        first = self.block.offset
        if self.block.feature.kind == "latest":
            return rows[:, first + 2 : first + 2 + len(self.block.columns)]
        size, stride = self.block.feature.size, self.block.stride
        entries = rows[:, first + 1 : first + 1 + size * stride].reshape(len(rows), size, stride)
        items = entries[:, :, 2 + self.block.columns.index("item")]
        places = rows[:, first, None] - 1 - np.arange(size)  # entries ascend by time
        return np.where(places >= 0, np.take_along_axis(items, np.maximum(places, 0), axis=1), 0)
