"""The contract of a fusion: a score out of cached vectors, in three parts so that each is computed as seldom as
possible.

`item_half` is computed once per item and kept, `user_half` once per request, `join` per pair. Vectors come flat, as
they are stored: a side's segments one after the other in the order of the spec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, TypeAlias

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.errors import BundleError
from forebay.segments.fusions.joined import Joined
from forebay.segments.spec import FusionSpec, Side, Spec, Use

Query: TypeAlias = tuple[Floats, ...]  # a user half: arrays that only the fusion which made them reads


@dataclass(frozen=True)
class Part:
    """One vector that a fusion takes apart: columns `start` to `stop` of its side's flat vector, of segment number
    `segment`."""

    segment: int
    start: int
    stop: int

    @property
    def width(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Shape:
    """Where a fusion's parts lie in the flat vectors of both sides, which are `user_dim` and `item_dim` wide."""

    user: tuple[Part, ...]
    item: tuple[Part, ...]
    user_dim: int
    item_dim: int
    user_segments: int

    @classmethod
    def of(cls, spec: Spec, use: Use) -> Shape:
        fusion = spec.fusions[use]
        dims = {side: sum(s.dim for s in spec.side(side)) for side in ("user", "item")}
        parts = {side: _parts(spec, side, fusion) for side in ("user", "item")}
        return cls(parts["user"], parts["item"], dims["user"], dims["item"], len(spec.side("user")))

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(user part, item part) of equal width, those of one item part together: what can be multiplied."""
        return tuple((p, q) for q, v in enumerate(self.item) for p, u in enumerate(self.user) if u.width == v.width)

    @cached_property
    def places(self) -> Ints:
        """int64 [pairs, 5]: of each of `pairs` its user part and its item part, where both begin, and their width."""
        found = [(p, q, self.user[p].start, self.item[q].start, self.item[q].width) for p, q in self.pairs]
        return np.array(found, np.int64).reshape(-1, 5)

    def meets(self, before: int = 0) -> Ints:
        """`places` as Joined has them, of halves that have the item's vector behind `before` other numbers."""
        _, q, user, item, width = self.places.T
        return np.ascontiguousarray(np.stack([user, item + before, width, q], axis=1))

    @cached_property
    def user_columns(self) -> Ints:
        return np.concatenate([np.arange(p.start, p.stop) for p in self.user])

    @cached_property
    def item_columns(self) -> Ints:
        return np.concatenate([np.arange(p.start, p.stop) for p in self.item])

    @cached_property
    def packed(self) -> Shape:
        """The same parts, those of an item one behind the other: of the columns `item_columns` alone. An item half that
        has the item's vector need not have the segments that this fusion does not read."""
        ends = np.cumsum([p.width for p in self.item]).tolist()
        parts = tuple(Part(p.segment, end - p.width, end) for p, end in zip(self.item, ends, strict=True))
        return replace(self, item=parts, item_dim=len(self.item_columns))

    def meet(self, user: Floats, weights: Floats) -> Floats:
        """float32 [item_dim, pairs]: a matrix whose product with item vectors [n, item_dim] is weights[p, q] · <u_p,
        v_q> for each of `pairs`, of one user's vector float32 [user_dim]."""
        matrix = np.zeros((self.item_dim, len(self.pairs)), dtype=np.float32)
        for column, (p, q) in enumerate(self.pairs):
            u, v = self.user[p], self.item[q]
            matrix[v.start : v.stop, column] = user[u.start : u.stop] * weights[p, q]
        return matrix


def _parts(spec: Spec, side: Side, fusion: FusionSpec) -> tuple[Part, ...]:
    read = fusion.user if side == "user" else fusion.item
    found, start = [], 0
    for place, segment in enumerate(spec.side(side)):
        width = segment.dim // segment.parts
        if segment in read:
            found += [Part(place, start + width * i, start + width * (i + 1)) for i in range(segment.parts)]
        start += segment.dim
    return tuple(found)


def part_bounds(parts: tuple[Part, ...], before: int, width: int) -> tuple[int, ...]:
    """Where parts begin and end in halves of `width` numbers that have the item's vector behind `before` others."""
    edges = {edge + before for part in parts for edge in (part.start, part.stop)}
    return tuple(sorted({0, before, width} | edges))


def each_times(rows: Floats, weight: Floats) -> Floats:
    """float32 [n, h]: the product of each row of float32 [n, d] with `weight` float32 [d, h], one by one.

    In one product of all rows, a row's last bits depend on how many there are and on its place among them (OpenBLAS, on
    some processors). One by one costs about the same at these sizes.
    """
    found: Floats = (np.ascontiguousarray(rows)[:, None, :] @ weight)[:, 0]
    return found


class Fusion(ABC):
    """Made once from a bundle's tensors; holds no state of a request, so any number of threads may score at once.

    Its torch twin (twins.py) has the same tensors under the same names and scores alike to 1e-5 of the scores' spread
    (tests/segments/fusions). Where a segment is missing or expired, the caller puts the default vector in its place: a
    fusion never sees what it must not use.
    """

    kind: ClassVar[str]
    indexable: ClassVar[bool] = False
    twin: ClassVar[str] = ""  # of one's own class: "module:Class" of its torch twin, which only training imports

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        """`tensors` are the fusion's own, by the names that its twin gives them. Raises BundleError for one that is not
        there."""
        self.spec, self.shape, self._tensors = spec, shape, tensors

    def __init_subclass__(cls) -> None:
        """A kernel stands for the `join` that it was written for: a class with another one has none, unless it says."""
        super().__init_subclass__()
        if "join" in vars(cls) and "compiled" not in vars(cls):
            cls.compiled = Fusion.compiled  # type: ignore[method-assign]

    def tensor(self, name: str) -> Floats:
        """The tensor `name` as float32. Raises BundleError."""
        try:
            return np.ascontiguousarray(self._tensors[name], dtype=np.float32)
        except KeyError:
            raise BundleError(
                f"the bundle has no tensor fusion.{self.spec.use}.{name}",
                where="weights.safetensors",
                do="Train it again with: forebay train",
            ) from None

    @property
    def half_width(self) -> int:
        """Floats kept for an item: the columns of `item_half`."""
        return self.shape.item_dim

    @property
    def half_parts(self) -> tuple[int, ...]:
        """Where the parts of a half begin, and `half_width`: numbers of one size each, which share a scale where halves
        are kept as int8."""
        return 0, self.half_width

    def item_half(self, items: Floats) -> Floats:
        """float32 [n, half_width] of item vectors float32 [n, item_dim]. A row's bits do not depend on the others: a
        server computes halves as they are asked for, and after a restart in another company."""
        return items

    @abstractmethod
    def user_half(self, user: Floats) -> Query:
        """What `join` needs of one user's vector float32 [user_dim]."""

    @abstractmethod
    def join(self, query: Query, halves: Floats) -> Floats:
        """Scores float32 [n], logits of the label for `rank`, of item halves float32 [n, half_width]."""

    def compiled(self, query: Query) -> Joined | None:
        """`join` of that user's half as compiled kernels take it; None where there is no kernel for it."""
        return None

    def scores(self, user: Floats, items: Floats) -> Floats:
        """Scores float32 [n] of one user's vector [user_dim] and item vectors [n, item_dim]."""
        return self.join(self.user_half(user), self.item_half(items))

    def shares(self, user: Floats, items: Floats, default: Floats) -> Floats:
        """What each user segment adds to each score, float32 [n, user segments]: how much lower it were with the
        segment's default vector (`default` float32 [user_dim]) in its place. 0 for a segment that is not read."""
        halves = self.item_half(items)
        whole = self.join(self.user_half(user), halves)
        found = np.zeros((len(items), self.shape.user_segments), dtype=np.float32)
        for segment in {p.segment for p in self.shape.user}:
            without = user.copy()
            for part in self.shape.user:
                if part.segment == segment:
                    without[part.start : part.stop] = default[part.start : part.stop]
            found[:, segment] = whole - self.join(self.user_half(without), halves)
        return found


class InnerProduct(Fusion):
    """A fusion that folds to one inner product, exactly as trained, so that an index can search it: score = v · query +
    bias."""

    indexable: ClassVar[bool] = True

    def __init__(self, spec: FusionSpec, shape: Shape, tensors: Mapping[str, Floats]) -> None:
        super().__init__(spec, shape, tensors)
        self.bias = np.float32(self.tensor("bias").reshape(-1)[0])

    @abstractmethod
    def weights(self, user: Floats) -> Floats:
        """float32 [user parts, item parts] for one user's vector [user_dim]."""

    def query(self, user: Floats) -> Floats:
        """float32 [item_dim]; zero in the columns of segments that the fusion does not read."""
        from forebay.segments.fusions.joinkernels import fold_pairs  # numba, which loading a bundle does without

        found = np.zeros(self.shape.item_dim, np.float32)
        fold_pairs(user, self.weights(user), self.shape.places, found)
        return found

    def user_half(self, user: Floats) -> Query:
        return (self.query(user),)

    def join(self, query: Query, halves: Floats) -> Floats:
        return halves @ query[0] + self.bias

    def shares(self, user: Floats, items: Floats, default: Floats) -> Floats:
        """The exact parts of the sum: they add up to score - bias."""
        products = items @ self.shape.meet(user, self.weights(user))
        found = np.zeros((len(items), self.shape.user_segments), dtype=np.float32)
        for column, (p, _) in enumerate(self.shape.pairs):
            found[:, self.shape.user[p].segment] += products[:, column]
        return found
