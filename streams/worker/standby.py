"""State that is kept warm of partitions that another worker owns, so that one which is lost is missed for a session and
not for as long as its state takes to be read.

A pass, every few seconds, on a thread of its own; for each partition that this worker would get next (shares.py):

    1 fetch    the newest Checkpoint's new files, into a folder that no store's name leads to
    2 open     by a twin of the stage: all that is in memory for it is the twin's
    3 follow   the clean log up to the group's offset, silently; then into the folder's store

Where the group goes on is asked first: a warm store may lag the group and never leads it, like any other. Of an Intake
the folder is fetched, and not opened: its identities would take their memory twice.

    .standby-SLOT-user-3/files/9f8a21c3…   sorted files of Checkpoints by content; whole, or under another name
    .standby-SLOT-user-3/PID-N             a store, which nobody but this process has open

When the partition comes, the worker's thread takes what is warm, and gives its folder a store's name (stores.py). A
crash before that leaves folders that the next start of the slot removes; after it, an ordinary store. Whatever is wrong
with a warm store, it is thrown away, and the partition's state comes from where it comes from without one.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from forebay.clock import now_ms
from forebay.errors import BrokerUnavailable, CheckpointError, ForebayError, StoreError
from forebay.store.checkpoints import Checkpoint, Checkpoints
from forebay.store.rocks import discard
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Owned, Stage
from forebay.streams.worker.standing import Warmth
from forebay.streams.worker.transport import Transport

BYTES_S = 32 << 20  # of fetching: a quarter of a gigabit; what is owned has the rest
FREE_SHARE = 0.1  # of the disk that stays free, whatever there is to fetch
RECORDS = 64  # of a clean log at once: whoever takes a partition over waits for one such batch
# What was folded silently waits to be encoded when the partition is taken over. Past so many pairs a newer Checkpoint,
# which has their vectors, takes the place of the one that was followed: encoding them would take half a second.
PAIRS = 32_768
LOOK_S = 30.0  # between two looks for a newer Checkpoint
AGAIN_S = 60.0  # after one that was of no use
TAKE_S = 2.0
CLOSE_S = 3.0
_NUMBERS = count()
log = logging.getLogger("forebay.standby")


@dataclass
class Warm:
    """One partition's state. `twin` has it open and nothing else; None where it is only fetched. The group was at
    `done` when that was asked last, and what is open was in step with it at `at_ms`; 0: never."""

    partition: int
    source: Source
    checkpoint: Checkpoint
    folder: Path
    done: int
    twin: Stage | None = None
    at_ms: int = 0

    @property
    def owned(self) -> Owned | None:
        """What is open."""
        return None if self.twin is None else self.twin.partitions.get(self.partition)

    @property
    def offset(self) -> int:
        """The next record to fold."""
        return self.checkpoint.offset if (owned := self.owned) is None else owned.meta.offset

    @property
    def followed(self) -> bool:
        """Whether it has come as far as the group once: further than any folder that its worker has left behind."""
        return self.at_ms > 0

    def discard(self) -> None:
        """Throw it away."""
        if self.twin is not None:
            self.twin.close(self.partition)
        shutil.rmtree(self.folder, ignore_errors=True)


class Standby:
    """Of one worker. `take` and `close` are the worker's thread's; `turn` is that of `start`, or a test's."""

    def __init__(
        self,
        stage: Stage,
        transport: Transport,
        checkpoints: Checkpoints,
        options: WorkerOptions,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        """Nothing is asked before the first turn."""
        self._stage, self._transport, self._checkpoints, self._options = stage, transport, checkpoints, options
        self._clock, self._wall_ms = clock, wall_ms
        self._warm: dict[int, Warm] = {}
        self._turn = threading.Lock()  # of what is in `_warm`: held for one batch, never while something is waited for
        self._taken: dict[int, float] = {}  # partitions that came, and when: the group may be asked before it says so
        self._looked: dict[int, float] = {}
        self._stop, self._told = threading.Event(), ""
        self._thread: threading.Thread | None = None

    # -- the worker's thread

    def start(self) -> None:
        """Take turns on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"standby-{self._stage.name}", daemon=True)
        self._thread.start()

    def take(self, partition: int) -> Warm | None:
        """What is warm of a partition that is this worker's now. It is the caller's: in use, or to be discarded."""
        self._taken[partition] = self._clock()
        if not self._turn.acquire(timeout=TAKE_S):  # the next turn drops it
            return None
        try:
            return self._warm.pop(partition, None)
        finally:
            self._turn.release()

    def give_back(self, warm: Warm) -> None:
        """What could not be used, since the broker did not answer, is taken again; nobody touches it meanwhile."""
        if warm.partition in self._taken and warm.folder.exists():
            self._warm[warm.partition] = warm

    def warmth(self) -> Mapping[int, Warmth]:
        """How each stands; from any thread."""
        return {
            partition: Warmth(warm.source, max(0, warm.done - warm.offset), warm.at_ms or warm.checkpoint.created)
            for partition, warm in list(self._warm.items())
        }

    def close(self) -> None:
        """Throw everything away but what was fetched by content. One that is stuck in a call is left to the process's
        end."""
        self._stop.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                return
        for warm in self._warm.values():
            warm.discard()
        self._warm.clear()

    def let_go(self) -> None:
        """Let go of every folder and leave it, as a process does that is killed."""
        for warm in self._warm.values():
            if warm.twin is not None:
                warm.twin.close(warm.partition)

    # -- its own thread

    def _run(self) -> None:
        while not self._stop.wait(self._options.standby_every_s):
            try:
                self.turn()
            except Exception:  # a standby is a help, and nothing that a worker may end by
                log.exception("the standby of %s goes on after a fault", self._stage.title)

    def turn(self) -> None:
        """One pass."""
        asked_at = self._clock()
        try:
            shares = self._transport.shares()
        except BrokerUnavailable as error:
            self._say(f"no partition is kept warm for now: {error}")
            return
        if shares is None:
            self._say("no partition is kept warm: this transport does not say who has what")
            return
        mine = shares.of.get(shares.mine, ())
        for partition, at in list(self._taken.items()):
            if at < asked_at and partition not in mine:  # it went to another one since
                del self._taken[partition]
        wanted = {p for p in shares.heirs(self._options.standby) if self._may_keep(p)}
        gone = set(self._warm) - wanted
        for partition in [p for p in gone if p in self._stage.partitions or p not in self._taken]:
            self._drop(partition)
        for partition in sorted(wanted):
            if self._stop.is_set():
                return
            try:
                self._keep(partition, self._transport.source(partition))
            except BrokerUnavailable as error:
                self._say(f"what is warm stands still: {error}")
                return
            except CheckpointError as error:  # what is warm stays so
                self._say(f"no newer checkpoint of {self._transport.source(partition)} for now: {error}")
                self._looked[partition] = self._clock() + AGAIN_S
                return
            except ForebayError as error:
                log.warning("%s is not kept warm: %s", self._transport.source(partition), error)
                self._drop(partition)
                self._looked[partition] = self._clock() + AGAIN_S
        self._told = ""

    def _keep(self, partition: int, source: Source) -> None:
        done = self._transport.committed(partition)
        if done is None:
            return
        if (warm := self._warm.get(partition)) is not None:
            warm.done = done
            self._follow(warm)
        if (newest := self._newer(partition, source, warm, done)) is not None:
            made = self._fetched(partition, source, newest, done)
            self._follow(made)
            self._put(made)

    def _newer(self, partition: int, source: Source, warm: Warm | None, done: int) -> Checkpoint | None:
        """The Checkpoint that is worth its way, where it is time to look for one."""
        now = self._clock()
        if now < self._looked.get(partition, now):
            return None
        if warm is not None:
            self._looked[partition] = now + min(LOOK_S, self._options.checkpoint_every_s / 2)
            if (owned := warm.owned) is not None and sum(owned.census().pending.values()) < PAIRS:
                return None
        of = f"{self._stage.scope}/{self._stage.names[partition]}"
        for name in self._checkpoints.names(of):
            one = self._checkpoints.load(of, name)
            if one.topic_id == source.topic_id and one.offset <= done:  # others are of before the group was set back
                return one if warm is None or one.offset > warm.checkpoint.offset else None
        return None

    def _fetched(self, partition: int, source: Source, kept: Checkpoint, done: int) -> Warm:
        base = _base(self._stage, self._options.slot, partition)
        base.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(base)
        if disk.free - kept.bytes < FREE_SHARE * disk.total:
            raise StoreError(f"no room for a standby of {kept.bytes / 1e6:,.1f} MB", where=str(base), do="Make room")
        folder, began, came = base / f"{os.getpid()}-{next(_NUMBERS)}", time.monotonic(), 0

        def told(size: int) -> None:
            nonlocal came
            came += size
            self._stop.wait(max(0.0, began + came / BYTES_S - time.monotonic()))
            if self._stop.is_set() or not self._may_keep(partition):
                raise CheckpointError("nobody waits for it any more", where=self._checkpoints.url)

        self._checkpoints.fetch(kept, folder, told, have=base / "files")
        made = Warm(partition, source, kept, folder, done)
        try:
            if (twin := self._stage.twin()) is not None:
                twin.open(partition, source, 0, create=False, folder=folder)
                made.twin = twin
        except StoreError:
            shutil.rmtree(base, ignore_errors=True)  # what was fetched by content, too: it may be what is wrong
            raise
        log.info("%s: a standby at offset %d, %.1f MB of it fetched", source, kept.offset, came / 1e6)
        return made

    def _follow(self, warm: Warm) -> None:
        """Fold up to the group's offset, silently: the log has been told."""
        if warm.owned is None:
            return
        start, done = warm.offset, warm.done
        if start > done:
            raise StoreError("the group was set back behind it", where=str(warm.folder))
        with closing(self._transport.read(warm.partition, start, done, RECORDS, self._stop)) as batches:
            for batch in batches:
                if batch is None:
                    continue
                with self._ours(warm) as twin:
                    if twin is None:
                        return
                    twin.apply([batch], aloud=False)
        with self._ours(warm) as twin:
            if twin is None or self._stop.is_set() or (owned := warm.owned) is None:
                return
            owned.advance(done, 0)  # the last offsets before it may be a transaction's own marks
            if done > start:
                twin.flush()
            warm.at_ms = self._wall_ms()

    @contextmanager
    def _ours(self, warm: Warm) -> Iterator[Stage | None]:
        """Its twin while the block runs, None where the partition was taken over."""
        with self._turn:
            yield warm.twin if self._may_keep(warm.partition) else None

    def _put(self, made: Warm) -> None:
        with self._turn:
            gone: Warm | None = made
            if self._may_keep(made.partition):
                gone, self._warm[made.partition] = self._warm.get(made.partition), made
        if gone is not None:
            gone.discard()

    def _drop(self, partition: int) -> None:
        with self._turn:
            warm = self._warm.pop(partition, None)
        if warm is not None:
            warm.discard()

    def _may_keep(self, partition: int) -> bool:
        return partition not in self._stage.partitions and partition not in self._taken

    def _say(self, said: str) -> None:
        if said != self._told:
            log.warning("%s: %s", self._stage.title, said)
            self._told = said


def sweep(stage: Stage, slot: str, *, keeps: bool) -> None:
    """Remove what an earlier process of the slot kept warm; with `keeps` not what it had fetched by content."""
    for partition in range(len(stage.names)):
        base = _base(stage, slot, partition)
        for path in [*base.iterdir()] if base.is_dir() else ():
            if path.name != "files" and discard(path):
                shutil.rmtree(path, ignore_errors=True)  # half a store, which is none
        if not keeps:
            shutil.rmtree(base, ignore_errors=True)


def _base(stage: Stage, slot: str, partition: int) -> Path:
    return stage.folder / f".standby-{slot}-{stage.names[partition]}"
