"""A worker's commits, one at a time: step 4, what a batch became and the group's offsets, and step 5, the stores.

A Worker begins a commit when a batch is applied, and settles it before it begins the next or does what needs the log to
be settled; a flush comes only between the two. A crash while a commit is under way leaves the group where it was or
behind the batch, as the broker has it: what is not committed is done again. A crash between a commit and the flush
leaves stores that lag the group, and the next owner folds the gap silently.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event

from forebay.errors import BrokerError, RecordRefused
from forebay.streams.worker.assignment import Assignment
from forebay.streams.worker.batch import Outcome, Record
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.transport import Transport
from forebay.telemetry import emit, tell


class Commits:
    """The commit under way, and how many since the stores were written. One thread."""

    def __init__(
        self,
        stage: Stage,
        transport: Transport,
        assignment: Assignment,
        options: WorkerOptions,
        clock: Callable[[], float],
    ) -> None:
        """`clock` in seconds."""
        self._stage, self._transport, self._assignment = stage, transport, assignment
        self._options, self._clock = options, clock
        self._under_way: tuple[Outcome, Mapping[int, int]] | None = None  # what is not settled, newest append times
        self._flushed_at = clock()
        self.since_flush = 0  # batches that the stores have not been told

    def begin(self, outcome: Outcome, newest: Mapping[int, int], beat: Sequence[Record] | None) -> None:
        """Begin the commit of a batch; the one before is settled. It runs while the next batch is applied. `newest` are
        the last append times (ms) of the batch, by partition, and `beat` what is told beside it; None: no beat."""
        stage = self._stage
        # What had waited may be told without an event: with it goes where its partition stands, as offsets are what a
        # worker that has lost it is refused for.
        spoken = {*outcome.offsets, *outcome.told}
        # A note is kept beside an offset: with a beat go those of idle partitions, too.
        notes = {p: note for p in (spoken if beat is None else stage.partitions) if (note := stage.note(p))}
        offsets = {p: stage.partitions[p].meta.offset for p in sorted(spoken | notes.keys())}
        self._transport.submit([*outcome.records, *(beat or ())], offsets, notes, outcome.events)
        self._under_way = outcome, newest
        self.since_flush += bool(outcome.offsets or outcome.told)

    def settle(self, stop: Event) -> bool:
        """Wait for the commit under way, with a bound; returns whether there was one. Raises what it raised, or
        TransactionLost."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return False
        outcome, newest = under_way
        try:
            if not self._transport.settle(stop):
                return False
        except BrokerError as error:
            emit("aborted", stage=self._stage.name, error=type(error).__name__)
            for span in outcome.spans:
                span.end(error)
            if isinstance(error, RecordRefused):
                self._assignment.halving.refused(outcome, error)
            raise
        self._assignment.halving.committed(outcome.offsets)
        self._assignment.ages.committed(newest)
        for span in outcome.spans:
            span.end()
        tell(outcome.news)
        self._assignment.committed.update(outcome.offsets)
        return True

    def flush_due(self) -> bool:
        """Whether it is time to write the stores."""
        if not self.since_flush:
            return False
        return (
            self.since_flush >= self._options.flush_batches
            or self._clock() - self._flushed_at >= self._options.flush_interval_s
        )

    def flush(self) -> None:
        """Step 5: write what is committed into the stores. The caller has settled: they may not hold anything else."""
        started = time.perf_counter()
        self._stage.flush()
        took = time.perf_counter() - started
        emit("step", number=5, name="store", stage=self._stage.name, seconds=took, events=0)
        self.since_flush, self._flushed_at = 0, self._clock()
