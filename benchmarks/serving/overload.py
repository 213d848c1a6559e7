"""What a lookup server does with three times what it can answer.

    python benchmarks/serving/overload.py [--times 3] [--seconds 10] [--deadline-ms 50] [--connections 200]

A server process as `forebay serve --processes` starts it, over 100,000 synthetic items; this process asks it for the
best 50 of 1,000 candidates. First closed: as many lookups as eight connections get answered, one after the other. Then
open: requests leave by the clock, at --times that rate, each with its deadline; a request for which no connection is
free counts as one that was not answered. An answer is in time where it is a 200 and all of it is here before the
deadline, by this process's clock and from when the request was due to leave.

Both processes share the machine: on two cores the asking takes one of them, and what else runs there takes of both. So
answers in time are told by the server's own processor time as well: `in_time_of_capacity_by_cpu` is what it answers in
time with a second of that under overload, of what it does when it is asked by eight. What is missing to 1 went into
refusals and into answers that were late. It does not depend on how much of the machine others take; how late an
answer is does. `server_waited_of_a_core` tells how much of the time the server was ready to run and had no core: where
it is not near 0, times are those of a machine that is too small for what runs there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as `forebay serve` has it; the server's process takes it over
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from forebay.cli.benchfour import bundle_of
from forebay.cli.benchnode import ITEMS, USERS, WITHOUT_LISTS, Node, cpu_s, node_of_benches, resident_mb, waited_s

CANDIDATES = 1_000


@dataclass
class Told:
    """What was answered: counts by status, and times in seconds by `200` and `refused`."""

    statuses: Counter[str] = field(default_factory=Counter)
    in_time: int = 0
    late: int = 0
    good_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)


class _Asker(asyncio.Protocol):
    """A connection with one request on its way at most. Answers are told apart by their head alone."""

    def __init__(self, told: Told, deadline_s: float, freed: Any) -> None:
        self._told, self._deadline_s, self._freed = told, deadline_s, freed
        self._left, self._status, self._due = 0, b"", 0.0
        self._head = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        self._due, self._head = due, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            at = head.index(b"content-length: ") + 16
            self._status = head[9:12]
            self._left = int(head[at:].split(b"\r\n", 1)[0])
            data = rest
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._done()

    def _done(self) -> None:
        told, took = self._told, time.perf_counter() - self._due
        told.statuses[self._status.decode()] += 1
        if self._status == b"200":
            told.good_s.append(took)
            told.in_time += took <= self._deadline_s
            told.late += took > self._deadline_s
        else:
            told.refused_s.append(took)
        self._freed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._told.statuses["lost"] += 1


def _requests(deadline_ms: int) -> list[bytes]:
    random = np.random.default_rng(0)
    built = []
    for _ in range(500):
        names = ",".join(f'"i{n}"' for n in random.integers(0, ITEMS, CANDIDATES))
        body = f'{{"user":"u{random.integers(USERS)}","candidates":[{names}],"k":50}}'.encode()
        head = (
            f"POST /v1/rank HTTP/1.1\r\nhost: h\r\nforebay-deadline-ms: {deadline_ms}\r\ncontent-type: application/json"
        )
        built.append(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return built


async def _closed(host: str, port: int, seconds: float, connections: int) -> float:
    """Lookups a second that are answered to so many who each wait for theirs."""
    told, requests, turn, end = Told(), _requests(10_000), 0, time.perf_counter() + seconds

    def again(asker: _Asker) -> None:
        nonlocal turn
        turn += 1
        if time.perf_counter() < end:
            asker.ask(requests[turn % len(requests)], time.perf_counter())

    loop = asyncio.get_running_loop()
    askers = [
        (await loop.create_connection(lambda: _Asker(told, 10.0, again), host, port))[1] for _ in range(connections)
    ]
    for asker in askers:
        again(asker)
    await asyncio.sleep(seconds + 0.5)
    for asker in askers:
        asker.transport.abort()
    return told.statuses["200"] / seconds


async def _open(host: str, port: int, rate: float, seconds: float, deadline_s: float, connections: int) -> Told:
    """`rate` requests a second by the clock, whatever is answered."""
    told, requests, free = Told(), _requests(round(deadline_s * 1000)), deque[_Asker]()
    loop = asyncio.get_running_loop()
    askers = [
        (await loop.create_connection(lambda: _Asker(told, deadline_s, free.append), host, port))[1]
        for _ in range(connections)
    ]
    free += askers
    start = time.perf_counter()
    sent = total = 0
    while (now := time.perf_counter()) < start + seconds:
        while total < (now - start) * rate:
            due, total = start + total / rate, total + 1
            if free:
                # In turn: a server ends a connection that asks nothing for some seconds.
                free.popleft().ask(requests[sent % len(requests)], due)
                sent += 1
            else:
                told.statuses["no connection free"] += 1
        await asyncio.sleep(0.0005)
    await asyncio.sleep(max(1.0, 4 * deadline_s))
    told.statuses["unanswered"] = connections - len(free)
    for asker in askers:
        asker.transport.abort()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description="What a lookup server does with more than it can answer.")
    parser.add_argument("--times", type=float, default=3.0, help="of what it answers to eight who wait")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the overload")
    parser.add_argument("--deadline-ms", type=int, default=50, help="of each request")
    parser.add_argument("--connections", type=int, default=200, help="that the overload comes over")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    bundle = bundle_of(32, "affinity")
    with (
        tempfile.TemporaryDirectory(prefix="forebay-overload-") as folder,
        node_of_benches(bundle, Path(folder), index=WITHOUT_LISTS, own_session=True) as node,
    ):
        for _ in range(asked.repeats):
            print(json.dumps(_round(node, asked)), flush=True)


def _round(node: Node, asked: argparse.Namespace) -> dict[str, Any]:
    pid, seconds = node.servers[0].pid, min(asked.seconds, 5.0)
    marks = [cpu_s(pid)]
    capacity = uvloop.run(_closed(node.host, node.port, seconds, 8))
    rate = asked.times * capacity
    marks.append(cpu_s(pid))
    waited, resident = waited_s(pid), resident_mb(pid)
    told = uvloop.run(_open(node.host, node.port, rate, asked.seconds, asked.deadline_ms / 1000, asked.connections))
    marks.append(cpu_s(pid))
    answered = told.in_time / asked.seconds
    alone, overloaded = capacity * seconds / (marks[1] - marks[0]), told.in_time / (marks[2] - marks[1])
    return {
        "capacity_per_s": round(capacity),
        "offered_per_s": round(rate),
        "in_time_per_s": round(answered),
        "in_time_of_capacity": round(answered / capacity, 3),
        "in_time_of_capacity_by_cpu": round(overloaded / alone, 3),
        "server_cpu_of_a_core": round((marks[2] - marks[1]) / asked.seconds, 2),
        "server_waited_of_a_core": round((waited_s(pid) - waited) / asked.seconds, 2),
        "late_200": told.late,
        "good_ms_p50_p99": _ms(told.good_s),
        "refused_ms_p50_p99": _ms(told.refused_s),
        "statuses": dict(told.statuses),
        "server_mb_before_after": [round(resident), round(resident_mb(pid))],
        "load_average": os.getloadavg()[0],
    }


def _ms(seconds: list[float]) -> list[float]:
    return [round(float(v) * 1000, 2) for v in np.percentile(seconds, [50, 99])] if seconds else []


if __name__ == "__main__":
    main()
