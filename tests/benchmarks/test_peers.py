"""How the benchmark against peers knows that they did their work, and what is sent to all."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
import pytest

from forebay.events import decode
from load import Load, item_of, user_of
from peers import LAST, Features, features, first_wrong


def _wanted(events: list[tuple[str, str, float]]) -> dict[str, list[Features]]:
    found: dict[str, list[Features]] = defaultdict(list)
    for user, right in features(events, 100):
        found[user].append(right)
    return found


def test_features_are_a_count_a_mean_and_the_last_thirty_items_of_each_user() -> None:
    """Users do not mix, the list ends at thirty, and what is past the bound is left out."""
    events = [("a", f"i{n}", float(n)) for n in range(40)] + [("b", "j", 5.0)]
    told = list(features(events, 35))
    assert [user for user, _ in told] == ["a"] * 35 + ["b"]
    assert told[0] == ("a", Features(1, 0.0, ["i0"]))
    assert told[34] == ("a", Features(35, 17.0, [f"i{n}" for n in range(5, 35)]))
    assert len(told[34][1].last) == LAST
    assert told[-1] == ("b", Features(1, 5.0, ["j"]))


def test_a_peer_is_wrong_that_loses_doubles_or_reorders_an_event() -> None:
    """Right records pass in the order of each user alone; each kind of fault is told with its record."""
    events = [("a", "i1", 1.0), ("b", "i2", 2.0), ("a", "i3", 5.0), ("a", "i4", 3.0)]
    wanted = _wanted(events)
    right = [("b", wanted["b"][0]), *(("a", one) for one in wanted["a"])]
    assert first_wrong(right, wanted) == ""
    assert "record 2 of a" in first_wrong([right[0], right[1], right[3]], wanted)  # one is lost
    assert "record 2 of b" not in first_wrong(right, wanted)
    assert "b has 2 records, and fewer events" in first_wrong([*right, right[0]], wanted)  # one is doubled
    swapped = _wanted([events[0], events[1], events[3], events[2]])
    assert "record 2 of a" in first_wrong([("a", one) for one in swapped["a"]], wanted)
    alike = [("a", "i1", 1.0), ("a", "i3", 1.0)]  # another order, with the same count and mean
    assert "record 1 of a" in first_wrong([("a", one) for one in _wanted(alike[::-1])["a"]], _wanted(alike))
    off = msgspec.structs.replace(wanted["b"][0], mean=2.1)
    assert "record 1 of b" in first_wrong([("b", off)], wanted)
    assert "c has 1 records" in first_wrong([("c", off)], wanted)


def test_the_same_seed_sends_the_same_events_of_about_190_bytes() -> None:
    """Keyed by their users, with identities of their own, and as skewed as behaviour logs are."""
    load = Load(20_000, seed=3, genres=("Drama", "War"))
    pairs = list(load.pairs(1_790_000_000_000))
    assert pairs == list(Load(20_000, seed=3, genres=("Drama", "War")).pairs(1_790_000_000_000))
    assert pairs != list(Load(20_000, seed=4, genres=("Drama", "War")).pairs(1_790_000_000_000))
    events = [decode(value) for _, value in pairs]
    assert [key.decode() for key, _ in pairs] == [event.user for event in events]  # type: ignore[union-attr]
    assert len({event.id for event in events}) == len(events)
    rows = [(user_of(user), item_of(item), value) for user, item, value in load.rows()]
    assert rows == [(event.user, event.item, event.value) for event in events]  # type: ignore[union-attr]
    assert sum(len(value) for _, value in pairs) / len(pairs) == pytest.approx(190, abs=4)
    counts = Counter(event.user for event in events)  # type: ignore[union-attr]
    assert counts[user_of(0)] > 5 * counts[user_of(9)] > 0
