"""How a benchmark follows a process, and that it ends what it starts."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from figures import Seen
from rig import cpu_s, followed, rss_mb, running

COMMITS = """
import json, time
for events, waits in ((5, False), (7, False), (100, True), (0, False)):
    print("a warning")
    print(json.dumps({"at": time.monotonic(), "events": events, "cpu": 0.5, "waits": waits}), flush=True)
print('{"at": 9', end="", flush=True)
time.sleep(60)
"""


def _python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_process_is_followed_until_all_is_committed_and_then_it_ends(tmp_path: Path) -> None:
    """Commits are summed, other lines and half a line stepped over, and progress is told. The last event is done when
    nothing waits to be encoded."""
    told: list[int] = []
    with running(_python(COMMITS), tmp_path / "log", os.environ) as child:
        seen = followed(child, child.commits, 112, 60.0, told.append)
        assert [one.events for one in seen] == [5, 12, 111, 112]
        assert told[-1] == 112
        assert rss_mb(child.process.pid) > 1
    assert child.process.poll() is not None
    assert cpu_s(child.process.pid) == 0.0


def test_a_slow_one_is_cut_after_its_first_commit(tmp_path: Path) -> None:
    """What was committed by then is what it has."""
    with running(_python("import time; time.sleep(60)"), tmp_path / "log", os.environ) as child:
        now = time.monotonic()
        looks = iter([[], [Seen(now, 5)], *[[Seen(now, 5), Seen(now, 6)]] * 50])
        assert followed(child, lambda: next(looks), 100, 0.3)[-1].events == 6


def test_a_process_that_ends_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    """It would be waited for in vain."""
    with (
        running(_python("raise SystemExit('no broker at all')"), tmp_path / "work.log", os.environ) as child,
        pytest.raises(SystemExit, match=r"work.log: it ended with 1\n.*no broker at all"),
    ):
        followed(child, list, 1, 60.0)
