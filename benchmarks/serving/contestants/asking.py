"""One client of peers.py that asks a store and scores by itself: forebay.cli.benchclient says what it reads and prints.

    python asking.py '{"kind": "redis" | "feast", …}'

What it needs is numpy, and what its kind needs. Fetching and scoring happen in this process, as they would in a
service.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Its environment is the peers', and has no forebay: it takes what all clients have in common from this checkout.
sys.path.append(str(Path(__file__).resolve().parents[3] / "src"))

import numpy as np
import vectors

from forebay.cli.benchclient import PREPARED, Lookup, lookups, rounds


def main() -> int:
    given = json.loads(sys.argv[1])
    users, asked = lookups(given, PREPARED)
    rounds(given["number"], {"redis": _redis, "feast": _feast}[given["kind"]](given, users, asked))
    return 0


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
