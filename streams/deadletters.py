"""Dead letters as they are read back: committed ones only, one in memory at a time, however many there are."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from forebay.errors import BrokerUnavailable, TopicMissing
from forebay.streams.clients import letters_consumer
from forebay.streams.cluster import Address
from forebay.streams.connection import connected, kafka_python
from forebay.streams.deadletter import DeadLetter
from forebay.streams.letterfilter import EVER_MS, LetterFilter, Placed
from forebay.streams.topics import Topics

LAST = 1_000_000  # offsets that are looked through for people: half a minute at 30 k letters a second
MAX_REASONS = 100
PATIENCE_S = 30.0
ANSWER_MS = 5000  # for an answer about offsets
EVERY = LetterFilter()
NEWEST = LetterFilter(last=LAST)
Told: TypeAlias = Callable[[int, int], None]  # so many offsets are read, of so many


def _silent(done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Reason:
    """How many letters have one reason, and the newest of them. `reason` is cut to 64 characters."""

    reason: str
    count: int
    newest: Placed


class Letters:
    """The letters of a topic that a filter holds, as of when it was opened: every pass gives the same ones, as far as
    the topic still keeps them. One thread."""

    def __init__(self, consumer: Any, spans: Mapping[Any, tuple[int, int]], wanted: LetterFilter) -> None:
        """`spans` are first and end offset of each partition."""
        self._consumer, self._spans, self._wanted = consumer, spans, wanted

    def __bool__(self) -> bool:
        return any(first < end for first, end in self._spans.values())

    def read(self, told: Told = _silent) -> Iterator[Placed]:
        """In order within each partition, one partition after the other. Raises BrokerUnavailable after 30 s without
        progress."""
        before, total = 0, sum(end - first for first, end in self._spans.values())
        for place, (first, end) in self._spans.items():
            for placed in _letters(self._consumer, place, first, end):
                if self._wanted.holds(placed):
                    yield placed
                if not placed.offset % 1000:
                    told(before + placed.offset - first, total)
            before += end - first
        told(total, total)


@contextmanager
def opened(bootstrap: Address, topics: Topics, wanted: LetterFilter = EVERY, **client: Any) -> Iterator[Letters]:
    """The letters that `wanted` holds. Raises TopicMissing and BrokerUnavailable."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        yield Letters(consumer, _spans(consumer, places, wanted), wanted)


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


def count(bootstrap: Address, topics: Topics, wanted: LetterFilter = EVERY, **client: Any) -> dict[str, int]:
    """Letters by reason, most frequent first. Reads the whole topic: offsets count markers as well."""
    with opened(bootstrap, topics, wanted, **client) as letters:
        found = Counter(placed.letter.reason for placed in letters.read())
    return dict(found.most_common())


def reasons(
    bootstrap: Address, topics: Topics, wanted: LetterFilter = NEWEST, told: Told = _silent, **client: Any
) -> list[Reason]:
    """Letters by reason, most frequent first.

    One letter of each reason is in memory at a time. The Intake knows a dozen reasons; past 100 that strangers wrote,
    the rest counts as "(other)". Raises TopicMissing and BrokerUnavailable.
    """
    found: dict[str, Reason] = {}
    with opened(bootstrap, topics, wanted, **client) as letters:
        for placed in letters.read(told):
            name = placed.letter.reason[:64]
            name = name if name in found or len(found) < MAX_REASONS else "(other)"
            before = found.get(name)
            newest = placed if before is None else _newer(before.newest, placed)
            found[name] = Reason(name, (before.count if before else 0) + 1, newest)
    return sorted(found.values(), key=lambda r: (-r.count, r.reason))


def newest(
    bootstrap: Address, topics: Topics, wanted: LetterFilter = NEWEST, told: Told = _silent, **client: Any
) -> Placed | None:
    """The newest letter; None without one. Raises TopicMissing and BrokerUnavailable."""
    found = None
    with opened(bootstrap, topics, wanted, **client) as letters:
        for placed in letters.read(told):
            found = placed if found is None else _newer(found, placed)
    return found


def find(
    bootstrap: Address, topics: Topics, topic: str, partition: int, offset: int, wanted: LetterFilter = NEWEST,
    told: Told = _silent, **client: Any,
) -> Placed | None:  # fmt: skip
    """The newest letter of the record at `offset` of a source partition; None without one.

    A record that was read again may have several. Raises TopicMissing and BrokerUnavailable.
    """
    record, found = (topic, partition, offset), None
    with opened(bootstrap, topics, wanted, **client) as letters:
        for placed in letters.read(told):
            letter = placed.letter
            if (letter.topic, letter.partition, letter.offset) == record:
                found = placed if found is None else _newer(found, placed)
    return found


def at(
    bootstrap: Address, topics: Topics, partition: int, offset: int, wanted: LetterFilter = EVERY, **client: Any
) -> Placed | None:
    """The letter at its own `offset` in the topic of dead letters; None where there is none. Errors as in `find`."""
    with _consumer(bootstrap, topics, client) as (consumer, places):
        for place, (first, end) in places.items():
            if place.partition == partition and first <= offset < end:
                found = next(_letters(consumer, place, offset, offset + 1), None)
                return found if found is not None and wanted.holds(found) else None
    return None


def _newer(one: Placed, other: Placed) -> Placed:
    return other if other.appended >= one.appended else one


def _spans(consumer: Any, places: Mapping[Any, tuple[int, int]], wanted: LetterFilter) -> dict[Any, tuple[int, int]]:
    """Which offsets may have what is wanted. The log's clock only goes forward: nothing of before `since_ms` lies
    behind the first record of then, and nothing wanted behind the first of `until_ms`."""
    found = dict(places)
    if wanted.last:
        found = {place: (max(first, end - wanted.last), end) for place, (first, end) in found.items()}
    if wanted.since_ms > 0:
        starts = _first_since(consumer, places, wanted.since_ms)
        found = {place: (max(first, starts[place]), end) for place, (first, end) in found.items()}
    if wanted.until_ms < EVER_MS:
        ends = _first_since(consumer, places, wanted.until_ms)
        found = {place: (first, min(end, ends[place])) for place, (first, end) in found.items()}
    return {place: (min(first, end), end) for place, (first, end) in found.items()}


def _first_since(consumer: Any, places: Mapping[Any, tuple[int, int]], moment_ms: int) -> dict[Any, int]:
    """The offset of the first record of each partition that was appended at `moment_ms` or later, or the end."""
    try:
        found = consumer.offsets_for_times(dict.fromkeys(places, moment_ms), ANSWER_MS)
    except kafka_python().errors.KafkaError as error:
        raise BrokerUnavailable(f"no answer about offsets: {error}", do="Run: forebay doctor") from None
    return {place: found[place].offset if found.get(place) else end for place, (_, end) in places.items()}


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
