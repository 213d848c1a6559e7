"""int8 vectors: half a step off at most, and no input that finite floats allow is a special case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.segments.quantize import dequantize, quantize

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), max_size=4))
def test_no_number_is_off_by_more_than_half_a_step(numbers: list[list[float]]) -> None:
    """Any finite float32, the smallest and the greatest included; the largest of a vector has the code ±127."""
    vectors = np.array(numbers, dtype=np.float32).reshape(-1, 3)
    codes, scale = quantize(vectors)
    assert codes.dtype == np.int8 and scale.dtype == np.float32 and np.isfinite(scale).all()
    error = np.abs(vectors.astype(np.float64) - codes.astype(np.float64) * scale[:, None].astype(np.float64))
    assert (error <= scale[:, None] * 0.5001 + 1e-36).all()
    large = np.abs(vectors).max(axis=1, initial=0) > 1e-30
    assert (np.abs(codes).max(axis=1, initial=0)[large] == 127).all()


def test_zeros_have_no_scale() -> None:
    """And so do vectors too small for a float32 to scale."""
    codes, scale = quantize(np.array([[0, 0], [1e-40, -1e-44], [2, -1]], dtype=np.float32))
    assert codes.tolist() == [[0, 0], [0, 0], [127, -64]]
    assert scale[:2].tolist() == [0, 0]


@pytest.mark.parametrize("factor", [0.001, 1.0, 300.0])
def test_a_row_depends_on_itself_alone(factor: float) -> None:
    """A neighbour a thousand times as large costs it nothing."""
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    alone = [quantize(v[None, :]) for v in vectors]
    vectors[0] *= factor
    codes, scale = quantize(vectors)
    for row in range(1, 5):
        assert codes[row].tobytes() == alone[row][0][0].tobytes() and scale[row] == alone[row][1][0]


def test_dequantize_is_codes_times_scale() -> None:
    """Exactly: readers in another room do it in their kernels."""
    codes = np.array([[1, -127], [0, 5]], dtype=np.int8)
    assert dequantize(codes, np.array([0.5, 2.0], dtype=np.float32)).tolist() == [[0.5, -63.5], [0, 10]]
