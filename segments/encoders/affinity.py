"""The raw affinity segment: what is known of a user's taste by an attribute, and what an item has of it, without any
weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forebay.segments.encoders.bounds import Bounds
from forebay.segments.encoders.contract import SegmentEncoder, dense_chunks
from forebay.segments.spec import SegmentSpec
from forebay.segments.state.kept import Kept
from forebay.segments.state.readout import Inputs, SegmentReader


class Affinity(SegmentEncoder):
    """No weights: the crosses that help an early-interaction ranker most are inner products of such vectors.

    User, features by one attribute K and the plain `mean value`: one part of |K| numbers for each feature by K. A mean
    gives by how much the user likes each key better than all else, shrunk: (sum_k - mean · n_k) / (n_k + 5); a count
    gives the share of the counted events that have the key. All of it times ten. Item, `latest = [K]`: its keys, each
    1 / (number of keys), so that an inner product is a mean over them.
    |K| counts the unknown value: it is the attribute's declared values and one.

    Bounded are these numbers, not what they are made of: of a sum and a count that are bounded apart, the quotient is
    no mean.
    """

    STEP = 10.0  # affinities are tenths: on the scale of learned vectors, or weight decay keeps their weights too small

    scaled = False

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__(reader, items, segment)
        self.side = segment.side
        self.columns = reader.dense_columns
        self.bounds = nn.ModuleDict({"numbers": Bounds(segment.dim)})

    def fit(self, *parts: Inputs | Kept) -> None:
        self.bounds["numbers"].fit(self._numbers(d) for p in parts for d in dense_chunks(p))

    def forward(self, dense: Tensor, sequence: Tensor, items: Tensor, length: Tensor, own: Tensor) -> Tensor:
        numbers = self._numbers(dense)
        return numbers if self.training or "numbers" not in self.bounds else self.bounds["numbers"](numbers)

    def _numbers(self, dense: Tensor) -> Tensor:
        if self.side == "item":
            return dense / dense.sum(1, keepdim=True).clamp_min(1.0)
        overall = next(c for f, c in self.columns if f.kind == "mean" and f.key == "events")
        total, count = dense[:, overall.start : overall.start + 1], dense[:, overall.start + 1 : overall.stop]
        mean = total / count.clamp_min(1e-6)
        parts = []
        for feature, columns in self.columns:
            if feature.key == "events":
                continue
            first, second = dense[:, columns].chunk(2, 1)
            parts.append(first - mean * second if feature.kind == "mean" else second)
        return torch.cat(parts, 1) * self.STEP
