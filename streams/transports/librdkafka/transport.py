"""The librdkafka transport: a consumer of the group, a transactional producer, and a thread that asks where the log
ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from forebay.errors import BrokerUnavailable, Fenced
from forebay.segments.spec import Side
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import worker_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds, committed
from forebay.streams.topics import Topics, describe
from forebay.streams.transports.librdkafka.ends import EndWatch
from forebay.streams.transports.librdkafka.speakers import client_id, refuse_second_speaker
from forebay.streams.transports.librdkafka.writer import Slot, Writer
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.records import Record
from forebay.streams.worker.refusals import log_gap, other_count
from forebay.streams.worker.transport import End, Owner, Polled

SEEK_S = 2.0
OFFSETS_S = 5.0  # of asking; without an answer the loop goes on waiting, and can be stopped
SILENCE_S = 15.0  # a broker that says nothing for so long is away
_GONE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
log = logging.getLogger("forebay.librdkafka")


def worker(
    processor: Processor,
    bootstrap: Address,
    topics: Topics,
    generation: str,
    options: WorkerOptions = WorkerOptions(),
) -> Worker:
    """A worker over Kafka: the default.

    Raises BrokerUnavailable, TopicMissing, TopicMismatch, StoreMissing or GenerationConflict before anything is joined.
    """
    side, count = processor.side, processor.count
    transport = LibrdkafkaTransport(bootstrap, topics, generation, side, count, options)
    try:
        ready = Worker(processor, transport, topics, generation, options)
        if side == "user" and options.interactions:
            refuse_second_speaker(bootstrap, topics, generation)
    except BaseException:
        transport.close()
        raise
    return ready


class LibrdkafkaTransport:
    """Transport of one side of a generation. Two threads of its own: one for the commit under way, and one that asks
    for ends."""

    def __init__(
        self, bootstrap: Address, topics: Topics, generation: str, side: Side, partitions: int, options: WorkerOptions
    ) -> None:
        """Raises BrokerUnavailable, TopicMissing, or TopicMismatch where a topic has not so many partitions."""
        self.topic, self.group, self.where = topics.source(side), topics.group(generation, side), str(bootstrap)
        info = describe(bootstrap, [self.topic, topics.vectors(generation, side)])
        for one in info.values():
            if one.partitions != partitions:
                raise other_count(one.name, one.partitions, partitions, self.where)
        self.topic_id = info[self.topic].topic_id
        self._bootstrap, self._options = bootstrap, options
        slot = Slot(
            bootstrap, side, options.slot, self.group,
            client_id(self.group, options.slot, speaks=options.interactions),
            options.session_timeout_ms, options.transaction_timeout_ms,
        )  # fmt: skip
        self._consumer = Consumer(self._settings(self.group) | {"client.id": slot.client})
        self._writer = Writer(slot)
        self._ends = EndWatch(bootstrap, self.topic, partitions, options.heartbeat_interval_s)
        self._owner: Owner | None = None

    @property
    def answered_at(self) -> float:
        """See Transport."""
        return self._ends.answered_at

    def end(self, partition: int) -> End | None:
        """See Transport."""
        return self._ends.end(partition)

    # -- membership and reading

    def join(self, owner: Owner) -> None:
        """See Transport."""
        self._owner = owner
        self._consumer.subscribe([self.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self._ends.start()

    def poll(self, most: int, wait_s: float) -> Polled:
        """See Transport."""
        messages = self._consumer.consume(1, wait_s)
        if most > 1 and messages and not messages[0].error():
            messages += self._consumer.consume(most - 1, 0)
        by_partition: dict[int, list[Message]] = {}
        ends: dict[int, int] = {}
        for message in messages:
            if _is_end(message):
                ends[message.partition()] = message.offset()
            elif (error := message.error()) is not None:
                self._judge(error, message.partition())
            else:
                by_partition.setdefault(message.partition(), []).append(message)
        return Polled([_batch(p, m) for p, m in by_partition.items()], ends)

    def hold(self, partitions: Sequence[int]) -> None:
        """See Transport."""
        self._consumer.pause([TopicPartition(self.topic, p) for p in partitions])

    def go_on(self, partition: int, offset: int, stop: threading.Event) -> None:
        """See Transport. An assignment takes a moment before it can be moved."""
        place, deadline = TopicPartition(self.topic, partition, offset), time.monotonic() + SEEK_S
        while True:
            try:
                self._consumer.seek(place)
                break
            except KafkaException as error:
                if time.monotonic() > deadline:
                    said = f"its reader does not start: {error.args[0].str()}"
                    raise BrokerUnavailable(said, where=self._place(partition)) from None
                stop.wait(0.02)
        self._consumer.resume([place])

    def read(
        self, partition: int, start: int, end: int, most: int, stop: threading.Event
    ) -> Generator[PartitionBatch | None]:
        """See Transport."""
        reader = Consumer(self._settings(f"{self.group}.restore.{self._options.slot}"))
        try:
            reader.assign([TopicPartition(self.topic, partition, start)])
            heard, done = time.monotonic(), False
            while not done and not stop.is_set():
                messages = reader.consume(1, 1.0)  # a full batch would be waited for at the log's end
                messages += reader.consume(most - 1, 0)
                records = []
                for message in messages:
                    if (error := message.error()) is not None and not _is_end(message):
                        self._judge(error, partition)
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
                        where=self._place(partition),
                        do="Run: forebay doctor",
                    )
                yield _batch(partition, records) if records else None
        finally:
            within(CLOSE_S, reader.close)

    def close(self) -> None:
        """See Transport."""
        self._owner = None
        self._ends.stop()
        within(CLOSE_S, self._consumer.close)
        self._writer.close()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [tp.partition for tp in partitions]
        # From the beginning, and standing still: what is fetched all the same lies before where the owner goes on.
        consumer.incremental_assign([TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in numbers])
        self.hold(numbers)
        if self._owner is not None:
            self._owner.assigned(numbers)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            if self._owner is not None:
                self._owner.revoked([tp.partition for tp in partitions])
        finally:
            consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            if self._owner is not None:
                self._owner.lost([tp.partition for tp in partitions])
        finally:
            consumer.incremental_unassign(partitions)

    # -- the log

    def take(self, stop: threading.Event) -> None:
        """See Transport. This also aborts what a killed predecessor left open, which would hold back what is asked
        next."""
        self._writer.take(self._consumer.memberid(), stop)

    def committed(self, partition: int) -> int | None:
        """See Transport."""
        return committed(self._consumer, self.topic, partition, OFFSETS_S)

    def first(self, partition: int) -> int:
        """See Transport."""
        return bounds(self._consumer, self.topic, partition, OFFSETS_S)[0]

    def submit(self, records: Sequence[Record], offsets: Mapping[int, int], events: int) -> None:
        """See Transport."""
        places = [TopicPartition(self.topic, p, offset) for p, offset in offsets.items()]
        self._writer.submit(records, places, self._consumer.consumer_group_metadata(), events)

    def settle(self, stop: threading.Event) -> bool:
        """See Transport."""
        return self._writer.settle(stop)

    def abandon(self) -> None:
        """See Transport."""
        self._writer.abandon()

    def reset_command(self, partition: int, offset: int) -> str:
        """See Transport."""
        return (
            f"python -m kafka.admin -b {self.where} groups alter-offsets -g {self.group} "
            f"-o {self.topic}:{partition}:{offset}"
        )

    # -- errors

    def _judge(self, error: KafkaError, partition: int) -> None:
        if error.code() in _GONE:
            raise log_gap(self._place(partition))
        if error.fatal():
            raise Fenced(f"the consumer cannot go on: {error.str()}", where=self.where)
        log.warning("kafka: %s", error.str())

    def _place(self, partition: int) -> str:
        return f"{self.topic}[{partition}]"

    def _settings(self, group: str) -> dict[str, Any]:
        return worker_consumer(self._bootstrap, group, self._options.session_timeout_ms)


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _batch(partition: int, messages: Sequence[Message]) -> PartitionBatch:
    return PartitionBatch(
        partition,
        [m.key() for m in messages],
        [m.value() for m in messages],
        [m.offset() for m in messages],
        [m.timestamp()[1] for m in messages],
    )
