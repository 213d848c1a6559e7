"""A generation out of history: the Processor's own fold and encode over files, into partition stores and vectors
topics.

The order of steps decides what a crash leaves: stores first (each whole, with its offset at the Cut), then the vectors,
then the manifest. Without a manifest there is no generation, and the next run begins by clearing what the last one
left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from confluent_kafka import Consumer

from forebay.clock import HOUR_MS
from forebay.errors import EventError, GenerationError, UsageError
from forebay.events import Event, Tick, check
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES, Side
from forebay.store.generation import MANIFEST, Generation
from forebay.streams.clients import asking_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics, describe
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source

BATCH = 4096
Progress = Callable[[int, int], None]


def backfill(
    bundle: Bundle,
    history: History,
    *,
    name: str,
    bootstrap: Address,
    topics: Topics,
    folder: Path,
    state_folder: Path,
    now_ms: int,
    progress: Progress | None = None,
) -> Generation:
    """Fold `history` into generation `name`: stores under `state_folder`, vectors in the generation's topics, manifest
    in `folder`.

    The Cut is the end of both clean logs as they are now: workers of the generation go on from there. `now_ms` is
    the clock of the last tick that the history would have had. `progress(done, total)` counts events. Raises
    GenerationError if it exists.
    """
    if (folder / MANIFEST).exists():
        raise GenerationError(
            f"generation {name} exists", where=str(folder), do="Take another name: generations do not change"
        )
    shutil.rmtree(state_folder, ignore_errors=True)
    logs = {side: topics.events(side) for side in SIDES}
    info = describe(bootstrap, list(logs.values()))
    cut = {topic: _ends(bootstrap, topic, info[topic].partitions) for topic in logs.values()}
    events: dict[Side, Sequence[Event]] = {
        "user": [*history.profiles, *history.behaviours],
        "item": [*history.items, *history.behaviours],
    }
    total, done = sum(len(e) for e in events.values()), 0
    for side in SIDES:
        topic, count = logs[side], info[logs[side]].partitions
        processor = Processor(bundle, side, topics, name, count, state_folder)
        log = TransactionLog(
            bootstrap,
            f"backfill of {name}",
            transactional_id=f"{topics.prefix}forebay.backfill.{name}.{side}",
            timeout_ms=60_000,
        )
        for partition in range(count):
            processor.open(partition, Source(topic, partition, info[topic].topic_id), 0)
        for batches in _batches(events[side], side, count):
            done += processor.apply(batches).events
            if progress is not None:
                progress(done, total)
        tick = Tick(now_ms // HOUR_MS * HOUR_MS)
        processor.apply([_batch(partition, [tick]) for partition in range(count)])
        for number, owned in processor.partitions.items():
            owned.settle(cut[topic][number], now_ms)
        processor.flush()
        _publish(processor, log)
        for partition in range(count):
            processor.close(partition)
        log.close()
    partitions: dict[str, int] = {side: info[logs[side]].partitions for side in SIDES}
    generation = Generation.new(name, bundle.hash, partitions, cut)
    generation.save(folder)
    return generation


def _batches(events: Sequence[Event], side: Side, count: int) -> Iterator[list[PartitionBatch]]:
    for start in range(0, len(events), BATCH):
        part = events[start : start + BATCH]
        by_partition: dict[int, list[Event]] = {}
        for event, partition in zip(part, partitions_of([_key(e, side) for e in part], count).tolist(), strict=True):
            by_partition.setdefault(partition, []).append(event)
        yield [_batch(partition, found) for partition, found in by_partition.items()]


def _key(event: Event, side: Side) -> bytes:
    try:
        check(event)
        return str(getattr(event, side)).encode()
    except EventError as error:
        said = f"an event of the history is not acceptable: {error.reason}, {error.what}"
        raise UsageError(said, where=str(getattr(event, side))) from None


def _batch(partition: int, events: Sequence[Event]) -> PartitionBatch:
    """Events as the clean log would have them: where they came from is the history."""
    times = [0 if event.time is None else event.time for event in events]
    block = block_of(events, times, range(len(events)), [0] * len(events), ("history/0",))
    records = list(block.encode())
    return PartitionBatch(
        partition,
        [None] * len(records),
        [value for _, value in records],
        [0] * len(records),
        [0] * len(records),
        [((HEADER, header),) for header, _ in records],
    )


def _publish(processor: Processor, log: TransactionLog) -> None:
    """Every entity's vectors, a partition at a time, and what they are as of."""
    topic = processor.topics.vectors(processor.generation, processor.side)
    for number, owned in processor.partitions.items():
        rows = owned.index.rows()
        for start in range(0, len(rows), BATCH):
            part = owned.records(rows[start : start + BATCH])
            log.commit([Record(topic, number, name, value) for name, value in part], [], None)
    log.commit(processor.beat(0), [], None)


def _ends(bootstrap: Address, topic: str, count: int) -> dict[int, int]:
    consumer = Consumer(asking_consumer(bootstrap, committed=True))
    try:
        return {p: bounds(consumer, topic, p)[1] for p in range(count)}
    finally:
        consumer.close()
