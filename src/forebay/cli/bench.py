"""`forebay bench`: this machine against the budgets of the README. Synthetic data, uniform access, no other load
assumed.

Each measurement is repeated and told as median and spread: on a shared machine single figures mean little.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forebay.cli import source
from forebay.cli.benchbackfill import bench as backfilled
from forebay.cli.benchindex import bench as indexed
from forebay.cli.benchlive import skewed
from forebay.cli.benchnode import WITHOUT_LISTS
from forebay.cli.benchserver import bench as served
from forebay.cli.benchstream import stream
from forebay.cli.benchvisible import bench as visible
from forebay.cli.console import budget, err, out, print_json, print_table
from forebay.clock import now_ms
from forebay.errors import UsageError
from forebay.events import Behaviour
from forebay.retrieval.client import Client
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, Readiness
from forebay.retrieval.server import create_app, serving
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.store.codec import codec_of
from forebay.store.servingcopy import ServingCopy
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source

ITEMS, USERS, CANDIDATES, LOOKUPS = 100_000, 10_000, 1_000, 1_000
EVENTS, BATCH = 100_000, 4_096

Line = dict[str, Any]


def bench(what: str, repeats: int, as_json: bool) -> None:
    """Run the named benches and print their lines; with `as_json` an object with a list `budgets`."""
    benches: dict[str, Callable[[Bundle, int], list[Line]]] = {
        "lookup": _lookup,
        "apply": _apply,
        "stream": lambda bundle, repeats: stream(bundle, repeats, _line),
        "backfill": lambda _, repeats: backfilled(repeats, _line),
        "index": lambda bundle, repeats: indexed(repeats, _line) + visible(bundle, repeats, _line),
        "index-1m": lambda _, repeats: indexed(repeats, _line, 1_000_000),
        "server": lambda _, repeats: served(repeats, _line),
    }
    chosen = ["lookup", "apply"] if what == "all" else [what]
    if not set(chosen) <= set(benches):
        raise UsageError(f"no bench {what!r}", do=f"Name one of: {', '.join(benches)}, all")
    bundle = bundle_of_benches()
    lines: list[Line] = []
    for name in chosen:
        err.print(f"      measuring {name}, {repeats} times", markup=False)
        lines += benches[name](bundle, repeats)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    budgets = [
        budget(n["name"], n["target"], n["median"], n["unit"], at_most=n["at_most"])
        for n in lines
        if n["target"] is not None
    ]
    if as_json:
        print_json({"machine": machine, "budgets": budgets, "lines": lines})
        return
    out.print(machine)
    met = {b["name"]: "met" if b["met"] else "missed" for b in budgets}
    rows = [
        (n["name"], f"{n['median']:,.4g}", f"{n['low']:,.4g} – {n['high']:,.4g}", n["unit"], _bound(n),
         met.get(n["name"], ""))
        for n in lines
    ]  # fmt: skip
    print_table(("what", "median", "spread", "unit", "budget", ""), rows, right=("median", "spread", "budget"))


def _bound(line: Line) -> str:
    return "" if line["target"] is None else ("≤ " if line["at_most"] else "≥ ") + f"{line['target']:,.4g}"


def _line(name: str, values: list[float], unit: str, target: float | None, *, at_most: bool) -> Line:
    return {
        "name": name, "median": float(np.median(values)), "low": min(values), "high": max(values), "unit": unit,
        "target": target, "at_most": at_most,
    }  # fmt: skip


def bundle_of_benches() -> Bundle:
    """The spec for MovieLens, with weights as they are before training: what a lookup costs does not depend on them."""
    return untrained(source.spec(None, "movielens"), hash_ids([f"i{n}" for n in range(20_000)]))


def copy_of_benches(bundle: Bundle) -> ServingCopy:
    """USERS and ITEMS of random vectors, named u0… and i0…"""
    random = np.random.default_rng(0)
    codecs = {side: codec_of(bundle, side) for side in SIDES}
    partitions, now = dict.fromkeys(SIDES, 1), now_ms()
    # Lists would be trained on threads beside what is measured: rank does not search.
    copy = ServingCopy(bundle, "bench", codecs, partitions, index=WITHOUT_LISTS)
    counts: dict[Side, int] = {"user": USERS, "item": ITEMS}
    for side, count in counts.items():
        rows = codecs[side].empty(count)
        for segment in bundle.spec.side(side):
            part = rows["segments"][segment.name]
            part["vector"] = random.integers(-127, 128, part["vector"].shape)
            part["scale"], part["as_of"], part["last_event"] = 0.01, now, now
        copy.show(side, [f"{side[0]}{n}" for n in range(count)], rows, [0] * count)
    return copy


def _lookup(bundle: Bundle, repeats: int) -> list[Line]:
    random = np.random.default_rng(0)
    engine = Engine(bundle, copy_of_benches(bundle))
    engine.warm()
    requests = [
        RankRequest(f"u{random.integers(USERS)}", [f"i{n}" for n in random.integers(0, ITEMS, CANDIDATES)], 50)
        for _ in range(LOOKUPS)
    ]
    inside: dict[str, list[float]] = {"p50": [], "p99": []}
    over: dict[str, list[float]] = {"p50": [], "p99": [], "rate": []}
    with serving(create_app(engine, lambda: Readiness(True))) as url, Client(url, timeout_s=5.0) as client:
        for _ in range(repeats):  # interleaved: the machine's speed drifts
            _percentiles([_timed(lambda r=r: engine.rank(r)) for r in requests], inside)  # type: ignore[misc]
            waits = [_timed(lambda r=r: client.rank(r.user, r.candidates, r.k)) for r in requests]  # type: ignore[misc]
            _percentiles(waits, over)
            over["rate"].append(len(waits) / sum(waits))
    size = f"{CANDIDATES:,} of {ITEMS:,} items"
    return [
        _line(f"lookup in process, {size}, p50", inside["p50"], "µs", 200, at_most=True),
        _line(f"lookup in process, {size}, p99", inside["p99"], "µs", 1000, at_most=True),
        _line(f"lookup over HTTP, one client, {size}, p50", over["p50"], "µs", 1000, at_most=True),
        _line(f"lookup over HTTP, one client, {size}, p99", over["p99"], "µs", 1000, at_most=True),
        _line("lookups over HTTP, one client in the server's process", over["rate"], "1/s", 3000, at_most=False),
    ]


def _apply(bundle: Bundle, repeats: int) -> list[Line]:
    """Blocks through a Processor and its store, without Kafka: read, fold, encode, write behind every 8 batches."""
    random = np.random.default_rng(0)
    users = skewed(random, 100_000, EVENTS * (repeats + 1))
    items = skewed(random, 20_000, EVENTS * (repeats + 1))
    genres = [a for a in bundle.spec.attribute("item", "genres").values]
    now = now_ms()
    rates: list[float] = []
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder:
        processor = Processor(bundle, "user", Topics(), "bench", 1, Path(folder))
        processor.open(0, Source("bench", 0, "bench"), 0)
        for turn in range(repeats + 1):  # the first warms up and fills the table
            batches = []
            for start in range(turn * EVENTS, (turn + 1) * EVENTS, BATCH):
                places = range(start, min(start + BATCH, (turn + 1) * EVENTS))
                events = [
                    Behaviour(f"u{users[p]}", f"i{items[p]}", "rate", float(1 + p % 5), now + p, f"e{p}",
                        {"genres": [genres[items[p] % 18]]})
                    for p in places
                ]  # fmt: skip
                none = [0] * len(events)
                block = block_of(events, [now + p for p in places], none, none, ("bench/0",))
                ((header, value),) = block.encode()
                batches.append(PartitionBatch(0, [None], [value], [start], [now], [((HEADER, header),)]))
            started = time.perf_counter()
            for number, batch in enumerate(batches, start=1):
                processor.apply([batch])
                if number % 8 == 0:
                    processor.flush()
            processor.flush()
            if turn:
                rates.append(EVENTS / (time.perf_counter() - started))
        processor.close(0)
    return [_line("events through the user Processor and its store, no Kafka", rates, "1/s", 80_000, at_most=False)]


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _percentiles(seconds: list[float], into: Mapping[str, list[float]]) -> None:
    for name, value in zip(("p50", "p99"), np.percentile(np.array(seconds) * 1e6, [50, 99]), strict=True):
        into[name].append(float(value))
