"""What all contestants of peers.py hold: int8 vectors of items i0… and users u0…, four segments side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE, SEGMENTS = 0.01, 4


def width(given: dict[str, Any]) -> int:
    """Numbers in a vector."""
    return SEGMENTS * int(given["dim"])


def codes(given: dict[str, Any]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """int8 of all users and of all items: times SCALE these are the vectors."""
    random = np.random.default_rng(given["seed"])
    users = random.integers(-127, 128, (given["users"], width(given)), np.int8)
    return users, random.integers(-127, 128, (given["items"], width(given)), np.int8)


def best(items: Sequence[str], scores: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
    """The k items with the highest scores, best first."""
    top = np.argpartition(scores, -k)[-k:]
    top = top[np.argsort(scores[top])[::-1]]
    return [(items[n], float(scores[n])) for n in top.tolist()]
