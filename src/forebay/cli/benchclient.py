"""One client of a serving benchmark, in a process of its own: asks, waits for the answer, asks again.

    python -m forebay.cli.benchclient '{"host": …, "port": …, "path": …, "packed": …, "number": 0, …}'

A line `SECONDS` on its input starts a round; a line of JSON answers it: microseconds of each lookup, and the processor
time that this process used. `check` answers with the items and scores of lookup 0. The clients of
benchmarks/serving/contestants, which ask a store, take their rounds and lookups from here, in an environment without
this package's dependencies: numpy is all that is needed, and msgspec for msgpack.

Requests are bytes made before the first round, sent over a socket and read up to the announced length.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

CANDIDATES = 1_000
PREPARED = 400  # lookups, taken in turn: their 400,000 items are not what a cache holds
_WARM = 20

# What comes before a round, a lookup, and a lookup's answer as items and scores.
Lookup: TypeAlias = tuple[Callable[[], None], Callable[[int], Any], Callable[[int], list[tuple[str, float]]]]


def lookups(given: dict[str, Any], count: int) -> tuple[list[str], list[list[str]]]:
    """A user of u0… and 1,000 items of i0… of each, uniformly drawn: so many as `given` has `users` and `items`. By its
    `seed` and `number`: clients have different ones."""
    random = np.random.default_rng([given["seed"], given["number"]])
    users = [f"u{n}" for n in random.integers(0, given["users"], count).tolist()]
    return users, [[f"i{n}" for n in row] for row in random.integers(0, given["items"], (count, CANDIDATES)).tolist()]


def rounds(number: int, asks: Lookup) -> None:
    """Answer the lines of this process's input until it ends. `number` is the client's."""
    begin, lookup, check = asks
    begin()
    turn = number * 97
    for n in range(_WARM):
        lookup(n)
    print("ready", flush=True)
    for line in sys.stdin:
        begin()
        if line == "check\n":
            print(json.dumps(check(0)), flush=True)
            continue
        taken, cpu, end = [], time.process_time(), time.perf_counter() + float(line)
        while (start := time.perf_counter()) < end:
            lookup(turn % PREPARED)
            turn += 1
            taken.append(round((time.perf_counter() - start) * 1e6))
        print(json.dumps({"us": taken, "cpu_s": time.process_time() - cpu}), flush=True)


def over_http(given: dict[str, Any]) -> Lookup:
    """Of a server that answers lookups at `path` as Forebay's does: in msgpack if `packed`, else in JSON."""
    requests = []
    for user, items in zip(*lookups(given, PREPARED), strict=True):
        body: Any = {"user": user, "candidates": items, "k": given["k"]}
        media = "application/json"
        if given["packed"]:
            import msgspec

            body, media = msgspec.msgpack.encode(body), "application/msgpack"
        else:
            body = json.dumps(body, separators=(",", ":")).encode()
        head = f"POST {given['path']} HTTP/1.1\r\nhost: h\r\ncontent-type: {media}\r\naccept: {media}\r\n"
        requests.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    connection = socket.socket()

    def begin() -> None:
        """A new connection: servers end one that is idle for as long as others have their rounds."""
        nonlocal connection
        connection.close()
        connection = socket.create_connection((given["host"], given["port"]), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def received() -> bytes:
        data = connection.recv(1 << 16)
        if not data:
            raise SystemExit("the server ended the connection")
        return data

    def lookup(n: int) -> bytes:
        connection.sendall(requests[n])
        said = received()
        while (end := said.find(b"\r\n\r\n")) < 0:
            said += received()
        at = said.lower().index(b"content-length: ") + 16
        length = end + 4 + int(said[at : said.index(b"\r\n", at)])
        while len(said) < length:
            said += received()
        if said[9:12] != b"200":
            raise SystemExit(f"answered with {said[:300]!r}")
        return said[end + 4 :]

    def check(n: int) -> list[tuple[str, float]]:
        data = lookup(n)
        if given["packed"]:
            import msgspec

            told = msgspec.msgpack.decode(data)
        else:
            told = json.loads(data)
        return [(hit["item"], hit["score"]) for hit in told["hits"]]

    return begin, lookup, check


def main() -> int:
    """One client, until its input ends."""
    given = json.loads(sys.argv[1])
    rounds(given["number"], over_http(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
