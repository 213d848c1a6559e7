"""What a lookup costs in process, over shared tables: 1,000 candidates of 100 k and of 1 M items, and as a ratio to a
compiled copy of the same bytes.

    python benchmarks/serving/lookups.py [--rows 100000 1000000] [--dims 32 64] [--fusions affinity weighted_sum]
        [--rounds 6] [--reads 150] [--halves f16 int8] [--against CHECKOUT] [--folder DIR]

Both sides have four segments of so many dimensions, affinity has 32 hidden units. `rank` is `Engine.rank` of 1,000 ids
as strings and k = 50; `app` is the server's app from the bytes of a msgpack body to the bytes of its answer, without a
socket; `copy` copies what a lookup reads of 1,000 rows whose numbers are known. Ids are random, and new for each
lookup. The kinds are interleaved, and so are rounds of this code and of another checkout's (`--against`), each in a
process of its own: a machine's speed drifts. On a machine that does other work, too, compare processor times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
ASKED, BEST, USERS, FILL, HIDDEN = 1000, 50, 1000, 8192, 32


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    words.add_argument("--dims", type=int, nargs="+", default=[32, 64], help="of each of the four segments")
    words.add_argument("--fusions", nargs="+", default=["affinity", "weighted_sum"])
    words.add_argument("--rounds", type=int, default=6)
    words.add_argument("--reads", type=int, default=150, help="of each kind in a round")
    words.add_argument("--halves", nargs="+", default=["f16", "int8"], help="how this code keeps item halves")
    words.add_argument("--against", type=Path, help="a checkout whose code is measured in the same run")
    words.add_argument("--folder", help="on which device: a temporary folder there; /dev/shm is memory")
    words.add_argument("--child", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.child:
        return _child(**json.loads(given.child))
    for rows in given.rows:
        for dim in given.dims:
            for fusion in given.fusions:
                for line in _compared(given, rows, dim, fusion):
                    print(json.dumps(line), flush=True)
    return 0


def _compared(given: argparse.Namespace, rows: int, dim: int, fusion: str) -> list[dict[str, Any]]:
    """One line for each code, of rounds that took turns."""
    here = given.halves if fusion != "weighted_sum" else given.halves[:1]
    codes = [(f"this, {halves}" if len(here) > 1 else "this", HERE, halves) for halves in here]
    if given.against:
        codes.append(("against", given.against.resolve(), ""))
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name, _, _ in codes}
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(_started(at, given.folder, rows, dim, fusion, halves, given.reads))
            for name, at, halves in codes
        }
        for _ in range(given.rounds):
            for name, ask in children.items():
                for kind, spent in ask().items():
                    found[name].setdefault(kind, []).extend(spent)
    size = {"rows": rows, "dims": f"4 x {dim}", "fusion": fusion}
    return [{"code": name, **size, **_told(spent)} for name, spent in found.items()]


def _told(spent: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """µs of the clock (p50, p99) and of the processor (p50, least tenth), and the processor's as ratios to the copy."""
    line: dict[str, Any] = {}
    copied = sorted(worked for _, worked in spent["copy"])
    for kind, pairs in spent.items():
        waited, worked = sorted(wait for wait, _ in pairs), sorted(work for _, work in pairs)
        tenth, half = len(pairs) // 10, len(pairs) // 2
        line[kind] = {
            "p50": round(waited[half] * 1e6, 1),
            "p99": round(waited[len(pairs) * 99 // 100] * 1e6, 1),
            "cpu p50": round(worked[half] * 1e6, 1),
            "cpu p10": round(worked[tenth] * 1e6, 1),
            "cpu p50 / copy": round(worked[half] / copied[half], 2),
        }
    return line


@contextmanager
def _started(
    checkout: Path, folder: str | None, rows: int, dim: int, fusion: str, halves: str, reads: int
) -> Iterator[Callable[[], dict[str, list[tuple[float, float]]]]]:
    """A process with that checkout's code; what it yields runs a round."""
    with tempfile.TemporaryDirectory(prefix="forebay-lookups-", dir=folder) as own:
        part = {"folder": own, "rows": rows, "dim": dim, "fusion": fusion, "halves": halves, "reads": reads}
        words = [sys.executable, __file__, "--child", json.dumps(part)]
        # What `forebay serve` has: one thread for algebra. A cache of its own, since kernels differ between checkouts.
        threads = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(checkout / "src")}
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}
        )
        assert child.stdin is not None and child.stdout is not None

        def ask() -> dict[str, list[tuple[float, float]]]:
            child.stdin.write("go\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            found: dict[str, list[tuple[float, float]]] = json.loads(child.stdout.readline())  # type: ignore[union-attr]
            return found

        try:
            assert child.stdout.readline() == "ready\n"
            yield ask
        finally:
            child.terminate()
            child.communicate(timeout=60)


def _child(folder: str, rows: int, dim: int, fusion: str, halves: str, reads: int) -> int:
    kinds = _kinds(Path(folder), rows, dim, fusion, halves)
    for _ in range(100):  # what is compiled, and the pages' first touch
        for prepare, run in kinds.values():
            run(prepare())
    print("ready", flush=True)
    for _ in sys.stdin:
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for _ in range(reads):
            for name, (prepare, run) in kinds.items():
                asked = prepare()
                start, worked = time.perf_counter(), time.thread_time()
                run(asked)
                spent[name].append((time.perf_counter() - start, time.thread_time() - worked))
        print(json.dumps(spent), flush=True)
    return 0


def _kinds(
    folder: Path, count: int, dim: int, fusion: str, halves: str
) -> dict[str, tuple[Callable[[], Any], Callable[[Any], object]]]:
    """By name, what prepares one lookup and what is timed."""
    import msgspec
    import numpy as np
    from lookupnode import copied, node, payload

    from forebay.retrieval.engine import Engine
    from forebay.retrieval.messages import MSGPACK, RankRequest, Readiness
    from forebay.retrieval.server import create_app

    model, copy, table, layout = node(folder, count, dim, fusion, halves, USERS, FILL, HIDDEN)
    engine, random = Engine(model, copy), np.random.default_rng(0)
    app, loop = create_app(engine, lambda: Readiness(True)), asyncio.new_event_loop()
    engine.warm()

    def request() -> RankRequest:
        names = [f"item-{n}" for n in random.integers(0, count, ASKED).tolist()]
        return RankRequest(f"user-{random.integers(0, USERS)}", names, BEST)

    async def answered(body: bytes) -> object:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/rank", "query_string": b"",
            "headers": [(b"content-type", MSGPACK.encode())],
        }  # fmt: skip
        await app(scope, receive, send)
        assert said[0]["status"] == 200, said
        return said

    words, out = payload(layout, fusion), np.empty((ASKED, table.shape[1]), np.uint64)
    return {
        "copy": (lambda: random.integers(0, count, ASKED), lambda rows: copied(table, rows, *words, out)),
        "rank": (request, engine.rank),
        "app": (lambda: msgspec.msgpack.encode(request()), lambda body: loop.run_until_complete(answered(body))),
    }


if __name__ == "__main__":
    sys.exit(main())
