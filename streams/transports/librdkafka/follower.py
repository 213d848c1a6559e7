"""A topic that is read whole, outside any group: all partitions from their beginning on, and what comes after."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from forebay.errors import BrokerUnavailable
from forebay.streams.bounded import within
from forebay.streams.clients import asking_consumer, follower_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds
from forebay.streams.transports.librdkafka.messages import batch_of, is_end, judge, more
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.source import Source

MOST = 4096  # records at once
ANSWER_S = 5.0  # of asking for an end
SILENCE_S = 15.0  # a broker that says nothing for so long is away
CLOSE_S = 0.5


class Follower:
    """One thread. Each record comes once, by `take` or by `catch_up`; committed ones only."""

    def __init__(
        self, bootstrap: Address, places: Sequence[Source], *, answer_s: float = ANSWER_S, silence_s: float = SILENCE_S
    ) -> None:
        """`places` are all partitions of a topic. Nothing is read before `start`."""
        self._where, self._places, self._answer_s, self._silence_s = str(bootstrap), places, answer_s, silence_s
        self._consumer = Consumer(follower_consumer(bootstrap))
        # Its ends count open transactions. A commit returns before readers see it: the readable end may lie before it.
        self._asking = Consumer(asking_consumer(bootstrap, committed=False))
        self._reached = {place.partition: 0 for place in places}  # all below was brought, or is no record

    def start(self) -> None:
        """Begin to read."""
        self._consumer.assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in self._places])

    def take(self, wait_s: float = 0.0) -> list[PartitionBatch]:
        """What is here, about a megabyte at most; where that is nothing, what comes first within `wait_s`. Raises
        LogGap."""
        messages = self._consumer.consume(1, wait_s)
        if messages and not messages[0].error():
            messages += more(self._consumer, messages[0], MOST - 1, 0.0)
        by_partition: dict[int, list[Message]] = {}
        for message in messages:
            error, partition = message.error(), message.partition()
            if error is None:
                by_partition.setdefault(partition, []).append(message)
                self._reached[partition] = message.offset() + 1
            elif is_end(message):
                self._reached[partition] = max(message.offset(), self._reached[partition])
            else:
                judge(error, message, self._where)
        return [batch_of(partition, found) for partition, found in by_partition.items()]

    def catch_up(self, stop: threading.Event) -> Generator[list[PartitionBatch]]:
        """See Transport. An open transaction of another worker is waited for: it began before."""
        ends = {p.partition: bounds(self._asking, p.topic, p.partition, self._answer_s)[1] for p in self._places}
        heard = time.monotonic()
        while not stop.is_set() and (left := [p for p, end in ends.items() if self._reached[p] < end]):
            found = self.take(0.1)
            if found:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._silence_s:
                raise BrokerUnavailable(
                    f"its end was not reached, and nothing was read for {self._silence_s:.0f} s",
                    where=f"{self._places[0].topic}{left}",
                    do="Run: forebay doctor",
                )
            yield found

    def close(self) -> None:
        """The end. There is no group to leave: nobody waits for it long."""
        for consumer in (self._consumer, self._asking):
            within(CLOSE_S, consumer.close)
