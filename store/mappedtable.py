"""A shared table as readers have it mapped: its words, its names and the index of its hashes, and what its writer says
of itself. Nothing of a row is read here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forebay.arrays import Ints
from forebay.errors import GenerationMismatch, StoreError
from forebay.store import rowkernels
from forebay.store.reserved import Reserved, Words
from forebay.store.rowlayout import Layout
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import (
    CAPACITY,
    EPOCH,
    LIVE,
    MARKS,
    RETIRED,
    STANDING,
    TABLE,
    TOP,
    Identity,
    boot_id,
)

EPOCH_TRIES = 100


class MappedTable:
    """Made once by each process that reads; the writer's process may end, and what is mapped stays."""

    def __init__(self, path: Path, identity: Identity, limits: TableLimits = TableLimits()) -> None:
        """Map the table in the folder `path`. Raises StoreError when there is none since the machine was started, and
        GenerationMismatch when it holds other rows."""
        self.path, self.identity = path, identity
        self._check()
        layout = identity.layout
        reserve = identity.origin_words * 8 + limits.reserve_rows * layout.dtype.itemsize
        rows = Reserved(path / "rows", reserve, writable=False)
        self._words: Words = rows.words
        rows.close()
        self._layout = layout.at(identity.origin_words)
        self._table = int(self._words[TABLE])
        names = Reserved(path / f"names.{self._table:016x}", limits.reserve_name_bytes, writable=False)
        self._names = names.words.view(np.uint8)
        names.close()
        self._epoch, self._cells = self._index()

    def __len__(self) -> int:
        """Entities in the table."""
        return int(rowkernels.word_of(self._words, LIVE))

    @property
    def capacity(self) -> int:
        """Rows allocated; every row number is below it."""
        return int(rowkernels.word_of(self._words, CAPACITY))

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
        return int(rowkernels.word_of(self._words, TOP))

    @property
    def number(self) -> int:
        """Of this table, among all that were made in its folder."""
        return self._table

    @property
    def retired(self) -> bool:
        """Whether the writer has made another table in this one's place: it is to be opened anew."""
        return bool(rowkernels.word_of(self._words, RETIRED))

    @property
    def standing(self) -> int:
        """What the writer said of itself; 0 before it did."""
        return int(rowkernels.word_of(self._words, STANDING))

    @property
    def watermarks(self) -> Ints:
        """int64 [partitions], ms."""
        marks = np.empty(self.identity.partitions, np.int64)
        rowkernels.marks_of(self._words, MARKS, marks)
        return marks

    def _index(self) -> tuple[int, Words]:
        """The epoch of the index now, and its cells."""
        for _ in range(EPOCH_TRIES):
            epoch = int(rowkernels.word_of(self._words, EPOCH))
            path = self.path / f"cells.{self._table:016x}.{epoch}"
            try:
                file = Reserved(path, path.stat().st_size, writable=False)
            except FileNotFoundError:  # another one came in between
                continue
            cells = file.words
            file.close()
            self._epoch, self._cells = epoch, cells
            return epoch, cells
        raise StoreError("the index is not there", where=str(self.path), do="Start the replica of this node")

    def _check(self) -> None:
        try:
            with (self.path / "rows").open("rb") as file:
                head = file.read(self.identity.origin_words * 8)
        except FileNotFoundError:
            said = "there is no table"
        else:
            words = np.frombuffer(head[: len(head) // 8 * 8], np.uint64)
            said = self.identity.mismatch(words, boot_id())
        if said.startswith("it holds"):
            raise GenerationMismatch(said, where=str(self.path), do="Give each generation a folder of its own")
        if said:
            raise StoreError(said, where=str(self.path), do="Start the replica of this node first")
