"""The workers of one process: each on a thread, watched, and ended in time whatever state they are in.

A worker that is stuck in a call cannot be ended from outside of its thread; its process can. Whatever a process leaves
behind when it ends without a word is what kill -9 leaves: the log is whole, and the next start folds the gap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from forebay.streams.worker.watchdog import Watchdog, Watched

log = logging.getLogger("forebay.supervisor")
END_WITHIN_S = 8.0  # SIGTERM ends a worker within 10 s: what is left is for the interpreter
_STEP_S = 0.2


class Supervised(Watched, Protocol):
    """What is supervised: `run` works until `stop` is set, and raises what it cannot go on with."""

    def run(self, stop: threading.Event) -> None: ...


def supervise(
    workers: Sequence[Supervised],
    stop: threading.Event,
    *,
    stall_after_s: float,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Run all until `stop` is set, one ends or one stalls; then ask the others to end, and wait 8 s at most.

    `look` is called every 0.2 s on the caller's thread.

    Raises Stalled, or the first worker's error. However it returns, a thread may still be `stuck`: the caller then ends
    the process at once (os._exit), since an interpreter waits for what such a thread holds.
    """
    crew = [_Thread(worker, stop) for worker in workers]
    dogs = [Watchdog(worker, stall_after_s, time.monotonic) for worker in workers]
    for one in crew:
        one.start()
    try:
        while not stop.wait(_STEP_S):  # a wait without an end would keep the signal handler waiting
            look()
            for dog in dogs:
                dog.check()
    finally:
        stop.set()
        deadline = time.monotonic() + END_WITHIN_S
        for one in crew:
            one.join(max(0.0, deadline - time.monotonic()))
    for one in crew:
        if one.error is not None:
            raise one.error


def stuck() -> bool:
    """Whether a worker's thread is still running in this process."""
    return any(isinstance(t, _Thread) and t.is_alive() for t in threading.enumerate())


class _Thread(threading.Thread):
    def __init__(self, worker: Supervised, stop: threading.Event) -> None:
        super().__init__(name=worker.name, daemon=True)
        self._worker, self._ends = worker, stop
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._worker.run(self._ends)
        except BaseException as error:  # noqa: BLE001 - raised by whoever supervises
            self.error = error
        self._ends.set()
