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

from forebay.cli.benchlive import ITEMS, USERS, Offer, Offered, elsewhere, offered, producer_of, skewed, until
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

EVENTS, NEW_USERS, PARTITIONS = 200_000, 100_000, 4
STAGES = ("intake", *SIDES)
RATES, LIVE_S = (100, 1000), 8.0
# What a live system bears is less than what it drains: whoever sends and reads has a share of the machine. So it is
# offered more than it drains, and what it commits meanwhile is its saturation.
TOO_MUCH, SHARE, PROBES, WARM_S = 1.5, 0.7, 200, 2.0

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
    live = {
        "saturation: the whole path, beside who sends and reads": "saturation",
        f"sent at {SHARE:.0%} of it": "offered",
    }
    lines += [line(name, found[key], "1/s", None, at_most=False) for name, key in live.items()]
    names = {"100": "100/s", "1000": "1,000/s", "most": f"{SHARE:.0%} of saturation"}
    budgets = {("100", 50): 25, ("1000", 50): 50, ("1000", 99): 150, ("most", 50): 50, ("most", 99): 150}
    for (at, share), target in budgets.items():
        for side in SIDES:
            name = f"event to readable {side} vector at {names[at]}, p{share}"
            lines.append(line(name, found[f"{side} p{share} at {at}"], "ms", target, at_most=True))
    lines.append(line("broker CPU for a million events, whole path", found["broker"], "s", 112, at_most=True))
    for key in sorted(k for k in found if k.startswith("step ")):
        lines.append(line(f"{key.removeprefix('step ')}, of an event", found[key], "µs", None, at_most=True))
    return lines


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
        """All three stages at steady rates: from the call that sends an event to the moment its user's vectors, and its
        item's, can be read. The last rate is a share of what they bear."""
        self._make("l.")
        stop, workers = threading.Event(), self._workers(STAGES)
        with _running(workers, stop) as look, elsewhere() as other:
            until(lambda: not any(worker.not_ready() for worker in workers), look)

            def made(offer: Offer) -> Offered:
                asked = other.submit(offered, self.broker.bootstrap, self.topics, offer)
                until(asked.done, look)  # a worker that ends is told of by name
                return asked.result()

            made(Offer(50, 2.0, 50))  # the first batches compile
            for rate in RATES:
                for name, value in _percentiles(made(Offer(rate, LIVE_S, rate)), str(rate)):
                    found[name].append(value)
            with _commits() as commits:
                made(Offer(round(found["whole"][-1] * TOO_MUCH), LIVE_S, PROBES))  # ends when its last probe is there
            until(lambda: self._is_drained(STAGES, workers), look)  # else what is left of it would be waited for
            found["saturation"].append(min(_rate_in(commits[side], LIVE_S) for side in SIDES))
            most = made(Offer(round(found["saturation"][-1] * SHARE), LIVE_S, PROBES))
            found["offered"].append(most.events / most.seconds)
            for name, value in _percentiles(most, "most"):
                found[name].append(value)

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


def _percentiles(found: Offered, at: str) -> Iterator[tuple[str, float]]:
    for side, waits in found.waits.items():
        for share in (50, 99):
            yield f"{side} p{share} at {at}", float(np.percentile(waits, share))


@contextmanager
def _commits() -> Iterator[Mapping[str, list[tuple[float, int]]]]:
    """What each stage commits while the block runs: moments (s) and events."""
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def listen(name: str, details: Mapping[str, Detail]) -> None:
        if name == "step" and details["number"] == 4 and details["events"]:
            found[str(details["stage"])].append((time.perf_counter(), int(str(details["events"]))))

    remove = add_hook(listen)
    try:
        yield found
    finally:
        remove()


def _rate_in(commits: Sequence[tuple[float, int]], seconds: float) -> float:
    """Events a second between two commits: the first one WARM_S after the beginning, and the last one within
    `seconds`. Raises ValueError where there are no two."""
    began = commits[0][0] if commits else 0.0
    inside = [(at, events) for at, events in commits if WARM_S <= at - began <= seconds]
    if len(inside) < 2:
        raise ValueError(f"{len(inside)} commits say nothing of a rate")
    return sum(events for _, events in inside[1:]) / (inside[-1][0] - inside[0][0])


def _cpu_s(broker: DevKafka) -> float:
    """CPU seconds of the broker's process until now; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{broker.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
