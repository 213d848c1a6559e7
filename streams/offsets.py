"""Asking a broker where a partition begins and ends, and where a group stands, with patience for elections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from forebay.errors import BrokerUnavailable

T = TypeVar("T")
PATIENCE_S = 15.0  # a topic just created, or a broker just restarted, has no leader for a moment
ANSWER_S = 2.0
_UNKNOWN = {KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}


def bounds(consumer: Consumer, topic: str, partition: int, patience_s: float = PATIENCE_S) -> tuple[int, int]:
    """The first offset kept and the one after the last. Raises BrokerUnavailable after `patience_s` of no answer."""
    place = TopicPartition(topic, partition)

    def ask() -> tuple[int, int]:
        try:
            first, end = consumer.get_watermark_offsets(place, ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() in _UNKNOWN:
                # What a client was told of a topic stays with it for minutes, also by a broker that had just started.
                with contextlib.suppress(KafkaException):
                    consumer.list_topics(topic, ANSWER_S)
            raise
        return first, end

    return patiently(ask, f"{topic}[{partition}]", patience_s)


def committed(consumer: Consumer, topic: str, partition: int, patience_s: float = PATIENCE_S) -> int | None:
    """The next offset of the consumer's group, None before its first commit. Waits for transactions under way."""
    place = TopicPartition(topic, partition)

    def ask() -> int:
        (found,) = consumer.committed([place], ANSWER_S)
        if found.error is not None:  # else it would look like a group that has committed nothing
            raise KafkaException(found.error)
        offset: int = found.offset
        return offset

    offset = patiently(ask, f"{topic}[{partition}]", patience_s)
    return offset if offset >= 0 else None


def patiently(ask: Callable[[], T], where: str, patience_s: float = PATIENCE_S) -> T:
    """What `ask` returns, once it raises no KafkaException. Raises BrokerUnavailable after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > deadline:
                said = error.args[0].str()
                raise BrokerUnavailable(
                    f"no answer about offsets: {said}", where=where, do="Run: forebay doctor"
                ) from None
            time.sleep(0.1)
