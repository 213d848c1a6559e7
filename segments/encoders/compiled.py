"""Which encoders run as compiled kernels, and their weights as those read them.

A kernel is built from a module as it is at that moment: whoever trains the module on builds it again. One of your own,
one on a GPU, a bag and a gru run through torch (canonical.py).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn

from forebay.arrays import Floats
from forebay.segments.encoders import kernels
from forebay.segments.encoders.affinity import Affinity
from forebay.segments.encoders.bounds import LEAST_MARGIN, MARGIN
from forebay.segments.encoders.contract import SegmentEncoder
from forebay.segments.encoders.lists import AttentionPool
from forebay.segments.encoders.mlp import Mlp
from forebay.segments.state.readout import Inputs

Run: TypeAlias = Callable[[Inputs], Floats]  # float32 [n, dim] of n entities

# Of the projections of all items: a quarter of a million items, 64 wide. Beyond, an entry is projected each time.
PROJECTED_BYTES = 64 << 20


def compiled(encoder: SegmentEncoder) -> Run | None:
    """`encoder` as it is now, as a kernel; None where it has none. Raises nothing: what does not fit has no kernel."""
    build = _BUILD.get(type(encoder))
    if build is None or any(t.is_cuda for t in encoder.state_dict().values()):
        return None
    return build(encoder)


def _mlp(encoder: Mlp) -> Run:
    layers = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    weights = np.zeros((sum(widths[:-1]), max(widths)), np.float32)
    biases, start = np.zeros((len(layers), max(widths)), np.float32), 0
    for number, (layer, (before, after)) in enumerate(zip(layers, pairwise(widths), strict=True)):
        weights[start : start + before, :after] = _numbers(layer.weight).T
        biases[number, :after] = _numbers(layer.bias)
        start += before
    dense, shape = _Dense(encoder), np.array(widths, np.int64)

    def run(inputs: Inputs) -> Floats:
        out = np.empty((len(inputs), encoder.dim), np.float32)
        kernels.perceptron(
            np.ascontiguousarray(inputs.dense), inputs.own, dense.bounds, dense.scale, dense.embedding, dense.own_width,
            shape, weights, biases, out,
        )  # fmt: skip
        return out

    return run


def _attention_pool(encoder: AttentionPool) -> Run:
    assert encoder.embedding is not None
    embedding = _numbers(encoder.embedding.weight)
    entry = np.ascontiguousarray(_numbers(encoder.entry.weight).T)  # [embedding + sequence, hidden]
    of_items, of_entries = entry[: embedding.shape[1]].copy(), entry[embedding.shape[1] :].copy()
    bias = _numbers(encoder.entry.bias)
    whole = len(embedding) * len(bias) * 4 <= PROJECTED_BYTES
    projected = np.empty((len(embedding) if whole else 0, len(bias)), np.float32)
    if whole:
        kernels.project(embedding, of_items, bias, projected)
    attend, attend_bias = _numbers(encoder.attend.weight), _numbers(encoder.attend.bias)
    out_weights, out_bias = np.ascontiguousarray(_numbers(encoder.out.weight).T), _numbers(encoder.out.bias)
    dense, entry_bounds = _Dense(encoder), _entry_bounds(encoder, len(of_entries))

    def run(inputs: Inputs) -> Floats:
        out = np.empty((len(inputs), encoder.dim), np.float32)
        kernels.attention_pool(
            np.ascontiguousarray(inputs.dense), np.ascontiguousarray(inputs.sequence),
            np.ascontiguousarray(inputs.items), inputs.length, inputs.own,
            dense.bounds, dense.scale, dense.embedding, dense.own_width, entry_bounds, projected, of_items, bias,
            of_entries, attend, attend_bias, out_weights, out_bias, kernels.POWERS, out,
        )  # fmt: skip
        return out

    return run


def _affinity(encoder: Affinity) -> Run:
    bounds = _bounds(encoder, "numbers", encoder.dim)
    if encoder.side == "item":

        def of_item(inputs: Inputs) -> Floats:
            out = np.empty((len(inputs), encoder.dim), np.float32)
            kernels.item_affinity(np.ascontiguousarray(inputs.dense), bounds, out)
            return out

        return of_item
    columns = encoder.columns
    overall = next(c.start for f, c in columns if f.kind == "mean" and f.key == "events")
    parts = [(f.kind == "mean", c.start, (c.stop - c.start) // 2) for f, c in columns if f.key != "events"]
    plan = np.array(parts, np.int64).reshape(-1, 3)

    def of_user(inputs: Inputs) -> Floats:
        out = np.empty((len(inputs), encoder.dim), np.float32)
        kernels.user_affinity(np.ascontiguousarray(inputs.dense), overall, plan, bounds, out)
        return out

    return of_user


_BUILD: dict[type[SegmentEncoder], Callable[..., Run]] = {
    Affinity: _affinity,
    AttentionPool: _attention_pool,
    Mlp: _mlp,
}


class _Dense:
    """How a kernel reads dense features and the own embedding."""

    def __init__(self, encoder: SegmentEncoder) -> None:
        self.bounds = _bounds(encoder, "dense", len(encoder.mean))
        self.scale = np.stack([_numbers(encoder.mean), _numbers(encoder.scale)])
        self.own_width = encoder.own_width
        self.embedding = np.zeros((1, 0), np.float32)
        if encoder.embedding is not None:
            self.embedding = _numbers(encoder.embedding.weight)


def _bounds(encoder: SegmentEncoder, part: str, columns: int) -> Floats:
    """float32 [3, columns]: low, high and margin; without bounds the widest."""
    most = np.finfo(np.float32).max
    found = np.empty((3, columns), np.float32)
    found[0], found[1] = -most, most
    if part in encoder.bounds:
        module = encoder.bounds[part]
        found[0], found[1] = _numbers(module.low), _numbers(module.high)
    with np.errstate(over="ignore"):  # of the widest: nothing is ever beyond those
        found[2] = np.maximum(np.float32(MARGIN) * (found[1] - found[0]), np.float32(LEAST_MARGIN))
    return found


def _entry_bounds(encoder: SegmentEncoder, columns: int) -> Floats:
    """As `_bounds`, of all columns of an entry: those that are nought or one have the widest."""
    found = _bounds(encoder, "", columns)
    numbers = encoder.number_columns.numpy()
    if len(numbers):
        found[:, numbers] = _bounds(encoder, "sequence", len(numbers))
    return found


def _numbers(tensor: Tensor) -> Floats:
    """A copy: the module may be trained on."""
    return np.array(tensor.detach().numpy(), dtype=np.float32, order="C")
