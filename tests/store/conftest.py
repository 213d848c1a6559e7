"""Rows and codecs that the store's tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forebay.store.codec import RowCodec, Rows, SlotSpec


@pytest.fixture
def codec() -> RowCodec:
    """Two segments of different width; the first encoder's hash needs all 64 bits."""
    return RowCodec("item", (SlotSpec("content", 8, 2**64 - 3), SlotSpec("stats", 4, 7)))


@pytest.fixture
def filled(codec: RowCodec) -> Callable[..., Rows]:
    """Rows of random content, all fields set."""

    def fill(n: int, seed: int = 0) -> Rows:
        rng = np.random.default_rng(seed)
        rows = codec.empty(n)
        for segment in codec.segments:
            part = rows["segments"][segment.name]
            part["vector"] = rng.integers(-127, 128, (n, segment.dim))
            part["scale"] = rng.random(n, np.float32)
            part["as_of"] = rng.integers(1, 1 << 45, n)
            part["last_event"] = rng.integers(0, 1 << 45, n)
            part["flags"] = rng.integers(0, 4, n)
        return rows

    return fill
