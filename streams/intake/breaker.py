"""Whether one source is read or stands still: a schema that broke is not a few bad records.

What counts are records that cannot be read as events. A late one was read, and so was one from the future: after an
outage they come by the thousand, and refusing them is right. The rule knows no clock and no log: who asks says when it
is, in seconds of a clock that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass

READ_ALL_THE_SAME = frozenset({"late", "future"})  # reasons of records that are events


@dataclass(frozen=True)
class BreakerOptions:
    """A source stands still when more than a share `above` of a window was bad. A window is of `records`, or of
    `window_s` where that has at least `least`. `retry_s` after that its newest records are looked at, then after twice
    as long each time, up to `most_retry_s`."""

    above: float = 0.5
    records: int = 1000
    window_s: float = 30.0
    least: int = 20  # one bad record in a quiet half minute is no broken schema
    retry_s: float = 30.0
    most_retry_s: float = 600.0


class Breaker:
    """Of one source. `share` is that of the window or the sample that decided last."""

    def __init__(self, options: BreakerOptions) -> None:
        self._options = options
        self.stands, self.share, self.records = False, 0.0, 0
        self._wait_s, self._due_s = options.retry_s, 0.0
        self._read = self._bad = 0
        self._begun_s = 0.0

    def took(self, read: int, bad: int, now_s: float) -> bool:
        """Count records that were read, `bad` of them no events; returns whether the source is to stand still from now
        on. They go into the log in any case, as events and dead letters."""
        options = self._options
        if not self._read:
            self._begun_s = now_s
        self._read, self._bad = self._read + read, self._bad + bad
        old = now_s - self._begun_s >= options.window_s and self._read >= options.least
        if self.stands or not (old or self._read >= options.records):
            return False
        self.share, self.records = self._bad / self._read, self._read
        self._read = self._bad = 0
        if self.share <= options.above:
            self._wait_s = options.retry_s
            return False
        self.stands, self._due_s = True, now_s + self._wait_s
        self._double()
        return True

    def due(self, now_s: float) -> bool:
        """Whether it is time to look at a sample."""
        return self.stands and now_s >= self._due_s

    def looked(self, read: int, bad: int, now_s: float) -> bool:
        """What a sample of what waits is; returns whether the source is to be read again. Of nothing, nothing is
        known."""
        if not read:
            self._due_s = now_s + self._options.retry_s
            return False
        self.share, self.records = bad / read, read
        if self.share <= self._options.above:
            self.go_on()
            return True
        self._due_s = now_s + self._wait_s
        self._double()
        return False

    def go_on(self) -> None:
        """Read it again, and count anew. It stands still for longer the next time, unless a good window comes first."""
        self.stands = False
        self._read = self._bad = 0

    def _double(self) -> None:
        self._wait_s = min(2 * self._wait_s, self._options.most_retry_s)
