"""One RocksDB directory behind the few calls that are safe: raw bytes, bounded memory, one batch per write.

rocksdict's defaults are traps that this file exists to close (each was measured, and tests/store/test_rocks.py holds
them): values are pickled, a given block cache is ignored when an existing database is opened, `items()` ends silently
at a corrupt block, a write that raised may still be found after the next open, and a forked child's writes vanish.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rocksdict import BlockBasedOptions, Cache, Checkpoint, Options, Rdict, RdictIter, WriteBatch, WriteBufferManager

from forebay.errors import StoreCorrupt, StoreError, StoreLocked, StoreMissing

R = TypeVar("R")

CACHE_BYTES = 32 << 20  # per open directory: blocks and memtables together, so that twenty partitions stay under 1 GiB
MEMTABLE_BYTES = 16 << 20
_LOCKED = ("lock hold by current process", "While lock file")
_FULL = ("No space left on device", "Disk quota exceeded", "Space limit reached")
MAKE_ROOM = "Make room on that disk and start again: nothing acknowledged is lost"
RESTORE = "Put a copy of the directory in its place, or build what it held anew"


class Rocks:
    """A raw-mode RocksDB directory with one writer. Keys are bytes; the owner of a room's store chooses their prefixes.

    A process that is killed leaves whole batches: all acknowledged ones, perhaps one more. A *machine* that loses power
    may lose the newest ones, which is why offsets lie in the same batch as what they account for.
    """

    def __init__(self, path: Path, *, create: bool, restore: str = RESTORE) -> None:
        """Open `path`; with `create`, make it when there is nothing. `restore` is what its owner can do about damage.

        Raises StoreLocked when another process (or another object of this one) has it open, StoreCorrupt when its files
        do not fit together, StoreMissing when there is no store and `create` is false, StoreError when the disk is
        full.
        """
        self.path, self._restore = path, restore
        if not create and not (path / "CURRENT").exists() and not any(path.glob("MANIFEST-*")):
            raise StoreMissing(
                "there is no store", where=str(path), do="Is this the right folder? Else bring a copy of it"
            )
        if create:
            path.mkdir(parents=True, exist_ok=True)
        options, self._cache = _options(create)
        self._raised = False
        self._pid = os.getpid()
        self._scans: weakref.WeakSet[Scan | WholeScan] = weakref.WeakSet()
        # close() of rocksdict raises while another thread is inside a call: every call and close() take turns.
        self._turn = threading.RLock()
        try:
            # An existing database takes its stored options unless the column family is named: the cache would be 8 MiB.
            self._db: Rdict | None = Rdict(str(path), options, column_families={"default": options})
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
            raise self._named(error) from None
        capacity = self._db.property_int_value("rocksdb.block-cache-capacity")
        if capacity != CACHE_BYTES:
            self.close()
            raise StoreError(f"the block cache has {capacity} bytes, not {CACHE_BYTES}", where=str(path))

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, None where there is none, in one multi-get. Raises StoreCorrupt on a damaged block."""
        return list(self._read(lambda db: db.get(list(keys))) or ())

    def write(self, batch: WriteBatch) -> None:
        """Apply `batch`, all or nothing. The GIL is held meanwhile: about 1.4 ms per 1,000 rows of 1 KiB.

        A write that raises is *unknown*, not failed: the batch may be there after the next open. This object then
        refuses every further call but `close`. The owner closes, reopens, reads its offset and resumes from there.
        """
        with self._turn:
            db = self._usable()
            try:
                db.write(batch)
            except Exception as error:  # noqa: BLE001
                self._raised = True
                do = (
                    "Close and reopen the store (start the process again) and go on from the offset in it; "
                    "never retry the write"
                )
                raise StoreError(
                    f"a write raised: {error}", where=str(self.path), do=MAKE_ROOM if _is_full(str(error)) else do
                ) from None

    def scan(self, prefix: bytes) -> Scan:
        """Keys (without `prefix`) and values of all keys that start with `prefix`, in key order."""
        iterator: RdictIter = self._read(lambda db: db.iter())
        scan = Scan(self, iterator, prefix)
        self._scans.add(scan)
        return scan

    def scan_all(self, prefix: bytes) -> WholeScan:
        """As `scan`, for a pass over very many keys: in a third of the time for each."""
        scan = WholeScan(self, prefix)
        self._scans.add(scan)
        return scan

    def sequence(self) -> int:
        """The number of the last write. Each key written counts one; opening the store changes nothing of it."""
        return self._read(lambda db: db.latest_sequence_number())

    def about(self) -> int:
        """How many keys there are, about: those that were written over or deleted may still be counted."""
        return self._read(lambda db: db.property_int_value("rocksdb.estimate-num-keys")) or 0

    def snapshot(self, folder: Path) -> None:
        """Make `folder`, which must not exist, a copy of the store as it is now: sorted files are linked, so that it
        takes milliseconds and no room where both are on one disk. What is in memory is written to a sorted file
        first."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The object keeps the database open, and its lock taken: it must not outlive the call.
        self._read(lambda db: Checkpoint(db).create_checkpoint(str(folder)))

    def close(self) -> None:
        """Release the directory. Open scans end first: one that lives on would keep the lock. Closing twice is fine."""
        with self._turn:
            for scan in list(self._scans):
                scan.close()
            if self._db is not None:
                db, self._db = self._db, None
                try:
                    db.close()
                except Exception as error:  # noqa: BLE001
                    # After a failed write, closing flushes again and raises the same error; the lock is free all the
                    # same.
                    if not self._raised:
                        raise self._named(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, call: Callable[[Rdict], R]) -> R:
        with self._turn:
            db = self._usable()
            try:
                return call(db)
            except Exception as error:  # noqa: BLE001
                raise self._named(error) from None

    def _named(self, error: Exception) -> StoreError:
        """rocksdict raises plain Exceptions: RocksDB's own words are what tells them apart."""
        text, where = str(error), str(self.path)
        if any(words in text for words in _LOCKED):
            return StoreLocked(
                "another process or object has the store open",
                where=where,
                do="Stop that one first, or give this one a folder of its own",
            )
        if _is_full(text):
            return StoreError(text, where=where, do=MAKE_ROOM)
        if text.startswith("Corruption") or "No such file" in text or "does not exist" in text:
            return StoreCorrupt(text, where=where, do=self._restore)
        return StoreError(text, where=where)

    def _usable(self) -> Rdict:
        if self._db is None:
            raise StoreError("the store is closed", where=str(self.path))
        if self._raised:
            raise StoreError("an earlier write raised", where=str(self.path), do="Close and reopen the store")
        if os.getpid() != self._pid:
            raise StoreError(
                "opened before a fork", where=str(self.path), do="Open the store in the child, or spawn it"
            )
        return self._db


class Scan(Iterator[tuple[bytes, bytes]]):
    """One pass over a prefix as of when it was opened. A damaged block raises StoreCorrupt; it never just ends."""

    def __init__(self, store: Rocks, iterator: RdictIter, prefix: bytes) -> None:
        self._store, self._prefix = store, prefix
        self._iterator: RdictIter | None = iterator
        iterator.seek(prefix)

    def __next__(self) -> tuple[bytes, bytes]:
        with self._store._turn:
            it = self._iterator
            if it is None:
                raise StoreError("the store was closed during a scan", where=str(self._store.path))
            try:
                if not it.valid():
                    it.status()  # raises where valid() alone would have ended the pass early
                    raise StopIteration
                key: bytes = it.key()
                if not key.startswith(self._prefix):
                    raise StopIteration
                value: bytes = it.value()
                it.next()
            except StopIteration:
                raise
            except Exception as error:  # noqa: BLE001
                raise self._store._named(error) from None
            return key[len(self._prefix) :], value

    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        """The next `most` keys and values, fewer at the end: in half the time of one after the other."""
        with self._store._turn:
            if (it := self._iterator) is None:
                raise StoreError("the store was closed during a scan", where=str(self._store.path))
            found: list[tuple[bytes, bytes]] = []
            prefix, cut = self._prefix, len(self._prefix)
            valid, key, value, go_on = it.valid, it.key, it.value, it.next
            try:
                while len(found) < most and valid():
                    if not (name := key()).startswith(prefix):
                        return found
                    found.append((name[cut:], value()))
                    go_on()
                if len(found) < most:
                    it.status()  # raises where valid() alone would have ended the pass early
            except Exception as error:  # noqa: BLE001
                raise self._store._named(error) from None
            return found

    def close(self) -> None:
        """Drop RocksDB's iterator, and with it the files and the lock that it keeps."""
        self._iterator = None


class WholeScan:
    """One pass over a prefix, many keys at a time. A damaged block raises StoreCorrupt; it never just ends.

    RocksDB's items come in one call each, and end silently at a damaged block. So where they end, an iterator that
    tells such an end apart looks behind the last key: it raises, or finds more, or that there is nothing.
    """

    def __init__(self, store: Rocks, prefix: bytes) -> None:
        self._store, self._prefix = store, prefix
        self._last = b""
        self._items: Any = store._read(lambda db: db.items(from_key=prefix))

    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        """The next `most` keys, prefix and all, and values; none at the end, and fewer before it."""
        return self._store._read(lambda db: self._taken(db, most))

    def close(self) -> None:
        """Drop RocksDB's iterator, and with it the files and the lock that it keeps."""
        self._items = None

    def _taken(self, db: Rdict, most: int) -> list[tuple[bytes, bytes]]:
        if self._items is None:
            raise StoreError("the store was closed during a scan", where=str(self._store.path))
        found = list(islice(self._items, most))
        if not found and (further := self._behind(db)):
            self._items = db.items(from_key=further)
            found = list(islice(self._items, most))
        if found:
            self._last = found[-1][0]
        if found and not self._last.startswith(self._prefix):
            found = [pair for pair in found if pair[0].startswith(self._prefix)]
        return found

    def _behind(self, db: Rdict) -> bytes:
        """The next key of the prefix; b"" where there is none. Raises on a damaged block."""
        if self._last and not self._last.startswith(self._prefix):
            return b""
        it: RdictIter = db.iter()
        it.seek(self._last or self._prefix)
        if it.valid() and it.key() == self._last:
            it.next()
        if not it.valid():
            it.status()
            return b""
        key: bytes = it.key()
        return key if key.startswith(self._prefix) else b""


def discard(path: Path) -> bool:
    """Remove the store at `path`, unless another process or object has it open; returns whether it is gone.

    Its name is free at once; a crash leaves the rest of it under a name that starts with `.gone-`.
    """
    try:
        store = Rocks(path, create=False)
    except StoreMissing:
        return True
    except StoreLocked:
        return False
    except StoreError:  # damaged: nobody can have it open
        store = None
    gone = path.with_name(f".gone-{os.getpid()}-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(path, gone)  # while its lock is held: nobody opens it in between
    if store is not None:
        with contextlib.suppress(StoreError):  # closing writes into a folder that has gone
            store.close()
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _options(create: bool) -> tuple[Options, Cache]:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    cache = Cache(CACHE_BYTES)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    # Memtables are charged to the cache; without a stall a full one is flushed early instead of stopping the writer.
    options.set_write_buffer_manager(
        WriteBufferManager.new_write_buffer_manager_with_cache(MEMTABLE_BYTES, False, cache)
    )
    options.set_keep_log_file_num(5)
    return options, cache


def _is_full(text: str) -> bool:
    return any(words in text for words in _FULL)
