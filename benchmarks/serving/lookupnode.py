"""A serving node of random vectors for the benchmarks: a model, its shared tables, and a copy of rows to compare
with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from forebay.arrays import Floats, Ints
from forebay.clock import now_ms
from forebay.prefetch import prefetch
from forebay.segments.fusions.contract import Fusion, Part, Shape
from forebay.segments.fusions.kinds import FUSIONS
from forebay.segments.spec import SIDES, EncoderSpec, FusionSpec, SegmentSpec, Side, Use
from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.rowlayout import RowLayout
from forebay.store.sharedcopy import SharedCopy

SEGMENTS = "abcd"
_AHEAD = 6


@dataclass(frozen=True)
class Model:
    """What a node needs of a bundle."""

    fusions: Mapping[Use, Fusion]
    specs: Mapping[Side, tuple[SegmentSpec, ...]]
    vectors: Mapping[Side, Floats]
    hash: str = "b" * 64

    def segments(self, side: Side) -> tuple[SegmentSpec, ...]:
        return self.specs[side]

    def defaults(self, side: Side) -> Floats:
        return self.vectors[side]


def model(dim: int, fusion: str, hidden: int) -> Model:
    """Four segments of `dim` dimensions on either side, and random weights."""
    random = np.random.default_rng(0)
    specs: dict[Side, tuple[SegmentSpec, ...]] = {
        side: tuple(SegmentSpec(side, name, (), EncoderSpec("mlp"), dim) for name in SEGMENTS) for side in SIDES
    }
    parts = tuple(Part(n, dim * n, dim * (n + 1)) for n in range(len(SEGMENTS)))
    width = dim * len(SEGMENTS)
    shape = Shape(parts, parts, width, width, len(SEGMENTS))
    sizes = {"weights": (4, 4), "bias": (1,), "user.weight": (hidden, width), "user.bias": (hidden,)}
    sizes |= {"item.weight": (hidden, width), "pairs.weight": (hidden, 16), "out.weight": (1, hidden), "out.bias": (1,)}
    tensors = {name: random.normal(size=size).astype("f4") / 8 for name, size in sizes.items()}
    fusions: dict[Use, Fusion] = {
        "rank": FUSIONS[fusion](FusionSpec("rank", fusion, specs["user"], specs["item"]), shape, tensors),
        "retrieve": FUSIONS["weighted_sum"](
            FusionSpec("retrieve", "weighted_sum", specs["user"], specs["item"]), shape, tensors
        ),
    }
    vectors: dict[Side, Floats] = {side: random.normal(size=width).astype("f4") for side in SIDES}
    return Model(fusions, specs, vectors)


def node(
    folder: Path, count: int, dim: int, fusion: str, halves: str, users: int, fill: int, hidden: int
) -> tuple[Model, SharedCopy, npt.NDArray[np.uint64], RowLayout]:
    """The model, a copy of `count` items named item-0… and `users` users in tables under `folder`, and the items' rows
    uint64 [count, words], which item n has as row n, and how they lie."""
    made, random, now = model(dim, fusion, hidden), np.random.default_rng(1), now_ms()
    codecs = {side: RowCodec(side, tuple(SlotSpec(name, dim, n) for n, name in enumerate(SEGMENTS))) for side in SIDES}
    # A checkout of before halves had a form to choose knows nothing of it.
    form: dict[str, Any] = {"halves": halves} if "halves" in inspect.signature(FeedingCopy).parameters else {}
    parts = (made, "bench", codecs, dict.fromkeys(SIDES, 4), folder)
    feeding = FeedingCopy(*parts, **form)
    for side, total in (("user", users), ("item", count)):
        for first in range(0, total, fill):
            numbers = range(first, min(total, first + fill))
            rows = codecs[side].empty(len(numbers))  # type: ignore[index]
            for name in SEGMENTS:
                part = rows["segments"][name]
                part["vector"] = random.integers(-127, 128, (len(numbers), dim))
                part["scale"], part["as_of"], part["last_event"] = 0.01, now, now
            feeding.show(side, [f"{side}-{n}" for n in numbers], rows, [n % 4 for n in numbers])  # type: ignore[arg-type]
    feeding.close()
    copy = SharedCopy(*parts, **form)
    identity = copy._readers["item"].identity
    words = identity.layout.dtype.itemsize // 8
    table = np.memmap(folder / "item" / "rows", np.uint64, "r", identity.origin_words * 8, (count, words))
    return made, copy, table, identity.layout


def payload(layout: RowLayout, fusion: str) -> tuple[int, int, int]:
    """Words of a row that a lookup reads: those of its head, and the first and last of what is scored."""
    at = layout.at(0)
    head = at.flags // 2 + -(-at.segments // 2)
    if fusion == "weighted_sum":
        return head, at.codes // 8, (at.codes + at.dim) // 8
    offsets = {name: offset for name, (_, offset, *_) in (layout.dtype.fields or {}).items()}
    return head, offsets["half"] // 8, offsets["codes"] // 8


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def copied(
    table: npt.NDArray[np.uint64], rows: Ints, head: int, first: int, last: int, out: npt.NDArray[np.uint64]
) -> None:
    """Those words of each row into `out`."""
    flat, width = table.reshape(-1), table.shape[1]
    for i in range(len(rows)):
        if i + _AHEAD < len(rows):
            at = rows[i + _AHEAD] * width
            for k in range(0, head, 8):
                prefetch(flat, at + k)
            for k in range(first, last, 8):
                prefetch(flat, at + k)
        at = rows[i] * width
        for k in range(head):
            out[i, k] = flat[at + k]
        for k in range(last - first):
            out[i, head + k] = flat[at + first + k]
