"""The torch twins of the fusions, for training. Their state dicts are the tensors that the torch-free forwards read."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from forebay.errors import BundleError
from forebay.segments.fusions.contract import Part, Shape
from forebay.segments.fusions.kinds import fusion_class
from forebay.segments.plugin import own_class
from forebay.segments.spec import FusionSpec


class Twin(nn.Module):
    """The contract: `forward` gives logits [n] of user vectors float32 [n, user_dim] and item vectors [n, item_dim],
    flat, row by row. Weights start as an even sum of all products, so that the encoders learn from the first step."""

    def __init__(self, spec: FusionSpec, shape: Shape) -> None:
        super().__init__()
        self.spec, self.shape = spec, shape

    def move(self, by: float) -> None:
        """Add `by` to every logit, for good: a sampling is corrected so. Raises BundleError for a twin without `bias`
        or `out.bias`."""
        bias = getattr(self, "bias", None)
        if bias is None:
            bias = getattr(getattr(self, "out", None), "bias", None)
        if not isinstance(bias, Tensor) or bias.numel() != 1:
            raise BundleError(
                f"the twin of {self.spec.kind} has no bias to correct a sampling by",
                where=f"[fusion] {self.spec.use}",
                do="Override move(by), or train without [training] sampling",
            )
        with torch.no_grad():
            bias += by

    def products(self, u: Tensor, v: Tensor) -> Tensor:
        """<u_p, v_q> of each of the shape's pairs, [n, pairs]."""
        shape = self.shape
        return torch.stack([(_cut(u, shape.user[p]) * _cut(v, shape.item[q])).sum(-1) for p, q in shape.pairs], -1)

    def users(self, u: Tensor) -> Tensor:
        """The columns of the parts that are read, side by side."""
        return torch.cat([_cut(u, p) for p in self.shape.user], -1)

    def items(self, v: Tensor) -> Tensor:
        return torch.cat([_cut(v, p) for p in self.shape.item], -1)


class SumTwin(Twin):
    """Of weighted_sum, gated_sum and maxsim."""

    def __init__(self, spec: FusionSpec, shape: Shape) -> None:
        super().__init__(spec, shape)
        size = (len(shape.user), len(shape.item))
        self.weights = nn.Parameter(torch.full(size, 1.0 / len(shape.user)))
        self.bias = nn.Parameter(torch.zeros(1))
        self.gate = None
        if spec.kind == "gated_sum":
            self.gate = nn.Linear(len(shape.user_columns), size[0] * size[1])
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def query(self, u: Tensor) -> Tensor:
        """The user's half, [n, item_dim], of a fusion that folds: its product with any item vector, plus the bias, is
        the score."""
        weights = self._weights(u)
        columns = u.new_zeros(len(u), self.shape.item_dim)
        for p, q in self.shape.pairs:
            part = self.shape.item[q]
            columns[:, part.start : part.stop] += weights[:, p, q, None] * _cut(u, self.shape.user[p])
        return columns

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        weights = self._weights(u)
        products = self.products(u, v) * torch.stack([weights[:, p, q] for p, q in self.shape.pairs], -1)
        if self.spec.kind == "maxsim":
            items = [q for _, q in self.shape.pairs]
            parts = [products[:, [i for i, other in enumerate(items) if other == q]] for q in sorted(set(items))]
            products = torch.stack([p.amax(1) for p in parts], 1)
        return products.sum(-1) + self.bias

    def _weights(self, u: Tensor) -> Tensor:
        if self.gate is None:
            return self.weights.expand(len(u), *self.weights.shape)
        return self.weights * (1 + torch.tanh(self.gate(self.users(u))).reshape(len(u), *self.weights.shape))


class ConcatFcTwin(Twin):
    def __init__(self, spec: FusionSpec, shape: Shape) -> None:
        super().__init__(spec, shape)
        hidden = spec.option("hidden", (64,))
        widths = (hidden,) if isinstance(hidden, int) else hidden
        self.user = nn.Linear(len(shape.user_columns), widths[0])
        self.item = nn.Linear(len(shape.item_columns), widths[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        hidden = torch.relu(self.user(self.users(u)) + self.item(self.items(v)))
        for layer in self.layers:
            hidden = torch.relu(layer(hidden))
        return self.out(hidden).squeeze(-1)


class AffinityTwin(Twin):
    def __init__(self, spec: FusionSpec, shape: Shape) -> None:
        super().__init__(spec, shape)
        hidden = spec.option("hidden", 32)
        self.weights = nn.Parameter(torch.full((len(shape.user), len(shape.item)), 1.0 / len(shape.user)))
        self.bias = nn.Parameter(torch.zeros(1))
        self.user = nn.Linear(len(shape.user_columns), hidden)
        self.item = nn.Linear(len(shape.item_columns), hidden, bias=False)
        self.pairs = nn.Linear(len(shape.pairs), hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        products = self.products(u, v)
        hidden = torch.relu(self.user(self.users(u)) + self.item(self.items(v)) + self.pairs(products))
        weights = torch.stack([self.weights[p, q] for p, q in self.shape.pairs])
        return self.out(hidden).squeeze(-1) + products @ weights + self.bias


class ConcatConvTwin(Twin):
    def __init__(self, spec: FusionSpec, shape: Shape) -> None:
        super().__init__(spec, shape)
        channels, window = spec.option("channels", 8), spec.option("window", 3)
        self.conv = nn.Conv2d(1, channels, window, padding=window // 2)
        tokens = len(shape.user) + len(shape.item)
        self.out = nn.Linear(channels * tokens * shape.user[0].width, 1)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        width = self.shape.user[0].width
        maps = torch.cat([self.users(u), self.items(v)], -1).reshape(len(u), 1, -1, width)
        return self.out(torch.relu(self.conv(maps)).flatten(1)).squeeze(-1)


class AttentionTwin(Twin):
    def __init__(self, spec: FusionSpec, shape: Shape) -> None:
        super().__init__(spec, shape)
        width = shape.user[0].width
        self.heads = spec.option("heads", 2)
        self.place = nn.Parameter(torch.randn(len(shape.user) + len(shape.item), width) * 0.1)
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        width = self.shape.user[0].width
        tokens = torch.cat([self.users(u), self.items(v)], -1).reshape(len(u), -1, width) + self.place
        split = (*tokens.shape[:2], self.heads, width // self.heads)
        q, k, v_ = (layer(tokens).reshape(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5, -1)
        tokens = tokens + self.mix((weights @ v_).transpose(1, 2).flatten(2))
        tokens = tokens + self.down(torch.relu(self.up(tokens)))
        return self.out(tokens.mean(1)).squeeze(-1)


TWINS: dict[str, type[Twin]] = {
    "weighted_sum": SumTwin,
    "gated_sum": SumTwin,
    "maxsim": SumTwin,
    "affinity": AffinityTwin,
    "concat_fc": ConcatFcTwin,
    "concat_conv": ConcatConvTwin,
    "attention": AttentionTwin,
}


def twin(spec: FusionSpec, shape: Shape) -> Twin:
    """A fresh twin of the fusion that `spec` names. Raises BundleError for one's own that cannot be had."""
    if ":" not in spec.kind:
        return TWINS[spec.kind](spec, shape)
    return own_class(fusion_class(spec).twin, Twin, f"[fusion] {spec.use}")(spec, shape)


def _cut(vectors: Tensor, part: Part) -> Tensor:
    return vectors[:, part.start : part.stop]
