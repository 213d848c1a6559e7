"""What a worker publishes of itself each turn, for whoever asks from another thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forebay.store.census import Census
from forebay.streams.worker.source import Source
from forebay.streams.worker.watchdog import Progress


@dataclass(frozen=True)
class Standing:
    """One partition. `end` is where it ends as the broker last told it, None before the first answer. Nothing that was
    appended before `since` (ms, the broker's clock) waits; 0: not known. `as_of` (ms) is what the partition claims, 0
    for none. `census` is of the last count, None before the first."""

    source: Source
    progress: Progress
    end: int | None
    since: int
    as_of: int
    census: Census | None

    @property
    def waiting(self) -> int:
        """Records that are readable and not committed, as far as both are known."""
        return max(0, (self.end or 0) - self.progress.position)

    def lag_s(self, now_ms: int) -> float | None:
        """How old the oldest record is that is not committed: 0 where the reader has met the end with everything before
        it committed, and no later end was told since. None where nothing is known. Never less than it is, but for the
        difference between this machine's clock and the broker's."""
        progress = self.progress
        if progress.end >= progress.committed >= progress.applied and not self.waiting:
            return 0.0
        return max(0, now_ms - self.since) / 1000 if self.since else None


@dataclass(frozen=True)
class Warmth:
    """One partition that another worker owns and whose state is kept warm here: `behind` so many offsets of the group's
    as that was asked last, and in step with it at `at_ms`; where a Checkpoint is only fetched, that was made then."""

    source: Source
    behind: int
    at_ms: int


@dataclass(frozen=True)
class Report:
    """A worker: its stage (`intake`, `user`, `item`), its partitions, how many of them `restoring` (or not open yet),
    for how long the broker is away (s, 0.0 while it answers), since when its loop stands still (s), the memory (bytes)
    that no partition has, and what is kept warm of others' partitions."""

    stage: str
    partitions: Mapping[int, Standing] = field(default_factory=dict)
    restoring: int = 0
    away_s: float = 0.0
    turned_s: float = 0.0
    ready: bool = False
    memory: Mapping[str, int] = field(default_factory=dict)
    warm: Mapping[int, Warmth] = field(default_factory=dict)
