"""A generation out of history: the stream's own fold and encode over files, into partition stores and vectors topics.

The order of steps decides what a crash leaves: events are partitioned into files, then the stores are built (each
whole, with its offset at the Cut), then the vectors are told, then the manifest is written. Without a manifest there is
no generation, and the next run begins by clearing what the last one left: its folder, and what it has told.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer

from forebay.errors import EventError, GenerationError, UsageError
from forebay.events import Event, check
from forebay.segments.blocks import blockfile
from forebay.segments.blocks.build import block_of
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import HEARTBEAT_KEY, codec_of, pack_heartbeat
from forebay.store.generation import MANIFEST, Generation
from forebay.store.partitionstore import PartitionStore
from forebay.streams import tail
from forebay.streams.build import Target, build
from forebay.streams.clients import asking_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics, describe
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import Record

BATCH = 4096
IN_PROCESS = 50_000  # events: a process takes two seconds to load what it encodes with
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
    processes: int | None = None,
) -> Generation:
    """Fold `history` into generation `name`: stores under `state_folder`, vectors in the generation's topics, manifest
    in `folder`.

    The Cut is the end of both clean logs as they are now: workers of the generation go on from there. `now_ms` is the
    clock of the last tick that the history would have had. `progress(done, total)` counts events. `processes` build
    partitions side by side: by default one for each core, and none beside this one for a small history.

    Raises GenerationError if it exists, UsageError for an event that no Intake would accept.
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
    targets = {
        side: [
            Target(topic, info[topic].topic_id, p, info[topic].partitions, cut[topic][p], now_ms, state_folder)
            for p in range(info[topic].partitions)
        ]
        for side, topic in logs.items()
    }
    spool = state_folder / ".spool"
    spool.mkdir(parents=True)
    for side in SIDES:
        _partition(events[side], side, len(targets[side]), spool)
    total = sum(len(e) for e in events.values())
    jobs = [(side, target) for side in SIDES for target in targets[side]]
    tell = progress or (lambda done, total: None)
    if processes is None:
        processes = 1 if total < IN_PROCESS else min(os.cpu_count() or 1, len(jobs))
    if processes > 1:
        _build_beside(bundle, jobs, spool, processes, lambda done: tell(done, total))
    else:
        _build_here(bundle, jobs, spool, lambda done: tell(done, total))
    shutil.rmtree(spool)
    for side in SIDES:
        _publish(bundle, side, targets[side], bootstrap, topics, name)
    partitions: dict[str, int] = {side: len(targets[side]) for side in SIDES}
    generation = Generation.new(name, bundle.hash, partitions, cut)
    generation.save(folder)
    return generation


# -- events by partition


def _partition(events: Sequence[Event], side: Side, count: int, spool: Path) -> None:
    for start in range(0, len(events), BATCH):
        part = events[start : start + BATCH]
        by_partition: dict[int, list[Event]] = {}
        for event, partition in zip(part, partitions_of([_key(e, side) for e in part], count).tolist(), strict=True):
            by_partition.setdefault(partition, []).append(event)
        for partition, found in by_partition.items():
            none = [0] * len(found)
            blockfile.append(_spooled(spool, side, partition), block_of(found, none, none, none, ("history/0",)))


def _spooled(spool: Path, side: Side, partition: int) -> Path:
    return spool / f"{side}-{partition}"


def _key(event: Event, side: Side) -> bytes:
    try:
        check(event)
        return str(getattr(event, side)).encode()
    except EventError as error:
        said = f"an event of the history is not acceptable: {error.reason}, {error.what}"
        raise UsageError(said, where=str(getattr(event, side))) from None


# -- stores


def _build_here(
    bundle: Bundle, jobs: Sequence[tuple[Side, Target]], spool: Path, progress: Callable[[int], None]
) -> None:
    done = 0

    def told(events: int) -> None:
        nonlocal done
        done += events
        progress(done)

    for side, target in jobs:
        build(bundle, side, blockfile.read(_spooled(spool, side, target.partition)), target, told)


def _build_beside(
    bundle: Bundle, jobs: Sequence[tuple[Side, Target]], spool: Path, processes: int, progress: Callable[[int], None]
) -> None:
    saved = bundle.save(spool / "bundle")
    context = multiprocessing.get_context("spawn")  # RocksDB knows no forks
    counted = context.Value("q", 0)
    with ProcessPoolExecutor(processes, context, _counts, (counted,)) as pool:
        # The largest first: what is left at the end is small.
        jobs = sorted(jobs, key=lambda job: -_size(_spooled(spool, job[0], job[1].partition)))
        under_way = [
            pool.submit(_build_one, str(saved), side, target, str(_spooled(spool, side, target.partition)))
            for side, target in jobs
        ]
        while not all(future.done() for future in under_way):
            time.sleep(0.1)
            progress(counted.value)
            if failed := [f for f in under_way if f.done() and f.exception()]:
                pool.shutdown(cancel_futures=True)
                failed[0].result()
    progress(counted.value)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


_counted: Any = None  # of a process of the pool: how many events all of them have folded


def _counts(value: Any) -> None:
    global _counted
    _counted = value


def _build_one(bundle: str, side: Side, target: Target, path: str) -> None:
    def told(events: int) -> None:
        with _counted.get_lock():
            _counted.value += events

    build(_loaded(bundle), side, blockfile.read(Path(path)), target, told)


@lru_cache(maxsize=1)
def _loaded(path: str) -> Bundle:
    return Bundle.load(Path(path))


# -- vectors


def _publish(
    bundle: Bundle, side: Side, targets: Sequence[Target], bootstrap: Address, topics: Topics, name: str
) -> None:
    """Every entity's vectors, a partition at a time, and what they are as of; and the end of what an earlier run told
    of entities that this one does not have."""
    topic, codec = topics.vectors(name, side), codec_of(bundle, side)
    log = TransactionLog(
        bootstrap,
        f"backfill of {name}",
        transactional_id=f"{topics.prefix}forebay.backfill.{name}.{side}",
        timeout_ms=60_000,
    )
    for target in targets:
        gone = {key for m in tail.read(bootstrap, topic, {target.partition: 0}) if (key := m.key()) != HEARTBEAT_KEY}
        with PartitionStore.open(target.path(side), create=False) as store:
            for names, vectors in _chunks(store):
                rows = np.frombuffer(b"".join(vectors), codec.dtype).copy()
                packed = codec.pack_named(rows, names)
                told = [Record(topic, target.partition, *pair) for pair in zip(names, packed, strict=True)]
                log.commit(told, [], None)
                gone.difference_update(names)
        last = [Record(topic, target.partition, key, None) for key in sorted(gone)]
        log.commit([*last, Record(topic, target.partition, HEARTBEAT_KEY, pack_heartbeat(target.now_ms))], [], None)
    log.close()


def _chunks(store: PartitionStore) -> Iterator[tuple[list[bytes], list[bytes]]]:
    names: list[bytes] = []
    vectors: list[bytes] = []
    for name, row in store.scan():
        names.append(name)
        vectors.append(row.vectors)
        if len(names) == BATCH:
            yield names, vectors
            names, vectors = [], []
    if names:
        yield names, vectors


def _ends(bootstrap: Address, topic: str, count: int) -> dict[int, int]:
    consumer = Consumer(asking_consumer(bootstrap, committed=True))
    try:
        return {p: bounds(consumer, topic, p)[1] for p in range(count)}
    finally:
        consumer.close()
