"""How long a serving node takes from its start to its rows, and what memory they take.

    python benchmarks/serving/restart.py [--items 1000000] [--users 0] [--folder DIR] [--beside SRC] [--json]

The store is filled once, with the segments of the MovieLens spec and its affinity fusion. Each way of starting runs in
a process of its own, so that its memory is its own; the file cache is warm. The ways:

    raw scan           every record read from the store and not looked at: what no way over all records is under
    serve, untrained   one process: tables and index filled from the store, and the lists of the index trained
    serve              the same once more, with the clusters that the start before has kept beside the store
    replica, empty     the writer of a node of several processes, whose tables are made anew: after a reboot
    replica, tables    the same, whose tables are there from before

Times are of `load`, with the opening of store and tables; imports and compiled kernels are told apart as `warm`. With
`--beside` each way runs twice, with the code here and with that of another checkout's `src`, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from forebay.cli.bench import bundle_of_benches
from forebay.clock import now_ms
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.servingcopy import ServingCopy
from forebay.store.vectors import VectorStore

PARTITIONS, BATCH = 4, 4096
WAYS = ("raw scan", "serve, untrained", "serve", "replica, empty", "replica, tables")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--items", type=int, default=1_000_000)
    words.add_argument("--users", type=int, default=0)
    words.add_argument("--folder", help="on which device: a temporary folder there")
    words.add_argument("--beside", type=Path, help="the src of another checkout: its figures are before")
    words.add_argument("--json", action="store_true", help="print the lines as JSON")
    words.add_argument("--tables", default="tables", help=argparse.SUPPRESS)
    words.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.way:
        print(json.dumps(_started(given.way, Path(given.folder), given.tables)))
        return 0
    counts: dict[Side, int] = {"item": given.items, "user": given.users}
    with tempfile.TemporaryDirectory(prefix="forebay-restart-", dir=given.folder) as folder:
        fill_s = _fill(Path(folder), counts)
        size = sum(path.stat().st_size for path in (Path(folder) / "vectors").iterdir())
        lines = []
        for way in WAYS:
            for source in (given.beside, None) if given.beside else (None,):
                command = [sys.executable, __file__, "--way", way, "--folder", folder]
                environment = dict(os.environ)
                if source:
                    command += ["--tables", "tables-before"]
                    environment["PYTHONPATH"] = str(source)
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                lines.append({"code": "before" if source else "here", **json.loads(done.stdout)})
    if given.json:
        print(json.dumps({"counts": counts, "fill_s": fill_s, "store_bytes": size, "ways": lines}))
        return 0
    print(f"{counts['item']:,} items, {counts['user']:,} users, {size / 1e6:,.0f} MB on disk, filled in {fill_s:.1f} s")
    heads = ("rows", 12), ("warm s", 9), ("load s", 9), ("rows/s", 12), ("memory MB", 12), ("of it files", 13)
    print(f"{'code':<8}{'way':<18}" + "".join(f"{head:>{width}}" for head, width in heads))
    for line in lines:
        rate = line["rows"] / line["load_s"]
        print(
            f"{line['code']:<8}{line['way']:<18}{line['rows']:>12,}{line['warm_s']:>9.2f}{line['load_s']:>9.2f}"
            f"{rate:>12,.0f}"
            f"{line['memory_mb']:>12,.0f}{line['files_mb']:>13,.0f}"
        )
    return 0


def _fill(folder: Path, counts: dict[Side, int]) -> float:
    """Write the store, as a replica would; returns the seconds."""
    bundle, random, now = bundle_of_benches(), np.random.default_rng(0), now_ms()
    start = time.perf_counter()
    with _store(bundle, folder) as store:
        for side, count in counts.items():
            codec = codec_of(bundle, side)
            for first in range(0, count, BATCH):
                ids = [f"{side}-{n}" for n in range(first, min(first + BATCH, count))]
                rows = codec.empty(len(ids))
                for segment in bundle.spec.side(side):
                    part = rows["segments"][segment.name]
                    part["vector"] = random.integers(-127, 128, part["vector"].shape, np.int8)
                    part["scale"], part["as_of"], part["last_event"] = 0.01, now, now
                records = codec.pack(rows, ids)
                puts = [(ids[i], i % PARTITIONS, records[i]) for i in range(len(ids))]
                store.write(side, puts, [], dict.fromkeys(range(PARTITIONS), now), {(side, 0): first})
    return time.perf_counter() - start


def _store(bundle: Bundle, folder: Path) -> VectorStore:
    return VectorStore.open(folder / "vectors", create=True, generation="bench", bundle_hash=bundle.hash)


def _started(way: str, folder: Path, tables: str) -> dict[str, Any]:
    bundle = bundle_of_benches()
    generation = Generation.new("bench", bundle.hash, dict.fromkeys(SIDES, PARTITIONS), {})
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="forebay-warm-", dir=folder) as beside:
        _warm(way, bundle, generation, Path(beside))
    warm_s, before = time.perf_counter() - start, _memory()
    start = time.perf_counter()
    if way == "raw scan":
        with _store(bundle, folder) as store:
            rows = sum(len(part) for side in SIDES for part in store.scan_by(side, BATCH))
    elif way.startswith("serve"):
        copy = ServingCopy.open(bundle, generation, folder / "vectors")
        rows = copy.load()
    else:
        feeding = FeedingCopy.open(bundle, generation, folder / "vectors", folder / tables)
        rows = feeding.load()
    load_s, after = time.perf_counter() - start, _memory()
    if way.startswith("replica"):
        rows = sum(feeding.rows().values())
        feeding.close()
    return {
        "way": way, "rows": rows, "warm_s": warm_s, "load_s": load_s, "files_mb": after[1] - before[1],
        "memory_mb": after[0] - before[0],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def _warm(way: str, bundle: Bundle, generation: Generation, folder: Path) -> None:
    """Compile what the way runs."""
    with _store(bundle, folder) as store:
        for side in SIDES:
            codec = codec_of(bundle, side)
            rows, ids = codec.empty(20), [f"{side}-{n}" for n in range(20)]
            store.write(
                side, [(i, 0, record) for i, record in zip(ids, codec.pack(rows, ids), strict=True)], [], {}, {}
            )
    for _ in range(2):
        if way.startswith("serve"):
            copy = ServingCopy.open(bundle, generation, folder / "vectors")
            copy.load()
            copy.close()
        elif way != "raw scan":
            feeding = FeedingCopy.open(bundle, generation, folder / "vectors", folder / "tables")
            feeding.load()
            feeding.close()


def _memory() -> tuple[float, float]:
    """Resident memory of this process in MB, and how much of it is mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kb = {name: int(value.split()[0]) for name, value in (n.split(":", 1) for n in lines if n.startswith("Rss"))}
    return sum(kb.values()) / 1000, (kb["RssFile"] + kb["RssShmem"]) / 1000


if __name__ == "__main__":
    sys.exit(main())
