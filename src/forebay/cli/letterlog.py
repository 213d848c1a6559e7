"""A worker says once a minute how many records it refused, by reason: a flood of them is one line, and none is
silence."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from forebay.telemetry import Detail, add_hook

EVERY_S = 60.0
log = logging.getLogger("forebay.deadletters")


class LetterLog:
    """A hook that counts `dead_letter` and writes at the next `step`: a worker says one with every batch and heartbeat.

    A refusal is told of when it is committed, so that a batch that is done again counts once. The first ones are
    written with the next step of any worker, within a second or so; those after them at most every minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._told_at = clock, -EVERY_S - 1e9
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()  # every stage's worker emits

    def __call__(self, name: str, details: Mapping[str, Detail]) -> None:
        if name == "dead_letter":
            with self._lock:
                self._counts[str(details["reason"])] += 1
        elif name == "step" and self._counts and self._clock() - self._told_at >= EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Write what has been counted since the last time, if anything."""
        with self._lock:
            counts, self._counts, self._told_at = self._counts, Counter(), self._clock()
        if counts:
            told = ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common())
            log.warning("records refused: %s. See: forebay deadletters list", told)


@contextmanager
def letters_logged() -> Iterator[None]:
    """Tell while the block runs, and the rest when it ends."""
    letters = LetterLog()
    remove = add_hook(letters)
    try:
        yield
    finally:
        remove()
        letters.tell()
