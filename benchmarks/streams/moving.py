"""How long the partitions of a worker are away that is lost with its machine.

    python benchmarks/streams/moving.py [--users 100000] [--rate 1000] [--repeats 3] [--standby]

Two `forebay work` processes have state folders of their own and share a place of checkpoints. Each side has two
partitions with so many entities each. Under a steady stream one of the two is ended by SIGKILL, and its folder is
deleted. What is measured is the time from there to the first vector in each partition of the user side's vectors topic,
which both an Intake and a user Processor must have gone on for: that a session ends (6 s), a rebalance, the state's way
from the checkpoint, and the fold of what came since. With `--standby` the other worker keeps that state warm in half of
the repeats, every other one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from forebay.cli import source
from forebay.cli.benchlive import producer_of
from forebay.clock import now_ms
from forebay.events import Behaviour, encode
from forebay.segments.datasets.planted import Planted
from forebay.segments.datasets.worldoptions import WorldOptions
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.store.checkpoints import Checkpoints
from forebay.store.codec import HEARTBEAT_KEY
from forebay.streams.backfill import backfill
from forebay.streams.clients import tail_consumer
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics, ensure

PARTITIONS, EVENTS_EACH = 2, 5
READY_S, BACK_S = 180.0, 120.0
TOLD = ("came from a checkpoint", "folded again", "was kept warm", "a transaction was aborted")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--users", type=int, default=100_000, help="in each partition")
    words.add_argument("--rate", type=int, default=1_000, help="events a second meanwhile")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--checkpoint-every", default="1m")
    words.add_argument("--standby", action="store_true", help="twice as many repeats, in turn without and with one")
    given = words.parse_args()
    found: dict[int, list[float]] = {standby: [] for standby in range(1 + given.standby)}
    with tempfile.TemporaryDirectory(prefix="forebay-moving-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        here = Path(folder)
        topics = Topics("m.")
        ensure(broker.bootstrap, topics, generation="g1", partitions=PARTITIONS)
        options = WorldOptions.sized(given.users * PARTITIONS * EVENTS_EACH, users=given.users * PARTITIONS)
        bundle = untrained(source.spec(None, "synthetic"), hash_ids([f"i{n}" for n in range(options.items)]))
        bundle.save(here / "data" / "bundles")
        began = time.monotonic()
        backfill(
            bundle, Planted(options).history, name="g1", bootstrap=broker.bootstrap, topics=topics,
            folder=here / "data" / "generations" / "g1", state_folder=here / "built", now_ms=now_ms(),
            checkpoints=Checkpoints(str(here / "data" / "checkpoints")),
        )  # fmt: skip
        print(f"built in {time.monotonic() - began:.0f} s", file=sys.stderr)
        site = Site(here, broker, topics, given.checkpoint_every)
        try:
            with steady(broker, topics, given.rate, options):
                for number in range(given.repeats * len(found)):
                    site.standby = number % len(found)
                    for slot in "ab":
                        site.start(slot)
                    site.wait_warm()
                    time.sleep(10)
                    away = site.lose("a")
                    found[site.standby].append(max(away.values()))
                    print(f"standby {site.standby}: {away}", *site.said("b"), sep="\n    ", file=sys.stderr)
                    site.stop()
        finally:
            site.stop()
    for standby, seconds in found.items():
        summary = {"users": given.users, "rate": given.rate, "standby": standby}
        print(json.dumps(summary | {"away_s": seconds, "median_s": round(statistics.median(seconds), 2)}))
    return 0


class Site:
    """The two workers."""

    def __init__(self, folder: Path, broker: DevKafka, topics: Topics, every: str) -> None:
        self.folder, self.broker, self.topics, self.every = folder, broker, topics, every
        self.standby = 0
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"a": 18_641, "b": 18_642}

    def start(self, slot: str) -> None:
        """Start a worker on an empty folder, and wait until all are ready."""
        environment = {
            **os.environ, "FOREBAY_BOOTSTRAP": self.broker.bootstrap, "FOREBAY_TOPIC_PREFIX": self.topics.prefix,
            "FOREBAY_DATA_DIR": str(self.folder / "data"), "FOREBAY_CHECKPOINT_EVERY": self.every,
            "FOREBAY_STANDBY": str(self.standby),
        }  # fmt: skip
        shutil.rmtree(self.folder / slot, ignore_errors=True)
        words = ["--slot", slot, "--state", str(self.folder / slot), "--status", f"127.0.0.1:{self.ports[slot]}"]
        with (self.folder / f"{slot}.log").open("wb") as log:
            command = [sys.executable, "-m", "forebay.cli", "work", *words]
            self.children[slot] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while not all(self._ready(one) for one in self.children):
            if time.monotonic() > deadline or any(child.poll() is not None for child in self.children.values()):
                raise SystemExit((self.folder / f"{slot}.log").read_text())
            time.sleep(0.2)
        time.sleep(5)  # both have their shares

    def wait_warm(self) -> None:
        """Until b keeps each partition of a side warm that a has, where it is to."""
        deadline = time.monotonic() + READY_S
        while self.standby and time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['b']}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            warm = [line for line in lines if line.startswith("forebay_standby_lag_records{")]
            if all(any(f'stage="{stage}"' in line for line in warm) for stage in ("user", "item")):
                return
            time.sleep(1)
        if self.standby:
            raise SystemExit("b keeps nothing warm:\n" + (self.folder / "b.log").read_text())

    def lose(self, slot: str) -> dict[int, float]:
        """kill -9, and the folder goes; seconds until each partition has another vector."""
        consumer = Consumer(tail_consumer(self.broker.bootstrap))
        topic = self.topics.vectors("g1", "user")
        places = []
        for partition in range(PARTITIONS):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            places.append(TopicPartition(topic, partition, end))
        consumer.assign(places)
        child = self.children.pop(slot)
        child.kill()
        child.wait()
        killed = time.time()
        shutil.rmtree(self.folder / slot)
        back: dict[int, float] = {}
        while len(back) < PARTITIONS:
            for message in consumer.consume(500, 0.2):
                at = message.timestamp()[1] / 1000 - killed
                # What the dead one had sent may land within a moment of its end.
                if message.error() is None and message.key() != HEARTBEAT_KEY and at > 0.5:
                    back.setdefault(message.partition(), round(at, 2))
            if time.time() - killed > BACK_S:
                raise SystemExit(f"not back after {BACK_S:.0f} s: {back}")
        consumer.close()
        return back

    def said(self, slot: str) -> list[str]:
        """What a worker has said of partitions that it took over."""
        lines = (self.folder / f"{slot}.log").read_text().splitlines()
        return [line for line in lines if any(word in line for word in TOLD)][-12:]

    def stop(self) -> None:
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            child.wait(30)
        self.children.clear()

    def _ready(self, slot: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[slot]}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class steady:
    """Events of the world's users, so many a second, until the block ends."""

    def __init__(self, broker: DevKafka, topics: Topics, rate: int, options: Any) -> None:
        self._producer, self._topic, self._rate = producer_of(broker.bootstrap, 5), topics.behaviour, rate
        self._users, self._items = options.users, options.items
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self._producer.flush(10)

    def _run(self) -> None:
        random, number, began = np.random.default_rng(1), 0, time.monotonic()
        partitions_of([b"u"], PARTITIONS)
        while not self._ends.is_set():
            user, item = int(random.integers(self._users)), int(random.integers(self._items))
            event = Behaviour(f"u{user}", f"i{item}", "view", 1.0, now_ms(), f"live{number}", {})
            self._producer.produce(self._topic, encode(event), event.user.encode())
            self._producer.poll(0)
            number += 1
            self._ends.wait(max(0.0, began + number / self._rate - time.monotonic()))


if __name__ == "__main__":
    raise SystemExit(main())
