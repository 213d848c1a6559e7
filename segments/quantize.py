"""int8 with one float32 scale per segment vector: the form in which vectors travel, rest and are served.

It cost no AUC, GAUC or logloss on MovieLens against float32, at 36 bytes for 32 dimensions instead of 128.
"""

from __future__ import annotations

import numpy as np

from forebay.arrays import Floats, Int8s


def quantize(vectors: Floats) -> tuple[Int8s, Floats]:
    """int8 [n, d] and scales float32 [n] of float32 [n, d]: `x ≈ q · scale`, off by at most half a scale.

    A row of zeros has scale 0. Rows must be finite: the encode step holds back those that are not.
    """
    peak = np.abs(vectors).max(axis=1)
    scale = (peak / np.float32(127)).astype(np.float32)
    with np.errstate(over="ignore"):
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    # A subnormal scale has an infinite inverse; such a vector is zero for every purpose.
    tiny = ~np.isfinite(inverse)
    scale[tiny], inverse[tiny] = 0, 0
    return np.rint(vectors * inverse[:, None]).astype(np.int8), scale


def dequantize(codes: Int8s, scale: Floats) -> Floats:
    """float32 [n, d] of int8 [n, d] and scales [n]."""
    return codes.astype(np.float32) * scale[:, None]
