"""Law 2: the same set of accepted events gives the same bytes, in any order and however it is cut into batches."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from forebay.events import Behaviour, ItemUpdate, Tick, UserProfile
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.layout import ACCEPTED, Layout

from .. import naive
from ..logs import Entry, entity_on, random_log
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
    """Law 2, over random logs: permuted, cut anywhere, updates sent twice, reloaded between batches."""
    reloads = overfull = 0
    for seed in range(LOGS):
        random = Random(f"{name} {side} {seed}")
        log = random_log(random, spec(name), side, size=random.choice([6, 40, 160]))
        with Played(spec(name), side) as played:
            reloads += _play(random, log, played)
            overfull += _check_rows(played, name, side, log, f"seed {seed}")
    # The logs were hard enough to mean something. (The item side keeps no list.)
    assert reloads > 150 and (overfull > 200 or side == "item")


@pytest.mark.parametrize("side", SIDES)
def test_two_orders_leave_the_same_store(side: Side) -> None:
    """What is written is a function of the set of events too: it is compared by one digest."""
    for seed in range(40):
        log = random_log(Random(seed), spec("nasty"), side, size=80)
        digests = set()
        for order in range(2):
            with Played(spec("nasty"), side) as played:
                _play(Random(f"{seed} {order}"), log, played)
                played.reload()
                digests.add(played.partition.store.digest())
        assert len(digests) == 1, f"seed {seed}"


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


def test_events_that_share_their_id_all_count() -> None:
    """Which events are one was judged before: the same id at another time, of another user or, on the item side, of two
    users at one time is in the log as often as it counts."""
    with Played(spec("nasty"), "user") as played:
        played.apply([Behaviour("u", "i", "view", 1.0, 1, "e"), Behaviour("u", "i", "view", 1.0, 2, "e")])
        played.apply([Behaviour("v", "i", "view", 1.0, 1, "e")])
        assert [played.row(user)[ACCEPTED] for user in "uv"] == [2, 1]
    with Played(spec("nasty"), "item") as played:
        played.apply([Behaviour("u", "i", "view", 1.0, 5, "e"), Behaviour("v", "i", "view", 1.0, 5, "e")])
        played.apply([Behaviour("w", "i", "view", 1.0, 5, "e")])
        assert played.row("i")[ACCEPTED] == 3


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


def _play(random: Random, log: list[Entry], into: Played) -> int:
    """The log in a random order and random batches, with copies of updates and ticks anywhere; returns how often it was
    reloaded."""
    again = [e for e in log if not isinstance(e, Behaviour) and random.random() < 0.5]
    order = [*log, *again, *(e for e in log if isinstance(e, ItemUpdate | UserProfile))]
    random.shuffle(order)
    at = reloads = 0
    while at < len(order):
        size = random.choice([1, 2, 7, 30, len(order)])
        into.apply(order[at : at + size])
        at += size
        if random.random() < 0.3:
            into.reload()
            reloads += 1
    return reloads


def _check_rows(played: Played, name: str, side: Side, log: list[Entry], note: str) -> int:
    """Returns how many events are past what the longest list holds."""
    clock = max((e.time for e in log if isinstance(e, Tick)), default=0)
    assert played.partition.meta.clock == clock
    acted = [e for e in log if isinstance(e, Behaviour)]
    updated = [e for e in log if isinstance(e, UserProfile | ItemUpdate)]
    assert set(played.entities) == {entity_on(side, e) for e in (*acted, *updated)}
    longest = max((b.feature.size for b in played.layout.blocks if b.feature.kind == "last"), default=0)
    overfull = 0
    for entity in played.entities:
        own = [e for e in acted if entity_on(side, e) == entity]
        changes = [e for e in updated if entity_on(side, e) == entity]
        expected = naive.row(spec(name), played.layout, own, changes, clock)
        assert played.row(entity).tobytes() == expected.tobytes(), f"{note}, {entity}"
        overfull += max(0, len(own) - longest)
    others = np.ones(played.partition.index.capacity, np.bool_)
    others[played.partition.index.rows()] = False
    assert not played.partition.rows[others].any(), note
    return overfull
