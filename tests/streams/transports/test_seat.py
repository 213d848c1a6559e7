"""A slot's seat: who was killed is not waited for, who runs is not disturbed, and who is paused is succeeded."""

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

from forebay.errors import Fenced
from forebay.streams.transports.librdkafka.seat import Seat

NEVER = threading.Event()
SESSION_S = 0.5
HOLD = """
import sys, threading, time
from pathlib import Path
from forebay.streams.transports.librdkafka.seat import Seat
seat = Seat(Path(sys.argv[1]), "0", "g")
seat.take(1.0, set, threading.Event())
seat.sit("member-1")
print("sits", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the seat, as member-1."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "seat")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None and child.stdout.readline() == "sits\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.fixture
def sit(tmp_path: Path) -> Iterator[Callable[..., Seat]]:
    """`sit(*members)`: take the seat in this process, where the group has those members in the slot."""
    made: list[Seat] = []

    def take(*members: str) -> Seat:
        seat = Seat(tmp_path / "seat", "0", "g")
        made.append(seat)
        seat.take(SESSION_S, lambda: set(members), NEVER, patience_s=1)
        return seat

    yield take
    for seat in made:
        seat.leave()


def test_who_was_killed_is_not_waited_for(other: subprocess.Popen[str], sit: Callable[..., Seat]) -> None:
    """The group still has it as a member: it is the one that left the seat."""
    other.kill()
    other.wait()
    sit("member-1")


def test_who_runs_is_not_disturbed(other: subprocess.Popen[str], sit: Callable[..., Seat]) -> None:
    """Its seat is locked and touched."""
    with pytest.raises(Fenced, match="Give each worker process a --slot of its own"):
        sit("member-1")
    assert other.poll() is None


@pytest.mark.parametrize("killed", [False, True])
def test_a_member_of_another_folder_is_not_disturbed(
    killed: bool, other: subprocess.Popen[str], sit: Callable[..., Seat]
) -> None:
    """Whether nobody ever sat here, or somebody else did: nothing says that it has ended."""
    other.kill()
    other.wait()
    with pytest.raises(Fenced, match="slot 0 is that of a running worker"):
        sit("member-1", "member-2") if killed else sit("member-2")


def test_a_member_that_goes_is_waited_for(tmp_path: Path) -> None:
    """Its session ends while somebody waits for the slot."""
    until, seat = time.monotonic() + 0.3, Seat(tmp_path / "seat", "0", "g")
    seat.take(SESSION_S, lambda: {"member-2"} if time.monotonic() < until else set(), NEVER)
    assert time.monotonic() >= until
    seat.leave()


def test_who_is_paused_is_succeeded(other: subprocess.Popen[str], sit: Callable[..., Seat], tmp_path: Path) -> None:
    """It has not touched its seat for a session, and wakes up without one: its successor keeps the new one."""
    os.kill(other.pid, signal.SIGSTOP)
    stood = time.time() - 60
    os.utime(tmp_path / "seat", (stood, stood))
    seat = sit("member-1")
    seat.sit("member-2")
    os.kill(other.pid, signal.SIGCONT)
    with pytest.raises(Fenced):
        sit("member-2")


def test_who_leaves_leaves_nothing(sit: Callable[..., Seat], tmp_path: Path) -> None:
    """The next one finds no name of a member that has left the group."""
    seat = sit()
    seat.sit("member-1")
    seat.leave()
    assert not (tmp_path / "seat").exists()
    with pytest.raises(Fenced):
        sit("member-1")


def test_a_start_that_is_told_to_stop_does_not_wait(tmp_path: Path) -> None:
    """SIGTERM while somebody else is in the slot."""
    stop = threading.Event()
    stop.set()
    Seat(tmp_path / "seat", "0", "g").take(60, lambda: {"member-2"}, stop)
