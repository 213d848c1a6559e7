"""Calls that take their time, on a few threads of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
THREADS = 4


class Fetching(Generic[T]):
    """Runs `call` for numbers, on four threads at most, which end when nothing is left to do.

    The threads are daemons: a process that ends waits neither for a server that does not answer nor for the calls that
    have not begun, as it would for a ThreadPoolExecutor's.
    """

    def __init__(self, call: Callable[[int], T]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, Future[T]]] = deque()
        self._running = 0

    def begin(self, number: int) -> Future[T]:
        """What `call` returns or raises for `number`, once it has come back."""
        future: Future[T] = Future()
        with self._lock:
            self._queue.append((number, future))
            if self._running < THREADS:
                self._running += 1
                threading.Thread(target=self._work, name="schemas", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                number, future = self._queue.popleft()
            try:
                found = self._call(number)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)
            else:
                future.set_result(found)
