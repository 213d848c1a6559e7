"""Alive, or gone by name: a broker that freezes, restarts or stays away, and calls that never come back.

The broker is this module's own: it is stopped and killed. Afterwards everything that the workers left is held against
one undisturbed processor over the very same log, as in test_once.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Producer

from forebay.events import encode, entity_of
from forebay.segments.history import History
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics

pytestmark = pytest.mark.broker
PARTITIONS = 2


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevKafka]:
    """A broker that these tests may freeze and stop."""
    with DevKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@contextmanager
def frozen(kafka: DevKafka) -> Iterator[None]:
    """SIGSTOP: connections stay open, and nothing answers."""
    assert kafka.pid is not None
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kafka.pid, signal.SIGCONT)


@pytest.fixture
def steady(
    kafka: DevKafka, topics: Topics, make_history: Callable[..., History], arrivals: Callable[..., Any]
) -> Callable[[float], Any]:
    """`with steady(events_per_s):` a producer that goes on through everything; the block's end waits for its last
    record."""

    @contextmanager
    def publishing(rate: float) -> Iterator[None]:
        over = threading.Event()
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True,
                "message.timeout.ms": 600_000, "log_level": 0,
            }
        )  # fmt: skip

        def run() -> None:
            seed = 1000
            while not over.is_set():
                seed += 1
                for event in arrivals(make_history(200, seed=seed, until_ms=time.time_ns() // 1_000_000), seed):
                    producer.produce(topics.behaviour, key=entity_of(event).encode(), value=encode(event))
                    producer.poll(0)
                    if over.wait(1 / rate):
                        return

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            assert producer.flush(120) == 0

    return publishing


@pytest.fixture
def pair(worker: Callable[..., Any], wait_for: Callable[..., None]) -> Callable[..., list[Any]]:
    """Two workers that share a folder and the partitions."""

    def start(**options: Any) -> list[Any]:
        both = [worker(slot, state="state", partitions=PARTITIONS, options=options) for slot in ("a", "b")]
        # The first to join has every partition for a moment, and the second nothing that a fault could touch.
        shares = (b"assigned intake", b"assigned user", b"assigned item", b"ready: worker")
        for one in both:
            wait_for(lambda one=one: all(word in one.said.read_bytes() for word in shares), "a worker's share")  # type: ignore[misc]
        return both

    return start


def _come_through(workers: list[Any], drained: Callable[..., None], hold_against: Callable[[str], int]) -> int:
    drained(within_s=240)
    for one in workers:
        assert one.process.poll() is None, one.said.read_text()
    for one in workers:
        assert one.stop() == 0, one.said.read_text()
    return hold_against("state")


def test_a_frozen_broker_and_a_restarted_one_are_waited_for(
    kafka: DevKafka, topics: Topics, replay: Callable[..., None], pair: Callable[..., Any], steady: Callable[..., Any],
    drained: Callable[[], None], hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Both outlast the time-outs of sessions and of transactions; work goes on by itself, and nothing is lost or
    doubled."""
    replay(500)
    workers = pair()
    with steady(200):
        with frozen(kafka):
            time.sleep(12)  # longer than a transaction or a session may last
        time.sleep(3)
        kafka.stop()
        time.sleep(5)
        kafka.start()
        time.sleep(3)
    assert _come_through(workers, drained, hold_against) > 700
    for one in workers:
        felt = ("waiting for the broker", "reading the state again", "the broker was away")
        assert any(word in one.said.read_text() for word in felt)


@pytest.mark.full
def test_ten_freezes_and_ten_restarts(
    kafka: DevKafka, topics: Topics, replay: Callable[..., None], pair: Callable[..., Any], steady: Callable[..., Any],
    drained: Callable[[], None], hold_against: Callable[[str], int], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Freezes of 12 to 45 s and restarts of 5 to 60 s in random order, with the time-outs of production."""
    pick = random.Random(12)
    faults = [("freeze", 12 + 33 * n / 9) for n in range(10)] + [("restart", 5 + 55 * n / 9) for n in range(10)]
    pick.shuffle(faults)
    replay(500)
    workers = pair(session_timeout_ms=10_000, transaction_timeout_ms=10_000)
    with steady(200):
        for number, (kind, seconds) in enumerate(faults, start=1):
            if kind == "freeze":
                with frozen(kafka):
                    time.sleep(seconds)
            else:
                (kafka.stop if pick.random() < 0.5 else kafka.kill)()
                time.sleep(seconds)
                kafka.start()
            with capsys.disabled():
                print(f"\n{number:2d} {kind} {seconds:.0f} s", flush=True)
            time.sleep(pick.uniform(2, 12))
            for one in workers:
                assert one.process.poll() is None, one.said.read_text()
    events = _come_through(workers, drained, hold_against)
    with capsys.disabled():
        print(
            f"\n{events:,} events, 0 lost, 0 doubled, 0 wrong; 2 workers alive after {len(faults)} faults", flush=True
        )


@pytest.fixture
def resume(
    replay: Callable[..., None], worker: Callable[..., Any], wait_for: Callable[..., None], drained: Callable[[], None]
) -> Callable[[], None]:
    """Another start in slot 0 does what was left, and some more."""

    def run() -> None:
        replay(100, seed=7)
        last = worker("0", state="state", partitions=PARTITIONS)
        wait_for(lambda: b"ready: worker" in last.said.read_bytes(), "the next worker")
        drained()
        assert last.stop() == 0, last.said.read_text()

    return run


@pytest.mark.parametrize("state", ["at work", "waiting for the broker", "hanging"])
def test_sigterm_ends_a_worker_in_every_state(
    state: str, kafka: DevKafka, replay: Callable[..., None], worker: Callable[..., Any], wait_for: Callable[..., None],
    resume: Callable[[], None], hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Within ten seconds, a stuck loop included. What was not committed is done again by the next start."""
    replay(1000)
    fault = {"stage": "user", "step": 3, "at": 3, "signal": "HANG"} if state == "hanging" else None
    stopped = worker("0", state="state", partitions=PARTITIONS, fault=fault, slow_s=0.05)
    wait_for(lambda: b"ready: worker" in stopped.said.read_bytes(), "the worker")
    if state == "waiting for the broker":
        with frozen(kafka):
            wait_for(
                lambda: b"forebay doctor" in stopped.said.read_bytes() or b"not known" in stopped.said.read_bytes(),
                "it",
            )
            stopped.signal(signal.SIGTERM)
            stopped.wait(12)
    else:
        time.sleep(1)
        stopped.signal(signal.SIGTERM)
        assert stopped.wait(12) == (1 if state == "hanging" else 0), stopped.said.read_text()
    resume()
    assert hold_against("state") > 1000


@pytest.mark.parametrize(("stage", "step"), [("user", 3), ("intake", 2)])
def test_a_loop_that_stands_still_ends_its_process_by_name(
    stage: str, step: int,
    replay: Callable[..., None], worker: Callable[..., Any], resume: Callable[[], None],
    hold_against: Callable[[str], int]
) -> None:  # fmt: skip
    """A call of the loop that never comes back: whoever supervises the process starts another one."""
    replay(1000)
    fault = {"stage": stage, "step": step, "at": 3, "signal": "HANG"}
    hung = worker("0", state="state", partitions=PARTITIONS, fault=fault, options={"stall_after_s": 5.0})
    assert hung.wait(60) == 1
    assert (
        "Stalled: " in hung.said.read_text()
    )  # that its loop stands still, or that records wait: whichever is seen first
    resume()
    assert hold_against("state") > 1000


@pytest.mark.parametrize("stage", ["user", "intake"])
def test_a_commit_that_never_comes_back_is_left_behind(
    stage: str,
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int]
) -> None:  # fmt: skip
    """Its thread hangs after the broker has committed: the next producer asks how it ended, and nothing is done
    twice."""
    replay(1000)
    fault = {"stage": stage, "step": 4, "at": 3, "signal": "HANG"}
    one = worker("0", state="state", partitions=PARTITIONS, fault=fault)
    drained()
    assert one.stop() == 0, one.said.read_text()
    assert "its commit does not come back" in one.said.read_text()
    assert hold_against("state") > 950


def test_a_broker_that_stays_away_ends_a_worker_by_name(
    kafka: DevKafka, replay: Callable[..., None], worker: Callable[..., Any], wait_for: Callable[..., None],
    resume: Callable[[], None], hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Ten minutes by default; here six seconds."""
    replay(500)
    left = worker("0", state="state", partitions=PARTITIONS, options={"broker_away_s": 6.0})
    wait_for(lambda: b"ready: worker" in left.said.read_bytes(), "the worker")
    with frozen(kafka):
        assert left.wait(60) == 1
    assert "BrokerUnavailable: no work could be committed for" in left.said.read_text()
    resume()
    assert hold_against("state") > 500
