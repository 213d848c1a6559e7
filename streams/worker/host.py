"""The default Host: a loop over the librdkafka consumer around one Processor.

Ownership, membership and rebalancing are the consumer group's. A partition that is assigned stands still until its
store is open and folded silently from its own offset to the group's committed one, and goes on aloud from there; on
revoke the batch under way is committed, the store written and closed before the group may give the partition away.

No wait is without a bound. A broker that does not answer is waited for: the state in memory is dropped, the
transactional id taken anew, and everything read again when the broker is back. Whatever makes no progress otherwise is
for the supervisor to end.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from forebay.clock import HOUR_MS, now_ms
from forebay.errors import (
    BrokerError,
    BrokerUnavailable,
    Fenced,
    LogGap,
    RecordRefused,
    StoreLeads,
    StoreMissing,
    TopicMismatch,
    TransactionLost,
)
from forebay.store.ownedpartition import OwnedPartition
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import worker_consumer
from forebay.streams.offsets import bounds, committed
from forebay.streams.topics import Topics, describe
from forebay.streams.worker.absence import Absence
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.ends import EndWatch
from forebay.streams.worker.halving import Halving
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.restore import batch_of, fold_again
from forebay.streams.worker.speakers import client_id, refuse_second_speaker
from forebay.streams.worker.watchdog import Progress
from forebay.streams.worker.writer import Slot, Writer
from forebay.telemetry import emit

# The moment of an end is told by this machine's clock, and append times by the broker's: they may differ by so much.
CLOCK_MARGIN_MS = 1000
SEEK_S = 2.0
OFFSETS_S = 5.0  # of asking; without an answer the loop goes on waiting, and can be stopped
log = logging.getLogger("forebay.host")


@dataclass(frozen=True)
class HostOptions:
    """`slot` names this worker among its group's: stable over restarts, different for each process.

    `create_stores` False refuses a partition whose store is not here: the state of a generation that was built from
    history is not in the log, and folding the log alone would serve half of it as the whole. `interactions` False folds
    and encodes without telling the item side: for a second generation fed beside the serving one. A broker may be away
    for `broker_away_s`; a worker with records to read that commits nothing for `stall_after_s` is ended by its
    supervisor.
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
    broker_away_s: float = 600.0
    stall_after_s: float = 120.0


class Host:
    """Runs one Processor until `stop` is set. One thread, one for the commit under way, and one that asks where the log
    ends."""

    def __init__(
        self,
        processor: Processor,
        bootstrap: str,
        topics: Topics,
        generation: str,
        options: HostOptions = HostOptions(),
    ) -> None:
        """Raises BrokerUnavailable, TopicMissing, TopicMismatch, StoreMissing or GenerationConflict before anything is
        joined."""
        self.processor, self.options, self.generation = processor, options, generation
        self._bootstrap, self._topic = bootstrap, processor.topic
        info = describe(bootstrap, [self._topic, topics.vectors(generation, processor.side)])
        for topic in info.values():
            if topic.partitions != processor.count:
                raise self._other_count(topic.name, topic.partitions)
        self._topic_id = info[self._topic].topic_id
        if not options.create_stores and not processor.has_stores():
            raise self._no_state(f"{self._topic}", str(processor.folder))
        self.group = topics.group(generation, processor.side)
        if processor.side == "user" and options.interactions:
            refuse_second_speaker(bootstrap, topics, generation)
        slot = Slot(
            bootstrap, topics, generation, processor.side, options.slot, self.group,
            client_id(self.group, options.slot, speaks=options.interactions),
            options.session_timeout_ms, options.transaction_timeout_ms,
        )  # fmt: skip
        self._consumer = Consumer(self._settings(self.group) | {"client.id": slot.client})
        self._ends = EndWatch(bootstrap, self._topic, processor.count, options.heartbeat_interval_s)
        self._stop = threading.Event()
        self._absence, self._halving = Absence(options.broker_away_s), Halving(options.batch_events)
        self._writer = Writer(slot, self._halving, interactions=options.interactions)
        self._joined = False
        self._unopened: set[int] = set()  # assigned, and standing still until their stores are open
        self._restoring: dict[int, int] = {}  # partition -> fold silently up to this offset
        self._met_end: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._progress: Mapping[int, Progress] = {}
        self._ticked: dict[int, int] = {}
        self._since_flush, self._flushed_at, self._beat_at = 0, time.monotonic(), 0.0
        self.turned_at = time.monotonic()

    # -- what others may ask, from any thread

    @property
    def name(self) -> str:
        return f"{self.processor.side} worker of {self.generation}, slot {self.options.slot}"

    @property
    def excused(self) -> bool:
        """Whether partitions are restored, or the broker is waited for."""
        return bool(self._restoring) or bool(self._absence)

    def progress(self) -> Mapping[int, Progress]:
        """How far each partition has come, as of the loop's last turn."""
        return self._progress

    def readable_end(self, partition: int) -> int | None:
        """The end of a source partition, as the broker last told it."""
        end = self._ends.end(partition)
        return None if end is None else end.readable

    def not_ready(self) -> str:
        """Why this worker does not do its work now; "" when it does."""
        if self._absence:
            return self._absence.reason
        if not self._joined:
            return "joining the group"
        waiting = len(self._unopened) + len(self._restoring)
        return f"{waiting} partitions are being restored" if waiting else ""

    # -- the loop

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then leave the group with everything written.

        Raises Fenced, LogGap, StoreLeads and the store's errors, and BrokerUnavailable when the broker was away for too
        long: the caller ends the process, and the next one resumes as on assignment. A transaction that the broker
        aborted or refused, or that was lost with the broker, is not an error: state is read again and the batch done
        again.
        """
        self._stop = stop
        self.processor.warm()
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self._ends.start()
        try:
            while not stop.is_set():
                self._turned()
                try:
                    self._turn()
                except (TransactionLost, BrokerUnavailable) as error:
                    log.warning("%s", error)
                    if isinstance(error, TransactionLost):
                        self._writer.abandon()
                    self._drop()
                    self._absence.failed(error)
                except BrokerError as error:
                    if type(error) not in (BrokerError, RecordRefused):
                        raise
                    log.warning("%s; reading the state again", error)
                    self._drop()
            self._finish()
        finally:
            self._leave()

    def _turn(self) -> None:
        if not self._absence.over(self._ends.answered_at):
            self._poll()  # everything stands still; this keeps the membership
            return
        if self._unopened or self._restoring:
            self._settle()  # what follows asks the broker: where it does not answer, nothing may be under way
        self._open_assigned()
        if self._flush_due():
            self._settle()  # the store may not hold what is not committed
            started = time.perf_counter()
            self.processor.flush()
            took = time.perf_counter() - started
            emit("step", number=5, name="store", side=self.processor.side, seconds=took, events=0)
            self._since_flush, self._flushed_at = 0, time.monotonic()
        for partition in list(self._restoring):
            self._restore(partition)
        if self._restoring:  # told to stop in the middle: half a state has nothing to tell
            return
        batches = self._poll()
        beat = time.monotonic() - self._beat_at >= self.options.heartbeat_interval_s
        if not batches and not beat:
            return
        outcome = self.processor.apply(batches)
        ticks: dict[int, int] = {}
        if beat:
            self._beat_at = time.monotonic()
            outcome = dataclasses.replace(outcome, watermarks=self._with_idle(outcome.watermarks))
            ticks = self._due_ticks()
        self._submit(outcome, ticks)

    def _turned(self) -> None:
        self.turned_at, found = time.monotonic(), {}
        for partition, done in self._committed.items():
            owned = self.processor.partitions.get(partition)
            applied = done if owned is None else owned.meta.offset
            found[partition] = Progress(done, applied, self._met_end.get(partition, -1))
        self._progress = found

    def _poll(self) -> list[PartitionBatch]:
        """Wait for one record, then take what already waits: a batch is never held open for company."""
        messages = self._consumer.consume(1, self.options.poll_s)
        if self._halving.limit > 1 and messages and not messages[0].error():
            messages += self._consumer.consume(self._halving.limit - 1, 0)
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
        return [batch_of(p, m) for p, m in by_partition.items()]

    def _judge(self, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            partition = message.partition()
            # One that was met before the store was open stands behind records that are still to be folded.
            if partition in self.processor.partitions and partition not in self._restoring:
                self._met_end[partition] = message.offset()
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise self._gap(message.partition())
        elif error.fatal():
            raise Fenced(f"the consumer cannot go on: {error.str()}", where=self._bootstrap)
        else:
            log.warning("kafka: %s", error.str())

    # -- step 4

    def _submit(self, outcome: Outcome, ticks: dict[int, int]) -> None:
        """Begin the commit of this batch when that of the one before has ended; it runs while the next batch is
        folded."""
        self._settle()
        # Vectors of what had waited may come without an event: with them goes where their partition stands, as offsets
        # are what a worker that has lost it is refused for.
        spoken = {partition for partition, _, _ in outcome.vectors} | set(outcome.offsets)
        offsets = [TopicPartition(self._topic, p, self.processor.partitions[p].meta.offset) for p in sorted(spoken)]
        self._writer.submit(outcome, offsets, self._consumer.consumer_group_metadata(), ticks)
        self._since_flush += bool(offsets)

    def _settle(self) -> None:
        """Wait for the commit under way, with a bound; raises what it raised, or TransactionLost."""
        if (outcome := self._writer.settle(self._stop)) is None:
            return
        self._committed.update(outcome.offsets)
        if (away_s := self._absence.ended()) is not None:
            log.info("%s: the broker was away for %.0f s, work goes on", self.name, away_s)

    def _flush_due(self) -> bool:
        if not self._since_flush:
            return False
        return (
            self._since_flush >= self.options.flush_batches
            or time.monotonic() - self._flushed_at >= self.options.flush_interval_s
        )

    def _with_idle(self, watermarks: Mapping[int, int]) -> dict[int, int]:
        """Those of a batch, and for partitions that stand at their end what the clock allows."""
        found = dict(watermarks)
        for partition, owned in self.processor.partitions.items():
            if partition in self._restoring:
                continue
            as_of, end = owned.meta.newest_append, self._ends.end(partition)
            if end is not None and max(owned.meta.offset, self._met_end.get(partition, -1)) >= end.offset:
                as_of = max(as_of, end.asked_ms - CLOCK_MARGIN_MS)
            found[partition] = max(as_of, found.get(partition, 0))
        return found

    def _due_ticks(self) -> dict[int, int]:
        hour = now_ms() // HOUR_MS * HOUR_MS
        due = {
            p: hour
            for p, owned in self.processor.partitions.items()
            if p not in self._restoring and owned.meta.clock < hour and self._ticked.get(p, 0) < hour
        }
        self._ticked.update(due)
        return due

    # -- ownership

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Take note only: what asks the broker is for the loop, where an answer may fail to come."""
        self._joined = True
        numbers = [tp.partition for tp in partitions]
        # From the beginning, and standing still: what is fetched all the same lies before where the loop then goes on.
        consumer.incremental_assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in numbers])
        self._hold(numbers)

    def _hold(self, partitions: Sequence[int]) -> None:
        self._unopened.update(partitions)
        self._consumer.pause([TopicPartition(self._topic, p) for p in partitions])

    def _open_assigned(self) -> None:
        for partition in sorted(self._unopened):
            if self._stop.is_set():
                return
            self._take_over(partition)
            self._unopened.discard(partition)
            self._turned()

    def _take_over(self, partition: int) -> None:
        """Open the partition's store and go on where the group is, or restore first.

        What can be refused for want of state is refused before the transactional id is taken: taking it ends whoever
        had it.
        """
        if partition >= self.processor.count:
            raise self._other_count(self._topic, partition + 1)
        self._met_end.pop(partition, None)
        self._ticked.pop(partition, None)
        owned = self._open_existing(partition)
        try:
            # This also aborts what a killed predecessor left open, which would hold back the answers below.
            self._writer.take(self._consumer.memberid(), self._stop)
            done = committed(self._consumer, self._topic, partition, OFFSETS_S)
            first, _ = bounds(self._consumer, self._topic, partition, OFFSETS_S)
            if owned is None:
                # Where the group has been already, an empty store needs the log from its beginning on.
                owned = self.processor.open(partition, self._topic_id, first if done is None else 0)
            store = owned.meta.offset
            if store < first:
                raise self._gap(partition)
            if done is not None and store > done:
                raise StoreLeads(
                    f"the store is at offset {store}, the group at {done}",
                    where=f"{self._topic}[{partition}], group {self.group}",
                    do="Is this the right --state? If the group was reset: stop its workers, then python -m "
                    "kafka.admin "
                    f"-b {self._bootstrap} groups alter-offsets -g {self.group} -o {self._topic}:{partition}:{store}",
                )
        except BaseException:
            self.processor.close(partition)
            raise
        self._committed[partition] = store if done is None else done
        if done is not None and store < done:
            self._restoring[partition] = done
        else:
            self._go_on(partition, store)

    def _open_existing(self, partition: int) -> OwnedPartition | None:
        """The partition with the state that is here; None where there is none and one may be made."""
        try:
            return self.processor.open(partition, self._topic_id, 0, create=False)
        except StoreMissing as error:
            if self.options.create_stores:
                return None
            raise self._no_state(f"{self._topic}[{partition}]", error.where) from None

    def _restore(self, partition: int) -> None:
        end, started = self._restoring[partition], time.perf_counter()
        settings = self._settings(f"{self.group}.restore.{self.options.slot}")
        events = fold_again(
            self.processor,
            settings,
            partition,
            end,
            self.options.batch_events,
            self._judge_gap,
            self._turned,
            self._stop,
        )
        if self._stop.is_set():
            return
        del self._restoring[partition]
        self._go_on(partition, end)
        seconds = time.perf_counter() - started
        log.info("%s[%d]: %d events folded again in %.2f s", self._topic, partition, events, seconds)
        emit("restored", side=self.processor.side, partition=partition, events=events, seconds=seconds)

    def _judge_gap(self, error: KafkaError, message: Message) -> None:
        """An error of the reader of a restore, whose ends are not those of the loop's reader."""
        if error.code() != KafkaError._PARTITION_EOF:
            self._judge(error, message)

    def _go_on(self, partition: int, offset: int) -> None:
        """Read aloud from `offset`. An assignment takes a moment before it can be moved."""
        place, deadline = TopicPartition(self._topic, partition, offset), time.monotonic() + SEEK_S
        while True:
            try:
                self._consumer.seek(place)
                break
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        f"its reader does not start: {error.args[0].str()}", where=f"{self._topic}[{partition}]"
                    ) from None
                self._stop.wait(0.02)
        self._consumer.resume([place])

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
        finally:
            self._let_go(partitions)
            consumer.incremental_unassign(partitions)

    def _let_go(self, partitions: list[TopicPartition]) -> None:
        for tp in partitions:
            self._unopened.discard(tp.partition)
            self._restoring.pop(tp.partition, None)
            self._met_end.pop(tp.partition, None)
            self._committed.pop(tp.partition, None)
            self._halving.forget(tp.partition)
            self.processor.close(tp.partition)

    def _drop(self) -> None:
        """State is ahead of the log: drop it, and open every partition again as on assignment."""
        self._restoring.clear()
        self._met_end.clear()  # what lies before it is to be read again
        owned = list(self.processor.partitions)
        for partition in owned:
            self.processor.close(partition)
        self._hold(owned)

    # -- the end

    def _finish(self) -> None:
        """The last batch into the log, then everything into the stores. Without a broker both are left to the next
        start."""
        try:
            self._settle()
        except BrokerError as error:
            log.warning("%s; that batch is done again at the next start", error)
            return
        self.processor.flush()

    def _leave(self) -> None:
        self._ends.stop()
        for partition in list(self.processor.partitions):
            self.processor.close(partition)
        within(CLOSE_S, self._consumer.close)
        self._writer.close()

    # -- errors

    def _no_state(self, what: str, where: str) -> StoreMissing:
        return StoreMissing(
            f"no state of {what} is here, and this generation's history is not in the log",
            where=where,
            do="Bring the partition's directory from its last owner, or build another generation: "
            "forebay backfill --generation NEW",
        )

    def _gap(self, partition: int) -> LogGap:
        return LogGap(
            "records that the state needs have left the log",
            where=f"{self._topic}[{partition}]",
            do="Build another generation from a history that reaches to now: forebay backfill --generation NEW",
        )

    def _other_count(self, topic: str, count: int) -> TopicMismatch:
        return TopicMismatch(
            f"topic {topic} has {count} partitions, and state is folded for {self.processor.count}",
            where=self._bootstrap,
            do="Build another generation: forebay backfill --generation NEW",
        )

    def _settings(self, group: str) -> dict[str, Any]:
        return worker_consumer(self._bootstrap, group, self.options.session_timeout_ms)
