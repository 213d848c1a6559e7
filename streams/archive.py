"""The clean logs into an archive: what they hold and it does not, a partition at a time, up to their ends at the start.

A file is written when it is full or its partition ends, and appears whole. A run that is killed leaves the files that
it had written, and the next one goes on behind them: each record is in one file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import Consumer, Message

from forebay.errors import BlockError, BlockTooNew, LogGap, TopicMismatch
from forebay.segments.history.archive import Archive, Part, Place, Writer
from forebay.segments.spec import SIDES, Side
from forebay.streams.clients import log_consumer
from forebay.streams.cluster import Address
from forebay.streams.logrecords import at, block_in, records
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics, describe
from forebay.telemetry import emit

log = logging.getLogger("forebay.archive")
ANOTHER = "Begin another archive (--into), and keep this one"


@dataclass(frozen=True)
class Stretch:
    """What is to be archived of a partition: records `first` to before `end`. A new one has no file yet."""

    side: Side
    topic: str
    topic_id: str
    count: int
    partition: int
    first: int
    end: int
    is_new: bool

    def part(self, first: int, behind: int) -> Part:
        """What a file of it is that has the records `first` to before `behind`."""
        return Part(
            side=self.side, partition=self.partition, count=self.count, topic_id=self.topic_id, first=first, next=behind
        )


@dataclass(frozen=True)
class Written:
    """What a run did: files, events in them, and records that are no Blocks and were stepped over. `next` is where each
    clean log's partitions are archived to."""

    files: int
    events: int
    strangers: int
    next: Mapping[Side, Mapping[int, int]]


class Archiver:
    """Writes the clean logs of one installation into one archive."""

    def __init__(self, bootstrap: Address, topics: Topics, place: Place) -> None:
        self._bootstrap, self._topics, self._place = bootstrap, topics, place

    def run(self, stop: threading.Event, told: Callable[[int, int], None]) -> Written:
        """Archive up to the ends of both logs as they are now, or, once `stop` is set, what was read by then.
        `told(done, total)` counts offsets.

        Raises LogGap where records have left the log before they were archived, TopicMismatch where the log is another
        one than the archive's, BlockTooNew for a Block of a later version, ArchiveError for an archive that is not
        whole, StoreLocked where another process writes to it, TopicMissing and BrokerUnavailable.
        """
        with self._place.locked():
            consumer = Consumer(log_consumer(self._bootstrap))
            try:
                stretches = self._stretches(Archive.at(self._place), consumer)
                total, before = sum(s.end - s.first for s in stretches), 0
                done: list[_Parts] = []
                for stretch in stretches:
                    if not stop.is_set():
                        done.append(_Parts(self._place, stretch))
                        done[-1].fill(consumer, stop, partial(_further, told, before, total))
                    before += stretch.end - stretch.first
            finally:
                consumer.close()
            archive = Archive.at(self._place)
        return Written(
            sum(parts.files for parts in done), sum(parts.events for parts in done),
            sum(parts.strangers for parts in done), {side: archive.next(side) for side in SIDES},
        )  # fmt: skip

    def _stretches(self, archive: Archive, consumer: Consumer) -> list[Stretch]:
        info = describe(self._bootstrap, [self._topics.events(side) for side in SIDES])
        found = []
        for side in SIDES:
            topic = info[self._topics.events(side)]
            where = f"{topic.name} at {self._bootstrap}, {self._place.url}"
            for part in archive.parts(side)[:1]:
                if part.topic_id != topic.topic_id:
                    raise TopicMismatch(
                        "the topic was made anew: the archive is of another one", where=where, do=ANOTHER
                    )
                if part.count != topic.partitions:
                    raise TopicMismatch(
                        f"it has {topic.partitions} partitions, and the archive is of {part.count}",
                        where=where,
                        do=ANOTHER,
                    )
            held = archive.next(side)
            for partition in range(topic.partitions):
                first, end = bounds(consumer, topic.name, partition)
                start = held.get(partition, first)
                if start < first:
                    raise _gap(topic.name, partition, f"from {start} to before {first}")
                if start > end:
                    raise TopicMismatch(
                        f"partition {partition} ends at {end}, and the archive holds what is before {start}",
                        where=where, do=f"The log has lost records. {ANOTHER}",
                    )  # fmt: skip
                found.append(
                    Stretch(
                        side, topic.name, topic.topic_id, topic.partitions, partition, start, end, partition not in held
                    )
                )
        return found


class _Parts:
    """The files of one stretch: how many were written, with how many events."""

    def __init__(self, place: Place, stretch: Stretch) -> None:
        self.files = self.events = self.strangers = 0
        self._stretch, self._writer = stretch, Writer(place)
        self._first = self._behind = stretch.first

    def fill(self, consumer: Consumer, stop: threading.Event, told: Callable[[int], None]) -> None:
        """Write them all, or, once `stop` is set, what was read by then."""
        stretch = self._stretch
        gap = _gap(stretch.topic, stretch.partition, "that were to be read next")
        place = (stretch.topic, stretch.partition, stretch.first, stretch.end)
        for message in records(consumer, *place, gap, stop):
            self._add(message)
            self._behind = message.offset() + 1
            told(self._behind - stretch.first)
        if self._behind > self._first or (stretch.is_new and not stop.is_set()):
            # What is left of a stretch are the marks of transactions. A partition without an event has a file all the
            # same: it tells a later run where the archive begins.
            self._write(self._behind if stop.is_set() else stretch.end)

    def _add(self, message: Message) -> None:
        try:
            block = block_in(message, "Upgrade what writes the archive")
        except BlockTooNew:
            raise
        except BlockError as error:  # nothing that was accepted: an Intake writes its Blocks whole
            log.warning("%s is no block and is stepped over: %s", at(message), error)
            emit("stranger", stage="archive", partition=message.partition())
            self.strangers += 1
            return
        if not self._writer.takes(block):
            self._write(self._behind)
        self._writer.add(block)

    def _write(self, behind: int) -> None:
        self.files, self.events = self.files + 1, self.events + self._writer.rows
        self._writer.write(self._stretch.part(self._first, behind))
        self._first = behind


def _further(told: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    told(before + done, total)


def _gap(topic: str, partition: int, which: str) -> LogGap:
    return LogGap(
        f"records {which} have left the log before they were archived",
        where=f"{topic}[{partition}]",
        do=f"{ANOTHER}: what lies between the two is in neither. Then archive more often, or raise retention.ms",
    )
