"""A slot's seat in a consumer group: one process of this state folder has it, and the next one need not wait for the
group to miss it.

A member with an instance id keeps its partitions until its session ends, and whoever joins with that id takes them over
at once. That is right after kill -9, and wrong where somebody else runs in the slot: so a seat asks first.

    .seat-user-0     locked while the process lives, touched once a second, with the member's id in it

A process that is killed lets go of the lock; one that is paused does not, and stops touching. A member of the group
whose id stands in an abandoned seat is the one who left it. Any other one in the slot runs, as far as anybody here can
tell, and is waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from forebay.streams.worker.refusals import slot_taken

# Beyond two sessions. A coordinator that has just started gives everyone a whole session anew, and one that rebalances
# does not count: that takes as long as another member's commit hangs, which has a bound of six times ten seconds
# (writer.py). With 10 s, one move beside such a commit was refused.
PATIENCE_S = 60.0
_TOUCH_S = 1.0
_ASK_AGAIN_S = 0.2
log = logging.getLogger("forebay.librdkafka")


class Seat:
    """One process's. `take` and `leave` are called by one thread."""

    def __init__(self, path: Path, slot: str, group: str) -> None:
        """The file at `path`; slot and group are for errors."""
        self._path, self._slot, self._group = path, slot, group
        self._handle: int | None = None
        self._ends = threading.Event()
        self._toucher: threading.Thread | None = None
        self._predecessor = self._member = ""

    def take(
        self, session_s: float, others: Callable[[], set[str]], stop: threading.Event, patience_s: float = PATIENCE_S
    ) -> None:
        """Sit down. `others()` are the ids of the members in this slot of the group.

        A predecessor of this folder that has ended, or that has not moved for a session, is not waited for. Raises
        Fenced where somebody is in the slot for longer than two sessions and `patience_s`, and what `others` raises.
        """
        began, said = time.monotonic(), False
        deadline = began + 2 * session_s + patience_s
        while not stop.is_set():
            if (self._handle is not None or self._lock(session_s)) and others() <= {self._predecessor}:
                return
            now = time.monotonic()
            if not said and now > began + 2 * session_s:
                log.warning(
                    "group %s has a member of slot %s: it is waited for, %.0f s at most",
                    self._group, self._slot, deadline - now,
                )  # fmt: skip
                said = True
            if now > deadline:
                raise slot_taken(self._slot, self._group)
            stop.wait(_ASK_AGAIN_S)

    def sit(self, member: str) -> None:
        """This process's id in the group as it is now: whoever comes after a crash is told by it."""
        if member and member != self._member and self._handle is not None:
            os.pwrite(self._handle, member.encode().ljust(256), 0)
            self._member = member

    def leave(self) -> None:
        """Stand up: the group does not know this process any more."""
        self._ends.set()
        if self._toucher is not None:
            self._toucher.join(_TOUCH_S)  # else it could touch whatever has this number next
        if self._handle is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(self._handle).st_ino == os.stat(self._path).st_ino:
                    os.unlink(self._path)
            os.close(self._handle)
            self._handle = None

    def _lock(self, session_s: float) -> bool:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._predecessor = os.pread(handle, 256, 0).decode().strip()
            stood = time.time() - os.fstat(handle).st_mtime
            os.close(handle)
            if stood > session_s + 2 * _TOUCH_S:  # paused: its lock is that of a file without a name, from now on
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
            return False
        if os.fstat(handle).st_nlink == 0:  # removed by whoever had it, between the two calls
            os.close(handle)
            return False
        self._predecessor = os.pread(handle, 256, 0).decode().strip() or self._predecessor
        self._handle = handle
        self._toucher = threading.Thread(target=self._touch, args=(handle,), name="seat", daemon=True)
        self._toucher.start()
        return True

    def _touch(self, handle: int) -> None:
        while not self._ends.wait(_TOUCH_S):
            with contextlib.suppress(OSError):
                os.utime(handle)
