"""A whole installation: history, a bundle, a generation, a worker process and a server process, over the run's
broker."""

from __future__ import annotations

import itertools
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.errors import ForebayError
from forebay.events import Behaviour, ItemUpdate, UserProfile, encode
from forebay.retrieval.client import Client
from forebay.segments.bundle import Bundle
from forebay.streams.dev.devkafka import DevKafka

GENRES = ["Action", "Comedy", "Drama", "Horror"]
SPEC = Path(__file__).parents[2] / "segments" / "movielens.toml"
PATIENCE_S = 120.0
_number = itertools.count(1)


class Installation:
    """Everything by the command line alone, in one folder: what an operator would type."""

    def __init__(self, folder: Path, kafka: DevKafka) -> None:
        self.folder, self.kafka, self.prefix = folder, kafka, f"e2e-{os.getpid()}-{next(_number)}."
        self.port, self.status = (free_port() for _ in range(2))
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url, timeout_s=10.0)
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def forebay(self, *words: str, code: int = 0) -> str:
        """Run a verb to its end; returns what it printed."""
        done = subprocess.run(
            self._command(*words), check=False, capture_output=True, text=True, timeout=180, env=self._environment()
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def start(self, verb: str, *words: str, name: str = "") -> None:
        """Start a long-running verb, known by `name` from then on, or by itself."""
        name = name or verb
        with (self.folder / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                self._command(verb, *words), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment()
            )

    def said(self, verb: str) -> str:
        """All that a long-running verb has printed, its earlier starts included."""
        return (self.folder / f"{verb}.log").read_text()

    def kill(self, verb: str) -> None:
        """kill -9."""
        child = self.children.pop(verb)
        child.kill()
        child.wait()

    def stop(self) -> None:
        """End what is still running, the server before the worker."""
        self.client.close()
        for child in reversed(self.children.values()):
            child.terminate()
        codes = {verb: child.wait(30) for verb, child in self.children.items()}
        assert not any(codes.values()), (codes, [(self.folder / f"{v}.log").read_text() for v in codes])

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for a condition; a child that ended meanwhile fails the test with its log."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            for verb, child in self.children.items():
                assert child.poll() is None, (self.folder / f"{verb}.log").read_text()
            assert time.monotonic() < deadline, [(self.folder / f"{v}.log").read_text() for v in self.children]
            time.sleep(0.02)

    def is_ready(self) -> bool:
        try:
            return self.client.ready().ready
        except ForebayError:  # not listening yet
            return False

    def is_current(self) -> bool:
        """Whether every user's segments are fresh: a worker that was killed is missed by its group for a session's
        time."""
        found = [self.client.entity("user", f"u{n}").segments.values() for n in range(30)]
        return all(s.freshness.state == "fresh" for segments in found for s in segments)

    def saw(self, user: str, time_ms: int) -> bool:
        """Whether lookups see an event of `user` as new as `time_ms`."""
        recent = self.client.entity("user", user).segments.get("recent")
        return recent is not None and (recent.freshness.last_event or 0) >= time_ms

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "forebay.cli", *words]

    def _environment(self) -> dict[str, str]:
        source = str(Path(__file__).parents[2] / "src")
        return {**os.environ, "PYTHONPATH": source, "FOREBAY_BOOTSTRAP": self.kafka.bootstrap,
                "FOREBAY_TOPIC_PREFIX": self.prefix, "FOREBAY_DATA_DIR": str(self.folder / "data"),
                "FOREBAY_STATE_DIR": str(self.folder / "worker"), "FOREBAY_VECTORS_DIR": str(self.folder / "server"),
                "FOREBAY_PORT": str(self.port), "FOREBAY_SERVER": self.url, "FOREBAY_PARTITIONS": "2"}  # fmt: skip


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_history(path: Path, count: int = 1500, seed: int = 0) -> None:
    """Users who like one genre each and rate films of all, over the last ten days."""
    pick, now = random.Random(seed), time.time_ns() // 1_000_000
    lines = [
        encode(ItemUpdate(f"i{n}", {"genres": [GENRES[n % 4]], "year": 1980.0 + n}, now - 11 * 86_400_000, "item"))
        for n in range(60)
    ]
    lines += [encode(UserProfile(f"u{n}", {"age": 20.0 + n}, now - 11 * 86_400_000, "profile")) for n in range(30)]
    for n in range(count):
        user, item = pick.randrange(30), pick.randrange(60)
        value = pick.choice([4.0, 5.0]) if item % 4 == user % 4 else pick.choice([1.0, 2.0, 4.0])
        moment = now - 10 * 86_400_000 + n * (10 * 86_400_000 // count) - 60_000
        lines.append(
            encode(Behaviour(f"u{user}", f"i{item}", "rate", value, moment, f"e{n}", {"genres": [GENRES[item % 4]]}))
        )
    path.write_bytes(b"\n".join(lines) + b"\n")


@pytest.fixture(scope="module")
def installation(kafka: DevKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Trained, backfilled, and serving."""
    made = Installation(tmp_path_factory.mktemp("installation"), kafka)
    history = made.folder / "history.jsonl"
    write_history(history)
    made.forebay("train", "--from", str(history), "--spec", str(SPEC), "--epochs", "3")
    (bundle,) = (made.folder / "data" / "bundles").iterdir()
    Bundle.load(bundle)
    made.forebay("topics", "create")
    made.forebay("backfill", "--bundle", str(bundle), "--from", str(history))
    made.start("work", "--status", f"127.0.0.1:{made.status}")
    made.start("serve")
    try:
        # The first worker of a machine compiles its kernels, and says nothing of how current it is until then.
        made.until(lambda: "ready: generation g1" in made.said("work"))
        made.until(made.is_ready)
        yield made
    finally:
        made.stop()
