"""`forebay bench stream`: the stream's stages on a real broker, one by one and together, with the time of each step.

Every round has topics of its own on one broker. A stage is measured from its first batch to its last commit, over a
topic that is full when it starts; what is live is measured at a steady rate.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer

from forebay.arrays import Ints
from forebay.cli.benchlive import ITEMS, elsewhere, producer_of, until, waits_at
from forebay.clock import now_ms
from forebay.events import Attributes, Behaviour, encode
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.streams.clients import asking_consumer
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.installation import HOLD_COMMITS
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.librdkafka.start import intake_worker, side_worker
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.telemetry import Detail, add_hook

EVENTS, NEW_USERS, USERS, SKEW, PARTITIONS = 200_000, 100_000, 100_000, 1.1, 4
STAGES = ("intake", *SIDES)
RATES, LIVE_S = (100, 1000), 8.0

Line = dict[str, Any]
Measured = dict[str, list[float]]


def stream(bundle: Bundle, repeats: int, line: Callable[..., Line]) -> list[Line]:
    """The lines of this bench; `line` makes one of its name, values, unit and budget."""
    found: Measured = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        for turn in range(repeats):
            rig = _Rig(bundle, broker, Path(folder) / str(turn), Topics(f"b{turn}."))
            rig.alone(found, turn)
            rig.together(found, turn)
            rig.live(found)
    rates = [
        ("the Intake, JSON to both clean logs", "intake", 150_000),
        ("the user Processor, five segments", "user", 60_000),
        ("the user Processor, every event of a new user", "new users", 30_000),
        ("the item Processor", "item", 250_000),
        ("the whole path in one process", "whole", 40_000),
    ]
    lines = [line(name, found[key], "1/s", target, at_most=False) for name, key, target in rates]
    budgets = {(100, 50): 25, (1000, 50): 50, (1000, 99): 150}
    for (rate, share), target in budgets.items():
        name = f"event to readable vector at {rate:,}/s, p{share}"
        lines.append(line(name, found[f"p{share} at {rate}"], "ms", target, at_most=True))
    lines.append(line("broker CPU for a million events, whole path", found["broker"], "s", 112, at_most=True))
    for key in sorted(k for k in found if k.startswith("step ")):
        lines.append(line(f"{key.removeprefix('step ')}, of an event", found[key], "µs", None, at_most=True))
    return lines


def skewed(random: np.random.Generator, kinds: int, count: int) -> Ints:
    """Zipf with exponent 1.1 over `kinds`, as behaviour logs are."""
    weights = 1.0 / np.arange(1, kinds + 1) ** SKEW
    return random.choice(kinds, count, p=weights / weights.sum())


class _Rig:
    """One round: topics, folders and producers."""

    def __init__(self, bundle: Bundle, broker: DevKafka, folder: Path, topics: Topics) -> None:
        self.bundle, self.broker, self.folder, self.topics = bundle, broker, folder, topics
        self._genres = [str(v) for v in bundle.spec.attribute("item", "genres").values]
        self._options = WorkerOptions()

    def alone(self, found: Measured, turn: int) -> None:
        """Each stage by itself; then the user side once more, for users that it has never seen."""
        self._make("")
        self._fill(turn, EVENTS, fresh=False)
        for stage in STAGES:
            found[stage].append(EVENTS / self._drained([stage], found))
        self._make("n.")
        self._fill(turn, NEW_USERS, fresh=True)
        self._drained(["intake"])
        found["new users"].append(NEW_USERS / self._drained(["user"]))

    def together(self, found: Measured, turn: int) -> None:
        """All three stages in this process."""
        self._make("w.")
        self._fill(turn, EVENTS, fresh=False)
        before = _cpu_s(self.broker)
        found["whole"].append(EVENTS / self._drained(STAGES))
        found["broker"].append((_cpu_s(self.broker) - before) * 1e6 / EVENTS)

    def live(self, found: Measured) -> None:
        """All three stages at steady rates: from the call that sends an event to the moment its user's vectors can be
        read."""
        self._make("l.")
        stop, workers = threading.Event(), self._workers(STAGES)
        with _running(workers, stop) as look, elsewhere() as other:
            until(lambda: not any(worker.not_ready() for worker in workers), look)
            for rate, seconds in [(50, 2.0), *((rate, LIVE_S) for rate in RATES)]:  # the first batches compile
                asked = other.submit(waits_at, self.broker.bootstrap, self.topics, rate, seconds)
                until(asked.done, look)  # a worker that ends is told of by name
                waits = asked.result()
                if rate not in RATES:
                    continue
                for share in (50, 99):
                    found[f"p{share} at {rate}"].append(float(np.percentile(waits, share)))

    # -- parts

    def _make(self, kind: str) -> None:
        self.topics = Topics(f"{self.topics.prefix.split('.')[0]}.{kind}")
        self.here = self.folder / (kind or "alone")
        ensure(self.broker.bootstrap, self.topics, generation="g1", partitions=PARTITIONS)

    def _events(self, seed: int, count: int, *, fresh: bool) -> Iterator[Behaviour]:
        random, now = np.random.default_rng(seed), now_ms()
        users = np.arange(count) if fresh else skewed(random, USERS, count)
        items = (ITEMS * random.random(count) ** 2).astype(int)
        for n, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            own: Attributes = {"genres": [self._genres[item % len(self._genres)]]}
            yield Behaviour(f"u{user}", f"i{item}", "rate", float(1 + n % 5), now - n % 60_000, f"e{seed}-{n}", own)

    def _fill(self, seed: int, count: int, *, fresh: bool) -> None:
        producer = producer_of(self.broker.bootstrap, 50)
        for event in self._events(seed, count, fresh=fresh):
            while True:
                try:
                    producer.produce(self.topics.behaviour, encode(event), event.user.encode())
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.flush(60)

    def _workers(self, stages: Sequence[str]) -> list[Worker]:
        found = []
        for stage in stages:
            if stage == "intake":
                options = WorkerOptions(hold_commits=HOLD_COMMITS)
                found.append(intake_worker(self.broker.bootstrap, self.topics, self.here / "intake", options))
            else:
                side: Side = "user" if stage == "user" else "item"
                processor = Processor(self.bundle, side, self.topics, "g1", PARTITIONS, self.here)
                found.append(side_worker(processor, self.broker.bootstrap, self._options))
        return found

    def _drained(self, stages: Sequence[str], found: Measured | None = None) -> float:
        """Seconds from the first batch of `stages` until all that is in their topics is committed and encoded."""
        began: list[float] = []
        seconds: dict[tuple[str, str], float] = defaultdict(float)

        def listen(name: str, details: Mapping[str, Detail]) -> None:
            if name != "step":
                return
            if details["events"] and not began:
                began.append(time.perf_counter() - float(str(details["seconds"])))
            key = (str(details["stage"]), f"{details['number']} {details['name']}")
            seconds[key] += float(str(details["seconds"]))

        workers, stop = self._workers(stages), threading.Event()
        remove = add_hook(listen)
        try:
            with _running(workers, stop) as look:
                until(lambda: not any(worker.not_ready() for worker in workers), look)
                until(lambda: self._is_drained(stages, workers), look)
                took = time.perf_counter() - began[0]
        finally:
            remove()
        if found is not None:
            for (stage, step), spent in seconds.items():
                found[f"step {stage} {step}"].append(spent * 1e6 / EVENTS)
        return took

    def _is_drained(self, stages: Sequence[str], workers: Sequence[Worker]) -> bool:
        topics: dict[str, tuple[str, ...]] = {side: (self.topics.events(side),) for side in SIDES}
        topics["intake"] = self.topics.sources
        asked = Consumer(asking_consumer(self.broker.bootstrap, committed=True))
        try:
            for stage, worker in zip(stages, workers, strict=True):
                places = [(topic, p) for topic in topics[stage] for p in range(PARTITIONS)]
                progress = worker.progress()
                if worker.waits:  # to be encoded
                    return False
                for number, (topic, partition) in enumerate(places):
                    if number not in progress or progress[number].position < bounds(asked, topic, partition)[1]:
                        return False
            return True
        finally:
            asked.close()


@contextmanager
def _running(workers: Sequence[Worker], stop: threading.Event) -> Iterator[Callable[[], None]]:
    """Run workers on threads until the block ends; what is yielded raises what one of them has ended by."""
    with ThreadPoolExecutor(len(workers)) as pool:
        under_way = [pool.submit(worker.run, stop) for worker in workers]

        def look() -> None:
            for one in under_way:
                if one.done():
                    one.result()

        try:
            yield look
        finally:
            stop.set()


def _cpu_s(broker: DevKafka) -> float:
    """CPU seconds of the broker's process until now; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{broker.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
