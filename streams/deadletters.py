"""Dead letters: records that the Intake refused, kept with their bytes, their place and the reason.

A dead letter's key and value are the first 4 KiB and 64 KiB of the original record's, which stays in its source topic;
what is known about it, the lengths and hashes of the whole included, is in text headers (the Intake writes them in its
transaction, once; everyone reads committed ones only). A record may be as large as its topic allows: with all of it
and the headers the letter would be larger, and the transaction would be refused for good.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import forebay
from forebay.errors import BrokerUnavailable, EventError, TopicMissing
from forebay.streams.clients import letters_consumer
from forebay.streams.cluster import Address
from forebay.streams.connection import connected
from forebay.streams.topics import Topics

MAX_MESSAGE = 200
MAX_VALUE_BYTES = 64 * 1024  # any event: only what is no event is cut
MAX_KEY_BYTES = 4 * 1024  # any id is 16 times shorter
LAST = 1_000_000  # offsets that are looked through for people: half a minute at 30 k letters a second
MAX_REASONS = 100
PATIENCE_S = 30.0
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_FIELDS = (
    "reason", "message", "topic", "partition", "offset", "append_time", "processor", "version",
    "length", "sha256", "key_length", "key_sha256",
)  # fmt: skip

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class DeadLetter:
    """One record that was refused. `append_time` is that record's, in milliseconds since 1970; `processor` is
    the stage that refused it.

    `length` (bytes) and `sha256` (64 hex digits; "" for None) are those of the whole value, of which `value` may be the
    beginning only; `key_length` and `key_sha256` those of the whole key. Where they are not given, `value` and `key`
    are whole.
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
        """Whether key and value are the record's, to be driven again from here; the whole of a cut one is in its source
        topic."""
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
        """The dead letter of a record that `error` refuses, its bytes cut to what a letter carries. What the error
        quotes from the record is left out."""
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

    def without_content(self) -> Self:
        """Key and value left out, what is known about them kept."""
        return replace(self, key=None, value=None)

    def to_record(self) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers, as both Kafka clients take them."""
        texts = {name: str(getattr(self, name)) for name in _FIELDS}
        texts["message"] = texts["message"][:MAX_MESSAGE]
        headers = [(f"forebay.{name}", text.encode("utf-8", "replace")) for name, text in texts.items()]
        return self.key, self.value, headers

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] | None) -> Self:
        """The dead letter in a record. Never raises: what a foreign record lacks is "" or -1; a record without lengths
        is whole, as those of older versions are."""
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


@dataclass(frozen=True)
class Placed:
    """A letter at its own place in the topic of dead letters, where it was `appended` (ms)."""

    letter: DeadLetter
    partition: int
    offset: int
    appended: int


@dataclass(frozen=True)
class Reason:
    """How many letters have one reason, and the newest of them. `reason` is cut to 64 characters."""

    reason: str
    count: int
    newest: Placed


def read(bootstrap: Address, topics: Topics, limit: int = 100, **client: Any) -> list[DeadLetter]:
    """The newest `limit` committed dead letters, oldest of them first. Raises TopicMissing and BrokerUnavailable."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        newest: list[Placed] = []
        for place, (first, end) in places.items():
            span = 2 * limit + 16  # each transaction has a marker that takes an offset: half may be no letters
            while True:
                start = max(first, end - span)
                found = deque(_letters(consumer, place, start, end), maxlen=limit)
                if len(found) >= limit or start == first:
                    break
                span *= 4
            newest.extend(found)
    newest.sort(key=lambda placed: placed.appended)
    return [placed.letter for placed in newest[-limit:]] if limit > 0 else []


def count(bootstrap: Address, topics: Topics, **client: Any) -> dict[str, int]:
    """Committed dead letters by reason, most frequent first. Reads the whole topic: offsets count markers as well."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        reasons = Counter(
            placed.letter.reason for place, span in places.items() for placed in _letters(consumer, place, *span)
        )
    return dict(reasons.most_common())


def reasons(bootstrap: Address, topics: Topics, last: int = LAST, **client: Any) -> list[Reason]:
    """Committed letters among the newest `last` offsets of each partition by reason, most frequent first.

    One letter of each reason is in memory at a time. The Intake knows a dozen reasons; past 100 that strangers wrote,
    the rest counts as "(other)". Raises TopicMissing and BrokerUnavailable.
    """
    found: dict[str, Reason] = {}
    with _consumer(bootstrap, topics, client) as (consumer, places):
        for place, (first, end) in places.items():
            for placed in _letters(consumer, place, max(first, end - last), end):
                name = placed.letter.reason[:64]
                name = name if name in found or len(found) < MAX_REASONS else "(other)"
                before = found.get(name)
                newest = placed if before is None or placed.appended >= before.newest.appended else before.newest
                found[name] = Reason(name, (before.count if before else 0) + 1, newest)
    return sorted(found.values(), key=lambda r: (-r.count, r.reason))


def find(
    bootstrap: Address, topics: Topics, topic: str, partition: int, offset: int, last: int = LAST, **client: Any
) -> Placed | None:
    """The newest letter of the record at `offset` of a source partition, among the newest `last` offsets; None without
    one.

    A record that was driven again may have several. Raises TopicMissing and BrokerUnavailable.
    """
    wanted, newest = (topic, partition, offset), None
    with _consumer(bootstrap, topics, client) as (consumer, places):
        for place, (first, end) in places.items():
            for placed in _letters(consumer, place, max(first, end - last), end):
                letter = placed.letter
                if (letter.topic, letter.partition, letter.offset) == wanted:
                    newest = placed if newest is None or placed.appended >= newest.appended else newest
    return newest


def at(bootstrap: Address, topics: Topics, partition: int, offset: int, **client: Any) -> Placed | None:
    """The letter at its own `offset` in the topic of dead letters; None where there is none. Errors as in `find`."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        for place, (first, end) in places.items():
            if place.partition == partition and first <= offset < end:
                return next(_letters(consumer, place, offset, offset + 1), None)
    return None


@contextmanager
def _consumer(
    bootstrap: Address, topics: Topics, client: dict[str, Any]
) -> Iterator[tuple[Any, dict[Any, tuple[int, int]]]]:
    """A consumer outside any group, and the first and end offset of each partition."""
    consumer = connected("KafkaConsumer", bootstrap, **(letters_consumer() | client))
    try:
        from kafka import TopicPartition

        partitions = consumer.partitions_for_topic(topics.dead_letters)
        if not partitions:
            raise TopicMissing(
                f'no topic "{topics.dead_letters}"', where=str(bootstrap), do="Run: forebay topics create"
            )
        places: Sequence[Any] = [TopicPartition(topics.dead_letters, number) for number in sorted(partitions)]
        first, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
        yield consumer, {place: (first[place], end[place]) for place in places}
    finally:
        consumer.close()


def _letters(consumer: Any, place: Any, start: int, end: int) -> Iterator[Placed]:
    """What is committed from `start` to before `end`, in order. Raises BrokerUnavailable after 30 s without
    progress."""
    consumer.assign([place])
    consumer.seek(place, start)
    position, since = start, time.monotonic()
    while position < end:
        for record in consumer.poll(timeout_ms=500).get(place, ()):
            if record.offset < end:
                letter = DeadLetter.from_record(record.key, record.value, record.headers)
                yield Placed(letter, place.partition, record.offset, record.timestamp)
        now = consumer.position(place)
        if now > position:
            position, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE_S:
            raise BrokerUnavailable(
                f"nothing was read for {PATIENCE_S:.0f} s",
                where=f"{place.topic}[{place.partition}]",
                do="Run: forebay doctor",
            )
