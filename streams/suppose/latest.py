"""One partition's state as its clean log has it now, out of a Checkpoint and what the log has after it.

It is a copy in a folder of its own. Nothing is committed, told or given away, and no worker notices.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer

from forebay.arrays import Ints
from forebay.errors import (
    BlockError,
    BlockTooNew,
    BrokerUnavailable,
    CheckpointError,
    LogGap,
    StoreMissing,
    TopicMismatch,
)
from forebay.segments.bundle import Bundle
from forebay.segments.spec import Side
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids
from forebay.store.checkpoints import Checkpoint, Checkpoints
from forebay.store.codec import codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta
from forebay.streams.clients import asking_consumer, log_consumer
from forebay.streams.cluster import Address
from forebay.streams.logrecords import at, block_in, records
from forebay.streams.offsets import bounds
from forebay.streams.topics import TopicInfo

MEMORY_BYTES = 512 << 20  # of rows that a partition with windows is read into
log = logging.getLogger("forebay.suppose")


class LatestState:
    """One partition of one side of a generation. One thread."""

    def __init__(
        self,
        bundle: Bundle,
        side: Side,
        generation: str,
        partition: int,
        *,
        log_info: TopicInfo,
        bootstrap: Address,
        checkpoints: Checkpoints,
        folder: Path,
    ) -> None:
        """Fetches the newest Checkpoint that the log goes on from into `folder`, which must not exist.

        Raises StoreMissing, CheckpointError, TopicMismatch, LogGap, BrokerUnavailable: then no folder is left.
        """
        self._bootstrap, self._topic, self._partition = bootstrap, log_info.name, partition
        self._coder, fold, codec = BlockCoder(bundle.spec, side), Fold(bundle.layouts[side]), codec_of(bundle, side)
        self._layout, self._folder, self.events = bundle.layouts[side], folder, 0
        self.checkpoint = _newest(checkpoints, f"{generation}/{side}-{partition}", log_info, self._bounds()[0])
        checkpoints.fetch(self.checkpoint, folder)
        try:
            meta = PartitionMeta(
                log_info.name, partition, log_info.topic_id, log_info.partitions, self._layout.digest, 0
            )
            retire = bundle.spec.events.retire_users_after_ms if side == "user" else 0
            # Vectors are not read: rows without any will do.
            self._owned = OwnedPartition.open(
                folder, fold, codec, codec.empty(1), meta, create=False, retire_after_ms=retire,
                most_rows=MEMORY_BYTES // (self._layout.width * 8),
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def follow(self, until: float) -> int:
        """Fold what the log has by now; returns how many events came since the Checkpoint in all.

        Raises LogGap, and BrokerUnavailable when the log's end is not reached before `until` (monotonic s). Whatever is
        raised, discard this one.
        """
        end, owned = self._bounds()[1], self._owned
        where = f"{self._topic}[{self._partition}]"
        gap = LogGap("records that were to be read next have left the log", where=where, do="Ask again")
        consumer, stop = Consumer(log_consumer(self._bootstrap)), threading.Event()
        timer = threading.Timer(max(0.0, until - time.monotonic()), stop.set)
        timer.start()
        try:
            for message in records(consumer, self._topic, self._partition, owned.meta.offset, end, gap, stop):
                try:
                    block = block_in(message, "Upgrade what runs forebay serve")
                except BlockTooNew:
                    raise
                except BlockError as error:  # as a worker does
                    log.warning("%s is no block and is stepped over: %s", at(message), error)
                    continue
                for stretch in self._coder.stretches(block):
                    owned.fold(stretch)
                self.events += len(block)
                owned.advance(message.offset() + 1, 0)
        finally:
            timer.cancel()
            consumer.close()
        if stop.is_set():
            raise BrokerUnavailable(
                f"the log was read up to offset {owned.meta.offset} of {end} in the time there was", where=where,
                do="Ask again: a newer checkpoint is nearer to the log's end",
            )  # fmt: skip
        owned.advance(max(owned.meta.offset, end), 0)  # the last offsets may be a transaction's own marks
        return self.events

    @property
    def clock(self) -> int:
        """The newest tick (ms)."""
        return self._owned.meta.clock

    def row(self, entity: str) -> Ints:
        """A copy of its state int64 [width]; zeros where nothing is known of it."""
        owned = self._owned
        found: Ints = owned.rows[owned.rows_of(Ids.of([entity]))[0]].copy()
        return found

    def discard(self) -> None:
        """Close and remove it."""
        with contextlib.suppress(Exception):  # what cannot be closed ends with the process
            self._owned.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _bounds(self) -> tuple[int, int]:
        consumer = Consumer(asking_consumer(self._bootstrap, committed=True))
        try:
            return bounds(consumer, self._topic, self._partition, patience_s=5.0)
        finally:
            consumer.close()


def _newest(checkpoints: Checkpoints, of: str, info: TopicInfo, first: int) -> Checkpoint:
    """The newest Checkpoint of a store from which the log goes on; `first` is the log's first offset."""
    refused: CheckpointError | None = None
    for name in checkpoints.names(of):
        try:
            one = checkpoints.load(of, name)
        except CheckpointError as error:
            refused = refused or error
            continue
        if one.topic_id != info.topic_id:
            raise TopicMismatch(
                f"topic {info.name} was made anew since", where=of, do="Build the generation from history"
            )
        if one.offset < first:
            raise LogGap(
                f"the newest checkpoint of {of} ends at offset {one.offset}, and the log begins at {first}",
                where=info.name, do="Let a worker make a newer one",
            )  # fmt: skip
        return one
    if refused is not None:
        raise refused
    raise StoreMissing(
        f"there is no checkpoint of {of} at {checkpoints.url}",
        do="Name in the setting `checkpoints` where the workers keep them, on this machine or at a URL that both reach",
    )
