"""The files of a shared table: one folder, made whole or not at all, and larger when that is asked for.

`rows` has the header and the rows, `names.<table>` the ids, `cells.<table>.<epoch>` the index, and `lock` says who
writes. All of it is made of a VectorStore, and lives as long as the machine runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forebay.errors import StoreLocked, TableFull
from forebay.store.nameheap import STEP_BYTES
from forebay.store.reserved import Reserved, Words
from forebay.store.rowwriting import put_word
from forebay.store.tableheader import CAPACITY, EPOCH, NAMED, RETIRED, TABLE, Identity, boot_id

log = logging.getLogger("forebay.table")


@dataclass(frozen=True)
class TableLimits:
    """`reserve_*` is address space, of which no byte is used before it is allocated."""

    reserve_rows: int = 1 << 26
    reserve_name_bytes: int = 1 << 34
    extent_bytes: int = 64 << 20  # rows are allocated so much at a time, at most; while there are few, as much again
    least_extent_bytes: int = 256 << 10


class TableFiles:
    """Those of one writer. `words` uint64 is the whole of `rows`, and `names` uint8 all ids; both begin where the files
    do, and what is not allocated must not be touched."""

    def __init__(self, path: Path, identity: Identity, limits: TableLimits) -> None:
        """Open the table in the folder `path`, or make an empty one where there is none of these rows.

        Raises StoreLocked when another process writes it, and TableFull when there is no room for an empty one.
        """
        self.path, self.identity, self._limits = path, identity, limits
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path / "lock")
        try:
            boot = boot_id()
            if said := self._mismatch(boot):
                log.info("%s is made anew: %s", path, said)
                self._make(boot)
            self._map()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let go of the files, for another writer; what is mapped stays for whoever has it."""
        self._rows.close()
        self._names.close()
        os.close(self._lock)

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return int(self.words[CAPACITY])

    def images(self, count: int) -> npt.NDArray[np.void]:
        """The first rows, where they lie, in the layout's dtype."""
        start = self.layout.origin
        return self.words[start : start + count * self.layout.width].view(self.identity.layout.dtype)

    def tell(self, word: int, value: int) -> None:
        """Change a word of the header, after all that was written before."""
        put_word(self.words, word, value)

    def grow_rows(self, by: int) -> None:
        """Allocate room for as many rows more, or for all that there is room for: then TableFull is raised."""
        have, width, origin = self.capacity, self.layout.width * 8, self.layout.origin * 8
        extent = min(self._limits.extent_bytes, max(self._limits.least_extent_bytes, have * width))
        try:
            for rows in (max(by, extent // width), by):
                try:
                    self._rows.grow(origin + min(have + rows, self._limits.reserve_rows) * width)
                    break
                except TableFull:
                    if rows == by:
                        raise
        finally:
            # An allocation that failed may have left a part of what was asked for.
            self.tell(CAPACITY, max(have, (self._rows.size_bytes - origin) // width))
        if self.capacity < have + by:
            raise TableFull(f"{self.capacity:,} rows are all that is reserved", where=str(self.path))

    def grow_names(self, size_bytes: int) -> None:
        """Allocate room for ids up to there, at least. Raises TableFull."""
        if size_bytes <= int(self.words[NAMED]):
            return
        try:
            self._names.grow(min(max(size_bytes, self._names.size_bytes + STEP_BYTES), self._names.reserve_bytes))
        except TableFull:
            self._names.grow(size_bytes)
        self.tell(NAMED, self._names.size_bytes)

    def new_cells(self, count: int) -> Words:
        """Cells uint64 [count] of an index that nobody reads yet: see `turn`. Raises TableFull."""
        path = self._cells_at(int(self.words[EPOCH]) + 1)
        path.unlink(missing_ok=True)  # of a writer that died before the turn
        file = Reserved(path, count * 8, writable=True)
        try:
            file.grow(count * 8)
            return file.words
        except TableFull:
            path.unlink()
            raise
        finally:
            file.close()

    def turn(self) -> None:
        """The new cells are the index from now on. Readers go over when they see it; what they have of the old one
        stays theirs until then."""
        epoch = int(self.words[EPOCH]) + 1
        self.tell(EPOCH, epoch)
        self._cells_at(epoch - 1).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what belongs to other tables, or to an index that is not used."""
        kept = {self._names.path, self._cells_at(int(self.words[EPOCH]))}
        for path in self.path.glob("*.*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _cells_at(self, epoch: int) -> Path:
        return self.path / f"cells.{self._table:016x}.{epoch}"

    def _mismatch(self, boot: int) -> str:
        """Why what lies there cannot be gone on with; "" if it can."""
        try:
            with (self.path / "rows").open("rb") as file:
                head = file.read(self.identity.origin_words * 8)
        except FileNotFoundError:
            return "there was none"
        return self.identity.mismatch(np.frombuffer(head[: len(head) // 8 * 8], np.uint64), boot)

    def _make(self, boot: int) -> None:
        """An empty table, under its name when it is whole. Readers of the one before it are told."""
        path = self.path / "rows"
        if path.exists() and path.stat().st_size >= (RETIRED + 1) * 8:
            before = Reserved(path, (RETIRED + 1) * 8, writable=True)
            put_word(before.words, RETIRED, 1)
            before.close()
        beside = self.path / "rows.new"
        beside.unlink(missing_ok=True)
        made = Reserved(beside, self.identity.origin_words * 8, writable=True)
        try:
            made.grow(self.identity.origin_words * 8)
            made.words[:] = self.identity.written(secrets.randbits(64), boot)
        finally:
            made.close()
        os.replace(beside, path)

    def _map(self) -> None:
        layout = self.identity.layout
        reserve = self.identity.origin_words * 8 + self._limits.reserve_rows * layout.dtype.itemsize
        self._rows = Reserved(self.path / "rows", reserve, writable=True)
        self.words: Words = self._rows.words
        self.layout = layout.at(self.identity.origin_words)
        self._table = int(self.words[TABLE])
        self._names = Reserved(self.path / f"names.{self._table:016x}", self._limits.reserve_name_bytes, writable=True)
        self.names = self._names.words.view(np.uint8)


def _locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StoreLocked(
            "another process writes this table", where=str(path.parent), do="Stop the other one first"
        ) from None
    return file
