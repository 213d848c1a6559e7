"""One generation on a node of several processes, as its replica writes it: store first, shared tables after it, and
each item's half with its row.

Any number of other processes answer from the tables (sharedcopy.py). The next FeedingCopy loads the store into the
tables that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import numpy as np

from forebay.arrays import Floats
from forebay.errors import TableFull
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import InnerProduct
from forebay.segments.spec import SIDES, Side
from forebay.shard import ALL, Shard
from forebay.store.codec import RowCodec, Rows, codec_of
from forebay.store.generation import Generation
from forebay.store.halfforms import HalfForm
from forebay.store.hotusers import HotUsers
from forebay.store.indexkeeper import IndexOptions
from forebay.store.keptclusters import cluster_file
from forebay.store.rowsocket import RowServer
from forebay.store.servingcopy import (
    LOAD_ROWS,
    Model,
    check,
    kept_of,
    lacking_of,
    oldest,
    served_vectors,
    without_colliding,
)
from forebay.store.sharedcopy import identity_of
from forebay.store.sharedindex import FeedingIndex
from forebay.store.sharedtable import SharedTable
from forebay.store.standing import Standing
from forebay.store.tablefiles import TableLimits
from forebay.store.vectors import LastBatch, Part, VectorStore

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
        shard: Shard = ALL,
        users_in_memory: int = 0,
        index: IndexOptions = IndexOptions(),
        halves: HalfForm = "f16",
    ) -> None:
        """Tables in `folder`, which hold what they held before; in rows of items their halves in the form `halves`.
        `users_in_memory` as in ServingCopy; `answer` is for the others. Errors as in ServingCopy and SharedTable."""
        self.generation, self.bundle_hash, self.store = generation, model.hash, store
        self.codecs, self._model, self.shard = dict(codecs), model, shard
        self._loaded = False
        self.full = ""  # why new entities are not served; "" while there is room
        for side in SIDES:
            check(model, side, codecs[side], generation)
        self._lacking = lacking_of(model, "item", codecs["item"])
        self._tables: dict[Side, SharedTable] = {}
        try:
            for side in SIDES:
                identity = identity_of(model, generation, codecs[side], partitions[side], shard, halves)
                self._tables[side] = SharedTable(folder / side, identity, limits)
        except BaseException:
            for table in self._tables.values():
                table.close()
            raise
        self.hot: HotUsers | None = None
        self._folder = folder
        self._answering: RowServer | None = None
        if users_in_memory and store is not None:
            self.hot = HotUsers(self._tables["user"], store, users_in_memory)
        self._complete = Standing.of(self._tables["user"].standing).complete
        columns, file = model.fusions["retrieve"].shape.item_columns, cluster_file(store, model.hash)
        self._index = FeedingIndex(self._tables["item"], index, columns, file)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        generation: Generation,
        path: Path,
        folder: Path,
        shard: Shard = ALL,
        users_in_memory: int = 0,
        index: IndexOptions = IndexOptions(),
        halves: HalfForm = "f16",
    ) -> Self:
        """Over the VectorStore at `path`, made if it is not there; `load` makes the tables equal to it."""
        store = VectorStore.open(path, create=True, generation=generation.name, bundle_hash=bundle.hash)
        try:
            codecs = {side: codec_of(bundle, side) for side in SIDES}
            partitions = {side: generation.partitions[side] for side in SIDES}
            return cls(
                bundle, generation.name, codecs, partitions, folder, store,
                shard=shard, users_in_memory=users_in_memory, index=index, halves=halves,
            )  # fmt: skip
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Let go of the store and the tables; readers keep what they have mapped."""
        if self._answering is not None:
            self._answering.close()
        self._index.close()
        for table in self._tables.values():
            table.close()
        if self.store is not None:
            self.store.close()

    def load(self) -> int:
        """Make the tables equal to the store; returns the rows read. Whoever reads meanwhile finds each row as it was
        or as it is.

        Tables that have what the store has stay as they are, and where they lack its last batch alone, as after a kill
        in the middle of a write, that one is read. All rows are read where the tables are new, or another process wrote
        the store meanwhile, or a writer died in a row.
        """
        assert self.store is not None, "there is nothing to load from"
        mark, last, rows = self.store.mark, self.store.last(), 0
        with self._index.filling():
            for side in SIDES:
                table = self._tables[side]
                if table.mended or table.stored != mark:
                    lacks_one = last is not None and table.stored == last.before
                    table.hold(0)
                    if lacks_one and last is not None:
                        rows += self._load_last(side, last)
                    else:
                        rows += self._load_all(side)
                elif side == "user" and self.hot is not None:
                    self._adopt(self.hot)
                for partition, as_of in self.store.watermarks(side).items():
                    table.advance(partition, as_of)
            self._hold()
            self._loaded = True
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
        if self._loaded:
            self._hold()

    def show(self, side: Side, ids: list[str], rows: Rows, partitions: list[int]) -> None:
        """As ServingCopy.show."""
        if side == "user" and self.hot is not None:
            with self.hot.changing(ids) as kept:
                self._show(side, [ids[i] for i in kept.tolist()], rows[kept], [partitions[i] for i in kept.tolist()])
        else:
            self._show(side, ids, rows, partitions)

    def _show(self, side: Side, ids: list[str], rows: Rows, partitions: list[int]) -> None:
        table = self._tables[side]
        ids, rows, partitions = without_colliding(table, ids, rows, partitions)
        if not ids:
            return
        try:
            table.upsert(ids, rows, partitions, self._halves(side, rows))
        except TableFull as error:
            self.full = str(error)
            log.error("%s", error)

    def hide(self, side: Side, ids: Sequence[str]) -> None:
        """No reader sees `ids` any more."""
        if ids and side == "user" and self.hot is not None:
            self.hot.hide(ids)
        elif ids:
            self._tables[side].delete(ids)

    def rows(self) -> dict[Side, int]:
        """How many entities there are."""
        return {side: len(table) for side, table in self._tables.items()}

    def as_of(self) -> int:
        """The oldest watermark (ms); 0 before each partition had one."""
        return oldest(self.shard, self._tables["user"].watermarks, self._tables["item"].watermarks)

    def stand(self, said_ms: int, caught_up: bool) -> None:
        """Say to those that read whether this is there, and whether it has caught up."""
        self._index.look()
        self._complete = self._complete or caught_up
        self._tables["user"].stand(Standing(said_ms, caught_up, self._complete).word)

    def _halves(self, side: Side, rows: Rows) -> Floats | None:
        """Of the fusion for `rank`, with the default vector for segments that were never written."""
        fusion, codec = self._model.fusions["rank"], self.codecs[side]
        if side == "user" or isinstance(fusion, InnerProduct):
            return None
        never = np.repeat(codec.column(rows, "as_of") == 0, np.diff(codec.bounds), axis=1)
        return fusion.item_half(np.where(never, self._lacking.default, served_vectors(codec, rows)))

    def _adopt(self, hot: HotUsers) -> None:
        """The users in memory are those of the table, from before."""
        if over := hot.adopt(self._tables["user"].ids()):
            self._tables["user"].delete(over)

    def answer(self) -> None:
        """From now on give rows of users that are not in memory to the processes that ask: after `load`. Until
        `close`."""
        if self.hot is not None and self._answering is None:
            hot, show = self.hot, self._show_part
            hot.warm()
            self._answering = RowServer(self._folder, lambda user: hot.fetch(user, show), hot.count)

    def keep(self) -> None:
        """As ServingCopy.keep."""
        if self.hot is not None and self._loaded:
            self.hot.save()

    def _show_part(self, part: Part) -> None:
        rows, ids = self.codecs["user"].unpack(part.records)
        self._show("user", ids, rows, part.partitions.tolist())

    def _hold(self) -> None:
        """The tables have what the store has; unless they could not take it."""
        if self.store is not None:
            mark = 0 if self.full else self.store.mark
            for table in self._tables.values():
                table.hold(mark)

    def _load_last(self, side: Side, last: LastBatch) -> int:
        assert self.store is not None
        if side == "user" and self.hot is not None:
            self._adopt(self.hot)
        if last.side != side:
            return 0
        part, gone = self.store.rows(side, last.ids)
        part = kept_of(self.shard, side, part)
        self.hide(side, gone)
        rows, ids = self.codecs[side].unpack(part.records)
        self.show(side, ids, rows, part.partitions.tolist())
        return len(part)

    def _load_all(self, side: Side) -> int:
        assert self.store is not None
        table, codec, kept, count = self._tables[side], self.codecs[side], [np.empty(0, np.int64)], 0
        later: list[tuple[list[str], Rows, list[int]]] = []
        bounded = self.hot if side == "user" else None
        for part in self.store.scan_by(side, LOAD_ROWS) if bounded is None else bounded.parts(LOAD_ROWS):
            part = kept_of(self.shard, side, part)
            rows, ids = codec.unpack(part.records)
            with nullcontext(np.arange(len(ids))) if bounded is None else bounded.changing(ids) as own:
                ids, rows, owners = [ids[i] for i in own.tolist()], rows[own], part.partitions[own]
                places = table.fill(ids, rows, owners, self._halves(side, rows))
            if len(left := np.flatnonzero(places < 0)):
                later.append(([ids[i] for i in left.tolist()], rows[left], owners[left].tolist()))
            kept.append(places[places >= 0])
            count += len(part)
        table.retain(np.concatenate(kept))
        for some, images, partitions in later:  # there may be room now; what cannot be served is told of
            self._show(side, some, images, partitions)
        return count
