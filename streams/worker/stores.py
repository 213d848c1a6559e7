"""Where a stage's state is found: in a folder of this machine, else in a Checkpoint.

The store of `user-3` lies in a folder of that name, or in `user-3~1`, `user-3~2`, …: where another process has the
folder open and does not let go of it (it is paused, and its partitions were given away), its successor takes the next
name, and fills it from a Checkpoint. Whoever opens a partition takes the folder that has come furthest, and removes the
others that nobody has open. A Checkpoint never replaces a folder in place: a process that was paused while it fetched
one would wake up and replace what its successor writes to.

    .arriving-PID-user-3   a Checkpoint on its way; it gets a store's name when it is whole
    .damaged-user-3        a store that did not open, and that a Checkpoint took the place of
    .snapshot-PID-user-3   a copy on its way to a Checkpoint
    .standby-SLOT-user-3   what is kept warm of a partition that another worker owns (standby.py)
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from forebay.clock import now_ms
from forebay.errors import CheckpointError, StoreCorrupt, StoreError, StoreLocked, StoreMissing
from forebay.store.checkpoints import Checkpoint, Checkpoints
from forebay.store.rocks import discard
from forebay.streams.worker.refusals import no_state
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Owned, Stage
from forebay.streams.worker.standby import Warm
from forebay.telemetry import emit

# A Checkpoint is fetched where it has come so much further than the folder: folding ten minutes takes about as long.
WORTH_MS = 600_000
_NUMBERS = count()
SILENCE_S = 60.0  # a place from which nothing arrives for so long is given up
log = logging.getLogger("forebay.worker")


@dataclass(frozen=True)
class Found:
    """What there is of a partition: its store, open, or None; its Checkpoints, the furthest first, None where nobody
    has asked for them; and what was kept warm of it, where that is to be used."""

    owned: Owned | None
    checkpoints: Sequence[Checkpoint] | None
    warm: Warm | None = None

    @property
    def newest_ms(self) -> int | None:
        """When the last Checkpoint was made; 0 where there is none, None where nobody has asked."""
        return None if self.checkpoints is None else max((one.created for one in self.checkpoints), default=0)


class Stores:
    """Opens the stores of one stage. One thread at a time."""

    def __init__(self, stage: Stage, checkpoints: Checkpoints | None, wall_ms: Callable[[], int] = now_ms) -> None:
        """Without `checkpoints`, what is not in a folder of this machine is folded from the log."""
        self._stage, self._checkpoints, self._wall_ms = stage, checkpoints, wall_ms
        self._sweep()

    def check(self) -> None:
        """Raise StoreMissing where the state of a partition is nowhere, and not in the log either: nothing is joined by
        then. Raises CheckpointError where the place of Checkpoints does not answer."""
        missing = [name for name in self._stage.names if not any(self._folders(name))]
        if not missing or not self._stage.needs_all or self._checkpoints is None:
            return
        kept = self._checkpoints.of_scope(self._stage.scope)
        for name in missing:
            if self._of(name) not in kept:
                raise self._nowhere(name)

    def find(
        self, partition: int, source: Source, turned: Callable[[], None], stop: threading.Event,
        warm: Warm | None = None,
    ) -> Found:  # fmt: skip
        """What there is of a partition, before anything is taken from anybody; Checkpoints are asked for where no store
        is, and nothing is `warm`. `turned` is called while they are waited for. One that was followed goes before the
        folders of this machine, which are of earlier; one that was only fetched goes behind them.

        Raises StoreMissing where there is nothing and all is needed, StoreLocked or StoreCorrupt where the folder is of
        no use and no Checkpoint can take its place, CheckpointError, and the errors of Stage.open.
        """
        name, refused = self._stage.names[partition], None
        if warm is not None and warm.followed:
            return Found(None, None, warm)
        try:
            if (owned := self._open_furthest(partition, source)) is not None:
                if warm is not None:
                    warm.discard()
                return Found(owned, None)
        except (StoreLocked, StoreCorrupt) as error:
            refused = error
        if warm is not None:
            if type(refused) is StoreCorrupt:
                self._set_aside(Path(refused.where))
            return Found(None, None, warm)
        kept = self._kept(name, source, turned, stop)
        if stop.is_set():
            return Found(None, ())
        if refused is not None:
            # What needs no more than the log begins beside a folder that is locked; one that is damaged is a loss.
            by_the_log = self._checkpoints is not None and not self._stage.needs_all and type(refused) is StoreLocked
            if not kept and not by_the_log:
                raise refused
            log.error("%s: %s", source, refused)
            if type(refused) is StoreCorrupt:
                self._set_aside(Path(refused.where))
        elif not kept and self._stage.needs_all and self._checkpoints is not None:
            raise self._nowhere(name)
        return Found(None, kept)

    def take(
        self, partition: int, source: Source, found: Found, done: int | None, first: int, turned: Callable[[], None],
        stop: threading.Event,
    ) -> Found:  # fmt: skip
        """The partition's store, open: what was found here, or the Checkpoint where it is worth its way. None where
        there is neither. The group is at `done`, and the log begins at `first`; `turned` is called while it arrives.

        Raises CheckpointError where what is needed does not arrive.
        """
        if found.warm is not None:
            if (used := self._used(partition, source, found.warm, done, first)) is not None:
                return Found(used, [found.warm.checkpoint])
            found = self.find(partition, source, turned, stop)
        owned, kept = found.owned, found.checkpoints
        here = owned is not None and owned.meta.offset >= first
        if owned is not None and kept is None:
            # No Checkpoint has come further than the group, nor is of later than now.
            if here and (owned.meta.offset >= (done or 0) or owned.meta.as_of + WORTH_MS >= self._wall_ms()):
                return found
            try:
                kept = self._kept(self._stage.names[partition], source, turned, stop)
            except CheckpointError as error:
                if not here:
                    raise
                log.warning("%s: goes on with the state that is here: %s", source, error)
                return found
        at = -1 if owned is None else owned.meta.offset
        # Others have nothing that is not here, or are of before the group was set back.
        ahead = [one for one in kept or () if at < one.offset and (done is None or one.offset <= done)]
        if not ahead or (here and owned is not None and owned.meta.as_of + WORTH_MS >= ahead[0].as_of):
            return Found(owned, kept)
        self._stage.close(partition)
        refused = None
        for one in ahead:
            try:
                return Found(self._bring(partition, source, one, turned, stop), kept)
            except CheckpointError as error:
                log.warning("%s: %s", source, error)
                refused = refused or error
        if here:
            return Found(self._open_furthest(partition, source), kept)
        assert refused is not None
        raise refused

    def make(self, partition: int, source: Source, offset: int) -> Owned:
        """An empty store, which begins at `offset`."""
        path = self._unused(self._stage.names[partition])
        return self._stage.open(partition, source, offset, folder=path)

    def _used(self, partition: int, source: Source, warm: Warm, done: int | None, first: int) -> Owned | None:
        """The store that was kept warm, under a name of the partition's; the other folders go. None where it is of no
        use: it is thrown away."""
        path = self._unused(self._stage.names[partition])
        if warm.source != source or done is None or not first <= warm.offset <= done:
            log.warning("%s: what was kept warm is of another log, and is left", source)
            warm.discard()
            return None
        try:
            if warm.twin is None or (owned := warm.owned) is None:
                os.rename(warm.folder, path)
                owned = self._stage.open(partition, source, 0, create=False, folder=path)
            else:
                owned.move(path)
                owned = self._stage.adopt(partition, warm.twin)
        except (StoreError, OSError) as error:
            log.warning("%s: what was kept warm is of no use: %s", source, error)
            warm.discard()
            shutil.rmtree(path, ignore_errors=True)
            return None
        self._remove(other for other in self._folders(self._stage.names[partition]) if other != path)
        log.info("%s: was kept warm, %d offsets behind the group", source, done - owned.meta.offset)
        emit("standby_used", stage=self._stage.name, partition=partition, behind=done - owned.meta.offset)
        return owned

    # -- folders

    def _open_furthest(self, partition: int, source: Source) -> Owned | None:
        """The store that has come furthest of those that nobody else has open; the others of those go."""
        stage, name = self._stage, self._stage.names[partition]
        offsets: dict[Path, int] = {}
        refused: StoreLocked | StoreCorrupt | None = None
        paths = sorted(self._folders(name))
        for path in paths:
            try:
                owned = stage.open(partition, source, 0, create=False, folder=path)
            except StoreMissing:
                continue
            except (StoreLocked, StoreCorrupt) as error:
                refused = error
                continue
            if len(paths) == 1:
                return owned
            offsets[path] = owned.meta.offset
            stage.close(partition)
        if not offsets:
            if refused is not None:
                raise refused
            return None
        furthest = max(offsets, key=lambda path: offsets[path])
        self._remove(path for path in offsets if path != furthest)
        return stage.open(partition, source, 0, create=False, folder=furthest)

    def _folders(self, name: str) -> Iterator[Path]:
        """Those of a store by this name that were ever written to."""
        for path in (self._stage.folder / name, *self._stage.folder.glob(f"{name}~*")):
            if (path / "CURRENT").exists():
                yield path

    def _unused(self, name: str) -> Path:
        numbers = count(1)
        path = self._stage.folder / name
        while path.exists() and any(path.iterdir()):
            path = self._stage.folder / f"{name}~{next(numbers)}"
        return path

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if discard(path):
                log.info("%s: removed, another folder has come further", path)

    def _set_aside(self, path: Path) -> None:
        aside = path.with_name(f".damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
        log.error("%s is kept as %s, for whoever wants to know why", path, aside.name)

    def _sweep(self) -> None:
        """Remove what a process that was killed left on its way."""
        for path in self._stage.folder.glob(".*-*-*"):
            kind, pid, _ = path.name.split("-", 2)
            if kind in (".arriving", ".snapshot") and pid.isdigit() and not _runs(int(pid)):
                shutil.rmtree(path, ignore_errors=True)

    # -- Checkpoints

    def _kept(self, name: str, source: Source, turned: Callable[[], None], stop: threading.Event) -> list[Checkpoint]:
        """The Checkpoints of a store that can be read and are of this very topic, the furthest first."""
        if (checkpoints := self._checkpoints) is None:
            return []
        found = []

        def ask(heard: Callable[[], None]) -> None:
            for manifest in checkpoints.names(self._of(name)):
                heard()
                try:
                    one = checkpoints.load(self._of(name), manifest)
                except CheckpointError as error:
                    log.warning("%s: %s", source, error)
                    continue
                if one.topic_id == source.topic_id:
                    found.append(one)

        _asked(checkpoints.url, ask, turned, stop)
        return list(found)

    def _bring(
        self, partition: int, source: Source, kept: Checkpoint, turned: Callable[[], None], stop: threading.Event
    ) -> Owned | None:
        assert self._checkpoints is not None
        name, started = self._stage.names[partition], time.perf_counter()
        # The number: one that was given up may still be written to.
        arriving = self._stage.folder / f".arriving-{os.getpid()}-{next(_NUMBERS)}.{name}"
        checkpoints = self._checkpoints
        _asked(checkpoints.url, lambda heard: checkpoints.fetch(kept, arriving, lambda size: heard()), turned, stop)
        if stop.is_set():
            return None
        path = self._unused(name)
        os.rename(arriving, path)
        try:
            owned = self._stage.open(partition, source, 0, create=False, folder=path)
        except StoreCorrupt as error:  # its files are what was written, and do not fit together
            discard(path)
            raise CheckpointError(f"{kept.name} does not open: {error.what}", where=checkpoints.url) from None
        self._remove(other for other in self._folders(name) if other != path)
        seconds = time.perf_counter() - started
        log.info("%s: %.1f MB came from a checkpoint in %.2f s", source, kept.bytes / 1e6, seconds)
        emit("fetched", stage=self._stage.name, partition=partition, bytes=kept.bytes, seconds=seconds)
        return owned

    def _of(self, name: str) -> str:
        return f"{self._stage.scope}/{name}"

    def _nowhere(self, name: str) -> StoreMissing:
        assert self._checkpoints is not None
        return no_state(name, str(self._stage.folder), self._checkpoints.url)


def _asked(
    url: str, ask: Callable[[Callable[[], None]], None], turned: Callable[[], None], stop: threading.Event
) -> None:
    """Ask the place at `url` on another thread: one that does not answer must not keep this one. `ask` calls what it is
    given whenever something has arrived. Ends early when `stop` is set. Raises what `ask` raises, and CheckpointError
    after a minute of silence."""
    heard_at, failed = [time.monotonic()], list[BaseException]()

    def heard() -> None:
        heard_at[0] = time.monotonic()
        if stop.is_set() or given_up.is_set():
            raise CheckpointError("nobody waits for it any more", where=url)

    def run() -> None:
        try:
            ask(heard)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    given_up = threading.Event()
    thread = threading.Thread(target=run, name="checkpoints", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(0.2)
        turned()
        if thread.is_alive() and time.monotonic() - heard_at[0] > SILENCE_S:
            given_up.set()
            raise CheckpointError(
                f"nothing arrived for {SILENCE_S:.0f} s", where=url, do="Can this machine reach the place?"
            )
    if failed and not stop.is_set():
        raise failed[0]


def _runs(pid: int) -> bool:
    if pid == os.getpid():  # in a container every process has this number
        return False
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
