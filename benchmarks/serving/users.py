"""How many lookups find their user in memory where not all users are, and what one costs that does not.

    python benchmarks/serving/users.py [--users 200000] [--requests 2000000] [--rows 100000] [--json]

Hit rates are those of the second half of a trace, beside LRU, and beside the optimum, which knows what comes (Belady).
Users are asked for by Zipf's law with exponents .8 and 1.0; with drift, each tenth of the trace turns the order of a
tenth of all users' ranks round. A pass: every tenth request is for the next user of all, as a nightly job asks.

Costs are of reading one user's row: from the table, from the store in one process, and from the replica over its Unix
socket, with the socket's work in another process. Beside them RocksDB's way for other processes: a secondary instance,
which has to catch up before each read, or it would answer from an older copy. The store is idle, or written at 2,000
rows a second in batches of 20. All ways take turns.
"""

from __future__ import annotations

import argparse
import heapq
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rocksdict import AccessType, Options, Rdict

from forebay.arrays import Ints
from forebay.cli.bench import bundle_of_benches
from forebay.clock import now_ms
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES
from forebay.segments.state.ids import hash_ids
from forebay.shard import ALL
from forebay.store.codec import codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.hotset import HotSet
from forebay.store.sharedcopy import SharedCopy

SHARES = (0.01, 0.05, 0.2)
BATCH, RATE, WRITTEN = 4096, 2000, 20


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--users", type=int, default=200_000)
    words.add_argument("--requests", type=int, default=2_000_000)
    words.add_argument("--rows", type=int, default=100_000, help="users of whom costs are measured; 0: none are")
    words.add_argument("--reads", type=int, default=2000, help="of each way")
    words.add_argument("--json", action="store_true", help="print the lines as JSON")
    words.add_argument("--replica", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.replica:
        return _replica(Path(given.replica), given.rows)
    found: dict[str, Any] = {"users": given.users, "requests": given.requests, "hits": [], "costs": []}
    said = (lambda _: None) if given.json else print
    said(f"hit rates: {given.users:,} users, {given.requests:,} requests")
    said(f"{'trace':<20}{'in memory':>10}{'LRU':>9}{'here':>9}{'optimum':>9}")
    for name, trace in _traces(given.users, given.requests):
        for share in SHARES:
            rates = _rates(trace, int(given.users * share))
            found["hits"].append({"trace": name, "in memory": share, **rates})
            said(f"{name:<20}{share:>10.0%}" + "".join(f"{rate:>9.3f}" for rate in rates.values()))
    if given.rows:
        found["costs"] = _costs(given.rows, given.reads)
        said(f"\none user's row, µs, of {given.rows:,}")
        said(f"{'way':<42}{'store':<12}{'p50':>8}{'p99':>9}")
    for line in found["costs"]:
        said(f"{line['way']:<42}{line['store']:<12}{line['p50']:>8.0f}{line['p99']:>9.0f}")
    if given.json:
        print(json.dumps(found))
    return 0


def _traces(users: int, requests: int) -> list[tuple[str, Ints]]:
    """Numbers of users, int64 [requests] each."""
    found = []
    for exponent in (0.8, 1.0):
        random = np.random.default_rng(int(exponent * 10))
        shares = np.cumsum(np.arange(1, users + 1, dtype=np.float64) ** -exponent)
        ranks = np.searchsorted(shares, random.random(requests) * shares[-1])
        names = random.permutation(users)
        found.append((f"zipf {exponent}", names[ranks]))
        drifting, moved = names.copy(), np.empty(requests, np.int64)
        for part in np.array_split(np.arange(requests), 10):
            moved[part] = drifting[ranks[part]]
            places = random.choice(users, users // 10, replace=False)
            drifting[places] = drifting[places[::-1]]
        found.append((f"zipf {exponent}, drift", moved))
        passed = names[ranks].copy()
        passed[::10] = np.arange(len(passed[::10])) % users
        found.append((f"zipf {exponent}, a pass", passed))
    return found


def _rates(trace: Ints, capacity: int) -> dict[str, float]:
    half = len(trace) // 2
    return {
        "lru": _lru(trace, capacity, half),
        "here": _here(trace, capacity, half),
        "optimum": _optimum(trace, capacity, half),
    }


def _here(trace: Ints, capacity: int, half: int) -> float:
    hot, hits = HotSet(capacity), 0
    keys = hash_ids([f"u{n}" for n in range(int(trace.max()) + 1)])
    for number, user in enumerate(trace.tolist()):
        key = keys[user : user + 1]
        hot.count(key)
        if hot.holds(key)[0]:
            hits += number >= half
        else:
            hot.offer(key)
    return hits / (len(trace) - half)


def _lru(trace: Ints, capacity: int, half: int) -> float:
    held, hits = OrderedDict[int, None](), 0
    for number, user in enumerate(trace.tolist()):
        if user in held:
            held.move_to_end(user)
            hits += number >= half
        else:
            held[user] = None
            if len(held) > capacity:
                held.popitem(last=False)
    return hits / (len(trace) - half)


def _optimum(trace: Ints, capacity: int, half: int) -> float:
    """Out goes who is asked for again last; it may be who came just now."""
    following, last = np.empty(len(trace), np.int64), np.full(int(trace.max()) + 1, 1 << 60)
    for number in range(len(trace) - 1, -1, -1):
        following[number] = last[trace[number]]
        last[trace[number]] = number
    held, heap, hits = dict[int, int](), list[tuple[int, int]](), 0
    for number, (user, again) in enumerate(zip(trace.tolist(), following.tolist(), strict=True)):
        hits += user in held and number >= half
        held[user] = again
        heapq.heappush(heap, (-again, user))
        while len(held) > capacity:
            farthest, gone = heapq.heappop(heap)
            if held.get(gone) == -farthest:
                del held[gone]
    return hits / (len(trace) - half)


def _costs(count: int, reads: int) -> list[dict[str, Any]]:
    bundle = bundle_of_benches()
    generation = Generation.new("bench", bundle.hash, dict.fromkeys(SIDES, 1), {})
    with tempfile.TemporaryDirectory(prefix="forebay-users-") as folder:
        path = Path(folder)
        command = [sys.executable, __file__, "--replica", folder, "--rows", str(count)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None and child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            shared = SharedCopy.open(bundle, generation, path / "tables", ALL, users_elsewhere=True)
            options = Options(raw_mode=True)
            second = Rdict(
                str(path / "vectors"), options, {"default": options}, AccessType.secondary(str(path / "second"))
            )
            inside = np.array([n for n in range(count) if shared.at_hand("user", f"u{n}")])
            found: list[dict[str, Any]] = []
            for state in ("idle", "written"):
                child.stdin.write(f"{state}\n")
                child.stdin.flush()
                assert child.stdout.readline() == "ready\n"
                random = np.random.default_rng(1)

                def caught_up(user: str) -> None:
                    second.try_catch_up_with_primary()
                    second.get([b"u" + user.encode()])

                ways: dict[str, Callable[[str], None]] = {
                    "in memory, from the shared table": lambda user: _read(shared, user),
                    "not in memory, from the replica": lambda user: _read(shared, user),
                    "a secondary RocksDB that catches up": caught_up,
                    "a secondary RocksDB that does not": lambda user: second.get([b"u" + user.encode()]),
                }
                spent: dict[str, list[float]] = {way: [] for way in ways}
                for turn in range(reads + 50):
                    for way, read in ways.items():
                        number = random.choice(inside) if way.startswith("in ") else random.integers(count)
                        while way.startswith("not ") and shared.at_hand("user", f"u{number}"):
                            number = random.integers(count)
                        start = time.perf_counter()
                        read(f"u{number}")
                        if turn >= 50:
                            spent[way].append((time.perf_counter() - start) * 1e6)
                for way, values in spent.items():
                    p50, p99 = np.percentile(values, [50, 99])
                    found.append({"way": way, "store": state, "p50": float(p50), "p99": float(p99)})
            second.close()
            shared.close()
        finally:
            child.stdin.close()
            child.wait(60)
    return found


def _read(copy: SharedCopy, user: str) -> None:
    with copy.read("user", hash_ids([user]), [user]) as row:
        row.vectors(np.zeros(1, np.int64), 0)


def _replica(folder: Path, count: int) -> int:
    """Holds a tenth of the users in memory; does what it is told on standard input until that ends."""
    bundle = bundle_of_benches()
    generation = Generation.new("bench", bundle.hash, dict.fromkeys(SIDES, 1), {})
    copy = FeedingCopy.open(bundle, generation, folder / "vectors", folder / "tables", ALL, count // 10)
    copy.load()
    for first in range(0, count, BATCH):
        _write(copy, bundle, [f"u{n}" for n in range(first, min(first + BATCH, count))])
    copy.answer()
    stop = threading.Event()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "written\n":
            threading.Thread(target=_writing, args=(copy, bundle, count, stop)).start()
        print("ready", flush=True)
    stop.set()
    copy.close()
    return 0


def _writing(copy: FeedingCopy, bundle: Bundle, count: int, stop: threading.Event) -> None:
    random = np.random.default_rng(2)
    while not stop.wait(WRITTEN / RATE):
        _write(copy, bundle, [f"u{n}" for n in random.choice(count, WRITTEN, replace=False)])


def _write(copy: FeedingCopy, bundle: Bundle, ids: list[str]) -> None:
    codec, now = codec_of(bundle, "user"), now_ms()
    rows = codec.empty(len(ids))
    for segment in bundle.spec.side("user"):
        part = rows["segments"][segment.name]
        part["vector"], part["scale"], part["as_of"], part["last_event"] = 7, 0.01, now, now
    copy.write("user", [(i, 0, record) for i, record in zip(ids, codec.pack(rows, ids), strict=True)], [], {}, {})


if __name__ == "__main__":
    sys.exit(main())
