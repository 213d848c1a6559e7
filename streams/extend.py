"""A generation with one more segment, out of one that runs: its Checkpoints and the clean logs, and no history but what
an archive has of those logs.

The generation that runs is only read from. Its steps have the numbers of the hook `extended`, for each partition

    1 fetch      its newest Checkpoint, into a folder that no worker looks at
    2 fold       the clean log up to the Checkpoint's offset, with what an archive has of it in front, into the blocks
                 that its rows lack
    3 write      the new store, under a name that no worker looks at; it gets its own when it is whole:
                 rows (some thousands are written), whole (all are), report (what it has is noted), write (it has its
                 name)

and then, once,

    4 keep       each store as a Checkpoint of the new generation
    5 tell       every vector, in the new generation's topics
    6 manifest   from here on there is a generation

A crash leaves whole stores and the rest of one. The next run of the same bundle and generation keeps the whole ones, as
long as the log still goes on where they end, and does the rest; a run of anything else clears all of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forebay import files
from forebay.errors import GenerationError, LogGap, StoreError, UsageError
from forebay.segments.growth import Growth
from forebay.segments.history.archive import Archive
from forebay.segments.spec import SIDES, Side
from forebay.store.checkpoints import Checkpoints
from forebay.store.generation import MANIFEST, Generation, numeric_platform
from forebay.store.partitionstore import PartitionStore
from forebay.streams.build import Target
from forebay.streams.carry import Carrier
from forebay.streams.cluster import Address
from forebay.streams.logpart import Archived, LogPart
from forebay.streams.pace import Pace
from forebay.streams.running import Running
from forebay.streams.tell import keep_checkpoint, tell_vectors
from forebay.streams.topics import Topics
from forebay.telemetry import emit

PLAN = ".extension.json"
TRIES = 3  # of a partition, where the log forgets its first records before they are read
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExtendOptions:
    """`events_per_second` bounds what is folded of the log, and the rows that are written and told; 0: as fast as it
    goes. `future_after_ms` is the Intake's: an event may be by so much later than the log that took it."""

    events_per_second: float = 50_000.0
    future_after_ms: int = 300_000


class Report(msgspec.Struct, frozen=True):
    """One partition: a store of `entities` at `offset`, as of `as_of` (ms). For `whole` of them the new segment knows
    all that the others know; for all of them what the log took from `since_ms` on (0: nothing was read of it)."""

    side: Side
    partition: int
    offset: int
    as_of: int
    entities: int
    whole: int
    since_ms: int


class _Plan(msgspec.Struct, frozen=True):
    """Of what the stores in a folder are the beginning."""

    of: str
    old_bundle: str
    new_bundle: str
    platform: str
    archive: str = ""


@dataclass(frozen=True)
class Extended:
    """The generation, and what became of each partition."""

    generation: Generation
    reports: Sequence[Report]


def extend(
    growth: Growth,
    of: Generation,
    *,
    name: str,
    bootstrap: Address,
    topics: Topics,
    folder: Path,
    state_folder: Path,
    checkpoints: Checkpoints,
    now_ms: int,
    options: ExtendOptions = ExtendOptions(),
    archive: Archive | None = None,
    told: Callable[[Report], None] = lambda report: None,
    progress: Progress = lambda done, total: None,
) -> Extended:
    """Make generation `name` of `growth.new` out of generation `of`, which has the bundle `growth.old`: stores under
    `state_folder`, Checkpoints, vectors in its topics (which are there), manifest in `folder`.

    `archive` is read in front of a log whose beginning it has; what was imported into it is not. Workers of `name` go
    on where the Checkpoints end. `told` hears of each partition that is whole, `progress` of records of the log: done,
    and all. Both are called by this thread.

    Raises UsageError for a generation that would follow itself, GenerationError where `name` exists or is being made,
    StoreMissing where a partition has no Checkpoint, LogGap where the log does not go on where one ends, TopicMismatch
    for a log that was made anew, CheckpointError, BrokerUnavailable.
    """
    if name == of.name:
        raise UsageError(f"generation {name} cannot be made of itself", do="Name another one with --generation")
    if (folder / MANIFEST).exists():
        raise GenerationError(
            f"generation {name} exists", where=str(folder), do="Take another name: generations do not change"
        )
    with _alone(state_folder):
        work = _Work(growth, of, name, bootstrap, topics, state_folder, checkpoints, options, archive)
        reports = work.stores(told, progress)
        for report in reports:
            of_store = f"{name}/{report.side}-{report.partition}"
            keep_checkpoint(checkpoints, of_store, state_folder / f"{report.side}-{report.partition}", now_ms)
        emit("extended", number=4, step="keep", generation=name)
        for side in SIDES:
            targets = [work.target(report, now_ms) for report in reports if report.side == side]
            tell_vectors(growth.new, side, targets, bootstrap, topics, name, work.pace.spend)
        emit("extended", number=5, step="tell", generation=name)
        generation = Generation.new(
            name, growth.new.hash, dict(of.partitions), work.cut(reports), since=work.since(reports)
        )
        generation.save(folder)
        for path in (state_folder / PLAN, *state_folder.glob(".report-*.json")):
            path.unlink()
        emit("extended", number=6, step="manifest", generation=name)
    return Extended(generation, reports)


class _Work:
    """One run. Raises what is missing before it touches anything."""

    def __init__(
        self, growth: Growth, of: Generation, name: str, bootstrap: Address, topics: Topics, folder: Path,
        checkpoints: Checkpoints, options: ExtendOptions, archive: Archive | None,
    ) -> None:  # fmt: skip
        self._growth, self._of, self._name, self._bootstrap = growth, of, name, bootstrap
        self._folder, self._checkpoints, self._options = folder, checkpoints, options
        self._archive = archive
        self.pace = Pace(options.events_per_second)
        self._running = Running(of, bootstrap, topics, checkpoints)

    # -- steps 1 to 3

    def stores(self, told: Callable[[Report], None], progress: Progress) -> list[Report]:
        """All stores, those of a run before this one included."""
        plan = _Plan(
            self._of.name,
            self._growth.old.hash,
            self._growth.new.hash,
            numeric_platform(),
            "" if self._archive is None else self._archive.place.url,
        )
        if not self._goes_on(plan):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._checkpoints.remove(self._name)
            self._folder.mkdir(parents=True)
            files.write(self._folder / PLAN, msgspec.json.encode(plan))
        running = self._running
        reads = [job for job in running.parts if self._growth.sides[job[0]].lacks is not None]
        total = sum(running.records(*job) for job in reads)
        reports, done = [], 0
        for side in SIDES:
            carrier = Carrier(self._growth, side, anew=self._of.platform != numeric_platform())
            for job in running.parts:
                if job[0] != side:
                    continue
                before = done

                def read(records: int, before: int = before) -> None:
                    progress(min(before + records, total), total)

                report = self._made(*job) or self._make(carrier, job[1], read)
                reports.append(report)
                told(report)
                done += running.records(*job) if job in reads else 0
        for word in (".old-*", ".lacked-*", ".new-*"):  # of a run that was killed right after it had named a store
            for left in self._folder.glob(word):
                shutil.rmtree(left)
        first = running.firsts()
        if late := [f"{r.side}-{r.partition}" for r in reports if r.offset < first[r.side, r.partition]]:
            raise LogGap(
                f"the log begins behind the stores of {', '.join(late)} by now", where=str(self._folder),
                do="Run it again, with a higher --rate: those are made anew, the others are kept",
            )  # fmt: skip
        return reports

    def _goes_on(self, plan: _Plan) -> bool:
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            return msgspec.json.decode((self._folder / PLAN).read_bytes(), type=_Plan) == plan
        return False

    def _made(self, side: Side, partition: int) -> Report | None:
        """The report of a store that an earlier run finished, where the log still goes on behind it."""
        store = f"{side}-{partition}"
        if not (self._folder / store).exists():
            return None
        try:
            report = msgspec.json.decode((self._folder / f".report-{store}.json").read_bytes(), type=Report)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return report if report.offset >= self._running.first[side, partition] else None

    def _make(self, carrier: Carrier, partition: int, read: Callable[[int], None]) -> Report:
        side = carrier.side
        store = f"{side}-{partition}"
        path, old, lacked, building = (self._folder / f"{word}{store}" for word in ("", ".old-", ".lacked-", ".new-"))
        for left in (path, old, building):
            shutil.rmtree(left, ignore_errors=True)
        self._running.fetch(side, partition, old)
        self._step(1, "fetch", side, partition)
        with PartitionStore.open(old, create=False) as source:
            meta = source.meta()
            if meta is None or meta.layout != self._growth.sides[side].old.digest:
                raise StoreError(
                    f"the rows of a checkpoint are not those of bundle {self._growth.old.name}",
                    where=f"{self._of.name}/{store}", do="Is --of the generation that its checkpoints are of?",
                )  # fmt: skip
            for attempt in range(TRIES):
                shutil.rmtree(lacked, ignore_errors=True)
                info = self._running.logs[side]
                archived = Archived.of(self._archive, side, info, partition, meta.offset)
                part = LogPart(self._bootstrap, info.name, partition, meta.offset, archived)
                try:
                    folded = carrier.fold(part.blocks(read), meta, lacked, self.pace.spend)
                    break
                except LogGap:  # it forgot what was to be read first
                    if attempt + 1 == TRIES:
                        raise
            self._step(2, "fold", side, partition)
            try:
                reach = part.since_ms + self._options.future_after_ms if part.since_ms else meta.clock

                def written(rows: int) -> None:
                    self.pace.spend(rows)
                    self._step(3, "rows", side, partition)

                carried = carrier.write(source, folded, building, reach, written)
            finally:
                if folded is not None:
                    folded.close()
        self._step(3, "whole", side, partition)
        report = Report(
            side, partition, meta.offset, meta.as_of, carried.entities, carried.whole, part.since_ms
        )  # fmt: skip
        # Before the store has its name: one that has it is kept by the next run, which needs the report.
        files.write(self._folder / f".report-{store}.json", msgspec.json.encode(report))
        self._step(3, "report", side, partition)
        os.rename(building, path)
        files.sync_folder(self._folder)
        self._step(3, "write", side, partition)
        for left in (old, lacked):
            shutil.rmtree(left, ignore_errors=True)
        return report

    def _step(self, number: int, step: str, side: Side, partition: int) -> None:
        emit("extended", number=number, step=step, generation=self._name, stage=side, partition=partition)

    # -- what the manifest and the topics say

    def target(self, report: Report, now_ms: int) -> Target:
        """Where the vectors of a partition are, and what they are as of."""
        info = self._running.logs[report.side]
        return Target(
            info.name, info.topic_id, report.partition, info.partitions, report.offset, now_ms, report.as_of,
            self._folder,
        )  # fmt: skip

    def cut(self, reports: Sequence[Report]) -> dict[str, dict[int, int]]:
        """Where workers go on."""
        return {
            info.name: {r.partition: r.offset for r in reports if r.side == side}
            for side, info in self._running.logs.items()
        }

    def since(self, reports: Sequence[Report]) -> dict[str, int]:
        """From when on the history is complete of segments for which it is not: what the old generation says of its
        own, and of each new one that lacks something."""
        found = dict(self._of.since)
        for side in SIDES:
            lacks = self._growth.sides[side].lacks
            short = [r.since_ms or r.as_of for r in reports if r.side == side and r.whole < r.entities]
            if lacks is None or not short:
                continue
            for place, segment in enumerate(self._growth.new.spec.side(side)):
                if any(block.bits >> place & 1 for block in lacks.blocks):
                    found[segment.title] = max(short)
        return found


@contextlib.contextmanager
def _alone(state_folder: Path) -> Iterator[None]:
    """One run at a time makes a generation. Raises GenerationError."""
    path = state_folder.with_name(f".extending-{state_folder.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GenerationError(
                f"another process makes generation {state_folder.name}", where=str(path), do="Let it finish, or end it"
            ) from None
        yield
