"""The built-in encoders in plain numpy, one row and one number after the other: what the kernels give, to the bit.

Each function takes an encoder, its reader's Inputs and a row; every step is rounded to float32, as the kernels' are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from forebay.arrays import Floats
from forebay.segments.encoders import SegmentEncoder
from forebay.segments.encoders.affinity import Affinity
from forebay.segments.encoders.lists import AttentionPool
from forebay.segments.encoders.mlp import Mlp
from forebay.segments.state.readout import Inputs

ZERO, ONE = np.float32(0), np.float32(1)


def vector(encoder: SegmentEncoder, inputs: Inputs, row: int) -> Floats:
    """float32 [dim]."""
    with np.errstate(over="ignore"):
        match encoder:
            case Mlp():
                return _mlp(encoder, inputs, row)
            case AttentionPool():
                return _attention_pool(encoder, inputs, row)
            case Affinity():
                return _affinity(encoder, inputs, row)
    raise TypeError(type(encoder).__name__)


def _mlp(encoder: Mlp, inputs: Inputs, row: int) -> Floats:
    layers = [layer for layer in encoder.layers if hasattr(layer, "weight")]
    values = _dense(encoder, inputs, row)
    for number, layer in enumerate(layers):
        values = _added(_array(layer.bias), values, _array(layer.weight).T)
        if number + 1 < len(layers):
            values = np.where(values < 0, ZERO, values)
    return values


def _attention_pool(encoder: AttentionPool, inputs: Inputs, row: int) -> Floats:
    assert encoder.embedding is not None
    embedding, weight = _array(encoder.embedding.weight), _array(encoder.entry.weight).T
    width, queries, entries = embedding.shape[1], len(encoder.attend.bias), []
    numbers = set(encoder.number_columns.tolist())
    for place in range(int(inputs.length[row])):
        total = _added(_array(encoder.entry.bias), embedding[inputs.items[row, place]], weight[:width])
        values, columns = inputs.sequence[row, place].copy(), sorted(numbers)
        if columns and "sequence" in encoder.bounds:
            bounds = encoder.bounds["sequence"]
            values[columns] = [_bounded(values[c], bounds, at) for at, c in enumerate(columns)]
        total = _added(total, values, weight[width:])
        entries.append(np.where(total > 0, total, ZERO))
    pooled = [np.zeros(len(encoder.entry.bias), np.float32) for _ in range(queries)]
    for query in range(queries if entries else 0):
        attend, logits = _array(encoder.attend.weight)[query], []
        for entry in entries:
            logit = _array(encoder.attend.bias)[query]
            for number, by in zip(entry, attend, strict=True):
                logit += by * number
            logits.append(logit)
        shares = [_exponential(logit - max(logits)) for logit in logits]
        whole = ZERO
        for share in shares:
            whole += share
        pooled[query] = _added(pooled[query], np.array([s / whole for s in shares]), np.array(entries))
    last = np.concatenate([*pooled, _dense(encoder, inputs, row)])
    return _added(_array(encoder.out.bias), last, _array(encoder.out.weight).T)


def _affinity(encoder: Affinity, inputs: Inputs, row: int) -> Floats:
    dense, found = inputs.dense[row], []
    if encoder.side == "item":
        total = ZERO
        for number in dense:
            total += number
        found = [number / max(total, ONE) for number in dense]
    else:
        overall = next(c.start for f, c in encoder.columns if f.kind == "mean" and f.key == "events")
        mean = dense[overall] / max(dense[overall + 1], np.float32(1e-6))
        for feature, columns in encoder.columns:
            if feature.key != "events":
                first, second = np.split(dense[columns], 2)
                both = zip(first, second, strict=True)
                found += [(a - mean * b if feature.kind == "mean" else b) * np.float32(10) for a, b in both]
    if "numbers" in encoder.bounds:
        found = [_bounded(number, encoder.bounds["numbers"], at) for at, number in enumerate(found)]
    return np.array(found, np.float32)


def _dense(encoder: SegmentEncoder, inputs: Inputs, row: int) -> Floats:
    found = []
    for at, number in enumerate(inputs.dense[row]):
        within = _bounded(number, encoder.bounds["dense"], at) if "dense" in encoder.bounds else number
        found.append((within - _array(encoder.mean)[at]) * _array(encoder.scale)[at])
    if encoder.own_width:
        assert encoder.embedding is not None
        found += list(_array(encoder.embedding.weight)[inputs.own[row]])
    return np.array(found, np.float32)


def _added(total: Floats, values: Floats, weights: Floats) -> Floats:
    total = total.copy()
    for value, by in zip(values, weights, strict=True):
        if value != 0:
            total += value * by
    return total


def _bounded(value: np.float32, bounds: Any, at: int) -> np.float32:
    low, high = _array(bounds.low)[at], _array(bounds.high)[at]
    margin = max(np.float32(0.5) * (high - low), np.float32(1e-6))
    if low <= value <= high:
        return value
    end = low if value < low else high
    beyond = value - end
    return np.float32(end + beyond / (ONE + abs(beyond) / margin))


def _exponential(value: np.float32) -> np.float32:
    """Cephes' expf."""
    if not value >= -87:
        return ZERO
    f = np.float32
    whole = f(math.floor(value * f(1.44269504088896341) + f(0.5)))
    rest = value - whole * f(0.693359375) - whole * f(-2.12194440e-4)
    found = f(1.9875691500e-4)
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        found = found * rest + f(term)
    return (found * (rest * rest) + rest + ONE) * f(2.0 ** int(whole))


def _array(tensor: Any) -> Floats:
    found: Floats = tensor.detach().numpy()
    return found
