"""The Processor: one side's clean log in, vectors out. No Kafka in it.

A Worker (protocol.py) polls, and calls for each batch, in this order and with these numbers in metrics, tests and logs:

    1 read       `apply`: records become Blocks, and those become columns
    2 fold       `apply`: into EntityState, collecting pending (entity, segment) pairs: ten clicks are one encode
    3 encode     `apply`: what is pending in all partitions together, in canonical batches (encode.py)
    4 transact   the Worker: vectors and the offsets in one commit
    5 store      `flush`, after the commit, every few batches: the store may lag the group, never lead it

A crash before the commit of 4 leaves nothing; between 4 and 5 the next owner folds the gap silently (`apply` with
aloud=False), which leaves what it touched pending, to be told again by the next aloud batch. Telling a vector twice is
harmless.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from forebay import tracing
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
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome, PartitionBatch, Record
from forebay.streams.worker.encode import encode_pending
from forebay.streams.worker.halving import too_small
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.undeclared import Undeclared
from forebay.telemetry import News, emit, later
from forebay.tracing import Span

MEMORY_BYTES = 4 << 30
ROW_BYTES = 96  # of an entity's place in the index, its id and marks, about
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
    ) -> None:
        """The side's clean log has so many `partitions`; stores live in `folder`, one directory each. Rows of entities
        take about `memory_bytes`: past it those leave that had no event for longest, unless they wait to be encoded or
        a window of theirs is not empty."""
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
        self._encoders = SideEncoders(bundle, side)

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
        self.partitions[partition] = OwnedPartition.open(
            folder or self.folder / self.names[partition], self._fold, self.codec, fresh,
            create=create, retire_after_ms=self._retire_after_ms, most_rows=self._opened_rows,
        )  # fmt: skip
        return self.partitions[partition]

    def memory(self) -> dict[str, int]:
        """See Stage: all is the partitions'."""
        return {}

    def close(self, partition: int) -> None:
        """See Stage."""
        if (owned := self.partitions.pop(partition, None)) is not None:
            owned.close()

    def twin(self) -> Processor:
        """See Stage: its rows take what is one partition's share of the memory."""
        share = self._most_rows // self.count
        made = Processor(self.bundle, self.side, self.topics, self.generation, self.count, self.folder)
        made._most_rows = made._opened_rows = share
        return made

    def adopt(self, partition: int, twin: Stage) -> OwnedPartition:
        """See Stage."""
        assert isinstance(twin, Processor)
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

    def apply(self, batches: Sequence[PartitionBatch], as_of: Mapping[int, int] = {}, *, aloud: bool = True) -> Outcome:
        """See Stage: steps 1 to 3. Raises BlockTooNew; what is no Block is told of and stepped over."""
        started = time.perf_counter()
        blocks = {batch.partition: self._blocks(batch) for batch in batches}
        events = sum(len(block) for found in blocks.values() for block in found)
        stretches = {p: [s for b in found for s in self._coder.stretches(b)] for p, found in blocks.items()}
        read = time.perf_counter()
        retired: list[Record] = []
        for batch in batches:
            owned = self.partitions[batch.partition]
            for stretch in stretches[batch.partition]:
                retired += [Record(self._vectors, batch.partition, name, None) for name in owned.fold(stretch)]
            owned.advance(batch.offsets[-1] + 1, 0)
        for partition, moment in as_of.items():
            owned = self.partitions[partition]
            owned.advance(owned.meta.offset, moment)
        folded = time.perf_counter()
        offsets = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        taken = sum(len(batch.offsets) for batch in batches)
        if not aloud:
            return Outcome(offsets=offsets, taken=taken, events=events)
        spoken = self._encoded()
        encoded = time.perf_counter()
        news = [one for found in blocks.values() for one in self._undeclared_in(found)]
        seconds = {"read": read - started, "fold": folded - read, "encode": encoded - folded}
        for number, (name, took) in enumerate(seconds.items(), start=1):
            emit("step", number=number, name=name, stage=self.name, seconds=took, events=events)
        told = {record.partition for record in spoken}
        return Outcome([*retired, *spoken], offsets, told, taken, events, self._spans(batches), news)

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

    def _encoded(self) -> list[Record]:
        """Step 3: the records of all rows that waited."""
        pending = {number: waits for number, owned in self.partitions.items() if len(waits := owned.waiting())}
        found = encode_pending(self._encoders, self.partitions, pending)
        for place, segment in enumerate(self.codec.segments):
            if rows := sum(len(vectors[place]) for vectors in found.values() if place in vectors):
                emit("encoded", stage=self.name, segment=segment.name, rows=rows)
        return [
            Record(self._vectors, number, name, value)
            for number, waits in pending.items()
            for name, value in self.partitions[number].put(waits, found[number])
        ]

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
