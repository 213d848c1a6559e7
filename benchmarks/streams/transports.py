"""The same Processor over librdkafka and over faust, from the same clean log: what a transport costs.

    .venv/bin/python benchmarks/streams/transports.py --repeats 3

One broker, one log of Blocks, in this process. The runs are interleaved, since a machine's speed drifts, and each has a
group, a folder and vectors of its own. Measured from the first batch to the last commit. `--blocks` is how many events
a Block has: 1 is a log that trickles, and what each record costs shows.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from forebay.cli import source
from forebay.cli.benchlive import skewed, until
from forebay.clock import now_ms
from forebay.events import Behaviour
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.streams.cluster import Cluster
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.host.alone import app_alone, run
from forebay.streams.host.stages import Stages
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.librdkafka.start import Carry, side_worker
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.telemetry import Detail, add_hook

PARTITIONS, USERS, ITEMS = 4, 50_000, 10_000
TRANSPORTS = ("librdkafka", "faust")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--blocks", type=int, default=1024, help="events of a Block")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    bundle = untrained(source.spec(None, "movielens"), hash_ids([f"i{n}" for n in range(ITEMS)]))
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        topics = Topics("bench.")
        _fill(broker.bootstrap, topics, given.events, given.blocks)
        for turn in range(given.repeats + 1):
            for transport in TRANSPORTS:
                name = f"{transport}{turn}"
                seconds = _measured(bundle, broker.bootstrap, topics, name, transport, Path(folder), given.events)
                if turn:  # the first turn compiles
                    rates[transport].append(given.events / seconds)
                    print(f"{transport:>10}  {given.events / seconds:>9,.0f} events/s", flush=True)
    for transport, found in rates.items():
        low, middle, high = min(found), float(np.median(found)), max(found)
        print(f"{transport}: {middle:,.0f} events/s ({low:,.0f} – {high:,.0f}, n = {len(found)})")


def _fill(bootstrap: str, topics: Topics, events: int, most: int) -> None:
    """Behaviours into the user side's clean log, Zipf over users, in Blocks of up to `most`."""
    ensure(bootstrap, topics, generation="any", partitions=PARTITIONS)
    random, now = np.random.default_rng(0), now_ms()
    by_partition: dict[int, list[Behaviour]] = defaultdict(list)
    users = [f"u{n}" for n in skewed(random, USERS, events).tolist()]
    homes = partitions_of([user.encode() for user in users], PARTITIONS).tolist()
    for n, (user, home) in enumerate(zip(users, homes, strict=True)):
        item = f"i{random.integers(ITEMS)}"
        by_partition[home].append(Behaviour(user, item, "rate", float(1 + n % 5), now - n % 60_000, f"e{n}", {}))
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50})
    for partition, found in by_partition.items():
        for start in range(0, len(found), most):
            part = found[start : start + most]
            times = [now] * len(part)
            block = block_of(part, times, range(len(part)), [0] * len(part), ("bench/0",))
            for header, value in block.encode():
                while True:
                    try:
                        producer.produce(topics.events("user"), value, partition=partition, headers=[(HEADER, header)])
                        break
                    except BufferError:
                        producer.poll(0.05)
    assert producer.flush(60) == 0


def _measured(
    bundle: Bundle, bootstrap: str, topics: Topics, generation: str, transport: str, folder: Path, count: int
) -> float:
    """Seconds from the first batch until all is committed, by a new generation."""
    ensure(bootstrap, topics, generation=generation, partitions=PARTITIONS)
    steps: list[tuple[float, int]] = []

    def listen(name: str, details: Mapping[str, Detail]) -> None:
        if name == "step" and details["events"]:
            now = time.perf_counter()
            if not steps:
                steps.append((now - float(str(details["seconds"])), 0))
            if details["number"] == 4:
                steps.append((now, int(str(details["events"]))))

    def make(carry: Carry) -> list[Worker]:
        processor = Processor(bundle, "user", topics, generation, PARTITIONS, folder / generation)
        return [side_worker(processor, bootstrap, WorkerOptions(), carry=carry)]

    def work() -> None:
        if transport == "faust":
            app = app_alone(Cluster(bootstrap), folder / f"{generation}.app")
            run(app, Stages(app, make, transport), stop)
        else:
            make(LibrdkafkaTransport)[0].run(stop)

    stop, remove = threading.Event(), add_hook(listen)
    try:
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            try:
                until(lambda: working.done() or sum(events for _, events in steps) >= count)
            finally:
                stop.set()
            working.result()
    finally:
        remove()
    return steps[-1][0] - steps[0][0]


if __name__ == "__main__":
    main()
