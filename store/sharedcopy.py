"""One generation on a node of several processes: one writes its rows, and any number answer from them.

The FeedingCopy is the replica's: store first, shared tables after it, and each item's half with its row. A SharedCopy
is what an Engine of another process has: it maps the tables, and owns nothing. If the FeedingCopy's process ends, what
is mapped goes on being read, as old as it says; the next one loads the store into the tables that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.errors import TableFull
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import InnerProduct
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import RowCodec, Rows, codec_of
from forebay.store.generation import Generation
from forebay.store.halfforms import HalfForm
from forebay.store.reading import Lacking, Reading
from forebay.store.rowlayout import RowLayout
from forebay.store.servingcopy import LOAD_ROWS, Model, check, lacking_of, served_vectors
from forebay.store.sharedreading import Kept, SharedReading
from forebay.store.sharedtable import SharedTable
from forebay.store.standing import Standing
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader
from forebay.store.vectors import VectorStore

log = logging.getLogger("forebay.copy")


class FeedingCopy:
    """Written by one replica, read by nobody in its process."""

    def __init__(
        self,
        model: Model,
        generation: str,
        codecs: Mapping[Side, RowCodec],
        partitions: Mapping[Side, int],
        folder: Path,
        store: VectorStore | None = None,
        limits: TableLimits = TableLimits(),
        halves: HalfForm = "f16",
    ) -> None:
        """Tables in `folder`, which hold what they held before; in rows of items their halves in the form `halves`.
        Errors as in ServingCopy and SharedTable."""
        self.generation, self.bundle_hash, self.store = generation, model.hash, store
        self.codecs, self._model = dict(codecs), model
        self.full = ""  # why new entities are not served; "" while there is room
        for side in SIDES:
            check(model, side, codecs[side], generation)
        self._lacking = lacking_of(model, "item", codecs["item"])
        self._tables: dict[Side, SharedTable] = {}
        try:
            for side in SIDES:
                identity = _identity(model, generation, codecs[side], partitions[side], halves)
                self._tables[side] = SharedTable(folder / side, identity, limits)
        except BaseException:
            for table in self._tables.values():
                table.close()
            raise
        self._complete = Standing.of(self._tables["user"].standing).complete

    @classmethod
    def open(cls, bundle: Bundle, generation: Generation, path: Path, folder: Path, halves: HalfForm = "f16") -> Self:
        """Over the VectorStore at `path`, made if it is not there; `load` makes the tables equal to it."""
        store = VectorStore.open(path, create=True, generation=generation.name, bundle_hash=bundle.hash)
        try:
            codecs = {side: codec_of(bundle, side) for side in SIDES}
            partitions = {side: generation.partitions[side] for side in SIDES}
            return cls(bundle, generation.name, codecs, partitions, folder, store, halves=halves)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Let go of the store and the tables; readers keep what they have mapped."""
        for table in self._tables.values():
            table.close()
        if self.store is not None:
            self.store.close()

    def load(self) -> int:
        """Make the tables equal to the store; returns the rows read. Whoever reads meanwhile finds each row as it was
        or as it is."""
        assert self.store is not None, "there is nothing to load from"
        rows = 0
        for side in SIDES:
            before = set(self._tables[side].ids())
            for part in self.store.scan_by(side, LOAD_ROWS):
                before.difference_update(entity for entity, _, _ in part)
                self._load_part(side, part)
                rows += len(part)
            self.hide(side, list(before))
            for partition, as_of in self.store.watermarks(side).items():
                self._tables[side].advance(partition, as_of)
        return rows

    def offsets(self) -> dict[tuple[str, int], int]:
        """The next offset to read of each (topic, partition), as the store has it."""
        return {} if self.store is None else self.store.offsets()

    def write(
        self,
        side: Side,
        puts: Sequence[tuple[str, int, bytes]],
        gone: Sequence[str],
        watermarks: Mapping[int, int],
        offsets: Mapping[tuple[str, int], int],
    ) -> None:
        """As ServingCopy.write. Where there is no room for new entities, the others are written, and `full` says
        why."""
        rows, ids = self.codecs[side].unpack([value for _, _, value in puts])
        if self.store is not None:
            self.store.write(side, puts, gone, watermarks, offsets)
        self.hide(side, gone)  # first: rows that are free now may be what the new ones need
        self.show(side, ids, rows, [partition for _, partition, _ in puts])
        # After its rows: a watermark must not carry on rows that it has come before.
        for partition, as_of in watermarks.items():
            self._tables[side].advance(partition, as_of)

    def show(self, side: Side, ids: list[str], rows: Rows, partitions: list[int]) -> None:
        """Rows of `ids` for readers. One whose id shares its hash with another's is left out, and told of."""
        table = self._tables[side]
        if refused := table.colliding(ids):
            log.error("%d ids have the hash of another one and are not served: %s", len(refused), sorted(refused)[:3])
            keep = [place for place, entity in enumerate(ids) if entity not in refused]
            ids, rows, partitions = [ids[k] for k in keep], rows[keep], [partitions[k] for k in keep]
        if not ids:
            return
        try:
            table.upsert(ids, rows, partitions, self._halves(side, rows))
        except TableFull as error:
            self.full = str(error)
            log.error("%s", error)

    def hide(self, side: Side, ids: Sequence[str]) -> None:
        """No reader sees `ids` any more."""
        if ids:
            self._tables[side].delete(ids)

    def rows(self) -> dict[Side, int]:
        """How many entities there are."""
        return {side: len(table) for side, table in self._tables.items()}

    def as_of(self) -> int:
        """The oldest watermark (ms); 0 before each partition had one."""
        return min(int(mark) for table in self._tables.values() for mark in table.watermarks)

    def stand(self, said_ms: int, caught_up: bool) -> None:
        """Say to those that read whether this is there, and whether it has caught up."""
        self._complete = self._complete or caught_up
        self._tables["user"].stand(Standing(said_ms, caught_up, self._complete).word)

    def _halves(self, side: Side, rows: Rows) -> Floats | None:
        """Of the fusion for `rank`, with the default vector for segments that were never written."""
        fusion, codec = self._model.fusions["rank"], self.codecs[side]
        if side == "user" or isinstance(fusion, InnerProduct):
            return None
        never = np.repeat(codec.column(rows, "as_of") == 0, np.diff(codec.bounds), axis=1)
        return fusion.item_half(np.where(never, self._lacking.default, served_vectors(codec, rows)))

    def _load_part(self, side: Side, part: Sequence[tuple[str, int, bytes]]) -> None:
        rows, ids = self.codecs[side].unpack([value for _, _, value in part])
        self.show(side, ids, rows, [partition for _, partition, _ in part])


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
        halves: HalfForm = "f16",
    ) -> None:
        """Maps the tables in `folder`. Raises StoreError when they are not there, and GenerationMismatch when they are
        another generation's, or keep halves in another form."""
        self.generation, self.bundle_hash, self.codecs = generation, model.hash, dict(codecs)
        for side in SIDES:
            check(model, side, codecs[side], generation)
        self._readers = {
            side: TableReader(
                folder / side, _identity(model, generation, codecs[side], partitions[side], halves), limits
            )
            for side in SIDES
        }
        self._lacking: dict[Side, Lacking] = {side: lacking_of(model, side, codecs[side]) for side in SIDES}
        rank = model.fusions["rank"]
        folds = isinstance(rank, InnerProduct)
        self._kept = None if folds else Kept(rank, rank.item_half(self._lacking["item"].default[None])[0])

    @classmethod
    def open(cls, bundle: Bundle, generation: Generation, folder: Path, halves: HalfForm = "f16") -> Self:
        """The tables that a FeedingCopy of this generation has in `folder`."""
        codecs = {side: codec_of(bundle, side) for side in SIDES}
        partitions = {side: generation.partitions[side] for side in SIDES}
        return cls(bundle, generation.name, codecs, partitions, folder, halves=halves)

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
        return min(int(mark) for reader in self._readers.values() for mark in reader.watermarks)

    @contextmanager
    def read(self, side: Side, hashes: Ints) -> Iterator[Reading]:
        """The rows of one side that have `hashes` int64 [n]. Nobody waits for it."""
        yield SharedReading(self._readers[side], self._lacking[side], self._kept if side == "item" else None, hashes)

    def search(self, query: Floats, k: int, deny: Ints) -> Ints:
        """As ServingCopy.search, exactly: all items are scored where they lie."""
        return self._readers["item"].best(query, k, deny)

    def default(self, side: Side) -> Floats:
        """What stands in for what is missing, as a stored row would have it: float32 [dims]."""
        return self._lacking[side].default

    def warm(self) -> None:
        """Nothing of its own to compile but what the first lookups run: see Engine.warm."""


def _identity(model: Model, generation: str, codec: RowCodec, partitions: int, halves: HalfForm) -> Identity:
    rank = model.fusions["rank"]
    none = codec.side == "user" or isinstance(rank, InnerProduct)
    layout = RowLayout(codec) if none else RowLayout(codec, rank.half_width, rank.half_parts * (halves == "int8"))
    return Identity(generation, model.hash, layout, partitions)
