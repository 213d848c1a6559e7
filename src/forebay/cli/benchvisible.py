"""How soon a search finds an item that was just written, for `forebay bench index`: in one process (ServingCopy), and
by another process over shared tables (FeedingCopy and SharedCopy). No broker.

Items are written in batches, as a replica writes them: one is new, the others are there already. So lists are made anew
in the background meanwhile. The new one is what the query of the searches likes best of all. The moment before `write`
is the beginning, the store's own write included; the end is that of the first search that has found it. The other
process searches all the time, and both read one clock of the machine. A search that began after `write` had returned,
and did not find the item, is a miss.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forebay.arrays import Floats
from forebay.cli.benchnode import FILL, NAME, rows_of
from forebay.cli.benchvectors import CENTRES
from forebay.clock import now_ms
from forebay.errors import ServerUnavailable
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import InnerProduct
from forebay.segments.spec import SIDES
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import RowCodec, Rows, codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.reading import Copy
from forebay.store.servingcopy import ServingCopy
from forebay.store.sharedcopy import SharedCopy

WRITES, BATCH = 200, 100
BUDGET_MS, PATIENCE_S = 5.0, 10.0

Line = dict[str, Any]
Writer = ServingCopy | FeedingCopy


@dataclass(frozen=True)
class Seen:
    """When a search had found an item, and when those before it began that had not: nanoseconds of the machine's
    clock."""

    at_ns: int
    missed_ns: list[int]


class Finder(Protocol):
    """Who searches."""

    def expect(self, number: int) -> None:
        """New item `number` is about to be written."""

    def found(self, number: int) -> Seen:
        """It has been written: waits until a search finds it."""


def bench(
    bundle: Bundle, repeats: int, line: Callable[..., Line], items: int = 100_000, writes: int = WRITES
) -> list[Line]:
    """The lines of this bench; `line` makes one of its name, values, unit and budget."""
    runs: dict[str, list[_Run]] = {"in one process": [], "by another process": []}
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder:
        generation = Generation.new(NAME, bundle.hash, dict.fromkeys(SIDES, 1), {})
        own = ServingCopy.open(bundle, generation, Path(folder) / "own")
        fed = FeedingCopy.open(bundle, generation, Path(folder) / "vectors", Path(folder) / "tables")
        try:
            for copy in (own, fed):
                _fill(copy, items)
            own.warm()
            with _searching(bundle, generation, Path(folder)) as other:
                finders: dict[str, tuple[Writer, Finder]] = {
                    "in one process": (own, _Own(own, query_of(bundle))), "by another process": (fed, other),
                }  # fmt: skip
                for turn in range(repeats):
                    for where, (copy, finder) in finders.items():
                        runs[where].append(_run(bundle, copy, finder, items, range(turn * writes, (turn + 1) * writes)))
        finally:
            own.close()
            fed.close()
    lines = []
    for where, found in runs.items():
        for q, target in ((50, None), (99, BUDGET_MS)):
            values = [float(np.percentile(run.until_found_ms, q)) for run in found]
            lines.append(line(f"a new item until a search {where} finds it, p{q}", values, "ms", target, at_most=True))
        values = [float(np.median(run.write_ms)) for run in found]
        lines.append(line(f"the write of its batch of {BATCH} in that, {where}, p50", values, "ms", None, at_most=True))
        missed = [float(run.missed) for run in found]
        lines.append(line(f"searches {where} after a write that missed its item", missed, "", 0.0, at_most=True))
    return lines


def query_of(bundle: Bundle) -> Floats:
    """One user's half of the fusion for `retrieve`, float32 [dims]."""
    fusion = bundle.fusions["retrieve"]
    assert isinstance(fusion, InnerProduct)
    return fusion.query(np.random.default_rng(4).standard_normal(fusion.shape.user_dim, np.float32))


def found_by(copy: Copy, query: Floats, number: int) -> Seen:
    """Searches `copy` until new item `number` is the best. Raises ServerUnavailable when it never is."""
    wanted, missed, deny = int(hash_ids([name_of(number)])[0]), list[int](), np.zeros(0, np.int64)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        began = time.monotonic_ns()
        if wanted in copy.search(query, 1, deny).tolist():
            return Seen(time.monotonic_ns(), missed)
        missed.append(began)
    raise ServerUnavailable(f"no search has found {name_of(number)}", where=f"{PATIENCE_S:g} s after it was written")


@dataclass(frozen=True)
class _Run:
    """Of some writes: milliseconds from before each until its item was found, and until the write returned; and how
    many searches began after that and missed it."""

    until_found_ms: list[float]
    write_ms: list[float]
    missed: int


def _run(bundle: Bundle, copy: Writer, finder: Finder, items: int, numbers: range) -> _Run:
    codec, random, query = codec_of(bundle, "item"), np.random.default_rng(numbers.start), query_of(bundle)
    found, wrote, missed = list[float](), list[float](), 0
    for number in numbers:
        rows = _clustered(codec, BATCH, random)
        _make_best(codec, rows, query, number)
        names = [name_of(number), *(f"i{n}" for n in random.integers(0, items, BATCH - 1))]
        puts = [(name, 0, record) for name, record in zip(names, codec.pack(rows, names), strict=True)]
        finder.expect(number)
        started = time.monotonic_ns()
        copy.write("item", puts, [], {}, {})
        written = time.monotonic_ns()
        seen = finder.found(number)
        found.append((seen.at_ns - started) / 1e6)
        wrote.append((written - started) / 1e6)
        missed += sum(began > written for began in seen.missed_ns)
        if isinstance(copy, FeedingCopy):
            copy.stand(now_ms(), True)  # as a replica does; lists are made anew if they are due
    return _Run(found, wrote, missed)


def _clustered(codec: RowCodec, count: int, random: np.random.Generator) -> Rows:
    """Rows of vectors near to one of some hundred places, as those of items are."""
    rows, near = rows_of(codec, count, random), random.integers(0, CENTRES, count)
    for place, segment in enumerate(codec.segments):
        centres = np.random.default_rng(place).integers(-90, 91, (CENTRES, segment.dim))
        moved = centres[near] + random.integers(-30, 31, (count, segment.dim))
        rows["segments"][segment.name]["vector"] = moved
    return rows


def _make_best(codec: RowCodec, rows: Rows, query: Floats, number: int) -> None:
    """The first of the rows is liked better than all that came before it."""
    for place, segment in enumerate(codec.segments):
        part = query[codec.bounds[place] : codec.bounds[place + 1]]
        own = rows["segments"][segment.name]
        own["vector"][0], own["scale"][0] = 127 * np.sign(part), 0.1 + 0.01 * number


def name_of(number: int) -> str:
    """Of a new item."""
    return f"new{number}"


def _fill(copy: Writer, items: int) -> None:
    """Items i0… of clustered vectors, and lists of them."""
    random, codec = np.random.default_rng(0), copy.codecs["item"]
    for first in range(0, items, FILL):
        names = [f"i{n}" for n in range(first, min(items, first + FILL))]
        records = codec.pack(_clustered(codec, len(names), random), names)
        copy.write("item", [(name, 0, record) for name, record in zip(names, records, strict=True)], [], {}, {})
    for side in SIDES:
        copy.write(side, [], [], {0: now_ms()}, {})
    copy.load()  # at its end lists are made, and waited for


class _Own:
    """Searches in this process, after the write."""

    def __init__(self, copy: Copy, query: Floats) -> None:
        self._copy, self._query = copy, query

    def expect(self, number: int) -> None:
        pass

    def found(self, number: int) -> Seen:
        return found_by(self._copy, self._query, number)


class _Other:
    """Another process, which searches from the moment on at which it is told of an item."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None and child.stdout is not None
        self._asks, self._says = child.stdin, child.stdout
        self._line()  # it is there

    def expect(self, number: int) -> None:
        self._asks.write(f"{number}\n")
        self._asks.flush()
        self._line()  # it has heard

    def found(self, number: int) -> Seen:
        at, *missed = self._line().split()
        return Seen(int(at), [int(began) for began in missed])

    def _line(self) -> str:
        if not (line := self._says.readline()):
            raise ServerUnavailable("the process that searches has ended", where="what it said stands above")
        return line


@contextmanager
def _searching(bundle: Bundle, generation: Generation, folder: Path) -> Iterator[Finder]:
    """Another process that maps the tables in `folder`, until the block ends."""
    path = bundle.save(folder / "bundles")
    generation.save(folder / "generation")
    words = [str(path), str(folder / "generation"), str(folder / "tables")]
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield _Other(child)
    finally:
        child.terminate()
        child.communicate(timeout=PATIENCE_S)


def _search(bundle: str, generation: str, tables: str) -> None:
    """The other process: a line for each item that it is told to expect, and one when it has found it."""
    model = Bundle.load(Path(bundle))
    copy, query = SharedCopy.open(model, Generation.load(Path(generation)), Path(tables)), query_of(model)
    copy.search(query, 1, np.zeros(0, np.int64))  # compiled, or read from where compiled kernels are kept
    print("ready", flush=True)
    for line in sys.stdin:
        print("searching", flush=True)
        seen = found_by(copy, query, int(line))
        print(seen.at_ns, *seen.missed_ns, flush=True)


if __name__ == "__main__":
    _search(*sys.argv[1:])
