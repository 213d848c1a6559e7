"""Whether the workers of a process do their work, and whether the process is alive."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

log = logging.getLogger("forebay")


class Worker(Protocol):
    """What is asked, from any thread."""

    @property
    def name(self) -> str: ...

    @property
    def turned_at(self) -> float:
        """When its loop last turned (monotonic s)."""

    def not_ready(self) -> str: ...

    def paused(self) -> str: ...

    def resume(self, topic: str) -> bool: ...


class Readiness:
    """Of all workers of a process together."""

    def __init__(self, workers: Sequence[Worker], what: str) -> None:
        """`what` stands behind "ready:" in the line that says so."""
        self._workers, self._what = workers, what
        self._said: str | None = None

    def waits(self) -> str:
        """What is waited for; "" when all are at work."""
        return "; ".join(f"{w.name}: {why}" for w in self._workers if (why := w.not_ready()))

    def paused(self) -> str:
        """Which sources stand still; "" when all are read."""
        return "; ".join(f"{w.name}: {why}" for w in self._workers if (why := w.paused()))

    def look(self) -> None:
        """Log one line when the workers have become ready, and one when they are so no more."""
        waits = self.waits()
        if not waits and self._said != "":
            log.info("ready: %s", self._what)
        elif waits and self._said == "":
            log.warning("not ready: %s", waits)
        if self._said is not None or not waits:
            self._said = waits

    def resumed(self, topic: str) -> list[str]:
        """Ask that a source be read again; the names of the workers that stand still for it."""
        return [worker.name for worker in self._workers if worker.resume(topic)]


class Liveness:
    """Whether every thread that has to turn does: those of the workers, and the one that watches them.

    The watchdog ends a process whose workers hang or get nowhere. This says no where it would, and where it hangs
    itself.
    """

    def __init__(
        self, workers: Sequence[Worker], stall_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is that of `turned_at`."""
        self._workers, self._stall_after_s, self._clock = workers, stall_after_s, clock
        self._looked_at = clock()

    def look(self) -> None:
        """The watching thread is here: to be called by it, several times a second."""
        self._looked_at = self._clock()

    def stands(self) -> str:
        """What stands still; "" when everything turns. Any thread."""
        now = self._clock()
        turned = [(worker.name, worker.turned_at) for worker in self._workers]
        stood = [(name, now - at) for name, at in [("the watchdog", self._looked_at), *turned]]
        return "; ".join(f"{name} has stood still for {s:.0f} s" for name, s in stood if s > self._stall_after_s)
