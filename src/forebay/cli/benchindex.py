"""`forebay bench index`: the item index beside a scan of all items and beside its peers, on clustered vectors.

Queries are of the same clusters as the items. Each library answers one query a call, from one thread; each is set to
the least effort at which its recall of the 100 best reaches the one that is wanted. Rounds are interleaved. Memory is
that of the vectors and of what finds them. What it takes until a search finds what was written, from the write of a
replica on, is measured by benchvisible.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from forebay.arrays import Floats
from forebay.cli.benchpeers import peers
from forebay.cli.benchvectors import DIM, RECALL, K, World, best_rows, drawn
from forebay.cli.console import err
from forebay.segments.quantize import quantize
from forebay.store.faissbuild import few_threads
from forebay.store.index import ItemIndex
from forebay.store.indexkeeper import IndexOptions
from forebay.store.indexsearch import Probes

UPDATES, BATCH = 20_000, 100  # rows written again, so many at a time
CHURN = 0.3
WRITES = 200  # whose way to the next search is timed
HNSW_UPDATES_PER_S = 697.0  # of hnswlib, where it is not installed: its rate on the machine of the first figures

Line = dict[str, Any]


def filled(vectors: Floats, options: IndexOptions) -> tuple[ItemIndex, float]:
    """An index of these rows, with lists if it is large; and how long the lists took (s)."""
    index = ItemIndex(np.array([0, DIM]), options)
    with index.filling():
        for at in range(0, len(vectors), 50_000):
            codes, scales = quantize(vectors[at : at + 50_000])
            index.upsert(np.arange(at, at + len(codes)), codes, scales[:, None])
        started = time.perf_counter()
    return index, time.perf_counter() - started


def size_of(index: ItemIndex) -> int:
    """Bytes of its rows, which in a node of several processes are the table's, and of its lists."""
    memory, frozen = index.memory(), index.frozen
    found = 8 * memory.top * memory.place.width
    if frozen is not None:
        ivf, changes = frozen.ivf, frozen.changes
        parts = (ivf.centroids, ivf.starts, ivf.rows, ivf.scales, ivf.codes, changes.since)
        found += sum(part.nbytes for part in parts) + 4 * memory.top  # the numbers of changed rows
        found += 5 * memory.top  # of each row its entry, and whether it is noted as changed: the writer's
    return found


def rate(world: World, ask: Callable[[Floats], object]) -> float:
    """Queries a second."""
    started = time.perf_counter()
    for query in world.queries:
        ask(query)
    return len(world.queries) / (time.perf_counter() - started)


def tuned(index: ItemIndex, world: World) -> None:
    """Search the fewest lists that give the wanted recall on the queries, as the watch of a server does in time."""
    assert index.frozen is not None
    low, high = 1, index.frozen.ivf.lists
    while low < high:
        middle = (low + high) // 2
        index.searcher.probes = Probes(middle, middle)
        if world.recall(lambda query: index.search(query, K)[0]) >= RECALL:
            high = middle
        else:
            low = middle + 1
    index.searcher.probes = Probes(low, low)


def updated(index: ItemIndex, world: World, vectors: Floats, random: np.random.Generator, count: int) -> float:
    """Write rows of `vectors` again, in place of what they were, in batches; returns rows a second."""
    seconds = 0.0
    for _ in range(0, count, BATCH):
        rows = random.choice(len(vectors), BATCH, replace=False)
        vectors[rows] = drawn(random, world.centres, BATCH)
        codes, scales = quantize(vectors[rows])
        started = time.perf_counter()
        index.upsert(rows, codes, scales[:, None])
        seconds += time.perf_counter() - started
    return count / seconds


def visible(index: ItemIndex) -> list[float]:
    """Milliseconds from the call that writes a row until a search has found it, which is the next one."""
    waits, peak, query = [], np.full((1, DIM), 127, np.int8), np.ones(DIM, np.float32)
    for turn in range(WRITES):
        row = np.array([turn * 37 % len(index)])
        started = time.perf_counter()
        index.upsert(row, peak, np.full((1, 1), 1.0 + turn, np.float32))
        assert index.search(query, 1)[0].tolist() == row.tolist()
        waits.append((time.perf_counter() - started) * 1000)
    return waits


def bench(repeats: int, line: Callable[..., Line], items: int = 100_000) -> list[Line]:
    """The lines of this bench; `line` makes one of its name, values, unit and budget."""
    few_threads()
    world, size = World.of(items), f"{items:,} x {DIM}"
    flat, _ = filled(world.vectors, IndexOptions(flat_rows=1 << 40))
    ours, took = filled(world.vectors, IndexOptions(recall=RECALL))
    million = size_of(ours) / items * 1e6 / 2**20
    tuned(ours, world)
    asks: dict[str, Callable[[Floats], Any]] = {
        "a scan of all": lambda query: flat.search(query, K),
        "the index": lambda query: ours.search(query, K),
    }
    others = []
    for peer in peers(world):
        if isinstance(peer, str):
            err.print(f"      {peer}", markup=False)
            continue
        others.append(peer)
        asks[peer.name] = peer.ask
    rates: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(repeats):
        for name, ask in asks.items():
            rates[name].append(rate(world, ask))
    recall = world.recall(lambda query: ours.search(query, K)[0])
    lines = [
        line(f"recall of the {K} best, the index, {size}", [recall], "", RECALL, at_most=False),
        line(f"queries, the index, {size}", rates["the index"], "1/s", None, at_most=False),
        line(f"queries, a scan of all, {size}", rates["a scan of all"], "1/s", None, at_most=False),
        line(f"lists are made, {size}", [took], "s", None, at_most=True),
        line(f"memory of a million items, the index, {size}", [million], "MiB", None, at_most=True),
    ]
    known = HNSW_UPDATES_PER_S
    for peer in others:
        lines.append(line(f"recall, {peer.name}", [peer.recall], "", None, at_most=False))
        lines.append(line(f"queries, {peer.name}", rates[peer.name], "1/s", None, at_most=False))
        lines.append(line(f"is made, {peer.name}", [peer.made_s], "s", None, at_most=True))
        if peer.size is not None:
            million = peer.size / items * 1e6 / 2**20
            lines.append(line(f"memory of a million items, {peer.name}", [million], "MiB", None, at_most=True))
        if peer.updates is not None:
            lines.append(line(f"updates, {peer.name}", [peer.updates], "1/s", None, at_most=False))
        if peer.name.startswith("hnswlib"):
            known = peer.updates or known
            ratio = [a / b for a, b in zip(rates["the index"], rates[peer.name], strict=True)]
            lines.append(line(f"queries, the index over {peer.name}", ratio, "x", 1.0, at_most=False))
    lines += _changing(ours, world, size, known, repeats, line)
    return lines


def _changing(
    index: ItemIndex, world: World, size: str, known: float, repeats: int, line: Callable[..., Line]
) -> list[Line]:
    random, vectors = np.random.default_rng(5), world.vectors.copy()
    updates = [updated(index, world, vectors, random, UPDATES) for _ in range(repeats)]
    left = int(len(vectors) * CHURN) - repeats * UPDATES
    if left > 0:
        updated(index, world, vectors, random, left // BATCH * BATCH)
    index.keeper.close()
    best = best_rows(vectors, world.queries)
    churned = world.recall(lambda query: index.search(query, K)[0], best)
    fresh, _ = filled(vectors, IndexOptions(recall=RECALL))
    fresh.searcher.probes = index.searcher.probes
    anew = world.recall(lambda query: fresh.search(query, K)[0], best)
    waits = visible(index)
    return [
        line(f"updates in batches of {BATCH}, the index, {size}", updates, "1/s", 100 * known, at_most=False),
        line(f"recall after {CHURN:.0%} churn, {size}", [churned], "", None, at_most=False),
        line("recall that a fresh build has over it", [anew - churned], "", 0.01, at_most=True),
        line("a write until a search has found it, p50", [float(np.percentile(waits, 50))], "ms", None, at_most=True),
        line("a write until a search has found it, p99", [float(np.percentile(waits, 99))], "ms", 5.0, at_most=True),
    ]
