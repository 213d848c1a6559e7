"""Partitions that stand still for want of something that is neither in the log nor at the broker: a schema, or the
Checkpoint that their state is to come from.

The others go on. A partition that waits is tried again after growing pauses, for as long as it takes: its records stay
in the log, and nothing is claimed for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
TELL_EVERY_S = 60.0
log = logging.getLogger("forebay.worker")


@dataclass
class _Wait:
    reason: str
    pause_s: float
    again_at: float
    told_at: float
    stands: bool = True


class Waits:
    """Which partitions wait, and for what. One thread, but `reason` may be read from any."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._waits: dict[int, _Wait] = {}
        self.reason = ""  # of one that waits; "" where none does

    def __contains__(self, partition: int) -> bool:
        found = self._waits.get(partition)
        return found is not None and found.stands

    @property
    def partitions(self) -> Collection[int]:
        """Those that wait, or are tried again just now."""
        return self._waits.keys()

    def put(self, partition: int, place: str, reason: str) -> None:
        """It cannot go on now. Says so in the log, at first and every minute after it."""
        now, before = self._clock(), self._waits.get(partition)
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, LONGEST_PAUSE_S)
        told_at = now if before is None else before.told_at
        if before is None or now - told_at >= TELL_EVERY_S:
            log.warning("%s waits, and its records with it: %s", place, reason)
            told_at = now
        self._waits[partition] = _Wait(f"{place} waits: {reason}", pause_s, now + pause_s, told_at)
        self._tell()

    def due(self) -> list[int]:
        """Those to be tried again now. They stand still no more, and are forgotten when `went_on` is told."""
        now = self._clock()
        found = [p for p, wait in self._waits.items() if wait.stands and now >= wait.again_at]
        for partition in found:
            self._waits[partition].stands = False
        return found

    def went_on(self, partition: int, place: str) -> None:
        """Its records could be taken: what it waited for is there."""
        if self.forget(partition):
            log.info("%s goes on", place)

    def forget(self, partition: int) -> bool:
        """It is another worker's now, or is opened anew; whether it was known here."""
        found = self._waits.pop(partition, None) is not None
        self._tell()
        return found

    def _tell(self) -> None:
        self.reason = next((wait.reason for wait in self._waits.values()), "")
