"""The first steps of docs/start.md, as they stand there: from a made-up history to a ranking that an event moves."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from forebay.streams.dev.devkafka import DevKafka

from .conftest import free_port

pytestmark = pytest.mark.broker
ROOT = Path(__file__).resolve().parents[2]
EVENTS = "6000"  # in place of the page's 20,000, which take a minute to train on
PATIENCE_S = 120.0
NOW = r"^{} +fresh +[\d.]+ s +[\d.]+ s *$"  # a segment whose last event is seconds old
_number = count(1)


class Terminal:
    """Somebody at a shell in a checkout: lines that end with `&` run on."""

    def __init__(self, folder: Path, kafka: DevKafka) -> None:
        self.folder = folder
        commands = folder / "bin"
        commands.mkdir()
        (commands / "forebay").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m forebay.cli "$@"\n')
        (commands / "forebay").chmod(0o755)
        (folder / "segments").symlink_to(ROOT / "segments")
        port = free_port()
        ours = {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src"),
            "FOREBAY_BOOTSTRAP": kafka.bootstrap, "FOREBAY_TOPIC_PREFIX": f"steps-{os.getpid()}-{next(_number)}.",
            "FOREBAY_PORT": str(port), "FOREBAY_SERVER": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        self._environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | ours
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def type(self, line: str, shows: str = "") -> str:
        """What a line prints; it must end well, and show a match of `shows`: a busy machine is given time for both. ""
        for one that runs on."""
        line = line.split("  #")[0].strip()
        if line.endswith("&"):
            words = shlex.split(line.removesuffix("&"))
            with (self.folder / f"{words[1]}.log").open("wb") as log:
                self.running[words[1]] = subprocess.Popen(
                    words, cwd=self.folder, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                )
            return ""
        deadline = time.monotonic() + PATIENCE_S if shows else 0.0
        while True:
            done = subprocess.run(
                ["bash", "-c", line], check=False, cwd=self.folder, env=self._environment, capture_output=True,
                text=True, timeout=300,
            )  # fmt: skip
            if done.returncode == 0 and re.search(shows, done.stdout, re.MULTILINE):
                return done.stdout
            assert time.monotonic() < deadline, f"{line}\n{done.stdout}{done.stderr}"
            time.sleep(0.5)

    def wait_for(self, said: str) -> None:
        """Until all that run on have said so."""
        deadline = time.monotonic() + PATIENCE_S
        while missing := [name for name in self.running if said not in (self.folder / f"{name}.log").read_text()]:
            for name in missing:
                assert self.running[name].poll() is None, (self.folder / f"{name}.log").read_text()
                assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
            time.sleep(0.1)


@pytest.fixture
def terminal(kafka: DevKafka, tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path, kafka)
    try:
        yield made
    finally:
        for child in reversed(made.running.values()):
            child.terminate()
        for child in made.running.values():
            child.wait(30)


def _blocks() -> list[list[str]]:
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    section = text.split("\n## Step by step\n", 1)[1].split("\n## ", 1)[0]
    return [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)]


def test_the_steps_of_the_page_lead_to_a_ranking_that_moves(terminal: Terminal) -> None:
    """Every line, in order, but for the broker, which is that of the tests."""
    before, after = _blocks()
    assert before[0].startswith("forebay kafka &") and "--synthetic 20000" in "\n".join(before)
    for line in before[1:]:
        terminal.type(line.replace("--synthetic 20000", f"--synthetic {EVENTS}"))
    terminal.wait_for("ready")
    doctor, lookup, publish, _, again = after
    checks = terminal.type(doctor, shows="^ok ")
    assert all(line.startswith("ok ") for line in checks.splitlines())
    first = terminal.type(lookup)
    terminal.type(publish)
    second = terminal.type(again, shows=NOW.format("recent"))
    for segment in ("recent", "taste", "affinity"):
        assert not re.search(NOW.format(segment), first, re.MULTILINE)
        assert re.search(NOW.format(segment), second, re.MULTILINE), second
    assert first.split("\nrank of", 1)[1] != second.split("\nrank of", 1)[1]
