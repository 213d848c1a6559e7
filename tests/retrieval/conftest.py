"""A small serving node: two tables, an index and an engine over them, with a clock that tests set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from forebay.arrays import Floats, Ints
from forebay.retrieval.engine import Engine, EngineLimits
from forebay.segments.fusions.contract import Fusion
from forebay.segments.quantize import dequantize
from forebay.segments.spec import SIDES, EncoderSpec, SegmentSpec, Side, Use
from forebay.store.codec import RowCodec, ServedColumns, SlotSpec
from forebay.store.index import ItemIndex
from forebay.store.servingcopy import ServingCopy
from forebay.store.table import SegmentTable

from .fusions import D, weighted_sum

NOW = 1_790_000_000_000


def _segment(side: Side, name: str, expires_after_ms: int = 0) -> SegmentSpec:
    return SegmentSpec(side, name, (), EncoderSpec("mlp"), D, late_after_ms=10_000, expires_after_ms=expires_after_ms)


@dataclass(frozen=True)
class Small:
    """What a node needs of a bundle."""

    fusions: Mapping[Use, Fusion]
    specs: Mapping[Side, tuple[SegmentSpec, ...]]
    vectors: Mapping[Side, Floats]
    hash: str = "b" * 64

    def segments(self, side: Side) -> tuple[SegmentSpec, ...]:
        return self.specs[side]

    def defaults(self, side: Side) -> Floats:
        return self.vectors[side]


@dataclass
class Node:
    """`put` writes as a replica does; `vectors` and `defaults` are what scores can be checked against."""

    now_ms: int = NOW
    fusion: Fusion = field(default_factory=lambda: weighted_sum("rank"))
    specs: dict[Side, tuple[SegmentSpec, ...]] = field(
        default_factory=lambda: {
            "user": (_segment("user", "recent", expires_after_ms=60_000), _segment("user", "taste")),
            "item": (_segment("item", "content"), _segment("item", "stats", expires_after_ms=60_000)),
        }
    )

    served: Mapping[Side, ServedColumns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        self.codecs: dict[Side, RowCodec] = {
            side: RowCodec(
                side,
                tuple(SlotSpec(s.name, s.dim, i) for i, s in enumerate(specs)),
                self.served.get(side, ServedColumns()),
            )
            for side, specs in self.specs.items()
        }
        # Multiples of 1/127 with a peak of 1: the same after quantisation.
        codes = rng.integers(-127, 128, (2, 2, D))
        codes[:, :, 0] = 127
        defaults = (codes / 127).astype(np.float32)
        self.defaults: dict[Side, Floats] = {"user": defaults[0].reshape(-1), "item": defaults[1].reshape(-1)}
        fusions: dict[Use, Fusion] = {"rank": self.fusion, "retrieve": weighted_sum("retrieve")}
        self.model = Small(fusions, self.specs, self.defaults)
        self.copy = ServingCopy(self.model, "g1", self.codecs, dict.fromkeys(SIDES, 4))
        self.engine = Engine(
            self.model,
            self.copy,
            clock=lambda: self.now_ms / 1000,
            limits=EngineLimits(max_candidates=5000, max_k=1000, max_deny=100),
        )

    @property
    def tables(self) -> dict[Side, SegmentTable]:
        """What the copy's rows lie in."""
        return self.copy._tables

    @property
    def index(self) -> ItemIndex:
        """And what it searches."""
        return self.copy._index

    def put(
        self,
        side: Side,
        ids: Sequence[str],
        *,
        as_of: int = NOW,
        last_event: int = NOW - 5,
        flags: dict[str, int] | None = None,
        partition: int = 0,
        seed: int = 0,
        columns: Ints | None = None,
    ) -> None:
        """Rows of random vectors, the same ones for the same `seed`, with serving `columns` int64 [n, columns]."""
        codec, rng = self.codecs[side], np.random.default_rng(seed)
        rows = codec.empty(len(ids))
        for segment in codec.segments:
            part = rows["segments"][segment.name]
            part["vector"] = rng.integers(-127, 128, (len(ids), D))
            part["scale"] = rng.random(len(ids), np.float32) / 100
            part["as_of"], part["last_event"] = as_of, last_event
            part["flags"] = (flags or {}).get(segment.name, 0)
        if columns is not None:
            rows["served"]["columns"] = columns
        self.copy.show(side, list(ids), rows, [partition] * len(ids))

    def vectors(self, side: Side, ids: Sequence[str]) -> Floats:
        """What the table holds of `ids`, float32 [n, 2 D]; default vectors for unknown ones."""
        table = self.tables[side]
        rows = table.find(ids)
        codes, scales = table.vectors[rows].reshape(-1, D), table.scales[rows].reshape(-1)
        stored = dequantize(codes, scales).reshape(len(ids), 2 * D)
        return np.where((rows >= 0)[:, None], stored, self.defaults[side])

    def scores(self, user: Floats, items: Floats) -> Floats:
        """By the fusion's plain numpy form."""
        return self.fusion.scores(user, items)


@pytest.fixture
def make_node() -> Callable[..., Node]:
    return Node


@pytest.fixture
def node() -> Node:
    """Thirty items, one user."""
    built = Node()
    built.put("item", [f"i{n}" for n in range(30)], seed=1)
    built.put("user", ["u"], seed=2)
    return built
