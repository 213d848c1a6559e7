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
from ..logs import Entry, random_log
from ..models import spec
from ..played import Played

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
        with Played(spec(name), side) as played:
            _play(random, side, log, played)
            _check_rows(played, name, log, f"seed {seed}")
            deep += len(played.spilled())
            duplicates += played.duplicates
    # The logs were hard enough to mean something. (The item side is sent each interaction once, and keeps no list.)
    assert side == "item" or (duplicates > 1000 and deep > 200)


def test_two_orders_leave_the_same_spilled_ids() -> None:
    """What the duplicate check knows beside the rows is a function of the set of events too."""
    for seed in range(40):
        log = random_log(Random(seed), spec("nasty"), "user", size=80)
        sets = []
        for order in range(2):
            with Played(spec("nasty"), "user") as played:
                _play(Random(f"{seed} {order}"), "user", log, played)
                sets.append(played.spilled())
        assert sets[0] == sets[1], f"seed {seed}"


def test_a_segment_whose_state_changes_is_pending() -> None:
    """A vector is a function of state: a change without its mark would leave an old vector in service."""
    layout = Layout.of(spec("nasty"), "user")
    for seed in range(40):
        random = Random(seed)
        with Played(spec("nasty"), "user") as played:
            state = played.partition
            for entry in random_log(random, spec("nasty"), "user", size=60):
                before = state.rows.copy()
                state.pending[:] = 0
                played.apply([entry])
                for block in layout.blocks:
                    columns = slice(block.offset, block.offset + block.size)
                    changed = (state.rows[:, columns] != before[:, columns]).any(axis=1)
                    assert (state.pending[changed] & block.bits == block.bits).all(), f"seed {seed}, {block.feature}"


def test_an_event_folded_twice_in_one_batch_counts_once() -> None:
    """Duplicates meet in one batch as well as across batches, near the end of the list and far behind it."""
    events = [Behaviour("u", "i", "view", 1.0, time, f"e{time}") for time in range(1, 11)]
    with Played(spec("nasty"), "user") as played:
        played.apply([*events, *events])
        played.apply(events[:3])
        played.apply(events[-3:])
        assert played.accepted == 10
        assert played.row("u")[1] == 10


def test_identity_is_entity_and_time_and_id() -> None:
    """The same id at another time, or of another user, is another event."""
    with Played(spec("nasty"), "user") as played:
        played.apply([Behaviour("u", "i", "view", 1.0, 1, "e"), Behaviour("u", "i", "view", 1.0, 2, "e")])
        played.apply([Behaviour("v", "i", "view", 1.0, 1, "e")])
        assert [played.row(user)[1] for user in "uv"] == [2, 1]


def test_the_list_alone_decides_what_is_not_deep() -> None:
    """NEW above the oldest entry of a full list, DUPLICATE when found, DEEP below: only then are spilled ids looked
    up."""
    asked = [Behaviour("u", "i", "view", 1.0, time, "e") for time in (5, 10, 15, 40, 50)]
    columns = ColumnCoder(spec("nasty"), "user").behaviours(asked)
    with Played(spec("nasty"), "user") as played:
        played.apply([Behaviour("u", "i", "view", 1.0, time, "e") for time in (10, 20, 30, 40)])
        verdict = Fold(played.layout).classify(played.row("u")[None], np.zeros(5, dtype=np.int64), columns)
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
    with Played(spec("nasty"), "user") as played:
        for entry in log:
            played.apply([entry])
        assert played.row("u")[window.offset + 1 : window.offset + 6].sum() == 3


def test_a_late_tick_moves_nothing_back() -> None:
    """The clock is the newest tick: an older one that comes later changes no row and leaves nothing pending."""
    with Played(spec("nasty"), "user") as played:
        state = played.partition
        played.apply([Behaviour("u", "i", "view", 1.0, 1000, "e"), Tick(100_000)])
        before = state.rows.copy()
        state.pending[:] = 0
        played.apply([Tick(5000)])
        assert (state.rows == before).all() and not state.pending.any()


def test_the_newest_update_wins_whenever_it_comes() -> None:
    """By (time, id): of two updates of one millisecond the greater hashed id stays, in both orders."""
    updates = [UserProfile("u", {"country": c}, 5, i) for c, i in (("at", "x"), ("ch", "y"), ("at", "z"))]
    for order in (updates, updates[::-1]):
        with Played(spec("nasty"), "user") as played:
            for update in [UserProfile("u", {"country": "ch"}, 4, "older"), *order, order[0]]:
                played.apply([update])
            assert (played.row("u") == naive.row(spec("nasty"), played.layout, [], updates)).all()


def _play(random: Random, side: Side, log: list[Entry], into: Played) -> None:
    """The log in a random order and random batches, with copies of behaviours anywhere after the first."""
    again: list[Entry] = []
    if side == "user":  # the item side is sent each interaction once
        again = [e for e in log if random.random() < 0.5]
    order = [*log, *again, *(e for e in log if isinstance(e, ItemUpdate | UserProfile))]
    random.shuffle(order)
    at = 0
    while at < len(order):
        size = random.choice([1, 2, 7, 30, len(order)])
        into.apply(order[at : at + size])
        at += size
        if random.random() < 0.1:
            into.reload()


def _check_rows(played: Played, name: str, log: list[Entry], note: str) -> None:
    clock = max((e.time for e in log if isinstance(e, Tick)), default=0)
    assert played.partition.meta.clock == clock
    acted = [e for e in log if isinstance(e, Behaviour | Interaction)]
    updated = [e for e in log if isinstance(e, UserProfile | ItemUpdate)]
    assert played.accepted == len(acted), note
    left = played.spilled()
    for entity in played.entities:
        own = [e for e in acted if entity_of(e) == entity]
        changes = [e for e in updated if entity_of(e) == entity]
        expected = naive.row(spec(name), played.layout, own, changes, clock)
        assert played.row(entity).tobytes() == expected.tobytes(), f"{note}, {entity}"
        assert {(t, i) for e, t, i in left if e == entity} == naive.spilled(played.layout, own), f"{note}, {entity}"
    others = np.ones(played.partition.index.capacity, np.bool_)
    others[played.partition.index.rows()] = False
    assert not played.partition.rows[others].any(), note
