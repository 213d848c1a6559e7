"""The beginning of one partition of a clean log, for `forebay extend`: what an archive has of it, then the log itself.

An extension reads it once for a partition, in the order of the log. Nothing is written: a crash leaves nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer

from forebay.errors import BlockError, BlockTooNew, LogGap, TopicMismatch
from forebay.segments.blocks.block import Block
from forebay.segments.history.archive import Archive, Part
from forebay.segments.spec import Side
from forebay.streams.clients import log_consumer
from forebay.streams.cluster import Address
from forebay.streams.logrecords import at, block_in, records
from forebay.streams.offsets import bounds
from forebay.streams.topics import TopicInfo
from forebay.telemetry import emit

log = logging.getLogger("forebay.extend")


@dataclass(frozen=True)
class Archived:
    """Files of an archive that are of one partition of a log, one behind the other; none is an archive without it."""

    archive: Archive | None = None
    parts: Sequence[Part] = ()

    @classmethod
    def of(cls, archive: Archive | None, side: Side, info: TopicInfo, partition: int, end: int) -> Archived:
        """Those that end before `end` or there: a file does not say which of its events have which offset. Raises
        TopicMismatch where the log of this topic had other partitions."""
        if archive is None or not archive.of_topic(side, info.topic_id):
            return cls()
        parts = [part for part in archive.parts(side) if part.partition == partition and part.next <= end]
        if parts and parts[0].count != info.partitions:
            raise TopicMismatch(
                f"its archive is of {parts[0].count} partitions, and it has {info.partitions}",
                where=info.name, do="Extend without it: leave --from out",
            )  # fmt: skip
        return cls(archive, parts)

    def blocks(self) -> Iterator[Block]:
        """All of them, in the log's order. Raises ArchiveError."""
        if self.archive is not None:
            for part in self.parts:
                yield from self.archive.part(part)


class LogPart:
    """The Blocks of one partition of a clean log from the first that is there to before `end`. `since_ms` is when the
    log took the first of them, once they are read; of an archived one, when its source had."""

    def __init__(
        self, bootstrap: Address, topic: str, partition: int, end: int, archived: Archived = Archived()
    ) -> None:
        self._bootstrap, self._topic, self._partition, self._end = bootstrap, topic, partition, end
        self._archived = archived
        self.since_ms = 0

    def blocks(self, read: Callable[[int], None]) -> Iterator[Block]:
        """Raises LogGap, BrokerUnavailable, ArchiveError. A record that is no Block is stepped over, as a worker does.
        `read` hears of records of the log."""
        consumer = Consumer(log_consumer(self._bootstrap))
        try:
            first, _ = bounds(consumer, self._topic, self._partition)
            start = self._start(first)
            if start is not None:
                for block in self._archived.blocks():
                    if not self.since_ms and len(block):
                        self.since_ms = int(block.numbers("append").max())
                    yield block
            yield from self._log(consumer, first if start is None else start, first, read)
        finally:
            consumer.close()

    def _start(self, first: int) -> int | None:
        """Where the log goes on behind what is archived; None where the log, which begins at `first`, reaches back as
        far. Raises LogGap where there is a hole between the two."""
        parts = self._archived.parts
        if not parts or parts[0].first >= first:
            return None
        behind = parts[-1].next
        if behind < first:
            raise LogGap(
                f"the archive has what is before offset {behind} in files that end before the checkpoint, and the log "
                f"begins at {first}",
                where=f"{self._topic}[{self._partition}]",
                do="Let a worker make a newer checkpoint, or extend without --from: the new segment then begins with "
                "the log. Archive more often than the log forgets",
            )
        return behind

    def _log(self, consumer: Consumer, start: int, first: int, read: Callable[[int], None]) -> Iterator[Block]:
        gap = LogGap(
            "records that were to be read next have left the log",
            where=f"{self._topic}[{self._partition}]",
            do="Run it again, with a higher --rate: the log forgets faster than it is read",
        )
        for message in records(consumer, self._topic, self._partition, start, self._end, gap, threading.Event()):
            self.since_ms = self.since_ms or message.timestamp()[1]
            try:
                yield block_in(message, "Upgrade what runs forebay extend")
            except BlockTooNew:
                raise
            except BlockError as error:
                log.warning("%s is no block and is stepped over: %s", at(message), error)
                emit("stranger", stage="extend", partition=self._partition)
            read(message.offset() + 1 - first)
