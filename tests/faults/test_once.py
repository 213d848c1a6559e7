"""Law 1, once: through kill -9 at every step, through a pause and a revival, and through rebalances.

Each test lets real worker processes go wrong in the middle of a log with duplicates, disorder and bad records in it, and then holds
what they left against one undisturbed processor over the very same log: states and vectors byte-equal, and every accepted
behaviour one interaction, every bad record one dead letter.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebay.events import Interaction, decode
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES
from forebay.store.codec import codec_of
from forebay.streams.deadletters import read as read_letters
from forebay.streams.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure

pytestmark = pytest.mark.broker
PARTITIONS = 2
GROUP = "forebay.g1."


@pytest.fixture
def replay(
    kafka: DevKafka, topics: Topics, make_history: Callable[..., History], arrivals: Callable[..., Any],
    publish: Callable[..., None],
) -> Callable[..., None]:  # fmt: skip
    """Topics with item updates in them; each call publishes another part of the log, 2 % of it unreadable."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    now = time.time_ns() // 1_000_000
    publish(topics.item_updates, make_history(1, until_ms=now).items)

    def send(count: int, seed: int = 0) -> None:
        events = arrivals(make_history(count, seed=seed, until_ms=now), seed)
        publish(topics.behaviour, events)
        publish(topics.behaviour, [(b"u1", b"no event %d" % n) for n in range(count // 50)])

    return send


@pytest.fixture
def hold_against(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, stored: Callable[..., Any],
    undisturbed: Callable[..., Any], newest: Callable[..., Any], read: Callable[..., Any],
) -> Callable[[str], int]:  # fmt: skip
    """Compare everything that is left, stores under `state` included, with an undisturbed run; returns the interactions."""

    def check(state: str) -> int:
        runs = {side: undisturbed(side, PARTITIONS) for side in SIDES}
        sent = [decode(m.value()) for m in read(topics.item_updates, dict.fromkeys(range(PARTITIONS), 0))]
        counted = Counter((e.user, e.time, e.id) for e in sent if isinstance(e, Interaction))
        assert set(counted.values()) == {1}, "an interaction was sent twice"
        assert len(counted) == len(runs["user"].outcome.interactions)
        letters = read_letters(kafka.bootstrap, topics, 10_000)
        assert Counter((d.partition, d.offset) for d in letters) == Counter(
            (d.partition, d.offset) for side in SIDES for d in runs[side].outcome.dead_letters
        )
        for side in SIDES:
            left = stored(bundle, tmp_path / state, side)
            assert set(left) == set(runs[side].states)
            assert {e: v[0] for e, v in left.items()} == {e: v[0] for e, v in runs[side].states.items()}
            assert left == runs[side].states
            codec = codec_of(bundle, side)
            emitted = newest(topics.vectors("g1", side), PARTITIONS)
            assert set(emitted) == set(left)
            rows, ids = codec.unpack(list(emitted.values()))
            for slot in codec.segments:
                rows["segments"][slot.name]["as_of"] = 0
            rows["id_bytes"] = 0
            assert {e: rows[n : n + 1].tobytes() for n, e in enumerate(ids)} == {
                e: _without_id_bytes(codec.dtype, v[1]) for e, v in left.items()
            }
        return len(counted)

    return check


def _without_id_bytes(dtype: Any, vectors: bytes) -> bytes:
    import numpy as np

    rows = np.frombuffer(vectors, dtype).copy()
    rows["id_bytes"] = 0
    return rows.tobytes()


@pytest.fixture
def drained(topics: Topics, lag: Callable[..., int], wait_for: Callable[..., None]) -> Callable[[], None]:
    """Return when both sides have committed all that is in their topics."""

    def wait() -> None:
        for side in SIDES:
            group = f"{topics.prefix}{GROUP}{side}"
            wait_for(lambda: lag(topics.source(side), group, PARTITIONS) == 0, f"the {side} side")  # noqa: B023
        # Nothing came to the user side meanwhile: its last interactions are on the item side's account.

    return wait


KILLS = [
    ("user", 3, 3),  # folded and encoded, nothing sent
    ("user", 4, 4),  # committed, the store behind
    ("item", 4, 3),
    ("user", 5, 2),  # in the store
    ("item", 3, 2),
    ("item", 5, 1),
]


def test_kill_9_at_every_step_leaves_what_an_undisturbed_run_leaves(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None], hold_against: Callable[[str], int],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Six kills in the middle of three thousand events, each followed by a restart in the same slot and folder."""
    for number, (side, step, at) in enumerate(KILLS):
        replay(500, seed=number)  # so that either side has enough before it, however far the other one came
        fault = {"side": side, "step": step, "at": at, "signal": "SIGKILL"}
        killed = worker("0", state="state", partitions=PARTITIONS, fault=fault)
        assert killed.wait() == -signal.SIGKILL, killed.said.read_text()
    last = worker("0", state="state", partitions=PARTITIONS)
    drained()
    assert last.stop() == 0, last.said.read_text()
    assert hold_against("state") > 2900


def test_a_paused_worker_that_wakes_up_is_fenced_and_writes_nothing(
    replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None], hold_against: Callable[[str], int],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """It stops with a batch in its hands; another one takes over, does that batch, and the first is woken up."""
    replay(1500)
    fault = {"side": "user", "step": 3, "at": 6, "signal": "SIGSTOP"}
    paused = worker("a", state="a", partitions=PARTITIONS, fault=fault)
    wait_for(lambda: paused.state == "T", "the pause")
    other = worker("b", state="b", partitions=PARTITIONS)
    drained()
    paused.signal(signal.SIGCONT)
    replay(500, seed=1)
    drained()
    assert paused.stop() in (0, 1)
    said = paused.said.read_text()
    assert "a transaction was aborted" in said or "Fenced" in said
    drained()
    replay(100, seed=2)
    drained()
    assert other.stop() == 0, other.said.read_text()
    assert hold_against("b") > 2000


@pytest.mark.parametrize("folders", ["shared", "own"])
def test_workers_that_join_and_leave_lose_and_double_nothing(
    folders: str, replay: Callable[..., None], worker: Callable[..., Any], drained: Callable[[], None],
    hold_against: Callable[[str], int], wait_for: Callable[..., None], tmp_path: Path, topics: Topics,
    lag: Callable[..., int],
) -> None:  # fmt: skip
    """A second worker joins, the first leaves and comes back, each time in the middle of the log.

    On one machine they share a folder and hand over their stores; on two, the new owner folds the log silently.
    """
    names = {"a": "state", "b": "state"} if folders == "shared" else {"a": "a", "b": "b"}
    slow = {"slow_s": 0.01, "options": {"batch_events": 16}}
    replay(2000)
    first = worker("a", state=names["a"], partitions=PARTITIONS, **slow)
    wait_for(lambda: lag(topics.behaviour, f"{topics.prefix}{GROUP}user", PARTITIONS) < 1900, "the first batches")
    second = worker("b", state=names["b"], partitions=PARTITIONS, **slow)
    wait_for(lambda: b"assigned" in second.said.read_bytes(), "the second worker's share")
    replay(500, seed=1)
    assert first.stop() == 0, first.said.read_text()
    again = worker("a", state=names["a"], partitions=PARTITIONS, **slow)
    replay(500, seed=2)
    wait_for(lambda: b"assigned" in again.said.read_bytes(), "the first worker's share")
    replay(500, seed=3)
    drained()
    assert again.stop() == 0, again.said.read_text()
    drained()
    replay(100, seed=4)
    drained()
    assert second.stop() == 0, second.said.read_text()
    assert hold_against(names["b"]) > 3400
