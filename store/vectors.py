"""A serving node's own copy of a generation: every row of both sides with the topic offsets that account for them.

    u<id>, i<id>           partition (2 bytes) and the row's record
    o<partition 4><topic>  the next offset to read of a vectors topic
    w<u or i><partition 4> the partition's watermark, ms
    m                      the generation and bundle that all of it belongs to, as JSON

A restart fills the tables from here and reads only the tail of the topics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from rocksdict import WriteBatch

from forebay.errors import GenerationMismatch, StoreCorrupt
from forebay.segments.spec import Side
from forebay.store.onrocks import OnRocks
from forebay.store.rocks import Rocks

_PREFIX: dict[Side, bytes] = {"user": b"u", "item": b"i"}
_OFFSET, _WATERMARK, _META = b"o", b"w", b"m"
RESTORE = "Delete the directory and start again: it is filled from the vectors topics, which keep every row"


class VectorsMeta(msgspec.Struct, frozen=True):
    """Whose vectors a directory holds."""

    generation: str
    bundle_hash: str


class VectorStore(OnRocks):
    """All rows of one generation on one node. One writer, the replica; a directory never changes its generation."""

    def __init__(self, rocks: Rocks, meta: VectorsMeta) -> None:
        super().__init__(rocks)
        self.meta = meta

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
        self._rocks.write(batch)

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

    def scan_by(self, side: Side, count: int) -> Iterator[list[tuple[str, int, bytes]]]:
        """Every row as (id, partition, record), as of now, so many at once. Raises StoreCorrupt, never ends early."""
        scan = self._rocks.scan(_PREFIX[side])
        while found := scan.take(count):
            yield [(key.decode(), int.from_bytes(value[:2], "little"), value[2:]) for key, value in found]


def _claim(rocks: Rocks, wanted: VectorsMeta) -> VectorsMeta:
    (data,) = rocks.get([_META])
    if data is None:
        batch = WriteBatch(raw_mode=True)
        batch.put(_META, msgspec.json.encode(wanted))
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
