"""The partitions that are a worker's, and how far each of them has come.

A Worker calls it between two batches, from its thread. A partition is `unopened` when it is assigned, is `restoring`
until its state has reached the group's offset, and is in step with `committed` from there on. All of this is memory: a
crash leaves nothing of it, and the next start learns it anew from the group and the stores.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from threading import Event

from forebay.store.census import Census
from forebay.streams.worker.ages import Ages
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.claims import Claims
from forebay.streams.worker.halving import Halving
from forebay.streams.worker.paused import Paused
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.standing import Standing
from forebay.streams.worker.transport import Transport
from forebay.streams.worker.waits import Waits
from forebay.streams.worker.watchdog import Progress


class Assignment:
    """What a worker knows of each of its partitions. One thread, but for what `waits` and `paused` may be asked."""

    def __init__(
        self, stage: Stage, transport: Transport, most: int, clock: Callable[[], float], wall_ms: Callable[[], int]
    ) -> None:
        """A batch has `most` records; `clock` in seconds, `wall_ms` in ms."""
        self._stage, self._transport, self._wall_ms = stage, transport, wall_ms
        self.unopened: set[int] = set()  # assigned, and standing still until their stores are open
        self.restoring: dict[int, int] = {}  # partition -> fold silently up to this offset
        self.met_end: dict[int, int] = {}  # partition -> the offset behind the last record that was read
        self.committed: dict[int, int] = {}
        self.claims, self.waits, self.ages = Claims(), Waits(clock), Ages()
        self.halving, self.paused = Halving(most), Paused(stage, transport)

    # -- what is read

    def met(self, ends: Mapping[int, int]) -> None:
        """The reader met the ends of partitions. One that was met before the store was open stands behind records that
        are still to be folded."""
        for partition, offset in ends.items():
            if partition in self._stage.partitions and partition not in self.restoring:
                self.met_end[partition] = offset

    def ours(self, batch: PartitionBatch) -> PartitionBatch | None:
        """What of a batch is to be folded. The rest was fetched before a revoke: no longer ours, or ours again and
        folded already."""
        owned = self._stage.partitions.get(batch.partition)
        if owned is None:
            return None
        start = bisect.bisect_left(batch.offsets, owned.meta.offset)
        return batch.since(start) if start < len(batch.offsets) else None

    def is_behind(self, batches: Sequence[PartitionBatch]) -> bool:
        """Whether more waits behind `batches` since the ends were asked for last, which is about a second ago."""
        after = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        return any((end := self.readable_end(p)) is not None and at < end for p, at in after.items())

    def readable_end(self, partition: int) -> int | None:
        """The end of a partition, as the broker last told it. From any thread."""
        end = self._transport.end(partition)
        return None if end is None else end.readable

    def takeable(self, batches: Sequence[PartitionBatch]) -> list[PartitionBatch]:
        """The batches that can be applied now. The partitions of others stand still until they are tried again, from
        where their state is."""
        if not batches:
            return []
        waiting = self._stage.waits(batches)
        for batch in batches:
            if (reason := waiting.get(batch.partition)) is not None:
                self._transport.hold([batch.partition])
                self.met_end.pop(batch.partition, None)  # it stands behind what was not applied
                self.put_off(batch.partition, reason)
            else:
                self.went_on(batch.partition)
        return [batch for batch in batches if batch.partition not in waiting]

    def put_off(self, partition: int, reason: str) -> None:
        """It cannot go on now, and is tried again later."""
        self.waits.put(partition, self.place(partition), reason)

    def went_on(self, partition: int) -> None:
        """What it waited for, if it did, is there."""
        self.waits.went_on(partition, self.place(partition))

    def try_again(self, stop: Event) -> None:
        """Let partitions that waited go on, or open them anew where they waited while they were restored. Raises
        BrokerUnavailable."""
        for partition in self.waits.due():
            owned = self._stage.partitions.get(partition)
            if owned is None:
                self.unopened.add(partition)
            elif partition in self.paused:
                self.waits.forget(partition)  # it is asked again when it is read again
            else:
                self._transport.go_on(partition, owned.meta.offset, stop)

    # -- what may be said of it

    def claimed(self, batches: Sequence[PartitionBatch]) -> dict[int, int]:
        """What each partition may claim (ms) once `batches` are applied, where that is new."""
        after = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        found = {}
        for partition, owned in self._stage.partitions.items():
            self.claims.hear(partition, self._transport.end(partition))
            if partition in self.waits:
                continue
            # The last offsets of a log may be a transaction's own marks: only who met the end knows to be past them.
            at = max(after.get(partition, owned.meta.offset), self.met_end.get(partition, -1))
            if moment := self.claims.reached(partition, at):
                found[partition] = moment
        return found

    def newest(self, batches: Sequence[PartitionBatch]) -> dict[int, int]:
        """Append times (ms) of the last records. None is of later than now, whoever stamped it."""
        now = self._wall_ms()
        return {batch.partition: min(batch.append_times[-1], now) for batch in batches}

    def standings(self, counts: Mapping[int, Census]) -> dict[int, Standing]:
        """How each partition stands; `counts` are what was counted last."""
        found = {}
        for partition, done in self.committed.items():
            owned, end = self._stage.partitions.get(partition), self._transport.end(partition)
            applied = done if owned is None else owned.meta.offset
            at = Progress(done, applied, self.met_end.get(partition, -1), partition in self.paused)
            if end is not None and end.offset <= at.position:
                self.ages.nothing_before(partition, end.asked_ms)
            found[partition] = Standing(
                self._transport.source(partition), at, None, self.ages.since(partition),
                0 if owned is None else owned.meta.as_of, None if owned is None else counts.get(partition),
            )  # fmt: skip
        return found

    def not_in_step(self) -> int:
        """How many partitions are restored, or not open yet, or wait for what would open them."""
        unopened = self.unopened.union(p for p in self.waits.partitions if p not in self._stage.partitions)
        return len(unopened | self.restoring.keys())

    def place(self, partition: int) -> str:
        """For people."""
        return str(self._transport.source(partition))

    # -- what is over

    def let_go(self, partitions: Sequence[int]) -> None:
        """They are another worker's now: close them, and forget what was known."""
        for partition in partitions:
            self.unopened.discard(partition)
            self.restoring.pop(partition, None)
            self.met_end.pop(partition, None)
            self.committed.pop(partition, None)
            self.waits.forget(partition)
            self.claims.forget(partition)
            self.ages.forget(partition)
            self.halving.forget(partition)
            self.paused.forget((partition,))
            self._stage.close(partition)

    def drop(self) -> None:
        """State is ahead of the log: drop it, and open every partition again as on assignment."""
        self.restoring.clear()
        self.met_end.clear()  # what lies before it is to be read again
        self.claims = Claims()
        owned = list(self._stage.partitions)
        for partition in owned:
            self.waits.forget(partition)
            self._stage.close(partition)
        self.unopened.update(owned)
        self.paused.forget(owned)
        self._transport.hold(owned)
