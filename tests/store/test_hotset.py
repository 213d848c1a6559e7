"""Who stays in a bounded table: what is asked for often, whatever passes by once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.arrays import Ints
from forebay.segments.state.ids import hash_ids
from forebay.store.hotset import HotSet
from forebay.store.sketch import MOST, SAMPLES, count_all, counts_for, estimate


def _keys(first: int, count: int) -> Ints:
    return hash_ids([f"u{n}" for n in range(first, first + count)])


def test_an_estimate_is_never_under_the_truth_before_it_ages() -> None:
    random, counts, since = np.random.default_rng(1), counts_for(500), np.zeros(1, np.int64)
    asked = _keys(0, 500)[random.zipf(1.3, 4000) % 500]
    count_all(counts, since, 1 << 40, asked)
    keys, truth = np.unique(asked, return_counts=True)
    found = np.array([estimate(counts, key) for key in keys])
    assert (found >= np.minimum(truth, MOST)).all() and (found == np.minimum(truth, MOST)).mean() > 0.95


def test_counts_are_halved_when_enough_was_asked_for() -> None:
    counts, since = counts_for(10), np.zeros(1, np.int64)
    key = _keys(0, 1)
    count_all(counts, since, 40, np.repeat(key, 39))
    assert estimate(counts, key[0]) == 39
    count_all(counts, since, 40, key)
    assert estimate(counts, key[0]) == 20 and since[0] == 20


@settings(deadline=None)
@given(
    capacity=st.integers(1, 40),
    steps=st.lists(st.tuples(st.sampled_from(["count", "offer", "remove"]), st.lists(st.integers(0, 60))), max_size=60),
)
def test_what_is_here_is_what_was_offered_and_has_not_gone(capacity: int, steps: list[tuple[str, list[int]]]) -> None:
    """Against a set; never more than there is room for, and nothing goes while there is."""
    hot, model, names = HotSet(capacity), set[int](), _keys(0, 61)
    for what, numbers in steps:
        keys = names[numbers]
        if what == "count":
            hot.count(keys)
        elif what == "remove":
            hot.remove(keys)
            model -= set(keys.tolist())
        else:
            for key in keys:
                gone = hot.offer(key[None]).tolist()
                assert len(gone) <= (0 if int(key) in model or len(model) < capacity else 1)
                model = (model | {int(key)}) - set(gone)
        assert set(hot.keys().tolist()) == model and len(hot) == len(model) <= capacity
        assert hot.holds(names).tolist() == [int(name) in model for name in names]


def test_a_pass_over_keys_that_come_once_leaves_those_that_are_asked_for_often() -> None:
    hot, often = HotSet(1000), _keys(0, 900)
    for _ in range(5):
        hot.count(often)
        hot.offer(often)
    once = _keys(10_000, 20_000)
    for part in np.split(once, 200):
        hot.count(part)
        hot.offer(part)
        hot.count(often)
    assert hot.holds(often).mean() > 0.97 and len(hot) == 1000


def test_what_is_asked_for_now_takes_the_place_of_what_was() -> None:
    """Counts age: yesterday's favourites go."""
    hot, old, new = HotSet(500), _keys(0, 500), _keys(1000, 500)
    for keys in (old, new):
        for _ in range(6 * SAMPLES):
            hot.count(keys)
            hot.offer(keys)
    assert hot.holds(new).mean() > 0.9 and not hot.holds(old).all()


def test_what_was_hot_is_so_again_after_a_restart() -> None:
    before = HotSet(300)
    for _ in range(4):
        before.count(_keys(0, 250))
        before.offer(_keys(0, 250))
    keys = before.keys()
    after = HotSet(300)
    after.restore(keys, before.counts(keys))
    assert set(after.keys().tolist()) == set(keys.tolist())
    assert (after.counts(keys) >= 4).all()
    small = HotSet(100)
    small.restore(keys, before.counts(keys))
    assert len(small) == 100


@pytest.mark.parametrize("capacity", [1, 2, 99, 100])
def test_the_smallest_sets_turn_over(capacity: int) -> None:
    hot = HotSet(capacity)
    for part in np.split(_keys(0, 1000), 100):
        hot.count(part)
        hot.offer(part)
    assert len(hot) == capacity
