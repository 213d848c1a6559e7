"""What a bundle with more segments keeps of the one before: the state that both fold alike, and the vectors that both
encode alike.

State is shared by features, and not by segments: an added segment whose features others have already needs no event of
the past. One with features of its own needs those events, for its own blocks alone; all others stay as they are.

A vector stays where all that it is computed from is the same, to the bit. Its row's tag is a hash over all attributes
that a spec declares; a new attribute gives every segment another tag, and changes no vector of those that do not read
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forebay.arrays import Array, Ints
from forebay.errors import BundleError
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, FeatureSpec, SegmentSpec, Side, Spec
from forebay.segments.state.layout import HEADER, Block, Layout, meaning


@dataclass(frozen=True)
class Growth:
    """`new` has all segments of `old` and `added` ones. `changed` are those of both whose vectors differ, each with
    what differs; their state is the same."""

    old: Bundle
    new: Bundle
    added: tuple[SegmentSpec, ...]
    changed: Mapping[str, str]

    @classmethod
    def between(cls, old: Bundle, new: Bundle) -> Growth:
        """Raises BundleError where `new` adds no segment, lacks one, or where a segment of both folds other state: that
        of `old` cannot become it."""
        before, after = ({s.title: s for s in bundle.spec.segments} for bundle in (old, new))
        where = f"bundle {new.name}, beside {old.name}"
        again = "Build the generation from history: forebay backfill"
        if gone := [title for title in before if title not in after]:
            raise BundleError(
                f"it has no {', '.join(gone)}",
                where=where,
                do=f"Segments are added here, and none is left out. {again}",
            )
        added = tuple(s for title, s in after.items() if title not in before)
        if not added:
            raise BundleError(
                "it has no segment that is new", where=where,
                do=f"Add one to the spec: forebay train --bundle OLD --spec NEW --segment SIDE.NAME. {again}",
            )  # fmt: skip
        if old.spec.events.retire_users_after_ms != new.spec.events.retire_users_after_ms:
            raise BundleError(
                "its users retire after another time", where=where,
                do=f"Leave retire_users_after as it was: what the old one forgot is gone. {again}",
            )  # fmt: skip
        had = {side: _meanings(old, side) for side in SIDES}
        other = [title for title in before if not _folded(new, after[title]) <= had[after[title].side]]
        if other:
            raise BundleError(
                f"it folds other state for {', '.join(other)}", where=where,
                do="Leave the features of the other segments, the attributes that they name and the actions as they "
                f"were, or give the segment another name. {again}",
            )  # fmt: skip
        found = {title: _difference(old, new, before[title], after[title]) for title in before}
        return cls(old, new, added, {title: what for title, what in found.items() if what})

    @cached_property
    def sides(self) -> dict[Side, SideGrowth]:
        """What becomes of the rows of each side."""
        return {side: SideGrowth.of(self, side) for side in SIDES}


@dataclass(frozen=True)
class SideGrowth:
    """Rows of one side. Columns `source` of an old row are columns `target` of a new one; `lacks` is the layout of the
    blocks that old rows do not have, whose columns behind the header are `own` of a new row, or None where they have
    all. The old segment number s is number `places[s]` in the new bundle. `encode` has bit s for each new segment that
    has no vector yet, or another one."""

    old: Layout
    new: Layout
    source: Ints
    target: Ints
    lacks: Layout | None
    own: Ints
    places: tuple[int, ...]
    encode: int

    @classmethod
    def of(cls, growth: Growth, side: Side) -> SideGrowth:
        old, new = growth.old.layouts[side], growth.new.layouts[side]
        before = {repr(meaning(growth.old.spec, side, block)): block for block in old.blocks}
        source, target = [np.arange(HEADER)], [np.arange(HEADER)]
        lacking: list[Block] = []
        for block in new.blocks:
            had = before.get(repr(meaning(growth.new.spec, side, block)))
            if had is None:
                lacking.append(block)
                continue
            source.append(_columns(had))
            target.append(_columns(block))
        titles = [s.title for s in growth.new.spec.side(side)]
        added = {s.title for s in growth.added}
        bits = [1 << place for place, title in enumerate(titles) if title in added or title in growth.changed]
        return cls(
            old, new, np.concatenate(source), np.concatenate(target),
            new.part(lacking) if lacking else None,
            np.concatenate([np.zeros(0, np.int64), *(_columns(block) for block in lacking)]),
            tuple(titles.index(s.title) for s in growth.old.spec.side(side)), sum(bits),
        )  # fmt: skip

    def rows(self, old: Ints, lacked: Ints | None) -> Ints:
        """Rows int64 [n, new width] of old ones int64 [n, old width] and of what those lack, int64 [n, its width]."""
        found = np.zeros((len(old), self.new.width), np.int64)
        found[:, self.target] = old[:, self.source]
        if lacked is not None:
            found[:, self.own] = lacked[:, HEADER:]
        return found

    def masks(self, old: Ints) -> Ints:
        """Masks of old segments int64 [n] as masks of new ones."""
        found = np.zeros_like(old)
        for place, now in enumerate(self.places):
            found |= (old >> place & 1) << now
        return found


def _columns(block: Block) -> Ints:
    return np.arange(block.offset, block.offset + block.size)


def _meanings(bundle: Bundle, side: Side) -> set[str]:
    return {repr(meaning(bundle.spec, side, block)) for block in bundle.layouts[side].blocks}


def _folded(bundle: Bundle, segment: SegmentSpec) -> set[str]:
    """What the blocks mean that the segment reads."""
    layout = bundle.layouts[segment.side]
    blocks = (layout.block(feature) for feature in segment.features if feature.kind != "id")
    return {repr(meaning(bundle.spec, segment.side, block)) for block in blocks}


def _difference(old: Bundle, new: Bundle, before: SegmentSpec, after: SegmentSpec) -> str:
    """What makes the vectors of a segment others, "" where nothing does."""
    if before.features != after.features:
        return "its features"
    if (before.encoder, before.dim) != (after.encoder, after.dim):
        return "its encoder"
    if (
        _attributes(old.spec, before) != _attributes(new.spec, after)
        or old.spec.events.actions != new.spec.events.actions
    ):
        return "attributes or actions that it reads"
    if not _same({"": old.vocabulary.hashes}, {"": new.vocabulary.hashes}):
        return "the vocabulary of items"
    return "" if _same(old.segment_tensors(before), new.segment_tensors(after)) else "its weights"


def _attributes(spec: Spec, segment: SegmentSpec) -> list[str]:
    """The declarations that its features name; of a class of somebody's own, which may read any, all."""
    named = {name for feature in segment.features for name in _names(feature)}
    everything = ":" in segment.encoder.kind
    return [
        f"{holder} {attribute!r}"
        for holder, declared in sorted(spec.attributes.items())
        for attribute in declared
        if everything or attribute.name in named
    ]


def _names(feature: FeatureSpec) -> set[str]:
    conditions = feature.where.attributes if feature.where else ()
    return {*feature.keys, *feature.of, *(attribute.name for attribute in conditions)}


def _same(before: Mapping[str, Array], after: Mapping[str, Array]) -> bool:
    """Whether the tensors are the same, to the bit."""
    return before.keys() == after.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in ((before[name], after[name]) for name in before)
    )
