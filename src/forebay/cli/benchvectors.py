"""Clustered vectors, queries of the same clusters, and what is best for each: for `forebay bench index`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.quantize import dequantize, quantize
from forebay.store.faissbuild import best_of_many

DIM, CENTRES, SPREAD = 64, 1_000, 0.35
QUERIES, K, RECALL = 300, 100, 0.98


@dataclass(frozen=True)
class World:
    """`vectors` float32 [n, DIM] as stored codes have them, `queries` float32 [QUERIES, DIM] and the best rows of each
    int64 [QUERIES, K]."""

    vectors: Floats
    queries: Floats
    best: Ints
    centres: Floats

    @classmethod
    def of(cls, items: int) -> World:
        """The same for each size."""
        random = np.random.default_rng(0)
        centres = random.standard_normal((CENTRES, DIM), np.float32)
        vectors = drawn(random, centres, items)
        queries = drawn(random, centres, QUERIES)
        return cls(vectors, queries, best_rows(vectors, queries), centres)

    def recall(self, ask: Callable[[Floats], Ints], best: Ints | None = None) -> float:
        """Of the K best, over all queries."""
        best = self.best if best is None else best
        hits = [np.isin(rows, ask(query)).mean() for rows, query in zip(best, self.queries, strict=True)]
        return float(np.mean(hits))


def drawn(random: np.random.Generator, centres: Floats, count: int) -> Floats:
    """float32 [count, DIM], as they are after they were stored."""
    made = centres[random.integers(len(centres), size=count)]
    made += np.float32(SPREAD) * random.standard_normal((count, DIM), np.float32)
    return dequantize(*quantize(made))


def best_rows(vectors: Floats, queries: Floats) -> Ints:
    """int64 [m, K], exactly."""
    step = 100_000
    parts = (
        (np.arange(at, min(at + step, len(vectors))), vectors[at : at + step]) for at in range(0, len(vectors), step)
    )
    return best_of_many(parts, queries, K)
