"""The default Host: a loop over the librdkafka consumer around one Processor.

Ownership, membership and rebalancing are the consumer group's. On assignment a partition's store is opened, folded silently from
its own offset to the group's committed one, and then goes on aloud from there; on revoke the batch under way is committed, the
store written and closed before the group may give the partition away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from forebay.errors import BrokerError, Fenced, LogGap, StoreLeads, StoreMissing, TopicMismatch
from forebay.streams.offsets import bounds, committed
from forebay.streams.partition import Partition
from forebay.streams.processor import Outcome, PartitionBatch, Processor
from forebay.streams.topics import Topics, describe
from forebay.streams.transactions import TransactionLog
from forebay.telemetry import emit

HOUR_MS = 3_600_000
log = logging.getLogger("forebay.host")


@dataclass(frozen=True)
class HostOptions:
    """`slot` names this worker among its group's: stable over restarts, different for each process.

    `create_stores` False refuses a partition whose store is not here: the state of a generation that was built from history is not
    in the log, and folding the log alone would serve half of it as the whole. `interactions` False folds and encodes without
    telling the item side: for a second generation fed beside the serving one.
    """

    slot: str = "0"
    interactions: bool = True
    create_stores: bool = True
    batch_events: int = 4096  # past 4,096 a batch gains nothing and its latency grows
    poll_s: float = 0.1
    flush_batches: int = 8
    flush_interval_s: float = 1.0
    heartbeat_interval_s: float = 1.0
    session_timeout_ms: int = 10_000
    transaction_timeout_ms: int = 10_000


class Host:
    """Runs one Processor until `stop` is set. One thread, and one more for the commit under way."""

    def __init__(
        self,
        processor: Processor,
        bootstrap: str,
        topics: Topics,
        generation: str,
        options: HostOptions = HostOptions(),
    ) -> None:
        """Raises BrokerUnavailable, TopicMissing or TopicMismatch before anything is joined."""
        self.processor, self.options = processor, options
        self._bootstrap, self._topic = bootstrap, processor.topic
        info = describe(bootstrap, [self._topic, topics.vectors(generation, processor.side)])
        for topic in info.values():
            if topic.partitions != processor.count:
                raise self._other_count(topic.name, topic.partitions)
        self._topic_id = info[self._topic].topic_id
        self.group = f"{topics.prefix}forebay.{generation}.{processor.side}"
        self._log = TransactionLog(
            bootstrap, topics, generation, processor.side,
            transactional_id=f"{self.group}.{options.slot}", timeout_ms=options.transaction_timeout_ms,
        )  # fmt: skip
        self._consumer = Consumer(self._settings(self.group) | {"client.id": f"{self.group}.{options.slot}"})
        self._commits = ThreadPoolExecutor(1, thread_name_prefix=f"commit-{processor.side}")
        self._under_way: Future[None] | None = None
        self._restoring: dict[int, int] = {}  # partition -> fold silently up to this offset
        self._at_end: set[int] = set()
        self._ticked: dict[int, int] = {}
        self._since_flush, self._flushed_at, self._beat_at = 0, time.monotonic(), 0.0
        # A record of an open transaction is appended long before it can be read: no idle partition is known to be applied up
        # to a moment closer than that. Producers of the user topic have no transactions, only a clock that is not the broker's.
        self._idle_margin_ms = 1000 if processor.side == "user" else options.transaction_timeout_ms

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then leave the group with everything written.

        Raises Fenced, LogGap, StoreLeads and the store's errors: the caller ends the process, and the next one resumes as on
        assignment. A transaction that the broker aborted is not an error: state is read again and the batch done again.
        """
        self.processor.warm()
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        try:
            while not stop.is_set():
                try:
                    self._turn()
                except Fenced:
                    raise
                except BrokerError as error:
                    if type(error) is not BrokerError:
                        raise
                    log.warning("%s; reading the state again", error)
                    self._drop_and_resume()
            self._settle()
            self.processor.flush()
        finally:
            self._commits.shutdown(wait=True)
            for partition in list(self.processor.partitions):
                self.processor.close(partition)
            self._consumer.close()
            self._log.close()

    def _turn(self) -> None:
        if self._flush_due():
            self._settle()  # the store may not hold what is not committed
            started = time.perf_counter()
            self.processor.flush()
            emit(
                "step",
                number=5,
                name="store",
                side=self.processor.side,
                seconds=time.perf_counter() - started,
                events=0,
            )
            self._since_flush, self._flushed_at = 0, time.monotonic()
        for partition in list(self._restoring):
            self._restore(partition)
        batches = self._poll()
        beat = time.monotonic() - self._beat_at >= self.options.heartbeat_interval_s
        if not batches and not beat:
            return
        outcome = self.processor.apply(batches)
        ticks: dict[int, int] = {}
        if beat:
            self._beat_at = time.monotonic()
            self._add_idle(outcome)
            ticks = self._due_ticks()
        self._submit(outcome, ticks)

    def _poll(self) -> list[PartitionBatch]:
        """Wait for one record, then take what already waits: a batch is never held open for company."""
        messages = self._consumer.consume(1, self.options.poll_s)
        if messages and not messages[0].error():
            messages += self._consumer.consume(self.options.batch_events - 1, 0)
        by_partition: dict[int, list[Message]] = {}
        for message in messages:
            if (error := message.error()) is not None:
                self._judge(error, message)
                continue
            partition = message.partition()
            owned = self.processor.partitions.get(partition)
            # Else it was fetched before a revoke: no longer ours, or ours again and folded already.
            if owned is not None and message.offset() >= owned.meta.offset:
                by_partition.setdefault(partition, []).append(message)
                self._at_end.discard(partition)
        return [_batch(p, m) for p, m in by_partition.items()]

    def _judge(self, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._at_end.add(message.partition())
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise self._gap(message.partition())
        elif error.fatal():
            raise Fenced(f"the consumer cannot go on: {error.str()}", where=self._bootstrap)
        else:
            log.warning("kafka: %s", error.str())
            self._at_end.clear()  # without a broker nobody knows where the end is

    # -- step 4

    def _submit(self, outcome: Outcome, ticks: dict[int, int]) -> None:
        """Begin the commit of this batch when that of the one before has ended; it runs while the next batch is folded."""
        self._settle()
        offsets = [TopicPartition(self._topic, p, o) for p, o in outcome.offsets.items()]
        group = self._consumer.consumer_group_metadata()
        self._under_way = self._commits.submit(self._commit, outcome, offsets, group, ticks)
        self._since_flush += bool(offsets)

    def _commit(self, outcome: Outcome, offsets: Sequence[TopicPartition], group: Any, ticks: dict[int, int]) -> None:
        started = time.perf_counter()
        self._log.commit(outcome, offsets, group, ticks, interactions=self.options.interactions)
        emit(
            "step", number=4, name="transact", side=self.processor.side, seconds=time.perf_counter() - started,
            events=outcome.events,
        )  # fmt: skip

    def _settle(self) -> None:
        """Wait for the commit under way; raises what it raised."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def _flush_due(self) -> bool:
        if not self._since_flush:
            return False
        return (
            self._since_flush >= self.options.flush_batches
            or time.monotonic() - self._flushed_at >= self.options.flush_interval_s
        )

    def _add_idle(self, outcome: Outcome) -> None:
        now = time.time_ns() // 1_000_000 - self._idle_margin_ms
        for partition, owned in self.processor.partitions.items():
            if partition in self._restoring:
                continue
            as_of = max(owned.meta.newest_append, now) if partition in self._at_end else owned.meta.newest_append
            outcome.watermarks[partition] = max(as_of, outcome.watermarks.get(partition, 0))

    def _due_ticks(self) -> dict[int, int]:
        hour = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
        due = {
            p: hour
            for p, owned in self.processor.partitions.items()
            if p not in self._restoring and owned.meta.clock < hour and self._ticked.get(p, 0) < hour
        }
        self._ticked.update(due)
        return due

    # -- ownership

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = [self._take_over(tp.partition) for tp in partitions]
        consumer.incremental_assign([TopicPartition(self._topic, p, o) for p, o in starts])
        # This call stands inside a consume(), which may go on to return records of what was just assigned.
        consumer.pause([TopicPartition(self._topic, p) for p, _ in starts if p in self._restoring])

    def _take_over(self, partition: int) -> tuple[int, int]:
        """Open the partition's store; returns where to read aloud from."""
        if partition >= self.processor.count:
            raise self._other_count(self._topic, partition + 1)
        done = committed(self._consumer, self._topic, partition)
        first, _ = bounds(self._consumer, self._topic, partition)
        # Where the group has been already, an empty store needs the log from its beginning on.
        owned = self._open(partition, first if done is None else 0)
        self._at_end.discard(partition)
        self._ticked.pop(partition, None)
        store = owned.meta.offset
        if store < first:
            self.processor.close(partition)
            raise self._gap(partition)
        if done is None:
            return partition, store
        if store > done:
            self.processor.close(partition)
            raise StoreLeads(
                f"the store is at offset {store}, the group at {done}",
                where=f"{self._topic}[{partition}], group {self.group}",
                do="Was the group reset? Delete the store's directory: it is rebuilt from the log",
            )
        if store < done:
            self._restoring[partition] = done
        return partition, done

    def _open(self, partition: int, offset: int) -> Partition:
        try:
            return self.processor.open(partition, self._topic_id, offset, create=self.options.create_stores)
        except StoreMissing as error:
            raise StoreMissing(
                f"no state of {self._topic}[{partition}] is here, and this generation's history is not in the log",
                where=error.where,
                do="Bring the partition's directory from its last owner, or build a new generation: forebay backfill",
            ) from None

    def _restore(self, partition: int) -> None:
        """Fold silently from the store's offset to the group's: 65 thousand events take half a second or less."""
        end, owned = self._restoring.pop(partition), self.processor.partitions[partition]
        started, events = time.perf_counter(), 0
        reader = Consumer(self._settings(f"{self.group}.restore.{self.options.slot}"))
        try:
            reader.assign([TopicPartition(self._topic, partition, owned.meta.offset)])
            done = False
            while not done:
                messages = reader.consume(1, 1.0)  # as in _poll: a full batch would be waited for at the log's end
                messages += reader.consume(self.options.batch_events - 1, 0)
                for message in messages:
                    if (error := message.error()) is not None and error.code() != KafkaError._PARTITION_EOF:
                        self._judge(error, message)
                done = any((m.offset() or 0) >= end - 1 for m in messages)
                records = [m for m in messages if m.error() is None and (m.offset() or 0) < end]
                if records:
                    events += self.processor.apply([_batch(partition, records)], aloud=False).events
        finally:
            reader.close()
        self._consumer.resume([TopicPartition(self._topic, partition)])
        owned.advance(end, 0)  # the last offsets before it may be a transaction's own marks
        seconds = time.perf_counter() - started
        log.info("%s[%d]: %d events folded again in %.2f s", self._topic, partition, events, seconds)
        emit("restored", side=self.processor.side, partition=partition, events=events, seconds=seconds)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self._settle()
            self.processor.flush()
        finally:  # what was not committed is left to the next owner; what stays ours is read again by `run`
            self._let_go(partitions)
            consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another worker has them already: nothing may be written any more."""
        try:
            self._settle()
        except BrokerError as error:
            log.warning("%s", error)
        self._let_go(partitions)
        consumer.incremental_unassign(partitions)

    def _let_go(self, partitions: list[TopicPartition]) -> None:
        for tp in partitions:
            self._restoring.pop(tp.partition, None)
            self._at_end.discard(tp.partition)
            self.processor.close(tp.partition)

    def _drop_and_resume(self) -> None:
        """State is ahead of the log: drop it and resume every partition as on assignment."""
        owned = list(self.processor.partitions)
        for partition in owned:
            self._restoring.pop(partition, None)
            self.processor.close(partition)
        for partition in owned:
            number, offset = self._take_over(partition)
            self._consumer.seek(TopicPartition(self._topic, number, offset))
            if number in self._restoring:
                self._consumer.pause([TopicPartition(self._topic, number)])

    def _gap(self, partition: int) -> LogGap:
        return LogGap(
            "records that the state needs have left the log",
            where=f"{self._topic}[{partition}]",
            do="Build a new generation from the archive: forebay backfill",
        )

    def _other_count(self, topic: str, count: int) -> TopicMismatch:
        return TopicMismatch(
            f"topic {topic} has {count} partitions, and state is folded for {self.processor.count}",
            where=self._bootstrap,
            do="Build a new generation: forebay backfill",
        )

    def _settings(self, group: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # never skip silently
            "isolation.level": "read_committed",  # committed offsets are then read stable, too
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": self.options.session_timeout_ms,
            "heartbeat.interval.ms": self.options.session_timeout_ms // 5,
            "max.poll.interval.ms": 900_000,  # a silent fold stands between two polls: 100 million events fit into it
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,  # the default of 1,000 drains a backlog four times slower
            "fetch.wait.max.ms": 100,
            "log_level": 2,
        }


def _batch(partition: int, messages: Sequence[Message]) -> PartitionBatch:
    return PartitionBatch(
        partition,
        [m.key() for m in messages],
        [m.value() for m in messages],
        [m.offset() for m in messages],
        [m.timestamp()[1] for m in messages],
    )
