"""What a consumer brings: messages, ends of partitions and errors, and batches of the first."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, Message

from forebay.errors import Fenced
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.refusals import overtaken

MOST_BYTES = 1 << 20  # of one poll, about: Blocks have up to 4,096 events apiece
_GONE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
log = logging.getLogger("forebay.librdkafka")


def more(consumer: Consumer, first: Message, most: int, hold_s: float) -> list[Message]:
    """What is there behind `first` and, with `hold_s`, what comes soon: up to `most` records, about a megabyte. How
    many those are is told by the size of what has come: one Block is as large as thousands of raw records."""
    found: list[Message] = []
    size, until = len(first), time.monotonic() + hold_s
    while len(found) < most and size < MOST_BYTES:
        left = (MOST_BYTES - size) * (len(found) + 1) // max(1, size)
        part = consumer.consume(min(max(1, left), most - len(found)), 0)
        if not part and (left_s := until - time.monotonic()) > 0:
            part = consumer.consume(1, left_s)
        if not part:
            break
        found += part
        size += sum(len(message) for message in part)
    return found


def is_end(message: Message) -> bool:
    """Whether it tells of a partition's end."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def is_fatal(error: KafkaError) -> bool:
    """Whether its consumer is of no use any more. One that was fenced says so by its code alone: `fatal()` is false
    (confluent-kafka-python #869)."""
    return bool(error.fatal()) or error.code() == KafkaError._FATAL


def judge(error: KafkaError, message: Message, where: str) -> None:
    """Log an error that the client mends by itself. Raises LogGap where what is to be read has left the log, and Fenced
    where the consumer cannot go on; `where` is the broker, for errors."""
    if error.code() in _GONE:
        raise overtaken(f"{message.topic()}[{message.partition()}]")
    if is_fatal(error):
        raise Fenced(
            f"the consumer cannot go on: {error.str()}", where=where, do="Give each worker process a --slot of its own"
        )
    log.warning("kafka: %s", error.str())


def batch_of(partition: int, messages: Sequence[Message]) -> PartitionBatch:
    """The records of one partition, in order."""
    return PartitionBatch(
        partition,
        [m.key() for m in messages],
        [m.value() for m in messages],
        [m.offset() for m in messages],
        [m.timestamp()[1] for m in messages],
        [m.headers() or () for m in messages],
    )
