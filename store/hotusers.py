"""The users whose rows are in memory where not all are: which ones, and how the row of another one is read.

A row in the table is never older than the store's. The writer writes the store first and the table after it; whoever
brings a row from the store into the table does so only if nothing of its stamp was written since before it read the
store. Otherwise the row that it read is still good for its own answer, which began before that write was over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec
import numpy as np
from xxhash import xxh3_64_digest

from forebay import files
from forebay.arrays import Ints
from forebay.segments.state.ids import hash_ids
from forebay.store.hotset import HotSet
from forebay.store.vectors import Part, VectorStore

log = logging.getLogger("forebay.copy")

_STAMPS = 1 << 14  # of hashes: two that share one only keep each other out for a moment
_SAVED_ROWS = 8192  # looked up at a time, so that nobody waits long for the table
_DIGEST_BYTES = 8


class Rows(Protocol):
    """The table that the rows lie in: a SegmentTable, or a SharedTable."""

    def named(self, hashes: Ints) -> list[str]: ...

    def delete(self, ids: Sequence[str]) -> Ints: ...

    def warm(self) -> None: ...


class _Saved(msgspec.Struct):
    ids: list[str]
    counts: bytes  # one for each


class HotUsers:
    """At most `capacity` users in `table`, the rest in `store`. From any thread; one of them writes."""

    def __init__(self, table: Rows, store: VectorStore, capacity: int) -> None:
        self.capacity, self._table, self._store = capacity, table, store
        self._hot = HotSet(capacity)
        self._change = threading.Lock()  # the set and the table with it
        self._asking = threading.Lock()  # the counts
        self._stamps = np.zeros(_STAMPS, np.int64)
        self._path = store.path.with_name(f"{store.path.name}.hot")

    def __len__(self) -> int:
        """Users in memory."""
        return len(self._hot)

    def warm(self) -> None:
        """Compile what `fetch` runs, so that nobody who asks waits for it."""
        self._hot.warm()
        self._table.warm()

    def count(self, hashes: Ints) -> None:
        """Users of these hashes were asked for."""
        with self._asking:
            self._hot.count(hashes)

    @contextmanager
    def changing(self, ids: Sequence[str]) -> Iterator[Ints]:
        """For the writer, around its change of the table and after that of the store: places int64 in `ids` of those
        that are in memory, or come in because there is room."""
        hashes = hash_ids(ids)
        with self._change:
            self._stamps[hashes % _STAMPS] += 1
            held = self._hot.holds(hashes)
            new = np.flatnonzero(~held)[: self.capacity - len(self._hot)]
            self._hot.offer(hashes[new])
            held[new] = True
            yield np.flatnonzero(held)

    def hide(self, ids: Sequence[str]) -> None:
        """The writer deleted them in the store: nobody sees them any more."""
        hashes = hash_ids(ids)
        with self._change:
            self._stamps[hashes % _STAMPS] += 1
            self._hot.remove(hashes)
            self._table.delete(ids)

    def fetch(self, user: str, show: Callable[[Part], None]) -> Part | None:
        """The user's row from the store, None where it has none. It may come into memory by it: `show` puts it into the
        table. Reads the disk, perhaps."""
        key = hash_ids([user])
        stamp = int(self._stamps[key[0] % _STAMPS])
        part, lost = self._store.rows("user", [user])
        if lost:
            return None
        if self._change.acquire(blocking=False):  # the writer may have it for milliseconds: another time, then
            try:
                if self._stamps[key[0] % _STAMPS] == stamp and not self._hot.holds(key)[0]:
                    with self._asking:
                        gone = self._hot.offer(key)
                    if len(gone):
                        self._table.delete(self._table.named(gone))
                    if self._hot.holds(key)[0]:
                        show(part)
            finally:
                self._change.release()
        return part

    # -- over a restart

    def save(self) -> None:
        """Write down who is in memory, and how often each was asked for: all of it or nothing."""
        with self._change:
            keys = self._hot.keys()
        keys = keys[np.argsort(-self._hot.counts(keys).astype(np.int64), kind="stable")]
        names: list[str] = []
        for first in range(0, len(keys), _SAVED_ROWS):
            names += self._table.named(keys[first : first + _SAVED_ROWS])
        saved = _Saved(names, self._hot.counts(hash_ids(names)).tobytes() if names else b"")
        data = msgspec.msgpack.encode(saved)
        files.write(self._path, xxh3_64_digest(data) + data)

    def parts(self, count: int) -> Iterator[Part]:
        """Rows for an empty table, so many at once: those that were in memory, and while there is room all others."""
        saved = self.saved()
        ids = list(saved)
        for first in range(0, len(ids), count):
            yield self._store.rows("user", ids[first : first + count])[0]
        for part in self._store.scan_by("user", count):
            if len(self._hot) >= self.capacity:
                return
            yield part

    def adopt(self, ids: Sequence[str]) -> list[str]:
        """The table has these users, from before; returns those that there is no room for any more."""
        saved = self.saved()
        ids = sorted(ids, key=lambda entity: -saved.get(entity, 0))
        if ids:
            self._hot.offer(hash_ids(ids[: self.capacity]))
        return ids[self.capacity :]

    def saved(self) -> dict[str, int]:
        """How often each user was asked for, those that most were first; all of it is counted here once more. A file
        that is not what was written is told of, and nobody was asked for."""
        try:
            data = self._path.read_bytes()
            if xxh3_64_digest(data[_DIGEST_BYTES:]) != data[:_DIGEST_BYTES]:
                raise ValueError("its checksum is another one")
            found = msgspec.msgpack.decode(data[_DIGEST_BYTES:], type=_Saved)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("%s is left: %s. The users in memory are chosen anew", self._path, error)
            return {}
        counts = np.frombuffer(found.counts, np.uint8)
        if found.ids:
            self.count(np.repeat(hash_ids(found.ids), counts))
        return dict(zip(found.ids, counts.tolist(), strict=False))
