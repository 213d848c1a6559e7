"""Lookups of a Forebay server beside what is used instead: 1,000 candidates of 100,000 items, one client and four.

    python benchmarks/serving/peers.py --repeats 5                     # about 8 minutes, most of it the rounds
    python benchmarks/serving/peers.py --repeats 3 --seconds 2 --only "FastAPI + numpy"

Each lookup names a user and 1,000 items by strings, and wants the best k with their scores. Users and items have four
segments of --dim dimensions; ids are drawn uniformly, and each client has lookups of its own.

    forebay                      one server process of `forebay serve --processes`, weighted sum, msgpack
    forebay, JSON                the same with JSON
    forebay, affinity            the same with the fusion that the built-in specs rank with, msgpack
    forebay, two processes       two server processes at one address, weighted sum, msgpack
    FastAPI + numpy              uvicorn with uvloop and httptools, pydantic, a float32 matrix, a dict of ids, JSON
    FastAPI + numpy, two         the same with two workers
    Redis MGET int8 | float16    redis-server, one key a vector; redis-py with hiredis; the client scores with numpy
    Feast on sqlite              get_online_features, float16 in one Bytes feature; the client scores with numpy; 20,000
                                 items, since it takes minutes to fill

Four clients are four processes. All that answer over HTTP are asked by the same one, which sends bytes made before. In
each repeat every contestant has one round with one client and one with four, in this order, since a machine's speed
drifts: ratios are within a repeat. Processor time is that of the contestant's servers, and of its clients beside it:
where the client scores, that is where the work is. First, answers of each contestant are held against a computation of
our own. At the end the tuned early-interaction ranker of `forebay evaluate` is timed in process: 1,000 pairs whose
features are already read. Its network is untrained, which costs the same.

The peers have an environment of their own in `--env`, made by pip from PACKAGES below; redis-server is the machine's
(apt-get install redis-server). A contestant that cannot be had is named, and left out.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "streams"))

import numpy as np

from figures import Figure, tell, words_of
from forebay.arrays import Floats
from forebay.cli.benchclient import PREPARED, lookups
from forebay.cli.benchclients import OVER_HTTP, Clients, Round, clients_of
from forebay.cli.benchfour import bundle_of
from forebay.cli.benchnode import WITHOUT_LISTS, cpu_s, node_of_benches
from forebay.cli.benchserver import scores_of
from forebay.cli.console import err

PACKAGES = (
    "fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools", "numpy==2.4.6", "orjson", "redis==7.4.1",
    "hiredis==3.5.0", "feast==0.67.0",
)  # fmt: skip
HERE = Path(__file__).resolve().parent / "contestants"
INSTALL_S, START_S, FILL_S = 900, 120.0, 900
ITEMS, USERS, CLIENTS = 100_000, 10_000, 4
FEAST_ITEMS = 20_000  # its stores take minutes to fill, and answer sooner the smaller they are
FOREBAY, FOREBAY_JSON, AFFINITY, TWO = (
    "forebay", "forebay, JSON", "forebay, affinity", "forebay, two processes",
)  # fmt: skip
FASTAPI, FASTAPI_TWO = "FastAPI + numpy", "FastAPI + numpy, two"
REDIS_INT8, REDIS_HALF, FEAST = (
    "Redis MGET int8", "Redis MGET float16", "Feast on sqlite",
)  # fmt: skip
OURS = (FOREBAY, FOREBAY_JSON, AFFINITY, TWO)
CONTESTANTS = (*OURS, FASTAPI, FASTAPI_TWO, REDIS_INT8, REDIS_HALF, FEAST)
ON_REDIS = {REDIS_INT8, REDIS_HALF}


@dataclass(frozen=True)
class Contestant:
    """One that is there: what its clients are told, the processes that serve, and scores of a user and items by our own
    computation where the contestant has vectors of its own."""

    told: dict[str, Any]
    servers: list[int]
    scores: Callable[[str, list[str]], Floats] | None = None

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.servers))


def main() -> int:
    words = words_of(__doc__)
    words.add_argument("--seconds", type=float, default=3.0, help="of a round (3)")
    words.add_argument("--dim", type=int, default=32, help="of each of the four segments (32)")
    words.add_argument("-k", type=int, default=50, help="answered of the 1,000 (50)")
    words.add_argument("--only", action="append", choices=CONTESTANTS, help="beside forebay; may be repeated")
    words.add_argument("--early", action="store_true", help="time the early ranker, too (reads MovieLens: minutes)")
    words.add_argument(
        "--env", type=Path, default=Path(tempfile.gettempdir()) / "forebay-serving-peers",
        help="the peers' environment (%(default)s)",
    )  # fmt: skip
    given = words.parse_args()
    chosen = [name for name in CONTESTANTS if given.only is None or name in (FOREBAY, *given.only)]
    missing = _missing(given.env, set(chosen) - set(OURS))
    for name, reason in missing.items():
        err.print(f"      {name} is left out: {reason}", markup=False)
    found: dict[tuple[str, int], list[Round]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forebay-serving-") as folder, ExitStack() as stack:
        base = {"dim": given.dim, "k": given.k, "items": ITEMS, "users": USERS, "seed": 1}
        there: dict[str, tuple[Contestant, Clients]] = {}
        for name in chosen:
            if name not in missing:
                err.print(f"      starting {name}", markup=False)
                one = stack.enter_context(_started(name, base, Path(folder), given.env))
                there[name] = one, stack.enter_context(_clients(one, given.env))
                _held_against(name, *there[name])
        for turn in range(given.repeats):
            for name, (one, clients) in there.items():
                for count in (1, CLIENTS):
                    found[name, count].append(clients.round(count, given.seconds, one.cpu_s))
                rates = " and ".join(f"{found[name, count][-1].per_s:,.0f}" for count in (1, CLIENTS))
                err.print(f"      repeat {turn + 1} of {given.repeats}: {name}, {rates} lookups/s", markup=False)
    early = [_early() for _ in range(given.repeats)] if given.early else []
    tell(list(_figures(found, early)), as_json=given.json, more={
        "lookup": f"1,000 of {ITEMS:,} items, k {given.k}, 4 segments of {given.dim}, string ids",
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "left out": "; ".join(f"{name}: {reason}" for name, reason in missing.items()) or "none",
        "peers": ", ".join(PACKAGES),
    })  # fmt: skip
    return 0


def _missing(env: Path, names: set[str]) -> dict[str, str]:
    """Which of them cannot be had here, and why."""
    reasons: dict[str, str] = {}
    if shutil.which("redis-server") is None:
        reasons |= dict.fromkeys(names & ON_REDIS, "no redis-server: apt-get install redis-server")
    if names - set(reasons) and (failed := install(env)):
        reasons |= dict.fromkeys(names - set(reasons), f"pip: {failed}")
    return reasons


def install(env: Path) -> str:
    """The peers' environment at `env`, where there is none; pip's last words where there can be none."""
    done = env / "installed"
    if done.exists() and done.read_text() == "\n".join(PACKAGES):
        return ""
    err.print(f"      installing the peers into {env}", markup=False)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True, timeout=INSTALL_S)
    command = [str(env / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    result = subprocess.run(command, check=False, timeout=INSTALL_S, capture_output=True, text=True)
    if result.returncode:
        return (result.stderr.strip().splitlines() or ["it failed"])[-1]
    done.write_text("\n".join(PACKAGES))
    return ""


# -- contestants


@contextmanager
def _started(name: str, base: dict[str, Any], folder: Path, env: Path) -> Iterator[Contestant]:
    own = folder / name.replace(" ", "-").replace(",", "")
    own.mkdir()
    with ExitStack() as stack:
        if name in OURS:
            bundle = bundle_of(base["dim"], "affinity" if name == AFFINITY else "weighted_sum")
            processes = 2 if name == TWO else 1
            node = stack.enter_context(
                node_of_benches(bundle, own, processes, items=ITEMS, users=USERS, index=WITHOUT_LISTS)
            )
            http = {"kind": "http", "host": node.host, "port": node.port, "path": "/v1/rank"}
            pids = [server.pid for server in node.servers]
            yield Contestant({**base, **http, "packed": name != FOREBAY_JSON}, pids, scores_of(bundle, node.url))
        elif name in (FASTAPI, FASTAPI_TWO):
            yield stack.enter_context(_fastapi(base, own, env, 2 if name == FASTAPI_TWO else 1))
        elif name in (REDIS_INT8, REDIS_HALF):
            form = "int8" if name == REDIS_INT8 else "float16"
            port, pid = stack.enter_context(redis_server(own))
            told = {**base, "kind": "redis", "port": port, "form": form}
            _run(env, "redis_fill.py", told)
            yield Contestant(told, [pid])
        else:
            told = {**base, "items": FEAST_ITEMS, "kind": "feast", "folder": str(own)}
            _run(env, "feast_store.py", told)
            yield Contestant(told, [])  # it works in the clients alone


@contextmanager
def _fastapi(base: dict[str, Any], own: Path, env: Path, workers: int) -> Iterator[Contestant]:
    port = _free_port()
    command = [
        str(env / "bin" / "uvicorn"), "--factory", "fastapi_numpy:app", "--app-dir", str(HERE), "--port", str(port),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
        "--workers", str(workers),
    ]  # fmt: skip
    with _process(command, own, {"CONTESTANT": json.dumps(base)}) as process:
        _await(port, process)
        pids = [process.pid, *_children(process.pid)]
        http = {"kind": "http", "host": "127.0.0.1", "port": port, "path": "/rank", "packed": False}
        yield Contestant({**base, **http}, pids)


@contextmanager
def redis_server(own: Path, command: str = "redis-server") -> Iterator[tuple[int, int]]:
    """Port and process id of a Redis of its own, that writes nothing to the disk."""
    port = _free_port()
    words = [command, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(own)]
    with _process(words, own, {}) as process:
        _await(port, process)
        yield port, process.pid


@contextmanager
def _process(command: Sequence[str], own: Path, more: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    # Our own packages stay out of the peers' interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(more)
    with (own / "said.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _run(env: Path, script: str, told: dict[str, Any]) -> None:
    """A contestant's own script, to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(env / "bin" / "python"), "-W", "ignore", str(HERE / script), json.dumps(told)]
    result = subprocess.run(command, check=False, timeout=FILL_S, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(f"{script} failed:\n{result.stderr[-3000:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _await(port: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{process.args} does not listen at {port}")


def _children(pid: int) -> list[int]:
    """Workers of a process, as soon as they are there."""
    time.sleep(1.0)
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


# -- clients


def _clients(one: Contestant, env: Path) -> AbstractContextManager[Clients]:
    """All that answer over HTTP are asked by the same one. The others' need what the peers' environment has."""
    if one.told["kind"] == "http":
        return clients_of(one.told, CLIENTS, OVER_HTTP)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = (str(env / "bin" / "python"), "-W", "ignore", str(HERE / "asking.py"))
    return clients_of(one.told, CLIENTS, command, environment, HERE)


# -- whether they did their work


def _held_against(name: str, one: Contestant, clients: Clients) -> None:
    """Raises SystemExit where the first client's lookup 0 is not answered with the best items and their scores."""
    sys.path.insert(0, str(HERE))
    import vectors

    base, told = one.told, clients.check()
    users, asked = lookups({**base, "number": 0}, PREPARED)
    user, items = users[0], asked[0]
    if one.scores is not None:
        scores = one.scores(user, items)
    else:
        own, all_items = vectors.codes(base)
        rows = all_items[[int(item[1:]) for item in items]].astype(np.float32) * np.float32(vectors.SCALE)
        scores = rows @ (own[int(user[1:])].astype(np.float32) * np.float32(vectors.SCALE))
    right = vectors.best(items, scores, base["k"])
    close = np.allclose([score for _, score in told], [score for _, score in right], rtol=1e-2, atol=1e-2)
    same = len({item for item, _ in told} & {item for item, _ in right})
    if len(told) != base["k"] or not close or same < 0.9 * base["k"]:  # float16 moves the last places
        raise SystemExit(f"{name} answers {told[:3]}, and {right[:3]} was right")


# -- what is told


def _early() -> float:
    """Milliseconds of the early ranker for 1,000 pairs, in a process of its own."""
    command = [sys.executable, str(HERE / "early_ranker.py")]
    result = subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
    return float(result.stdout)


def _figures(found: Mapping[tuple[str, int], Sequence[Round]], early: Sequence[float]) -> Iterator[Figure]:
    for (name, clients), rounds in found.items():
        label = f"{name}, {'one client' if clients == 1 else f'{clients} clients'}"
        yield Figure(label, [one.per_s for one in rounds], "lookups/s")
        for rank in (50, 99):
            yield Figure(f"{label}, p{rank}", [one.percentile(rank) / 1e3 for one in rounds], "ms")
        yield Figure(f"{label}, CPU of servers", [one.server_us for one in rounds], "µs/lookup")
        yield Figure(f"{label}, CPU of clients", [one.client_us for one in rounds], "µs/lookup")
    for (name, clients), rounds in found.items():
        if name not in OURS:
            label = "one client" if clients == 1 else f"{clients} clients"
            # In one repeat, since the machine's speed drifts from one to the next.
            times = [a.per_s / b.per_s for a, b in zip(found[FOREBAY, clients], rounds, strict=True)]
            yield Figure(f"forebay, of {name}, {label}", times, "times")
    if early:
        yield Figure("early ranker in process, 1,000 pairs", early, "ms")


if __name__ == "__main__":
    raise SystemExit(main())
