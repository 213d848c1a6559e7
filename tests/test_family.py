"""Processes that one process keeps are there as long as it is, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.cli.family import FamilyOptions, Member, keep

WAIT_S = 30.0
OPTIONS = FamilyOptions(pause_s=0.05, pause_most_s=0.2, end_s=10.0)
LIVES = "import time, sys; open(sys.argv[1], 'a').write('x'); time.sleep(600)"


class Kept:
    """A family on a thread of this process."""

    def __init__(self, members: list[Member], hopeless: Callable[[Member, int], bool], options: FamilyOptions) -> None:
        self.members, self.stop, self.codes = members, threading.Event(), list[int]()
        self.thread = threading.Thread(
            target=lambda: self.codes.append(keep(members, self.stop, hopeless, options)), name="family"
        )
        self.thread.start()

    def end(self) -> list[int]:
        self.stop.set()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.codes


@pytest.fixture
def kept() -> Iterator[Callable[..., Kept]]:
    made: list[Kept] = []

    def start(
        *members: Member,
        hopeless: Callable[[Member, int], bool] = lambda member, code: False,
        options: FamilyOptions = OPTIONS,
    ) -> Kept:
        made.append(Kept(list(members), hopeless, options))
        return made[-1]

    yield start
    for family in made:
        family.end()


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def _python(name: str, code: str, *words: str) -> Member:
    return Member(name, [sys.executable, "-c", code, *words])


def test_one_that_is_killed_is_started_again(kept: Callable[..., Kept], tmp_path: Path) -> None:
    """The others stay as they are."""
    first, second = _python("a", LIVES, str(tmp_path / "a")), _python("b", LIVES, str(tmp_path / "b"))
    family = kept(first, second)
    _until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    other, victim = second.pid, first.pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    _until(lambda: (tmp_path / "a").read_text() == "xx")
    assert first.pid not in (None, victim) and second.pid == other
    assert family.end() == [0] and first.pid is second.pid is None


def test_one_that_dies_at_once_is_waited_for_longer_each_time(
    kept: Callable[..., Kept], caplog: pytest.LogCaptureFixture
) -> None:
    """Up to a bound, and the log says how long."""
    family = kept(_python("a", "raise SystemExit(3)"))
    _until(lambda: len(caplog.records) >= 5)
    family.end()
    waits = [record.getMessage().rsplit(" ", 2)[1] for record in caplog.records[:5]]
    assert waits == ["0.1", "0.1", "0.2", "0.2", "0.2"] and "exit code 3" in caplog.records[0].getMessage()


def test_a_hopeless_end_is_the_end_of_all(kept: Callable[..., Kept], tmp_path: Path) -> None:
    other = _python("b", LIVES, str(tmp_path / "b"))
    family = kept(other, _python("a", "raise SystemExit(2)"), hopeless=lambda member, code: code == 2)
    family.thread.join(WAIT_S)
    assert family.codes == [2] and other.pid is None


def test_one_that_does_not_end_is_killed(kept: Callable[..., Kept], tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + LIVES
    member = _python("a", code, str(tmp_path / "a"))
    family = kept(member, options=FamilyOptions(end_s=0.3))
    _until((tmp_path / "a").exists)
    pid = member.pid
    assert pid is not None
    assert family.end() == [0]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_members_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """A supervisor that is killed leaves nobody behind."""
    child = (
        "import os, sys, time; from pathlib import Path; from forebay.cli.family import end_with_parent;"
        "end_with_parent(int(sys.argv[1])); Path(sys.argv[2]).write_text(str(os.getpid())); time.sleep(600)"
    )
    parent = (
        "import os, sys, threading; from forebay.cli.family import Member, keep;"
        f"keep([Member('a', [sys.executable, '-c', {child!r}, str(os.getpid()), sys.argv[1]])], threading.Event(),"
        " lambda member, code: False)"
    )
    told = tmp_path / "pid"
    process = subprocess.Popen([sys.executable, "-c", parent, str(told)])
    try:
        _until(lambda: told.exists() and told.read_text() != "")
    finally:
        process.kill()
        process.wait()

    def gone() -> bool:
        try:
            os.kill(int(told.read_text()), 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{told.read_text()}/stat").read_text().split()[2] == "Z"  # init may be slow to take it

    _until(gone)
