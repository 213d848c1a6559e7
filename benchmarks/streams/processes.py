"""The user side in one process, and in two that share its partitions: what a second process brings, and what it costs.

    python benchmarks/streams/processes.py --repeats 3                   # users by Zipf's law
    python benchmarks/streams/processes.py --repeats 3 --new             # every event of a new user

Workers start on an empty clean log and share its partitions; then all Blocks of the log are sent at once. Measured is
the time from the first commit of any process to the last one of all, and the CPU time of each process and of the broker
over the same span. Where the broker and both workers have no core each, the rates tell more of the machine than of the
processes: `--json` says how many cores there are, and CPU time for an event is told beside each rate.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from figures import Figure, Goal, Seen, tell, words_of
from forebay.cli.benchlive import skewed, until
from forebay.clock import now_ms
from forebay.events import Attributes, Behaviour
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics
from forebay.streams.transports.librdkafka.groups import assignments
from load import item_of, user_of
from rig import PARTITIONS, STALL_S, Child, Site, cpu_s, drop_topics, movielens, say

USERS, ITEMS, BLOCK = 100_000, 20_000, 1024
GAIN = 1.6


@dataclass(frozen=True)
class Sent:
    """A Block on its way: partition, header and value."""

    partition: int
    header: bytes
    value: bytes


@dataclass(frozen=True)
class Drained:
    """Events a second, and CPU time of an event (µs): of all workers together, and of the broker."""

    per_s: float
    cpu_us: float
    broker_us: float


def main() -> int:
    words = words_of(__doc__)
    words.add_argument("--events", type=int, default=400_000, help="of each measurement (400,000)")
    words.add_argument("--new", action="store_true", help="every event is of a user that was never seen")
    given = words.parse_args()
    bundle = movielens(ITEMS)
    genres = [str(v) for v in bundle.spec.attribute("item", "genres").values]
    found: dict[int, list[Drained]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forebay-processes-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        for turn in range(given.repeats):
            blocks = list(_blocks(turn, given.events, genres, fresh=given.new))
            for processes in (1, 2):
                topics = Topics(f"p{turn}.{processes}.")
                site = Site.made(broker, topics, bundle, Path(folder) / topics.prefix)
                found[processes].append(one := _drained(site, blocks, given.events, processes))
                say(
                    f"repeat {turn + 1} of {given.repeats}: {processes}, {one.per_s:,.0f} events/s, "
                    f"{one.cpu_us:.1f} µs of CPU an event, {one.broker_us:.1f} of the broker"
                )
                drop_topics(broker.bootstrap, topics.prefix)
    figures = []
    for processes, runs in found.items():
        name = "one process" if processes == 1 else f"{processes} processes"
        figures += [
            Figure(name, [one.per_s for one in runs], "events/s"),
            Figure(f"{name}, CPU of the workers", [one.cpu_us for one in runs], "µs an event"),
            Figure(f"{name}, CPU of the broker", [one.broker_us for one in runs], "µs an event"),
        ]
    ones, twos = found[1], found[2]
    gains = [two.per_s / one.per_s for one, two in zip(ones, twos, strict=True)]
    costs = [two.cpu_us / one.cpu_us for one, two in zip(ones, twos, strict=True)]
    figures += [Figure("two, times one", gains, "x", Goal(GAIN)), Figure("CPU of two, times that of one", costs, "x")]
    users = "each of a new user" if given.new else f"Zipf over {USERS:,} users"
    tell(figures, as_json=given.json, more={"events": f"{given.events:,}, {users}"})
    return 0


def _blocks(seed: int, count: int, genres: Sequence[str], *, fresh: bool) -> Iterator[Sent]:
    """Behaviours as an Intake would have written them, a Block of each partition by turns."""
    random, now = np.random.default_rng(seed), now_ms()
    users = np.arange(count) if fresh else skewed(random, USERS, count)
    items = (ITEMS * random.random(count) ** 2).astype(int).tolist()
    names = [user_of(user) for user in users.tolist()]
    homes = partitions_of([name.encode() for name in names], PARTITIONS)
    waiting: dict[int, list[Behaviour]] = defaultdict(list)
    for n, (user, item, home) in enumerate(zip(names, items, homes.tolist(), strict=True)):
        own: Attributes = {"genres": [genres[item % len(genres)]]}
        mine = waiting[home]
        mine.append(Behaviour(user, item_of(item), "rate", float(1 + n % 5), now - n % 60_000, f"e{seed}-{n}", own))
        if len(mine) == BLOCK:
            yield from _sent(home, mine, now)
            mine.clear()
    for home, mine in waiting.items():
        if mine:
            yield from _sent(home, mine, now)


def _sent(partition: int, events: Sequence[Behaviour], now: int) -> Iterator[Sent]:
    block = block_of(events, [now] * len(events), range(len(events)), [0] * len(events), ("bench/0",))
    for header, value in block.encode():
        yield Sent(partition, header, value)


def _drained(site: Site, blocks: Sequence[Sent], events: int, processes: int) -> Drained:
    """By so many workers, each of which has its share of the partitions before anything is sent."""
    with ExitStack() as stack:
        children = [stack.enter_context(site.working(["user"], slot=str(number))) for number in range(processes)]
        group, share = site.topics.group("g1", "user"), PARTITIONS // processes

        def look() -> None:
            for child in children:
                child.look()

        def shared() -> bool:
            found = assignments(site.broker.bootstrap, group)
            return len(found) == processes and all(len(places) == share for places in found.values())

        until(shared, look)
        time.sleep(2.0)  # partitions are opened, and taken up by who has them now
        _send(site, blocks)
        broker_before = cpu_s(site.broker.pid)
        commits = _commits(children, events)
        broker = cpu_s(site.broker.pid) - broker_before
    return _between(commits, broker)


def _send(site: Site, blocks: Sequence[Sent]) -> None:
    producer = Producer({"bootstrap.servers": site.broker.bootstrap, "linger.ms": 5})
    for one in blocks:
        producer.produce(site.topics.events("user"), one.value, partition=one.partition, headers=[(HEADER, one.header)])
    if producer.flush(STALL_S):
        raise TimeoutError(f"the broker did not take all blocks within {STALL_S:.0f} s")


def _commits(children: Sequence[Child], events: int) -> list[list[Seen]]:
    """Those of each child, once all `events` are committed and encoded. Raises SystemExit where nothing comes for a
    minute."""
    before, grew = 0, time.monotonic()
    while True:
        found = []
        for child in children:
            child.look()
            found.append(child.commits())
        done, now = sum(seen[-1].events for seen in found if seen), time.monotonic()
        if done >= events:
            return found
        if done > before:
            before, grew = done, now
        if now - grew > STALL_S:
            raise SystemExit(f"{done:,} of {events:,} events, and nothing for {STALL_S:.0f} s")
        time.sleep(0.05)


def _between(commits: Sequence[Sequence[Seen]], broker_s: float) -> Drained:
    """From the first commit of any to the last of all. What a process did before its own first commit does not count,
    neither its events nor its CPU time."""
    began = min(seen[0].at_s for seen in commits if seen)
    ended = max(seen[-1].at_s for seen in commits if seen)
    events = sum(seen[-1].events - seen[0].events for seen in commits if seen)
    cpu = sum(seen[-1].cpu_s - seen[0].cpu_s for seen in commits if seen)
    everything = sum(seen[-1].events for seen in commits if seen)
    return Drained(events / (ended - began), cpu * 1e6 / events, broker_s * 1e6 / everything)


if __name__ == "__main__":
    raise SystemExit(main())
