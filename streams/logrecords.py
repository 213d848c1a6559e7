"""The records of one partition of a clean log up to an end, for jobs that end: a backfill, an archive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from forebay.errors import BlockError, BlockTooNew, BrokerError, BrokerUnavailable, LogGap
from forebay.segments.blocks.block import Block

PATIENCE_S = 30.0  # without a record that must be there
_AT_ONCE = 32  # records: 700 kB each, at most
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)  # the client tries again


def records(
    consumer: Consumer, topic: str, partition: int, first: int, end: int, gap: LogGap, stop: threading.Event
) -> Iterator[Message]:
    """The committed records from `first` to before `end`, until `stop` is set. `consumer` is a `log_consumer`, and is
    assigned to this partition alone.

    Raises `gap` where what is to be read next has left the log, BrokerUnavailable after 30 s of silence, BrokerError.
    """
    if first >= end:
        return
    consumer.assign([TopicPartition(topic, partition, first)])
    waited = 0.0
    while not stop.is_set():
        began = time.monotonic()
        messages = consumer.consume(_AT_ONCE, 0.5)
        waited = 0.0 if messages else waited + time.monotonic() - began
        for message in messages:
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    if message.offset() >= end:
                        return
                elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    raise gap
                elif error.code() not in _PASSING:
                    raise BrokerError(f"cannot be read: {error.str()}", where=at(message), do="Run: forebay doctor")
            elif message.offset() >= end:
                return
            else:
                yield message
                if message.offset() == end - 1:
                    return
        if waited > PATIENCE_S:
            raise BrokerUnavailable(
                f"nothing was read for {PATIENCE_S:.0f} s", where=f"{topic}[{partition}]", do="Run: forebay doctor"
            )


def block_in(message: Message, upgrade: str) -> Block:
    """The Block of a record. Raises BlockError for a stranger's, and BlockTooNew, with its place and `upgrade`."""
    try:
        return Block.of_record(message.headers(), message.value())
    except BlockTooNew as error:
        raise BlockTooNew(error.what, where=at(message), do=upgrade) from None
    except BlockError as error:
        raise BlockError(error.what, where=at(message), do=error.do) from None


def at(message: Message) -> str:
    """Where a record is, for errors."""
    return f"{message.topic()}[{message.partition()}], offset {message.offset()}"
