"""The silent fold: what lies between a store's offset and its group's, read once more and not told again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from forebay.errors import BrokerUnavailable
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.processor import Processor

SILENCE_S = 15.0  # a broker that says nothing for so long is away


def fold_again(
    processor: Processor,
    settings: dict[str, Any],
    partition: int,
    end: int,
    batch_events: int,
    judge: Callable[[KafkaError, Message], None],
    turned: Callable[[], None],
    stop: threading.Event,
) -> int:
    """Fold an open partition silently from its own offset to `end`; returns the events. 65 thousand take half a second
    or less.

    `judge` raises for an error of the reader that must end the worker; `turned` is called with each batch. Returns
    early, with the partition where it came, when `stop` is set. Raises BrokerUnavailable after 15 s without a word.
    """
    owned, events = processor.partitions[partition], 0
    reader = Consumer(settings)
    heard = time.monotonic()
    try:
        reader.assign([TopicPartition(processor.topic, partition, owned.meta.offset)])
        done = False
        while not done and not stop.is_set():
            messages = reader.consume(1, 1.0)  # a full batch would be waited for at the log's end
            messages += reader.consume(batch_events - 1, 0)
            for message in messages:
                if (error := message.error()) is not None and error.code() != KafkaError._PARTITION_EOF:
                    judge(error, message)
            done = any((m.offset() or 0) >= end - 1 for m in messages if _is_place(m))
            records = [m for m in messages if m.error() is None and m.offset() < end]
            if records:
                events += processor.apply([batch_of(partition, records)], aloud=False).events
            if records or done:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                raise BrokerUnavailable(
                    f"nothing was read for {SILENCE_S:.0f} s",
                    where=f"{processor.topic}[{partition}]",
                    do="Run: forebay doctor",
                )
            turned()
    finally:
        within(CLOSE_S, reader.close)
    if done:
        owned.advance(end, 0)  # the last offsets before it may be a transaction's own marks
    return events


def batch_of(partition: int, messages: Sequence[Message]) -> PartitionBatch:
    """Records of one partition, in order of offset, as the Processor takes them."""
    return PartitionBatch(
        partition,
        [m.key() for m in messages],
        [m.value() for m in messages],
        [m.offset() for m in messages],
        [m.timestamp()[1] for m in messages],
    )


def _is_place(message: Message) -> bool:
    error = message.error()
    return error is None or error.code() == KafkaError._PARTITION_EOF
