"""Law 1, once: through kill -9 at every step, through a pause and a revival, and through rebalances.

Each test lets real worker processes go wrong in the middle of a log with duplicates, disorder and bad records in it,
and then holds what they left against one undisturbed processor over the very same log: states and vectors byte-equal,
and every accepted behaviour one interaction, every bad record one dead letter.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from forebay.streams.topics import Topics

pytestmark = pytest.mark.broker
PARTITIONS = 2


KILLS = [
    ("intake", 2, 3),  # accepted, nothing sent
    ("intake", 4, 4),  # committed, the store of identities behind
    ("intake", 5, 2),  # in the store
    ("user", 3, 3),  # folded and encoded, nothing sent
    ("user", 4, 4),  # committed, the store behind
    ("item", 4, 3),
    ("user", 5, 2),  # in the store
    ("item", 3, 2),
    ("item", 5, 1),
]


def test_kill_9_at_every_step_leaves_what_an_undisturbed_run_leaves(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Nine kills in the middle of some thousand events, each followed by a restart in the same slot and folder."""
    seeds = count()
    for stage, step, at in KILLS:
        replay(500, seed=next(seeds))
        fault = {"stage": stage, "step": step, "at": at, "signal": "SIGKILL"}
        killed = worker("0", state="state", partitions=PARTITIONS, fault=fault)
        deadline = time.monotonic() + 120
        while killed.process.poll() is None and time.monotonic() < deadline:
            # A batch of a side is what its topic has just then, so that 500 events may be one batch and no third comes.
            with suppress(subprocess.TimeoutExpired):
                killed.wait(1)
            replay(50, seed=next(seeds))
        assert killed.wait(1) == -signal.SIGKILL, killed.said.read_text()
    last = worker("0", state="state", partitions=PARTITIONS)
    drained()
    assert last.stop() == 0, last.said.read_text()
    assert hold_against("state") > 4400


def test_a_restart_after_kill_9_does_not_wait_for_the_session(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Its session is longer than anybody here waits. The other worker keeps what it has, and notices nothing."""
    patient = {"options": {"session_timeout_ms": 600_000}}
    other = worker("b", state="b", partitions=PARTITIONS, **patient)
    wait_for(lambda: other.said.read_bytes().count(b"assigned") >= 3 * PARTITIONS, "all partitions")
    killed = worker("a", state="a", partitions=PARTITIONS, **patient)
    wait_for(lambda: killed.said.read_bytes().count(b"assigned") >= 3, "its share of each stage")
    replay(500)
    drained()
    had = other.said.read_bytes().count(b"assigned")
    killed.signal(signal.SIGKILL)
    assert killed.wait(10) == -signal.SIGKILL
    replay(500, seed=1)
    again = worker("a", state="a", partitions=PARTITIONS, **patient)
    drained()
    assert other.said.read_bytes().count(b"assigned") == had
    assert again.stop() == 0, again.said.read_text()
    replay(100, seed=2)  # committed by the other worker only when it has taken over and folded what it missed
    drained()
    assert other.stop() == 0, other.said.read_text()
    assert hold_against("b") > 800


@pytest.mark.parametrize(("stage", "step"), [("user", 3), ("intake", 2)])
def test_a_paused_worker_that_wakes_up_is_fenced_and_writes_nothing(
    stage: str, step: int,
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """It stops with a batch in its hands; another one takes over, does that batch, and the first is woken up."""
    replay(1500)
    fault = {"stage": stage, "step": step, "at": 6, "signal": "SIGSTOP"}
    paused = worker("a", state="a", partitions=PARTITIONS, fault=fault)
    wait_for(lambda: paused.state == "T", "the pause")
    other = worker("b", state="b", partitions=PARTITIONS)
    drained()
    paused.signal(signal.SIGCONT)
    replay(500, seed=1)
    drained()
    assert paused.stop() in (0, 1)
    said = paused.said.read_text()
    assert any(word in said for word in ("a transaction was aborted", "Fenced", "how a transaction ended is not known"))
    drained()
    replay(100, seed=2)
    drained()
    assert other.stop() == 0, other.said.read_text()
    assert hold_against("b") > 2000


@pytest.mark.parametrize("folders", ["shared", "own"])
def test_workers_that_join_and_leave_lose_and_double_nothing(
    folders: str, replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int], wait_for: Callable[..., None], tmp_path: Path, topics: Topics,
    lag: Callable[..., int],
) -> None:  # fmt: skip
    """A second worker joins, the first leaves and comes back, each time in the middle of the log.

    On one machine they share a folder and hand over their stores; on two, the new owner folds the log silently.
    """
    names = {"a": "state", "b": "state"} if folders == "shared" else {"a": "a", "b": "b"}
    slow = {"slow_s": 0.01, "options": {"batch_records": 16}}
    replay(2000)
    first = worker("a", state=names["a"], partitions=PARTITIONS, **slow)
    wait_for(lambda: lag(topics.behaviour, topics.intake_group, PARTITIONS) < 1900, "the first batches")
    second = worker("b", state=names["b"], partitions=PARTITIONS, **slow)
    wait_for(lambda: b"assigned" in second.said.read_bytes(), "the second worker's share")
    replay(500, seed=1)
    assert first.stop() == 0, first.said.read_text()
    again = worker("a", state=names["a"], partitions=PARTITIONS, **slow)
    replay(500, seed=2)
    wait_for(lambda: b"assigned" in again.said.read_bytes(), "the first worker's share")
    replay(500, seed=3)
    drained()
    assert again.stop() == 0, again.said.read_text()
    drained()
    replay(100, seed=4)
    drained()
    assert second.stop() == 0, second.said.read_text()
    assert hold_against(names["b"]) > 3400
