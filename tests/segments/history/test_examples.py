"""Examples: which events are impressions, what their labels are, and that nobody's state has seen them."""

from __future__ import annotations

import numpy as np

from forebay.events import Behaviour, ItemUpdate, UserProfile
from forebay.segments.history import History
from forebay.segments.history.examples import Examples
from forebay.segments.state.ids import hash_id
from forebay.segments.state.layout import ACCEPTED, UPDATED, Layout

from ..models import spec

# The nasty spec: an impression is any action but a like, and is positive when it is a buy.
HISTORY = History.of(
    [
        Behaviour("v", "i", "view", 1.0, 30, "c"),
        Behaviour("u", "i", "buy", 1.0, 10, "a"),
        Behaviour("u", "j", "like", 1.0, 20, "b"),
        Behaviour("u", "i", "view", 1.0, 30, "d"),
        UserProfile("w", {}, 5, "p"),
        ItemUpdate("i", {}, 25, "p"),
    ]
)


def test_impressions_are_labelled_in_order_of_time() -> None:
    """The like is state for those after it, and no example."""
    examples = Examples.of(spec("nasty"), HISTORY)
    assert len(examples) == 3
    assert examples.times.tolist() == [10, 30, 30] and examples.labels.tolist() == [True, False, False]
    assert examples.hashes("user").tolist() == [hash_id(u) for u in ("u", "v", "u")]
    assert examples.hashes("item").tolist() == [hash_id("i")] * 3


def test_states_are_of_strictly_earlier_events() -> None:
    """Users: nothing, nothing, buy and like. The item: nothing, then the buy twice, the other view of its millisecond
    unseen."""
    examples = Examples.of(spec("nasty"), HISTORY)
    users = examples.states(Layout.of(spec("nasty"), "user"), examples.times)
    items = examples.states(Layout.of(spec("nasty"), "item"), examples.times)
    assert users[:, ACCEPTED].tolist() == [0, 0, 2]
    assert items[:, ACCEPTED].tolist() == [0, 1, 1] and items[:, UPDATED].tolist() == [0, 25, 25]
    stale = examples.states(Layout.of(spec("nasty"), "user"), np.array([10, 30, 15]))
    assert stale[:, ACCEPTED].tolist() == [0, 0, 1]


def test_between_takes_the_start_and_leaves_the_end() -> None:
    """Parts of a split by time share no example and lose none."""
    examples = Examples.of(spec("nasty"), HISTORY)
    assert [len(examples.between(a, b)) for a, b in ((0, 10), (10, 30), (30, 31))] == [0, 1, 2]


def test_without_an_impression_rule_every_behaviour_is_one() -> None:
    """The listless spec names none."""
    assert len(Examples.of(spec("listless"), HISTORY)) == 4
