"""One side's rows in memory that other processes read: the writer. Readers are TableReader's.

What a crash leaves is mended by the next writer: rows that were being written are gone, rows without a cell get one,
and a deletion that was not finished is undone. So the writer replays from a log that is no further than the rows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Floats, Ints
from forebay.errors import HashCollision, TableFull
from forebay.segments.state.ids import Ids
from forebay.store import rowwriting
from forebay.store.codec import Rows
from forebay.store.halfforms import put_halves
from forebay.store.nameheap import UNIT, NameHeap
from forebay.store.reserved import Words
from forebay.store.rowlayout import Layout
from forebay.store.tablefiles import TableFiles, TableLimits
from forebay.store.tableheader import LIVE, MARKS, NAMED, SERVED, STANDING, STORED, TABLE, TOP, Identity

log = logging.getLogger("forebay.table")


class SharedTable:
    """One process writes, and there one thread at a time. Every method may raise TableFull or HashCollision only after
    all that it could do is done."""

    def __init__(self, path: Path, identity: Identity, limits: TableLimits = TableLimits()) -> None:
        """Open the table in the folder `path`, mended, or make an empty one where there is none of these rows.

        Raises StoreLocked when another process writes it, and TableFull when there is no room for an empty one.
        """
        self.path, self.identity = path, identity
        self._write = threading.Lock()
        self._files = TableFiles(path, identity, limits)
        self._words, self._layout, self._names = self._files.words, self._files.layout, self._files.names
        self._heap = NameHeap(self._names)
        self._cells, self._used_cells = np.zeros(0, np.uint64), 0
        # Around each write, with its rows and their new images uint64 [n, width]: an index notes them before it.
        self.changing: Callable[[Ints, Words], AbstractContextManager[None]] = lambda rows, images: nullcontext()
        try:
            self.mended = self._mend()
        except BaseException:
            self._files.close()
            raise

    def close(self) -> None:
        """Let go of the files. Readers go on with what is there, and another writer may open the table."""
        self._files.close()

    def __len__(self) -> int:
        """Entities in the table."""
        return int(self._words[LIVE])

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return self._files.capacity

    @property
    def layout(self) -> Layout:
        """Of the rows in `words`."""
        return self._layout

    @property
    def words(self) -> Words:
        """All that is mapped; what is not allocated must not be touched."""
        return self._words

    @property
    def top(self) -> int:
        """All live rows are below it."""
        return int(self._words[TOP])

    @property
    def number(self) -> int:
        """Of this table, among all that were made in its folder."""
        return int(self._words[TABLE])

    def ids(self) -> list[str]:
        """Of all live rows."""
        with self._write:
            starts, lengths = self._places(self._live())
            names = self._names.data
            pairs = zip((starts * UNIT).tolist(), lengths.tolist(), strict=True)
            return [bytes(names[start : start + length]).decode() for start, length in pairs]

    def named(self, hashes: Ints) -> list[str]:
        """The ids of the rows that have `hashes` int64; nothing for those that none has."""
        with self._write:
            rows = self._find(hashes)
            return [self._name(row).decode() for row in rows[rows >= 0].tolist()]

    def colliding(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that `upsert` would refuse: another id in the table, or earlier in `ids`, has their hash."""
        hashes = Ids.of(ids).hashes
        with self._write:
            return self._colliding(ids, hashes, self._find(hashes))

    def upsert(
        self,
        ids: Sequence[str],
        rows: Rows,
        partitions: npt.NDArray[np.int32] | Sequence[int],
        halves: Floats | None = None,
    ) -> Ints:
        """Write `rows` of `ids`, their partitions and their item halves float32 [n, half_width]; returns row numbers,
        int64 [n], -1 for what was refused.

        An id that comes twice ends with its last row. Raises after all the others have been written: HashCollision for
        ids whose hash is another's, and TableFull for new ids that there is no room for.
        """
        with self._write:
            return self._upsert(list(ids), rows, np.asarray(partitions, np.int64), halves)

    def delete(self, ids: Sequence[str]) -> Ints:
        """Remove `ids` and make zeros of their rows; returns the rows that are free now, -1 for unknown ids."""
        with self._write:
            hashes = Ids.of(ids).hashes
            rows = self._find(hashes)
            for i in np.flatnonzero(rows >= 0).tolist():
                if self._name(int(rows[i])) != ids[i].encode():
                    rows[i] = -1
            self._drop(np.unique(rows[rows >= 0]))
            return rows

    def warm(self) -> None:
        """Compile what `upsert`, `delete` and `named` run, by a change of nothing: a second without numba's cache."""
        layout = self.identity.layout
        self.upsert([], layout.codec.empty(0), [], np.zeros((0, layout.half_width), np.float32))
        self.named(np.zeros(0, np.int64))
        self.delete([])

    def fill(self, ids: Sequence[str], rows: Rows, partitions: Ints, halves: Floats | None = None) -> Ints:
        """As `upsert`, for very many rows, in a third of the time; returns row numbers int64 [n]: -1 for those that it
        leaves to `upsert`, whose hash is another id's, or that there is no room for."""
        with self._write:
            return self._fill(Ids.of(ids), rows, partitions, halves)

    def retain(self, rows: Ints) -> None:
        """Remove all but `rows`."""
        with self._write:
            live = self._live()
            kept = np.zeros(self.capacity, np.bool_)
            kept[rows] = True
            self._drop(live[~kept[live]])

    @property
    def stored(self) -> int:
        """What `hold` said for the last time, or the writer before this one; 0 in a new table."""
        return int(self._words[STORED])

    def hold(self, mark: int) -> None:
        """The table has what the store of that `mark` has; 0: nobody knows that now."""
        self._files.tell(STORED, mark)

    def advance(self, partition: int, as_of_ms: int) -> None:
        """A heartbeat: everything appended to `partition` up to `as_of_ms` has been applied. Never goes back."""
        with self._write:
            if as_of_ms > int(self._words[MARKS + partition]):
                self._files.tell(MARKS + partition, as_of_ms)

    @property
    def standing(self) -> int:
        """What `stand` said for the last time, or the writer before this one; 0 in a new table."""
        return int(self._words[STANDING])

    def stand(self, word: int) -> None:
        """A word of the writer about itself, for readers: see Standing."""
        self._files.tell(STANDING, word)

    @property
    def watermarks(self) -> Ints:
        """int64 [partitions], ms."""
        return self._words[MARKS : MARKS + self.identity.partitions].astype(np.int64)

    # -- under the lock

    def _upsert(self, ids: list[str], rows: Rows, owners: Ints, halves: Floats | None) -> Ints:
        if len(owners) and (owners.min() < 0 or owners.max() >= self.identity.partitions):
            raise ValueError(f"a partition outside 0 to {self.identity.partitions - 1}")
        hashes = Ids.of(ids).hashes
        places = self._find(hashes)
        refused = self._colliding(ids, hashes, places)
        last = {entity: i for i, entity in enumerate(ids)}
        kept = np.array(sorted(i for entity, i in last.items() if entity not in refused), np.int64)
        new = kept[places[kept] < 0]
        room = self._make_room([len(ids[i].encode()) for i in new.tolist()])
        left, new = new[room:], new[:room]
        kept = np.setdiff1d(kept, left, assume_unique=True)
        fresh = np.isin(kept, new, assume_unique=True)
        images = self._images(hashes[kept], rows[kept], owners[kept], None if halves is None else halves[kept])
        self._place(ids, kept, fresh, images, places)
        other = bool(fresh.any() or (images["served"] != self._column("served")[places[kept]]).any())
        words = images.view(np.uint64).reshape(len(images), self._layout.width)
        with self.changing(places[kept], words):
            rowwriting.write_rows(self._words, self._layout, self._cells, words, places[kept], fresh)
        self._used_cells += len(new)
        self._files.tell(LIVE, len(self) + len(new))
        self._tell_served(other)
        placed = {ids[i]: int(places[i]) for i in kept.tolist()}
        answer = np.array([placed.get(entity, -1) for entity in ids], np.int64)
        if len(left):
            assert self._full is not None
            first = ids[int(left[0])][:40]
            raise TableFull(
                f"{len(left):,} new ids of {len(ids):,} are not served ({first!r} …): {self._full.what}",
                where=self._full.where,
                do=self._full.do,
            )
        if refused:
            raise HashCollision(
                f"{len(refused)} ids share a 64-bit hash with another: {', '.join(sorted(refused)[:5])}",
                where=str(self.path),
                do="Rename these ids; the ones that came first go on being served",
            )
        return answer

    def _fill(self, ids: Ids, rows: Rows, owners: Ints, halves: Floats | None) -> Ints:
        places = self._find(ids.hashes)
        old = np.flatnonzero(places >= 0)
        name_at, name_bytes = self._places(places[old])
        same = np.empty(len(old), np.bool_)
        rowwriting.same_names(
            self._names, name_at * UNIT, name_bytes, ids.data, ids.starts[old], ids.ends[old], same
        )  # fmt: skip
        places[old[~same]] = -1
        new = np.setdiff1d(np.unique(ids.hashes, return_index=True)[1], old)  # ascending: as the images are
        names = ids.take(new).to_bytes()
        room = self._make_room(list(map(len, names)))
        names, new = names[:room], new[:room]
        if room:
            places[new] = np.array(self._free[-room:], np.int64)[::-1]
            del self._free[-room:]
        kept = np.flatnonzero(places >= 0)
        fresh = np.zeros(len(ids), np.bool_)
        fresh[new] = True
        images = self._images(ids.hashes[kept], rows[kept], owners[kept], None if halves is None else halves[kept])
        for field, known in (("name_at", name_at), ("name_bytes", name_bytes)):
            images[field][~fresh[kept]] = known[same]
        images["name_at"][fresh[kept]], images["name_bytes"][fresh[kept]] = self._heap.put(names), list(map(len, names))
        if room:
            self._files.tell(TOP, max(int(self._words[TOP]), int(places[new].max()) + 1))
        words = images.view(np.uint64).reshape(len(images), self._layout.width)
        with self.changing(places[kept], words):
            rowwriting.write_rows(self._words, self._layout, self._cells, words, places[kept], fresh[kept])
        self._used_cells += room
        self._files.tell(LIVE, len(self) + room)
        self._tell_served(len(kept) > 0)
        return places

    def _drop(self, gone: Ints) -> None:
        places = self._column("name_at")[gone].tolist(), self._column("name_bytes")[gone].tolist()
        with self.changing(gone, np.zeros((len(gone), self._layout.width), np.uint64)):
            rowwriting.drop_rows(self._words, self._layout, self._cells, gone)
        for place, length in zip(*places, strict=True):
            self._heap.release(place, length)
        self._free.extend(gone.tolist()[::-1])
        self._files.tell(LIVE, len(self) - len(gone))
        self._tell_served(len(gone) > 0)

    def _tell_served(self, other: bool) -> None:
        """After the rows: readers find again which of them a condition keeps."""
        if other and self.identity.layout.codec.served:
            self._files.tell(SERVED, int(self._words[SERVED]) + 1)

    def _place(self, ids: list[str], kept: Ints, fresh: Bools, images: npt.NDArray[np.void], places: Ints) -> None:
        """Rows and places of names of new ids, and of those that are there the names they have."""
        old = places[kept[~fresh]]
        for field in ("name_at", "name_bytes"):
            images[field][~fresh] = self._column(field)[old]
        new = np.flatnonzero(fresh)
        names = [ids[i].encode() for i in kept[new].tolist()]
        images["name_at"][new], images["name_bytes"][new] = self._heap.put(names), list(map(len, names))
        for i in kept[new].tolist():
            places[i] = self._free.pop()
        if fresh.any():
            self._files.tell(TOP, max(int(self._words[TOP]), int(places[kept[fresh]].max()) + 1))

    def _images(self, hashes: Ints, rows: Rows, owners: Ints, halves: Floats | None) -> npt.NDArray[np.void]:
        codec, images = self.identity.layout.codec, np.zeros(len(rows), self.identity.layout.dtype)
        images["hash"], images["partition"], images["live"] = hashes, owners, 1
        for field in ("as_of", "last_event", "scale", "flags"):
            images[field] = codec.column(rows, field)
        images["codes"], images["served"] = codec.vectors(rows), codec.columns(rows)
        if self.identity.layout.half_width:
            assert halves is not None, "rows of this table have halves"
            put_halves(images, halves, self.identity.layout.half_parts)
        return images

    def _colliding(self, ids: Sequence[str], hashes: Ints, rows: Ints) -> set[str]:
        refused, first, names = set(), dict[int, str](), self._names.data
        there, places = np.flatnonzero(rows >= 0), np.zeros((len(rows), 2), np.int64)
        places[there] = np.stack(self._places(rows[there]), axis=1)  # at once: one by one, they cost more than the rest
        for entity, key, row, (at, length) in zip(ids, hashes.tolist(), rows.tolist(), places.tolist(), strict=True):
            known = first.get(key)
            if known is None:
                known = first[key] = bytes(names[at * UNIT : at * UNIT + length]).decode() if row >= 0 else entity
            if known != entity:
                refused.add(entity)
        return refused

    def _find(self, hashes: Ints) -> Ints:
        rows = np.empty(len(hashes), np.int64)
        rowwriting.find_own(self._words, self._layout, self._cells, hashes, rows)
        return rows

    def _name(self, row: int) -> bytes:
        place, length = int(self._column("name_at")[row]) * UNIT, int(self._column("name_bytes")[row])
        return bytes(self._names[place : place + length])

    def _column(self, field: str) -> npt.NDArray[np.generic]:
        """A field of all rows allocated, where it lies."""
        return self._files.images(self.capacity)[field]

    def _places(self, rows: Ints) -> tuple[Ints, Ints]:
        """Places (units) and bytes int64 [n] of the ids of `rows`; no row is copied for it."""
        images = self._files.images(self.capacity)
        return images["name_at"][rows].astype(np.int64), images["name_bytes"][rows].astype(np.int64)

    # -- room

    def _make_room(self, sizes: list[int]) -> int:
        """Room for new ids of as many bytes; returns for how many of them, from the first on, and in `_full` why not
        for more."""
        self._full: TableFull | None = None
        if (by := len(sizes) - len(self._free)) > 0:
            have = self._files.capacity
            self._try(lambda: self._files.grow_rows(by))
            self._free[:0] = range(self._files.capacity - 1, have - 1, -1)  # in front: freed rows are taken first
        room = min(len(sizes), len(self._free))
        self._try(lambda: self._files.grow_names(self._heap.needed(sizes[:room])))
        while room and self._heap.needed(sizes[:room]) > int(self._words[NAMED]):
            room //= 2
        # Half of the cells, the dead ones included: then the index is built anew, without those.
        if 2 * (self._used_cells + room) > len(self._cells):
            self._try(lambda: self._build_cells(len(self) + room))
        return min(room, len(self._cells) // 2 - self._used_cells)

    def _try(self, grow: Callable[[], None]) -> None:
        try:
            grow()
        except TableFull as error:
            self._full = self._full or error

    def _build_cells(self, count: int) -> None:
        """An index with room for as many, beside the one that readers have."""
        cells = self._files.new_cells(1 << max(10, (4 * count - 1).bit_length()))
        rowwriting.fill_cells(self._words, self._layout, cells, self._live())
        self._cells, self._used_cells = cells, len(self)
        self._files.turn()

    def _live(self) -> Ints:
        return np.flatnonzero(self._files.images(int(self._words[TOP]))["live"])

    def _mend(self) -> int:
        """What a writer that died has left behind; returns how many rows it died in."""
        top = int(self._words[TOP])
        mended = rowwriting.mend_rows(self._words, self._layout, top)
        if mended:
            log.warning("%s: %d rows that a writer died in are gone until they are written again", self.path, mended)
        rows = self._live()
        self._heap.occupy(*self._places(rows))
        free = np.ones(self._files.capacity, np.bool_)
        free[rows] = False
        self._free: list[int] = np.flatnonzero(free)[::-1].tolist()
        self._files.tell(LIVE, len(rows))
        self._build_cells(len(rows))
        self._files.clear()
        self._tell_served(True)  # the one before may have died between a row and its word of it
        return mended
