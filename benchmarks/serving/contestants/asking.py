"""One client of peers.py: asks, waits for the answer, asks again. What it needs is numpy, and what its kind needs.

    python asking.py '{"kind": "http" | "redis" | "feast", …}'

A line `SECONDS` on its input starts a round; a line of JSON answers it: microseconds of each lookup, and the processor
time that this process used. `check` answers with the best items and scores of lookup 0.

http: requests are bytes made before the first round, sent over a socket and read up to the announced length. redis and
feast: fetching and scoring happen in this process, as they would in a service.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import vectors

PREPARED = 400  # lookups, taken in turn: their 400,000 items are not what a cache holds


def main() -> int:
    given = json.loads(sys.argv[1])
    users, asked = vectors.lookups(given, PREPARED)
    begin, lookup, check = {"http": _http, "redis": _redis, "feast": _feast}[given["kind"]](given, users, asked)
    begin()
    turn = given["number"] * 97
    for n in range(20):
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
    return 0


# What comes before a round, a lookup, and a lookup's answer as items and scores.
Lookup = tuple[Callable[[], None], Callable[[int], Any], Callable[[int], list[tuple[str, float]]]]


def _http(given: dict[str, Any], users: list[str], asked: list[list[str]]) -> Lookup:
    requests = []
    for user, items in zip(users, asked, strict=True):
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
        """A new connection: servers end one that is idle for as long as other contestants have their rounds."""
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


def _nothing() -> None:
    """Their clients connect again by themselves."""


def _redis(given: dict[str, Any], users: list[str], asked: list[list[str]]) -> Lookup:
    """The user's row and the candidates' in one MGET: a key is an id, a value its vector's bytes."""
    import redis

    client = redis.Redis(port=given["port"])  # its parser is hiredis where that is installed
    form, width, k = np.dtype(given["form"]), vectors.width(given), given["k"]
    size, scale = form.itemsize * width, vectors.SCALE if form == np.int8 else 1.0
    nothing = bytes(size)

    def lookup(n: int) -> list[tuple[str, float]]:
        items = asked[n]
        found = client.mget([users[n], *items])
        rows = np.frombuffer(b"".join([row or nothing for row in found]), form).reshape(-1, width)
        rows = rows.astype(np.float32)
        return vectors.best(items, rows[1:] @ (rows[0] * np.float32(scale * scale)), k)

    return _nothing, lookup, lookup


def _feast(given: dict[str, Any], users: list[str], asked: list[list[str]]) -> Lookup:
    """One Bytes feature holds all segments: of Feast's encodings the fastest."""
    import feast_store

    store, width, k = feast_store.opened(given["folder"]), vectors.width(given), given["k"]

    def rows(side: str, ids: list[str]) -> Any:
        found = store.get_online_features([f"{side}s:vector"], {side: ids}).proto
        place = list(found.metadata.feature_names.val).index("vector")
        data = b"".join([value.bytes_val for value in found.results[place].values])
        return np.frombuffer(data, np.float16).reshape(-1, width).astype(np.float32)

    def lookup(n: int) -> list[tuple[str, float]]:
        return vectors.best(asked[n], rows("item", asked[n]) @ rows("user", [users[n]])[0], k)

    return _nothing, lookup, lookup


if __name__ == "__main__":
    sys.exit(main())
