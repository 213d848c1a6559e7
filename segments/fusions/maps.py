"""Fusions over the parts as a map of tokens: a convolution, and one block of attention. Heavier, and no better here:
options."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forebay.arrays import Floats
from forebay.segments.fusions.contract import Fusion, Query, Shape
from forebay.segments.fusions.joined import HIDDEN, NO_FLOATS, NO_MEETS, NO_ROWS, Joined
from forebay.segments.spec import FusionSpec


class ConcatConv(Fusion):
    """Both sides' parts stacked to a map [tokens, d], one convolution (`channels` 8, `window` 3 x 3), ReLU, one linear
    output.

    A convolution is linear, so it splits as a first layer does: the item half is the response to the item's rows alone.
    Rows of the map that no item part reaches are the user's alone: their output is one number for a whole request.
    Tensors: `conv.weight` [channels, 1, window, window], `conv.bias`, `out.weight` [1, channels · tokens · d],
    `out.bias`.
    """

    kind = "concat_conv"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self._kernel, self._shift = self.tensor("conv.weight")[:, 0], self.tensor("conv.bias")
        self._users, self._items = len(shape.user), len(shape.item)
        self._width = shape.user[0].width
        self._own = max(0, self._users - self._kernel.shape[1] // 2)  # rows of the map that are the user's alone
        tokens = self._users + self._items
        self._out = self.tensor("out.weight")[0].reshape(len(self._shift), tokens, self._width)
        self._joint_out = np.ascontiguousarray(self._out[:, self._own :].reshape(-1))
        self._bias = self.tensor("out.bias")[0]

    @property
    def half_width(self) -> int:
        return len(self._shift) * (self._users + self._items - self._own) * self._width

    def item_half(self, items: Floats) -> Floats:
        maps = np.zeros((len(items), self._users + self._items, self._width), dtype=np.float32)
        maps[:, self._users :] = items[:, self.shape.item_columns].reshape(len(items), self._items, self._width)
        return self._convolved(maps)[:, :, self._own :].reshape(len(items), self.half_width)

    def user_half(self, user: Floats) -> Query:
        maps = np.zeros((1, self._users + self._items, self._width), dtype=np.float32)
        maps[0, : self._users] = user[self.shape.user_columns].reshape(self._users, self._width)
        response = self._convolved(maps)[0] + self._shift[:, None, None]
        constant = np.sum(np.maximum(response[:, : self._own], 0) * self._out[:, : self._own]) + self._bias
        return response[:, self._own :].reshape(-1), np.float32(constant).reshape(1)

    def join(self, query: Query, halves: Floats) -> Floats:
        hidden = np.maximum(halves + query[0], 0)
        return hidden @ self._joint_out + query[1][0]

    def compiled(self, query: Query) -> Joined | None:
        return Joined(HIDDEN, query[0], self._joint_out, query[1][0], NO_FLOATS, NO_MEETS, NO_FLOATS, NO_ROWS)

    def _convolved(self, maps: Floats) -> Floats:
        """float32 [n, channels, tokens, d] of maps [n, tokens, d], zeros around them."""
        size = self._kernel.shape[1]
        half = size // 2
        around = np.pad(maps, ((0, 0), (half, half), (half, half)))
        windows = np.lib.stride_tricks.sliding_window_view(around, (size, size), axis=(1, 2))
        kernel = self._kernel.reshape(len(self._kernel), -1).T
        # One product for each map, and not one for all of them: see each_times.
        response: Floats = windows.reshape(len(maps), maps.shape[1] * maps.shape[2], len(kernel)) @ kernel
        return response.transpose(0, 2, 1).reshape(len(maps), kernel.shape[1], *maps.shape[1:])


class Attention(Fusion):
    """One block of self-attention over all parts as tokens (`heads`, default 2), then their mean through one linear
    output.

    X = parts + a learned place; Y = X + softmax(Q K' / √d) V · O; Z = Y + ReLU(Y W1) W2; score = mean(Z) · out. Kept
    for an item: its tokens with their queries, keys and values. Vaswani et al. 2017, without layer norms: at this depth
    they hurt. Tensors: `place` [tokens, d], `query.weight`, `key.weight`, `value.weight`, `mix.weight` [d, d],
    `up.weight` [2d, d], `up.bias`, `down.weight` [d, 2d], `down.bias`, `out.weight` [1, d], `out.bias`.
    """

    kind = "attention"

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self._heads = spec.option("heads", 2)
        self._width = shape.user[0].width
        self._place = self.tensor("place")
        self._project = np.concatenate([self.tensor(f"{n}.weight") for n in ("query", "key", "value")]).T
        self._mix = self.tensor("mix.weight").T
        self._up, self._up_bias = self.tensor("up.weight").T, self.tensor("up.bias")
        self._down, self._down_bias = self.tensor("down.weight").T, self.tensor("down.bias")
        self._out, self._bias = self.tensor("out.weight")[0], self.tensor("out.bias")[0]

    @property
    def half_width(self) -> int:
        return len(self.shape.item) * 4 * self._width

    def item_half(self, items: Floats) -> Floats:
        tokens = items[:, self.shape.item_columns].reshape(len(items), len(self.shape.item), self._width)
        return self._tokens(tokens + self._place[len(self.shape.user) :]).reshape(len(items), self.half_width)

    def user_half(self, user: Floats) -> Query:
        tokens = user[self.shape.user_columns].reshape(1, len(self.shape.user), self._width)
        return (self._tokens(tokens + self._place[: len(self.shape.user)]),)

    def join(self, query: Query, halves: Floats) -> Floats:
        count, width, heads = len(halves), self._width, self._heads
        own = np.broadcast_to(query[0], (count, *query[0].shape[1:]))
        tokens = np.concatenate([own, halves.reshape(count, len(self.shape.item), 4 * width)], axis=1)
        each = tokens[:, :, width:].reshape(count, tokens.shape[1], 3, heads, width // heads)
        q, k, v = each.transpose(2, 0, 3, 1, 4)
        logits = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // heads))
        logits -= logits.max(axis=-1, keepdims=True)
        weights = np.exp(logits)
        weights /= weights.sum(axis=-1, keepdims=True)
        met = (weights @ v).transpose(0, 2, 1, 3).reshape(count, tokens.shape[1], width)
        mixed = tokens[:, :, :width] + met @ self._mix
        mixed = mixed + np.maximum(mixed @ self._up + self._up_bias, 0) @ self._down + self._down_bias
        return mixed.mean(axis=1) @ self._out + self._bias

    def _tokens(self, tokens: Floats) -> Floats:
        """float32 [n, tokens, 4 d]: each token, its query, key and value."""
        return np.concatenate([tokens, tokens @ self._project], axis=2)
