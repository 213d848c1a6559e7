"""What people at the inspect page cost lookups.

    python benchmarks/serving/page.py [--seconds 4] [--repeats 5]

A server runs in a process of its own, over 100,000 synthetic items. One client asks it for the best 50 of 1,000
candidates, one lookup after the other, in turns of so many seconds: alone, with somebody who opens a user's page each
second, and with a crowd of four that open pages as fast as they come. Turns take turns, so that what else the machine
does is in all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as `forebay serve` has it; the server's process takes it over
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

ITEMS, USERS, CANDIDATES = 100_000, 10_000, 1_000
TURNS = {"alone": (0, 0.0), "a page each second": (1, 1.0), "four that open pages without a pause": (4, 0.0)}


def _serve(pipe: Connection) -> None:
    """The server's process: says its address."""
    from forebay.cli.bench import bundle_of_benches, copy_of_benches
    from forebay.retrieval.engine import Engine
    from forebay.retrieval.inspect.page import Page
    from forebay.retrieval.messages import Readiness
    from forebay.retrieval.server import create_app, serving

    bundle = bundle_of_benches()
    engine = Engine(bundle, copy_of_benches(bundle))
    with serving(create_app(engine, lambda: Readiness(True), page=Page(engine))) as url:
        pipe.send(url)
        pipe.recv()


def _visit(pipe: Connection, url: str) -> None:
    """The visitors' process: for each (visitors, pause, seconds) it is sent, how long their pages took (s)."""
    while (turn := pipe.recv()) is not None:
        visitors, pause_s, seconds = turn
        until, took, threads = time.monotonic() + seconds, list[float](), list[threading.Thread]()

        def open_pages(number: int, until: float, pause_s: float, took: list[float]) -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                with urllib.request.urlopen(f"{url}/?side=user&id=u{number}", timeout=20) as answer:
                    answer.read()
                took.append(time.monotonic() - began)
                time.sleep(pause_s)

        for number in range(visitors):
            threads.append(threading.Thread(target=open_pages, args=(number, until, pause_s, took)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        pipe.send(took)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=4.0)
    words.add_argument("--repeats", type=int, default=5)
    given = words.parse_args()
    from forebay.retrieval.client import Client

    context = multiprocessing.get_context("spawn")
    to_server, servers = context.Pipe()
    server = context.Process(target=_serve, args=(servers,), daemon=True)
    server.start()
    url = to_server.recv()
    to_visitors, theirs = context.Pipe()
    visitors = context.Process(target=_visit, args=(theirs, url), daemon=True)
    visitors.start()
    random = np.random.default_rng(1)
    asked = [[f"i{n}" for n in random.integers(0, ITEMS, CANDIDATES)] for _ in range(64)]
    lookups: dict[str, list[float]] = {name: [] for name in TURNS}
    pages: dict[str, list[float]] = {name: [] for name in TURNS}
    with Client(url, timeout_s=20) as client:
        for place in range(200):
            client.rank("u1", asked[place % 64], 50)
        for _ in range(given.repeats):
            for name, (count, pause_s) in TURNS.items():
                to_visitors.send((count, pause_s, given.seconds))
                until, place = time.monotonic() + given.seconds, 0
                while time.monotonic() < until:
                    began = time.perf_counter()
                    client.rank(f"u{place % USERS}", asked[place % 64], 50)
                    lookups[name].append(time.perf_counter() - began)
                    place += 1
                pages[name] += to_visitors.recv()
    to_visitors.send(None)
    to_server.send(None)
    print(f"{'lookups of one client':38} {'p50 ms':>8} {'p99 ms':>8} {'/s':>8}   pages: p50 ms {'/s':>6}")
    whole = given.seconds * given.repeats
    for name, times in lookups.items():
        p50, p99 = np.percentile(np.array(times) * 1000, [50, 99])
        told = f"{np.median(pages[name]) * 1000:14.1f} {len(pages[name]) / whole:6.1f}" if pages[name] else ""
        print(f"{name:38} {p50:8.2f} {p99:8.2f} {len(times) / whole:8.0f}   {told}")


if __name__ == "__main__":
    main()
