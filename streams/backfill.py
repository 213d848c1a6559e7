"""A generation out of history: the stream's own fold and encode over files, into partition stores and vectors topics.

What it reads is all that there is: the past as files have it, what an archive has of the clean logs, and the logs from
there to the Cut, which is their end when it begins. So no event lies between a file and the Cut, and one that is in a
file and in a log is folded once.

The order of steps decides what a crash leaves: events are partitioned into files, then the stores are built (each
whole, with its offset at the Cut), then each is kept as a Checkpoint, then the vectors are told, then the manifest is
written. Without a manifest there is no generation, and the next run begins by clearing what the last one left: its
folder, and what it has told.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from forebay.errors import GenerationError
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES, Side
from forebay.store.checkpoints import Checkpoints
from forebay.store.generation import MANIFEST, Generation
from forebay.streams.build import Target, build
from forebay.streams.cluster import Address
from forebay.streams.cut import Cut
from forebay.streams.spool import Spool, read
from forebay.streams.tell import keep_checkpoint, tell_vectors
from forebay.streams.topics import Topics

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
    checkpoints: Checkpoints | None = None,
) -> Generation:
    """Fold `history`, and the clean logs as far as it does not have them, into generation `name`: stores under
    `state_folder`, vectors in the generation's topics, manifest in `folder`.

    The Cut is the end of both clean logs as they are now: workers of the generation go on from there. `now_ms` is the
    clock of the last tick that the history would have had. Vectors are as of then, or of the moment up to which the
    Intake has read its sources. Workers of other machines find the stores among `checkpoints`.
    `progress(done, total)` counts events. `processes` build partitions side by side: by
    default one for each core, and none beside this one for a small history.

    Raises GenerationError if it exists, LogGap where events between an archive and what a log still has are gone,
    TopicMismatch for an archive of a log with other partitions.
    """
    if (folder / MANIFEST).exists():
        raise GenerationError(
            f"generation {name} exists", where=str(folder), do="Take another name: generations do not change"
        )
    shutil.rmtree(state_folder, ignore_errors=True)
    if checkpoints is not None:
        checkpoints.remove(name)
    cut = Cut.now(bootstrap, topics, now_ms)
    targets = {
        side: [
            Target(info.name, info.topic_id, p, info.partitions, cut.ends(side)[p], now_ms, cut.as_of, state_folder)
            for p in range(info.partitions)
        ]
        for side, info in cut.logs.items()
    }
    spool_folder = state_folder / ".spool"
    spool_folder.mkdir(parents=True)
    spool = Spool(spool_folder, {side: len(targets[side]) for side in SIDES})
    for side in SIDES:
        cut.spool_log(spool, side, bootstrap, history)
    for block in cut.past(history):
        spool.add_past(block)
    jobs = [(side, target) for side in SIDES for target in targets[side]]
    tell = progress or (lambda done, total: None)
    if processes is None:
        processes = 1 if spool.events < IN_PROCESS else min(os.cpu_count() or 1, len(jobs))
    if processes > 1:
        _build_beside(bundle, jobs, spool, spool_folder, processes, lambda done: tell(done, spool.events))
    else:
        _build_here(bundle, jobs, spool, lambda done: tell(done, spool.events))
    shutil.rmtree(spool_folder)
    if checkpoints is not None:
        for side, target in jobs:
            keep_checkpoint(checkpoints, f"{name}/{side}-{target.partition}", target.path(side), now_ms)
    for side in SIDES:
        tell_vectors(bundle, side, targets[side], bootstrap, topics, name)
    partitions: dict[str, int] = {side: len(targets[side]) for side in SIDES}
    offsets = {info.name: cut.ends(side) for side, info in cut.logs.items()}
    generation = Generation.new(name, bundle.hash, partitions, offsets)
    generation.save(folder)
    return generation


# -- stores


def _build_here(
    bundle: Bundle, jobs: Sequence[tuple[Side, Target]], spool: Spool, progress: Callable[[int], None]
) -> None:
    done = 0

    def told(events: int) -> None:
        nonlocal done
        done += events
        progress(done)

    for side, target in jobs:
        build(bundle, side, spool.blocks(side, target.partition), target, told)


def _build_beside(
    bundle: Bundle,
    jobs: Sequence[tuple[Side, Target]],
    spool: Spool,
    folder: Path,
    processes: int,
    progress: Callable[[int], None],
) -> None:
    saved = bundle.save(folder / "bundle")
    context = multiprocessing.get_context("spawn")  # RocksDB knows no forks
    counted = context.Value("q", 0)
    with ProcessPoolExecutor(processes, context, _counts, (counted,)) as pool:
        # The largest first: what is left at the end is small.
        jobs = sorted(jobs, key=lambda job: -_size(spool.paths(job[0], job[1].partition)))
        under_way = [
            pool.submit(_build_one, str(saved), side, target, spool.paths(side, target.partition))
            for side, target in jobs
        ]
        while not all(future.done() for future in under_way):
            time.sleep(0.1)
            progress(counted.value)
            if failed := [f for f in under_way if f.done() and f.exception()]:
                pool.shutdown(cancel_futures=True)
                failed[0].result()
    progress(counted.value)


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


_counted: Any = None  # of a process of the pool: how many events all of them have folded


def _counts(value: Any) -> None:
    global _counted
    _counted = value


def _build_one(bundle: str, side: Side, target: Target, paths: Sequence[Path]) -> None:
    def told(events: int) -> None:
        with _counted.get_lock():
            _counted.value += events

    build(_loaded(bundle), side, read(paths), target, told)


@lru_cache(maxsize=1)
def _loaded(path: str) -> Bundle:
    return Bundle.load(Path(path))
