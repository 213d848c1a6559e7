"""When a source stands still, and when it goes on: the rule alone, and the guard that counts for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from forebay.clock import HOUR_MS
from forebay.events import Behaviour, encode
from forebay.streams.intake.accept import Acceptor
from forebay.streams.intake.breaker import Breaker, BreakerOptions
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.intake.guard import SourceGuard
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.source import Source
from forebay.telemetry import add_hook

NOW = 1_790_000_000_000
SOURCES = [Source("clicks", 0, "c"), Source("clicks", 1, "c"), Source("items", 0, "i")]
OPTIONS = BreakerOptions(records=100, window_s=30.0, least=20, retry_s=30.0, most_retry_s=100.0)


def test_a_window_of_bad_records_stops_a_source_and_half_of_one_does_not() -> None:
    """More than the share, of a whole window: up to then nothing is decided."""
    breaker = Breaker(OPTIONS)
    assert not breaker.took(99, 99, 0.0)
    assert breaker.took(1, 0, 0.1) and breaker.stands
    assert (breaker.share, breaker.records) == (0.99, 100)
    even = Breaker(OPTIONS)
    assert not even.took(100, 50, 0.0) and not even.took(4096, 2048, 0.0)
    assert even.took(4096, 2049, 0.0)


def test_windows_are_judged_each_by_itself() -> None:
    """A day of good records does not hide an hour of bad ones, and a bad record of yesterday is forgotten."""
    breaker = Breaker(OPTIONS)
    assert not breaker.took(100_000, 0, 0.0)
    assert breaker.took(100, 60, 1.0)
    other = Breaker(OPTIONS)
    assert not other.took(60, 60, 0.0)
    assert not other.took(60, 0, 1.0) and not other.took(60, 0, 2.0) and not other.took(40, 20, 2.0)


def test_a_slow_source_is_judged_by_time() -> None:
    """Where enough came in it for a share to mean something."""
    breaker = Breaker(OPTIONS)
    assert not breaker.took(19, 19, 0.0) and not breaker.took(0, 0, 29.0)
    assert not breaker.took(0, 0, 31.0)
    assert breaker.took(1, 1, 5000.0)
    busy = Breaker(OPTIONS)
    assert not busy.took(50, 50, 0.0) and not busy.took(1, 1, 29.0)
    assert busy.took(1, 1, 30.0)


def test_it_looks_after_longer_and_longer_times_up_to_a_bound() -> None:
    """A good sample lets it go on; where nothing waits, nothing is known."""
    breaker, times, now = Breaker(OPTIONS), [], 0.0
    breaker.took(100, 100, now)
    while len(times) < 4:
        now += 1.0
        if breaker.due(now):
            times.append(now)
            assert not breaker.looked(50, 26, now)
    assert times == [30.0, 90.0, 190.0, 290.0]
    assert not breaker.looked(0, 0, 390.0) and not breaker.due(419.0) and breaker.due(420.0)
    assert breaker.looked(50, 25, 420.0) and not breaker.stands and not breaker.due(9999.0)


def test_one_that_breaks_again_at_once_waits_for_longer() -> None:
    """Until a window was good."""

    def waits(breaker: Breaker) -> float:
        assert breaker.took(100, 100, 0.0)
        return next(float(t) for t in range(1000) if breaker.due(float(t)))

    breaker = Breaker(OPTIONS)
    assert waits(breaker) == 30.0
    breaker.go_on()
    assert waits(breaker) == 60.0
    breaker.go_on()
    breaker.took(100, 10, 0.0)
    assert waits(breaker) == 30.0


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What hooks hear of sources."""
    heard: list[tuple[str, dict[str, Any]]] = []
    remove = add_hook(lambda name, details: heard.append((name, dict(details))) if name.startswith("source_") else None)
    yield heard
    remove()


def _guard(clock: _Clock) -> tuple[SourceGuard, Acceptor]:
    acceptor = Acceptor(tuple(f"{s.topic}/{s.partition}" for s in SOURCES))
    return SourceGuard(SOURCES, acceptor, OPTIONS, clock=clock, wall_ms=lambda: NOW), acceptor


def _batch(partition: int, good: int, bad: int, first: int = 0, time: int = NOW) -> PartitionBatch:
    values = [encode(Behaviour("u", "i", "a", 1.0, time, f"e{first + n}")) for n in range(good)] + [b"{"] * bad
    count = good + bad
    return PartitionBatch(partition, [b"u"] * count, values, range(first, first + count), [NOW] * count)


def _took(guard: SourceGuard, acceptor: Acceptor, *batches: PartitionBatch) -> None:
    guard.took(batches, acceptor.accept(batches, {p: HourSets() for p in range(3)}).letters)


def test_one_source_is_paused_and_the_others_are_not(
    told: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    """All partitions of a topic count together, each topic by itself; it is said in the log, to hooks and to whoever
    asks."""
    guard, acceptor = _guard(_Clock())
    with caplog.at_level(logging.WARNING, "forebay.intake"):
        _took(guard, acceptor, _batch(0, 10, 30), _batch(1, 10, 50), _batch(2, 200, 0))
    assert list(guard.paused) == ["clicks"] and "80% of its last 100 records" in guard.paused["clicks"]
    assert guard.since_ms("clicks") == NOW and guard.since_ms("items") == 0
    assert "forebay source resume clicks" in caplog.records[-1].getMessage()
    assert told == [("source_paused", {"stage": "intake", "topic": "clicks", "share": 0.8, "records": 100})]


@pytest.mark.parametrize("time", [NOW - 25 * HOUR_MS, NOW + HOUR_MS])
def test_events_of_another_time_stop_nothing(time: int) -> None:
    """After an outage all of them are late, and refusing them is right."""
    guard, acceptor = _guard(_Clock())
    late = _batch(0, 200, 0, time=time)
    assert len(acceptor.accept([late], {0: HourSets()}).letters) == 200
    _took(guard, acceptor, late)
    assert not guard.paused


def test_duplicates_are_good_records() -> None:
    """A producer that sends all of it again sends events."""
    guard, acceptor = _guard(_Clock())
    sets = {0: HourSets()}
    for _ in range(3):
        batch = _batch(0, 60, 40)
        guard.took([batch], acceptor.accept([batch], sets).letters)
    assert not guard.paused


def test_a_good_sample_lets_a_source_go_on_through_all_that_waits(told: list[tuple[str, dict[str, Any]]]) -> None:
    """What lies below the ends of then does not stop it again; what comes after that may. The sample leaves no
    trace."""
    clock = _Clock()
    guard, acceptor = _guard(clock)
    _took(guard, acceptor, _batch(0, 0, 100))
    assert guard.due() == []
    clock.now_s = 30.0
    assert guard.due() == ["clicks"]
    guard.look("clicks", [_batch(0, 10, 40, 900)], {0: 1000, 1: 5})
    assert list(guard.paused) == ["clicks"] and guard.due() == []
    clock.now_s = 90.0
    guard.look("clicks", [_batch(0, 40, 10, 900), _batch(1, 2, 0, 3)], {0: 1000, 1: 5})
    assert not guard.paused and guard.since_ms("clicks") == 0
    assert told[-1] == ("source_resumed", {"stage": "intake", "topic": "clicks", "seconds": 90.0, "by": "sample"})
    _took(guard, acceptor, _batch(0, 0, 800, 100), _batch(1, 0, 5, 0))
    _took(guard, acceptor, _batch(0, 0, 199, 900))
    assert not guard.paused
    _took(guard, acceptor, _batch(0, 0, 1, 1099))
    assert list(guard.paused) == ["clicks"]


def test_an_operator_lets_a_source_go_on(told: list[tuple[str, dict[str, Any]]]) -> None:
    """Through what waits; one that is read stays as it is."""
    guard, acceptor = _guard(_Clock())
    _took(guard, acceptor, _batch(0, 0, 100))
    guard.resume("items", {2: 1000})
    guard.resume("clicks", {0: 400})
    assert not guard.paused and [details.get("by") for _, details in told] == [None, "command"]
    _took(guard, acceptor, _batch(0, 0, 300, 100))
    assert not guard.paused
    _took(guard, acceptor, _batch(2, 0, 100), _batch(0, 0, 100, 400))
    assert sorted(guard.paused) == ["clicks", "items"]
