"""How long a worker has its transport hold a batch for company."""

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
from forebay.streams.worker.transport import Polled


class Slow(MemoryTransport):
    """One whose commits take 20 ms, as it says."""

    holds: list[tuple[float, float]]
    commit_s = 0.02

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        self.holds.append((hold_s, ahead_s))
        return super().poll(most, wait_s, hold_s, ahead_s)


@pytest.mark.parametrize("commits", [0.0, 2.0])
def test_a_batch_is_held_for_as_many_commits_as_the_options_say(commits: float, tmp_path: Path) -> None:
    """What it usually takes to apply a batch is told, too: before the first, nothing."""
    topics, log, options = Topics("t."), MemoryLog(now_ms), WorkerOptions(hold_commits=commits)
    for topic in (*topics.sources, topics.events("user"), topics.events("item"), topics.catalogue):
        log.create(topic, 1)
    transport = Slow(log, list(topics.sources), "group", options, moment=now_ms)
    transport.holds = []
    sources = [Source(topic, 0, topic) for topic in topics.sources]
    worker = Worker(Intake(topics, sources, {"user": 1, "item": 1}, tmp_path), transport, options)
    worker.join(threading.Event())
    for number in range(8):
        event = Behaviour("u", "i", "rate", 1.0, now_ms(), f"e{number}")
        log.append(Sent(topics.behaviour, 0, b"u", encode(event), ()))
        worker.turn()
    worker.finish()
    worker.leave()
    assert {hold_s for hold_s, _ in transport.holds} == {commits * 0.02}
    assert transport.holds[0][1] == 0.0
    assert transport.holds[-1][1] > 0.0
