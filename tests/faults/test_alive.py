"""Alive, or gone by name: a broker that freezes, restarts or stays away, and calls that never come back.

Afterwards everything that the workers left is held against one undisturbed processor over the very same log, as in
test_once.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from forebay.streams.dev.devkafka import DevKafka

pytestmark = pytest.mark.broker
PARTITIONS = 2


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
    kafka: DevKafka, replay: Callable[..., None], pair: Callable[..., Any], steady: Callable[..., Any],
    frozen: Callable[[], Any], drained: Callable[[], None], hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Both outlast the time-outs of sessions and of transactions; work goes on by itself, and nothing is lost or
    doubled."""
    replay(500)
    workers = pair()
    with steady(200):
        with frozen():
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
    state: str, frozen: Callable[[], Any], replay: Callable[..., None], worker: Callable[..., Any],
    wait_for: Callable[..., None], resume: Callable[[], None], hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Within ten seconds, a stuck loop included. What was not committed is done again by the next start."""
    replay(1000)
    fault = {"stage": "user", "step": 3, "at": 3, "signal": "HANG"} if state == "hanging" else None
    stopped = worker("0", state="state", partitions=PARTITIONS, fault=fault, slow_s=0.05)
    wait_for(lambda: b"ready: worker" in stopped.said.read_bytes(), "the worker")
    if state == "waiting for the broker":
        with frozen():
            wait_for(
                lambda: b"forebay doctor" in stopped.said.read_bytes() or b"not known" in stopped.said.read_bytes(),
                "it",
            )
            stopped.signal(signal.SIGTERM)
            stopped.wait(12)
    else:
        if state == "hanging":
            wait_for(lambda: b"hanging" in stopped.said.read_bytes(), "the call that does not come back")
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
    for seed in range(1, 10):  # a quick stage has had all of it in one batch: its third is of what comes later
        try:
            hung.wait(10)
            break
        except subprocess.TimeoutExpired:
            replay(50, seed=seed)
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
    for seed in range(1, 10):  # a quick stage has had all of it in one batch: the third commit is of what comes later
        if "its commit does not come back" in one.said.read_text():
            break
        replay(50, seed=seed)
        drained()
    assert one.stop() == 0, one.said.read_text()
    assert "its commit does not come back" in one.said.read_text()
    assert hold_against("state") > 950


def test_a_broker_that_stays_away_ends_a_worker_by_name(
    frozen: Callable[[], Any], replay: Callable[..., None], worker: Callable[..., Any], wait_for: Callable[..., None],
    resume: Callable[[], None], hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Ten minutes by default; here six seconds."""
    replay(500)
    left = worker("0", state="state", partitions=PARTITIONS, options={"broker_away_s": 6.0})
    wait_for(lambda: b"ready: worker" in left.said.read_bytes(), "the worker")
    with frozen():
        assert left.wait(60) == 1
    assert "BrokerUnavailable: no work could be committed for" in left.said.read_text()
    resume()
    assert hold_against("state") > 500
