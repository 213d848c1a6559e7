"""A bound on how much is done in a second, for work that goes on beside what is more urgent."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """No more than so many in a second: who spends more than is left waits, up to a second at a time."""

    def __init__(self, per_second: float, wait: Callable[[float], None] = time.sleep) -> None:
        """0: no bound."""
        self._per_second, self._wait, self._due = per_second, wait, time.monotonic()

    def spend(self, count: int) -> None:
        """`count` are done."""
        if not self._per_second:
            return
        # What was not spent is not saved up for longer than a second.
        self._due = max(self._due, time.monotonic() - 1) + count / self._per_second
        while (left := self._due - time.monotonic()) > 0:
            self._wait(min(left, 1.0))
