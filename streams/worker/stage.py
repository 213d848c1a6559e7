"""What a worker runs: one stage of the river. A Stage takes records and returns what they become; it knows no Kafka."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from forebay.store.census import Census
from forebay.streams.worker.batch import Outcome, PartitionBatch, Record
from forebay.streams.worker.source import Source


class Meta(Protocol):
    """Where one partition stands: `offset` is the next record to read, and all that the sources took before `as_of`
    (ms) is applied."""

    @property
    def offset(self) -> int: ...

    @property
    def as_of(self) -> int: ...


class Owned(Protocol):
    """One partition that the stage has open, and its state."""

    @property
    def meta(self) -> Meta: ...

    def census(self) -> Census:
        """What it holds now. Called about once a second, between two batches, on the stage's thread: it may look at all
        rows, and reads no store."""

    def advance(self, offset: int, as_of: int) -> None:
        """All below `offset` is applied, and with it what the sources took before `as_of` (ms; 0 claims nothing
        new)."""

    def move(self, path: Path) -> None:
        """Give its store, which is open, the folder `path`, which must not exist; what is in memory stays. Raises
        StoreError, or OSError: it is of no use then. A crash leaves a whole store at one of the two."""

    def snapshot(self, folder: Path) -> Meta:
        """Make `folder`, which must not exist, a copy of the store, and return what that is of: what was folded since
        the last `flush` is not in it."""


class Guard(Protocol):
    """Says which source topics are to stand still. The worker's thread, but for `paused`."""

    @property
    def paused(self) -> Mapping[str, str]:
        """Topics that are to stand still, each with why, for people. From any thread."""

    def due(self) -> Sequence[str]:
        """Those of which it is time to see what waits."""

    def look(self, topic: str, batches: Sequence[PartitionBatch], ends: Mapping[int, int]) -> None:
        """Some of the newest records that wait, by partition: to be judged, and neither told nor remembered. If the
        topic is not paused after it, all partitions go on, and below `ends` all was known to wait. `ends` are empty
        where another worker has all of them."""

    def resume(self, topic: str, ends: Mapping[int, int]) -> None:
        """An operator wants it to go on. One that is not paused stays as it is."""


class Stage(Protocol):
    """A worker calls it from one thread, and knows a partition by its number among the sources.

    The order of calls for a partition is `open`, any number of `apply` and `flush`, `close`. If `apply` raises, or what
    it gave is not committed, every partition is closed and opened again: whatever it did in memory is gone by that.
    """

    @property
    def name(self) -> str:
        """One word, for metrics: intake, user, item."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def folder(self) -> Path:
        """Where the stores are."""

    @property
    def names(self) -> Sequence[str]:
        """What the store of each partition is called, by the partition's number."""

    @property
    def scope(self) -> str:
        """Whose the state is, for the names of Checkpoints: a generation's, or that of all: @intake."""

    @property
    def needs_all(self) -> bool:
        """Whether state is of the whole log: then nothing may be missing between it and the log's first record."""

    @property
    def guard(self) -> Guard | None:
        """What may stop a source; None where nothing does."""

    @property
    def follows(self) -> str | None:
        """A topic that is read whole, whichever partitions are owned; None where there is none."""

    @property
    def partitions(self) -> Mapping[int, Owned]:
        """Those that are open."""

    def memory(self) -> Mapping[str, int]:
        """Bytes in memory that no partition has, by what they are of."""

    def warm(self) -> None:
        """Compile what a batch runs, before the first one waits for it."""

    def open(
        self, partition: int, source: Source, offset: int, *, create: bool = True, folder: Path | None = None
    ) -> Owned:
        """Take over a partition: its store as it is, or with `create` an empty one that starts at `offset`. It lies in
        `folder`; without one, in the stage's own, under its name."""

    def close(self, partition: int) -> None:
        """Let go of a partition without writing."""

    def twin(self) -> Stage | None:
        """Another one of its kind, for one partition that is not owned here, to be called from another thread; None
        where the state of one would take too much memory beside that of those that are owned."""

    def adopt(self, partition: int, twin: Stage) -> Owned:
        """Take over a partition as its `twin` has it open, which is not called any more."""

    def flush(self) -> None:
        """Write every open partition. Called only between a commit and the next `apply`."""

    def waits(self, batches: Sequence[PartitionBatch]) -> Mapping[int, str]:
        """Partitions whose batch cannot be applied now, though it may be later, and why. Called before `apply`, which
        gets the other batches. Comes back within a second or so."""

    def apply(
        self,
        batches: Sequence[PartitionBatch],
        as_of: Mapping[int, int] = {},
        *,
        aloud: bool = True,
        encode_s: float = math.inf,
    ) -> Outcome:
        """What batches become. After it state is past them, and as of `as_of` (ms) in those partitions that it names.

        Without `aloud` the log has been told before: state moves, and nothing is to be told. What takes more than about
        `encode_s` of encoding is put off: the outcome says that something waits, and a later call goes on with it.
        """

    def learn(self, batches: Sequence[PartitionBatch]) -> None:
        """Records of the followed topic, by its own partitions, each once and in order. Before a partition is applied
        aloud, all that the topic had by then was learnt."""

    def withheld(self, batch: PartitionBatch) -> Outcome:
        """What stands in the log for the one record of `batch`, whose outcome the broker refuses for its content.
        Raises TopicMismatch where there is nothing to leave out."""

    def beat(self, now_ms: int) -> list[Record]:
        """What is told every second or so beside what batches become."""

    def note(self, partition: int) -> str:
        """What the group keeps beside the partition's offset; "" for nothing."""
