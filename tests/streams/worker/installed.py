"""An installation over the memory log: a clean log of two partitions, and workers of its user side."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from forebay.events import Behaviour
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.store.checkpoints import Checkpoints, about
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source

TOPICS, NOW = Topics("t."), 1_790_000_000_000
TOPIC = TOPICS.events("user")
OPTIONS = WorkerOptions(poll_s=0, flush_batches=1, checkpoint_every_s=60, heartbeat_interval_s=1e9)
NEVER = threading.Event()


@dataclass
class Installation:
    """A log with a clean log of two partitions, and workers of its user side."""

    bundle: Bundle
    folder: Path
    log: MemoryLog = field(init=False)
    now_ms: int = NOW
    sent: int = 0
    options: WorkerOptions = OPTIONS

    def __post_init__(self) -> None:
        self.log = MemoryLog(lambda: self.now_ms)
        self.log.create(TOPIC, 2)
        self.log.create(TOPICS.vectors("g1", "user"), 2)
        self.place = self.folder / "kept"
        built = self.processor(self.folder / "built")
        for partition, name in enumerate(built.names):
            owned = built.open(partition, Source(TOPIC, partition, TOPIC), 0)
            owned.snapshot(self.folder / "copy")
            Checkpoints(str(self.place)).save(self.folder / "copy", about(f"g1/{name}", owned.meta, self.now_ms))
            shutil.rmtree(self.folder / "copy")
            built.close(partition)

    def send(self, count: int) -> None:
        """So many more behaviours, of eight users."""
        for _ in range(count):
            event = Behaviour(f"u{self.sent % 8}", "i1", "rate", 3.0, self.now_ms, f"e{self.sent}", {"genres": ["a"]})
            block = block_of([event], [self.now_ms], [self.sent], [0], ("s/0",))
            (partition,) = partitions_of([event.user.encode()], 2).tolist()
            for header, value in block.encode():
                self.log.append(Sent(TOPIC, partition, None, value, ((HEADER, header),)))
            self.sent += 1

    def processor(self, folder: Path) -> Processor:
        return Processor(self.bundle, "user", TOPICS, "g1", 2, folder)

    def worker(self, folder: Path, slot: str = "a", *, place: Path | None = None, plain: bool = False) -> Worker:
        """One that has joined; it makes its Checkpoints at once. A `plain` one knows none."""
        transport = MemoryTransport(
            self.log,
            [TOPIC],
            TOPICS.group("g1", "user"),
            replace(self.options, slot=slot),
            clock=self.clock,
            moment=lambda: self.now_ms,
        )
        made = Worker(
            self.processor(folder), transport, replace(self.options, slot=slot),
            None if plain else Checkpoints(str(place or self.place)), clock=self.clock, wall_ms=lambda: self.now_ms,
        )  # fmt: skip
        if made.keeper is not None:
            made.keeper.run = lambda work: work()
        made.join(NEVER)
        return made

    def clock(self) -> float:
        return self.now_ms / 1000

    def turn(self, worker: Worker, *, times: int = 6, each_ms: int = 1_000) -> None:
        for _ in range(times):
            worker.turn()
            self.now_ms += each_ms

    def kill(self, worker: Worker) -> None:
        """kill -9, and its session ends."""
        for partition in list(worker.stage.partitions):
            worker.stage.close(partition)
        if worker.standby is not None:
            worker.standby.let_go()
        self.forget(worker)

    def forget(self, worker: Worker) -> None:
        """The session of a worker ends, whatever it does itself."""
        for member in list(self.log.group(TOPICS.group("g1", "user"), 2).members):
            if member is worker._transport.member:  # type: ignore[attr-defined]
                self.log.leave(member)


Digests = Callable[[Worker], Mapping[int, str]]
Undisturbed = Callable[[], Mapping[int, str]]
