"""State that is kept warm in a second worker, over a real broker: the owner is killed and its machine is gone."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.broker
PARTITIONS = 2
OPTIONS = {"standby": 1, "standby_every_s": 0.5, "checkpoint_every_s": 2.0}


def test_a_second_worker_takes_over_with_what_it_kept_warm(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None], kept: str,
    hold_against: Callable[[str], int], wait_for: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    """kill -9, and its folder goes. The other one has the state of both sides in memory: it fetches nothing for
    them, and ends where an undisturbed run does."""
    more = {"options": OPTIONS, "checkpoints": kept}
    first = worker("a", state="a", partitions=PARTITIONS, **more)
    wait_for(lambda: first.said.read_bytes().count(b"assigned") >= 3 * PARTITIONS, "all partitions")
    second = worker("b", state="b", partitions=PARTITIONS, **more)
    replay(500)
    drained()
    sides = [("events.user",), ("events.item",)]
    wait_for(lambda: all(_said(second, "a standby at offset", topics) for topics in sides), "one of each side")
    replay(500, seed=1)
    drained()
    before = _said(second, "came from a checkpoint", ["events."])
    first.signal(signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    shutil.rmtree(tmp_path / "a")
    replay(500, seed=2)
    drained()
    assert second.stop() == 0, second.said.read_text()
    said = second.said.read_text()
    assert all(_said(second, "was kept warm", topics) for topics in sides), said
    assert _said(second, "came from a checkpoint", ["events."]) == before, said
    assert hold_against("b") > 1200


def _said(worker: Any, what: str, topics: Sequence[str]) -> int:
    """How often it has said so of one of the topics."""
    lines = worker.said.read_text().splitlines()
    return sum(what in line and any(topic in line for topic in topics) for line in lines)
