"""The librdkafka transport: a consumer of the group, a transactional producer, and a thread that asks where the log
ends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaException,
    Message,
    TopicPartition,
)

from forebay.errors import BrokerUnavailable
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import worker_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds, committed
from forebay.streams.transports.librdkafka.ends import EndWatch, Moment
from forebay.streams.transports.librdkafka.follower import Follower
from forebay.streams.transports.librdkafka.groups import leave, members
from forebay.streams.transports.librdkafka.messages import batch_of, is_end, judge, more
from forebay.streams.transports.librdkafka.seat import Seat
from forebay.streams.transports.librdkafka.writer import Slot, Writer
from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.refusals import grown
from forebay.streams.worker.source import Source
from forebay.streams.worker.transport import End, Owner, Polled

SEEK_S = 2.0
MOST_HOLD_S = 0.25  # of a batch behind a slow commit: a broker that stalls must not keep the loop from turning
OFFSETS_S = 5.0  # of asking; without an answer the loop goes on waiting, and can be stopped
SILENCE_S = 15.0  # a broker that says nothing for so long is away
log = logging.getLogger("forebay.librdkafka")


class LibrdkafkaTransport:
    """Transport of one stage. Two threads of its own: one for the commit under way, and one that asks for ends."""

    def __init__(
        self,
        bootstrap: Address,
        sources: Sequence[Source],
        group: str,
        options: WorkerOptions,
        *,
        name: str,
        moment: Moment,
        follows: Sequence[Source] = (),
        seats: Path | None = None,
    ) -> None:
        """`sources` are all partitions of some topics; a member of `group` reads its share of them. `name` is the
        stage's, for threads and metrics; `moment` is what ends are asked after. `follows` are all partitions of a topic
        that is read whole. With a folder of `seats` the membership is static: a worker that was killed has its
        partitions again at its next start from there, and no other member notices. Without one it is missed for a
        session first."""
        self.group, self.where = group, str(bootstrap)
        self._bootstrap, self._options, self._sources = bootstrap, options, tuple(sources)
        self._numbers = {(s.topic, s.partition): number for number, s in enumerate(sources)}
        slot = Slot(
            bootstrap, name, options.slot, group, f"{group}.{options.slot}",
            options.session_timeout_ms, options.transaction_timeout_ms,
        )  # fmt: skip
        static = {} if seats is None else {"group.instance.id": slot.client}
        self._slot, self._consumer = slot, Consumer(self._settings(group) | {"client.id": slot.client} | static)
        self._seat = None if seats is None else Seat(seats / f".seat-{name}-{slot.name}", slot.name, group)
        self._writer = Writer(slot, self._consumer.memberid)
        self._ends = EndWatch(bootstrap, sources, moment, options.heartbeat_interval_s)
        self._follower = Follower(bootstrap, follows) if follows else None
        self._owner: Owner | None = None
        self._next: dict[int, int] = {}  # of partitions that are read: no record below it is delivered

    def source(self, partition: int) -> Source:
        """See Transport."""
        return self._sources[partition]

    @property
    def answered_at(self) -> float:
        """See Transport."""
        return self._ends.answered_at

    @property
    def commit_s(self) -> float:
        """See Transport."""
        return self._writer.usual_s

    def end(self, partition: int) -> End | None:
        """See Transport."""
        return self._ends.end(partition)

    # -- membership and reading

    def join(self, owner: Owner, stop: threading.Event) -> None:
        """See Transport."""
        self._owner = owner
        self._take_seat(stop)
        topics = list(dict.fromkeys(source.topic for source in self._sources))
        self._consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self._ends.start()
        if self._follower is not None:
            self._follower.start()

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        """See Transport."""
        messages = self._consumer.consume(1, wait_s)
        if self._seat is not None:
            self._seat.sit(self._consumer.memberid())
        if most > 1 and messages and not messages[0].error():
            hold_s = min(max(hold_s, self._writer.left_s - ahead_s), MOST_HOLD_S)
            messages += more(self._consumer, messages[0], most - 1, hold_s)
        by_partition: dict[int, list[Message]] = {}
        ends: dict[int, int] = {}
        fell_back: set[int] = set()
        for message in messages:
            number, offset = self._number(message), message.offset()
            if (error := message.error()) is not None and not is_end(message):
                judge(error, message, self.where)
            elif offset < self._next.get(number, 0):
                fell_back.add(number)
            elif number not in self._next:
                continue  # fetched before it was to stand still
            elif error is not None:
                ends[number] = offset
            else:
                by_partition.setdefault(number, []).append(message)
                self._next[number] = offset + 1
        self._move_on(fell_back)
        # Last: what is raised above would lose it, and it is read once.
        followed = [] if self._follower is None else self._follower.take()
        return Polled([batch_of(p, m) for p, m in by_partition.items()], ends, followed)

    def catch_up(self, stop: threading.Event) -> Generator[Sequence[PartitionBatch]]:
        """See Transport."""
        if self._follower is not None:
            yield from self._follower.catch_up(stop)

    def _move_on(self, partitions: Iterable[int]) -> None:
        """An assignment that was still looking for its beginning when it was moved goes back to there afterwards, past
        what it has delivered (librdkafka 2.16)."""
        for partition in partitions:
            log.debug("%s: its reader fell back, and is moved to %d", self.source(partition), self._next[partition])
            with contextlib.suppress(KafkaException):  # it is moved with the next poll
                self._consumer.seek(self._place(partition, self._next[partition]))

    def hold(self, partitions: Sequence[int]) -> None:
        """See Transport."""
        for partition in partitions:
            self._next.pop(partition, None)
        self._consumer.pause([self._place(p) for p in partitions])

    def go_on(self, partition: int, offset: int, stop: threading.Event) -> None:
        """See Transport. An assignment takes a moment before it can be moved."""
        place, deadline = self._place(partition, offset), time.monotonic() + SEEK_S
        while True:
            try:
                self._consumer.seek(place)
                break
            except KafkaException as error:
                if time.monotonic() > deadline:
                    said = f"its reader does not start: {error.args[0].str()}"
                    raise BrokerUnavailable(said, where=str(self.source(partition))) from None
                stop.wait(0.02)
        self._next[partition] = offset
        self._consumer.resume([place])

    def read(
        self, partition: int, start: int, end: int, most: int, stop: threading.Event
    ) -> Generator[PartitionBatch | None]:
        """See Transport."""
        reader = Consumer(self._settings(f"{self.group}.restore.{self._options.slot}"))
        try:
            reader.assign([self._place(partition, start)])
            heard, done = time.monotonic(), False
            while not done and not stop.is_set():
                messages = reader.consume(1, 1.0)  # a full batch would be waited for at the log's end
                if most > 1 and messages:
                    messages += more(reader, messages[0], most - 1, 0.0)
                records = []
                for message in messages:
                    if (error := message.error()) is not None and not is_end(message):
                        judge(error, message, self.where)
                        continue
                    # The end of the log may be met instead: the last offsets may be a transaction's own marks.
                    done = done or message.offset() >= end - 1
                    if error is None and message.offset() < end:
                        records.append(message)
                if records or done:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_S:
                    raise BrokerUnavailable(
                        f"nothing was read for {SILENCE_S:.0f} s",
                        where=str(self.source(partition)),
                        do="Run: forebay doctor",
                    )
                yield batch_of(partition, records) if records else None
        finally:
            within(CLOSE_S, reader.close)

    def close(self) -> None:
        """See Transport."""
        self._owner = None
        self._ends.stop()
        member = self._consumer.memberid()
        within(CLOSE_S, self._consumer.close)
        if self._seat is not None:
            # A static member is not missed before its session ends: the others are told.
            if member:
                within(CLOSE_S, lambda: leave(self._bootstrap, self.group, member, self._slot.client))
            self._seat.leave()
        if self._follower is not None:
            self._follower.close()
        self._writer.close()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        known = [tp for tp in partitions if (tp.topic, tp.partition) in self._numbers]
        # From the beginning, and standing still: what is fetched all the same lies before where the owner goes on.
        consumer.incremental_assign([TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in known])
        consumer.pause(known)
        for tp in partitions:
            if tp not in known:
                had = sum(source.topic == tp.topic for source in self._sources)
                raise grown(tp.topic, tp.partition + 1, had, self.where)
        if self._owner is not None:
            self._owner.assigned(self._numbers_of(partitions))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        try:
            if self._owner is not None:
                self._owner.revoked(self._numbers_of(partitions))
        finally:
            consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        try:
            if self._owner is not None:
                self._owner.lost(self._numbers_of(partitions))
        finally:
            consumer.incremental_unassign(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        for number in self._numbers_of(partitions):
            self._next.pop(number, None)

    # -- the log

    def take(self, stop: threading.Event) -> None:
        """See Transport. This also aborts what a killed predecessor left open, which would hold back what is asked
        next."""
        self._writer.take(stop)

    def committed(self, partition: int) -> int | None:
        """See Transport."""
        source = self.source(partition)
        return committed(self._consumer, source.topic, source.partition, OFFSETS_S)

    def first(self, partition: int) -> int:
        """See Transport."""
        source = self.source(partition)
        return bounds(self._consumer, source.topic, source.partition, OFFSETS_S)[0]

    def submit(
        self, records: Sequence[Record], offsets: Mapping[int, int], notes: Mapping[int, str], events: int
    ) -> None:
        """See Transport."""
        places = [self._place(p, offset, notes.get(p)) for p, offset in offsets.items()]
        self._writer.submit(records, places, self._consumer.consumer_group_metadata(), events)

    def settle(self, stop: threading.Event) -> bool:
        """See Transport."""
        return self._writer.settle(stop)

    def abandon(self) -> None:
        """See Transport."""
        self._writer.abandon()

    def reset_command(self, partition: int, offset: int) -> str:
        """See Transport."""
        source = self.source(partition)
        return (
            f"python -m kafka.admin -b {self.where} groups alter-offsets -g {self.group} "
            f"-o {source.topic}:{source.partition}:{offset}"
        )

    # -- places

    def _place(self, partition: int, offset: int = OFFSET_INVALID, note: str | None = None) -> TopicPartition:
        topic, number, _ = self.source(partition)
        return TopicPartition(topic, number, offset) if note is None else TopicPartition(topic, number, offset, note)

    def _number(self, message: Message) -> int:
        return self._numbers.get((message.topic(), message.partition()), -1)

    def _take_seat(self, stop: threading.Event) -> None:
        deadline = time.monotonic() + SILENCE_S
        while self._seat is not None and not stop.is_set():
            try:
                self._seat.take(self._slot.session_timeout_ms / 1000, self._in_my_slot, stop)
                return
            except BrokerUnavailable:  # its coordinator may be loading
                if time.monotonic() > deadline:
                    raise
                stop.wait(0.5)

    def _in_my_slot(self) -> set[str]:
        return {m.id for m in members(self._bootstrap, self.group) if m.client == self._slot.client}

    def _numbers_of(self, places: Sequence[TopicPartition]) -> list[int]:
        found = (self._numbers.get((place.topic, place.partition)) for place in places)
        return [number for number in found if number is not None]

    def _settings(self, group: str) -> dict[str, Any]:
        return worker_consumer(self._bootstrap, group, self._options.session_timeout_ms)
