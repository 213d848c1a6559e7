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

import bisect
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from forebay.clock import now_ms
from forebay.errors import BrokerError, BrokerUnavailable, CheckpointError, RecordRefused, StoreLeads, TransactionLost
from forebay.store.census import Census
from forebay.store.checkpoints import Checkpoints
from forebay.streams.worker.absence import Absence
from forebay.streams.worker.ages import Ages
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.claims import Claims
from forebay.streams.worker.halving import Halving
from forebay.streams.worker.keeper import Keeper
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.paused import Paused
from forebay.streams.worker.refusals import log_gap, never_accepted, store_leads
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Owned, Stage
from forebay.streams.worker.standby import Standby, sweep
from forebay.streams.worker.standing import Report, Standing
from forebay.streams.worker.stores import Stores
from forebay.streams.worker.transport import Transport
from forebay.streams.worker.typical import Typical
from forebay.streams.worker.waits import Waits
from forebay.streams.worker.watchdog import Progress
from forebay.telemetry import emit, tell

COUNT_EVERY_S = 1.0  # of what partitions hold: a scrape is rarer
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
        self._halving = Halving(options.batch_records)
        self._claims, self._waits = Claims(), Waits(clock)
        self._paused = Paused(stage, transport)
        self._applying = Typical()
        self._under_way: tuple[Outcome, Mapping[int, int]] | None = None  # what is not settled, newest append times
        self._ages = Ages()
        self._joined = False
        self._unopened: set[int] = set()  # assigned, and standing still until their stores are open
        self._restoring: dict[int, int] = {}  # partition -> fold silently up to this offset
        self._catching_up = False
        self._met_end: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._progress: Mapping[int, Progress] = {}
        self._report = Report(stage.name)
        self._counts: Mapping[int, Census] = {}
        self._memory: Mapping[str, int] = {}
        self._counted_at = float("-inf")
        self._since_flush, self._flushed_at, self._beat_at = 0, clock(), float("-inf")
        self.waits = False  # the stage would go on without another record
        self.turned_at = clock()

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
        return bool(self._restoring) or self._catching_up or bool(self._absence)

    def progress(self) -> Mapping[int, Progress]:
        """How far each partition has come, as of the last turn."""
        return self._progress

    def source(self, partition: int) -> Source:
        """Which partition of which topic has this number."""
        return self._transport.source(partition)

    def report(self) -> Report:
        """How the worker stands as of its last turn, and what the broker has told since."""
        report = self._report
        partitions = {
            number: replace(standing, end=self.readable_end(number)) for number, standing in report.partitions.items()
        }
        return replace(
            report, partitions=partitions, away_s=self._absence.seconds, turned_s=self._clock() - self.turned_at,
            ready=not self.not_ready(), warm={} if self.standby is None else self.standby.warmth(),
        )  # fmt: skip

    def readable_end(self, partition: int) -> int | None:
        """The end of a partition, as the broker last told it."""
        end = self._transport.end(partition)
        return None if end is None else end.readable

    def not_ready(self) -> str:
        """Why this worker does not do its work now; "" when it does."""
        if self._absence:
            return self._absence.reason
        if not self._joined:
            return "joining the group"
        waiting = len(self._unopened) + len(self._restoring)
        return f"{waiting} partitions are being restored" if waiting else self._waits.reason

    def paused(self) -> str:
        """Which sources stand still, and why; "" when all are read."""
        return self._paused.why

    def resume(self, topic: str) -> bool:
        """Ask that a source be read again that stands still; returns whether it does."""
        return self._paused.resume(topic)

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
        if not self._absence.over(self._transport.answered_at):
            self._poll()  # everything stands still; this keeps the membership
            return
        if self._unopened or self._restoring:
            self._settle()  # what follows asks the broker: where it does not answer, nothing may be under way
        self._try_again()
        self._open_assigned()
        if self._flush_due():
            self._settle()  # the store may not hold what is not committed
            self._flush()
        if self.keeper is not None and not self._since_flush:
            self.keeper.flushed()
        for partition in list(self._restoring):
            self._restore(partition)
        if self._restoring:  # told to stop in the middle: half a state has nothing to tell
            return
        if self._paused.is_due:
            self._settle()
            self._paused.look(self._stop, self._turned)
        for partition in self._paused.move(self._stop):
            self._halving.forget(partition)  # else batches stay small until it goes on
        batches = self._takeable(self._poll())
        beat = self._clock() - self._beat_at >= self.options.heartbeat_interval_s
        if not batches and not beat and not self.waits:
            return
        if self._halving.is_bare(batches):
            outcome = self.stage.withheld(batches[0])
        else:
            started = self._clock()
            encode_s = self.options.encode_behind_s if self._is_behind(batches) else self.options.encode_s
            outcome = self.stage.apply(batches, self._claimed(batches), encode_s=encode_s)
            if batches:
                self._applying.add(self._clock() - started)
        self.waits = outcome.waits
        if beat:
            self._beat_at = self._clock()
        self._submit(outcome, self._newest(batches), beat=beat)

    def _turned(self) -> None:
        self.turned_at = self._clock()
        if self.turned_at - self._counted_at >= COUNT_EVERY_S:
            self._counted_at = self.turned_at
            self._counts = {p: owned.census() for p, owned in self.stage.partitions.items()}
            self._memory = self.stage.memory()
        progress, standings = {}, {}
        for partition, done in self._committed.items():
            owned, end = self.stage.partitions.get(partition), self._transport.end(partition)
            applied = done if owned is None else owned.meta.offset
            at = Progress(done, applied, self._met_end.get(partition, -1), partition in self._paused)
            if partition not in self._waits:  # it says why; a new start would not help
                progress[partition] = at
            if end is not None and end.offset <= at.position:
                self._ages.nothing_before(partition, end.asked_ms)
            standings[partition] = Standing(
                self._transport.source(partition), at, None, self._ages.since(partition),
                0 if owned is None else owned.meta.as_of, None if owned is None else self._counts.get(partition),
            )  # fmt: skip
        self._progress = progress
        unopened = self._unopened.union(p for p in self._waits.partitions if p not in self.stage.partitions)
        restoring = len(unopened | self._restoring.keys())
        self._report = Report(self.stage.name, standings, restoring, memory=self._memory)

    def _poll(self) -> list[PartitionBatch]:
        options = self.options
        hold_s = options.hold_commits * self._transport.commit_s
        wait_s, hold_s = (0.0, 0.0) if self.waits else (options.poll_s, hold_s)
        polled = self._transport.poll(self._halving.limit, wait_s, hold_s, self._applying.seconds)
        for partition, offset in polled.ends.items():
            # One that was met before the store was open stands behind records that are still to be folded.
            if partition in self.stage.partitions and partition not in self._restoring:
                self._met_end[partition] = offset
        if polled.followed:
            self.stage.learn(polled.followed)
        return [batch for found in polled.batches if (batch := self._ours(found)) is not None]

    def _ours(self, batch: PartitionBatch) -> PartitionBatch | None:
        """What of a batch is to be folded. The rest was fetched before a revoke: no longer ours, or ours again and
        folded already."""
        owned = self.stage.partitions.get(batch.partition)
        if owned is None:
            return None
        start = bisect.bisect_left(batch.offsets, owned.meta.offset)
        return batch.since(start) if start < len(batch.offsets) else None

    def _is_behind(self, batches: Sequence[PartitionBatch]) -> bool:
        """Whether more waits behind `batches` since the ends were asked for last, which is about a second ago."""
        after = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        return any((end := self.readable_end(p)) is not None and at < end for p, at in after.items())

    def _takeable(self, batches: list[PartitionBatch]) -> list[PartitionBatch]:
        """The batches that can be applied now. The partitions of others stand still until they are tried again, from
        where their state is."""
        if not batches:
            return batches
        waiting = self.stage.waits(batches)
        for batch in batches:
            if (reason := waiting.get(batch.partition)) is not None:
                self._transport.hold([batch.partition])
                self._met_end.pop(batch.partition, None)  # it stands behind what was not applied
                self._waits.put(batch.partition, self._place(batch.partition), reason)
            else:
                self._waits.went_on(batch.partition, self._place(batch.partition))
        return [batch for batch in batches if batch.partition not in waiting]

    def _try_again(self) -> None:
        """Let partitions that waited go on, or open them anew where they waited while they were restored."""
        for partition in self._waits.due():
            owned = self.stage.partitions.get(partition)
            if owned is None:
                self._unopened.add(partition)
            elif partition in self._paused:
                self._waits.forget(partition)  # it is asked again when it is read again
            else:
                self._transport.go_on(partition, owned.meta.offset, self._stop)

    def _claimed(self, batches: Sequence[PartitionBatch]) -> dict[int, int]:
        """What each partition may claim (ms) once `batches` are applied, where that is new."""
        after = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        found = {}
        for partition, owned in self.stage.partitions.items():
            self._claims.hear(partition, self._transport.end(partition))
            if partition in self._waits:
                continue
            # The last offsets of a log may be a transaction's own marks: only who met the end knows to be past them.
            at = max(after.get(partition, owned.meta.offset), self._met_end.get(partition, -1))
            if moment := self._claims.reached(partition, at):
                found[partition] = moment
        return found

    # -- steps 4 and 5

    def _submit(self, outcome: Outcome, newest: Mapping[int, int], *, beat: bool) -> None:
        """Begin the commit of this batch when that of the one before has ended; it runs while the next batch is
        applied. `newest` are its last append times (ms), by partition."""
        self._settle()
        records, stage = [*outcome.records], self.stage
        # What had waited may be told without an event: with it goes where its partition stands, as offsets are what a
        # worker that has lost it is refused for.
        spoken = {*outcome.offsets, *outcome.told}
        if beat:
            records += stage.beat(self._wall_ms())
        # A note is kept beside an offset: with a beat go those of idle partitions, too.
        notes = {p: note for p in (stage.partitions if beat else spoken) if (note := stage.note(p))}
        offsets = {p: stage.partitions[p].meta.offset for p in sorted(spoken | notes.keys())}
        self._transport.submit(records, offsets, notes, outcome.events)
        self._under_way = outcome, newest
        self._since_flush += bool(outcome.offsets or outcome.told)

    def _settle(self) -> None:
        """Wait for the commit under way, with a bound; raises what it raised, or TransactionLost."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        outcome, newest = under_way
        try:
            if not self._transport.settle(self._stop):
                return
        except BrokerError as error:
            emit("aborted", stage=self.stage.name, error=type(error).__name__)
            for span in outcome.spans:
                span.end(error)
            if isinstance(error, RecordRefused):
                self._halving.refused(outcome, error)
            raise
        self._halving.committed(outcome.offsets)
        self._ages.committed(newest)
        for span in outcome.spans:
            span.end()
        tell(outcome.news)
        self._committed.update(outcome.offsets)
        if (away_s := self._absence.ended()) is not None:
            log.info("%s: the broker was away for %.0f s, work goes on", self.name, away_s)

    def _flush_due(self) -> bool:
        if not self._since_flush:
            return False
        return (
            self._since_flush >= self.options.flush_batches
            or self._clock() - self._flushed_at >= self.options.flush_interval_s
        )

    def _flush(self) -> None:
        started = time.perf_counter()
        self.stage.flush()
        took = time.perf_counter() - started
        emit("step", number=5, name="store", stage=self.stage.name, seconds=took, events=0)
        self._since_flush, self._flushed_at = 0, self._clock()

    # -- ownership: the first three are called by the Transport

    def assigned(self, partitions: Sequence[int]) -> None:
        """Take note only: what asks the broker is for the loop, where an answer may fail to come."""
        self._joined = True
        self._unopened.update(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Commit and write what is under way, and close."""
        try:
            self._settle()
            self.stage.flush()
        finally:  # what was not committed is left to the next owner; what stays ours is read again by `turn`
            self._let_go(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Another worker has them already: nothing may be written any more."""
        try:
            self._settle()
        finally:
            self._let_go(partitions)

    def _open_assigned(self) -> None:
        for partition in sorted(self._unopened):
            if self._stop.is_set():
                return
            try:
                self._take_over(partition)
            except CheckpointError as error:  # the others go on meanwhile
                self._waits.put(partition, self._place(partition), str(error))
            self._unopened.discard(partition)
            self._turned()

    def _take_over(self, partition: int) -> None:
        """Open the partition's store and go on where the group is, or restore first.

        What can be refused for want of state is refused before the slot is taken: taking it ends whoever had it.
        """
        source = self._transport.source(partition)
        self._met_end.pop(partition, None)
        self._claims.forget(partition)
        warm = None if self.standby is None else self.standby.take(partition)
        found = self._stores.find(partition, source, self._turned, self._stop, warm)
        try:
            self._transport.take(self._stop)
            done, first = self._transport.committed(partition), self._transport.first(partition)
            found = self._stores.take(partition, source, found, done, first, self._turned, self._stop)
            if self._stop.is_set():
                # What is open may be behind the group: the last commit would set that back to it.
                self.stage.close(partition)
                return
            if (owned := found.owned) is None:
                if found.checkpoints and self.stage.needs_all:
                    raise self._leads(partition, found.checkpoints[0].offset, done or 0)
                # Where the group has been already, an empty store needs the log from its beginning on.
                owned = self._stores.make(partition, source, first if done is None or not self.stage.needs_all else 0)
            self._past_what_is_gone(owned, partition, done, first)
            store = owned.meta.offset
            if done is not None and store > done:
                raise self._leads(partition, store, done)
        except BaseException:
            self.stage.close(partition)
            if self.standby is not None and warm is not None:
                self.standby.give_back(warm)  # it is asked for again
            raise
        self._committed[partition] = store if done is None else done
        if self.keeper is not None:
            self.keeper.opened(partition, found.newest_ms)
        # What the sources took before it is in the state, and a log has a record no earlier than its source.
        self._ages.nothing_before(partition, owned.meta.as_of)
        if done is not None and store < done:
            self._restoring[partition] = done
        else:
            self._waits.went_on(partition, self._place(partition))
            self._go_on(partition, store)

    def _past_what_is_gone(self, owned: Owned, partition: int, done: int | None, first: int) -> None:
        """Raise LogGap where records are gone that the state needs; step over those that it does not."""
        if owned.meta.offset >= first:
            return
        if self.stage.needs_all:
            raise log_gap(self._place(partition))
        if done is None or done < first:
            raise never_accepted(self._place(partition), self._transport.reset_command(partition, first))
        owned.advance(first, 0)

    def _leads(self, partition: int, store: int, done: int) -> StoreLeads:
        command = self._transport.reset_command(partition, store)
        return store_leads(store, done, f"{self._place(partition)}, group {self.group}", command)

    def _restore(self, partition: int) -> None:
        """Fold what lies between the store's offset and the group's: the log has been told of it, so nothing is told
        again. 65 thousand events take half a second or less."""
        owned, end = self.stage.partitions[partition], self._restoring[partition]
        started, events = time.perf_counter(), 0
        most = self.options.batch_records
        with contextlib.closing(self._transport.read(partition, owned.meta.offset, end, most, self._stop)) as batches:
            for batch in batches:
                if batch is not None and (waiting := self.stage.waits([batch])):
                    # Half restored it has nothing to tell, and the others are not to wait for it.
                    self._waits.put(partition, self._place(partition), waiting[partition])
                    del self._restoring[partition]
                    self.stage.close(partition)
                    return
                if batch is not None:
                    events += self.stage.apply([batch], aloud=False).events
                    self._ages.committed(self._newest([batch]))
                self._turned()
        if self._stop.is_set():
            return
        owned.advance(end, 0)  # the last offsets before it may be a transaction's own marks
        self._since_flush += 1  # the store has not been told: else the next start folds the same again
        del self._restoring[partition]
        self._waits.went_on(partition, self._place(partition))
        self._go_on(partition, end)
        seconds = time.perf_counter() - started
        log.info("%s: %d events folded again in %.2f s", self._place(partition), events, seconds)
        emit("restored", stage=self.stage.name, partition=partition, events=events, seconds=seconds)

    def _go_on(self, partition: int, offset: int) -> None:
        """Read the partition aloud from `offset`. What its former owner told of the followed topic is known by then."""
        self._catching_up = True
        try:
            with contextlib.closing(self._transport.catch_up(self._stop)) as parts:
                for batches in parts:
                    self.stage.learn(batches)
                    self._turned()
        finally:
            self._catching_up = False
        if not self._stop.is_set():  # else half of it may be known
            self._transport.go_on(partition, offset, self._stop)

    def _let_go(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._unopened.discard(partition)
            self._restoring.pop(partition, None)
            self._met_end.pop(partition, None)
            self._committed.pop(partition, None)
            self._waits.forget(partition)
            self._claims.forget(partition)
            self._ages.forget(partition)
            self._halving.forget(partition)
            self._paused.forget((partition,))
            self.stage.close(partition)

    def _drop(self) -> None:
        """State is ahead of the log: drop it, and open every partition again as on assignment."""
        self._restoring.clear()
        self._met_end.clear()  # what lies before it is to be read again
        self.waits = False
        self._claims = Claims()
        owned = list(self.stage.partitions)
        for partition in owned:
            self._waits.forget(partition)
            self.stage.close(partition)
        self._unopened.update(owned)
        self._paused.forget(owned)
        self._transport.hold(owned)

    def _newest(self, batches: Sequence[PartitionBatch]) -> dict[int, int]:
        """Append times (ms) of the last records. None is of later than now, whoever stamped it."""
        now = self._wall_ms()
        return {batch.partition: min(batch.append_times[-1], now) for batch in batches}

    def _place(self, partition: int) -> str:
        return str(self._transport.source(partition))
