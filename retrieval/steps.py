"""Where the time of a lookup goes: of one in EVERY at each path, the seconds of each of its steps.

read: the body becomes a request · user: the user's row, and the wait for it where it is not in memory · candidates:
those of the request that may be answered, or what a search of the index finds · score: their rows are read, scored and
chosen from · answer: hits and freshness, and the bytes of them.

What comes before, reading the request and its place in the queue, is `waited` of the hook `request`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

EVERY = 16  # timing a lookup took 20 µs on a busy core, most of it to count its steps, and not timing one .3
STEPS = ("read", "user", "candidates", "score", "answer")

Lap: TypeAlias = Callable[[str], None]


def untimed(step: str, /) -> None:
    """The lap of a lookup whose steps nobody wants to know."""


class Laps:
    """Called with the name of each step when it ends: what passed since the one before is its time. On one thread at a
    time."""

    __slots__ = ("_at", "_seconds")

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._at = time.perf_counter()

    def __call__(self, step: str, /) -> None:
        now = time.perf_counter()
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._at
        self._at = now

    def seconds(self) -> Mapping[str, float]:
        """Of each step that has ended. One that a lookup goes through twice has both."""
        return self._seconds


class Sampled:
    """Which lookups are timed. On one thread."""

    def __init__(self, paths: frozenset[str], every: int = EVERY) -> None:
        self._left, self._every = dict.fromkeys(paths, 0), every

    def begin(self, path: str) -> Laps | None:
        """Laps for the first lookup at `path`, and for each `every`th after it; None for the others."""
        left = self._left.get(path)
        if left is None:
            return None
        if left:
            self._left[path] = left - 1
            return None
        self._left[path] = self._every - 1
        return Laps()
