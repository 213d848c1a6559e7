"""The Processor: one side's clean log in, vectors out. No Kafka in it.

A Worker (protocol.py) polls, and calls for each batch, in this order and with these numbers in metrics, tests and logs:

    1 read       `apply`: records become Blocks, and those become columns
    2 fold       `apply`: into EntityState, collecting pending (entity, segment) pairs: ten clicks are one encode
    3 encode     `apply`: what is pending in all partitions together, in canonical batches (encode.py); in a hurry what
                 is worth most (schedule.py), and the rest is held and goes on waiting
    4 transact   the Worker: vectors and the offsets in one commit
    5 store      `flush`, after the commit, every few batches: the store may lag the group, never lead it

A crash before the commit of 4 leaves nothing; between 4 and 5 the next owner folds the gap silently (`apply` with
aloud=False), which leaves what it touched pending, to be told again by the next aloud batch. Telling a vector twice is
harmless.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from forebay import tracing
from forebay.arrays import Bools
from forebay.errors import BlockError, BlockTooNew, RecordRefused
from forebay.segments.blocks.block import Block
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import Side
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.fold import Fold
from forebay.store.codec import HEARTBEAT_KEY, codec_of, pack_heartbeat
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta
from forebay.store.pending import Pending
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome, PartitionBatch, Record
from forebay.streams.worker.encode import encode_pending
from forebay.streams.worker.halving import too_small
from forebay.streams.worker.postponed import Postponed
from forebay.streams.worker.schedule import Schedule, Waiting
from forebay.streams.worker.segmentoptions import SegmentOptions
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.undeclared import Undeclared
from forebay.telemetry import News, emit, later
from forebay.tracing import Span

MEMORY_BYTES = 4 << 30
ROW_BYTES = 144  # of an entity's place in the index, its id and marks, about
MOST_HELD = 16_384  # rows of which one batch says that they wait: more would make a transaction of a gigabyte
# The log is told of rows that wait for longer. It costs a record of each, and until then the partition claims what was
# true before they waited: in a lag that encoders make up for, no such record is written.
HOLD_AFTER_MS = 2_000
log = logging.getLogger("forebay.processor")


class Processor:
    """Folds and encodes one side of one bundle, for the partitions it was given. One thread at a time."""

    needs_all = True
    follows = None

    def __init__(
        self,
        bundle: Bundle,
        side: Side,
        topics: Topics,
        generation: str,
        partitions: int,
        folder: Path,
        memory_bytes: int = MEMORY_BYTES,
        segments: Mapping[str, SegmentOptions] = {},
        clock: Callable[[], float] = time.monotonic,
        encoders: SideEncoders | None = None,
    ) -> None:
        """The side's clean log has so many `partitions`; stores live in `folder`, one directory each. Rows of entities
        take about `memory_bytes`: past it those leave that had no event for longest, unless they wait to be encoded or
        a window of theirs is not empty. `segments` says of some, by title, how they are encoded. How long something
        waits is told by `clock` (s). One that never encodes may have the `encoders` of another. Raises BundleError for
        a device that is not there.
        """
        self.bundle, self.side, self.count, self.folder = bundle, side, partitions, folder
        self.name, self.title = side, f"{side} worker of {generation}"
        self.topics, self.generation = topics, generation
        self.topic, self._vectors = topics.events(side), topics.vectors(generation, side)
        self.layout, self.codec = bundle.layouts[side], codec_of(bundle, side)
        self.partitions: dict[int, OwnedPartition] = {}
        self._most_rows = memory_bytes // (self.layout.width * 8 + self.codec.dtype.itemsize + ROW_BYTES)
        self._opened_rows = self._most_rows // partitions
        self.names, self.scope = tuple(f"{side}-{p}" for p in range(partitions)), generation
        self._retire_after_ms = bundle.spec.events.retire_users_after_ms if side == "user" else 0
        self._fold, self._coder = Fold(self.layout), BlockCoder(bundle.spec, side)
        self._undeclared = Undeclared(bundle.spec, side)
        devices = {title: options.device for title, options in segments.items()}
        self._encoders = encoders or SideEncoders(bundle, side, devices)
        self._blank = self.codec.blank(self._encoders.defaults)
        self.schedule = Schedule([segment.title for segment in bundle.spec.side(side)], segments)
        self._now_ms = 0  # the newest append time
        self._postponed: dict[int, Postponed] = {}
        self._clock = clock

    @property
    def guard(self) -> None:
        """See Stage: the clean log is the Intake's, and nothing in it is refused."""
        return None

    def warm(self) -> None:
        """See Stage."""
        self._fold.warm()

    def open(
        self, partition: int, source: Source, offset: int, *, create: bool = True, folder: Path | None = None
    ) -> OwnedPartition:
        """See Stage. Errors as in OwnedPartition.open."""
        fresh = PartitionMeta(self.topic, partition, source.topic_id, self.count, self.layout.digest, offset)
        self._postponed[partition] = Postponed()
        self.partitions[partition] = OwnedPartition.open(
            folder or self.folder / self.names[partition], self._fold, self.codec, self._blank, fresh,
            create=create, retire_after_ms=self._retire_after_ms, most_rows=self._opened_rows,
        )  # fmt: skip
        return self.partitions[partition]

    def memory(self) -> dict[str, int]:
        """See Stage: all is the partitions'."""
        return {}

    def close(self, partition: int) -> None:
        """See Stage."""
        self._postponed.pop(partition, None)
        if (owned := self.partitions.pop(partition, None)) is not None:
            owned.close()

    def twin(self) -> Processor:
        """See Stage: its rows take what is one partition's share of the memory."""
        share = self._most_rows // self.count
        made = Processor(
            self.bundle, self.side, self.topics, self.generation, self.count, self.folder, encoders=self._encoders
        )
        made._most_rows = made._opened_rows = share
        return made

    def adopt(self, partition: int, twin: Stage) -> OwnedPartition:
        """See Stage."""
        assert isinstance(twin, Processor)
        self._postponed[partition] = Postponed()
        self.partitions[partition] = twin.partitions.pop(partition)
        return self.partitions[partition]

    def flush(self) -> None:
        """See Stage: step 5."""
        for owned in self.partitions.values():
            owned.flush()
        for number, owned in self.partitions.items():
            if left := owned.shrink(self._most_rows // len(self.partitions)):
                emit("left_memory", stage=self.name, partition=number, rows=left)

    def waits(self, batches: Sequence[PartitionBatch]) -> dict[int, str]:
        """See Stage: a Block has all that it needs."""
        return {}

    def apply(
        self,
        batches: Sequence[PartitionBatch],
        as_of: Mapping[int, int] = {},
        *,
        aloud: bool = True,
        encode_s: float = math.inf,
    ) -> Outcome:
        """See Stage: steps 1 to 3. Raises BlockTooNew; what is no Block is told of and stepped over."""
        started = time.perf_counter()
        blocks = {batch.partition: self._blocks(batch) for batch in batches}
        events = sum(len(block) for found in blocks.values() for block in found)
        stretches = {p: [s for b in found for s in self._coder.stretches(b)] for p, found in blocks.items()}
        read = time.perf_counter()
        retired: list[Record] = []
        for batch in batches:
            owned = self.partitions[batch.partition]
            self._now_ms = max(self._now_ms, batch.append_times[-1])
            for stretch in stretches[batch.partition]:
                retired += [Record(self._vectors, batch.partition, name, None) for name in owned.fold(stretch)]
            owned.advance(batch.offsets[-1] + 1, 0)
        folded = time.perf_counter()
        offsets = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        taken = sum(len(batch.offsets) for batch in batches)
        if not aloud:
            for batch in batches:
                self.partitions[batch.partition].silent()
            return Outcome(offsets=offsets, taken=taken, events=events)
        turn_ms = int(self._clock() * 1000) + 1
        waits = {number: owned.waiting() for number, owned in self.partitions.items()}
        chosen = self._chosen(waits, encode_s, turn_ms)
        left = {number: pending.without(chosen[number]) for number, pending in waits.items()}
        spoken, deferred = self._encoded(chosen, left, as_of, turn_ms)
        encoded = time.perf_counter()
        news = [*deferred, *(one for found in blocks.values() for one in self._undeclared_in(found))]
        seconds = {"read": read - started, "fold": folded - read, "encode": encoded - folded}
        for number, (name, took) in enumerate(seconds.items(), start=1):
            emit("step", number=number, name=name, stage=self.name, seconds=took, events=events)
        told = {record.partition for record in spoken}
        waits_on = any(len(pending) for pending in left.values())
        return Outcome([*retired, *spoken], offsets, told, taken, events, self._spans(batches), news, waits_on)

    def learn(self, batches: Sequence[PartitionBatch]) -> None:
        """See Stage: it follows nothing."""

    def withheld(self, batch: PartitionBatch) -> Outcome:
        """See Stage: vectors have one size, whatever the event."""
        raise too_small(RecordRefused("the broker refuses the vectors of an entity", where=self._vectors))

    def beat(self, now_ms: int) -> list[Record]:
        """See Stage: a heartbeat for each partition, as of what it may claim."""
        return [
            Record(self._vectors, partition, HEARTBEAT_KEY, pack_heartbeat(owned.meta.as_of))
            for partition, owned in self.partitions.items()
            if owned.meta.as_of
        ]

    def note(self, partition: int) -> str:
        """See Stage."""
        return ""

    def _blocks(self, batch: PartitionBatch) -> list[Block]:
        found = []
        for place, value in enumerate(batch.values):
            try:
                found.append(Block.of_record(batch.headers_at(place), value))
            except BlockTooNew as error:
                at = f"{self.topic}[{batch.partition}], offset {batch.offsets[place]}"
                raise BlockTooNew(error.what, where=at, do=error.do) from None
            except BlockError as error:  # nothing that was accepted: an Intake writes its Blocks whole
                log.warning(
                    "%s[%d], offset %d is no block and is stepped over: %s",
                    self.topic, batch.partition, batch.offsets[place], error,
                )  # fmt: skip
                emit("stranger", stage=self.name, partition=batch.partition)
        return list(Block.joined(found))

    def _chosen(self, waits: Mapping[int, Pending], encode_s: float, turn_ms: int) -> dict[int, Pending]:
        started, waiting = time.perf_counter(), {}
        for number, pending in waits.items():
            owned = self.partitions[number]
            age_ms = turn_ms - owned.waits_since(pending, turn_ms)
            idle_ms = self._now_ms - owned.last_event(pending.rows)
            # Until the log is told of older ones, nothing newer can be claimed of the partition.
            waiting[number] = Waiting(pending, age_ms, idle_ms, owned.older(pending.rows))
        chosen = self.schedule.choose(waiting, encode_s)
        self.schedule.chose(time.perf_counter() - started)
        return chosen

    def _encoded(
        self, chosen: Mapping[int, Pending], left: Mapping[int, Pending], as_of: Mapping[int, int], turn_ms: int
    ) -> tuple[list[Record], list[News]]:
        """Step 3: the records of rows that were encoded, and of those that are held from now on, and what is to be told
        of those.

        Partitions are as of `as_of` after it. Where the log does not say of all that is left that it waits, they are as
        of what held before the first of that began to."""
        encoded = encode_pending(self._encoders, self.partitions, {n: c for n, c in chosen.items() if len(c)})
        for place, segment in enumerate(self.codec.segments):
            if rows := encoded.pairs(place):
                self.schedule.measured(place, rows, encoded.seconds[place])
                emit("encoded", stage=self.name, segment=segment.name, rows=rows)
        spoken, news, started = [], [], time.perf_counter()
        for number, done in chosen.items():
            owned, before = self.partitions[number], self.partitions[number].meta.as_of
            unheld = owned.unheld(left[number])
            since = owned.waits_since(unheld, turn_ms).min(axis=1, initial=turn_ms)
            may_hold = (since <= turn_ms - HOLD_AFTER_MS) & ~owned.older(unheld.rows)
            is_held = _is_held(unheld, done, may_hold)
            held, rest = unheld.take(np.flatnonzero(is_held)), since[~is_held]
            postponed = self._postponed[number]
            postponed.add(turn_ms, as_of.get(number, 0))
            owned.advance(owned.meta.offset, postponed.due(int(rest.min()) if len(rest) else None))
            if len(held):
                news.append(later("deferred", stage=self.name, partition=number, rows=len(held)))
            if len(done) or len(held):
                records = owned.put(done, encoded.vectors.get(number, {}), held, before)
                spoken += [Record(self._vectors, number, name, value) for name, value in records]
        # The transaction, which runs beside the next batch, takes about as long as this.
        self.schedule.told(len(spoken), 2 * (time.perf_counter() - started))
        return spoken, news

    def _spans(self, batches: Sequence[PartitionBatch]) -> list[Span]:
        """One for each sampled event that the batches' Blocks have, below the Intake's."""
        if (tracer := tracing.tracer()) is None:
            return []
        found = [
            tracer.begin(
                f"{self.name} processor", context, batch.append_times[place],
                {"forebay.stage": self.name, "forebay.generation": self.generation,
                 "messaging.destination.name": self.topic, "messaging.destination.partition.id": str(batch.partition),
                 "messaging.kafka.offset": batch.offsets[place]},
            )
            for batch in batches
            for place, headers in enumerate(batch.headers)
            for context in tracing.contexts_in(headers)
        ]  # fmt: skip
        return [span for span in found if span is not None]

    def _undeclared_in(self, blocks: Sequence[Block]) -> list[News]:
        return [
            later("undeclared", stage=self.name, kind=kind, name=name, events=events)
            for block in blocks
            for (kind, name), events in self._undeclared.count(block).items()
        ]


def _is_held(unheld: Pending, done: Pending, may: Bools) -> Bools:
    """Of which of `unheld` the log is told that they wait, bool [n]: of rows that are told of anyway, since some of
    them is `done`, and up to a bound of others that `may` be."""
    told: Bools = np.isin(unheld.rows, done.rows, assume_unique=True)
    others = ~told & may
    return told | others & (np.cumsum(others) <= MOST_HELD)
