"""Checkpoints of what a worker owns, made beside its work.

After a flush, of a partition whose turn it is:

    1 snapshot   on the worker's thread: the store's files are linked into a folder beside it, in milliseconds
    2 save       on a thread of its own: new files travel, then the manifest
    3 prune      there, too: older Checkpoints go, and files that nobody names

A crash after 1 leaves a folder that the next start removes; in 2, files that a later prune removes. One partition is
under way at a time, so that this costs one disk's or network's bandwidth and no more.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from forebay.clock import now_ms
from forebay.errors import CheckpointError, StoreError
from forebay.store.checkpoints import Checkpoint, Checkpoints, about
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.stage import Stage
from forebay.telemetry import emit

CLOSE_S = 1.0  # what is under way at the end is left behind: the one before it is whole
AGAIN_S = 30.0  # after one that failed
log = logging.getLogger("forebay.checkpoints")
Runner = Callable[[Callable[[], None]], None]


class Keeper:
    """Called by a worker, from its thread."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        stage: Stage,
        options: WorkerOptions,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`run` does what takes long, by default on a thread of its own."""
        self._checkpoints, self._stage, self._clock, self._wall_ms = checkpoints, stage, clock, wall_ms
        self._every_s, self._kept = options.checkpoint_every_s, options.checkpoints_kept
        self._due: dict[int, float] = {}
        self._offsets: dict[int, int] = {}  # of the Checkpoint made last
        self._thread: threading.Thread | None = None
        self.run: Runner = self._on_a_thread

    def opened(self, partition: int, newest_ms: int | None) -> None:
        """A partition was opened whose newest Checkpoint was made at `newest_ms`. 0: there is none; None: nobody asked,
        and what was due stays so."""
        self._offsets.pop(partition, None)
        if newest_ms is None:
            self._due.setdefault(partition, self._clock())
            return
        # Another machine made it, and its clock may be ahead of this one's.
        age_s = max(0.0, (self._wall_ms() - newest_ms) / 1000)
        self._due[partition] = self._clock() + max(0.0, self._every_s - age_s)

    def flushed(self) -> None:
        """All that is committed is in the stores: begin a Checkpoint where one is due."""
        if self._thread is not None and self._thread.is_alive():
            return
        now = self._clock()
        due = sorted((self._due.get(p, now), p) for p in self._stage.partitions)
        for since, partition in due:
            offset = self._stage.partitions[partition].meta.offset
            if since <= now and offset != self._offsets.get(partition):
                self._begin(partition, offset)
                return

    def close(self) -> None:
        """Wait a moment for what is under way."""
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _begin(self, partition: int, offset: int) -> None:
        stage, owned = self._stage, self._stage.partitions[partition]
        name, started = stage.names[partition], time.perf_counter()
        folder = stage.folder / f".snapshot-{os.getpid()}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        self._due[partition] = self._clock() + self._every_s
        self._offsets[partition] = offset
        try:
            made = about(f"{stage.scope}/{name}", owned.snapshot(folder), self._wall_ms())
        except StoreError as error:  # a full disk: the store itself is asked again by its next flush
            self._failed(partition, f"{stage.scope}/{name}", offset, error)
            return
        self.run(lambda: self._save(partition, folder, made, started))

    def _save(self, partition: int, folder: Path, made: Checkpoint, started: float) -> None:
        try:
            saved = self._checkpoints.save(folder, made)
        except CheckpointError as error:
            self._failed(partition, made.of, made.offset, error)
        else:
            self._prune(made.of)
            emit(
                "checkpoint", stage=self._stage.name, partition=partition, offset=made.offset,
                bytes=saved.checkpoint.bytes, new_bytes=saved.new_bytes, seconds=time.perf_counter() - started,
            )  # fmt: skip
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _prune(self, of: str) -> None:
        try:
            self._checkpoints.prune(of, self._kept)
        except CheckpointError as error:  # the Checkpoint is made all the same; the next one tries again
            log.warning("older checkpoints of %s stay: %s", of, error)

    def _failed(self, partition: int, of: str, offset: int, error: StoreError) -> None:
        log.warning("no checkpoint of %s at offset %d: %s", of, offset, error)
        emit("checkpoint_failed", stage=self._stage.name, partition=partition)
        self._due[partition] = self._clock() + min(AGAIN_S, self._every_s)
        self._offsets.pop(partition, None)

    def _on_a_thread(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=work, name=f"checkpoint-{self._stage.name}", daemon=True)
        self._thread.start()
