"""Between the rows of a partition in memory and its store: what is read when it is touched, and what is written later.

An OwnedPartition reads rows when they come into memory, and writes in `flush`, between a commit and the next fold, so
that the store never leads the group. A crash between two flushes leaves the store whole at the offset of the first; the
log has what came after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from forebay.arrays import Ints
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import NEWEST, UPDATED, Layout
from forebay.store.codec import RowCodec
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow
from forebay.store.residentrows import ResidentRows
from forebay.store.rowpacking import packed_rows
from forebay.store.storedrows import unpack

T = TypeVar("T")
CHUNK = 4096  # rows of a scan that are in memory at once


class WriteBehind:
    """`store`, and what it has not been told yet of `here`. `stored` is the offset that it accounts for. One thread at
    a time."""

    def __init__(self, store: PartitionStore, here: ResidentRows, layout: Layout, codec: RowCodec, stored: int) -> None:
        self.store, self.stored = store, stored
        self._here, self._layout, self._codec = here, layout, codec
        self._deleted: set[bytes] = set()
        self._no_marks: list[tuple[int, bytes]] = []  # of idle entities in the store, to be taken away

    # -- reading

    def read(self, rows: Ints, names: Sequence[bytes]) -> None:
        """Put what the store has of `names` into their new `rows`; where it has nothing they stay as they are."""
        self._load(rows, self._stored_of(names))

    def read_all(self) -> Iterator[None]:
        """Bring in every row of the store, some thousands between two yields: the caller may let rows leave there."""
        for found in self.store.scan_by(CHUNK):
            rows, _ = self._here.claim(Ids.of_bytes([name for name, _ in found]))
            self._load(rows, [row for _, row in found])
            yield

    def came_back(self, rows: Ints, names: Sequence[bytes]) -> None:
        """Entities have rows that may have been deleted: the store may still say of the old ones that they wait."""
        if self._deleted:
            self._here.marked[rows] = [name in self._deleted for name in names]
            self._deleted.difference_update(names)

    # -- retiring

    def delete(self, names: Sequence[bytes]) -> None:
        """With the next flush they are not in the store any more."""
        self._deleted.update(names)

    def retired(self, before_ms: int) -> list[bytes]:
        """Delete the entities that are not in memory and had their last event before `before_ms`; returns their ids."""
        gone = []
        for marks in _chunks(self.store.idle(before_ms)):
            names = [name for _, name in marks]
            away = self._here.index.find(Ids.of_bytes(names)) < 0
            for (newest, name), is_away, stored in zip(marks, away, self._stored_of(names), strict=True):
                self._no_marks.append((newest, name))
                if is_away and stored is not None and self._newest(stored) == newest:
                    gone.append(name)
        self.delete(gone)
        return gone

    # -- writing

    def flush(self, meta: PartitionMeta) -> None:
        """Everything that changed since the last flush, and `meta`, in one batch."""
        here = self._here
        rows = here.changed.nonzero()[0]
        waits, names = here.waits.masks[rows], here.index.names(rows)
        self.store.write(
            packed=list(zip(names, packed_rows(here.states, here.vectors, rows), strict=True)),
            deletes=sorted(self._deleted),
            pending=[(name, mask) for name, mask in zip(names, waits.tolist(), strict=True) if mask],
            settled=here.index.names(rows[here.marked[rows] & (waits == 0)]),
            busy=self._no_marks,
            meta=meta,
        )
        self.stored = meta.offset
        here.marked[rows] = waits != 0
        here.changed[:] = False
        self._deleted.clear()
        self._no_marks = []

    def mark_idle(self, names: Sequence[bytes], newest: Ints, meta: PartitionMeta) -> None:
        """`names` have left memory, and had their last event at `newest` (ms), int64 [n]: so they are found when they
        retire."""
        marks = [(ms, name) for ms, name in zip(newest.tolist(), names, strict=True) if ms > 0]
        self.store.write(meta=meta, idle=marks)

    def move(self, path: Path) -> None:
        """As OwnedPartition.move."""
        at = self.store.path
        self.store.close()
        os.rename(at, path)
        self.store = PartitionStore.open(path, create=False)

    def _load(self, rows: Ints, found: Sequence[StoredRow | None]) -> None:
        here = [n for n, stored in enumerate(found) if stored is not None]
        if not here:
            return
        kept = unpack([stored for stored in found if stored is not None], self._layout.width, self._codec)
        at = rows[here]
        self._here.states[at] = kept.states
        current = at[kept.current]
        self._here.vectors[current], self._here.waits.masks[current] = kept.vectors, 0

    def _stored_of(self, names: Sequence[bytes]) -> list[StoredRow | None]:
        """What the store has of entities, without those that were deleted since it was written to."""
        found = self.store.get(names)
        if not self._deleted:
            return found
        return [None if name in self._deleted else row for name, row in zip(names, found, strict=True)]

    def _newest(self, stored: StoredRow) -> int:
        row = self._layout.unpack(stored.state)
        return int(max(row[NEWEST], row[UPDATED]))


def _chunks(found: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(found)
    while part := list(islice(rest, CHUNK)):
        yield part
