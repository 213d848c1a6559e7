"""The Cut: where in both clean logs a backfill ends and a generation's workers begin, and all events that lie before
it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, Message

from forebay.errors import BlockError, BlockTooNew, LogGap, TopicMismatch
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE, USER_PROFILE
from forebay.segments.history import History
from forebay.segments.history.archive import Archive
from forebay.segments.spec import SIDES, Side
from forebay.streams.clients import asking_consumer, log_consumer
from forebay.streams.cluster import Address
from forebay.streams.logrecords import at, block_in, records
from forebay.streams.offsets import bounds, patiently
from forebay.streams.spool import Spool
from forebay.streams.topics import TopicInfo, Topics, describe
from forebay.streams.transports.librdkafka.notes import Notes
from forebay.telemetry import emit

log = logging.getLogger("forebay.backfill")


@dataclass(frozen=True)
class Cut:
    """Both clean logs as they were at one moment: `bounds` are each partition's first offset and the one after its
    last. All that the sources took before `as_of` (ms) lies below the Cut."""

    logs: Mapping[Side, TopicInfo]
    bounds: Mapping[Side, Mapping[int, tuple[int, int]]]
    as_of: int

    @classmethod
    def now(cls, bootstrap: Address, topics: Topics, now_ms: int) -> Cut:
        """At this moment, `now_ms`. Raises BrokerUnavailable and TopicMissing."""
        as_of = _as_of(bootstrap, topics, now_ms)  # first: all that it speaks of lies below ends that are asked later
        info = describe(bootstrap, [topics.events(side) for side in SIDES])
        logs = {side: info[topics.events(side)] for side in SIDES}
        consumer = Consumer(asking_consumer(bootstrap, committed=True))
        try:
            found = {
                side: {p: bounds(consumer, one.name, p) for p in range(one.partitions)} for side, one in logs.items()
            }
        finally:
            consumer.close()
        return cls(logs, found, as_of)

    def ends(self, side: Side) -> dict[int, int]:
        """Partition -> offset: where a worker goes on."""
        return {p: end for p, (_, end) in self.bounds[side].items()}

    def spool_log(self, spool: Spool, side: Side, bootstrap: Address, history: History) -> None:
        """Put one side's clean log up to the Cut into `spool`: what an archive in `history` has of it, then what the
        broker has from there. Raises LogGap where there is a hole between the two, TopicMismatch for an archive of
        other partitions, BrokerUnavailable."""
        info, ends, archive = self.logs[side], self.bounds[side], history.blocks
        starts = dict.fromkeys(ends, 0)
        if isinstance(archive, Archive) and archive.of_topic(side, info.topic_id):
            starts |= _joined(archive, side, info, ends)
            for partition in starts:
                for block in archive.log(side, partition):
                    spool.add_log(side, partition, block)
        consumer = Consumer(log_consumer(bootstrap))
        try:
            for partition, (first, end) in ends.items():
                gap = _gap(info.name, partition, "records that were to be read next have left the log")
                start = max(starts[partition], first)
                for message in records(consumer, info.name, partition, start, end, gap, threading.Event()):
                    if (found := _block(message)) is not None:
                        spool.add_log(side, partition, found)
        finally:
            consumer.close()

    def past(self, history: History) -> Iterator[Block]:
        """The Blocks of `history` that are not of these logs: what was imported, and the archive of logs that are
        gone."""
        archive = history.blocks
        if not isinstance(archive, Archive):
            yield from history
            return
        yield from archive.brought()
        for side in SIDES:
            if not archive.of_topic(side, self.logs[side].topic_id):
                own = (BEHAVIOUR, USER_PROFILE) if side == "user" else (ITEM_UPDATE,)  # behaviours are in both
                for block in archive.log(side):
                    yield block.take(np.flatnonzero(np.isin(block.numbers("kind"), own)))


def _as_of(bootstrap: Address, topics: Topics, now_ms: int) -> int:
    """Up to when (ms) the clean logs have what the sources took; `now_ms` where no Intake ever ran."""
    notes = Notes(bootstrap, topics)
    try:
        told = [note.as_of for note in patiently(notes.read, "the Intake").values() if note is not None]
    finally:
        notes.close()
    return min([now_ms, *told])


def _joined(archive: Archive, side: Side, info: TopicInfo, ends: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
    """Where the log goes on behind what is archived of it, partition -> offset."""
    if counts := {part.count for part in archive.parts(side)} - {info.partitions}:
        raise TopicMismatch(
            f"its archive is of {counts.pop()} partitions, and it has {info.partitions}",
            where=info.name,
            do="Partitions of a clean log are never added: make the topic anew, and build from the archive",
        )
    found = dict.fromkeys(ends, 0) | archive.next(side)
    for partition, (first, _) in ends.items():
        if found[partition] < first:
            said = f"the archive ends at offset {found[partition]}, and the log begins at {first}"
            raise _gap(info.name, partition, said)
    return found


def _gap(topic: str, partition: int, said: str) -> LogGap:
    return LogGap(
        said,
        where=f"{topic}[{partition}]",
        do="Those events are gone. Archive more often than the log forgets; to build without them, move the archive's "
        "files of this log away and import what there is",
    )


def _block(message: Message) -> Block | None:
    try:
        return block_in(message, "Upgrade what runs the backfill")
    except BlockTooNew:
        raise
    except BlockError as error:  # a worker steps over it, too
        log.warning("%s is no block and is stepped over: %s", at(message), error)
        emit("stranger", stage="backfill", partition=message.partition())
        return None
