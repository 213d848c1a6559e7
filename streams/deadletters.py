"""Dead letters: records that no Processor could take, kept with their bytes, their place and the reason.

A dead letter's key and value are the first 4 KiB and 64 KiB of the original record's, which stays in its source topic; what is known
about it, the lengths and hashes of the whole included, is in text headers (the Processor writes them in its transaction, once; everyone
reads committed ones only). A record may be as large as its topic allows: with all of it and the headers the letter would be larger, and
the transaction would be refused for good.
"""

from __future__ import annotations

import hashlib
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
MAX_VALUE_BYTES = 64 * 1024  # any event: only what is no event is cut
MAX_KEY_BYTES = 4 * 1024  # any id is 16 times shorter
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_FIELDS = (
    "reason", "message", "topic", "partition", "offset", "append_time", "processor", "version",
    "length", "sha256", "key_length", "key_sha256",
)  # fmt: skip

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class DeadLetter:
    """One record that was refused. `append_time` is that record's, in milliseconds since 1970; `processor` is a side.

    `length` (bytes) and `sha256` (64 hex digits; "" for None) are those of the whole value, of which `value` may be the beginning
    only; `key_length` and `key_sha256` those of the whole key. Where they are not given, `value` and `key` are whole.
    """

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
    length: int = -1
    sha256: str = ""
    key_length: int = -1
    key_sha256: str = ""

    def __post_init__(self) -> None:
        for kept, length, digest in ((self.value, "length", "sha256"), (self.key, "key_length", "key_sha256")):
            if getattr(self, length) < 0:
                object.__setattr__(self, length, len(kept or b""))
                object.__setattr__(self, digest, _sha256(kept))

    @property
    def is_whole(self) -> bool:
        """Whether key and value are the record's, to be driven again from here; the whole of a cut one is in its source topic."""
        return self.length == len(self.value or b"") and self.key_length == len(self.key or b"")

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
        """The dead letter of a record that `error` refuses, its bytes cut to what a letter carries. What the error quotes from the
        record is left out."""
        return cls(
            key=None if key is None else key[:MAX_KEY_BYTES],
            value=None if value is None else value[:MAX_VALUE_BYTES],
            reason=error.reason,
            message=_QUOTED.sub("'…'", error.what)[:MAX_MESSAGE],
            topic=topic,
            partition=partition,
            offset=offset,
            append_time=append_time,
            processor=processor,
            length=len(value or b""),
            sha256=_sha256(value),
            key_length=len(key or b""),
            key_sha256=_sha256(key),
        )

    def to_record(self) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers, as both Kafka clients take them."""
        texts = {name: str(getattr(self, name)) for name in _FIELDS}
        texts["message"] = texts["message"][:MAX_MESSAGE]
        headers = [(f"forebay.{name}", text.encode("utf-8", "replace")) for name, text in texts.items()]
        return self.key, self.value, headers

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] | None) -> Self:
        """The dead letter in a record. Never raises: what a foreign record lacks is "" or -1; a record without lengths is whole, as
        those of older versions are."""
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
            length=number("length"),
            sha256=text("sha256"),
            key_length=number("key_length"),
            key_sha256=text("key_sha256"),
        )


def _sha256(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()


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
