"""One partition's store for a bundle with more segments: what its rows have is carried over, what they lack is folded
from the log.

    old store, up to offset o ───────► the columns and vectors that both bundles have ───┐
    log, from its first record to o ─► the blocks that the old rows lack ────────────────┴─► new store, at offset o

Both end at the offset of the old store, so that each event is in each block once, and a worker goes on from there with
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from forebay.arrays import Bools, Ints
from forebay.events import Tick
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of
from forebay.segments.growth import Growth, SideGrowth
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import Side
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import ACCEPTED, UPDATED
from forebay.store.codec import RowCodec, Rows, codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow
from forebay.streams.worker.encode import encode_pending

ROWS = 8192  # in memory together, their features too
Told = Callable[[int], None]  # hears of events folded or rows written, and may take its time


@dataclass(frozen=True)
class Carried:
    """How many `entities` a new store has, and for how many of them its new blocks are `whole`: they have every event
    that the old ones have, or every one that a window still holds."""

    entities: int
    whole: int


class Carrier:
    """Makes new stores of one side out of old ones. One thread at a time."""

    def __init__(self, growth: Growth, side: Side, *, anew: bool = False) -> None:
        """With `anew` every vector is encoded again: those that are there are of another numeric platform."""
        self.side, self.part = side, growth.sides[side]
        self._growth, self._anew = growth, anew
        self._encoders = SideEncoders(growth.new, side)
        self._retire_after_ms = growth.new.spec.events.retire_users_after_ms if side == "user" else 0
        self._old, self._codec = codec_of(growth.old, side), codec_of(growth.new, side)
        self._blank = self._codec.blank(self._encoders.defaults)
        self._tags = self._old.column(self._old.empty(1), "encoder")

    def fold(self, blocks: Iterable[Block], meta: PartitionMeta, folder: Path, told: Told) -> OwnedPartition | None:
        """Step 2: `blocks`, the log from as far back as it reaches up to `meta.offset`, into what the rows of the store
        that `meta` is of lack; None where they lack nothing. The caller closes it; its own store, at `folder`, stays
        empty. Every entity that the blocks have is in memory."""
        if self.part.lacks is None:
            return None
        coder = BlockCoder(self._growth.new.spec, self.side)
        fresh = msgspec.structs.replace(meta, layout=self.part.lacks.digest, offset=0, clock=0, as_of=0)
        # Nothing is encoded: a codec needs a segment, and any will do.
        codec = RowCodec(self.side, self._codec.segments[:1])
        found = OwnedPartition.open(
            folder, Fold(self.part.lacks), codec, codec.blank(self._encoders.defaults[:1]), fresh,
            create=True, retire_after_ms=self._retire_after_ms,
        )  # fmt: skip
        try:
            for block in blocks:
                for stretch in coder.stretches(block):
                    found.fold(stretch)
                told(len(block))
            # A backfill's own tick is in no log, and moved the clock of the store.
            if meta.clock:
                for stretch in coder.stretches(block_of([Tick(meta.clock)], [0], [0], [0], ("carried/0",))):
                    found.fold(stretch)
        except BaseException:
            found.close()
            raise
        return found

    def write(
        self, old: PartitionStore, lacked: OwnedPartition | None, path: Path, reach_ms: int, told: Told
    ) -> Carried:
        """Step 3: the rows of `old` with what `lacked` has for them, encoded where they have no vector that is right,
        into a store at `path`, which must not exist. Every event of later than `reach_ms` is in the log.

        A crash leaves part of a store: the caller gives it its name when it is whole.
        """
        meta = old.meta()
        assert meta is not None
        waiting = dict(old.pending())
        new = msgspec.structs.replace(meta, layout=self.part.new.digest)
        owned = OwnedPartition.open(path, Fold(self.part.new), self._codec, self._blank, new, create=True)
        entities = whole = 0
        try:
            for stored in old.scan_by(ROWS):
                names = [name for name, _ in stored]
                ids = Ids.of_bytes(names)
                before = self._states([row for _, row in stored])
                rest = None if lacked is None else _rows_of(lacked, ids)
                masks = np.array([waiting.get(name, 0) for name in names], np.int64)
                vectors, known = self._vectors([row.vectors for _, row in stored])
                masks = self.part.masks(np.where(known, masks, self._all_old)) | self._to_encode
                waits = owned.adopt(ids, self.part.rows(before, rest), vectors, masks)
                number = meta.partition
                owned.put(waits, encode_pending(self._encoders, {number: owned}, {number: waits}).vectors[number])
                owned.flush()
                owned.let_go()
                entities += len(names)
                whole += int(_whole(self.part, before, rest, reach_ms, meta.clock).sum())
                told(len(names))
        finally:
            owned.close()
        return Carried(entities, whole)

    @property
    def _all_old(self) -> int:
        return (1 << len(self._old.segments)) - 1

    @property
    def _to_encode(self) -> int:
        return self.part.new.segment_bits if self._anew else self.part.encode

    def _states(self, rows: Sequence[StoredRow]) -> Ints:
        """Old rows int64 [n, width]."""
        size = 8 * self.part.old.width
        states = b"".join(row.state.ljust(size, b"\0") for row in rows)
        return np.frombuffer(states, np.int64).reshape(len(rows), self.part.old.width)

    def _vectors(self, stored: Sequence[bytes]) -> tuple[Rows, Bools]:
        """Vectors as the new bundle lays them out, and bool [n]: which old ones there were. Others are of encoders
        before the old ones, as after a restore from elsewhere."""
        found = np.repeat(self._blank, len(stored))
        fits = np.array([len(vectors) == self._old.dtype.itemsize for vectors in stored])
        old = self._old.empty(len(stored))
        old[fits] = np.frombuffer(b"".join(v for v, fit in zip(stored, fits, strict=True) if fit), self._old.dtype)
        known = fits & (self._old.column(old, "encoder") == self._tags).all(axis=1)
        for place, segment in zip(self.part.places, self._old.segments, strict=True):
            if self.part.encode >> place & 1:  # where the encoder gives no number the last vector stays: not that one
                continue
            before, after = old["segments"][segment.name], found["segments"][segment.name]
            for field in ("as_of", "last_event", "scale", "flags", "vector"):
                after[field][known] = before[field][known]
        return found, known


def _rows_of(lacked: OwnedPartition, ids: Ids) -> Ints:
    """Rows int64 [n, width] of entities, zero where nothing of one is in the log any more."""
    at = lacked.index.find(ids)
    found = np.zeros((len(ids), lacked.layout.width), np.int64)
    found[at >= 0] = lacked.rows[at[at >= 0]]
    return found


def _whole(part: SideGrowth, old: Ints, lacked: Ints | None, reach_ms: int, clock: int) -> Bools:
    """bool [n]: whose new blocks miss nothing that the old ones had. A row counts its behaviours and knows its newest
    update, in both."""
    found = np.ones(len(old), np.bool_)
    if part.lacks is None or lacked is None:
        return found
    features = [block.feature for block in part.lacks.blocks]
    if any(f.kind == "latest" for f in features):
        found &= old[:, UPDATED] == lacked[:, UPDATED]
    # A window is whole that ends no earlier than the log begins; its first bucket may begin within one.
    if any(f.kind != "latest" and (not f.over_ms or clock - f.over_ms - f.bucket_ms < reach_ms) for f in features):
        found &= old[:, ACCEPTED] == lacked[:, ACCEPTED]
    return found
