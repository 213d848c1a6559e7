"""When a worker is to be ended because it gets nowhere: a process that hangs looks healthy to whoever started it.

Progress is that of committed offsets, as the group would tell it, and not that of a loop that turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from forebay.errors import Stalled


@dataclass(frozen=True)
class Progress:
    """How far one partition has come: `committed` by the group; `applied` in memory; `end` the newest end of the partition that
    the reader has met, -1 before the first. Offsets of the next record."""

    committed: int
    applied: int
    end: int = -1

    @property
    def position(self) -> int:
        """Up to where nothing waits: the met end, when everything before it is committed."""
        return max(self.committed, self.end) if self.committed >= self.applied else self.committed


class Watched(Protocol):
    """What a Watchdog looks at; each may be read while the worker's thread is stuck."""

    @property
    def name(self) -> str: ...

    @property
    def turned_at(self) -> float:
        """When its loop last turned (monotonic s)."""

    def progress(self) -> Mapping[int, Progress]:
        """Of each partition that it owns."""

    def readable_end(self, partition: int) -> int | None:
        """The end of a partition as the broker last told it; None when it does not tell."""


class Watchdog:
    """Judges one worker, every now and then."""

    def __init__(self, worker: Watched, stall_after_s: float, clock: Callable[[], float]) -> None:
        """`clock` is that of `turned_at`."""
        self._worker, self._stall_after_s, self._clock = worker, stall_after_s, clock
        self._moved: dict[int, tuple[Progress, float]] = {}

    def check(self) -> None:
        """Raise Stalled when the loop has stood still, or a partition with records to read has made no progress, for too long."""
        now, worker = self._clock(), self._worker
        if (stood := now - worker.turned_at) > self._stall_after_s:
            raise self._stalled(f"its loop has stood still for {stood:.0f} s", worker.name)
        moved: dict[int, tuple[Progress, float]] = {}
        for partition, progress in worker.progress().items():
            end = worker.readable_end(partition)
            before, since = self._moved.get(partition, (progress, now))
            waits = end is not None and end > progress.position
            if progress != before or not waits:
                since = now
            moved[partition] = (progress, since)
            if now - since > self._stall_after_s:
                raise self._stalled(
                    f"{(end or 0) - progress.position:,} records wait, and nothing was committed for {now - since:.0f} s",
                    f"{worker.name}, partition {partition}",
                )
        self._moved = moved

    def _stalled(self, what: str, where: str) -> Stalled:
        return Stalled(
            what, where=where, do="Start it again: what was not committed is done again. Its log has the reason"
        )
