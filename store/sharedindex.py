"""The item index of a node of several processes: the replica makes lists and notes changes, the servers map both.

    index/head                 magic | table | epoch                                       u8 each; epoch 0: no lists
    index/ivf.<hash>           the lists (ivf.py)
    index/changes.<table>.<epoch>
        0 magic | 1 table | 2 epoch | 3, 4 hash of the lists | 5 entries | 6 shallow probes | 7 deep probes | 8 count
        512 i4 since [entries], then i4 rows [count and what is allocated behind]

A file of lists that is not what was written is told of by a file `damaged.<hash>`: all items are scanned until the
replica has seen that and made lists anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from forebay.arrays import Bytes, Floats, Ints
from forebay.errors import IndexDamaged
from forebay.store import indexkernels
from forebay.store.indexkeeper import IndexOptions, Keeper
from forebay.store.indexkernels import Place
from forebay.store.indexsearch import Changes, Frozen, Memory, Moment, Probes, Searcher
from forebay.store.ivf import Ivf, path_of, read, write
from forebay.store.keptclusters import ClusterFile
from forebay.store.reserved import Reserved, Words
from forebay.store.rowkernels import word_of
from forebay.store.rowlayout import Layout
from forebay.store.rowwriting import put_word
from forebay.store.sharedtable import SharedTable
from forebay.store.tablereader import TableReader

log = logging.getLogger("forebay.index")

FOLDER = "index"
_MAGIC = int.from_bytes(b"FBINDEX1", "little")
_TABLE, _EPOCH = 1, 2
_HASH, _ENTRIES, _PROBES, _COUNT = 3, 5, 6, 8
_HEADER_WORDS = 512
_RESERVE_ROWS = 1 << 26
_AGAIN_S = 1.0  # between two looks for a head that is not there


def place_of(layout: Layout) -> Place:
    """What the index needs of it."""
    return Place(layout.origin, layout.width, layout.segments, layout.scales, layout.codes, layout.dim)


class _ChangesFile:
    """One file of changes, mapped: by the replica to write, by servers to read."""

    def __init__(self, path: Path, entries: int, *, writable: bool) -> None:
        self._since_words = -(-entries // 2)
        reserve = 8 * (_HEADER_WORDS + self._since_words) + 4 * _RESERVE_ROWS
        self.file = Reserved(path, reserve, writable=writable)
        self.words: Words = self.file.words
        self._entries = entries

    def grow(self, capacity: int) -> None:
        """Allocate room for so many row numbers. Raises TableFull."""
        self.file.grow(8 * (_HEADER_WORDS + self._since_words) + 4 * capacity)

    def changes(self, capacity: int) -> Changes:
        """Where they lie."""
        at = _HEADER_WORDS + self._since_words
        since = self.words[_HEADER_WORDS:at].view(np.int32)[: self._entries]
        return Changes(self.words[_COUNT : _COUNT + 1], self.words[at:].view(np.int32)[:capacity], since)


class FileHome:
    """Where the replica's Keeper keeps lists: see Home."""

    def __init__(self, folder: Path, table: int, dim: int, segments: int) -> None:
        self.folder, self._dim, self._segments, self._table = folder, dim, segments, table
        folder.mkdir(parents=True, exist_ok=True)
        head = Reserved(folder / "head", 4096, writable=True)
        head.grow(4096)
        self._head: Words = head.words
        head.close()
        self.digest = ""
        self._changes: _ChangesFile | None = None
        if (int(self._head[0]), int(self._head[_TABLE])) != (_MAGIC, table):
            put_word(self._head, _EPOCH, 0)
            self._head[_TABLE] = table
            put_word(self._head, 0, _MAGIC)

    def resumed(self) -> Frozen | None:
        """The lists that the writer before this one has left, with its changes; None, and nothing is searched, where
        there are none or they are damaged."""
        epoch = int(self._head[_EPOCH])
        try:
            if not epoch:
                return None
            self._changes, self.digest, frozen = _opened(
                self._path(epoch), self.folder, self._table, epoch, self._dim, self._segments, writable=True
            )
            capacity = (self._changes.file.size_bytes - 8 * _HEADER_WORDS) // 4 - len(frozen.changes.since)
            changes = self._changes.changes(max(capacity, len(frozen.changes)))
            return Frozen(frozen.ivf, changes, frozen.probes)
        except (IndexDamaged, FileNotFoundError) as error:
            log.warning("lists are made anew: %s", error)
            self.none()
            return None
        finally:
            self._clear()

    def damaged(self) -> bool:
        """Whether a server has found the lists damaged; asked once for each."""
        marker = self.folder / f"damaged.{self.digest}"
        if not self.digest or not marker.exists():
            return False
        log.warning("%s is damaged: lists are made anew", path_of(self.folder, self.digest))
        self.none()
        path_of(self.folder, self.digest).unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
        return True

    def kept(self, ivf: Ivf, data: Bytes) -> Ivf:
        self._next = write(self.folder, ivf, data)
        return read(self.folder, self._next, self._dim, self._segments)

    def show(self, ivf: Ivf, capacity: int, probes: Probes, fill: Callable[[Changes], None]) -> Frozen:
        epoch = max(int(self._head[_EPOCH]), self._last_epoch()) + 1
        path = self._path(epoch)
        path.unlink(missing_ok=True)
        file = _ChangesFile(path, len(ivf), writable=True)
        file.grow(capacity)
        file.words[:_COUNT] = (
            _MAGIC, self._table, epoch, int(self._next[:16], 16), int(self._next[16:], 16), len(ivf), probes.shallow,
            probes.deep,
        )  # fmt: skip
        changes = file.changes(capacity)
        fill(changes)
        put_word(self._head, _EPOCH, epoch)
        self._changes, self.digest = file, self._next
        self._clear()
        return Frozen(ivf, changes, probes)

    def grown(self, frozen: Frozen, capacity: int) -> Frozen:
        assert self._changes is not None
        capacity += capacity // 8
        self._changes.grow(capacity)
        return Frozen(frozen.ivf, self._changes.changes(capacity), frozen.probes)

    def none(self) -> None:
        put_word(self._head, _EPOCH, 0)

    def _last_epoch(self) -> int:
        """Of the files that are there: a server may have one of them open, and must see another number."""
        return max((int(p.suffix[1:]) for p in self.folder.glob("changes.*.*") if p.suffix[1:].isdecimal()), default=0)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"changes.{self._table:016x}.{epoch}"

    def _clear(self) -> None:
        """Files of lists that are not searched; the newest file of changes stays, for its number."""
        epoch = max(int(self._head[_EPOCH]), self._last_epoch())
        kept = {self._path(epoch), path_of(self.folder, self.digest)}
        for pattern in ("changes.*", "ivf.*", "damaged.*"):
            for path in self.folder.glob(pattern):
                if path not in kept:
                    path.unlink(missing_ok=True)


class FeedingIndex:
    """The replica's: a Keeper over a shared table that is written here."""

    def __init__(
        self,
        table: SharedTable,
        options: IndexOptions = IndexOptions(),
        read: Ints | None = None,
        file: ClusterFile | None = None,
    ) -> None:
        """What the writer before has left is gone on with. From now on the table tells what it is about to write.
        `read` and `file` as a Keeper has them."""
        codec = table.identity.layout.codec
        self._table, self._place = table, place_of(table.layout)
        self._home = FileHome(table.path / FOLDER, table.number, codec.dim, len(codec.segments))
        self.keeper = Keeper(self._memory, codec.bounds, self._home, options, read, file)
        if (frozen := self._home.resumed()) is not None:
            self.keeper.resume(frozen, table.capacity)
        table.changing = self._changing

    def look(self) -> None:
        """Lists are made in the background if they are due, or damaged. Some times a second."""
        if self._home.damaged():
            self.keeper.forget()
        self.keeper.look()

    def settle(self) -> None:
        """Make lists now if they are due."""
        self.keeper.settle()

    def filling(self) -> AbstractContextManager[None]:
        """For a block that writes the rows of a whole store: lists are made at its end."""
        return self.keeper.filling()

    def close(self) -> None:
        """Wait for what is being made; the files stay."""
        self.keeper.close()

    def _memory(self) -> Memory:
        return Memory(self._table.words, self._place, self._table.top)

    @contextmanager
    def _changing(self, rows: Ints, images: Words) -> Iterator[None]:
        """A row whose codes and scales stay what they are has not changed for the index: after a restart all rows are
        written again, and most are the same."""
        place, words = self._place, self._table.words
        mine = words[place.origin :][: self._table.capacity * place.width].reshape(-1, place.width)[rows]
        same = (mine[:, 3] >> np.uint64(32)) == (images[:, 3] >> np.uint64(32))
        for first, size in ((4 * place.scales, 4 * place.segments), (place.codes, place.dim)):
            part = slice(first, first + size)
            same &= (mine.view(np.uint8)[:, part] == images.view(np.uint8)[:, part]).all(axis=1)
        with self.keeper.changing(rows[~same], self._table.capacity):
            yield


class MappedIndex:
    """A server's: what the replica of this node keeps. Any number of threads."""

    def __init__(self, reader: TableReader) -> None:
        codec = reader.identity.layout.codec
        self._reader, self._place = reader, place_of(reader.layout)
        self._folder = reader.path / FOLDER
        self._dim, self._segments = codec.dim, len(codec.segments)
        self._head: Words | None = None
        self._look_again = 0.0
        self._opened: tuple[int, Frozen | None] = (0, None)
        self.searcher = Searcher(codec.bounds)

    @property
    def frozen(self) -> Frozen | None:
        """The lists that are searched now; None while all rows are scanned."""
        if self._head is None and not self._find_head():
            return None
        assert self._head is not None
        for _ in range(10):
            epoch = int(word_of(self._head, _EPOCH))
            if int(self._head[_TABLE]) != self._reader.number or not epoch:
                return None
            known, frozen = self._opened
            if known == epoch:
                return frozen
            try:
                frozen = _opened(
                    self._folder / f"changes.{self._reader.number:016x}.{epoch}", self._folder, self._reader.number,
                    epoch, self._dim, self._segments, writable=False,
                )[2]  # fmt: skip
            except FileNotFoundError:  # other ones came in between
                continue
            except IndexDamaged as error:
                log.error("%s", error)
                frozen = None
            self._opened = (epoch, frozen)
            return frozen
        return None

    def memory(self) -> Memory:
        """Where the rows lie."""
        return Memory(self._reader.words, self._place, self._reader.top)

    def now(self) -> Moment:
        """What a search looks at."""
        return Moment.now(self.frozen, self.memory)

    def search(self, query: Floats, k: int, deny: Ints, allowed: Bytes | None = None) -> Ints | None:
        """Hashes int64 of the best `k` rows, best first, as TableReader.best has them, of those that are `allowed`
        (one bit a row, lowest bit first); None while there are no lists."""
        moment = self.now()
        if moment.frozen is None:
            return None
        rows, _ = self.searcher.find(moment, query, k, self._reader.rows_of(deny) if len(deny) else None, allowed)
        self.searcher.queries.append(query)
        hashes = np.empty(len(rows), np.int64)
        return hashes[: indexkernels.hashes_of(moment.memory.words, self._place, rows, hashes)]

    def _find_head(self) -> bool:
        now = time.monotonic()
        if now < self._look_again:
            return False
        self._look_again = now + _AGAIN_S
        path = self._folder / "head"
        try:
            if path.stat().st_size < 4096:
                return False
            head = Reserved(path, 4096, writable=False)
        except FileNotFoundError:
            return False
        self._head = head.words
        head.close()
        return True


def _opened(
    path: Path, folder: Path, table: int, epoch: int, dim: int, segments: int, *, writable: bool
) -> tuple[_ChangesFile, str, Frozen]:
    """Changes and their lists. Raises FileNotFoundError, and IndexDamaged after it has told the replica of it."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(8 * _HEADER_WORDS).ljust(8 * _HEADER_WORDS, b"\0"), np.uint64)
    digest = f"{int(head[_HASH]):016x}{int(head[_HASH + 1]):016x}"
    try:
        if head[:_HASH].tolist() != [_MAGIC, table, epoch]:
            raise IndexDamaged("no changes of this index", where=str(path))
        ivf = read(folder, digest, dim, segments)
        entries = int(head[_ENTRIES])
        if entries != len(ivf) or path.stat().st_size < 8 * _HEADER_WORDS + 4 * (entries + int(head[_COUNT])):
            raise IndexDamaged("changes of other lists, or the beginning of them", where=str(path))
    except IndexDamaged:
        (folder / f"damaged.{digest}").touch()
        raise
    changes = _ChangesFile(path, entries, writable=writable)
    frozen = Frozen(ivf, changes.changes(_RESERVE_ROWS), Probes(int(head[_PROBES]), int(head[_PROBES + 1])))
    return changes, digest, frozen
