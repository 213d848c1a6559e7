"""Dense features through a perceptron."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from forebay.segments.encoders.contract import Aligned, SegmentEncoder
from forebay.segments.spec import SegmentSpec
from forebay.segments.state.readout import SegmentReader


class Mlp(SegmentEncoder):
    """Dense features and the entity's own embedding through ReLU layers (`hidden`, default [64])."""

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__(reader, items, segment)
        widths = [reader.dense_width + self.own_width, *segment.encoder.option("hidden", (64,))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Aligned(before, after), nn.ReLU(), self.dropout]
        self.layers = nn.Sequential(*layers, Aligned(widths[-1], segment.dim))

    def forward(self, dense: Tensor, sequence: Tensor, items: Tensor, length: Tensor, own: Tensor) -> Tensor:
        return self.layers(self.dense(dense, own))
