"""The thread on which one side's transactions run, and how long it is waited for.

librdkafka's calls take a time-out, and a stopped broker was seen to outlast it: whoever waits for a commit does so with
a bound of its own. A thread that does not come back is left behind with its producer; it ends when its call does. The
next producer of the same transactional id fences it, so that nothing which it still does can count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue

from forebay.errors import TransactionLost
from forebay.streams.worker.typical import Typical

STOP_GRACE_S = 3.0  # of a commit under way when its worker is told to stop: SIGTERM ends a process within 10 s
_STEP_S = 0.1


class Commits:
    """Runs one commit at a time. Submits and settles come from one thread."""

    def __init__(self, name: str, patience_s: float) -> None:
        """`patience_s` bounds each `settle`. Nothing runs before the first `submit`."""
        self._patience_s = patience_s
        self._work: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        # A daemon: a thread that is stuck in a call must not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._under_way: Future[None] | None = None
        self.usual, self._began = Typical(), 0.0

    @property
    def left_s(self) -> float:
        """How long what is under way still takes, as it usually does; 0.0 where nothing is."""
        if self._under_way is None or self._under_way.done():
            return 0.0
        return max(0.0, self._began + self.usual.seconds - time.monotonic())

    def submit(self, work: Callable[[], None]) -> None:
        """Begin `work`. The one before has been settled."""
        assert self._under_way is None, "the commit before is not settled"
        if self._thread.ident is None:
            self._thread.start()
        self._under_way, self._began = Future(), time.monotonic()
        self._work.put((work, self._under_way))

    def settle(self, stop: threading.Event) -> bool:
        """Wait for the commit under way and raise what it raised; returns whether there was one.

        Raises TransactionLost after `patience_s`, or 3 s after `stop` is set.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return False
        began, stopped_at = time.monotonic(), float("inf")
        while True:
            done, _ = wait([under_way], _STEP_S)
            if done:
                under_way.result()
                return True
            now = time.monotonic()
            if stop.is_set():
                stopped_at = min(stopped_at, now)
            if now > min(began + self._patience_s, stopped_at + STOP_GRACE_S):
                raise TransactionLost("how a transaction ended is not known: its commit does not come back")

    def leave(self) -> bool:
        """End the thread as soon as what it runs comes back; returns whether it has ended by now. Not to be used
        again."""
        self._under_way = None
        self._work.put(None)
        if self._thread.ident is not None:
            self._thread.join(_STEP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            began = time.monotonic()
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised where it is settled
                future.set_exception(error)
            else:
                self.usual.add(time.monotonic() - began)
                future.set_result(None)
