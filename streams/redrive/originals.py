"""The whole records of letters that have a part of them, from their source topics."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forebay.errors import BrokerUnavailable
from forebay.streams.clients import letters_consumer
from forebay.streams.cluster import Address
from forebay.streams.connection import connected, kafka_python
from forebay.streams.deadletter import DeadLetter

PATIENCE_S = 15.0


@dataclass(frozen=True)
class Original:
    """A record as its source topic has it."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Originals:
    """Reads one record at a time: a connection and a question for each. One thread."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def find(self, letter: DeadLetter) -> Original | None:
        """The record that `letter` is of; None where it has left its topic, or another one is in its place: by its
        length and hash. Raises BrokerUnavailable after 15 s of no answer."""
        from kafka import TopicPartition

        place = TopicPartition(letter.topic, letter.partition)
        try:
            first = self._consumer.beginning_offsets([place])[place]
            end = self._consumer.end_offsets([place])[place]
        except kafka_python().errors.KafkaError as error:
            raise BrokerUnavailable(f"no answer about offsets: {error}", where=letter.topic) from None
        if not first <= letter.offset < end:
            return None
        self._consumer.assign([place])
        self._consumer.seek(place, letter.offset)
        deadline = time.monotonic() + PATIENCE_S
        while self._consumer.position(place) <= letter.offset:
            for record in self._consumer.poll(timeout_ms=500, max_records=1).get(place, ()):
                return _checked(record, letter) if record.offset == letter.offset else None
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"nothing was read for {PATIENCE_S:.0f} s",
                    where=f"{letter.topic}[{letter.partition}]", do="Run: forebay doctor",
                )  # fmt: skip
        return None


@contextmanager
def opened(bootstrap: Address) -> Iterator[Originals]:
    """Over a consumer outside any group. Raises BrokerUnavailable."""
    # A fetch brings at least one record, however large it is, and what it brings besides is thrown away.
    consumer = connected("KafkaConsumer", bootstrap, **letters_consumer(), max_partition_fetch_bytes=64 << 10)
    try:
        yield Originals(consumer)
    finally:
        consumer.close()


def _checked(record: Any, letter: DeadLetter) -> Original | None:
    for data, length, digest in (
        (record.key, letter.key_length, letter.key_sha256),
        (record.value, letter.length, letter.sha256),
    ):
        if len(data or b"") != length or ("" if data is None else hashlib.sha256(data).hexdigest()) != digest:
            return None
    return Original(record.key, record.value, [(name, data or b"") for name, data in record.headers or ()])
