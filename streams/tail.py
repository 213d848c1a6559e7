"""Reading a topic once, from given offsets to its end as it is now: for checks and for people, never for state."""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from forebay.streams.offsets import bounds


def read(bootstrap: str, topic: str, starts: dict[int, int]) -> Iterator[Message]:
    """Committed records of `topic` from `starts` (partition -> offset) on, ending at each partition's end."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "forebay.tail",  # required by the library; never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 2,
        }
    )
    try:
        # Ends as they are now: a topic with steady traffic has none that stands still.
        ends = {p: bounds(consumer, topic, p) for p in starts}
        left = {p for p, (_, end) in ends.items() if starts[p] < end}
        consumer.assign([TopicPartition(topic, p, max(starts[p], ends[p][0])) for p in left])
        while left:
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
