"""The one way to run an encoder: as a compiled kernel (compiled.py), or through torch in canonical batches.

A linear layer's result for a row depends, in its last bits, on the shape of the batch around it (batch 1 against 257:
no row equal). In one fixed shape, padded, it does not: rows are then bit-identical whatever their neighbours, their
place, and whether one thread or two compute them. So what runs through torch always runs in batches of CANONICAL rows,
in the stream, in backfill and in evaluation alike. torch's native MultiheadAttention is the known exception and is not
used.

Place needs one thing more: rows of equal alignment. Where a layer has 2 to 11 outputs and inputs that are no multiple
of four, the matrix kernels treat rows by where they lie in memory, and two equal rows of one batch differ (measured
with the MKL of torch 2.13). So layers are `Aligned`, and the widths that `bmm` sees are multiples of eight
(encoderfile.py).
"""

from __future__ import annotations

from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forebay.arrays import Floats
from forebay.segments.encoders.compiled import Run, compiled
from forebay.segments.encoders.contract import SegmentEncoder
from forebay.segments.state.readout import Inputs

CANONICAL = 128  # at 64 per-call overhead shows, at 256 a single pending user pays for 255 empty rows


def tensors(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arrays as tensors, without a copy."""
    f = torch.from_numpy
    return f(inputs.dense), f(inputs.sequence), f(inputs.items), f(inputs.length), f(inputs.own)


def encode(encoder: SegmentEncoder, inputs: Inputs) -> Floats:
    """float32 [n, dim], each row bit-identical whatever stands beside it. Rows may be non-finite: callers check."""
    return runner(encoder)(inputs)


def runner(encoder: SegmentEncoder) -> Run:
    """`encode` of this encoder with the weights that it has now, for whoever encodes more than once."""
    return compiled(encoder) or partial(encode_by_torch, encoder)


@torch.inference_mode()
def encode_by_torch(encoder: SegmentEncoder, inputs: Inputs) -> Floats:
    """As `encode`, in canonical batches: what runs where there is no kernel, and what kernels are held against."""
    encoder.eval()
    count, device = len(inputs), next(chain(encoder.parameters(), encoder.buffers()), torch.empty(0)).device
    parts = []
    for start in range(0, count, CANONICAL):
        part = inputs.take(slice(start, start + CANONICAL))
        parts.append(encoder(*(t.to(device) for t in tensors(_padded(part)))).cpu().numpy())
    if not parts:
        return np.zeros((0, encoder.dim), dtype=np.float32)
    return np.concatenate(parts)[:count]


def _padded(part: Inputs) -> Inputs:
    missing = CANONICAL - len(part)
    if not missing:
        return part

    def pad(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.concatenate([array, np.zeros((missing, *array.shape[1:]), dtype=array.dtype)])

    return Inputs(*(pad(a) for a in (part.dense, part.sequence, part.items, part.length, part.own)))  # type: ignore[arg-type]
