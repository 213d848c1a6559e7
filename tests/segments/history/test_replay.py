"""Point in time: a snapshot is the fold of what was strictly earlier, and of nothing else."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from forebay.clock import HOUR_MS
from forebay.events import Behaviour, ItemUpdate, Tick, UserProfile
from forebay.segments.blocks.build import block_of
from forebay.segments.history import History
from forebay.segments.history.replay import snapshots
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.layout import ACCEPTED, NEWEST, Layout

from .. import naive
from ..logs import entity_on, random_log
from ..models import spec


@pytest.mark.parametrize("name", ["movielens", "nasty"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("ticks", ["hourly", "any"])
def test_a_snapshot_is_the_naive_fold_of_strictly_earlier_events(name: str, side: Side, ticks: str) -> None:
    """Random questions: at an event's own millisecond, around it and far away, unknown entities; copies of updates."""
    layout = Layout.of(spec(name), side)
    for seed in range(25):
        random = Random(f"{name} {side} {ticks} {seed}")
        log = [e for e in random_log(random, spec(name), side, size=80) if not isinstance(e, Tick)]
        if not log:
            continue
        acted = [e for e in log if isinstance(e, Behaviour)]
        updated = [e for e in log if isinstance(e, UserProfile | ItemUpdate)]
        shuffled, copied = list(acted), [*updated, *(u for u in updated if random.random() < 0.3)]
        random.shuffle(shuffled)
        random.shuffle(copied)
        none = [0] * (len(shuffled) + len(copied))
        replay = SideLog.of(spec(name), side, [block_of([*shuffled, *copied], none, none, none, ("log/0",))])
        moments = [naive.time_of(e) for e in log]
        asked = [random.choice([*(entity_on(side, e) for e in log), "nobody"]) for _ in range(40)]
        times = [random.choice(moments) + random.choice([0, 0, 1, -1, HOUR_MS, 40 * 24 * HOUR_MS]) for _ in asked]
        clocks = [t // HOUR_MS * HOUR_MS if ticks == "hourly" else t - random.randrange(3 * HOUR_MS) for t in times]
        given = None if ticks == "hourly" else np.array(clocks, dtype=np.int64)
        found = snapshots(layout, replay, replay.rows_of(asked), np.array(times, dtype=np.int64), given)
        for question, (entity, time, clock) in enumerate(zip(asked, times, clocks, strict=True)):
            mine = [e for e in acted if entity_on(side, e) == entity and naive.time_of(e) < time]
            known = [e for e in updated if entity_on(side, e) == entity and naive.time_of(e) < time]
            expected = naive.row(spec(name), layout, mine, known, clock)
            assert found[question].tobytes() == expected.tobytes(), f"seed {seed}, {entity} at {time}"


def test_an_event_of_the_same_millisecond_is_not_earlier() -> None:
    """The label's own event, and one that shares its millisecond, are unseen; one millisecond later both are seen."""
    events = [Behaviour("u", "i", "view", 1.0, time, f"e{n}") for n, time in enumerate((10, 20, 20, 30))]
    layout = Layout.of(spec("nasty"), "user")
    log = SideLog.of(spec("nasty"), "user", History.of([*events, UserProfile("u", {}, 20, "p")]))
    times = np.array([0, 10, 11, 20, 21, 30, 31])
    found = snapshots(layout, log, np.zeros(7, dtype=np.int64), times)
    assert found[:, ACCEPTED].tolist() == [0, 0, 1, 1, 3, 3, 4]
    assert found[:, NEWEST].tolist() == [0, 0, 10, 10, 20, 20, 30]


def test_an_unknown_entity_has_an_empty_row() -> None:
    """Also beside known ones, and in a log that has no events at all."""
    layout = Layout.of(spec("nasty"), "user")
    log = SideLog.of(spec("nasty"), "user", History.of([Behaviour("u", "i", "view", 1.0, 10, "e")]))
    rows = log.rows_of(["nobody", "u"])
    assert rows.tolist() == [-1, 0]
    found = snapshots(layout, log, rows, np.array([99, 99]))
    assert not found[0].any() and found[1, ACCEPTED] == 1
    nothing = SideLog.of(spec("nasty"), "user", History.of([]))
    assert not snapshots(layout, nothing, nothing.rows_of(["u"]), np.array([99])).any()
    assert snapshots(layout, log, rows[:0], np.zeros(0, dtype=np.int64)).shape == (0, layout.width)


def test_the_clock_of_a_question_is_the_last_full_hour() -> None:
    """Ticks are hourly: a one-hour window still holds its event at 59 minutes, and is empty two ticks later."""
    layout = Layout.of(spec("nasty"), "user")
    window = next(b for b in layout.blocks if b.feature.key == "colour" and b.feature.over_ms)
    day = 1_000 * 24 * HOUR_MS
    log = SideLog.of(spec("nasty"), "user", History.of([Behaviour("u", "i", "view", 0.0, day + 1, "e")]))
    minutes = np.array([1, 59, 60, 119, 121])
    found = snapshots(layout, log, np.zeros(5, dtype=np.int64), day + minutes * 60_000)
    counted = found[:, window.offset + 1 : window.offset + window.size].sum(axis=1)
    assert counted.tolist() == [1, 1, 0, 0, 0]


def test_answers_come_in_the_order_of_the_questions() -> None:
    """Questions are answered by the length of the history they see, and given back in their own order."""
    events = [Behaviour(u, "i", "view", 1.0, 10 * n, f"e{n}") for u in "ab" for n in range(1, 6)]
    log = SideLog.of(spec("nasty"), "user", History.of(events))
    rows = np.array([1, 0, 1, 0, 0, 1])
    times = np.array([55, 25, 15, 99, 5, 35])
    found = snapshots(Layout.of(spec("nasty"), "user"), log, rows, times)
    assert found[:, ACCEPTED].tolist() == [5, 2, 1, 5, 0, 3]
