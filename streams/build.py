"""One partition's store out of its events: what a worker would have after reading them, and no log is needed.

Events are folded silently, and each entity is encoded once, at the end: a batch of a stream encodes an entity for every
batch that touches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from forebay.clock import HOUR_MS
from forebay.events import Tick
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import Side
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.fold import Fold
from forebay.store.codec import codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta
from forebay.store.pending import Pending
from forebay.streams.worker.encode import encode_pending

ROWS = 8192  # encoded at a time: their features are in memory together


@dataclass(frozen=True)
class Target:
    """The store that is to be: of `partition` of `count` in a clean log, up to the offset `cut`, at the moment `now_ms`
    (ms), as of `as_of` (ms), in `folder`."""

    topic: str
    topic_id: str
    partition: int
    count: int
    cut: int
    now_ms: int
    as_of: int
    folder: Path

    def path(self, side: Side) -> Path:
        """Where a worker looks for it."""
        return self.folder / f"{side}-{self.partition}"


def build(
    bundle: Bundle,
    side: Side,
    blocks: Iterable[Block],
    target: Target,
    told: Callable[[int], None] = lambda events: None,
) -> int:
    """Fold `blocks`, all of one partition and each event once, into an empty store at `target`; returns the number of
    entities. `told(n)` is called with the number of events of each block that is folded.

    The same bytes come of any order of the events. The store is written once, at the end: a crash leaves an empty one,
    which says that nothing is folded.
    """
    layout = bundle.layouts[side]
    fold, coder, codec = Fold(layout), BlockCoder(bundle.spec, side), codec_of(bundle, side)
    encoders = SideEncoders(bundle, side)
    fresh = PartitionMeta(target.topic, target.partition, target.topic_id, target.count, layout.digest, 0)
    retire = bundle.spec.events.retire_users_after_ms if side == "user" else 0
    path = target.path(side)
    blank = codec.blank(encoders.defaults)
    owned = OwnedPartition.open(path, fold, codec, blank, fresh, create=True, retire_after_ms=retire)
    try:
        for block in blocks:
            for stretch in coder.stretches(block):
                owned.fold(stretch)
            told(len(block))
        hour = Tick(target.now_ms // HOUR_MS * HOUR_MS)
        for stretch in coder.stretches(block_of([hour], [0], [0], [0], ("history/0",))):
            owned.fold(stretch)
        waits, number = owned.waiting(), target.partition
        for start in range(0, len(waits), ROWS):
            part = Pending(waits.rows[start : start + ROWS], waits.masks[start : start + ROWS])
            owned.put(part, encode_pending(encoders, {number: owned}, {number: part}).vectors[number])
        owned.settle(target.cut, target.as_of)
        owned.flush()
        return len(owned)
    finally:
        owned.close()
