"""One generation on one serving node: the rows on disk, the tables that requests read, the index and the halves.

A replica writes through `write`, an engine reads through `read` and `search`; neither sees what the rows lie in. One
process may hold several copies: each has its own generation, and nothing of two is ever in one answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.errors import BundleError, GenerationMismatch
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import Fusion, InnerProduct
from forebay.segments.quantize import dequantize, quantize
from forebay.segments.spec import SIDES, SegmentSpec, Side, Use
from forebay.segments.state.ids import hash_ids
from forebay.shard import ALL, Shard
from forebay.store.codec import RowCodec, Rows, codec_of
from forebay.store.fetched import reading_of
from forebay.store.generation import Generation
from forebay.store.halves import ItemHalves
from forebay.store.hotusers import HotUsers
from forebay.store.index import ItemIndex
from forebay.store.indexkeeper import IndexOptions
from forebay.store.indexwatch import IndexStanding, IndexWatch
from forebay.store.keptclusters import cluster_file
from forebay.store.reading import Lacking, LockedReading, Reading
from forebay.store.selectedrows import SelectedRows
from forebay.store.selection import Selection
from forebay.store.sharedtable import SharedTable
from forebay.store.table import SegmentTable
from forebay.store.vectors import Part, VectorStore

LOAD_ROWS = 8192
_FIRST = np.zeros(1, np.int64)  # the place of one entity that was asked for alone
log = logging.getLogger("forebay.copy")


class Model(Protocol):
    """What a node needs of a Bundle: its hash, the segments of each side, the vectors that stand in for what is
    missing, and the fusions."""

    @property
    def hash(self) -> str: ...

    @property
    def fusions(self) -> Mapping[Use, Fusion]: ...

    def segments(self, side: Side) -> tuple[SegmentSpec, ...]: ...

    def defaults(self, side: Side) -> Floats: ...


class ServingCopy:
    """One writer, any number of readers."""

    def __init__(
        self,
        model: Model,
        generation: str,
        codecs: Mapping[Side, RowCodec],
        partitions: Mapping[Side, int],
        store: VectorStore | None = None,
        shard: Shard = ALL,
        users_in_memory: int = 0,
        index: IndexOptions = IndexOptions(),
    ) -> None:
        """Empty. Each side's log has so many `partitions`; without a `store` nothing outlasts the process. With one,
        `users_in_memory` bounds the rows of users in the table (0: all are); the others are read from the store.

        Raises GenerationMismatch when the codecs' segments are not the model's, and BundleError when the dimensions of
        segments, fusions and defaults do not fit together.
        """
        self.generation, self.bundle_hash, self.store = generation, model.hash, store
        self.codecs = dict(codecs)
        self.shard, self.user_partitions = shard, partitions["user"]
        for side in SIDES:
            check(model, side, codecs[side], generation)
        self._tables = {side: SegmentTable(codecs[side], partitions=partitions[side]) for side in SIDES}
        self.hot: HotUsers | None = None
        if users_in_memory and store is not None:
            self.hot = HotUsers(self._tables["user"], store, users_in_memory)
        columns, file = model.fusions["retrieve"].shape.item_columns, cluster_file(store, model.hash)
        self._index = ItemIndex(codecs["item"].bounds, index, columns, file)
        self._watch = IndexWatch(self._index.searcher, lambda: self._index.frozen, self._index.now, index.recall)
        self._selected = SelectedRows(self._tables["item"], self._index)
        self._lacking = {side: lacking_of(model, side, codecs[side]) for side in SIDES}
        rank = model.fusions["rank"]
        folds = isinstance(rank, InnerProduct)
        self._halves = None if folds else ItemHalves(rank, self._tables["item"], self._lacking["item"].default)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        generation: Generation,
        path: Path,
        shard: Shard = ALL,
        users_in_memory: int = 0,
        index: IndexOptions = IndexOptions(),
    ) -> Self:
        """The copy whose rows lie at `path`, made if it is not there; `load` fills the tables. Errors as in
        VectorStore.open."""
        store = VectorStore.open(path, create=True, generation=generation.name, bundle_hash=bundle.hash)
        try:
            codecs = {side: codec_of(bundle, side) for side in SIDES}
            partitions = {side: generation.partitions[side] for side in SIDES}
            copy = cls(bundle, generation.name, codecs, partitions, store, shard, users_in_memory, index)
            copy._watch.start()
            return copy
        except BaseException:
            store.close()
            raise

    def keep(self) -> None:
        """Write down which users are in memory, for the next start. From any thread, now and then."""
        if self.hot is not None:
            self.hot.save()

    def close(self) -> None:
        """Let go of the store."""
        self._watch.close()
        self._index.close()
        if self.store is not None:
            self.store.close()

    def __len__(self) -> int:
        """Rows of both sides."""
        return sum(self.rows().values())

    # -- the replica's

    def load(self) -> int:
        """Fill tables and index from the store, as they were when it was last written; returns the rows read."""
        assert self.store is not None, "there is nothing to load from"
        rows = 0
        with self._index.filling():
            for side in SIDES:
                bounded = self.hot if side == "user" else None
                parts = self.store.scan_by(side, LOAD_ROWS) if bounded is None else bounded.parts(LOAD_ROWS)
                for part in parts:
                    self._load_part(side, part)
                    rows += len(part)
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
        """Rows as (id, partition, record), entities that are gone, watermarks (ms) and the offsets that cover them.

        The store first, in one batch, and the tables after it: a restart loads the store and reads the tail. A record
        of another generation is refused before anything is kept.
        """
        rows, ids = self.codecs[side].unpack([value for _, _, value in puts])
        if self.store is not None:
            self.store.write(side, puts, gone, watermarks, offsets)
        self.show(side, ids, rows, [partition for _, partition, _ in puts])
        self.hide(side, gone)
        # After its rows: a watermark must not carry on rows that it has come before.
        for partition, as_of in watermarks.items():
            self.advance(side, partition, as_of)

    def show(self, side: Side, ids: list[str], rows: Rows, partitions: list[int]) -> None:
        """Rows of `ids` for readers, and for nobody after this process. One whose id shares its hash with another's is
        left out, and told of. Of users that are not in memory nothing is shown."""
        if side == "user" and self.hot is not None:
            with self.hot.changing(ids) as kept:
                self._show(side, [ids[i] for i in kept.tolist()], rows[kept], [partitions[i] for i in kept.tolist()])
        else:
            self._show(side, ids, rows, partitions)

    def _show(self, side: Side, ids: list[str], rows: Rows, partitions: list[int]) -> None:
        table = self._tables[side]
        ids, rows, partitions = without_colliding(table, ids, rows, partitions)
        if ids:
            places = table.upsert(ids, rows, partitions)
            if side == "item":
                codec = self.codecs[side]
                self._index.upsert(places, codec.vectors(rows), codec.column(rows, "scale"))

    def hide(self, side: Side, ids: Sequence[str]) -> None:
        """No reader sees `ids` any more."""
        if ids and side == "user" and self.hot is not None:
            self.hot.hide(ids)
        elif ids:
            freed = self._tables[side].delete(ids)
            if side == "item":
                self._index.remove(freed[freed >= 0])

    def advance(self, side: Side, partition: int, as_of_ms: int) -> None:
        """A heartbeat: everything that the sources took before `as_of_ms` has been applied to that partition."""
        self._tables[side].advance(partition, as_of_ms)

    # -- everybody's

    def rows(self) -> dict[Side, int]:
        """How many entities there are."""
        return {side: len(self._tables[side]) for side in SIDES}

    def as_of(self) -> int:
        """The oldest watermark (ms); 0 before each partition had one."""
        return oldest(self.shard, self._tables["user"].watermarks, self._tables["item"].watermarks)

    @contextmanager
    def read(self, side: Side, hashes: Ints, ids: Sequence[str] = ()) -> Iterator[Reading]:
        """The rows of one side that have `hashes` int64 [n], while nobody writes: to be held for some gathers, and not
        for more. The row of one user that is not in memory is read from the store, by its id in `ids`."""
        table, halves, hot = self._tables[side], self._halves if side == "item" else None, self.hot
        bounded = side == "user" and bool(ids) and hot is not None
        if bounded and hot is not None:
            hot.count(hashes)
        with table.lock:
            reading = LockedReading(table, self._lacking[side], halves, hashes)
            if not bounded or reading.names(_FIRST) == [ids[0]]:
                yield reading
                return
        assert hot is not None
        marks = table.watermarks.copy()
        yield reading_of(self.codecs[side], self._lacking[side], hot.fetch(ids[0], self._show_part), marks, hashes)

    def at_hand(self, side: Side, entity: str) -> bool:
        """Whether reading its row takes no disk: it is in memory, or nothing is elsewhere."""
        return side == "item" or self.hot is None or bool(self._tables[side].find([entity])[0] >= 0)

    def search(self, query: Floats, k: int, deny: Ints, selection: Selection | None = None) -> Ints:
        """Hashes int64 of the `k` items with the highest inner product with `query` float32 [dims], and what
        `selection` adds to it, best first, of those that it keeps, without those whose hash is in `deny`. A row may
        have gone to another item since it was found, and have other attributes: that one's hash is told."""
        table, deny_rows = self._tables["item"], None
        if len(deny):
            with table.lock:
                deny_rows = table.probe_locked(deny)
        if selection is None:
            rows, _ = self._index.search(query, k, deny_rows)
        else:
            rows = self._selected.search(query, k, deny_rows, selection)
        with table.lock:
            return table.hashes[[row for row in rows.tolist() if table.ids[row]]]

    def index(self) -> IndexStanding:
        """How the index of the items stands."""
        return self._watch.standing()

    def default(self, side: Side) -> Floats:
        """What stands in for what is missing, as a stored row would have it: float32 [dims]."""
        return self._lacking[side].default

    def warm(self) -> None:
        """Compile what the tables run."""
        for table in self._tables.values():
            table.warm()
        if self.hot is not None:
            with self.read("user", hash_ids([""]), [""]):  # of nobody: the store's way, too
                pass
        self._index.warm()

    def _load_part(self, side: Side, part: Part) -> None:
        part = kept_of(self.shard, side, part)
        rows, ids = self.codecs[side].unpack(part.records)
        if side == "user" and self.hot is not None:
            with self.hot.changing(ids) as kept:
                self._fill(side, [ids[i] for i in kept.tolist()], rows[kept], part.partitions[kept])
        else:
            self._fill(side, ids, rows, part.partitions)

    def _fill(self, side: Side, ids: list[str], rows: Rows, partitions: Ints) -> None:
        places, left = self._tables[side].fill(ids, rows, partitions)
        if side == "item":
            new = np.delete(rows, left) if len(left) else rows
            codec = self.codecs[side]
            self._index.upsert(places, codec.vectors(new), codec.column(new, "scale"))
        if len(left):  # a hash that another id has, or an id that is there by now
            self._show(side, [ids[i] for i in left.tolist()], rows[left], partitions[left].tolist())

    def _show_part(self, part: Part) -> None:
        rows, ids = self.codecs["user"].unpack(part.records)
        self._show("user", ids, rows, part.partitions.tolist())


def without_colliding(
    table: SegmentTable | SharedTable, ids: list[str], rows: Rows, partitions: list[int]
) -> tuple[list[str], Rows, list[int]]:
    """Those whose hash is not that of another id, which came first; the others are told of, and not served."""
    refused = table.colliding(ids)
    if not refused:
        return ids, rows, partitions
    log.error("%d ids have the hash of another one and are not served: %s", len(refused), sorted(refused)[:3])
    keep = [place for place, entity in enumerate(ids) if entity not in refused]
    return [ids[k] for k in keep], rows[keep], [partitions[k] for k in keep]


def oldest(shard: Shard, users: Ints, items: Ints) -> int:
    """The oldest of the watermarks (ms), int64 [partitions] each, that a node of this shard follows."""
    return int(min(users[shard.number - 1 :: shard.of].min(), items.min()))


def kept_of(shard: Shard, side: Side, part: Part) -> Part:
    """Without the users of other shards, which a folder may have from before."""
    if side == "item" or shard.of == 1:
        return part
    own = np.flatnonzero(part.partitions % shard.of == shard.number - 1)
    return Part([part.records[i] for i in own.tolist()], part.partitions[own])


def served_vectors(codec: RowCodec, rows: Rows) -> Floats:
    """float32 [n, dim of all segments] of stored rows: what the index searches."""
    segments = rows["segments"]
    parts = [segments[s.name]["vector"] * segments[s.name]["scale"][:, None] for s in codec.segments]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def check(model: Model, side: Side, codec: RowCodec, generation: str) -> None:
    """Raise GenerationMismatch or BundleError where a copy's rows of one side are not what the model has."""
    specs = model.segments(side)
    if [(s.name, s.dim) for s in specs] != [(s.name, s.dim) for s in codec.segments]:
        raise GenerationMismatch(
            f"the {side} rows have {[s.name for s in codec.segments]}, the bundle {[s.name for s in specs]}",
            where=f"generation {generation}",
            do="Fill the copy from this generation's topics",
        )
    dim = sum(s.dim for s in specs)
    reads = {f.shape.user_dim if side == "user" else f.shape.item_dim for f in model.fusions.values()}
    if model.defaults(side).shape != (dim,) or reads != {dim}:
        raise BundleError(
            f"default vectors of shape {model.defaults(side).shape} and fusions over {sorted(reads)} dimensions",
            where=f"{side} segments of {dim} dimensions",
        )


def lacking_of(model: Model, side: Side, codec: RowCodec) -> Lacking:
    """The default vector goes through int8 and back, as stored rows do: it scores the same whether a row holds it or it
    is put in."""
    parts = np.split(model.defaults(side), codec.bounds[1:-1])
    default = np.concatenate([dequantize(*quantize(part[None]))[0] for part in parts])
    return Lacking(default, np.array([s.expires_after_ms for s in model.segments(side)], np.int64))
