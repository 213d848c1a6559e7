"""What the Intake knows of one source partition: how far it has come, and which events it has accepted.

Two kinds of key in one column family, told apart by the first byte:

    d<hour 8><offset 8>   identities of accepted events whose time is in that hour (big-endian: hours first, so that
                          forgetting the old ones is one range delete); the offset is the one that the write accounts
                          for, and makes the key its own
    m                     SourceMeta, as JSON
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rocksdict import WriteBatch

from forebay.errors import StoreCorrupt
from forebay.store.onrocks import OnRocks
from forebay.store.rocks import Rocks

_BLOB, _META = b"d", b"m"
RESTORE = (
    "Where there is a checkpoint of it (forebay checkpoints list), delete this directory and start again. Else put an "
    "earlier copy in its place: what came since is read again. Without one, delete it: what the source still keeps is "
    "read again, and duplicates of what it does not keep can count twice"
)


class SourceMeta(msgspec.Struct, frozen=True):
    """What the identities were accepted from. It lies in the same write as those that it accounts for.

    `topic_id` tells a topic that was made anew.
    """

    topic: str
    partition: int
    topic_id: str
    offset: int  # the next record to read
    newest_append: int = 0  # ms: the newest append time accepted or refused
    as_of: int = 0  # ms: all that the source took before it is accepted or refused
    since: int = 0  # ms: identities of earlier events were forgotten
    blobs: int = 0  # kept in all: fewer on reading are a loss


class SourceStore(OnRocks):
    """The identities of one source partition. One process at a time: the directory's lock keeps a second one out.

    Written every few batches, after the commit that covers them: it may lag the consumer group, never lead it. What
    lies between is read again, and not told again.
    """

    @classmethod
    def open(cls, path: Path, *, create: bool) -> SourceStore:
        """Open the store at `path`. Raises StoreLocked, StoreCorrupt, or StoreMissing if absent and not `create`."""
        return cls(Rocks(path, create=create, restore=RESTORE))

    def meta(self) -> SourceMeta | None:
        """How far the source has come; None in a store that has never been written to."""
        (data,) = self._rocks.get([_META])
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=SourceMeta)
        except msgspec.MsgspecError as error:
            raise StoreCorrupt(f"unreadable meta: {error}", where=str(self.path), do=RESTORE) from None

    def write(
        self,
        meta: SourceMeta,
        blobs: Sequence[tuple[int, bytes]] = (),
        *,
        forget: Sequence[int] = (),
        forgotten: int = 0,
    ) -> SourceMeta:
        """One batch: identities by hour, and `meta`, whose `blobs` is counted here; returns it as it was written.

        `meta.offset` is past that of the write before, where there are blobs. The hours in `forget` go, with so many
        blobs as `forgotten` says. Whole or absent after a crash. If this raises, the store is unusable: close it,
        reopen it, and resume from `meta().offset`.
        """
        batch = WriteBatch(raw_mode=True)
        for hour in forget:
            batch.delete_range(_BLOB + hour.to_bytes(8, "big"), _BLOB + (hour + 1).to_bytes(8, "big"))
        for hour, blob in blobs:
            batch.put(_BLOB + hour.to_bytes(8, "big") + meta.offset.to_bytes(8, "big"), blob)
        meta = msgspec.structs.replace(meta, blobs=meta.blobs + len(blobs) - forgotten)
        batch.put(_META, msgspec.json.encode(meta))
        self._rocks.write(batch)
        return meta

    def blobs(self) -> Iterator[tuple[int, bytes]]:
        """Hour and identities of each blob, oldest hour first."""
        return ((int.from_bytes(key[:8], "big"), value) for key, value in self._rocks.scan(_BLOB))
