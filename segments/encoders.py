"""Segment encoders in torch, and the one way to run them: canonical batches.

A linear layer's result for a row depends, in its last bits, on the shape of the batch around it (batch 1 against 257: no row
equal). In one fixed shape, padded, it does not: rows are then bit-identical whatever their neighbours, their place, and
whether one thread or two compute them. So `encode` always runs batches of CANONICAL rows, in the stream, in backfill and in
evaluation alike. torch's native MultiheadAttention is the known exception and is not used.

Place needs one thing more: rows of equal alignment. Where a layer has 2 to 11 outputs and inputs that are no multiple of four, the
matrix kernels treat rows by where they lie in memory, and two equal rows of one batch differ (measured with the MKL of torch
2.13). So layers here are `Aligned`, and the widths that `bmm` sees are multiples of eight (spec.py).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from forebay.segments.features import Inputs, SegmentReader
from forebay.segments.spec import SegmentSpec

Floats = npt.NDArray[np.float32]

CANONICAL = 128  # at 64 per-call overhead shows, at 256 a single dirty user pays for 255 empty rows


class Aligned(nn.Linear):
    """A linear layer over joined inputs, padded with zero columns to a multiple of 16 (64 bytes), so that every row starts alike."""

    def forward(self, *parts: Tensor) -> Tensor:
        weight = self.weight
        if short := -self.in_features % 16:
            parts = (*parts, parts[0].new_zeros(*parts[0].shape[:-1], short))
            weight = nn.functional.pad(weight, (0, short))
        return nn.functional.linear(torch.cat(parts, -1) if len(parts) > 1 else parts[0], weight, self.bias)


class SegmentEncoder(nn.Module):
    """The contract: `forward` maps Inputs (as tensors) of n entities to float32 [n, dim], each row from its own row alone
    (no batch statistics), for any values that a read-out can give."""

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__()
        option = segment.encoder.option
        self.embedding: nn.Embedding | None = None
        own = next((f.size for f in segment.features if f.kind == "id"), 0)
        if own or reader.list_size:
            self.embedding = nn.Embedding(items + 1, own or option("embedding", 16))
            nn.init.normal_(self.embedding.weight, std=0.05)
        self.own_width = own
        self.register_buffer("mean", torch.zeros(reader.dense_width))
        self.register_buffer("scale", torch.ones(reader.dense_width))
        self.dropout = nn.Dropout(option("dropout", 0.2))

    def fit_scale(self, inputs: Inputs) -> None:
        """Centre and scale dense features by those of the training part."""
        if inputs.dense.shape[1]:
            dense = torch.from_numpy(inputs.dense)
            self.mean.copy_(dense.mean(0))
            self.scale.copy_(1 / dense.std(0).clamp_min(1e-3))

    def dense(self, dense: Tensor, own: Tensor) -> Tensor:
        parts = [(dense - self.mean) * self.scale]
        if self.own_width:
            assert self.embedding is not None
            parts.append(self.embedding(own))
        return torch.cat(parts, 1)


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


class AttentionPool(SegmentEncoder):
    """A list of events, pooled by `queries` learned queries (default 4) over `hidden` wide entries (default 64).

    An empty list pools to zero, so that its vector is the bias of the last layer: the segment's default.
    """

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__(reader, items, segment)
        option = segment.encoder.option
        hidden, queries = option("hidden", 64), option("queries", 4)
        assert self.embedding is not None
        self.entry = Aligned(self.embedding.embedding_dim + reader.sequence_width, hidden)
        self.attend = Aligned(hidden, queries)
        self.out = Aligned(hidden * queries + reader.dense_width + self.own_width, segment.dim)

    def forward(self, dense: Tensor, sequence: Tensor, items: Tensor, length: Tensor, own: Tensor) -> Tensor:
        assert self.embedding is not None
        entries = torch.relu(self.entry(self.embedding(items), sequence))
        used = torch.arange(items.shape[1]).unsqueeze(0) < length.unsqueeze(1)
        logits = self.attend(entries).masked_fill(~used.unsqueeze(2), torch.finfo(torch.float32).min)
        weights = torch.softmax(logits, 1) * used.unsqueeze(2)
        pooled = torch.bmm(weights.transpose(1, 2), entries).flatten(1)
        return self.out(self.dropout(pooled), self.dense(dense, own))


ENCODERS: dict[str, type[SegmentEncoder]] = {"mlp": Mlp, "attention_pool": AttentionPool}


def build(reader: SegmentReader, items: int, segment: SegmentSpec) -> SegmentEncoder:
    """A fresh encoder for `segment`; `items` is the vocabulary's size."""
    return ENCODERS[segment.encoder.kind](reader, items, segment)


def tensors(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arrays as tensors, without a copy."""
    f = torch.from_numpy
    return f(inputs.dense), f(inputs.sequence), f(inputs.items), f(inputs.length), f(inputs.own)


@torch.inference_mode()
def encode(encoder: SegmentEncoder, inputs: Inputs) -> Floats:
    """float32 [n, dim], each row bit-identical whatever stands beside it. Rows may be non-finite: callers check."""
    encoder.eval()
    count = len(inputs)
    parts = []
    for start in range(0, count, CANONICAL):
        part = inputs.take(slice(start, start + CANONICAL))
        parts.append(encoder(*tensors(_padded(part))).numpy())
    if not parts:
        return np.zeros((0, encoder_dim(encoder)), dtype=np.float32)
    return np.concatenate(parts)[:count]


def encoder_dim(encoder: SegmentEncoder) -> int:
    """Dimensions of the vectors that `encoder` gives."""
    last = [m for m in encoder.modules() if isinstance(m, nn.Linear)][-1]
    return int(last.out_features)


def _padded(part: Inputs) -> Inputs:
    missing = CANONICAL - len(part)
    if not missing:
        return part

    def pad(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.concatenate([array, np.zeros((missing, *array.shape[1:]), dtype=array.dtype)])

    return Inputs(*(pad(a) for a in (part.dense, part.sequence, part.items, part.length, part.own)))  # type: ignore[arg-type]
