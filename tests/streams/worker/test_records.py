"""What a batch puts into the log, and where."""

from __future__ import annotations

import pytest

from forebay.events import Tick, decode
from forebay.store.codec import HEARTBEAT_KEY, unpack_heartbeat
from forebay.streams.deadletters import DeadLetter
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import TICK_KEY, Outcome
from forebay.streams.worker.records import records_of

TOPICS = Topics("t.")
LETTER = DeadLetter(b"k", b"v", "late", "…", "behaviour", 0, 7, 1, "user")
OUTCOME = Outcome(
    vectors=[(0, b"u1", b"row"), (1, b"gone", None)], interactions=[(b"i1", b"told")], dead_letters=[LETTER],
    watermarks={1: 124},
)  # fmt: skip


@pytest.mark.parametrize("interactions", [True, False])
def test_each_goes_where_it_belongs(interactions: bool) -> None:
    """Vectors and heartbeats by partition, interactions and letters by their key, ticks to the source; a second
    generation's worker leaves out the interactions, and nothing else."""
    records = records_of(OUTCOME, {2: 3_600_000}, TOPICS, "g1", "user", interactions=interactions)
    vectors = "t.vectors.g1.user"
    assert [r[:4] for r in records if r.topic == vectors and r.key != HEARTBEAT_KEY] == [
        (vectors, 0, b"u1", b"row"),
        (vectors, 1, b"gone", None),
    ]
    ((partition, value),) = [(r.partition, r.value) for r in records if r.key == HEARTBEAT_KEY]
    assert (partition, unpack_heartbeat(value or b"")) == (1, 124)
    told = [r[:4] for r in records if r.topic == "t.item-updates"]
    assert told == ([("t.item-updates", -1, b"i1", b"told")] if interactions else [])
    (letter,) = [r for r in records if r.topic == "t.dead-letters"]
    assert letter.partition == -1 and DeadLetter.from_record(letter.key, letter.value, letter.headers) == LETTER
    (tick,) = [r for r in records if r.key == TICK_KEY]
    assert tick[:2] == ("t.behaviour", 2) and decode(tick.value or b"") == Tick(3_600_000)
    assert len(records) == 5 + interactions
