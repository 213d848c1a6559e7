"""What training reads of a log is, to the bit, what the read-out of the folded state says at each moment."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from forebay.clock import HOUR_MS
from forebay.events import Tick
from forebay.segments.blocks.build import block_of
from forebay.segments.history import replay
from forebay.segments.history.readings import Question, answers
from forebay.segments.history.scratch import Scratch
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.kept import Kept
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader, Vocabulary

from .. import naive
from ..logs import random_log
from ..models import spec


@pytest.mark.parametrize("name", ["movielens", "nasty", "own"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("in_files", [False, True], ids=["in memory", "in files"])
def test_answers_are_the_read_out_of_the_folded_state(
    name: str, side: Side, in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two questions in one replay, of other segments, at events' own milliseconds and around them, of unknown entities
    too; rounds and answers that are cut anywhere."""
    monkeypatch.setattr(replay, "ENTITIES", 3)
    monkeypatch.setattr(replay, "ANSWERS", 7)
    model = spec(name)
    layout, segments = Layout.of(model, side), model.side(side)
    for seed in range(8):
        random = Random(f"{name} {side} {seed}")
        events = [e for e in random_log(random, model, side, size=120) if not isinstance(e, Tick)]
        if not events:
            continue
        none = [0] * len(events)
        log = SideLog.of(model, side, [block_of(events, none, none, none, ("log/0",))])
        vocabulary = Vocabulary.of(log.hashes[: len(log.hashes) // 2])
        readers = {s.title: SegmentReader(model, s, layout, vocabulary) for s in segments}
        moments = [naive.time_of(e) for e in events]

        def question(count: int, some: int, random: Random = random, moments: list[int] = moments) -> Question:
            rows = np.array([random.randrange(-1, len(log.entities)) for _ in range(count)], dtype=np.int64)  # noqa: B023
            times = [random.choice(moments) + random.choice([0, 0, 1, -1, HOUR_MS]) for _ in range(count)]
            return Question(rows, np.array(times, dtype=np.int64), segments[:some])

        asked = [question(40, len(segments)), question(25, 1), question(0, 1)]
        scratch = Scratch(tmp_path, least_bytes=1 if in_files else 1 << 40)
        found = answers(layout, log, readers, asked, scratch)
        assert [set(f) for f in found] == [{s.title for s in q.segments} for q in asked]
        hashes = np.append(log.hashes, 0)
        for one, kept in zip(asked, found, strict=True):
            states = replay.snapshots(layout, log, one.rows, one.times)
            for title, got in kept.items():
                wanted = Kept.read(readers[title], states, hashes[one.rows])
                for part in (slice(None), np.array(random.choices(range(len(one.rows)), k=9) if len(one.rows) else [])):
                    if isinstance(part, np.ndarray) and not len(part):
                        continue
                    mine, theirs = got.take(part), wanted.take(part)
                    for field in ("dense", "sequence", "items", "length", "own"):
                        a, b = getattr(mine, field), getattr(theirs, field)
                        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), (title, field)
    assert not list(tmp_path.iterdir())  # files have no names


def test_a_subset_is_taken_as_the_whole_is() -> None:
    """Of lists that are read off a log."""
    model = spec("movielens")
    events = [e for e in random_log(Random(3), model, "user", size=200) if not isinstance(e, Tick)]
    none = [0] * len(events)
    log = SideLog.of(model, "user", [block_of(events, none, none, none, ("log/0",))])
    layout = Layout.of(model, "user")
    readers = {s.title: SegmentReader(model, s, layout, Vocabulary.of(log.hashes)) for s in model.side("user")}
    rows = np.arange(50) % len(log.entities)
    times = np.full(50, max(naive.time_of(e) for e in events) + 1)
    (found,) = answers(layout, log, readers, [Question(rows, times, model.side("user"))], Scratch())
    some = np.array([7, 3, 3, 41])
    for kept in found.values():
        one, other = kept.subset(some).take(np.array([2, 0])), kept.take(some[[2, 0]])
        assert one.sequence.tobytes() == other.sequence.tobytes() and one.length.tolist() == other.length.tolist()
