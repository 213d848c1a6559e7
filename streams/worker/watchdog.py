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
    """How far one partition has come: `committed` by the group; `applied` in memory; `end` the newest end of the
    partition that the reader has met, -1 before the first. Offsets of the next record. Only `committed` is progress: a
    batch that is applied, refused and applied again gets nowhere. One that is `standing` still is to."""

    committed: int
    applied: int
    end: int = -1
    standing: bool = False

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

    @property
    def excused(self) -> bool:
        """Whether it restores, or waits for the broker: both have bounds of their own."""

    def progress(self) -> Mapping[int, Progress]:
        """Of each partition that it owns and has opened, be it dropped since, to be read again."""

    def readable_end(self, partition: int) -> int | None:
        """The end of a partition as the broker last told it; None when it does not tell."""


class Watchdog:
    """Judges one worker, every now and then."""

    def __init__(self, worker: Watched, stall_after_s: float, clock: Callable[[], float]) -> None:
        """`clock` is that of `turned_at`."""
        self._worker, self._stall_after_s, self._clock = worker, stall_after_s, clock
        self._committed: dict[int, tuple[int, float]] = {}  # partition -> offset, and since when it stands there
        self._checked_at = clock()

    def check(self) -> None:
        """Raise Stalled when the loop has stood still, or a partition with records to read has made no progress, for
        too long."""
        now, worker = self._clock(), self._worker
        if (stood := now - worker.turned_at) > self._stall_after_s:
            raise self._stalled(f"its loop has stood still for {stood:.0f} s", worker.name)
        elapsed, self._checked_at = now - self._checked_at, now
        stands: dict[int, tuple[int, float]] = {}
        for partition, progress in worker.progress().items():
            end = worker.readable_end(partition)
            before, since = self._committed.get(partition, (progress.committed, now))
            if worker.excused:
                since += (
                    elapsed  # not counted, and not forgiven either: a worker that restores again and again gets nowhere
                )
            elif progress.standing or progress.committed != before or end is None or end <= progress.position:
                since = now
            stands[partition] = (progress.committed, min(since, now))
            if now - since > self._stall_after_s:
                raise self._stalled(
                    f"{(end or 0) - progress.position:,} records wait, and nothing was committed for "
                    f"{now - since:.0f} s",
                    f"{worker.name}, partition {partition}",
                )
        self._committed = stands

    def _stalled(self, what: str, where: str) -> Stalled:
        return Stalled(
            what, where=where, do="Start it again: what was not committed is done again. Its log has the reason"
        )
