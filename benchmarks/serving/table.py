"""What it costs to read rows out of a shared table, alone and beside a writer in another process.

    python benchmarks/serving/table.py [--rows 100000 1000000] [--reads 1500] [--rate 5000] [--folder DIR]

Rows are those of items with four segments of 64 dimensions and a half of 288 numbers: 960 bytes. Each read asks for
1,000 random ids that were not asked for just before: `dots` is their fused inner product with one user's query (int8
codes), `halves` brings their halves (float16 to float32). The two are interleaved, and so are rounds with and without
the writer, since a machine's speed drifts. A writer updates so many rows a second, in batches of 50.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import RowCodec, Rows, SlotSpec
from forebay.store.rowlayout import RowLayout
from forebay.store.sharedtable import SharedTable
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader

CODEC = RowCodec("item", tuple(SlotSpec(name, 64, place) for place, name in enumerate("abcd")))
IDENTITY = Identity("bench", "b" * 64, RowLayout(CODEC, 288), partitions=4)
ASKED, FILL, BATCH, ROUNDS = 1000, 8192, 50, 4


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    words.add_argument("--reads", type=int, default=1500, help="of each kind, with and without a writer")
    words.add_argument("--rate", type=int, default=5000, help="rows a second that the writer updates")
    words.add_argument("--folder", help="on which device: a temporary folder there; /dev/shm is memory")
    words.add_argument("--writer", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.writer:
        return _write(Path(given.writer), given.rows[0], given.rate)
    for count in given.rows:
        with tempfile.TemporaryDirectory(prefix="forebay-table-", dir=given.folder) as folder:
            print(json.dumps(_measured(Path(folder) / "item", count, given.reads, given.rate)), flush=True)
    return 0


def _measured(folder: Path, count: int, reads: int, rate: int) -> dict[str, Any]:
    start = time.perf_counter()
    table = SharedTable(folder, IDENTITY)
    for first in range(0, count, FILL):
        numbers = np.arange(first, min(count, first + FILL))
        table.upsert(_ids(numbers), *_content(len(numbers), first))
    filled_s = time.perf_counter() - start
    table.close()
    start = time.perf_counter()
    SharedTable(folder, IDENTITY).close()
    opened_s = time.perf_counter() - start
    reader, random = TableReader(folder, IDENTITY), np.random.default_rng(0)
    query, default, oldest = random.normal(size=CODEC.dim).astype("f4"), np.zeros(4, "f4"), np.ones(4, np.int64)
    kinds: dict[str, Callable[[Ints], object]] = {
        "dots": lambda hashes: reader.dots(hashes, query, default, oldest),
        "halves": lambda hashes: reader.halves(hashes),
    }
    found: dict[str, list[float]] = {}
    _round(kinds, count, 50, random)  # what is compiled, and the pages' first touch
    for _ in range(ROUNDS):
        for name, spent in _round(kinds, count, reads // ROUNDS, random).items():
            found.setdefault(f"{name}, no writer", []).extend(spent)
        with _writing(folder, count, rate):
            for name, spent in _round(kinds, count, reads // ROUNDS, random).items():
                found.setdefault(f"{name}, {rate:,} rows/s written", []).extend(spent)
    return {
        "rows": count,
        "fill, rows/s": round(count / filled_s),
        "open, s": round(opened_s, 3),
        **{name: _told(spent) for name, spent in sorted(found.items())},
    }


def _round(
    kinds: dict[str, Callable[[Ints], object]], count: int, reads: int, random: np.random.Generator
) -> dict[str, list[float]]:
    spent: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(reads):
        for name, read in kinds.items():
            hashes = hash_ids(_ids(random.integers(0, count, ASKED)))
            start = time.perf_counter()
            read(hashes)
            spent[name].append(time.perf_counter() - start)
    return spent


def _told(spent: list[float]) -> dict[str, float]:
    micros = np.array(spent) * 1e6
    return {
        "p50 us": round(float(np.percentile(micros, 50)), 1),
        "p99 us": round(float(np.percentile(micros, 99)), 1),
        "reads/s": round(1e6 / statistics.fmean(micros.tolist())),
    }


@contextmanager
def _writing(folder: Path, count: int, rate: int) -> Iterator[None]:
    words = [sys.executable, __file__, "--writer", str(folder), "--rows", str(count), "--rate", str(rate)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        yield
    finally:
        child.terminate()
        child.communicate(timeout=60)


def _write(folder: Path, count: int, rate: int) -> int:
    table, random = SharedTable(folder, IDENTITY), np.random.default_rng(1)
    rows, owners, halves = _content(BATCH, 1)
    table.upsert(_ids(np.arange(BATCH)), rows, owners, halves)
    print("ready", flush=True)
    due = time.perf_counter()
    while True:
        table.upsert(_ids(random.integers(0, count, BATCH)), rows, owners, halves)
        due += BATCH / rate
        time.sleep(max(0.0, due - time.perf_counter()))


def _ids(numbers: Ints) -> list[str]:
    return [f"item-{n}" for n in numbers.tolist()]


def _content(count: int, seed: int) -> tuple[Rows, Ints, Floats]:
    random, rows = np.random.default_rng(seed), CODEC.empty(count)
    for segment in CODEC.segments:
        part = rows["segments"][segment.name]
        part["vector"] = random.integers(-127, 128, (count, segment.dim))
        part["scale"], part["as_of"], part["last_event"] = 0.01, 5, 5
    return rows, np.zeros(count, np.int64), random.normal(size=(count, 288)).astype("f4")


if __name__ == "__main__":
    sys.exit(main())
