"""How fast a partition's state is kept as a Checkpoint, and becomes a store again: MB/s, without Kafka.

    python benchmarks/streams/checkpoints.py                             # 100,000 users, a minute
    python benchmarks/streams/checkpoints.py --url s3://bucket/bench     # another place; its client must be installed

One user partition of five segments is folded, encoded and written once. Then, for each place and repeat: kept where
nothing is there yet; kept once more, when only hashes are compared; fetched into an empty folder, each file held
against its name; and opened from there, as a worker does that takes the partition over. On one disk a sorted file is
linked and not copied: there keeping is reading and hashing.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figures import Figure, Goal, tell, words_of
from forebay.clock import now_ms
from forebay.events import Behaviour
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.store.checkpoints import Checkpoints, about
from forebay.store.partitionstore import PartitionMeta
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source
from load import item_of, user_of
from rig import movielens, say

ITEMS, BATCH, SCOPE, STORE = 20_000, 4_096, "bench", "bench/user-0"
MOVED_S = 10.0  # a partition of 100,000 users, to an empty machine
SOURCE = Source("bench.events.user", 0, "bench")


def main() -> int:
    words = words_of(__doc__)
    words.add_argument("--users", type=int, default=100_000, help="of the partition (100,000)")
    words.add_argument("--each", type=int, default=5, help="events of each user (5)")
    words.add_argument("--url", action="append", help="a place; may be repeated (a temporary folder, and memory://)")
    given = words.parse_args()
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forebay-checkpoints-") as temporary:
        folder = Path(temporary)
        say(f"folding {given.users * given.each:,} events of {given.users:,} users")
        processor = built(movielens(ITEMS), folder / "here", given.users, given.each)
        meta = processor.partitions[0].meta
        processor.close(0)
        places = {url: url for url in given.url or ()} or {
            f"file://{folder / 'there'}": "file://",
            "memory://": "memory://",
        }
        for turn in range(given.repeats):
            for url, place in places.items():
                say(f"repeat {turn + 1} of {given.repeats}: {place}")
                at = f"{url.rstrip('/')}/{turn}" if url != "memory://" else f"memory://{turn}"
                took = measure(at, processor, folder / "here" / "user-0", folder / f"back-{turn}", meta)
                for name, value in took.figures(place).items():
                    found[name].append(value)
    goal = Goal(MOVED_S, at_most=True)
    figures = [Figure(name, values, unit, goal if unit == "s" else None) for (name, unit), values in found.items()]
    tell(figures, as_json=given.json, more={"users": given.users, "MB": round(took.bytes / 1e6, 1)})
    return 0


def built(bundle: Bundle, folder: Path, users: int, each: int) -> Processor:
    """A Processor whose partition 0 has so many users, all of it in its store."""
    processor = Processor(bundle, "user", Topics(), SCOPE, 1, folder)
    processor.open(0, SOURCE, 0)
    for number, batch in enumerate(_batches(users, each), start=1):
        processor.apply([batch])
        if number % 8 == 0:
            processor.flush()
    processor.flush()
    return processor


@dataclass(frozen=True)
class Took:
    """One round at one place: seconds of each step, and how many bytes the Checkpoint has."""

    kept: float
    kept_again: float
    fetched: float
    opened: float
    bytes: int

    def figures(self, place: str) -> dict[tuple[str, str], float]:
        """MB/s and seconds, by name and unit."""
        restored, size = self.fetched + self.opened, self.bytes / 1e6
        return {
            (f"kept, {place}", "MB/s"): size / self.kept,
            (f"kept again with nothing new, {place}", "ms"): self.kept_again * 1000,
            (f"fetched, {place}", "MB/s"): size / self.fetched,
            (f"restored (fetched and opened), {place}", "MB/s"): size / restored,
            (f"restored (fetched and opened), {place}", "s"): restored,
        }


def measure(url: str, processor: Processor, here: Path, back: Path, meta: PartitionMeta) -> Took:
    """One round at `url`, of the store at `here`, by way of the folder `back`; nothing is left at either. Raises
    SystemExit where what comes back is not what was kept."""
    checkpoints = Checkpoints(url)  # a new one: it remembers hashes
    moments = [time.perf_counter()]
    try:
        saved = checkpoints.save(here, about(STORE, meta, now_ms()))
        moments.append(time.perf_counter())
        again = checkpoints.save(here, about(STORE, meta, now_ms() + 1))
        moments.append(time.perf_counter())
        checkpoints.fetch(checkpoints.load(STORE, checkpoints.names(STORE)[0]), back / "user-0")
        moments.append(time.perf_counter())
        opened = processor.open(0, SOURCE, 0, create=False, folder=back / "user-0")
        moments.append(time.perf_counter())
        found = opened.meta
        processor.close(0)
    finally:
        checkpoints.remove(SCOPE)
        shutil.rmtree(back, ignore_errors=True)
    if again.new_bytes or found != meta:
        raise SystemExit(f"{again.new_bytes:,} bytes travelled twice, {found} came back, and {meta} was kept")
    return Took(*(later - before for before, later in itertools.pairwise(moments)), saved.checkpoint.bytes)


def _batches(users: int, each: int) -> Iterator[PartitionBatch]:
    random, now = np.random.default_rng(0), now_ms()
    for start in range(0, users * each, BATCH):
        places = range(start, min(start + BATCH, users * each))
        items = random.integers(ITEMS, size=len(places)).tolist()
        events = [
            Behaviour(
                user_of(p % users),
                item_of(i),
                "rate",
                float(1 + p % 5),
                now + p // users,
                f"e{p}",
                {"genres": ["Drama"]},
            )
            for p, i in zip(places, items, strict=True)
        ]
        none = [0] * len(events)
        for header, value in block_of(events, [now] * len(events), none, none, ("bench/0",)).encode():
            yield PartitionBatch(0, [None], [value], [start], [now], [((HEADER, header),)])


if __name__ == "__main__":
    raise SystemExit(main())
