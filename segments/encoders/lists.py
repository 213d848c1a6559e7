"""Encoders of a list of events: attention pooling, a weighted bag, a recurrent net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forebay.segments.encoders.contract import Aligned, SegmentEncoder
from forebay.segments.spec import SegmentSpec
from forebay.segments.state.readout import SegmentReader


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
        there = used(items, length).unsqueeze(2)
        logits = self.attend(entries).masked_fill(~there, torch.finfo(torch.float32).min)
        weights = torch.softmax(logits, 1) * there
        pooled = torch.bmm(weights.transpose(1, 2), entries).flatten(1)
        return self.out(self.dropout(pooled), self.dense(dense, own))


class Bag(SegmentEncoder):
    """A list's items as one bag: their embeddings, each weighed by what its event says (value, action, age …), over the
    root of their number, through one linear layer.

    The user of an asymmetric factor model (Koren, KDD 2008; FISM, Kabbur et al., KDD 2013): `id` with an mlp of no
    hidden layer is its item.
    """

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__(reader, items, segment)
        assert self.embedding is not None
        self.weigh = Aligned(max(1, reader.sequence_width), 1)
        nn.init.ones_(self.weigh.bias)
        self.out = Aligned(self.embedding.embedding_dim + reader.dense_width + self.own_width, segment.dim)

    def forward(self, dense: Tensor, sequence: Tensor, items: Tensor, length: Tensor, own: Tensor) -> Tensor:
        assert self.embedding is not None
        if not sequence.shape[2]:
            sequence = sequence.new_zeros(*items.shape, 1)
        weights = self.weigh(sequence) * used(items, length).unsqueeze(2)
        count = length.clamp_min(1).unsqueeze(1)
        bag = (self.dropout(self.embedding(items)) * weights).sum(1) / torch.sqrt(count.to(weights.dtype))
        return self.out(bag, self.dense(dense, own))


class Gru(SegmentEncoder):
    """A list in its order through a gated recurrent unit, `hidden` wide (default 32); its last state through one linear
    layer.

    Cho et al., 2014. Written out over `Aligned` layers: rows are then bit-identical at every place, and an entry beyond
    a list's length leaves the state as it is.
    """

    def __init__(self, reader: SegmentReader, items: int, segment: SegmentSpec) -> None:
        super().__init__(reader, items, segment)
        hidden = segment.encoder.option("hidden", 32)
        assert self.embedding is not None
        self.hidden = hidden
        self.enter = Aligned(self.embedding.embedding_dim + reader.sequence_width, 3 * hidden)
        self.recur = Aligned(hidden, 3 * hidden)
        self.out = Aligned(hidden + reader.dense_width + self.own_width, segment.dim)

    def forward(self, dense: Tensor, sequence: Tensor, items: Tensor, length: Tensor, own: Tensor) -> Tensor:
        assert self.embedding is not None
        entered = self.enter(self.embedding(items), sequence)
        there = used(items, length)
        state = entered.new_zeros(len(items), self.hidden)
        for step in range(items.shape[1]):
            reset_in, update_in, new_in = entered[:, step].chunk(3, 1)
            reset_by, update_by, new_by = self.recur(state).chunk(3, 1)
            reset, update = torch.sigmoid(reset_in + reset_by), torch.sigmoid(update_in + update_by)
            candidate = torch.tanh(new_in + reset * new_by)
            state = torch.where(there[:, step, None], candidate + update * (state - candidate), state)
        return self.out(self.dropout(state), self.dense(dense, own))


def used(items: Tensor, length: Tensor) -> Tensor:
    """bool [n, list size]: which places of each list are in use."""
    return torch.arange(items.shape[1], device=items.device).unsqueeze(0) < length.unsqueeze(1)
