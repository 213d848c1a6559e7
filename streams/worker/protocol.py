"""Ownership of partitions, without Kafka: what a worker opens, folds silently, tells, writes and gives away.

A partition that is assigned stands still until its store is open and folded silently from its own offset to the group's
committed one. It goes on aloud from there when the topic that its stage follows is read to its end. On revoke the
batch under way is committed, the store written and closed before the group may give the partition away. The store may
lag the group and never lead it.

No wait is without a bound, but for that of a partition whose records cannot be read, or whose state does not arrive,
for want of something outside: it stands still alone, and says so. A broker that does not answer is waited for: the
state in memory is dropped, the slot taken anew, and everything read again when the broker is back. Whatever makes no
progress otherwise is for the supervisor to end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from forebay.clock import now_ms
from forebay.errors import BrokerError, BrokerUnavailable, CheckpointError, RecordRefused, TransactionLost
from forebay.store.checkpoints import Checkpoints
from forebay.streams.worker.absence import Absence
from forebay.streams.worker.assignment import Assignment
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.commits import Commits
from forebay.streams.worker.keeper import Keeper
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.reporter import Reporter
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.standby import Standby, sweep
from forebay.streams.worker.standing import Report
from forebay.streams.worker.stores import Stores
from forebay.streams.worker.takeover import Takeover
from forebay.streams.worker.transport import Transport
from forebay.streams.worker.typical import Typical
from forebay.streams.worker.watchdog import Progress

log = logging.getLogger("forebay.worker")


class Worker:
    """Runs one Stage over one Transport. `run` is for a thread; `join`, `turn`, `finish` and `leave` are its parts, for
    whoever takes turns himself. `clock` (monotonic s) and `wall_ms` may be a simulation's."""

    def __init__(
        self,
        stage: Stage,
        transport: Transport,
        options: WorkerOptions = WorkerOptions(),
        checkpoints: Checkpoints | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`checkpoints` are where state comes from that is not here, and where it is kept. Without them it is folded
        from the log: of a generation that was built from history that is half of it.

        Raises StoreMissing where the state of a partition is nowhere: nothing is joined by then.
        """
        self.stage, self.options = stage, options
        self._stores = Stores(stage, checkpoints, wall_ms)
        self._stores.check()
        self.keeper = None if checkpoints is None else Keeper(checkpoints, stage, options, clock, wall_ms)
        self.standby: Standby | None = None
        sweep(stage, options.slot, keeps=bool(options.standby))
        if checkpoints is not None and options.standby:
            self.standby = Standby(stage, transport, checkpoints, options, clock, wall_ms)
        self._transport, self._clock, self._wall_ms = transport, clock, wall_ms
        self._stop = threading.Event()
        self._absence = Absence(options.broker_away_s, clock)
        self._assignment = Assignment(stage, transport, options.batch_records, clock, wall_ms)
        self._takeover = Takeover(
            stage, transport, self._assignment, self._stores, self.keeper, self.standby, options.batch_records,
            lambda: self._turned(),
        )  # fmt: skip
        self._reporter = Reporter(stage, self._assignment, clock)
        self._commits = Commits(stage, transport, self._assignment, options, clock)
        self._applying = Typical()
        self._joined = False
        self._beat_at = float("-inf")
        self.waits = False  # the stage would go on without another record

    # -- what others may ask, from any thread

    @property
    def name(self) -> str:
        return f"{self.stage.title}, slot {self.options.slot}"

    @property
    def group(self) -> str:
        """The group whose offsets say how far the log has come."""
        return self._transport.group

    @property
    def excused(self) -> bool:
        """Whether partitions are restored, the followed topic is read, or the broker is waited for."""
        return bool(self._assignment.restoring) or self._takeover.catching_up or bool(self._absence)

    def progress(self) -> Mapping[int, Progress]:
        """How far each partition has come, as of the last turn."""
        return self._reporter.progress

    @property
    def turned_at(self) -> float:
        """When the loop last turned, by `clock`."""
        return self._reporter.turned_at

    def source(self, partition: int) -> Source:
        """Which partition of which topic has this number."""
        return self._transport.source(partition)

    def report(self) -> Report:
        """How the worker stands as of its last turn, and what the broker has told since."""
        report = self._reporter.report
        partitions = {
            number: replace(standing, end=self.readable_end(number)) for number, standing in report.partitions.items()
        }
        return replace(
            report, partitions=partitions, away_s=self._absence.seconds, turned_s=self._clock() - self.turned_at,
            ready=not self.not_ready(), warm={} if self.standby is None else self.standby.warmth(),
        )  # fmt: skip

    def readable_end(self, partition: int) -> int | None:
        """The end of a partition, as the broker last told it."""
        return self._assignment.readable_end(partition)

    def not_ready(self) -> str:
        """Why this worker does not do its work now; "" when it does."""
        if self._absence:
            return self._absence.reason
        if not self._joined:
            return "joining the group"
        waiting = len(self._assignment.unopened) + len(self._assignment.restoring)
        return f"{waiting} partitions are being restored" if waiting else self._assignment.waits.reason

    def paused(self) -> str:
        """Which sources stand still, and why; "" when all are read."""
        return self._assignment.paused.why

    def resume(self, topic: str) -> bool:
        """Ask that a source be read again that stands still; returns whether it does."""
        return self._assignment.paused.resume(topic)

    # -- the loop

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then leave the group with everything written.

        Raises Fenced, LogGap, StoreLeads and the store's errors, and BrokerUnavailable when the broker was away for too
        long: the caller ends the process, and the next one resumes as on assignment. A transaction that the broker
        aborted or refused, or that was lost with the broker, is not an error: state is read again and the batch done
        again.
        """
        try:
            self.join(stop)
            if self.standby is not None:
                self.standby.start()
            while not stop.is_set():
                self.turn()
            self.finish()
        finally:
            self.leave()

    def join(self, stop: threading.Event) -> None:
        """Compile what a batch runs, and ask the group for partitions."""
        self._stop = stop
        self.stage.warm()
        self._transport.join(self, stop)

    def turn(self) -> None:
        """One turn of the loop: at most one flush, one poll and one commit begun. Raises as `run` does."""
        self._turned()
        try:
            self._work()
        except (TransactionLost, BrokerUnavailable) as error:
            log.warning("%s", error)
            if isinstance(error, TransactionLost):
                self._transport.abandon()
            self._drop()
            self._absence.failed(error)
        except BrokerError as error:
            if type(error) not in (BrokerError, RecordRefused):
                raise
            log.warning("%s: %s; reading the state again", self.stage.title, error)
            self._drop()

    def finish(self) -> None:
        """The last batch into the log, then everything into the stores. Without a broker both are left to the next
        start."""
        try:
            self._settle()
        except BrokerError as error:
            log.warning("%s; that batch is done again at the next start", error)
            return
        self.stage.flush()

    def leave(self) -> None:
        """Let go of everything without writing, and leave the group."""
        for partition in list(self.stage.partitions):
            self.stage.close(partition)
        if self.keeper is not None:
            self.keeper.close()
        if self.standby is not None:
            self.standby.close()
        self._transport.close()

    def _work(self) -> None:
        assignment, commits = self._assignment, self._commits
        if not self._absence.over(self._transport.answered_at):
            self._poll()  # everything stands still; this keeps the membership
            return
        if assignment.unopened or assignment.restoring:
            self._settle()  # what follows asks the broker: where it does not answer, nothing may be under way
        assignment.try_again(self._stop)
        self._open_assigned()
        if commits.flush_due():
            self._settle()  # the store may not hold what is not committed
            commits.flush()
        if self.keeper is not None and not commits.since_flush:
            self.keeper.flushed()
        for partition in list(assignment.restoring):
            # The store has not been told: else the next start folds the same again.
            commits.since_flush += self._takeover.restore(partition, self._stop)
        if assignment.restoring:  # told to stop in the middle: half a state has nothing to tell
            return
        if assignment.paused.is_due:
            self._settle()
            assignment.paused.look(self._stop, self._turned)
        for partition in assignment.paused.move(self._stop):
            assignment.halving.forget(partition)  # else batches stay small until it goes on
        batches = assignment.takeable(self._poll())
        beat = self._clock() - self._beat_at >= self.options.heartbeat_interval_s
        if not batches and not beat and not self.waits:
            return
        if assignment.halving.is_bare(batches):
            outcome = self.stage.withheld(batches[0])
        else:
            started = self._clock()
            behind = assignment.is_behind(batches)
            encode_s = self.options.encode_behind_s if behind else self.options.encode_s
            outcome = self.stage.apply(batches, assignment.claimed(batches), encode_s=encode_s)
            if batches:
                self._applying.add(self._clock() - started)
        self.waits = outcome.waits
        if beat:
            self._beat_at = self._clock()
        self._submit(outcome, assignment.newest(batches), beat=beat)

    def _turned(self) -> None:
        self._reporter.turned()

    def _poll(self) -> list[PartitionBatch]:
        options, assignment = self.options, self._assignment
        hold_s = options.hold_commits * self._transport.commit_s
        wait_s, hold_s = (0.0, 0.0) if self.waits else (options.poll_s, hold_s)
        polled = self._transport.poll(assignment.halving.limit, wait_s, hold_s, self._applying.seconds)
        assignment.met(polled.ends)
        if polled.followed:
            self.stage.learn(polled.followed)
        return [batch for found in polled.batches if (batch := assignment.ours(found)) is not None]

    def _submit(self, outcome: Outcome, newest: Mapping[int, int], *, beat: bool) -> None:
        """Step 4: begin the commit of this batch when that of the one before has ended."""
        self._settle()
        self._commits.begin(outcome, newest, self.stage.beat(self._wall_ms()) if beat else None)

    def _settle(self) -> None:
        """Wait for the commit under way, with a bound; raises what it raised, or TransactionLost."""
        if self._commits.settle(self._stop) and (away_s := self._absence.ended()) is not None:
            log.info("%s: the broker was away for %.0f s, work goes on", self.name, away_s)

    # -- ownership: the first three are called by the Transport

    def assigned(self, partitions: Sequence[int]) -> None:
        """Take note only: what asks the broker is for the loop, where an answer may fail to come."""
        self._joined = True
        self._assignment.unopened.update(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Commit and write what is under way, and close."""
        try:
            self._settle()
            self.stage.flush()
        finally:  # what was not committed is left to the next owner; what stays ours is read again by `turn`
            self._assignment.let_go(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Another worker has them already: nothing may be written any more."""
        try:
            self._settle()
        finally:
            self._assignment.let_go(partitions)

    def _open_assigned(self) -> None:
        assignment = self._assignment
        for partition in sorted(assignment.unopened):
            if self._stop.is_set():
                return
            try:
                self._takeover.open(partition, self._stop)
            except CheckpointError as error:  # the others go on meanwhile
                assignment.put_off(partition, str(error))
            assignment.unopened.discard(partition)
            self._turned()

    def _drop(self) -> None:
        """State is ahead of the log: drop it, and open every partition again as on assignment."""
        self.waits = False
        self._assignment.drop()
