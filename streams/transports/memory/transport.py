"""The memory transport: one worker's way to a MemoryLog. It never waits and has no thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence

from forebay.errors import Fenced
from forebay.streams.routing import partitions_of
from forebay.streams.transports.memory.log import Group, Member, MemoryLog, Sent, Stored, Write
from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.refusals import overtaken
from forebay.streams.worker.shares import Shares
from forebay.streams.worker.source import Source
from forebay.streams.worker.transport import End, Owner, Polled

_PART = 1000  # records of one catching up, at once


class MemoryTransport:
    """Transport of one stage. A commit lands when it is settled, unless whoever runs the log has landed it before.
    `fault` is called with the name of each point at which a process may end: a simulation raises there. `brought` says
    how many records of each partition of the followed topic the next poll brings, of so many that it may: fetching is
    beside the polls, and may be behind."""

    def __init__(
        self,
        memory: MemoryLog,
        topics: Sequence[str],
        group: str,
        options: WorkerOptions = WorkerOptions(),
        *,
        moment: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        follows: str | None = None,
    ) -> None:
        """All partitions of `topics` are read, by the members of `group` together. All that the sources took before
        `moment()` (ms) is in the log when it is called. `follows` is a topic that is read whole."""
        self.group, self.where = group, "memory"
        self.fault: Callable[[str], None] = lambda point: None
        self.brought: Callable[[int], int] = lambda most: most
        self.member: Member | None = None
        self._log, self._options, self._clock, self._moment = memory, options, clock, moment
        self._sources = [Source(topic, p, topic) for topic in topics for p in range(memory.partitions(topic))]
        self._follows = follows or ""
        self._followed = dict.fromkeys(range(memory.partitions(follows) if follows else 0), 0)  # the next offsets
        self._owner: Owner | None = None
        self._at: dict[int, int] = {}  # partitions that are read, and the next offset of each
        self._told: dict[int, int] = {}  # the ends that were told
        self._ends: dict[int, End] = {}
        self._epoch = -1
        self._write: Write | None = None
        self._answered_at = clock()

    def source(self, partition: int) -> Source:
        """See Transport."""
        return self._sources[partition]

    @property
    def answered_at(self) -> float:
        """See Transport."""
        if self._log.up:
            self._answered_at = self._clock()
        return self._answered_at

    @property
    def commit_s(self) -> float:
        """See Transport. No time passes."""
        return 0.0

    def end(self, partition: int) -> End | None:
        """See Transport. As of the last poll."""
        return self._ends.get(partition)

    # -- membership and reading

    def join(self, owner: Owner, stop: threading.Event) -> None:
        """See Transport."""
        self._owner = owner
        self._enter()

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        """See Transport. A commit is over when it was begun, so that no batch is held for one. Partitions that the call
        brings along are read from their beginning at once, which Kafka's consumers do, too."""
        if not self._log.up:
            return Polled()
        covers_ms, asked_ms = self._moment(), self._log.now_ms()
        for partition in range(len(self._sources)):
            end = self._end(partition)
            self._ends[partition] = End(end, end, covers_ms, asked_ms)
        fresh = self._membership()
        followed = self._more_followed(self.brought(most))
        found, ends = [], {}
        for partition, start in [*self._at.items(), *((p, self._first(p)) for p in fresh)]:
            if start < self._first(partition):
                raise overtaken(str(self.source(partition)))
            records = self._records(partition, start)[:most]
            most -= len(records)
            if records:
                found.append(_batch(partition, records))
            if partition in self._at:
                end = self._end(partition)
                left = self._records(partition, records[-1].offset + 1 if records else start)
                self._at[partition] = left[0].offset if left else end
                if not left and self._told.get(partition) != end:
                    ends[partition] = self._told[partition] = end
            if most <= 0:
                break
        self.fault("polled")
        return Polled(found, ends, followed)

    def catch_up(self, stop: threading.Event) -> Generator[Sequence[PartitionBatch]]:
        """See Transport."""
        self._log.ask()
        while not stop.is_set() and (found := self._more_followed(_PART)):
            self.fault("followed")
            yield found
            self._log.ask()

    def _more_followed(self, most: int) -> list[PartitionBatch]:
        """What waits of the followed topic, up to so many records of each partition."""
        found = []
        for partition, start in self._followed.items():
            records = self._log.records(self._follows, partition, start)[:most]
            if records:
                found.append(_batch(partition, records))
                self._followed[partition] = records[-1].offset + 1
        return found

    def hold(self, partitions: Sequence[int]) -> None:
        """See Transport."""
        for partition in partitions:
            self._at.pop(partition, None)
            self._told.pop(partition, None)

    def go_on(self, partition: int, offset: int, stop: threading.Event) -> None:
        """See Transport."""
        self._at[partition] = offset

    def read(
        self, partition: int, start: int, end: int, most: int, stop: threading.Event
    ) -> Generator[PartitionBatch | None]:
        """See Transport."""
        while start < end and not stop.is_set():
            self._log.ask()
            if start < self._first(partition):
                raise overtaken(str(self.source(partition)))
            records = self._records(partition, start, end)[:most]
            start = records[-1].offset + 1 if records else end
            self.fault("read")
            yield _batch(partition, records) if records else None

    def close(self) -> None:
        """See Transport."""
        self._owner = None
        if self.member is not None:
            self.member.running = False
            if self._log.up:
                self._log.leave(self.member)

    def _enter(self) -> None:
        self.member = self._log.join(self._group, self._options.slot)

    def _membership(self) -> list[int]:
        """Give away, lose and get partitions; returns those that came."""
        member, owner = self.member, self._owner
        assert member is not None and owner is not None, "join comes first"
        if member.expelled:
            gone = sorted(member.owned)
            self.hold(gone)
            self._enter()  # before the owner hears of it: what it raises must not leave it outside
            member.owned.clear()
            if gone:
                owner.lost(gone)
            return []
        group, member.generation = member.group, member.group.generation
        going = sorted(p for p in member.owned if group.wanted.get(p) is not member)
        if going:
            self.hold(going)
            try:
                owner.revoked(going)
            finally:
                self._log.give_away(member, going)
            return []
        coming = [p for p, m in sorted(group.wanted.items()) if m is member and group.free(p)]
        if coming:
            member.owned.update(coming)
            owner.assigned(coming)
        return coming

    # -- the log

    def take(self, stop: threading.Event) -> None:
        """See Transport. A predecessor's session is over at once."""
        if self._epoch >= 0:
            return
        self._log.ask()
        assert self.member is not None
        for other in [m for m in self.member.group.members if m.client == self._options.slot and m is not self.member]:
            if other.running:
                raise Fenced(f"slot {self._options.slot} is that of a running worker", where=f"group {self.group}")
            self._log.leave(other)
        self._epoch = self._log.take(self._producer)
        self.fault("taken")

    def committed(self, partition: int) -> int | None:
        """See Transport."""
        self._log.ask()
        return self._group.offsets.get(partition)

    def first(self, partition: int) -> int:
        """See Transport."""
        self._log.ask()
        return self._first(partition)

    def shares(self) -> Shares:
        """See Transport."""
        self._log.ask()
        assert self.member is not None
        members = self._group.members  # by when they joined: that is how the group hands out what is left
        names = {id(member): f"{number:08d}" for number, member in enumerate(members)}
        mine = names.get(id(self.member), "")
        return Shares(mine, {names[id(member)]: sorted(member.owned) for member in members})

    def submit(
        self, records: Sequence[Record], offsets: Mapping[int, int], notes: Mapping[int, str], events: int
    ) -> None:
        """See Transport."""
        if self._epoch < 0:
            return
        assert self.member is not None and self._write is None, "the commit before is not settled"
        sent = [Sent(r.topic, self._home(r), r.key, r.value, r.headers) for r in records]
        self._write = Write(self._producer, self._epoch, self.member, self.member.generation, sent, offsets, notes)
        self._log.begin(self._write)
        self.fault("submitted")

    def settle(self, stop: threading.Event) -> bool:
        """See Transport."""
        write, self._write = self._write, None
        if write is None:
            return False
        if write.open:
            self._log.land(write)
        elif write.error is not None:
            raise write.error
        self.fault("landed")
        return True

    def abandon(self) -> None:
        """See Transport."""
        self._write, self._epoch = None, -1

    def reset_command(self, partition: int, offset: int) -> str:
        """See Transport."""
        return f"set the offset of {self.source(partition)} to {offset}"

    @property
    def _group(self) -> Group:
        return self._log.group(self.group, len(self._sources))

    def _first(self, partition: int) -> int:
        source = self.source(partition)
        return self._log.first(source.topic, source.partition)

    def _end(self, partition: int) -> int:
        source = self.source(partition)
        return self._log.end(source.topic, source.partition)

    def _records(self, partition: int, start: int, end: int | None = None) -> list[Stored]:
        source = self.source(partition)
        return self._log.records(source.topic, source.partition, start, end)

    @property
    def _producer(self) -> str:
        return f"{self.group}.{self._options.slot}"

    def _home(self, record: Record) -> int:
        if record.partition >= 0:
            return record.partition
        return int(partitions_of([record.key or b""], self._log.partitions(record.topic))[0])


def _batch(partition: int, records: Sequence[Stored]) -> PartitionBatch:
    return PartitionBatch(
        partition,
        [r.key for r in records],
        [r.value for r in records],
        [r.offset for r in records],
        [r.append_time for r in records],
        [r.headers for r in records],
    )
