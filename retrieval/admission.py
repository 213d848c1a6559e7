"""Which requests a server takes on, and when each has its turn.

Work happens one request at a time on the event loop (a search of the index on threads of its own), so the wait of a new
one is known when it comes: what those before it will take, times what the waits of late were of what they should have
been. It is refused at once where that wait is too long:

- longer than half of what its caller has left, or than leaves time for the work itself;
- with `short` others or more before it, past `burst_s`, or past `target_s` while there has been a queue for
  `interval_s` without a break. A burst that passes is served whole, and a load that does not pass finds a short queue
  and a quick no. (It is the rule of CoDel as servers of Facebook's have it, with the wait foreseen and not suffered.)

A request with no queue before it is always taken: its time is all that tells how long such requests take now.
Between two turns the loop looks at its connections, so a request is seen, and refused, within the time of one lookup.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


@dataclass(frozen=True)
class AdmissionOptions:
    """When a queue is too long. Waits are seconds that a request would stand in it."""

    target_s: float = 0.005  # at most, while the queue has not been empty for interval_s
    interval_s: float = 0.1  # a burst is over by then
    burst_s: float = 0.1  # at most, at any time
    short: int = 16  # requests in a queue that is never too long for callers who have time, however slow they are
    queue: int = 1_000  # requests at most, whatever they take
    searches: int = 2  # at once, each on a thread
    pages: int = 1  # at once, on a thread


class Refusal(Enum):
    """Why a request is not taken on: the `error` of its answer."""

    OVERLOADED = "overloaded"
    DEADLINE = "deadline_exceeded"


_KEPT, _MOST = 0.97, 8.0  # what a wait counts for at the next one; what a queue is stretched by at most
Kind: TypeAlias = tuple[str, int]  # a path, and the binary order of magnitude of the body


@dataclass(slots=True)
class Turn:
    """One request in the queue. `start` begins its work and returns the task; `wanted` is asked before."""

    kind: Kind
    start: Callable[[], asyncio.Task[None]]
    wanted: Callable[[], bool]
    came: float
    costs_s: float = 0.0
    foreseen_s: float = 0.0  # in the queue, by what was known when it came


class Lane:
    """A queue in front of `width` requests at a time. On the event loop; not safe to call from elsewhere."""

    def __init__(
        self,
        width: int,
        options: AdmissionOptions,
        costs: dict[Kind, float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`costs` is what is known of each kind's time, in seconds; lanes may share it."""
        self._width, self._options, self._costs, self._clock = width, options, costs, clock
        self._queue: deque[Turn] = deque()
        self._queued_s = 0.0
        self._foreseen_s = self._waited_s = 0.0  # sums over those that had their turn lately, the oldest counting least
        self._empty_at = 0.0  # when the queue was last seen to be empty
        self._aside: dict[asyncio.Task[None], float] = {}  # seconds that requests which are at work have waited
        self.running = 0

    def __len__(self) -> int:
        return len(self._queue)

    def refuses(self, kind: Kind, now: float, left_s: float) -> Refusal | None:
        """Why a request of this kind is refused, with `left_s` (inf for no end) for its answer; None if it is not."""
        if left_s <= 0:
            return Refusal.DEADLINE
        if self.running < self._width:
            return None
        if not self._queue:
            self._empty_at = now
            return None
        most, wait_s, ahead = self._options, self._queued_s / self._width * self._stretch(), len(self._queue)
        if wait_s > min(left_s / 2, left_s - self._costs.get(kind, 0.0)) or ahead >= most.queue:
            return Refusal.OVERLOADED
        allowed_s = most.target_s if now - self._empty_at > most.interval_s else most.burst_s
        return Refusal.OVERLOADED if ahead >= most.short and wait_s > allowed_s else None

    def put(self, turn: Turn) -> None:
        """Queue a request that is not refused, or begin it."""
        turn.costs_s = self._costs.get(turn.kind, self._options.target_s / 10)
        if self.running < self._width:
            self._begin(turn, turn.came)
        else:
            turn.foreseen_s = self._queued_s / self._width
            self._queue.append(turn)
            self._queued_s += turn.costs_s

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around a wait of the request that is at work for something that is not here: the next one has its turn
        meanwhile, and what this one takes does not count the wait."""
        began = self._clock()
        self.running -= 1
        self._next(began)
        try:
            yield
        finally:
            self.running += 1
            if task := asyncio.current_task():
                self._aside[task] = self._aside.get(task, 0.0) + self._clock() - began

    def _begin(self, turn: Turn, now: float) -> None:
        self.running += 1
        turn.start().add_done_callback(lambda task: self._ended(turn, now + self._aside.pop(task, 0.0)))

    def _ended(self, turn: Turn, began: float) -> None:
        """Called by the loop, after it looked at its connections: what was read and refused meanwhile is a part of
        what a turn takes, as those behind it in the queue feel it."""
        now = self._clock()
        self.running -= 1
        self._learn(turn.kind, now - began)
        self._next(now)

    def _next(self, now: float) -> None:
        while self._queue and self.running < self._width:
            first = self._queue.popleft()
            self._queued_s -= first.costs_s
            if first.wanted():
                self._foreseen_s = _KEPT * self._foreseen_s + first.foreseen_s
                self._waited_s = _KEPT * self._waited_s + now - first.came
                self._begin(first, now)
        if not self._queue:
            self._empty_at, self._queued_s = now, 0.0

    def _stretch(self) -> float:
        """How many times longer the queue has lately been than the times of its requests say, 1 at least. Pauses that
        come again and again, of a machine with other work, are in no single request's time."""
        if self._waited_s <= self._foreseen_s:
            return 1.0
        return min(self._waited_s / max(self._foreseen_s, 1e-9), _MOST)

    def _learn(self, kind: Kind, seconds: float) -> None:
        """One that took unusually long (a first one, a pause of the machine) moves what is known by little."""
        known = self._costs.get(kind)
        if known is None:
            self._costs[kind] = min(seconds, self._options.target_s)
        else:
            self._costs[kind] = known + 0.1 * (min(seconds, 2 * known + 1e-5) - known)


class Admission:
    """The lanes of one server, and since when what the loop reads just now can have been there."""

    def __init__(
        self,
        options: AdmissionOptions,
        lookups: frozenset[str],
        searches: frozenset[str],
        pages: frozenset[str] = frozenset(),
    ) -> None:
        """`lookups` are paths whose times are told apart; requests at those of `searches` work on threads, and at
        `pages` one after the other at each path."""
        costs: dict[Kind, float] = {}
        self.lookups, self._lookups, self._searches = Lane(1, options, costs), lookups, searches
        self.searches = Lane(options.searches, options, costs)
        self._pages = {path: Lane(options.pages, options, {}) for path in pages}
        self._reading = False
        self._read_at = self._since = self._charged = 0.0

    def admits(self, path: str) -> bool:
        """Whether requests at `path` queue; others have their turn at once."""
        return path.startswith("/v1/") or path in self._pages

    def lane(self, path: str) -> Lane:
        """Where requests at `path` queue."""
        if path in self._pages:
            return self._pages[path]
        return self.searches if path in self._searches else self.lookups

    def kind(self, path: str, body_bytes: int) -> Kind:
        """What the time of a request is told by. There are about a hundred."""
        return path if path in self._lookups else "", body_bytes.bit_length()

    def arrived(self, loop: asyncio.AbstractEventLoop) -> float:
        """The earliest that bytes which are read now can have come: for a caller's deadline.

        All that is read between two rounds of the loop has the time of the first reading, since the rest lay there as
        well; and where a lookup was at work until now, that of the round before it.
        """
        if not self._reading:
            self._reading, self._read_at = True, time.perf_counter()
            self._charged = self._since if self.lookups.running else self._read_at
            loop.call_soon(self._read)
        return self._charged

    def turn(self) -> None:
        """A turn on the loop begins: what is not read yet comes after the last reading."""
        self._since = self._read_at if self._reading else time.perf_counter()

    def _read(self) -> None:
        self._reading, self._since = False, self._read_at
