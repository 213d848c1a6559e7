"""A foreign topic has its producers' times: a wrong clock decides no more than its own record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from forebay.clock import DAY_MS
from forebay.events import Behaviour, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER
from forebay.streams.intake.intake import Intake
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.source import Source

from .conftest import foreign

TOPICS = Topics("t.", ("clicks",))
NOW = 1_790_000_000_000
CLICKS = 2


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    """One that has all its partitions."""
    clicks = foreign(
        "clicks", format="json", map={"user": "u", "id": "u", "time": "t"}, set={"item": "i", "action": "a"}
    )
    sources = [Source(topic, 0, topic) for topic in TOPICS.sources]
    made = Intake(
        TOPICS, sources, {"user": 1, "item": 1}, tmp_path, foreign=[clicks], stamped_elsewhere=["clicks"],
        wall_ms=lambda: NOW,
    )  # fmt: skip
    for number, source in enumerate(sources):
        made.open(number, source, 0)
    return made


def _batch(first: int, times: Sequence[int], stamps: Sequence[int]) -> PartitionBatch:
    values = [msgspec.json.encode({"u": f"u{first + n}", "t": time}) for n, time in enumerate(times)]
    return PartitionBatch(CLICKS, [None] * len(values), values, range(first, first + len(values)), stamps)


def _users(outcome: Outcome) -> list[str]:
    told = [r for r in outcome.records if r.topic == TOPICS.events("user")]
    events = [e for r in told for e in events_of(Block.decode(dict(r.headers)[HEADER], r.value or b""))]
    return [e.user for e in events if isinstance(e, Behaviour)]


def test_a_clock_that_is_ahead_makes_no_other_event_late(intake: Intake) -> None:
    """Its record counts as of now: nothing is forgotten that is still to be known, also after a flush."""
    first = intake.apply([_batch(0, [NOW - 1000] * 3, [NOW, NOW + 300 * DAY_MS, NOW])])
    assert _users(first) == ["u0", "u1", "u2"]
    intake.flush()
    owned = intake.partitions[CLICKS]
    assert owned.meta.newest_append == NOW and owned.meta.offset == 3
    again = intake.apply(
        [
            _batch(3, [NOW - 1000], [NOW]),
        ]
    )
    assert _users(again) == ["u3"]
    for one in list(intake.partitions):
        intake.close(one)


def test_nothing_is_claimed_by_a_producers_clock(intake: Intake) -> None:
    """What our own topics took before a record of theirs is applied with it; a foreign one may come later, and be
    older. What is claimed of it is asked of its end."""
    own = PartitionBatch(0, [b"u"], [encode(Behaviour("u", "i", "a", 1.0, NOW, "e"))], [0], [NOW])
    intake.apply([own, _batch(0, [NOW], [NOW])])
    assert (intake.partitions[0].meta.as_of, intake.partitions[CLICKS].meta.as_of) == (NOW, 0)
    intake.apply([_batch(1, [NOW], [NOW])], {CLICKS: NOW - 5})
    assert intake.partitions[CLICKS].meta.as_of == NOW - 5
    for one in list(intake.partitions):
        intake.close(one)
