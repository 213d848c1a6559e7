"""Nothing that a record contains can stop a partition: what a broker refuses is found, and goes without its content."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import TopicMismatch
from forebay.events import Behaviour
from forebay.segments.history import History
from forebay.segments.spec import SIDES
from forebay.streams.connection import connected
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.options import WorkerOptions

pytestmark = pytest.mark.broker
PARTITIONS = 2


def _bound(kafka: DevKafka, topic: str, most: int) -> None:
    """A topic's records may have so many bytes from now on."""
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        from kafka.admin import ConfigResource

        admin.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": str(most)})])


@pytest.fixture
def narrow(kafka: DevKafka, topics: Topics) -> Topics:
    """Topics whose dead letters may have 20,000 bytes and no more."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    _bound(kafka, topics.dead_letters, 20000)
    return topics


def test_a_dead_letter_that_the_broker_refuses_goes_without_its_content(
    kafka: DevKafka, narrow: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None],
    make_history: Callable[..., History], lag: Callable[..., int], clean: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Two large ones amid good events and small bad ones: each of the others is done once, and work goes on, restarts
    included."""
    events = make_history(400, until_ms=time.time_ns() // 1_000_000).behaviours
    large, small = b"{" + b"x" * 60_000, b"no event"
    publish(narrow.behaviour, events[:150])
    publish(narrow.behaviour, [(b"u1", large), (b"u1", small)], 0)
    publish(narrow.behaviour, events[150:300])
    publish(narrow.behaviour, [(b"u1", large)], 1)
    options = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2)
    for part in ([], events[300:]):
        publish(narrow.behaviour, part)
        with work(narrow, "intake", tmp_path, options=options) as worker:
            wait_for(lambda: lag(narrow.behaviour, worker.group, PARTITIONS) == 0 or worker.ended, "the events")
    assert Counter(e.id for e in clean(narrow, "item")) == Counter(e.id for e in events)
    letters = read_letters(kafka.bootstrap, narrow)
    assert sorted((d.partition, d.reason, d.value) for d in letters if d.value is not None) == [
        (0, "undecodable", small)
    ]
    assert sorted((d.partition, d.reason) for d in letters if d.value is None) == [
        (0, "undecodable"),
        (1, "undecodable"),
    ]


def test_a_record_as_large_as_a_topic_takes_stops_nobody(
    kafka: DevKafka, topics: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None],
    make_history: Callable[..., History], lag: Callable[..., int], clean: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Its dead letter would be larger than itself: it carries the beginning, and what is needed to find the rest."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    events, large = make_history(100, until_ms=time.time_ns() // 1_000_000).behaviours, b"{" + b"x" * 995_000
    publish(topics.behaviour, [(b"u1", large)], 0)
    publish(topics.behaviour, events)
    with work(topics, "intake", tmp_path) as worker:
        wait_for(lambda: lag(topics.behaviour, worker.group, PARTITIONS) == 0 or worker.ended, "the events")
    (letter,) = read_letters(kafka.bootstrap, topics)
    assert (letter.reason, letter.length, letter.partition, letter.offset) == ("too_large", len(large), 0, 0)
    assert letter.value == large[: 64 << 10]
    assert Counter(e.id for e in clean(topics, "item")) == Counter(e.id for e in events)


def test_a_topic_that_takes_not_even_a_row_ends_a_worker_by_name(
    kafka: DevKafka, topics: Topics, tmp_path: Path, work: Callable[..., Any], feed: Callable[..., None],
    make_history: Callable[..., History], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """No record is to blame: cutting the batch ends, and the remedy is named, instead of the same batch for ever."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    _bound(kafka, topics.vectors("g1", "user"), 150)
    feed(topics, "user", make_history(20, until_ms=time.time_ns() // 1_000_000).behaviours)
    with pytest.raises(TopicMismatch, match=r"max\.message\.bytes"), work(topics, "user", tmp_path) as worker:
        wait_for(lambda: worker.ended, "its end")


def test_a_block_that_the_broker_refuses_leaves_a_letter_that_says_so(
    kafka: DevKafka, topics: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None],
    make_history: Callable[..., History], lag: Callable[..., int], clean: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """A valid event of 40,000 bytes where the clean log takes 20,000: it is in neither log, and every other one is."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    _bound(kafka, topics.events("item"), 20000)
    now = time.time_ns() // 1_000_000
    events = make_history(100, until_ms=now).behaviours
    large = Behaviour("u1", "i1", "rate", 1.0, now, "large", {"genres": [f"{n:08}" for n in range(4000)]})
    publish(topics.behaviour, [*events[:50], large, *events[50:]])
    with work(topics, "intake", tmp_path) as worker:
        wait_for(lambda: lag(topics.behaviour, worker.group, PARTITIONS) == 0 or worker.ended, "the events")
    (letter,) = read_letters(kafka.bootstrap, topics)
    assert (letter.reason, letter.topic, letter.processor) == ("refused", topics.behaviour, "intake")
    assert letter.value is None and letter.length > 40_000
    for side in SIDES:
        assert Counter(e.id for e in clean(topics, side)) == Counter(e.id for e in events)
