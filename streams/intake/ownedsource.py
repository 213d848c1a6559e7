"""One owned source partition: the identities of its accepted events in memory, and what its store has not been told
yet."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec

from forebay.clock import HOUR_MS
from forebay.errors import StoreCorrupt, StoreMissing, TopicMismatch
from forebay.store.census import Census
from forebay.store.sourcestore import RESTORE, SourceMeta, SourceStore
from forebay.streams.intake.duplicates import HourSets


class OwnedSource:
    """In step with `meta.offset` once `advance` has returned. One thread at a time."""

    def __init__(self, store: SourceStore, meta: SourceMeta) -> None:
        self.store, self.meta, self.sets = store, meta, HourSets()
        self.sets.since = meta.since
        self._stored = meta.offset
        self._blobs: Counter[int] = Counter()  # kept, by hour

    @classmethod
    def open(cls, path: Path, fresh: SourceMeta, *, create: bool) -> OwnedSource:
        """Open, or with `create` make, the store at `path`. `fresh` is what an empty one starts from.

        Raises StoreLocked, StoreCorrupt, StoreMissing (nothing was ever written, and `create` is false), TopicMismatch
        (the topic is another one than the identities are of).
        """
        store = SourceStore.open(path, create=create)
        try:
            meta = store.meta()
            if meta is None and not create:
                raise StoreMissing("the store was never written to", where=str(path), do="Let an empty one be made")
            if meta is None:
                meta = store.write(fresh)  # at once: where it began must be known after a crash
            if meta.topic_id != fresh.topic_id:
                raise TopicMismatch(
                    f"topic {meta.topic} was deleted and created again: its offsets are of other records",
                    where=str(path),
                    do="Delete this directory: duplicates of what came before are then not known",
                )
            owned = cls(store, meta)
            owned._load()
            return owned
        except BaseException:
            store.close()
            raise

    def took(self, offset: int, newest_append: int, *, claims: bool = True) -> None:
        """All records below `offset` are accepted or refused, the newest of them appended at `newest_append` (ms).

        Without `claims` that is a producer's word for when it was, and nothing is claimed by it.
        """
        newest = max(newest_append, self.meta.newest_append)
        self.meta = msgspec.structs.replace(self.meta, newest_append=newest)
        self.advance(offset, newest if claims else 0)

    def advance(self, offset: int, as_of: int) -> None:
        """All records below `offset` are accepted or refused, and with them all that the source took before `as_of`
        (ms; 0 claims nothing new)."""
        self.meta = msgspec.structs.replace(self.meta, offset=offset, as_of=max(as_of, self.meta.as_of))

    def flush(self, keep_ms: int) -> None:
        """Write behind: what was accepted since the last flush and the offset, in one batch.

        Called only between a commit and the next `accept`, so that the store never leads the group. Identities whose
        hour ended `keep_ms` before the newest append time are forgotten: their duplicates are late by then. (Not before
        `as_of`, which this machine's clock may have moved.)
        """
        self.sets.forget(self.meta.newest_append - keep_ms)
        gone = [hour for hour in self._blobs if (hour + 1) * HOUR_MS <= self.sets.since]
        blobs = self.sets.taken()
        meta = msgspec.structs.replace(self.meta, since=self.sets.since)
        self.meta = self.store.write(meta, blobs, forget=gone, forgotten=sum(self._blobs[hour] for hour in gone))
        self._stored = self.meta.offset
        for hour in gone:
            del self._blobs[hour]
        self._blobs.update(hour for hour, _ in blobs)

    def move(self, path: Path) -> None:
        """Give the store the folder `path`, which must not exist. Raises StoreError and OSError: close this one then. A
        crash leaves a whole store at one of the two."""
        at = self.store.path
        self.store.close()
        os.rename(at, path)
        self.store = SourceStore.open(path, create=False)

    def snapshot(self, folder: Path) -> SourceMeta:
        """Make `folder`, which must not exist, a copy of the store, and return what that is of: memory may be ahead of
        it."""
        self.store.snapshot(folder)
        return self.store.meta() or self.meta  # opening wrote one

    def close(self) -> None:
        """Let go of the store without writing: what was not flushed is in the log."""
        self.store.close()

    def census(self) -> Census:
        """How many identities are known."""
        return Census(stored=self._stored, held={"identities": len(self.sets)}, memory={"identities": self.sets.nbytes})

    def _load(self) -> None:
        blobs = list(self.store.blobs())
        self._blobs.update(hour for hour, _ in blobs)
        try:
            self.sets.load(blobs)
        except ValueError as error:
            raise StoreCorrupt(str(error), where=str(self.store.path), do=RESTORE) from None
        if len(blobs) != self.meta.blobs:
            raise StoreCorrupt(
                f"{len(blobs)} pieces of identities are here, and {self.meta.blobs} were written",
                where=str(self.store.path),
                do=RESTORE,
            )
