"""A whole installation in one thread: a log in memory, processes with a worker of each stage, a serving node, and
producers, under one seed.

What happens next is drawn from the seed alone: records come, workers take turns, processes crash at any point, pause
and wake up, join and leave, a broker goes away, time jumps, a commit lands early or late. In the end everything is
mended and drained, and what is left is judged (remains.py). A seed replays exactly.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forebay.clock import HOUR_MS, MINUTE_MS
from forebay.errors import BrokerError, Fenced, ForebayError
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, Tick, UserProfile, encode
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side
from forebay.store.checkpoints import Checkpoints, about
from forebay.store.generation import Generation
from forebay.streams.intake.breaker import BreakerOptions
from forebay.streams.intake.guard import SourceGuard
from forebay.streams.intake.note import as_of
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import Group, MemoryLog, Sent, Write
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source

from ..segments import naive
from .crashing import CrashingIntake, CrashingProcessor
from .joins import Joins
from .node import Node
from .remains import Place, Remains, check_ages, check_claims

PARTITIONS = 2  # of the clean logs
SOURCES = {"s.behaviour": 3, "s.item-updates": 1}  # sources may be partitioned otherwise
STAGES = ("intake", *SIDES)
START_MS = 1_790_000_000_000
TOPICS = Topics("s.")
GENERATION = "g1"
# What a process may end by: it lost a race for a slot. Anything else is a failure.
BY_NAME = (Fenced,)
MOST_TURNS = 600  # until everything is done, when nothing goes wrong any more


class Crash(BaseException):
    """kill -9. No `except Exception` sees it."""


@dataclass(eq=False)
class Process:
    """A process in a slot: its state lies in `folder`. `workers` is empty while it does not run; a paused one takes no
    turn, and does not know that its sessions end."""

    slot: str
    folder: Path
    workers: dict[str, tuple[Worker, MemoryTransport]] = field(default_factory=dict)
    paused: bool = False
    crash_in: int = 0  # points to go; 0: none is planned

    @property
    def running(self) -> bool:
        return bool(self.workers)


class World:
    """One run. `shared` says whether the processes are on one machine, with one state folder. One that `breaks` has
    producers whose schema breaks, and an Intake that lets their source stand still. In a `warm` one each process keeps
    the other one's state warm."""

    def __init__(
        self, seed: int, bundle: Bundle, encoders: Mapping[Side, SideEncoders], folder: Path, built: Path, *,
        breaks: bool = False, warm: bool = False,
    ) -> None:  # fmt: skip
        """`built` are the Checkpoints that a backfill of no history left (`keep_nothing`)."""
        self.pick, self.breaks = random.Random(seed), breaks
        self.actions = ACTIONS | ({"garble": 8, "resume": 3} if breaks else {}) | (LOSSES if warm else {})
        self.now_ms = START_MS
        self.bundle, self._encoders = bundle, encoders
        self.log = MemoryLog(lambda: self.now_ms, max_record_bytes=3_000)
        for topic, count in SOURCES.items():
            self.log.create(topic, count)
        for side in SIDES:
            self.log.create(TOPICS.events(side), PARTITIONS)
            self.log.create(TOPICS.vectors(GENERATION, side), PARTITIONS)
        self.log.create(TOPICS.dead_letters, 1)
        self.log.create(TOPICS.catalogue, PARTITIONS)
        sources = [f"{topic}/{p}" for topic, count in SOURCES.items() for p in range(count)]
        self.joins = Joins(TOPICS, {name: number for number, name in enumerate(sources)})
        self.log.landed.append(lambda write: self.joins.check(self.group("intake"), write))
        self.log.landed.append(lambda write: check_claims(self.log, TOPICS, GENERATION, self.group("intake"), write))
        self.shared = self.pick.random() < 0.5
        hurry = random.Random(seed)  # of its own: else each seed of the past would be another run
        self.options = {
            slot: WorkerOptions(
                slot=slot, batch_records=self.pick.choice([2, 9, 64]), poll_s=0, heartbeat_interval_s=0.5,
                flush_batches=self.pick.choice([1, 3, 50]), flush_interval_s=self.pick.choice([0.5, 20]),
                broker_away_s=1e9, checkpoint_every_s=self.pick.choice([4, 60]), standby=int(warm),
                # All at once, or of pairs that cost 10 us each one or three in a turn.
                encode_s=hurry.choice([1, 3.5e-5, 0]), encode_behind_s=hurry.choice([1, 0]),
            )
            for slot in "ab"
        }  # fmt: skip
        self.processes = [Process(slot, folder / ("a" if self.shared else slot)) for slot in "ab"]
        self.folder, self.machines = folder, 0
        self.memory_bytes = self.pick.choice([1 << 30, 4_000])  # or a few rows
        shutil.copytree(built, folder / "checkpoints")
        self.checkpoints = Checkpoints(str(folder / "checkpoints"))
        generation = Generation.new(GENERATION, bundle.hash, dict.fromkeys(SIDES, PARTITIONS), {})
        # In one world of four: opening its store is most of what a short run takes.
        self.node = None if seed % 4 else Node(bundle, generation, TOPICS, self.log, folder / "node")
        self.sent: list[Event] = []
        self.refused: list[Place] = []
        self.trace: list[str] = []

    # -- the actions

    def run(self, actions: int) -> None:
        """So many actions, then mend everything, drain and check."""
        self.start(self.processes[0])
        for _ in range(actions):
            name = self.pick.choices(list(self.actions), list(self.actions.values()))[0]
            self.trace.append(name)
            getattr(self, name)()
            self.now_ms += self.pick.randint(1, 400)
        remains = self.drain()
        if self.node is not None:
            while self.node.turn(self.pick, 20):
                pass
            self.node.check()
            self.node.lose()
            self.node.check()
            self.node.copy.close()
        remains.check(self.bundle, self._encoders)

    def produce(self) -> None:
        """Some events, of which some were sent before, and sometimes a record that nobody can take."""
        for _ in range(self.pick.randint(1, 12)):
            kind, user, item = self.pick.random(), f"u{self._low(12)}", f"i{self._low(8)}"
            moment = self.now_ms - self.pick.randint(0, 8 * 3600) * 1000
            number = len(self.sent)
            recent = [e for e in self.sent[-60:] if naive.time_of(e) > self.now_ms - 20 * HOUR_MS]  # type: ignore[arg-type]
            if kind < 0.12 and recent:
                self._send(self.pick.choice(recent))
                continue
            event: Event
            if kind < 0.2:
                event = UserProfile(
                    user, {"age": float(self.pick.randint(18, 60)), "plan": "paid"}, moment, f"e{number}"
                )
            elif kind < 0.3:
                event = ItemUpdate(item, self._about(), moment, f"e{number}")
            else:
                action, value = self.pick.choice(["rate", "view", "other"]), float(self.pick.randint(1, 5))
                about = self._about() if self.pick.random() < 0.6 else {}
                event = Behaviour(user, item, action, value, moment, f"e{number}", about)
                if not about:
                    self.joins.bare.add((user, moment, f"e{number}"))
            self.sent.append(event)
            self._send(event)
        if self.pick.random() < 0.3:
            self._send_bad()

    def garble(self) -> None:
        """A producer's schema breaks."""
        topic = self.pick.choice(list(SOURCES))
        for _ in range(self.pick.randint(4, 30)):
            partition = self.pick.randrange(SOURCES[topic])
            self.refused.append((topic, partition, self.log.append(Sent(topic, partition, b"u1", b"not JSON"))))

    def resume(self) -> None:
        """An operator has what stands still read again."""
        for process in self.processes:
            for worker, _ in process.workers.values():
                for topic in SOURCES:
                    if worker.resume(topic):
                        self.trace.append(f"resumed: {topic}")

    def turn(self) -> None:
        """A worker's turn."""
        awake = [p for p in self.processes if p.running and not p.paused]
        if awake:
            process = self.pick.choice(awake)
            self._turn(process, self.pick.choice(list(process.workers)))

    def serve(self) -> None:
        """The serving node reads some records, or its process ends."""
        if self.node is None or not self.log.up:
            return
        if self.pick.random() < 0.1:
            self.node.lose()
        else:
            self.node.turn(self.pick, self.pick.choice([1, 5, 50]))

    def crash(self) -> None:
        """A process will end at one of its next points."""
        process = self.pick.choice(self.processes)
        process.crash_in = self.pick.randint(1, 14)

    def move(self) -> None:
        """A process's machine is gone for good, and its slot starts on an empty one."""
        process = self.pick.choice(self.processes)
        if process.running:
            self._gone(process)
        self.machines += 1
        process.folder = self.folder / f"machine-{self.machines}"

    def lose(self) -> None:
        """A process ends at one of its next points, and the other one runs."""
        process = self.pick.choice(self.processes)
        if process.running and not any(other.running for other in self.processes if other is not process):
            return
        process.crash_in = self.pick.randint(1, 6)

    def start_one(self) -> None:
        """Start a process that does not run."""
        idle = [p for p in self.processes if not p.running]
        if idle and self.log.up:
            self.start(self.pick.choice(idle))

    def stop_one(self) -> None:
        """SIGTERM."""
        awake = [p for p in self.processes if p.running and not p.paused]
        if awake:
            self._stop(self.pick.choice(awake))

    def pause(self) -> None:
        """SIGSTOP: its sessions end, and it does not know."""
        awake = [p for p in self.processes if p.running and not p.paused]
        if awake and self.log.up:
            process = self.pick.choice(awake)
            process.paused = True
            self._expel(process)

    def wake(self) -> None:
        """SIGCONT for all."""
        for process in self.processes:
            process.paused = False

    def expel(self) -> None:
        """A running worker's sessions end for another reason: a network that was slow."""
        running = [p for p in self.processes if p.running]
        if running and self.log.up:
            self._expel(self.pick.choice(running))

    def expire(self) -> None:
        """The sessions of processes that are gone end."""
        for stage in STAGES:
            for member in list(self.group(stage).members):
                if not member.running:
                    self.log.leave(member)

    def away(self) -> None:
        """The broker answers nobody, until it is back."""
        self.log.up = False

    def back(self) -> None:
        """The broker answers."""
        self.log.up = True

    def land(self) -> None:
        """A commit under way lands, whoever waits for it or not."""
        if self.log.open and self.log.up:
            self._land(self.pick.choice(self.log.open))

    def wait(self) -> None:
        """Some seconds; sometimes an hour."""
        self.now_ms += self.pick.choice([1_000, 5_000, 20_000, 20_000, HOUR_MS])

    # -- processes

    def group(self, stage: str) -> Group:
        """The group of one stage's workers."""
        if stage == "intake":
            return self.log.group(TOPICS.intake_group, sum(SOURCES.values()))
        return self.log.group(TOPICS.group(GENERATION, stage), PARTITIONS)

    def start(self, process: Process) -> None:
        """The workers of every stage join. What a predecessor left in the group is over when the slot is taken."""
        for stage in STAGES:
            options, point = self.options[process.slot], lambda process=process: self._point(process)
            takes = stage == "intake"
            transport = MemoryTransport(
                self.log,
                list(SOURCES) if takes else [TOPICS.events(stage)],
                TOPICS.intake_group if takes else TOPICS.group(GENERATION, stage),
                options,
                clock=self._clock,
                moment=(lambda: self.now_ms) if takes else self._accepted_until,
                follows=TOPICS.catalogue if takes else None,
            )
            if takes:
                transport.brought = lambda most: self.pick.choice([0, 0, 1, most])
                self._heard_going_on(transport)
            transport.fault = lambda _, point=point: point()  # type: ignore[misc]
            made = self._intake(process) if stage == "intake" else self._processor(stage, process)
            made.point = point
            worker = Worker(made, transport, options, self.checkpoints, clock=self._clock, wall_ms=lambda: self.now_ms)
            assert worker.keeper is not None
            worker.keeper.run = lambda work: work()
            worker.join(NEVER)
            process.workers[stage] = (worker, transport)

    def _heard_going_on(self, transport: MemoryTransport) -> None:
        go_on = transport.go_on

        def heard(partition: int, offset: int, stop: threading.Event) -> None:
            assert transport.member is not None
            self.joins.went_on(transport.member, partition)
            go_on(partition, offset, stop)

        transport.go_on = heard  # type: ignore[method-assign]

    def _intake(self, process: Process) -> CrashingIntake:
        sources = [Source(topic, p, topic) for topic, count in SOURCES.items() for p in range(count)]
        made = CrashingIntake(TOPICS, sources, dict.fromkeys(SIDES, PARTITIONS), process.folder / "intake")
        if self.breaks:
            made.guard = SourceGuard(sources, made._acceptor, BREAKER, clock=self._clock, wall_ms=lambda: self.now_ms)
        return made

    def _processor(self, side: Side, process: Process) -> CrashingProcessor:
        more = {"memory_bytes": self.memory_bytes, "clock": self._clock}
        made = CrashingProcessor(self.bundle, side, TOPICS, GENERATION, PARTITIONS, process.folder, **more)
        # A seed replays exactly, whatever this machine takes.
        made.schedule.measured = made.schedule.told = made.schedule.chose = lambda *seconds: None
        return made

    def _accepted_until(self) -> int:
        notes = self.group("intake").notes
        return as_of(notes.get(p) for p in range(sum(SOURCES.values())))

    def _turn(self, process: Process, stage: str) -> None:
        try:
            worker = process.workers[stage][0]
            worker.turn()
            check_ages(self.log, worker.report())
            if worker.standby is not None and self.pick.random() < 0.5:
                self._look(worker)
        except Crash:
            self.trace.append(f"crashed: {process.slot}")
            self._gone(process)
        except BY_NAME as error:
            self.trace.append(f"ended: {process.slot}: {error}")
            self._gone(process)

    def _look(self, worker: Worker) -> None:
        """A pass of what keeps others' state warm. It has a thread of its own, and comes between any two turns."""
        assert worker.standby is not None
        worker.standby.turn()

    def _stop(self, process: Process) -> None:
        try:
            for worker, _ in process.workers.values():
                worker.finish()
                worker.leave()
        except Crash:
            self.trace.append(f"crashed: {process.slot}")
        self._gone(process)

    def _gone(self, process: Process) -> None:
        """The process ended without a word: its folders are free, its members' sessions still run."""
        for worker, transport in process.workers.values():
            for partition in list(worker.stage.partitions):
                worker.stage.close(partition)
            if worker.standby is not None:
                worker.standby.let_go()
            assert transport.member is not None
            transport.member.running = False
        process.workers, process.crash_in, process.paused = {}, 0, False

    def _expel(self, process: Process) -> None:
        for _, transport in process.workers.values():
            assert transport.member is not None
            self.log.leave(transport.member)

    def _point(self, process: Process) -> None:
        if process.crash_in:
            process.crash_in -= 1
            if not process.crash_in:
                raise Crash

    def _land(self, write: Write) -> None:
        try:
            self.log.land(write)
        except BrokerError:
            self.trace.append("refused")  # whoever waits for it is told

    def _clock(self) -> float:
        return self.now_ms / 1000

    # -- what is sent

    def _low(self, count: int) -> int:
        return int(count * self.pick.random() ** 2)

    def _about(self) -> Attributes:
        return {"genres": self.pick.sample(["a", "b", "c", "other"], 2), "year": float(self.pick.randint(1950, 2020))}

    def _send(self, event: Event) -> None:
        topic = TOPICS.item_updates if isinstance(event, ItemUpdate) else TOPICS.behaviour
        key = (event.item if isinstance(event, ItemUpdate) else event.user).encode()  # type: ignore[union-attr]
        # By the event and not by its user: what one entity's events come through is the producers' business. One that
        # is sent again comes through the same partition.
        self.log.append(Sent(topic, home((event.id or "").encode(), SOURCES[topic]), key, encode(event)))  # type: ignore[union-attr]

    def _send_bad(self) -> None:
        late = Behaviour("u1", "i1", "rate", 1.0, self.now_ms - 25 * HOUR_MS, "late")
        future = Behaviour("u1", "i1", "rate", 1.0, self.now_ms + 6 * MINUTE_MS, "future")
        topic = self.pick.choice(list(SOURCES))
        partition = self.pick.randrange(SOURCES[topic])
        value = self.pick.choice([b"not JSON", encode(late), encode(future), encode(Tick(self.now_ms))])
        self.refused.append((topic, partition, self.log.append(Sent(topic, partition, b"u1", value))))

    # -- the end

    def drain(self) -> Remains:
        """Mend everything, let all work until nothing is left to do, and stop them."""
        self.trace.append("drain")
        self.log.up = True
        for process in self.processes:
            process.paused, process.crash_in = False, 0
        for turn in range(MOST_TURNS):
            for process in self.processes:
                if not process.running:
                    self.start(process)
            self.expire()
            self.resume()
            for process in self.processes:
                for stage in list(process.workers):
                    if stage in process.workers:
                        self._turn(process, stage)
            self.now_ms += 300
            if turn > 2 and self._drained():
                break
        else:
            raise AssertionError("it does not come to an end: " + "; ".join(self._waits()))
        owners = {
            (side, partition): owned.store.path  # type: ignore[attr-defined]
            for process in self.processes
            for side in SIDES
            for partition, owned in process.workers[side][0].stage.partitions.items()
        }
        # All before the first one leaves: a group that has changed refuses what is under way, and a store stays behind.
        for process in self.processes:
            for worker, _ in process.workers.values():
                worker.finish()
        for process in self.processes:
            self._stop(process)
        done = {side: self.group(side).offsets for side in SIDES}
        return Remains(self.log, TOPICS, GENERATION, owners, done, self.sent, self.refused)

    def _drained(self) -> bool:
        if any(w.not_ready() for p in self.processes for w, _ in p.workers.values()):
            return False
        for stage in STAGES:
            topics = SOURCES if stage == "intake" else {TOPICS.events(stage): PARTITIONS}
            places = [(topic, p) for topic, count in topics.items() for p in range(count)]
            owned = [n for p in self.processes for n in p.workers[stage][0].stage.partitions]
            offsets = self.group(stage).offsets
            if sorted(owned) != list(range(len(places))):
                return False
            if any(self.log.records(*place, offsets.get(n, 0)) for n, place in enumerate(places)):
                return False
        for process in self.processes:
            for side in SIDES:
                stage = process.workers[side][0].stage
                if any(len(owned.waiting()) for owned in stage.partitions.values()):  # type: ignore[attr-defined]
                    return False
        return True

    def _waits(self) -> Iterator[str]:
        for process in self.processes:
            for stage, (worker, _) in process.workers.items():
                yield f"{process.slot} {stage}: {worker.not_ready()} {sorted(worker.stage.partitions)}"


def keep_nothing(bundle: Bundle, folder: Path) -> Path:
    """The Checkpoints that a backfill of no history leaves, in a folder below `folder`."""
    checkpoints = Checkpoints(str(folder / "kept"))
    for side in SIDES:
        made, topic = Processor(bundle, side, TOPICS, GENERATION, PARTITIONS, folder / "built"), TOPICS.events(side)
        for partition, name in enumerate(made.names):
            owned = made.open(partition, Source(topic, partition, topic), 0)
            owned.snapshot(folder / "copy")
            checkpoints.save(folder / "copy", about(f"{GENERATION}/{name}", owned.meta, START_MS))
            shutil.rmtree(folder / "copy")
            made.close(partition)
    return folder / "kept"


BREAKER = BreakerOptions(records=8, window_s=10.0, least=4, retry_s=5.0, most_retry_s=20.0)
NEVER = threading.Event()  # a stop that is never set
# How often each action is drawn.
ACTIONS = {
    "produce": 25, "turn": 130, "crash": 4, "move": 1, "start_one": 8, "stop_one": 2, "pause": 3, "wake": 5, "expel": 2,
    "away": 2, "back": 6, "land": 6, "wait": 6, "expire": 6, "serve": 20,
}  # fmt: skip

# Where state is kept warm: both processes are there for a while, and who is gone is missed before it is back.
LOSSES = {"turn": 300, "crash": 0, "lose": 6, "start_one": 12, "expel": 1, "pause": 1, "stop_one": 0, "expire": 40}


def home(key: bytes, partitions: int) -> int:
    """The partition of a key."""
    return int(partitions_of([key], partitions)[0])


@contextmanager
def told_by(seed: int, world: World) -> Iterator[None]:
    """Name the seed and the last actions in whatever goes wrong."""
    try:
        yield
    except (AssertionError, ForebayError) as error:
        last = ", ".join(world.trace[-12:])
        raise AssertionError(f"seed {seed}, after {last}: {error}. Again: make simulate SEED={seed}") from error
