"""`forebay bench server`: server processes as `forebay serve --processes` starts them, one and then two, asked over
HTTP for the best 50 of 1,000 candidates by strings, of 100,000 items with four segments.

Each repeat has a round of each: one client and four, in processes of their own, msgpack and JSON, alone and beside a
writer. The writer is this process, which feeds the servers' tables as the replica of a node does, store included: so
many rows of items a second. No broker. First, an answer of each kind is held against scores that are computed here.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forebay.arrays import Floats
from forebay.cli.benchclient import PREPARED, lookups
from forebay.cli.benchclients import Clients, Round, clients_of
from forebay.cli.benchfour import bundle_of
from forebay.cli.benchnode import ITEMS, USERS, WITHOUT_LISTS, Node, node_of_benches, rows_of
from forebay.errors import StoreError
from forebay.retrieval.client import Client
from forebay.segments.bundle import Bundle
from forebay.segments.spec import Side
from forebay.store.feedingcopy import FeedingCopy

DIM, K, CLIENTS = 32, 50, 4
P99_US, ONE_PER_S, FOUR_PER_S, CPU_US, RISE = 1_000, 3_000, 4_500, 230, 2.0  # the budgets
_BATCH, _BATCHES = 50, 100  # rows of a write, and how many writes are made before the first
_PROCESSES = {1: "one process", 2: "two processes"}
_MEDIA = {True: "msgpack", False: "JSON"}

Line = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What is asked of what: `seconds` of a round, `rows_per_s` of the writer."""

    items: int = ITEMS
    users: int = USERS
    seconds: float = 2.0
    rows_per_s: int = 5_000


class Place(NamedTuple):
    """Which round it is."""

    processes: int
    packed: bool
    clients: int
    writer: bool

    @property
    def name(self) -> str:
        """For people."""
        who = "one client" if self.clients == 1 else f"{self.clients} clients"
        beside = ", beside the writer" if self.writer else ""
        return f"{_PROCESSES[self.processes]}, {_MEDIA[self.packed]}, {who}{beside}"


@dataclass
class Written:
    """What a writer has done."""

    rows: int = 0
    seconds: float = 0.0
    errors: list[Exception] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def bench(repeats: int, line: Callable[..., Line], size: Size = Size()) -> list[Line]:
    """The lines of this bench; `line` makes one of its name, values, unit and budget."""
    found: dict[Place, list[Round]] = defaultdict(list)
    written: list[float] = []
    bundle = bundle_of(DIM, "affinity")
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, ExitStack() as stack:
        there: list[tuple[int, bool, Node, Clients]] = []
        for processes in _PROCESSES:
            own = Path(folder) / str(processes)
            own.mkdir()
            node = stack.enter_context(
                node_of_benches(bundle, own, processes, items=size.items, users=size.users, index=WITHOUT_LISTS)
            )
            for packed in _MEDIA:
                asked = _asked(node, packed, size)
                clients = stack.enter_context(clients_of(asked, CLIENTS))
                _hold(clients, asked, scores_of(bundle, node.url))
                there.append((processes, packed, node, clients))
        for _ in range(repeats):
            for (processes, packed, node, clients), count in itertools.product(there, (1, CLIENTS)):
                found[Place(processes, packed, count, False)].append(clients.round(count, size.seconds, node.cpu_s))
                with writing(node.copy, size.rows_per_s, size.items) as done:
                    beside = clients.round(count, size.seconds, node.cpu_s)
                found[Place(processes, packed, count, True)].append(beside)
                written.append(done.per_s)
    return [*_lines(found, line), line("rows that the writer wrote", written, "1/s", None, at_most=False)]


def _lines(found: dict[Place, list[Round]], line: Callable[..., Line]) -> Iterator[Line]:
    for place, rounds in found.items():
        one = place.clients == 1
        p99 = [r.percentile(99) for r in rounds]
        if place.writer:
            alone = [r.percentile(99) for r in found[place._replace(writer=False)]]
            yield line(f"{place.name}, p99", p99, "µs", None, at_most=True)
            # Within a repeat: the machine's speed drifts.
            rises = [a / b for a, b in zip(p99, alone, strict=True)]
            yield line(f"{place.name}, p99 of what it is alone", rises, "x", RISE, at_most=True)
            continue
        rates = [r.per_s for r in rounds]
        if one:
            yield line(f"{place.name}, p50", [r.percentile(50) for r in rounds], "µs", None, at_most=True)
        yield line(f"{place.name}, p99", p99, "µs", P99_US if one else None, at_most=True)
        yield line(f"{place.name}, lookups", rates, "1/s", ONE_PER_S if one else FOUR_PER_S, at_most=False)
        used = [r.server_us for r in rounds]
        yield line(f"{place.name}, CPU of the servers", used, "µs/lookup", CPU_US, at_most=True)


@contextmanager
def writing(copy: FeedingCopy, rows_per_s: int, items: int) -> Iterator[Written]:
    """While the block runs, a thread updates rows of i0… through `copy`, as the replica does; what is yielded is
    complete after the block. Raises what stopped it."""
    random, done, stop = np.random.default_rng(2), Written(), threading.Event()
    batches = []
    for _ in range(_BATCHES):
        names = [f"i{n}" for n in random.choice(items, _BATCH, replace=False).tolist()]
        packed = copy.codecs["item"].pack(rows_of(copy.codecs["item"], _BATCH, random), names)
        batches.append([(name, 0, value) for name, value in zip(names, packed, strict=True)])

    def write() -> None:
        began = due = time.perf_counter()
        try:
            for puts in itertools.cycle(batches):
                copy.write("item", puts, [], {}, {})
                done.rows += len(puts)
                due += _BATCH / rows_per_s
                if stop.wait(max(0.0, due - time.perf_counter())):
                    break
        except StoreError as error:
            done.errors.append(error)
        done.seconds = time.perf_counter() - began

    thread = threading.Thread(target=write, name="writing")
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
    if done.errors:
        raise done.errors[0]


def scores_of(bundle: Bundle, url: str) -> Callable[[str, list[str]], Floats]:
    """Scores float32 of a user and items, by the plain form of the fusion for `rank`, over the vectors that the server
    at `url` says it has."""

    def scores(user: str, items: list[str]) -> Floats:
        with Client(url, timeout_s=30.0) as client:

            def stored(side: Side, name: str) -> Floats:
                segments = client.entity(side, name, vectors=True).segments.values()
                parts = [np.frombuffer(s.codes or b"", np.int8) * np.float32(s.scale or 0.0) for s in segments]
                return np.concatenate(parts)

            rows = np.stack([stored("item", item) for item in items])
            fusion = bundle.fusions["rank"]
            return fusion.join(fusion.user_half(stored("user", user)), fusion.item_half(rows))

    return scores


def _asked(node: Node, packed: bool, size: Size) -> dict[str, Any]:
    return {
        "host": node.host, "port": node.port, "path": "/v1/rank", "packed": packed, "k": K, "items": size.items,
        "users": size.users, "seed": 1,
    }  # fmt: skip


def _hold(clients: Clients, asked: dict[str, Any], scores: Callable[[str, list[str]], Floats]) -> None:
    """Raises StoreError where lookup 0 is not answered with the best scores."""
    users, items = lookups({**asked, "number": 0}, PREPARED)
    right = np.sort(scores(users[0], items[0]))[::-1][:K]
    told = [score for _, score in clients.check()]
    if len(told) != len(right) or not np.allclose(told, right, rtol=1e-2, atol=1e-2):
        raise StoreError(f"a lookup is answered with {told[:3]}, and {right[:3].tolist()} was right")
