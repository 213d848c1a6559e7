"""Law 2: the same set of accepted events gives the same bytes, in any order and however it is cut into batches."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from forebay.events import Behaviour, Interaction, ItemUpdate, Tick, UserProfile, entity_of
from forebay.segments.spec import Side
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.fold import DEEP, DUPLICATE, NEW, Fold
from forebay.segments.state.layout import Layout

from .. import naive
from ..logs import Entry, Stream, random_log
from ..models import spec

LOGS = 250  # for each of the cases below


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("movielens", "user"),
        ("movielens", "item"),
        ("nasty", "user"),
        ("nasty", "item"),
        ("listless", "user"),
        ("own", "user"),
        ("own", "item"),
    ],
)
def test_every_row_is_the_naive_one(name: str, side: Side) -> None:
    """Law 2, over random logs: permuted, cut anywhere, up to half of it sent twice, reloaded between batches."""
    duplicates = deep = 0
    for seed in range(LOGS):
        random = Random(f"{name} {side} {seed}")
        log = random_log(random, spec(name), side, size=random.choice([6, 40, 160]))
        stream = _played(random, name, side, log)
        _check_rows(stream, name, log, f"seed {seed}")
        deep += len(stream.spilled)
        duplicates += stream.duplicates
    # The logs were hard enough to mean something. (The item side is sent each interaction once, and keeps no list.)
    assert side == "item" or (duplicates > 1000 and deep > 200)


def test_two_orders_leave_the_same_spilled_ids() -> None:
    """What the duplicate check knows beside the rows is a function of the set of events too."""
    for seed in range(40):
        log = random_log(Random(seed), spec("nasty"), "user", size=80)
        sets = []
        for order in range(2):
            stream = _played(Random(f"{seed} {order}"), "nasty", "user", log)
            name_of = {row: entity for entity, row in stream.row.items()}
            sets.append({(name_of[row], time, identity) for row, time, identity in stream.spilled})
        assert sets[0] == sets[1], f"seed {seed}"


def test_a_segment_whose_slots_change_is_marked_dirty() -> None:
    """A vector is a function of state: a change without its mark would leave an old vector in service."""
    layout = Layout.of(spec("nasty"), "user")
    for seed in range(40):
        random = Random(seed)
        stream = Stream(spec("nasty"), "user")
        for entry in random_log(random, spec("nasty"), "user", size=60):
            before = stream.rows.copy()
            stream.dirty[:] = 0
            stream.apply([entry])
            for block in layout.blocks:
                columns = slice(block.offset, block.offset + block.size)
                changed = (stream.rows[:, columns] != before[:, columns]).any(axis=1)
                assert (stream.dirty[changed] & block.bits == block.bits).all(), f"seed {seed}, {block.feature}"


def test_an_event_folded_twice_in_one_batch_counts_once() -> None:
    """Duplicates meet in one batch as well as across batches, near the end of the list and far behind it."""
    stream = Stream(spec("nasty"), "user")
    events = [Behaviour("u", "i", "view", 1.0, time, f"e{time}") for time in range(1, 11)]
    stream.apply([*events, *events])
    stream.apply(events[:3])
    stream.apply(events[-3:])
    assert stream.accepted == 10
    assert stream.rows[0, 1] == 10


def test_identity_is_entity_and_time_and_id() -> None:
    """The same id at another time, or of another user, is another event."""
    stream = Stream(spec("nasty"), "user")
    stream.apply([Behaviour("u", "i", "view", 1.0, 1, "e"), Behaviour("u", "i", "view", 1.0, 2, "e")])
    stream.apply([Behaviour("v", "i", "view", 1.0, 1, "e")])
    assert stream.rows[: len(stream.row), 1].tolist() == [2, 1]


def test_the_list_alone_decides_what_is_not_deep() -> None:
    """NEW above the oldest entry of a full list, DUPLICATE when found, DEEP below: only then are spilled ids looked
    up."""
    stream = Stream(spec("nasty"), "user")
    stream.apply([Behaviour("u", "i", "view", 1.0, time, "e") for time in (10, 20, 30, 40)])
    asked = [Behaviour("u", "i", "view", 1.0, time, "e") for time in (5, 10, 15, 40, 50)]
    columns = ColumnCoder(spec("nasty"), "user").behaviours(asked)
    verdict = Fold(stream.layout).classify(stream.rows, np.zeros(5, dtype=np.int64), columns)
    assert verdict.tolist() == [DEEP, DUPLICATE, NEW, DUPLICATE, NEW]


def test_the_item_side_trusts_its_topic() -> None:
    """Interactions were made once, in a transaction: the item side keeps no list and calls every one new."""
    layout = Layout.of(spec("nasty"), "item")
    one = [Interaction("i", "u", "view", 1.0, 5, "e", 5)]
    columns = ColumnCoder(spec("nasty"), "item").behaviours(one)
    rows, zero = np.zeros((1, layout.width), dtype=np.int64), np.zeros(1, dtype=np.int64)
    Fold(layout).behaviours(rows, zero, columns, 0, zero.copy())
    assert Fold(layout).classify(rows, zero, columns).tolist() == [NEW]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_tick_empties_the_window_that_it_ends(shuffled: bool) -> None:
    """Five events in a window of five seconds; the clock moves past two of them, wherever the tick stands in the
    log."""
    layout = Layout.of(spec("nasty"), "user")
    window = next(b for b in layout.blocks if b.feature.bucket_ms == 1000)
    log: list[Entry] = [Behaviour("u", "i", "view", 1.0, 1000 * second, "e") for second in range(1, 6)]
    log.insert(0 if shuffled else 5, Tick(7000))
    stream = Stream(spec("nasty"), "user")
    for entry in log:
        stream.apply([entry])
    assert stream.rows[0, window.offset + 1 : window.offset + 6].sum() == 3


def test_a_late_tick_moves_nothing_back() -> None:
    """The clock is the newest tick: an older one that comes later changes no row and marks nothing dirty."""
    stream = Stream(spec("nasty"), "user")
    stream.apply([Behaviour("u", "i", "view", 1.0, 1000, "e"), Tick(100_000)])
    before = stream.rows.copy()
    stream.dirty[:] = 0
    stream.apply([Tick(5000)])
    assert (stream.rows == before).all() and not stream.dirty.any()


def test_the_newest_update_wins_whenever_it_comes() -> None:
    """By (time, id): of two updates of one millisecond the greater hashed id stays, in both orders."""
    updates = [UserProfile("u", {"country": c}, 5, i) for c, i in (("at", "x"), ("ch", "y"), ("at", "z"))]
    for order in (updates, updates[::-1]):
        stream = Stream(spec("nasty"), "user")
        for update in [UserProfile("u", {"country": "ch"}, 4, "older"), *order, order[0]]:
            stream.apply([update])
        assert (stream.rows[0] == naive.row(spec("nasty"), stream.layout, [], updates)).all()


def _played(random: Random, name: str, side: Side, log: list[Entry]) -> Stream:
    """The stream after the log in a random order and random batches, with copies of behaviours anywhere after the
    first."""
    again: list[Entry] = []
    if side == "user":  # the item side is sent each interaction once
        again = [e for e in log if random.random() < 0.5]
    played = [*log, *again, *(e for e in log if isinstance(e, ItemUpdate | UserProfile))]
    random.shuffle(played)
    stream = Stream(spec(name), side)
    at = 0
    while at < len(played):
        size = random.choice([1, 2, 7, 30, len(played)])
        stream.apply(played[at : at + size])
        at += size
        if random.random() < 0.3:
            stream.reload()
    return stream


def _check_rows(stream: Stream, name: str, log: list[Entry], note: str) -> None:
    clock = max((e.time for e in log if isinstance(e, Tick)), default=0)
    assert stream.clock == clock
    acted = [e for e in log if isinstance(e, Behaviour | Interaction)]
    updated = [e for e in log if isinstance(e, UserProfile | ItemUpdate)]
    assert stream.accepted == len(acted), note
    for entity, place in stream.row.items():
        own = [e for e in acted if entity_of(e) == entity]
        changes = [e for e in updated if entity_of(e) == entity]
        expected = naive.row(spec(name), stream.layout, own, changes, clock)
        assert stream.rows[place].tobytes() == expected.tobytes(), f"{note}, {entity}"
        left = {(time, identity) for row, time, identity in stream.spilled if row == place}
        assert left == naive.spilled(stream.layout, own), f"{note}, {entity}"
    assert not stream.rows[len(stream.row) :].any(), note
