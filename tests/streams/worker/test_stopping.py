"""A worker that is told to stop while it takes a partition over sets nobody back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from forebay.clock import now_ms
from forebay.events import Behaviour, encode
from forebay.streams.intake.intake import Intake
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source

TOPICS = Topics("t.")
SOURCES = [Source(topic, 0, topic) for topic in TOPICS.sources]


class Stopping(MemoryTransport):
    """SIGTERM comes while one of the questions of a takeover is asked; `stop_at` is its name."""

    stop: threading.Event
    stop_at = ""

    def take(self, stop: threading.Event) -> None:
        super().take(stop)
        self._asked("take")

    def committed(self, partition: int) -> int | None:
        found = super().committed(partition)
        self._asked("committed")
        return found

    def first(self, partition: int) -> int:
        found = super().first(partition)
        self._asked("first")
        return found

    def _asked(self, question: str) -> None:
        if question == self.stop_at:
            self.stop.set()


@pytest.mark.parametrize("question", ["take", "committed", "first"])
def test_told_to_stop_in_a_takeover_it_commits_nothing_of_the_partition(question: str, tmp_path: Path) -> None:
    """Its store is behind the group, and was not folded up to it: with that offset in a last commit, the next owner's
    store would lead the group, and nobody could go on."""
    log = MemoryLog(now_ms)
    for topic in (*TOPICS.sources, TOPICS.events("user"), TOPICS.events("item"), TOPICS.catalogue):
        log.create(topic, 1)
    behind = _worker(log, tmp_path / "behind")
    _turned(behind, 4)  # its store begins at 0
    ahead = _worker(log, tmp_path / "ahead")
    for number in range(8):
        event = Behaviour("u", "i", "rate", 1.0, now_ms(), f"e{number}")
        log.append(Sent(TOPICS.behaviour, 0, b"u", encode(event), ()))
    _turned(ahead, 20)
    asked = _transport(log)
    assert asked.committed(0) == 8
    stopped = _transport(log)
    stopped.stop_at = question
    again = _worker(log, tmp_path / "behind", stopped)
    again.run(stopped.stop)
    assert stopped.stop.is_set() and asked.committed(0) == 8


def _transport(log: MemoryLog) -> Stopping:
    transport = Stopping(log, list(TOPICS.sources), "group", WorkerOptions(), moment=now_ms)
    transport.stop = threading.Event()
    return transport


def _worker(log: MemoryLog, folder: Path, transport: Stopping | None = None) -> Worker:
    stage = Intake(TOPICS, SOURCES, {"user": 1, "item": 1}, folder)
    return Worker(stage, transport or _transport(log), WorkerOptions(flush_interval_s=0.0, heartbeat_interval_s=0.0))


def _turned(worker: Worker, turns: int) -> None:
    worker.join(threading.Event())
    for _ in range(turns):
        worker.turn()
    worker.finish()
    worker.leave()
