"""A source that stands still in a whole worker, over the memory transport: nothing of it is lost, told or claimed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.errors import BrokerError
from forebay.events import Behaviour, ItemUpdate, Tick, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.spec import SIDES
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.breaker import BreakerOptions
from forebay.streams.intake.guard import SourceGuard
from forebay.streams.intake.intake import Intake
from forebay.streams.intake.note import as_of, note_of
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent, Write
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker import paused
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source
from forebay.streams.worker.watchdog import Watchdog

TOPICS = Topics("t.")
COUNTS = {TOPICS.behaviour: 2, TOPICS.item_updates: 1}
STOP = threading.Event()


class World:
    """An Intake's worker over a log in memory; its clocks are this one's."""

    def __init__(self, folder: Path) -> None:
        self.now_ms, self.sent = 1_790_000_000_000, 0
        self.log = MemoryLog(lambda: self.now_ms)
        for topic, count in (*COUNTS.items(), *((TOPICS.events(side), 1) for side in SIDES)):
            self.log.create(topic, count)
        self.log.create(TOPICS.catalogue, 1)
        self.log.create(TOPICS.dead_letters, 1)
        sources = [Source(topic, p, topic) for topic, count in COUNTS.items() for p in range(count)]
        self.breaker = BreakerOptions(records=100)
        self.intake = Intake(TOPICS, sources, {"user": 1, "item": 1}, folder, breaker=self.breaker)
        assert self.intake.guard is not None
        self.intake.guard = SourceGuard(
            sources, self.intake._acceptor, self.breaker, clock=self.clock, wall_ms=lambda: self.now_ms
        )
        options = WorkerOptions(batch_records=80)
        self.transport = MemoryTransport(
            self.log, list(COUNTS), "group", options, moment=lambda: self.now_ms, clock=self.clock,
            follows=TOPICS.catalogue,
        )  # fmt: skip
        self.worker = Worker(self.intake, self.transport, options, clock=self.clock, wall_ms=lambda: self.now_ms)
        self.worker.join(STOP)
        self.turns(3)

    def clock(self) -> float:
        return self.now_ms / 1000

    def send(self, count: int, *, bad: bool = False, partition: int = 0) -> None:
        for _ in range(count):
            self.sent += 1
            event = Behaviour("u", "i", "rate", 1.0, self.now_ms, f"e{self.sent}")
            self.log.append(Sent(TOPICS.behaviour, partition, b"u", b"{" if bad else encode(event)))

    def update(self) -> None:
        self.sent += 1
        self.log.append(Sent(TOPICS.item_updates, 0, b"i", encode(ItemUpdate("i", {}, self.now_ms, f"e{self.sent}"))))

    def turns(self, count: int, pass_ms: int = 1100) -> None:
        for _ in range(count):
            self.now_ms += pass_ms
            self.worker.turn()

    def offsets(self) -> dict[int, int]:
        return dict(self.log.group("group", 3).offsets)

    def as_of(self) -> int:
        """What the clean log is as of, by the notes."""
        return as_of(self.log.group("group", 3).notes.get(p) for p in range(3))

    def told(self, side: str) -> Counter[str | None]:
        """Ids in a clean log."""
        records = self.log.records(TOPICS.events(side), 0)
        events = [e for r in records for e in events_of(Block.decode(dict(r.headers)[HEADER], r.value or b""))]
        return Counter(e.id for e in events if not isinstance(e, Tick))

    def letters(self) -> list[tuple[int, int]]:
        """Partition and offset of the record of each."""
        found = [DeadLetter.from_record(r.key, r.value, r.headers) for r in self.log.records(TOPICS.dead_letters, 0)]
        return [(d.partition, d.offset) for d in found]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """With nothing in its sources."""
    made = World(tmp_path)
    yield made
    for partition in list(made.intake.partitions):
        made.intake.close(partition)


def test_a_broken_source_stands_still_and_the_others_go_on(world: World) -> None:
    """Two windows and a batch of dead letters at most; its other partition stands still, too, and the worker says so
    and is not ended for it."""
    world.send(50)
    world.send(5000, bad=True)
    world.send(10, partition=1)
    dog = Watchdog(world.worker, 60.0, world.clock)
    world.turns(6)
    assert "is paused" in world.worker.paused() and TOPICS.behaviour in world.worker.paused()
    stood = world.offsets()
    assert len(world.letters()) == stood[0] - 50 <= 2 * 100 + 80
    for _ in range(3):
        world.update()
        world.send(20, partition=1)
        world.turns(5, 10_000)
        dog.check()
    assert world.offsets() == stood | {2: 3}
    assert world.told("item").total() == 3 + world.told("user").total()


def test_as_of_stands_still_with_what_was_not_read(world: World) -> None:
    """Law 5: whatever the other sources do, and whatever is looked at meanwhile, nothing claims more than the last
    record that was read."""
    world.send(50)
    world.turns(3)
    assert world.as_of() > world.now_ms - 3 * 1100
    world.send(5000, bad=True)
    world.turns(6)
    assert world.worker.paused()
    newest = max(r.append_time for r in world.log.records(TOPICS.behaviour, 0)[: world.offsets()[0]])
    for _ in range(30):
        world.update()
        world.send(1, bad=True)
        world.turns(2, 20_000)
        assert world.as_of() <= newest < world.now_ms - 20_000
    note = note_of(world.log.group("group", 3).notes[0])
    other = note_of(world.log.group("group", 3).notes[2])
    assert note is not None and 0 < note.paused < world.now_ms - 600_000
    assert other is not None and other.paused == 0 and other.as_of > world.now_ms - 45_000


def test_a_source_whose_newest_records_are_good_goes_on_by_itself(world: World) -> None:
    """Every record that waited is an event or a dead letter, once; and `as_of` catches up."""
    world.send(300, bad=True)
    world.turns(3)
    assert world.worker.paused()
    read = dict(world.offsets())
    world.send(110)
    world.turns(1)
    assert world.offsets() == read
    world.turns(40, 2000)
    assert not world.worker.paused()
    assert sorted(world.letters()) == [(0, n) for n in range(300)]
    assert sorted(world.told("user").values()) == [1] * 110
    assert world.as_of() > world.now_ms - 3 * 2000


def test_a_source_goes_on_by_command(world: World) -> None:
    """From another thread, through all that waits; and stands still again if it is still broken after that."""
    world.send(1000, bad=True)
    world.turns(4)
    assert world.worker.paused() and not world.worker.resume("t.nothing")
    assert not world.worker.resume(TOPICS.item_updates)
    assert world.worker.resume(TOPICS.behaviour)
    world.turns(25)
    assert not world.worker.paused() and len(world.letters()) == 1000
    assert not world.worker.resume(TOPICS.behaviour)
    world.send(400, bad=True)
    world.turns(5)
    assert world.worker.paused() and len(world.letters()) < 1400


def test_a_commit_that_fails_does_not_let_a_source_go_on(world: World) -> None:
    """State is dropped and read again; what stands still stays so, at the group's offset."""
    world.send(3000, bad=True)
    refuse = world.log._refusal

    def aborted(write: Write) -> BrokerError | None:
        world.log._refusal = refuse  # type: ignore[method-assign]
        return BrokerError("aborted", where="memory")

    world.turns(3)
    assert world.worker.paused()
    stood = world.offsets()
    world.log._refusal = aborted  # type: ignore[method-assign]
    world.update()
    world.turns(8)
    assert "is paused" in world.worker.paused()
    assert world.offsets() == stood | {2: 1} and len(world.letters()) == stood[0]
    assert world.told("item").total() == 1


def test_a_partition_that_comes_back_stands_still_at_once(world: World) -> None:
    """Another member had it for a while."""
    world.send(3000, bad=True)
    world.turns(3)
    stood = world.offsets()
    world.worker.revoked([0])
    world.transport.hold([0])
    world.worker.assigned([0])
    world.turns(5)
    assert world.offsets() == stood and 0 in world.intake.partitions


def test_a_source_that_is_another_workers_now_is_no_longer_this_ones_to_stop(world: World) -> None:
    """Nor does this one say that it waits for it."""
    world.send(3000, bad=True)
    world.turns(3)
    world.worker.revoked([0, 1])
    world.transport.hold([0, 1])
    world.turns(1, 31_000)
    assert not world.worker.paused()


def test_a_sample_is_of_few_partitions_and_of_the_newest_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits: by how much of it is in each."""
    monkeypatch.setattr(paused, "SAMPLE", 20)
    asked: list[tuple[int, int, int]] = []
    read = world.transport.read

    def noted(partition: int, start: int, end: int, most: int, stop: threading.Event) -> object:
        asked.append((partition, start, end))
        return read(partition, start, end, most, stop)

    monkeypatch.setattr(world.transport, "read", noted)
    world.send(160, bad=True)
    world.turns(3)
    assert asked == [] and world.worker.paused() and world.offsets()[0] == 160
    world.send(900, bad=True)
    world.send(100, bad=True, partition=1)
    world.turns(1)
    world.turns(1, 31_000)
    assert asked == [(0, 160 + 900 - 18, 160 + 900), (1, 98, 100)]
    monkeypatch.setattr(paused, "PARTITIONS", 1)
    asked.clear()
    world.turns(1, 61_000)
    assert asked == [(0, 160 + 900 - 20, 160 + 900)]
