"""Law 1 where faust carries: worker processes whose consumers are those of a faust app are killed, paused and
rebalanced in the middle of a log, and held against one undisturbed processor over the very same log."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from forebay.streams.topics import Topics

pytestmark = pytest.mark.broker
PARTITIONS = 2
FAUST = {"transport": "faust", "partitions": PARTITIONS}


def test_apps_that_join_are_killed_and_leave_lose_and_double_nothing(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int], wait_for: Callable[..., None], topics: Topics, lag: Callable[..., int],
) -> None:  # fmt: skip
    """A second app joins, the first is killed and comes back, and leaves in the end, each time in the middle of the
    log. Each has state of its own: what an app is given it folds silently first."""
    slow = {"slow_s": 0.01, "options": {"batch_records": 16}, **FAUST}
    replay(800)
    first = worker("a", state="a", **slow)
    wait_for(lambda: lag(topics.behaviour, topics.intake_group, PARTITIONS) < 750, "the first batches")
    second = worker("b", state="b", **slow)
    wait_for(lambda: b"assigned" in second.said.read_bytes(), "the second app's share")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, first.said.read_text()
    again = worker("a", state="a", **slow)
    replay(300, seed=2)
    wait_for(lambda: b"assigned" in again.said.read_bytes(), "the first app's share")
    drained()
    assert again.stop() == 0, again.said.read_text()
    replay(100, seed=3)
    drained()
    assert second.stop() == 0, second.said.read_text()
    assert hold_against("b") > 1100


@pytest.mark.full
def test_kill_9_at_a_step_leaves_what_an_undisturbed_run_leaves(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int],
) -> None:  # fmt: skip
    """Before a commit, behind one, and with half of the stores written; each time the same slot starts again."""
    for seed, (stage, step, at) in enumerate([("user", 3, 2), ("intake", 4, 3), ("item", 5, 1)]):
        replay(400, seed=seed)
        fault = {"stage": stage, "step": step, "at": at, "signal": "SIGKILL"}
        killed = worker("0", state="state", fault=fault, **FAUST)
        assert killed.wait() == -signal.SIGKILL, killed.said.read_text()
    last = worker("0", state="state", **FAUST)
    drained()
    assert last.stop() == 0, last.said.read_text()
    assert hold_against("state") > 1100


@pytest.mark.full
def test_a_paused_app_that_wakes_up_is_fenced_and_writes_nothing(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """It stops with a batch in its hands; another one takes over, does that batch, and the first is woken up: the
    broker refuses the offsets of a member that is none any more, though another library's producer sends them."""
    replay(800)
    fault = {"stage": "user", "step": 3, "at": 3, "signal": "SIGSTOP"}
    paused = worker("a", state="a", fault=fault, **FAUST)
    wait_for(lambda: paused.state == "T", "the pause")
    other = worker("b", state="b", **FAUST)
    drained()
    paused.signal(signal.SIGCONT)
    replay(200, seed=1)
    drained()
    assert paused.stop() in (0, 1)
    said = paused.said.read_text()
    assert any(word in said for word in ("a transaction was aborted", "Fenced", "how a transaction ended is not known"))
    drained()
    assert other.stop() == 0, other.said.read_text()
    assert hold_against("b") > 900


@pytest.mark.full
def test_a_worker_that_hangs_ends_its_app_by_name(replay: Callable[..., None], worker: Callable[..., Any]) -> None:
    """A call that does not come back cannot be ended, and its process can."""
    replay(300)
    fault = {"stage": "user", "step": 3, "at": 1, "signal": "HANG"}
    hanging = worker("0", state="state", fault=fault, options={"stall_after_s": 5}, **FAUST)
    assert hanging.wait() == 1, hanging.said.read_text()
    said = hanging.said.read_text()
    assert "Stalled: its loop has stood still" in said and "does not come back" in said
