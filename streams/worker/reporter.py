"""What a worker keeps up to date of itself for others to read: how far its partitions are, and what they hold.

A Worker calls `turned` each turn, from its thread; supervisor, metrics and readiness read what it left, from theirs.
Each value is replaced whole, so that nobody sees half of one. Nothing of it outlives the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forebay.store.census import Census
from forebay.streams.worker.assignment import Assignment
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.standing import Report
from forebay.streams.worker.watchdog import Progress

COUNT_EVERY_S = 1.0  # of what partitions hold: a scrape is rarer


class Reporter:
    """As of the last turn: when that was (`turned_at`, by the worker's clock), `progress` and `report`."""

    def __init__(self, stage: Stage, assignment: Assignment, clock: Callable[[], float]) -> None:
        """`clock` in seconds."""
        self._stage, self._assignment, self._clock = stage, assignment, clock
        self._counts: Mapping[int, Census] = {}
        self._memory: Mapping[str, int] = {}
        self._counted_at = float("-inf")
        self.turned_at = clock()
        self.progress: Mapping[int, Progress] = {}
        self.report = Report(stage.name)

    def turned(self) -> None:
        """The worker's loop is alive, and stands like this."""
        stage, assignment = self._stage, self._assignment
        self.turned_at = self._clock()
        if self.turned_at - self._counted_at >= COUNT_EVERY_S:
            self._counted_at = self.turned_at
            self._counts = {p: owned.census() for p, owned in stage.partitions.items()}
            self._memory = stage.memory()
        standings = assignment.standings(self._counts)
        # One that waits says why; a new start would not help it.
        self.progress = {p: standing.progress for p, standing in standings.items() if p not in assignment.waits}
        self.report = Report(stage.name, standings, assignment.not_in_step(), memory=self._memory)
