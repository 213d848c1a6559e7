"""One generation as each server of a node of several processes has it: tables that the replica writes (feedingcopy.py),
mapped.

A SharedCopy owns nothing. If the replica's process ends, what is mapped goes on being read, as old as it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import InnerProduct
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_id
from forebay.shard import ALL, Shard
from forebay.store.codec import RowCodec, codec_of
from forebay.store.fetched import reading_of
from forebay.store.generation import Generation
from forebay.store.halfforms import HalfForm
from forebay.store.indexkeeper import IndexOptions
from forebay.store.indexwatch import IndexStanding, IndexWatch
from forebay.store.reading import EntityRow, Lacking, Reading
from forebay.store.rowlayout import RowLayout
from forebay.store.rowsocket import RowClient
from forebay.store.selectedrows import SCANNED_ROWS
from forebay.store.selection import Selection
from forebay.store.servingcopy import Model, check, lacking_of, oldest
from forebay.store.sharedindex import MappedIndex
from forebay.store.sharedreading import Kept, SharedReading
from forebay.store.standing import Standing
from forebay.store.table import SegmentTable
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader
from forebay.store.userreading import UserReading

_TELL = 512  # users that were asked for, of whom the replica is told at a time


class SharedCopy:
    """What a FeedingCopy of another process writes, for an Engine. Any number of threads and processes."""

    def __init__(
        self,
        model: Model,
        generation: str,
        codecs: Mapping[Side, RowCodec],
        partitions: Mapping[Side, int],
        folder: Path,
        limits: TableLimits = TableLimits(),
        shard: Shard = ALL,
        users_elsewhere: bool = False,
        index: IndexOptions = IndexOptions(),
        halves: HalfForm = "f16",
    ) -> None:
        """Maps the tables in `folder`. With `users_elsewhere` not all users are in them: the others' rows are asked for
        of the replica. Raises StoreError when they are not there, and GenerationMismatch when they are another
        generation's, or keep halves in another form."""
        self.generation, self.bundle_hash, self.codecs = generation, model.hash, dict(codecs)
        self.shard, self.user_partitions = shard, partitions["user"]
        for side in SIDES:
            check(model, side, codecs[side], generation)
        self._readers = {
            side: TableReader(
                folder / side, identity_of(model, generation, codecs[side], partitions[side], shard, halves), limits
            )
            for side in SIDES
        }
        self._index = MappedIndex(self._readers["item"])
        self._watch = IndexWatch(self._index.searcher, lambda: self._index.frozen, self._index.now, index.recall)
        self._lacking: dict[Side, Lacking] = {side: lacking_of(model, side, codecs[side]) for side in SIDES}
        self._rows = RowClient(folder) if users_elsewhere else None
        self._seen: list[int] = []  # hashes of users that were asked for, until the replica is told
        rank = model.fusions["rank"]
        folds = isinstance(rank, InnerProduct)
        self._kept = None if folds else Kept(rank, rank.item_half(self._lacking["item"].default[None])[0])

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        generation: Generation,
        folder: Path,
        shard: Shard = ALL,
        users_elsewhere: bool = False,
        index: IndexOptions = IndexOptions(),
        halves: HalfForm = "f16",
    ) -> Self:
        """The tables that a FeedingCopy of this generation and shard has in `folder`."""
        codecs = {side: codec_of(bundle, side) for side in SIDES}
        partitions = {side: generation.partitions[side] for side in SIDES}
        copy = cls(
            bundle, generation.name, codecs, partitions, folder,
            shard=shard, users_elsewhere=users_elsewhere, index=index, halves=halves,
        )  # fmt: skip
        copy._watch.start()
        return copy

    @property
    def retired(self) -> bool:
        """Whether the tables were made anew since: another SharedCopy is to be opened."""
        return any(reader.retired for reader in self._readers.values())

    def standing(self) -> Standing:
        """What the replica said of itself for the last time."""
        return Standing.of(self._readers["user"].standing)

    def rows(self) -> dict[Side, int]:
        """How many entities there are."""
        return {side: len(reader) for side, reader in self._readers.items()}

    def as_of(self) -> int:
        """The oldest watermark (ms); 0 before each partition had one."""
        return oldest(self.shard, self._readers["user"].watermarks, self._readers["item"].watermarks)

    @contextmanager
    def read(self, side: Side, hashes: Ints, ids: Sequence[str] = ()) -> Iterator[Reading]:
        """The rows of one side that have `hashes` int64 [n]. Nobody waits for it, but for the row of one user, by its
        id in `ids`, that is not in memory: the replica is asked for it, by the call that needs it. That raises
        ServerUnavailable where the replica does not answer."""
        reader, kept = self._readers[side], self._kept if side == "item" else None
        reading = SharedReading(reader, self._lacking[side], kept, hashes)
        if (rows := self._rows) is None or side == "item" or not ids or not ids[0]:  # the empty id is nobody's
            yield reading
            return
        self._seen.append(int(hashes[0]))
        if len(self._seen) >= _TELL:
            rows.tell(self._told())

        def elsewhere() -> Reading:
            marks = reader.watermarks  # before the row: see reading_of
            return reading_of(self.codecs[side], self._lacking[side], rows.fetch(ids[0], self._told()), marks, hashes)

        yield UserReading(reading, ids[0], elsewhere)

    def at_hand(self, side: Side, entity: str) -> bool:
        """As ServingCopy.at_hand."""
        return side == "item" or self._rows is None or self._row(entity).known

    def _row(self, user: str) -> EntityRow:
        """The user's row in the table."""
        lacking = self._lacking["user"]
        return self._readers["user"].entity(hash_id(user), user.encode(), lacking.oldest(0), lacking.default)

    def _told(self) -> Ints:
        seen, self._seen = self._seen, []
        return np.array(seen, np.int64)

    def search(self, query: Floats, k: int, deny: Ints, selection: Selection | None = None) -> Ints:
        """As ServingCopy.search; all items are scored where they lie while there are no lists."""
        reader, allowed = self._readers["item"], None
        if selection is not None:
            kept = reader.kept(selection)
            if selection.boosts or kept.count <= SCANNED_ROWS:
                return reader.best(query, k, deny, selection)
            allowed = np.packbits(kept.rows, bitorder="little")
        found = self._index.search(query, k, deny, allowed)
        return reader.best(query, k, deny, selection) if found is None else found

    def index(self) -> IndexStanding:
        """How the index of the items stands."""
        return self._watch.standing()

    def default(self, side: Side) -> Floats:
        """What stands in for what is missing, as a stored row would have it: float32 [dims]."""
        return self._lacking[side].default

    def warm(self) -> None:
        """Compile what a row that is not in the tables runs; what the first lookups run, Engine.warm does."""
        if self._rows is not None:
            SegmentTable(self.codecs["user"], partitions=1).warm()

    def close(self) -> None:
        """Close the connections to the replica; what is mapped stays for whoever has it."""
        if self._rows is not None:
            self._rows.close()


def identity_of(
    model: Model, generation: str, codec: RowCodec, partitions: int, shard: Shard, halves: HalfForm
) -> Identity:
    """Whose rows a table of that side holds, and how they lie."""
    rank = model.fusions["rank"]
    none = codec.side == "user" or isinstance(rank, InnerProduct)
    layout = RowLayout(codec) if none else RowLayout(codec, rank.half_width, rank.half_parts * (halves == "int8"))
    share = shard if codec.side == "user" else ALL
    return Identity(generation, model.hash, layout, partitions, share)
