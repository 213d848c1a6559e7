"""What every segment encoder is: a torch module from Inputs to vectors, each row from its own row alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from forebay.segments.encoders.bounds import Bounds
from forebay.segments.spec import SegmentSpec
from forebay.segments.state.kept import CHUNK, Kept
from forebay.segments.state.readout import Inputs, SegmentReader


class Aligned(nn.Linear):
    """A linear layer over joined inputs, padded with zero columns to a multiple of 16 (64 bytes), so that every row
    starts alike."""

    def forward(self, *parts: Tensor) -> Tensor:
        weight = self.weight
        if short := -self.in_features % 16:
            parts = (*parts, parts[0].new_zeros(*parts[0].shape[:-1], short))
            weight = nn.functional.pad(weight, (0, short))
        return nn.functional.linear(torch.cat(parts, -1) if len(parts) > 1 else parts[0], weight, self.bias)


class SegmentEncoder(nn.Module):
    """The contract: `forward` maps Inputs (as tensors) of n entities to float32 [n, dim], each row from its own row
    alone (no batch statistics), for any values that a read-out can give.

    One of your own is a subclass that a spec names as `encoder = { kind = "package.module:Class", version = "1", … }`;
    what else stands in the table are its options, `segment.encoder.option(name, default)`. Use `Aligned` for linear
    layers, or the bits of a row depend on its place. Weights go into the bundle; code does not: give it another
    `version` when its vectors change. docs/own-encoder.md has one that runs.

    `forward` never sees the read-out of an entity far outside of what training saw: `dense` and `sequence` are bounded
    before it is called (bounds.py), for one of your own, too.
    """

    number_columns: Tensor
    scaled = True  # dense features are centred and scaled by the training part

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__()
        option = segment.encoder.option
        self.embedding: nn.Embedding | None = None
        own = next((f.size for f in segment.features if f.kind == "id"), 0)
        if own or reader.list_size:
            self.embedding = nn.Embedding(items + 1, own or option("embedding", 16))
            nn.init.normal_(self.embedding.weight, std=0.05)
        self.own_width = own
        self.dim = segment.dim
        if self.scaled:
            self.register_buffer("mean", torch.zeros(reader.dense_width))
            self.register_buffer("scale", torch.ones(reader.dense_width))
        self.dropout = nn.Dropout(option("dropout", 0.2))
        # A column of noughts and ones cannot leave them: of a list only the others are looked at, a tenth of the work.
        self.register_buffer(
            "number_columns", torch.from_numpy(np.flatnonzero(~reader.binary_columns)), persistent=False
        )
        widths = {"dense": reader.dense_width, "sequence": len(self.number_columns)}
        self.bounds = nn.ModuleDict({part: Bounds(width) for part, width in widths.items() if width})
        # Before forward, whoever wrote it, and in the one place that stream, backfill and evaluation pass through.
        self.register_forward_pre_hook(_bounded)

    def fit(self, *parts: Inputs | Kept) -> None:
        """Fit scales to the first of `parts`, and bounds to all of them: what training reads."""
        self.fit_scale(parts[0])
        if "dense" in self.bounds:
            self.bounds["dense"].fit(dense for p in parts for dense in dense_chunks(p))
        if "sequence" in self.bounds:
            # Nought is within: it is what an absent number and an unused entry are.
            entries = (e[:, self.number_columns] for p in parts for e in _entries(p))
            self.bounds["sequence"].fit(entries, through=0.0)

    def forget_bounds(self) -> None:
        """Read out as bundles of before there were bounds do."""
        self.bounds.clear()

    def fit_scale(self, inputs: Inputs | Kept) -> None:
        """Centre and scale dense features by those of the training part."""
        if inputs.dense.shape[1]:
            mean, deviation = mean_and_deviation(inputs)
            self.mean.copy_(mean)
            self.scale.copy_(1 / deviation.clamp_min(1e-3))

    def dense(self, dense: Tensor, own: Tensor) -> Tensor:
        """float32 [n, dense width + own width]: scaled dense features, and the entity's own embedding where it has
        one."""
        parts = [(dense - self.mean) * self.scale]
        if self.own_width:
            assert self.embedding is not None
            parts.append(self.embedding(own))
        return torch.cat(parts, 1)


def dense_chunks(inputs: Inputs | Kept) -> Iterator[Tensor]:
    """The dense features of all, float32 [some, dense width] at a time: they may lie on disk."""
    for start in range(0, len(inputs), 16 * CHUNK):
        yield torch.from_numpy(inputs.dense[start : start + 16 * CHUNK])


def mean_and_deviation(inputs: Inputs | Kept) -> tuple[Tensor, Tensor]:
    """Of each dense feature over all entities, float32 [dense width] each; the deviation is the sample's."""
    count = len(inputs)
    width = inputs.dense.shape[1]
    total = torch.zeros(width, dtype=torch.float64)
    for part in dense_chunks(inputs):
        total += part.sum(0, dtype=torch.float64)
    mean, squares = total / max(count, 1), torch.zeros(width, dtype=torch.float64)
    for part in dense_chunks(inputs):
        squares += (part.double() - mean).square().sum(0)
    return mean.float(), (squares / max(count - 1, 1)).sqrt().float()


def _entries(inputs: Inputs | Kept) -> Iterator[Tensor]:
    """The entries in use of all lists, float32 [entries, sequence width], a chunk at a time."""
    for start in range(0, len(inputs), CHUNK):
        part = inputs.take(slice(start, start + CHUNK))
        places = torch.arange(part.sequence.shape[1])
        yield torch.from_numpy(part.sequence)[places < torch.from_numpy(part.length).unsqueeze(1)]


def _bounded(encoder: nn.Module, read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    assert isinstance(encoder, SegmentEncoder)
    if encoder.training:  # what bounds are fitted to is within them
        return read
    dense, sequence, *rest = read
    if "dense" in encoder.bounds:
        dense = encoder.bounds["dense"](dense)
    if "sequence" in encoder.bounds:
        numbers = sequence[:, :, encoder.number_columns]
        bounded = encoder.bounds["sequence"](numbers)
        if bounded is not numbers:
            sequence = sequence.clone()
            sequence[:, :, encoder.number_columns] = bounded
    return (dense, sequence, *rest)
