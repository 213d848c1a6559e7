"""Law 5 on the stream's side: no record of a vectors topic claims more than what was applied before it, pauses
included."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from forebay.events import Behaviour
from forebay.store.codec import HEARTBEAT_KEY, unpack_heartbeat
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics

pytestmark = pytest.mark.broker
PARTITIONS = 2


def test_no_as_of_is_later_than_what_was_applied(
    topics: Topics, replay: Callable[..., None], worker: Callable[..., Any], publish: Callable[..., None],
    lag: Callable[..., int], read: Callable[..., Any], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """A worker is paused and woken up again and again; events of now come in meanwhile, and idle stretches between.

    For every heartbeat in the vectors topic: what was appended to the source before its `as_of` is in vectors that
    stand before it.
    """
    pick, users = random.Random(4), 0
    replay(100)
    patient = {"session_timeout_ms": 10_000, "transaction_timeout_ms": 10_000}  # a pause is no eviction
    one = worker("0", state="state", partitions=PARTITIONS, stages=("intake", "user"), options=patient)
    wait_for(lambda: b"ready: worker" in one.said.read_bytes(), "the worker")
    for _ in range(6):
        one.signal(signal.SIGSTOP)
        time.sleep(pick.uniform(0.2, 0.8))
        now = time.time_ns() // 1_000_000
        publish(topics.behaviour, [Behaviour(f"p{users + n}", "i1", "rate", 3.0, now, "e") for n in range(20)])
        users += 20
        time.sleep(pick.uniform(2.0, 3.5))
        one.signal(signal.SIGCONT)
        time.sleep(pick.uniform(0.5, 2.0))
    wait_for(lambda: lag(topics.behaviour, topics.intake_group, PARTITIONS) == 0, "the intake")
    wait_for(lambda: lag(topics.events("user"), topics.group("g1", "user"), PARTITIONS) == 0, "the user side")
    assert one.stop() == 0, one.said.read_text()

    # A user's rows are in one partition, whatever partition of the source its events came through.
    appended = {
        m.key().decode(): m.timestamp()[1]
        for m in read(topics.behaviour, dict.fromkeys(range(PARTITIONS), 0))
        if m.key().startswith(b"p")
    }
    claims = wrong = 0
    for partition in range(PARTITIONS):
        homes = partitions_of([user.encode() for user in appended], PARTITIONS).tolist()
        mine = {u: append for (u, append), home in zip(appended.items(), homes, strict=True) if home == partition}
        seen: set[str] = set()
        for message in read(topics.vectors("g1", "user"), {partition: 0}):
            if message.key() != HEARTBEAT_KEY:
                seen.add(message.key().decode())
                continue
            claims += 1
            as_of = unpack_heartbeat(message.value())
            wrong += any(append < as_of and user not in seen for user, append in mine.items())
        assert len(mine) > 20 and set(mine) <= seen
    assert claims > 20
    assert wrong == 0, f"{wrong} of {claims} heartbeats claim more than was applied"
