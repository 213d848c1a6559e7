"""A serving node's own copy of a generation: every row of both sides with the topic offsets that account for them.

    u<id>, i<id>           partition (2 bytes) and the row's record
    o<partition 4><topic>  the next offset to read of a vectors topic
    w<u or i><partition 4> the partition's watermark, ms
    m                      the generation and bundle that all of it belongs to, as JSON
    n                      a random number that tells this store from every other one, 8 bytes
    l                      the last batch: the mark before it, its side, and the ids that it wrote or deleted, msgpack

A restart fills the tables from here and reads only the tail of the topics. Tables that outlast the process are filled
only with what they lack: `mark` says what a store held, and `l` what came with its last batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from rocksdict import WriteBatch
from xxhash import xxh3_64_intdigest

from forebay.arrays import Ints
from forebay.errors import GenerationMismatch, StoreCorrupt
from forebay.segments.spec import Side
from forebay.store.onrocks import OnRocks
from forebay.store.rocks import Rocks

_PREFIX: dict[Side, bytes] = {"user": b"u", "item": b"i"}
_OFFSET, _WATERMARK, _META, _NUMBER, _LAST = b"o", b"w", b"m", b"n", b"l"
RESTORE = "Delete the directory and start again: it is filled from the vectors topics, which keep every row"


class VectorsMeta(msgspec.Struct, frozen=True):
    """Whose vectors a directory holds."""

    generation: str
    bundle_hash: str


class LastBatch(msgspec.Struct, frozen=True):
    """What was written last: the store's `mark` before it, and the ids of the rows that it wrote or deleted."""

    before: int
    side: Side
    ids: list[str]


@dataclass(frozen=True)
class Part:
    """Some rows of one side: records, each with the partition of the log that it comes from, int64 [n]."""

    records: list[bytes]
    partitions: Ints

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def of(cls, values: Sequence[bytes]) -> Part:
        """From values as they lie in the store."""
        owners = np.frombuffer(b"".join([value[:2] for value in values]), "<u2")
        return cls([value[2:] for value in values], owners.astype(np.int64))


class VectorStore(OnRocks):
    """All rows of one generation on one node. One writer, the replica; a directory never changes its generation."""

    def __init__(self, rocks: Rocks, meta: VectorsMeta) -> None:
        super().__init__(rocks)
        self.meta = meta
        (number,) = rocks.get([_NUMBER])
        if number is None:  # of an older version
            number, batch = os.urandom(8), WriteBatch(raw_mode=True)
            batch.put(_NUMBER, number)
            rocks.write(batch)
        self._number = number

    @classmethod
    def open(cls, path: Path, *, create: bool, generation: str, bundle_hash: str) -> VectorStore:
        """Open the store at `path`, or make it for this generation.

        Raises GenerationMismatch when it holds another generation's or another bundle's rows, StoreLocked,
        StoreCorrupt, and StoreError if absent and not `create`.
        """
        rocks = Rocks(path, create=create, restore=RESTORE)
        try:
            return cls(rocks, _claim(rocks, VectorsMeta(generation, bundle_hash)))
        except BaseException:
            rocks.close()
            raise

    def write(
        self,
        side: Side,
        puts: Sequence[tuple[str, int, bytes]],
        deletes: Sequence[str],
        watermarks: Mapping[int, int],
        offsets: Mapping[tuple[str, int], int],
    ) -> None:
        """One batch: rows as (id, partition, record), deletions, watermarks and the offsets that cover them all.

        The replica writes here first and to the tables after it: a crash between the two leaves nothing to mend, the
        tables are filled from here. If this raises, the store is unusable: close it, reopen it, resume from
        `offsets()`.
        """
        batch, prefix = WriteBatch(raw_mode=True), _PREFIX[side]
        for entity, partition, value in puts:
            batch.put(prefix + entity.encode(), partition.to_bytes(2, "little") + value)
        for entity in deletes:
            batch.delete(prefix + entity.encode())
        for partition, as_of in watermarks.items():
            batch.put(_WATERMARK + prefix + partition.to_bytes(4, "big"), as_of.to_bytes(8, "big"))
        for (topic, partition), offset in offsets.items():
            batch.put(_OFFSET + partition.to_bytes(4, "big") + topic.encode(), offset.to_bytes(8, "big"))
        if puts or deletes:
            last = LastBatch(self.mark, side, [*(entity for entity, _, _ in puts), *deletes])
            batch.put(_LAST, msgspec.msgpack.encode(last))
        self._rocks.write(batch)

    @property
    def mark(self) -> int:
        """63 bits that stand for all that the store holds: another number after each write, and in each store; never
        0."""
        return xxh3_64_intdigest(self._number + self._rocks.sequence().to_bytes(8, "big")) >> 1 or 1

    def last(self) -> LastBatch | None:
        """The last batch that wrote or deleted rows; None before there was one, and when it cannot be read."""
        (data,) = self._rocks.get([_LAST])
        try:
            return None if data is None else msgspec.msgpack.decode(data, type=LastBatch)
        except msgspec.MsgspecError:
            return None

    def offsets(self) -> dict[tuple[str, int], int]:
        """The next offset to read of each (topic, partition)."""
        return {
            (key[4:].decode(), int.from_bytes(key[:4], "big")): int.from_bytes(value, "big")
            for key, value in self._rocks.scan(_OFFSET)
        }

    def watermarks(self, side: Side) -> dict[int, int]:
        """as_of in ms up to which each partition of `side` has been applied."""
        scan = self._rocks.scan(_WATERMARK + _PREFIX[side])
        return {int.from_bytes(key, "big"): int.from_bytes(value, "big") for key, value in scan}

    def get(self, side: Side, ids: Sequence[str]) -> list[bytes | None]:
        """The records of `ids`, None where there is none."""
        prefix = _PREFIX[side]
        found = self._rocks.get([prefix + entity.encode() for entity in ids])
        return [None if value is None else value[2:] for value in found]

    def rows(self, side: Side, ids: Sequence[str]) -> tuple[Part, list[str]]:
        """The rows of those of `ids` that have one, and the ids that have none."""
        prefix = _PREFIX[side]
        found = self._rocks.get([prefix + entity.encode() for entity in ids])
        lost = [entity for entity, value in zip(ids, found, strict=True) if value is None]
        return Part.of([value for value in found if value is not None]), lost

    def scan_by(self, side: Side, count: int) -> Iterator[Part]:
        """Every row, as of now, so many at once. Raises StoreCorrupt, never ends early."""
        scan = self._rocks.scan_all(_PREFIX[side])
        try:
            while found := scan.take(count):
                yield Part.of([value for _, value in found])
        finally:
            scan.close()


def _claim(rocks: Rocks, wanted: VectorsMeta) -> VectorsMeta:
    (data,) = rocks.get([_META])
    if data is None:
        batch = WriteBatch(raw_mode=True)
        batch.put(_META, msgspec.json.encode(wanted))
        batch.put(_NUMBER, os.urandom(8))
        rocks.write(batch)
        return wanted
    try:
        stored = msgspec.json.decode(data, type=VectorsMeta)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(f"unreadable meta: {error}", where=str(rocks.path), do=RESTORE) from None
    if stored != wanted:
        raise GenerationMismatch(
            f"the store holds generation {stored.generation} of bundle {stored.bundle_hash[:12]}, "
            f"not {wanted.generation} of {wanted.bundle_hash[:12]}",
            where=str(rocks.path),
            do="Give each generation a directory of its own",
        )
    return stored
