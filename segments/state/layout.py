"""How an entity's state lies in one row of int64 columns.

Everything is an integer, an id or a timestamp, so that the same accepted events give the same bytes in any order;
floats begin at the read-out. A row is a header and one block for each different feature of the side:

    header   [0] time of the newest behaviour  [1] behaviours accepted  [2] time of the newest attribute update
    latest   [0] time [1] id of the newest update, then its attributes
    count    [0] time of the newest event counted, then buckets x keys
    mean     [0] likewise, then counts (buckets x keys), then sums in thousandths (buckets x keys)
    last     [0] entries in use, then entries (time, id, columns…) ascending by (time, id), unused ones zero

The keys of a cross are pairs, the second one's fastest. A half-life is a read-out: no column depends on it.

Lists come last, so that trailing zeros, which storage trims, are most of a young row. Behind them is what `[serving]`
asks for and no segment reads: a `latest` of items, a `last` of users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from forebay.arrays import Ints
from forebay.segments.spec import FeatureSpec, Side, Spec

NEWEST, ACCEPTED, UPDATED = 0, 1, 2
HEADER = 3


@dataclass(frozen=True)
class Block:
    """One feature's columns: `offset` to `offset + size`. `bits` has bit s set for each segment s that reads them."""

    feature: FeatureSpec
    offset: int
    size: int
    keys: int
    columns: tuple[str, ...]
    bits: int
    widths: tuple[int, ...] = ()  # of each key of a count or a mean; their product is `keys`

    @property
    def stride(self) -> int:
        """Columns of one entry of a `last` block."""
        return 2 + len(self.columns)


@dataclass(frozen=True)
class Layout:
    """The rows of one side. `digest` changes when, and only when, rows of an older layout cannot be read."""

    side: Side
    blocks: tuple[Block, ...]
    width: int
    event_columns: tuple[str, ...]
    update_columns: tuple[str, ...]
    sets: frozenset[str]
    segment_bits: int
    digest: str

    @classmethod
    def of(cls, spec: Spec, side: Side, *, serving: bool = False) -> Layout:
        """For the segments of the side; with `serving` also for what `[serving]` asks of its rows. Whoever trains or
        encodes alone does without: the columns of the segments lie in the same places."""
        bits: dict[FeatureSpec, int] = {}
        for place, segment in enumerate(spec.side(side)):
            for feature in segment.features:
                if feature.kind != "id":
                    bits[feature.state] = bits.get(feature.state, 0) | 1 << place
        offset, blocks = HEADER, []
        for feature in sorted(bits, key=lambda f: f.kind == "last"):
            block = _block(spec, feature, offset, bits[feature])
            blocks.append(block)
            offset += block.size
        served = spec.served(side) if serving else None
        if served is not None and served not in bits:
            blocks.append(_block(spec, served, offset, _told_with(bits, side)))
            offset += blocks[-1].size
        items = tuple(a.name for a in spec.attributes["item"])
        own = tuple(a.name for a in spec.event_attributes)  # last: a spec without them has the columns that it had
        events = ("item", "action", "value", *items, *own) if side == "user" else ("user", "action", "value", *own)
        updates = tuple(a.name for a in spec.attributes[side])
        described = repr([(b.offset, *meaning(spec, side, b)) for b in blocks])
        return cls(
            side=side,
            blocks=tuple(blocks),
            width=offset,
            event_columns=events,
            update_columns=updates,
            sets=frozenset(a.name for a in (*spec.attributes["item"], *spec.event_attributes) if a.kind == "set"),
            segment_bits=(1 << len(spec.side(side))) - 1,
            digest=hashlib.sha256(described.encode()).hexdigest()[:16],
        )

    def block(self, feature: FeatureSpec) -> Block:
        """The block that `feature` reads; features that differ in their half-life alone share one."""
        return next(b for b in self.blocks if b.feature == feature.state)

    def part(self, blocks: Sequence[Block]) -> Layout:
        """Rows of these of its blocks alone, one behind the other after a header of their own."""
        offset, laid = HEADER, []
        for block in blocks:
            laid.append(replace(block, offset=offset))
            offset += block.size
        names = repr((self.digest, [b.offset for b in blocks]))
        return replace(
            self, blocks=tuple(laid), width=offset, digest=hashlib.sha256(names.encode()).hexdigest()[:16]
        )  # fmt: skip

    def pack(self, row: Ints) -> bytes:
        """One row int64 [width] for storage, its trailing zero bytes trimmed."""
        return row.tobytes().rstrip(b"\0")

    def unpack(self, data: bytes) -> Ints:
        """The row int64 [width] that `pack` was given."""
        return np.frombuffer(data.ljust(self.width * 8, b"\0"), dtype=np.int64)


def _told_with(bits: Mapping[FeatureSpec, int], side: Side) -> int:
    """The bit of one segment that waits to be encoded when what requests may ask of a row has changed, so that the row
    is told: one that waits then anyway, where there is one."""
    kinds = ("latest",) if side == "item" else ("last", "count", "mean")
    reading = [found for f, found in bits.items() if f.kind in kinds and f.where is None]
    both = reading[0] if reading else 1
    return both & -both


def _block(spec: Spec, feature: FeatureSpec, offset: int, bits: int) -> Block:
    columns: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    match feature.kind:
        case "last":
            columns = tuple(c for c in feature.of if c != "age")  # an age is a read-out of the entry's time
            size = 1 + feature.size * (2 + len(columns))
        case "latest":
            columns = feature.of
            size = 2 + len(columns)
        case _:
            widths = tuple(key_width(spec, k) for k in feature.keys)
            size = 1 + feature.buckets * prod(widths) * (2 if feature.kind == "mean" else 1)
    return Block(feature, offset, size, prod(widths), columns, bits, widths)


def meaning(spec: Spec, side: Side, block: Block) -> tuple[object, ...]:
    """All that the numbers of a block depend on, besides the events and where it lies. What no feature reads may change
    without a new layout."""
    feature = block.feature
    names = {*feature.keys, *block.columns}
    carried = (*spec.attributes["item"], *spec.event_attributes)  # by a behaviour: no name is in both
    declared = spec.attributes[side] if feature.kind == "latest" else carried
    # Buckets only where there are some: the digest of every older layout is over three fields of each attribute.
    attributes = [(a.name, a.kind, a.values, *([a.buckets] * bool(a.buckets))) for a in declared if a.name in names]
    actions = spec.events.actions if "action" in names else ()  # a condition means the same whatever else is listed
    shape = (feature.kind, feature.key, block.columns, feature.size, feature.bucket_ms, feature.over_ms)
    return shape, feature.where.text if feature.where else "", sorted(attributes), actions


def key_width(spec: Spec, key: str) -> int:
    """How many values a count's key has, the unknown one included; 1 for `events`."""
    if key == "events":
        return 1
    return len(spec.events.actions) + 1 if key == "action" else spec.column(key).width
