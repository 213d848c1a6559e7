"""Dead letters: records that no Processor could take, kept with their bytes, their place and the reason.

A dead letter's key and value are those of the original record, untouched, so that it can be driven again; what is known about it is in
text headers (the Processor writes them in its transaction, once; everyone reads committed ones only).
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import forebay
from forebay.errors import EventError, TopicMissing
from forebay.streams.connection import connected
from forebay.streams.topics import Topics

MAX_MESSAGE = 200
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_FIELDS = ("reason", "message", "topic", "partition", "offset", "append_time", "processor", "version")

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class DeadLetter:
    """One record that was refused. `append_time` is that record's, in milliseconds since 1970; `processor` is a side."""

    key: bytes | None
    value: bytes | None
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    append_time: int
    processor: str
    version: str = forebay.__version__

    @classmethod
    def of(
        cls,
        error: EventError,
        *,
        key: bytes | None,
        value: bytes | None,
        topic: str,
        partition: int,
        offset: int,
        append_time: int,
        processor: str,
    ) -> Self:
        """The dead letter of a record that `error` refuses. What the error quotes from the record is left out."""
        message = _QUOTED.sub("'…'", error.what)[:MAX_MESSAGE]
        return cls(key, value, error.reason, message, topic, partition, offset, append_time, processor)

    def to_record(self) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers, as both Kafka clients take them."""
        texts = {name: str(getattr(self, name)) for name in _FIELDS}
        texts["message"] = texts["message"][:MAX_MESSAGE]
        headers = [(f"forebay.{name}", text.encode("utf-8", "replace")) for name, text in texts.items()]
        return self.key, self.value, headers

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] | None) -> Self:
        """The dead letter in a record. Never raises: what a foreign record lacks is "" or -1."""
        texts = {name: (data or b"").decode("utf-8", "replace") for name, data in headers or ()}

        def text(name: str) -> str:
            return texts.get(f"forebay.{name}", "")

        def number(name: str) -> int:
            return int(text(name)) if re.fullmatch(r"-?[0-9]{1,19}", text(name)) else -1

        return cls(
            key=key,
            value=value,
            reason=text("reason"),
            message=text("message"),
            topic=text("topic"),
            partition=number("partition"),
            offset=number("offset"),
            append_time=number("append_time"),
            processor=text("processor"),
            version=text("version"),
        )


def read(bootstrap: str, topics: Topics, limit: int = 100, **client: Any) -> list[DeadLetter]:
    """The newest `limit` committed dead letters, oldest of them first. Raises TopicMissing and BrokerUnavailable."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        newest: list[tuple[int, DeadLetter]] = []
        for place, (first, end) in places.items():
            span = 2 * limit + 16  # each transaction has a marker that takes an offset: half may be no letters
            while True:
                start = max(first, end - span)
                found = deque(_letters(consumer, place, start, end), maxlen=limit)
                if len(found) >= limit or start == first:
                    break
                span *= 4
            newest.extend(found)
    newest.sort(key=lambda pair: pair[0])
    return [letter for _, letter in newest[-limit:]] if limit > 0 else []


def count(bootstrap: str, topics: Topics, **client: Any) -> dict[str, int]:
    """Committed dead letters by reason, most frequent first. Reads the whole topic: offsets count markers as well."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        reasons = Counter(
            letter.reason for place, span in places.items() for _, letter in _letters(consumer, place, *span)
        )
    return dict(reasons.most_common())


@contextmanager
def _consumer(
    bootstrap: str, topics: Topics, client: dict[str, Any]
) -> Iterator[tuple[Any, dict[Any, tuple[int, int]]]]:
    """A consumer outside any group, and the first and end offset of each partition."""
    consumer = connected(
        "KafkaConsumer",
        bootstrap,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        allow_auto_create_topics=False,
        **client,
    )
    try:
        from kafka import TopicPartition

        partitions = consumer.partitions_for_topic(topics.dead_letters)
        if not partitions:
            raise TopicMissing(f'no topic "{topics.dead_letters}"', where=bootstrap, do="Run: forebay topics create")
        places: Sequence[Any] = [TopicPartition(topics.dead_letters, number) for number in sorted(partitions)]
        first, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
        yield consumer, {place: (first[place], end[place]) for place in places}
    finally:
        consumer.close()


def _letters(consumer: Any, place: Any, start: int, end: int) -> Iterator[tuple[int, DeadLetter]]:
    """Append time in the dead letter topic, and the letter, of what is committed from `start` to before `end`."""
    consumer.assign([place])
    consumer.seek(place, start)
    while consumer.position(place) < end:
        for record in consumer.poll(timeout_ms=500).get(place, ()):
            if record.offset < end:
                yield record.timestamp, DeadLetter.from_record(record.key, record.value, record.headers)
