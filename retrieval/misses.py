"""Lookups of users whose rows are not in memory: on threads of their own, so many at once, and no longer than who asked
waits.

A row that a disk or another process has may take as long as these do. The event loop goes on meanwhile with those whose
users are in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from forebay.errors import DeadlineExceeded, Overloaded

T = TypeVar("T")

THREADS = 4  # more would take turns at the store
WAITING = 64  # at once, those on a thread included
_MOST_S = 2.0  # where the caller did not say how long it waits


class Misses:
    """On one event loop."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="misses")
        self._most, self._waiting = waiting, 0

    async def run(self, call: Callable[[], T], left_s: float | None) -> T:
        """What `call` returns. Raises Overloaded at once where too many wait, and DeadlineExceeded after `left_s`; the
        thread goes on then, and counts until it is done."""
        if self._waiting >= self._most:
            raise Overloaded(
                f"{self._waiting} lookups wait for users that are not in memory", do="Keep more users in memory"
            )
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        work.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.shield(work), _MOST_S if left_s is None else left_s)
        except TimeoutError:
            raise DeadlineExceeded(
                "the user is not in memory, and its row did not come in time", do="Allow more time"
            ) from None

    def _done(self, work: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # it was told, or nobody waits for it
