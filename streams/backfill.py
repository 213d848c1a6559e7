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
from forebay.errors import GenerationError, UsageError
from forebay.events import Behaviour, Event, ItemUpdate, Tick, UserProfile, encode, entity_of
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
from forebay.streams.worker.batch import TICK_KEY, Outcome, PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.records import records_of

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

    The Cut is the end of both source topics as they are now: workers of the generation go on from there. `now_ms` is
    the clock of the last tick that the history would have had. `progress(done, total)` counts events. Raises
    GenerationError if it exists.
    """
    if (folder / MANIFEST).exists():
        raise GenerationError(
            f"generation {name} exists", where=str(folder), do="Take another name: generations do not change"
        )
    shutil.rmtree(state_folder, ignore_errors=True)
    sources = {side: topics.source(side) for side in SIDES}
    info = describe(bootstrap, list(sources.values()))
    cut = {topic: _ends(bootstrap, topic, info[topic].partitions) for topic in sources.values()}
    events: dict[Side, Sequence[Event]] = {
        "user": [*history.profiles, *history.behaviours],
        "item": [*history.items, *history.interactions()],
    }
    total, done = sum(len(e) for e in events.values()), 0
    for side in SIDES:
        topic, count = sources[side], info[sources[side]].partitions
        processor = Processor(bundle, side, topic, count, state_folder, history=True)
        log = TransactionLog(
            bootstrap,
            f"backfill of {name}",
            transactional_id=f"{topics.prefix}forebay.backfill.{name}.{side}",
            timeout_ms=60_000,
        )
        for partition in range(count):
            processor.open(partition, info[topic].topic_id, 0)
        for batches in _batches(events[side], count):
            outcome = processor.apply(batches)
            if outcome.dead_letters:
                bad = outcome.dead_letters[0]
                raise UsageError(
                    f"an event of the history is not acceptable: {bad.reason}, {bad.message}", where=str(bad.key)
                )
            done += outcome.events
            if progress is not None:
                progress(done, total)
        tick = encode(Tick(now_ms // HOUR_MS * HOUR_MS))
        processor.apply([PartitionBatch(p, [TICK_KEY], [tick], [0], [now_ms]) for p in range(count)])
        for number, owned in processor.partitions.items():
            owned.settle(cut[topic][number], now_ms)
        processor.flush()
        _publish(processor, topics, name, log)
        for partition in range(count):
            processor.close(partition)
        log.close()
    partitions: dict[str, int] = {side: info[sources[side]].partitions for side in SIDES}
    generation = Generation.new(name, bundle.hash, partitions, cut)
    generation.save(folder)
    return generation


def _batches(events: Sequence[Event], count: int) -> Iterator[list[PartitionBatch]]:
    for start in range(0, len(events), BATCH):
        part = events[start : start + BATCH]
        keys = [entity_of(e).encode() for e in part]
        by_partition: dict[int, list[int]] = {}
        for place, partition in enumerate(partitions_of(keys, count).tolist()):
            by_partition.setdefault(partition, []).append(place)
        yield [
            PartitionBatch(
                partition,
                [keys[i] for i in places],
                [encode(part[i]) for i in places],
                [0] * len(places),
                [_time(part[i]) for i in places],
            )
            for partition, places in by_partition.items()
        ]


def _time(event: Event) -> int:
    assert isinstance(event, Behaviour | UserProfile | ItemUpdate) or event.time is not None
    return event.time or 0


def _publish(processor: Processor, topics: Topics, generation: str, log: TransactionLog) -> None:
    """Every entity's vectors, a partition at a time."""
    for number, owned in processor.partitions.items():
        rows = owned.index.rows()
        for start in range(0, len(rows), BATCH):
            records = [(number, name, value) for name, value in owned.records(rows[start : start + BATCH])]
            last = start + BATCH >= len(rows)
            watermarks = {number: owned.meta.newest_append} if last else {}
            outcome = Outcome(vectors=records, watermarks=watermarks)
            log.commit(records_of(outcome, {}, topics, generation, processor.side, interactions=False), [], None)


def _ends(bootstrap: Address, topic: str, count: int) -> dict[int, int]:
    consumer = Consumer(asking_consumer(bootstrap, committed=True))
    try:
        return {p: bounds(consumer, topic, p)[1] for p in range(count)}
    finally:
        consumer.close()
