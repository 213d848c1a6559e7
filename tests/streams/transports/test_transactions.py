"""Step 4 against a real broker: all or nothing, and only by the one who owns the slot and the partitions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from forebay.errors import BrokerError, BrokerUnavailable, EventError, Fenced
from forebay.streams.deadletter import DeadLetter
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.offsets import committed
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import Record

pytestmark = pytest.mark.broker
PARTITIONS = 2


@pytest.fixture
def there(kafka: DevKafka, topics: Topics) -> Topics:
    """Topics of generation g1 that exist."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    return topics


@pytest.fixture
def open_log(kafka: DevKafka, there: Topics) -> Callable[..., TransactionLog]:
    """The writing end of one slot."""

    def make(slot: str = "0", timeout_ms: int = 10_000) -> TransactionLog:
        name = f"{there.prefix}{slot}"
        return TransactionLog(kafka.bootstrap, "user worker", transactional_id=name, timeout_ms=timeout_ms)

    return make


@pytest.fixture
def whole(read: Callable[..., Any]) -> Callable[[str], list[Any]]:
    """All committed records of a topic."""
    return lambda topic: read(topic, dict.fromkeys(range(PARTITIONS), 0))


def _records(topics: Topics, name: str = "u1") -> list[Record]:
    """By partition and by key, with headers and without a value."""
    letter = DeadLetter(b"k", b"\xff", "late", "…", "behaviour", 0, 7, 1, "intake")
    return [
        Record(topics.vectors("g1", "user"), 0, name.encode(), b"row"),
        Record(topics.vectors("g1", "user"), 1, b"gone", None),
        Record(topics.events("item"), 1, None, name.encode(), (("kind", b"block"),)),
        Record(topics.dead_letters, -1, *letter.to_record()),
    ]


def _group(kafka: DevKafka, name: str) -> Consumer:
    return Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": name, "session.timeout.ms": 6000})


def test_a_commit_puts_everything_where_it_belongs(
    kafka: DevKafka, there: Topics, open_log: Callable[..., TransactionLog], whole: Callable[..., Any]
) -> None:
    """Records by partition or by key, headers and values that are none, and the offsets of the group with notes."""
    consumer = _group(kafka, f"{there.prefix}group")
    offsets = [TopicPartition(there.behaviour, 1, 42, "as of then")]
    log = open_log()
    log.commit(_records(there), offsets, consumer.consumer_group_metadata())
    log.close()
    records = {(m.partition(), m.key()): m.value() for m in whole(there.vectors("g1", "user"))}
    assert records == {(0, b"u1"): b"row", (1, b"gone"): None}
    (block,) = whole(there.events("item"))
    assert (block.partition(), block.key(), block.value(), block.headers()) == (1, None, b"u1", [("kind", b"block")])
    assert [d.offset for d in read_letters(kafka.bootstrap, there)] == [7]
    assert (committed(consumer, there.behaviour, 0), committed(consumer, there.behaviour, 1)) == (None, 42)
    (place,) = consumer.committed([TopicPartition(there.behaviour, 1)], 10)
    assert place.metadata == "as of then"
    consumer.close()


def test_the_letter_of_a_record_as_large_as_the_topic_takes_is_committed(
    kafka: DevKafka, there: Topics, open_log: Callable[..., TransactionLog]
) -> None:
    """Key and value of the record fill `message.max.bytes`: its letter, headers included, must still go."""
    value, key = b"x" * 1_000_000, b"k" * 40_000
    letter = DeadLetter.of(
        EventError("too_large", "a record"),
        key=key, value=value, topic=there.behaviour, partition=0, offset=7, append_time=1, processor="intake",
    )  # fmt: skip
    open_log().commit([Record(there.dead_letters, -1, *letter.to_record())], [], None)
    assert read_letters(kafka.bootstrap, there) == [letter]
    assert (letter.length, letter.key_length) == (1_000_000, 40_000)


def test_a_second_worker_in_the_same_slot_fences_the_first(
    there: Topics, open_log: Callable[..., TransactionLog], whole: Callable[..., Any]
) -> None:
    """The first one's next batch is refused for good, and nothing of it can be read."""
    first = open_log()
    first.commit(_records(there, "before"), [], None)
    second = open_log()
    with pytest.raises(Fenced, match="Give each worker process a --slot of its own"):
        first.commit(_records(there, "after"), [], None)
    second.commit(_records(there, "second"), [], None)
    assert {m.value() for m in whole(there.events("item"))} == {b"before", b"second"}


def test_a_worker_that_lost_its_partitions_commits_nothing(
    kafka: DevKafka, there: Topics, open_log: Callable[..., TransactionLog], whole: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Its group has gone on without it: the offsets are refused, and everything with them; the log can be used
    again."""
    name = f"{there.prefix}group"

    def join() -> Consumer:
        consumer = _group(kafka, name)
        consumer.subscribe([there.behaviour])
        wait_for(lambda: consumer.poll(0.1) is None and consumer.assignment(), "the assignment")
        return consumer

    first = join()
    stale = first.consumer_group_metadata()
    first.close()
    second = join()
    log = open_log()
    with pytest.raises(BrokerError) as refused:
        log.commit(_records(there), [TopicPartition(there.behaviour, 0, 5)], stale)
    assert type(refused.value) is BrokerError
    assert [whole(topic) for topic in (there.events("item"), there.vectors("g1", "user"))] == [[], []]
    assert read_letters(kafka.bootstrap, there) == []
    assert committed(second, there.behaviour, 0) is None
    fresh = second.consumer_group_metadata()
    log.commit(_records(there), [TopicPartition(there.behaviour, 0, 5)], fresh)
    assert len(whole(there.events("item"))) == 1 and committed(second, there.behaviour, 0) == 5
    second.close()


ABANDON = """
import os, signal, sys
from forebay.streams.topics import Topics
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import Record
mine = {"transactional_id": sys.argv[2] + "0", "timeout_ms": 600_000}
log = TransactionLog(sys.argv[1], "user worker", **mine)
log._producer.begin_transaction()
log._produce(Record(Topics(sys.argv[2]).events("item"), 1, None, b"never read"))
log._producer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_worker_left_open_is_aborted_by_the_next_one_in_its_slot(
    kafka: DevKafka, there: Topics, open_log: Callable[..., TransactionLog], whole: Callable[..., Any]
) -> None:
    """At once, though its transaction might have lasted ten minutes: readers are not held up."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    killed = subprocess.run(
        [sys.executable, "-c", ABANDON, kafka.bootstrap, there.prefix], env=environment, timeout=60, check=False
    )
    assert killed.returncode == -9
    open_log().commit(_records(there), [], None)
    assert [m.value() for m in whole(there.events("item"))] == [b"u1"]


def test_without_a_broker_the_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do about it."""
    monkeypatch.setattr("forebay.streams.transports.librdkafka.transactions.OPERATION_TIMEOUT_S", 0.5)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1.*forebay doctor"):
        TransactionLog("127.0.0.1:1", "user worker", transactional_id="x", timeout_ms=1000)
