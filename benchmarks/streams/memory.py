"""What a worker's memory does at a constant number of entities, and how much a million of them take.

    python benchmarks/streams/memory.py --minutes 10                     # about 12 minutes
    python benchmarks/streams/memory.py --minutes 2 --users 50000

`forebay work` with all three stages and five user segments sees each of the users and items once. Then behaviours of
these alone go on at a steady rate. Its resident memory is read each second, and so is what it says of its tables. A
slope is that of the straight line through all but the first fifth. The identities of a day's accepted events grow by
design (16 bytes each, up to `intake_memory_mb`): they are told beside it.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figures import Figure, slope, tell, words_of
from forebay.cli.benchlive import producer_of
from forebay.clock import now_ms
from forebay.events import Behaviour, encode
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics
from load import Pair, item_of, send, user_of
from rig import Child, Site, movielens, rss_mb, running, say

READY_S, IDLE_S, WARM = 180.0, 300.0, 0.2
FIRST, KNOWN = (
    20_000,
    500,
)  # events before the first look at memory, and their users, and items: batches are full by then
TICK_S = 0.01
_SAMPLE = re.compile(r"^(forebay_\w+)\{(.*)\} (\S+)$")


@dataclass(frozen=True)
class Sample:
    """Megabytes at a moment (s): of the process, of its identities, and of all tables that it tells of."""

    at_s: float
    rss: float
    identities: float
    tables: float


def main() -> int:
    words = words_of(__doc__)
    words.set_defaults(repeats=1)
    words.add_argument("--minutes", type=float, default=10.0, help="of the steady rate (10)")
    words.add_argument("--rate", type=int, default=2_000, help="events a second (2,000)")
    words.add_argument("--users", type=int, default=200_000, help="(200,000)")
    words.add_argument("--items", type=int, default=20_000, help="(20,000)")
    given = words.parse_args()
    if min(given.users, given.items) <= KNOWN:
        words.error(f"--users and --items are above {KNOWN}")
    bundle = movielens(given.items)
    names = ("RSS", "of which identities", "of which all its tables", "all but identities")
    slopes: dict[str, list[float]] = {name: [] for name in names}
    per_million, last = [], []
    with tempfile.TemporaryDirectory(prefix="forebay-memory-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        for turn in range(given.repeats):
            site = Site.made(broker, Topics(f"m{turn}."), bundle, Path(folder) / str(turn))
            with _worker(site) as worker:
                worker.ready()
                worker.done(send(broker.bootstrap, site.topics.behaviour, _pairs(FIRST, KNOWN, KNOWN, "warm"))[0])
                empty = worker.sample()
                said = f"{given.users:,} users and {given.items:,} items"
                say(f"repeat {turn + 1} of {given.repeats}: {empty.rss:,.0f} MB before {said}")
                count = max(given.users, given.items)
                more = send(broker.bootstrap, site.topics.behaviour, _pairs(count, given.users, given.items, "once"))[0]
                worker.done(FIRST + more)
                full = worker.sample()
                per_million.append((full.rss - empty.rss) * 1e6 / (given.users + given.items - 2 * KNOWN))
                say(f"{full.rss:,.0f} MB with them")
                samples = list(steady(worker, site, given.users, given.items, given.rate, given.minutes * 60))
            last.append(samples[-1].rss)
            for name, values in slopes_of(samples).items():
                slopes[name].append(values)
    figures = [
        Figure("a million entities", per_million, "MB"),
        Figure(f"RSS after {given.minutes:g} minutes", last, "MB"),
        *(Figure(f"slope, {name}", values, "MB/min") for name, values in slopes.items()),
    ]
    more = {"entities": given.users + given.items, "events/s": given.rate, "minutes": given.minutes}
    tell(figures, as_json=given.json, more=more)
    return 0


def slopes_of(samples: list[Sample]) -> dict[str, float]:
    """MB in a minute, of all but the first fifth of the samples."""
    late = samples[int(len(samples) * WARM) :]
    seconds = [one.at_s for one in late]
    return {
        "RSS": slope(seconds, [one.rss for one in late]),
        "of which identities": slope(seconds, [one.identities for one in late]),
        "of which all its tables": slope(seconds, [one.tables for one in late]),
        "all but identities": slope(seconds, [one.rss - one.identities for one in late]),
    }


def scraped(text: str) -> dict[tuple[str, str, str], float]:
    """Of a page of metrics: the sums by name, stage and `of`."""
    found: dict[tuple[str, str, str], float] = {}
    for line in text.splitlines():
        if (match := _SAMPLE.match(line)) is not None:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            key = (match[1], labels.get("stage", ""), labels.get("of", ""))
            found[key] = found.get(key, 0.0) + float(match[3])
    return found


class _Worker:
    """`forebay work`, asked at its status address."""

    def __init__(self, child: Child, address: str) -> None:
        self._child, self._address = child, address

    def ready(self) -> None:
        """Wait until it does its work. Raises SystemExit."""
        deadline = time.monotonic() + READY_S
        while True:
            self._child.look()
            try:
                with urllib.request.urlopen(f"http://{self._address}/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"the worker was not ready within {READY_S:.0f} s")
            time.sleep(0.2)

    def done(self, events: int) -> None:
        """Wait until both sides have committed so many, and five seconds more, for what is written behind."""
        deadline = time.monotonic() + IDLE_S
        while True:
            self._child.look()
            told = self._told()
            if all(told.get(("forebay_events_total", side, ""), 0) >= events for side in ("user", "item")):
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"{events:,} events were not committed within {IDLE_S:.0f} s")
            time.sleep(0.5)
        time.sleep(5)

    def sample(self) -> Sample:
        """Its memory as it is now."""
        self._child.look()
        memory = {key: size / 1e6 for key, size in self._told().items() if key[0] == "forebay_memory_bytes"}
        identities = sum(size for (_, _, of), size in memory.items() if of == "identities")
        return Sample(time.monotonic(), rss_mb(self._child.process.pid), identities, sum(memory.values()))

    def _told(self) -> dict[tuple[str, str, str], float]:
        with urllib.request.urlopen(f"http://{self._address}/metrics", timeout=10) as answer:
            return scraped(answer.read().decode())


class _worker:
    """A _Worker until the block ends."""

    def __init__(self, site: Site) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = [sys.executable, "-m", "forebay.cli", "work", "--status", address]
        self._running, self._address = running(command, site.folder / "work.log", site.environment()), address

    def __enter__(self) -> _Worker:
        return _Worker(self._running.__enter__(), self._address)

    def __exit__(self, *error: object) -> None:
        self._running.__exit__(*error)  # type: ignore[arg-type]


def steady(worker: _Worker, site: Site, users: int, items: int, rate: int, seconds: float) -> Iterator[Sample]:
    """Behaviours of those that are known already, so many a second; a sample each second."""
    producer, random = producer_of(site.broker.bootstrap, 20), np.random.default_rng(1)
    began, sent, told = time.monotonic(), 0, 0.0
    next_sample = began + 1
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(int(passed * rate) - sent):
            user, item = int(random.integers(users)), int(random.integers(items))
            event = Behaviour(
                user_of(user), item_of(item), "rate", 1.0 + sent % 5, now_ms(), f"steady-{sent}", {"genres": ["Drama"]}
            )
            producer.produce(site.topics.behaviour, encode(event), event.user.encode())
            sent += 1
        producer.poll(0)
        if time.monotonic() >= next_sample:
            next_sample += 1
            sample = worker.sample()
            yield sample
            if passed - told >= 30:
                told = passed
                say(f"{passed:.0f} of {seconds:.0f} s: {sample.rss:,.0f} MB, identities {sample.identities:,.0f}")
        time.sleep(TICK_S)
    producer.flush(10)


def _pairs(count: int, users: int, items: int, name: str) -> Iterator[Pair]:
    now = now_ms()
    for n in range(count):
        user = user_of(n % users)
        event = Behaviour(user, item_of(n % items), "rate", float(1 + n % 5), now, f"{name}-{n}", {"genres": ["Drama"]})
        yield user.encode(), encode(event)


if __name__ == "__main__":
    raise SystemExit(main())
