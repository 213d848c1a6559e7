"""What every transport over Kafka does alike, whoever carries the membership: it knows the places, asks for ends, reads
gaps and the followed topic, and commits."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, TopicPartition

from forebay.errors import BrokerUnavailable
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import worker_consumer
from forebay.streams.offsets import bounds, committed
from forebay.streams.transports.librdkafka.ends import EndWatch
from forebay.streams.transports.librdkafka.follower import Follower
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.transports.librdkafka.messages import batch_of, is_end, judge, more
from forebay.streams.transports.librdkafka.writer import Slot, Writer
from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.shares import Shares
from forebay.streams.worker.source import Source
from forebay.streams.worker.transport import End

MOST_HOLD_S = 0.25  # of a batch behind a slow commit: a broker that stalls must not keep the loop from turning
OFFSETS_S = 5.0  # of asking; without an answer the loop goes on waiting, and can be stopped
SILENCE_S = 15.0  # a broker that says nothing for so long is away


class GroupLog(ABC):
    """The part of a Transport that is no membership. A subclass is the member: it says who it is in the group, and
    reads. Two threads of its own: one for the commit under way, and one that asks for ends."""

    _asking: Consumer  # a subclass's: one with the group's id, to ask where the group and the log are

    def __init__(self, membership: Membership) -> None:
        m, options = membership, membership.options
        self.group, self.where = m.group, str(m.bootstrap)
        self._bootstrap, self._options, self._sources = m.bootstrap, options, tuple(m.sources)
        self._numbers = {(s.topic, s.partition): number for number, s in enumerate(m.sources)}
        self._slot = Slot(
            m.bootstrap, m.name, options.slot, m.group, f"{m.group}.{options.slot}",
            options.session_timeout_ms, options.transaction_timeout_ms,
        )  # fmt: skip
        self._writer = Writer(self._slot, self._member_id)
        self._ends = EndWatch(m.bootstrap, m.sources, m.moment, options.heartbeat_interval_s)
        self._follower = Follower(m.bootstrap, m.follows) if m.follows else None

    # -- what a subclass says

    @abstractmethod
    def _member_id(self) -> str:
        """This member's id as it is now; "" before it has one."""

    @abstractmethod
    def _membership(self) -> Any:
        """The group's metadata of this member, as librdkafka writes them: a commit is refused when they are not those
        of the group any more."""

    # -- places and ends

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

    # -- reading outside the group

    def _begin(self) -> None:
        """Ask for ends, and read the followed topic."""
        self._ends.start()
        if self._follower is not None:
            self._follower.start()

    def _followed(self) -> Sequence[PartitionBatch]:
        """What waits of the followed topic. Each record comes once: nothing may be raised between this and the end of a
        poll."""
        return [] if self._follower is None else self._follower.take()

    def catch_up(self, stop: threading.Event) -> Generator[Sequence[PartitionBatch]]:
        """See Transport."""
        if self._follower is not None:
            yield from self._follower.catch_up(stop)

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

    # -- the log

    def take(self, stop: threading.Event) -> None:
        """See Transport. This also aborts what a killed predecessor left open, which would hold back what is asked
        next."""
        self._writer.take(stop)

    def committed(self, partition: int) -> int | None:
        """See Transport."""
        source = self.source(partition)
        return committed(self._asking, source.topic, source.partition, OFFSETS_S)

    def first(self, partition: int) -> int:
        """See Transport."""
        source = self.source(partition)
        return bounds(self._asking, source.topic, source.partition, OFFSETS_S)[0]

    def shares(self) -> Shares | None:
        """See Transport."""
        return None

    def submit(
        self, records: Sequence[Record], offsets: Mapping[int, int], notes: Mapping[int, str], events: int
    ) -> None:
        """See Transport."""
        places = [self._place(p, offset, notes.get(p)) for p, offset in offsets.items()]
        self._writer.submit(records, places, self._membership(), events)

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

    def _hold_s(self, hold_s: float, ahead_s: float) -> float:
        """How long a batch that is not full waits for company: see Transport.poll."""
        return min(max(hold_s, self._writer.left_s - ahead_s), MOST_HOLD_S)

    def _let_go_of(self, leave: Callable[[], object]) -> None:
        """The end: `leave` is what leaves the group, and has bounds of its own."""
        self._ends.stop()
        leave()
        if self._follower is not None:
            self._follower.close()
        self._writer.close()

    # -- places

    def _place(self, partition: int, offset: int = OFFSET_INVALID, note: str | None = None) -> TopicPartition:
        topic, number, _ = self.source(partition)
        return TopicPartition(topic, number, offset) if note is None else TopicPartition(topic, number, offset, note)

    def _settings(self, group: str) -> dict[str, Any]:
        return worker_consumer(self._bootstrap, group, self._options.session_timeout_ms)
