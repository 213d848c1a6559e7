"""Processes that one process keeps: started, started again when they end, and ended together."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

log = logging.getLogger("forebay")

_LOOK_S = 0.1
_DEATH_SIGNAL = 1  # Linux's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class FamilyOptions:
    """A process that ends is started again after `pause_s`, twice as long each time up to `pause_most_s`; after
    `well_after_s` of life it begins anew. The others have `end_s` to come to an end."""

    pause_s: float = 0.5
    pause_most_s: float = 30.0
    well_after_s: float = 60.0
    end_s: float = 15.0


class Member:
    """One process: its `name` for the log, its command, and file descriptors that it is given."""

    def __init__(self, name: str, command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        self.name, self._command, self._descriptors = name, list(command), tuple(descriptors)
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._due, self._failures = 0.0, 0.0, 0

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None between two."""
        return self._process.pid if self._process is not None else None

    def look(self, options: FamilyOptions) -> int | None:
        """Start it where it is due. Returns the exit code, once, of one that has ended; negative for a signal."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                # In a group of its own: Ctrl-C at a terminal is the family's to answer, and not each member's.
                self._process = subprocess.Popen(self._command, pass_fds=self._descriptors, process_group=0)
                self._started = now
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._failures = 1 if now - self._started > options.well_after_s else self._failures + 1
        pause = min(options.pause_most_s, options.pause_s * 2 ** min(16, self._failures - 1))
        log.error("%s (process %d) ended with %s; again in %.1f s", self.name, self._process.pid, _said(code), pause)
        self._process, self._due = None, now + pause
        return code

    def end(self) -> None:
        """SIGTERM, where it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def ended(self, until: float) -> None:
        """Wait until then (monotonic s), and kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("%s (process %d) does not end: killed", self.name, self._process.pid)
            self._process.kill()
            self._process.wait()
        self._process = None


def keep(
    members: Sequence[Member],
    stop: threading.Event,
    hopeless: Callable[[Member, int], bool],
    options: FamilyOptions = FamilyOptions(),
) -> int:
    """Keep all members running until `stop` is set, then end them in their order; returns 0.

    An exit code that is `hopeless` of a member ends all of them, and is returned. Each ends when this process does,
    however that ends: see `end_with_parent`.
    """
    code = 0
    try:
        while not stop.is_set() and not code:
            for member in members:
                ended = member.look(options)
                if ended is not None and hopeless(member, ended):
                    code = ended
            stop.wait(_LOOK_S)
    finally:
        for member in members:
            member.end()
        until = time.monotonic() + options.end_s
        for member in members:
            member.ended(until)
    return code


def end_with_parent(parent: int) -> None:
    """Called by a member at its start: SIGTERM comes to it when `parent`, the process that started it, is gone."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before
        os.kill(os.getpid(), signal.SIGTERM)


def _said(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
