"""What a request costs: the time of 1,000 candidates and the bytes that are kept for it, of each way to score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from forebay.arrays import Floats
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import Fusion, InnerProduct
from forebay.segments.state.kept import Kept
from forebay.segments.training.early import Early

CANDIDATES = 1000


def fusion_ms(fusion: Fusion, user: Floats, items: Floats, repeats: int = 200) -> float:
    """Median ms of one user's vector [dims] against 1,000 item vectors [1000, dims] whose halves are kept: the user
    half and the join. On one thread, in process; gathering rows and the network are not in it."""
    halves = np.ascontiguousarray(fusion.item_half(items))
    return _median_ms(lambda: fusion.join(fusion.user_half(user), halves), repeats)


def early_ms(model: Early, inputs: Mapping[str, Kept], repeats: int = 15) -> float:
    """Median ms of the early ranker over 1,000 pairs of one user, features already read and in memory."""
    place = np.zeros(CANDIDATES, dtype=np.intp)
    own = {
        title: part.take(place if title.startswith("user.") else np.arange(CANDIDATES) % len(part))
        for title, part in inputs.items()
    }

    def score() -> None:
        with torch.inference_mode():
            model(own)

    return _median_ms(score, repeats)


def vector_bytes(bundle: Bundle, fusion: Fusion) -> tuple[int, int]:
    """Bytes of a user and of an item that `fusion` reads: int8 vectors with a scale for each segment, and the item half
    as it is kept in memory where it is more than the vector."""
    spec = fusion.spec
    user, item = (sum(s.dim + 4 for s in segments) for segments in (spec.user, spec.item))
    return user, item + (0 if isinstance(fusion, InnerProduct) else 4 * fusion.half_width)


def _median_ms(call: Callable[[], object], repeats: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            call()
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return float(np.median(taken) * 1000)
