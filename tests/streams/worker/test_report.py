"""What a worker says of itself to another thread: over a log in memory, from its first turn to its last commit."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.errors import BrokerError
from forebay.events import Behaviour, encode
from forebay.streams.intake.intake import Intake
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent, Write
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.metrics import WorkerMetrics
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.reporter import COUNT_EVERY_S
from forebay.streams.worker.source import Source
from forebay.streams.worker.standing import Standing
from forebay.telemetry import add_hook

START = 1_790_000_000_000
TOPICS = Topics("t.")


class Place:
    """An Intake over one partition of behaviours, and a clock that tests set."""

    def __init__(self, folder: Path, **of_log: int) -> None:
        self.now_ms, self.log = START, MemoryLog(lambda: self.now_ms, **of_log)
        clean = [TOPICS.events("user"), TOPICS.events("item"), TOPICS.catalogue, TOPICS.dead_letters]
        for topic in (*TOPICS.sources, *clean):
            self.log.create(topic, 1)
        options = WorkerOptions(poll_s=0, flush_batches=1000, flush_interval_s=1e9, broker_away_s=1e9)
        self.transport = MemoryTransport(
            self.log, list(TOPICS.sources), "group", options, moment=lambda: self.now_ms, clock=self._clock
        )
        sources = [Source(topic, 0, topic) for topic in TOPICS.sources]
        intake = Intake(TOPICS, sources, {"user": 1, "item": 1}, folder)
        self.worker = Worker(intake, self.transport, options, clock=self._clock, wall_ms=lambda: self.now_ms)

    def _clock(self) -> float:
        return self.now_ms / 1000

    def send(self, count: int) -> None:
        """So many behaviours of now."""
        for n in range(count):
            event = Behaviour("u", "i", "rate", 1.0, self.now_ms, f"e{self.now_ms}-{n}")
            self.log.append(Sent(TOPICS.behaviour, 0, b"u", encode(event), ()))

    def turn(self, times: int = 1, seconds: float = 0.1) -> None:
        """Time goes on by so much before each turn."""
        for _ in range(times):
            self.now_ms += int(seconds * 1000)
            self.worker.turn()

    @property
    def standing(self) -> Standing:
        """Of the behaviours."""
        return self.worker.report().partitions[0]

    @property
    def lag_s(self) -> float | None:
        return self.standing.lag_s(self.now_ms)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Its worker has joined, and has had some idle turns."""
    place = Place(tmp_path)
    place.worker.join(threading.Event())
    place.turn(5)
    yield place
    place.worker.leave()


def test_an_idle_worker_has_no_lag_however_long_nothing_comes(place: Place) -> None:
    """Nor a large one at the moment at which something comes: nobody asked for an hour what there is to read."""
    place.turn(3, seconds=1200)
    assert place.lag_s == 0.0
    place.send(3)
    place.turn(2)
    assert place.standing.progress.applied > place.standing.progress.committed
    assert place.lag_s is not None and place.lag_s <= 1.0
    place.turn(15)  # how its commit ended is heard with the next heartbeat
    assert place.lag_s == 0.0


def test_a_lag_is_the_age_of_the_oldest_record_that_is_not_committed(place: Place) -> None:
    """While nobody works, to the second."""
    place.send(1)
    place.turn(15)
    first = place.now_ms
    place.send(5)
    for _ in range(4):
        place.now_ms += 10_000
        place.transport.poll(0, 0)  # the ends are told by another thread
        assert place.lag_s == pytest.approx((place.now_ms - first) / 1000, abs=0.2)
        assert place.standing.waiting == 5
    place.turn(15)
    assert (place.lag_s, place.standing.waiting) == (0.0, 0)


def test_a_commit_that_fails_leaves_the_lag_and_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applied again and again, the batch gets nowhere and grows old."""

    told, before = [], place.now_ms
    remove = add_hook(lambda name, details: told.append((name, dict(details))) if name == "aborted" else None)
    try:
        monkeypatch.setattr(place.log, "_refusal", lambda write: BrokerError("a transaction was aborted"))
        place.send(2)
        place.turn(40, seconds=0.5)
        assert 19 <= (place.lag_s or 0.0) <= (place.now_ms - before) / 1000
        assert set(map(str, told)) == {str(("aborted", {"stage": "intake", "error": "BrokerError"}))}
    finally:
        remove()


def test_what_became_of_events_is_told_once_however_often_they_are_done_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no earlier than it is committed: forebay_events_total and what of it was accepted and refused agree."""
    metrics, told = WorkerMetrics([place.worker]), Counter[str]()
    removes = [add_hook(metrics), add_hook(lambda name, details: told.update([name]))]
    try:
        monkeypatch.setattr(place.log, "_refusal", lambda write: BrokerError("a transaction was aborted"))
        place.send(3)
        place.log.append(Sent(TOPICS.behaviour, 0, b"u", b"no event", ()))
        place.turn(20, seconds=0.5)
        assert told["aborted"] > 3 and told["accepted"] == told["dead_letter"] == 0
        monkeypatch.undo()
        place.turn(20, seconds=0.5)
    finally:
        for remove in removes:
            remove()
    text = metrics.exposed("")[0].decode()
    assert 'forebay_accepted_total{stage="intake"} 3.0' in text
    assert 'forebay_duplicates_total{stage="intake"} 0.0' in text
    assert 'forebay_dead_letters_total{reason="undecodable",stage="intake"} 1.0' in text


def test_a_record_that_the_broker_refuses_is_told_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut out of its batch by halves and goes without its content, here after three commits that fail."""
    place, told, fails = Place(tmp_path, max_record_bytes=4000), list[object](), iter(range(3))
    refusal = place.log._refusal

    def failing(write: Write) -> BrokerError | None:
        letters = any(sent.topic == TOPICS.dead_letters for sent in write.records)
        failed = letters and next(fails, None) is not None
        return BrokerError("a transaction was aborted") if failed else refusal(write)

    monkeypatch.setattr(place.log, "_refusal", failing)
    place.worker.join(threading.Event())
    remove = add_hook(lambda name, details: told.append(details["reason"]) if name == "dead_letter" else None)
    try:
        place.send(2)
        wide = {f"a{n}": hashlib.sha256(bytes([n])).hexdigest() for n in range(60)}
        event = Behaviour("u", "i", "rate", 1.0, place.now_ms, "big", {}, wide)
        place.log.append(Sent(TOPICS.behaviour, 0, b"u", encode(event), ()))
        place.turn(60, seconds=0.5)
    finally:
        remove()
        place.worker.leave()
    assert next(fails, None) is None
    assert place.standing.progress.committed == 3
    assert told == ["refused"]


def test_what_a_partition_holds_is_counted_once_a_second(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with every turn, of which there may be hundreds."""
    counted = []
    owned = place.worker.stage.partitions[0]
    census: Callable[[], object] = type(owned).census
    monkeypatch.setattr(type(owned), "census", lambda self: counted.append(self) or census(self))
    place.send(7)
    place.turn(30, seconds=0.1)
    assert 2 * (3 / COUNT_EVERY_S - 1) <= len(counted) <= 2 * (3 / COUNT_EVERY_S + 1)  # of two sources
    assert place.standing.census is not None
    assert place.standing.census.held == {"identities": 7}
    assert place.standing.progress.applied - place.standing.census.stored == 7  # nothing was flushed
    assert place.worker.report().memory["catalogue"] >= 0


def test_a_broker_that_is_away_is_told_with_how_long(place: Place) -> None:
    """Meanwhile nobody can tell what waits, and the age grows from what was last known."""
    place.log.up = False
    place.send(1)
    place.turn(30, seconds=1.0)
    report = place.worker.report()
    assert report.away_s > 20 and not report.ready
    assert (place.lag_s or 0.0) >= 20
    place.log.up = True
    place.turn(60, seconds=1.0)
    report = place.worker.report()
    assert (report.away_s, report.ready, place.lag_s) == (0.0, True, 0.0)
