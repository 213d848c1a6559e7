"""A worker's state for one partition of a clean log: a cache of a fold of the log, in one RocksDB directory.

Four kinds of key in one column family, told apart by the first byte:

    e<id>   an entity: a StoredRow
    p<id>   u8 mask: bit s says that the entity's segment s waits to be encoded
    i<u8 ms><id>   (big-endian) an entity that is in nobody's memory, and whose newest event was then: those that retire
            are found without reading every row
    m       PartitionMeta, as JSON

A StoredRow is u4 bytes of state | state as the fold packs it | the vectors emitted last. What waits has keys of its
own, and not a field of the row: the next owner finds it without reading every row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rocksdict import WriteBatch

from forebay.errors import StoreCorrupt
from forebay.store.onrocks import OnRocks
from forebay.store.rocks import Rocks

_ENTITY, _PENDING, _META, _IDLE = b"e", b"p", b"m", b"i"
# Not just "delete it": the log does not have the history that a backfill folded, and its retention ends.
RESTORE = (
    "Where there is a checkpoint of it (forebay checkpoints list), delete this directory and start again. Else put an "
    "earlier copy in its place: the log's part is folded again. Without one, build another generation from a history "
    "that reaches to now: forebay backfill --generation NEW"
)


class StoredRow(NamedTuple):
    """An entity's packed state, and the vectors emitted last."""

    state: bytes
    vectors: bytes


class PartitionMeta(msgspec.Struct, frozen=True):
    """What the state was built from. It lies in the same batch as the state that it accounts for.

    `topic_id` and `partitions` tell a recreated or widened topic; `layout` is the digest of the rows' layout.
    """

    topic: str
    partition: int
    topic_id: str
    partitions: int
    layout: str
    offset: int  # the next record to read
    clock: int = 0  # ms: the latest tick folded
    as_of: int = 0  # ms: all that the sources took before it is folded


class PartitionStore(OnRocks):
    """The state of one partition. One process at a time: the directory's lock keeps a second one out.

    The owner opens it on assignment, writes every few batches after the transaction that covers them, and closes it
    before it acknowledges a revoke. After kill -9 the store holds whole batches and so may lag the consumer group,
    never lead it; the silent fold covers the gap.
    """

    @classmethod
    def open(cls, path: Path, *, create: bool) -> PartitionStore:
        """Open the store at `path`. Raises StoreLocked, StoreCorrupt, or StoreError if absent and not `create`."""
        return cls(Rocks(path, create=create, restore=RESTORE))

    def meta(self) -> PartitionMeta | None:
        """What the state was built from; None in a store that has never been written to."""
        (data,) = self._rocks.get([_META])
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=PartitionMeta)
        except msgspec.MsgspecError as error:
            raise StoreCorrupt(f"unreadable meta: {error}", where=str(self.path), do=RESTORE) from None

    def get(self, ids: Sequence[bytes]) -> list[StoredRow | None]:
        """The rows of `ids`, None where there is none."""
        found = self._rocks.get([_ENTITY + entity for entity in ids])
        return [None if value is None else _unpacked(value) for value in found]

    def write(
        self,
        *,
        meta: PartitionMeta,
        puts: Sequence[tuple[bytes, StoredRow]] = (),
        packed: Sequence[tuple[bytes, bytes]] = (),
        deletes: Sequence[bytes] = (),
        pending: Sequence[tuple[bytes, int]] = (),
        settled: Sequence[bytes] = (),
        idle: Sequence[tuple[int, bytes]] = (),
        busy: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """One batch: entities (id, row), and (id, value of packed_rows), forgotten entities, what waits (id, mask) and
        what does not any more, marks (ms, id) of idle entities and those that are taken away, and `meta`. Whole or
        absent after a crash.

        If this raises, the store is unusable: close it, reopen it, and resume from `meta().offset`.
        """
        batch = WriteBatch(raw_mode=True)
        for entity, row in puts:
            batch.put(_ENTITY + entity, _packed(row))
        for entity, value in packed:
            batch.put(_ENTITY + entity, value)
        for entity in deletes:
            batch.delete(_ENTITY + entity)
            batch.delete(_PENDING + entity)
        for entity, mask in pending:
            batch.put(_PENDING + entity, mask.to_bytes(8, "little"))
        for entity in settled:
            batch.delete(_PENDING + entity)
        for newest, entity in idle:
            batch.put(_IDLE + newest.to_bytes(8, "big") + entity, b"")
        for newest, entity in busy:
            batch.delete(_IDLE + newest.to_bytes(8, "big") + entity)
        batch.put(_META, msgspec.json.encode(meta))
        self._rocks.write(batch)

    def scan(self) -> Iterator[tuple[bytes, StoredRow]]:
        """Every entity's id and row, in order of the id's bytes, as of now. Raises StoreCorrupt, never ends early."""
        return ((key, _unpacked(value)) for key, value in self._rocks.scan(_ENTITY))

    def scan_by(self, count: int) -> Iterator[list[tuple[bytes, StoredRow]]]:
        """As `scan`, so many at once."""
        scan = self._rocks.scan(_ENTITY)
        while found := scan.take(count):
            yield [(key, _unpacked(value)) for key, value in found]

    def about(self) -> int:
        """How many keys there are, about."""
        return self._rocks.about()

    def pending(self) -> list[tuple[bytes, int]]:
        """What waits to be encoded: id and mask of segments."""
        return [(key, int.from_bytes(value, "little")) for key, value in self._rocks.scan(_PENDING)]

    def idle(self, before_ms: int) -> Iterator[tuple[int, bytes]]:
        """Marks (ms, id) of entities that are in nobody's memory, of those whose newest event was then; the oldest
        first. One may be stale: who is in memory, or whose row has a newer event, is not idle."""
        for key, _ in self._rocks.scan(_IDLE):
            if (newest := int.from_bytes(key[:8], "big")) >= before_ms:
                return
            yield newest, key[8:]

    def digest(self) -> str:
        """SHA-256 over all states, in key order; not over `meta` or vectors.

        Two stores with the same accepted events have the same digest, however their events were ordered and batched.
        """
        total = hashlib.sha256()
        for key, row in self.scan():
            total.update(b"%d,%d:" % (len(key), len(row.state)) + key + row.state)
        return total.hexdigest()


def _packed(row: StoredRow) -> bytes:
    return len(row.state).to_bytes(4, "little") + row.state + row.vectors


def _unpacked(value: bytes) -> StoredRow:
    end = 4 + int.from_bytes(value[:4], "little")
    return StoredRow(value[4:end], value[end:])
