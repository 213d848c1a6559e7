"""The built-in encoders, compiled: each row by itself, in time that grows with the rows.

Torch needs a batch of one fixed size to give a row the same bits every time (canonical.py), and 0.3 to 2 ms for it, be
it for one row or for 128; a kernel needs 1 to 15 µs for a row. Here a row's numbers are added up one after the other,
in the order that stands in the code, with one rounding each: no fast-math, no fused multiply-add, no library's
exponential. So the bits depend on the row and on the weights alone, and neither on the batch nor on the processor. The
same in plain numpy: tests/segments/encoders/plain.py.

Sums run over the inputs outside and over the outputs inside, four inputs at a time: a vector unit adds to many outputs
at once without a change of any output's order. Inputs of nought are left out. All kernels release the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

from forebay.arrays import Floats, Ints

LANES = 8  # entries of a list whose logits are added up side by side
# The exponential of Cephes (expf.c), of numbers from -87 to 0: its powers of two by table.
POWERS = np.array([2.0**n for n in range(-126, 1)], dtype=np.float32)
LOG2E, HIGH, LOW = np.float32(1.44269504088896341), np.float32(0.693359375), np.float32(-2.12194440e-4)
P0, P1, P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
P3, P4, P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
NONE, ONE, HALF, LEAST = np.float32(0.0), np.float32(1.0), np.float32(0.5), np.float32(-87.0)
LEAST_COUNT, STEP = np.float32(1e-6), np.float32(10.0)

F = TypeVar("F", bound=Callable[..., Any])


def _kernel(function: F) -> F:
    compiled: F = njit(cache=True, nogil=True, error_model="numpy")(function)  # a quotient by nought is inf or nan
    return compiled


@_kernel
def add_rows(total: Floats, values: Floats, weights: Floats, first: int, used: Ints) -> None:
    """Add values[k] · weights[first + k] to `total` for k from 0 on, as many columns as that has. `used` int64 is room
    for the places of those that are not nought."""
    count = 0
    for k in range(len(values)):
        if values[k] != NONE:
            used[count] = k
            count += 1
    at = 0
    while at + 4 <= count:
        a, b, c, d = used[at], used[at + 1], used[at + 2], used[at + 3]
        x, y, z, w = values[a], values[b], values[c], values[d]
        row_a, row_b, row_c, row_d = weights[first + a], weights[first + b], weights[first + c], weights[first + d]
        for o in range(len(total)):
            total[o] = (((total[o] + x * row_a[o]) + y * row_b[o]) + z * row_c[o]) + w * row_d[o]
        at += 4
    while at < count:
        x, row = values[used[at]], weights[first + used[at]]
        for o in range(len(total)):
            total[o] += x * row[o]
        at += 1


@_kernel
def bounded(value: np.float32, low: np.float32, high: np.float32, margin: np.float32) -> np.float32:
    """`value` within [low, high], and beyond it as bounds.py has it."""
    if value < low:
        beyond = value - low
        return low + beyond / (ONE - beyond / margin)
    if value > high:
        beyond = value - high
        return high + beyond / (ONE + beyond / margin)
    return value


@_kernel
def exponential(value: np.float32, powers: Floats) -> Any:
    """e to the power of a float32 that is 0 or less; 0 below -87, and of what is no number."""
    if not value >= LEAST:
        return NONE
    whole = np.float32(math.floor(value * LOG2E + HALF))
    rest = (value - whole * HIGH) - whole * LOW
    found = ((((P0 * rest + P1) * rest + P2) * rest + P3) * rest + P4) * rest + P5
    found = (found * (rest * rest) + rest) + ONE
    return found * powers[int(whole) + 126]


@_kernel
def read_dense(
    row: Floats, own: int, bounds: Floats, scale: Floats, embedding: Floats, own_width: int, found: Floats
) -> None:
    """One entity's dense features, bounded and scaled, then its own embedding, into `found` from its beginning on.
    `bounds` float32 [3, dense width] are low, high and margin, `scale` [2, dense width] mean and factor."""
    for k in range(len(row)):
        value = bounded(row[k], bounds[0, k], bounds[1, k], bounds[2, k])
        found[k] = (value - scale[0, k]) * scale[1, k]
    for k in range(own_width):
        found[len(row) + k] = embedding[own, k]


@_kernel
def perceptron(
    dense: Floats, own: Ints, bounds: Floats, scale: Floats, embedding: Floats, own_width: int,
    widths: Ints, weights: Floats, biases: Floats, out: Floats,
) -> None:  # fmt: skip
    """Layers of `widths` (inputs first), ReLU between them. `weights` [inputs of all layers, widest] and `biases`
    [layers, widest] are padded with noughts."""
    inputs, total = np.zeros(weights.shape[1], np.float32), np.zeros(weights.shape[1], np.float32)
    used, layers = np.zeros(weights.shape[1], np.int64), len(widths) - 1
    for n in range(len(own)):
        read_dense(dense[n], own[n], bounds, scale, embedding, own_width, inputs)
        first = 0
        for layer in range(layers):
            before, after = widths[layer], widths[layer + 1]
            sums = total[:after]
            for o in range(after):
                sums[o] = biases[layer, o]
            add_rows(sums, inputs[:before], weights, first, used)
            first += before
            for o in range(after):
                inputs[o] = NONE if layer + 1 < layers and sums[o] < NONE else sums[o]  # nan stays
        for o in range(out.shape[1]):
            out[n, o] = inputs[o]


@_kernel
def project(embedding: Floats, weights: Floats, bias: Floats, out: Floats) -> None:
    """What an item alone gives an entry, float32 [items, hidden]: bias and its embedding by `weights` [width,
    hidden]."""
    used = np.zeros(embedding.shape[1], np.int64)
    for i in range(len(embedding)):
        for h in range(len(bias)):
            out[i, h] = bias[h]
        add_rows(out[i], embedding[i], weights, 0, used)


@_kernel
def attention_pool(
    dense: Floats, sequence: Floats, items: Ints, length: Ints, own: Ints, bounds: Floats, scale: Floats,
    embedding: Floats, own_width: int, entry_bounds: Floats, projected: Floats, item_weights: Floats, bias: Floats,
    entry_weights: Floats, attend: Floats, attend_bias: Floats, out_weights: Floats, out_bias: Floats, powers: Floats,
    out: Floats,
) -> None:  # fmt: skip
    """Entries [size, hidden] of each list, pooled by `attend` [queries, hidden], through the last layer, `out_weights`
    [queries · hidden + dense + own, dim].

    `projected` [items, hidden] is what `project` gives; where it is empty, an entry's item is projected each time, to
    the same bits. `entry_bounds` [3, sequence width] bound an entry's numbers.
    """
    size, hidden, queries = items.shape[1], attend.shape[1], attend.shape[0]
    room = (size + LANES - 1) // LANES * LANES
    entries, logits = np.zeros((room, hidden), np.float32), np.zeros((queries, room), np.float32)
    pooled, joined = np.zeros(hidden, np.float32), np.zeros(dense.shape[1] + own_width, np.float32)
    values, total = np.zeros(sequence.shape[2], np.float32), np.zeros(out.shape[1], np.float32)
    used = np.zeros(max(hidden, room, len(values), len(joined), embedding.shape[1]), np.int64)
    for n in range(len(own)):
        count = min(length[n], size)
        for e in range(count):
            entry = entries[e]
            if len(projected):
                known = projected[items[n, e]]
                for h in range(hidden):
                    entry[h] = known[h]
            else:
                for h in range(hidden):
                    entry[h] = bias[h]
                add_rows(entry, embedding[items[n, e]], item_weights, 0, used)
            for k in range(len(values)):
                values[k] = bounded(sequence[n, e, k], entry_bounds[0, k], entry_bounds[1, k], entry_bounds[2, k])
            add_rows(entry, values, entry_weights, 0, used)
            for h in range(hidden):
                entry[h] = max(entry[h], NONE)
        _logits(entries, count, attend, attend_bias, logits)
        for o in range(len(total)):
            total[o] = out_bias[o]
        for q in range(queries if count else 0):
            weights = logits[q]
            most = weights[0]
            for e in range(1, count):
                most = max(most, weights[e])
            whole = NONE
            for e in range(count):
                weights[e] = exponential(weights[e] - most, powers)
                whole += weights[e]
            for e in range(count):
                weights[e] /= whole
            for h in range(hidden):
                pooled[h] = NONE
            add_rows(pooled, weights[:count], entries, 0, used)
            add_rows(total, pooled, out_weights, q * hidden, used)
        read_dense(dense[n], own[n], bounds, scale, embedding, own_width, joined)
        add_rows(total, joined, out_weights, queries * hidden, used)
        for o in range(len(total)):
            out[n, o] = total[o]


@_kernel
def _logits(entries: Floats, count: int, attend: Floats, bias: Floats, found: Floats) -> None:
    """found[q, e] = bias[q] + the sum over h, from 0 on, of entries[e, h] · attend[q, h], for eight entries at a time.
    The last of them may lie beyond `count`: they are room of the list's."""
    for e in range(0, count, LANES):
        a, b, c, d = entries[e], entries[e + 1], entries[e + 2], entries[e + 3]
        i, j, k, m = entries[e + 4], entries[e + 5], entries[e + 6], entries[e + 7]
        for q in range(len(bias)):
            weights, to = attend[q], found[q]
            s = t = u = v = w = x = y = z = bias[q]
            for h in range(len(weights)):
                by = weights[h]
                s += by * a[h]
                t += by * b[h]
                u += by * c[h]
                v += by * d[h]
                w += by * i[h]
                x += by * j[h]
                y += by * k[h]
                z += by * m[h]
            to[e], to[e + 1], to[e + 2], to[e + 3] = s, t, u, v
            to[e + 4], to[e + 5], to[e + 6], to[e + 7] = w, x, y, z


@_kernel
def user_affinity(dense: Floats, overall: int, parts: Ints, bounds: Floats, out: Floats) -> None:
    """`parts` int64 [parts, 3]: whether it is a mean, its first column, how many it has of each kind. `overall` is the
    column of the plain mean. `bounds` are those of the numbers that come out."""
    for n in range(len(dense)):
        row, at = dense[n], 0
        mean = row[overall] / max(row[overall + 1], LEAST_COUNT)
        for p in range(len(parts)):
            first, width = parts[p, 1], parts[p, 2]
            for k in range(width):
                number = row[first + width + k]
                if parts[p, 0]:
                    number = row[first + k] - mean * number
                out[n, at] = bounded(number * STEP, bounds[0, at], bounds[1, at], bounds[2, at])
                at += 1


@_kernel
def item_affinity(dense: Floats, bounds: Floats, out: Floats) -> None:
    """Each key over the number of keys."""
    for n in range(len(dense)):
        row, total = dense[n], NONE
        for k in range(len(row)):
            total += row[k]
        total = max(total, ONE)
        for k in range(len(row)):
            out[n, k] = bounded(row[k] / total, bounds[0, k], bounds[1, k], bounds[2, k])
