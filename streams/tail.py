"""Reading a topic once, from given offsets to its end as it is now: for checks and for people, never for state."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from forebay.streams.clients import tail_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds


def newest(bootstrap: Address, topic: str, partitions: int, limit: int, seconds: float) -> Iterator[Message]:
    """About the newest `limit` committed records of `topic`, an equal share of each partition (transactions' markers
    take places), as far as they can be read in `seconds`."""
    consumer = Consumer(tail_consumer(bootstrap))
    try:
        ends = {p: bounds(consumer, topic, p)[1] for p in range(partitions)}
    finally:
        consumer.close()
    yield from read(bootstrap, topic, {p: max(0, end - limit // partitions) for p, end in ends.items()}, seconds)


def read(bootstrap: Address, topic: str, starts: dict[int, int], seconds: float | None = None) -> Iterator[Message]:
    """Committed records of `topic` from `starts` (partition -> offset) on, ending at each partition's end, or after
    `seconds`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    consumer = Consumer(tail_consumer(bootstrap))
    try:
        # Ends as they are now: a topic with steady traffic has none that stands still.
        ends = {p: bounds(consumer, topic, p) for p in starts}
        left = {p for p, (_, end) in ends.items() if starts[p] < end}
        consumer.assign([TopicPartition(topic, p, max(starts[p], ends[p][0])) for p in left])
        while left and (deadline is None or time.monotonic() < deadline):
            for message in consumer.consume(1000, 0.5):
                error = message.error()
                if error is None:
                    if message.offset() < ends[message.partition()][1]:
                        yield message
                    if message.offset() >= ends[message.partition()][1] - 1:
                        left.discard(message.partition())
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
