"""The archive holds what the clean logs hold, each record once, whatever ends a run; and names what it cannot have."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer

from forebay.errors import BlockTooNew, BrokerUnavailable, LogGap, StoreLocked, TopicMismatch, TopicMissing
from forebay.events import Behaviour, Event, Tick, encode
from forebay.segments.blocks.build import block_of, events_of
from forebay.segments.blocks.schema import HEADER, VERSION, Header
from forebay.segments.history import History
from forebay.segments.history import archive as files
from forebay.segments.history.archive import Archive, Part, Place, Writer
from forebay.segments.spec import SIDES
from forebay.streams import logrecords
from forebay.streams.archive import Archiver, Written
from forebay.streams.clients import log_consumer
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.logrecords import records
from forebay.streams.topics import Topics, ensure
from forebay.telemetry import add_hook

pytestmark = pytest.mark.broker
PARTITIONS = 2
SOURCE = str(Path(__file__).parents[2] / "src")
_places = itertools.count()


class Archiving:
    """Archives one installation's clean logs into one place."""

    def __init__(self, kafka: DevKafka, topics: Topics, url: str) -> None:
        self.kafka, self.topics, self.url = kafka, topics, url
        self.told: list[tuple[int, int]] = []

    def __call__(self, stop: threading.Event | None = None, told: Callable[[int, int], None] | None = None) -> Written:
        archiver = Archiver(self.kafka.bootstrap, self.topics, Place.of(self.url))
        return archiver.run(stop or threading.Event(), told or (lambda *pair: self.told.append(pair)))

    def events(self, side: Any) -> list[Event]:
        """In order of partition and offset, without ticks."""
        found = [e for block in Archive.open(self.url).log(side) for e in events_of(block)]
        return [event for event in found if not isinstance(event, Tick)]

    def parts(self) -> list[str]:
        place = Place.of(self.url)
        return [name for side in SIDES for name in place.listed(side)]


@pytest.fixture
def archive(kafka: DevKafka, topics: Topics) -> Archiving:
    """Of a new installation, into what fsspec knows."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=PARTITIONS)
    return Archiving(kafka, topics, f"memory://clean{next(_places)}")


def _acted(count: int, first: int = 0) -> list[Event]:
    return [Behaviour(f"u{n % 7}", f"i{n % 5}", "view", 1.0, n + 1, f"e{n}") for n in range(first, first + count)]


def _remove(kafka: DevKafka, topic: str, before: Mapping[int, int]) -> None:
    """What retention does, at once; -1 is all that there is."""
    from kafka import TopicPartition

    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.delete_records({TopicPartition(topic, p): offset for p, offset in before.items()})


def test_what_an_intake_accepted_is_archived_and_what_comes_after_it(
    archive: Archiving, tmp_path: Path, make_history: Callable[..., History], arrivals: Callable[..., list[Event]],
    publish: Callable[..., None], work: Callable[..., Any], lag: Callable[..., int], clean: Callable[..., list[Event]],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Out of the Intake's transactions, in the order of the log; a second run begins where the first ended, and one
    that finds nothing new writes nothing."""
    topics, history = archive.topics, make_history(600, until_ms=time.time_ns() // 1_000_000)
    events = arrivals(history)

    def accept(events: list[Event]) -> None:
        publish(topics.behaviour, events)
        publish(topics.item_updates, history.items)
        with work(topics, "intake", tmp_path):
            for topic in topics.sources:
                wait_for(lambda topic=topic: lag(topic, topics.intake_group, PARTITIONS) == 0, topic)

    accept(events[:400])
    first = archive()
    assert first.strangers == 0 and first.files == 2 * PARTITIONS
    for side in SIDES:
        assert archive.events(side) == clean(topics, side)
    assert archive.told[-1][0] <= archive.told[-1][1]
    before = archive.parts()
    again = archive()
    assert (again.files, again.events, again.next) == (0, 0, first.next) and archive.parts() == before
    accept(events[400:])
    second = archive()
    assert second.events > 0 and set(before) < set(archive.parts())
    for side in SIDES:
        assert archive.events(side) == clean(topics, side)
    assert second.next == {side: Archive.open(archive.url).next(side) for side in SIDES}
    assert {e.id for e in archive.events("user") if isinstance(e, Behaviour)} == {e.id for e in history.behaviours}


def test_an_archive_is_cut_into_files_and_goes_on_after_a_kill(
    archive: Archiving, feed: Callable[..., None], clean: Callable[..., list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is longer than it may be; of a run that is ended in the middle the whole files stay."""
    monkeypatch.setattr(files, "ROWS_PER_FILE", 20)
    feed(archive.topics, "user", _acted(200), size=6)
    written, real = 0, Writer.write

    def some(self: Writer, part: Part, name: str | None = None) -> str:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        return real(self, part, name)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", some)
        with pytest.raises(KeyboardInterrupt):
            archive()
    assert len(archive.parts()) == 3
    archive()
    assert archive.events("user") == clean(archive.topics, "user")
    rows = [sum(map(len, Archive.open(archive.url).log("user", p))) for p in range(PARTITIONS)]
    assert sum(rows) == 200
    assert len(archive.parts()) >= 200 // 20 + PARTITIONS


def test_a_run_that_is_stopped_writes_what_it_has_read(
    archive: Archiving, feed: Callable[..., None], clean: Callable[..., list[Event]]
) -> None:
    """And the next one goes on behind that."""
    feed(archive.topics, "user", _acted(300))
    stop = threading.Event()
    stopped = archive(stop, lambda done, total: stop.set() if done == 40 else None)
    assert 0 < stopped.events < 300 and len(archive.parts()) == 1
    assert archive().events == 300 - stopped.events
    assert archive.events("user") == clean(archive.topics, "user")
    assert archive(stop).files == 0, "one that is stopped before it begins"


def test_a_partition_without_events_is_known_to_be_archived(
    archive: Archiving, kafka: DevKafka, feed: Callable[..., None]
) -> None:
    """So that records which come, and leave the log before the next run, are missed."""
    empty = archive()
    assert (empty.files, empty.events) == (2 * PARTITIONS, 0) and empty.next["user"] == {0: 0, 1: 0}
    feed(archive.topics, "user", _acted(60))
    _remove(kafka, archive.topics.events("user"), {0: 5, 1: 5})
    with pytest.raises(LogGap, match="records from 0 to before 5 have left the log"):
        archive()


def test_a_gap_is_refused_by_name(archive: Archiving, kafka: DevKafka, feed: Callable[..., None]) -> None:
    """Nothing is written behind it; what is archived already may leave the log."""
    topic = archive.topics.events("user")
    feed(archive.topics, "user", _acted(60))
    archive()
    _remove(kafka, topic, Archive.open(archive.url).next("user"))
    feed(archive.topics, "user", _acted(60, 100))
    before = archive()
    assert before.events == 60
    feed(archive.topics, "user", _acted(60, 200))
    _remove(kafka, topic, {p: n + 3 for p, n in before.next["user"].items()})
    parts = archive.parts()
    with pytest.raises(LogGap) as raised:
        archive()
    assert f"{topic}[" in raised.value.where and "--into" in raised.value.do and archive.parts() == parts


def test_records_that_leave_the_log_while_it_is_read_are_missed(
    archive: Archiving, kafka: DevKafka, feed: Callable[..., None]
) -> None:
    """A reader that goes on from what is left would not say a word."""
    topic = archive.topics.events("user")
    feed(archive.topics, "user", _acted(60))
    _remove(kafka, topic, {0: 10})
    consumer = Consumer(log_consumer(kafka.bootstrap))
    try:
        with pytest.raises(LogGap, match="that were to be read next"):
            list(records(consumer, topic, 0, 3, 20, LogGap("records that were to be read next"), threading.Event()))
    finally:
        consumer.close()


def test_a_topic_that_was_made_anew_is_refused(archive: Archiving, kafka: DevKafka, feed: Callable[..., None]) -> None:
    """Its offsets are others."""
    feed(archive.topics, "user", _acted(10))
    archive()
    topic = archive.topics.events("user")
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.delete_topics([topic])
    with pytest.raises(TopicMissing):
        archive()
    ensure(kafka.bootstrap, archive.topics, generation=None, partitions=PARTITIONS)
    with pytest.raises(TopicMismatch, match="made anew") as raised:
        archive()
    assert topic in raised.value.where and "--into" in raised.value.do


@pytest.mark.parametrize(
    ("count", "behind", "says"),
    [
        (3, 0, "it has 2 partitions, and the archive is of 3"),
        (2, 99, "ends at 0, and the archive holds what is before"),
    ],
)
def test_a_log_that_is_not_the_archives_is_refused(count: int, behind: int, says: str, archive: Archiving) -> None:
    """Of another number of partitions, or without records that it had."""
    archive()
    found = Archive.open(archive.url).parts("item")[0]
    place = Place.of(f"{archive.url}-other")
    Writer(place).write(msgspec.structs.replace(found, count=count, next=behind))
    archive.url = place.url
    with pytest.raises(TopicMismatch, match=says):
        archive()


def _send(kafka: DevKafka, topic: str, *records: tuple[bytes | None, bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for header, value in records:
        producer.produce(topic, value=value, partition=0, headers=[] if header is None else [(HEADER, header)])
    assert producer.flush(30) == 0


def test_what_is_no_block_is_told_of_and_stepped_over(
    archive: Archiving, kafka: DevKafka, caplog: pytest.LogCaptureFixture
) -> None:
    """By its place; the archive goes on behind it, and does not read it again."""
    block = block_of(_acted(3), [5] * 3, range(3), [0] * 3, ("s/0",))
    ((header, value),) = block.encode()
    topic = archive.topics.events("user")
    heard: list[Any] = []
    remove = add_hook(lambda name, details: heard.append((name, dict(details))))
    try:
        _send(kafka, topic, (None, encode(_acted(1)[0])), (header, value), (header, value[:-1]))
        written = archive()
    finally:
        remove()
    assert (written.strangers, written.events, written.next["user"][0]) == (2, 3, 3)
    assert heard == [("stranger", {"stage": "archive", "partition": 0})] * 2
    assert f"{topic}[0], offset 0 is no block" in caplog.text and f"{topic}[0], offset 2 is no block" in caplog.text
    _send(kafka, topic, (None, b"x"))
    assert (archive().strangers, archive().strangers) == (1, 0)


def test_a_block_of_a_later_version_ends_it(archive: Archiving, kafka: DevKafka) -> None:
    """It is somebody's events: nothing is stepped over."""
    header = msgspec.json.encode(Header(VERSION + 1, ("s/0",), ()))
    _send(kafka, archive.topics.events("user"), (header, b"later"))
    with pytest.raises(BlockTooNew) as raised:
        archive()
    assert raised.value.where == f"{archive.topics.events('user')}[0], offset 0"
    assert archive.parts() == []


def test_a_broker_that_says_nothing_is_not_waited_for_for_ever(
    archive: Archiving, kafka: DevKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stretch whose records never come."""
    monkeypatch.setattr(logrecords, "PATIENCE_S", 1.0)
    topic = archive.topics.events("user")
    consumer = Consumer(log_consumer(kafka.bootstrap))
    try:
        with pytest.raises(BrokerUnavailable, match="nothing was read"):
            list(records(consumer, topic, 0, 0, 5, LogGap("none"), threading.Event()))
    finally:
        consumer.close()


def test_two_do_not_archive_at_once(archive: Archiving, tmp_path: Path) -> None:
    """Into a folder, where it can be seen."""
    archive.url = str(tmp_path / "archive")
    with Place.of(archive.url).locked(), pytest.raises(StoreLocked):
        archive()


# -- as typed


def _forebay(kafka: DevKafka, topics: Topics, folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
    place = ["--bootstrap", kafka.bootstrap, "--prefix", topics.prefix]
    command = [sys.executable, "-m", "forebay.cli", "archive", *words, *place]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_verb_says_what_it_did(
    archive: Archiving, kafka: DevKafka, tmp_path: Path, feed: Callable[..., None]
) -> None:
    """For programs, and for people; what it cannot do is an error in two lines."""
    topics = archive.topics
    feed(topics, "user", _acted(25))
    told = json.loads(_forebay(kafka, topics, tmp_path, "--json").communicate(timeout=120)[0])
    assert (told["archive"], told["events"], told["strangers"]) == ("forebay-data/archive", 25, 0)
    archive.url = str(tmp_path / "forebay-data" / "archive")
    assert told["next"]["user"] == {str(p): n for p, n in Archive.open(archive.url).next("user").items()}
    assert len(archive.events("user")) == 25
    again = _forebay(kafka, topics, tmp_path)
    assert "0 events in 0 new files in forebay-data/archive" in again.communicate(timeout=120)[0]
    assert again.returncode == 0
    _remove(kafka, topics.events("user"), dict.fromkeys(range(PARTITIONS), -1))
    feed(topics, "user", _acted(25, 100))
    _remove(kafka, topics.events("user"), dict.fromkeys(range(PARTITIONS), -1))
    gap = _forebay(kafka, topics, tmp_path)
    said = gap.communicate(timeout=120)[1]
    assert gap.returncode == 1 and "have left the log before they were archived" in said and "--into" in said
    wrong = _forebay(kafka, topics, tmp_path, "--every", "often")
    assert "--every 'often' is no duration" in wrong.communicate(timeout=120)[1] and wrong.returncode == 2


def test_following_goes_on_until_it_is_stopped(
    archive: Archiving, kafka: DevKafka, tmp_path: Path, feed: Callable[..., None], wait_for: Callable[..., None]
) -> None:
    """What comes is archived in the next round; SIGTERM ends it with exit code 0."""
    feed(archive.topics, "user", _acted(10))
    following = _forebay(kafka, archive.topics, tmp_path, "--into", "lake", "--every", "1s")
    archive.url = str(tmp_path / "lake")
    try:
        wait_for(lambda: archive.parts() and len(archive.events("user")) == 10, "the first round")
        feed(archive.topics, "user", _acted(10, 50))
        wait_for(lambda: len(archive.events("user")) == 20, "a later round")
        following.send_signal(signal.SIGTERM)
        said = following.communicate(timeout=60)[1]
    finally:
        following.kill()
    assert following.returncode == 0 and "archiving into lake every 1 s" in said and "Traceback" not in said
