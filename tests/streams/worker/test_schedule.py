"""What is encoded next, where the time is not enough for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.store.pending import Pending
from forebay.streams.worker.schedule import IDLE_MS, RECENT_MS, Schedule, Waiting
from forebay.streams.worker.segmentoptions import SegmentOptions

NAMES = ("a", "b", "c")


def _waiting(*rows: tuple[int, int, float, float]) -> Waiting:
    """Each as (row, mask, age in seconds, seconds since the last event)."""
    numbers, masks, ages, idle = (np.array(column) for column in zip(*rows, strict=True))
    pending = Pending(numbers.astype(np.int64), masks.astype(np.int64))
    first = np.zeros(len(pending), np.bool_)
    age_ms = np.repeat((ages * 1000).astype(np.int64)[:, None], len(NAMES), axis=1)
    return Waiting(pending, age_ms, (idle * 1000).astype(np.int64), first)


def _pairs(chosen: Mapping[int, Pending]) -> set[tuple[int, int, int]]:
    """Partition, row and segment."""
    return {(number, int(row), s) for number, part in chosen.items() for s in range(len(NAMES)) for row in part.of(s)}


def _schedule(*costs_s: float, **options: SegmentOptions) -> Schedule:
    schedule = Schedule(NAMES[: len(costs_s)], options)
    schedule.cost_s[:] = costs_s
    return schedule


def test_with_time_for_all_all_are_encoded() -> None:
    """Whatever they are worth, and whatever a segment may take of others' time."""
    waiting = {0: _waiting((3, 0b11, 1, 0), (5, 0b01, 9, 7)), 2: _waiting((1, 0b10, 0, 0))}
    schedule = _schedule(1.0, 1.0, a=SegmentOptions(quota=0.1))
    assert schedule.choose(waiting, 4.0) == {number: w.pending for number, w in waiting.items()}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((1, 0b1, 60, 9), (2, 0b1, 20, 9)),  # it waits for longer
        ((1, 0b1, 20, 9), (2, 0b1, 20, 90)),  # its last event was a moment ago
        ((1, 0b1, 20, -200), (2, 0b1, 20, 1)),  # so it was, by the clock of its publisher
        ((1, 0b10, 20, 9), (2, 0b1, 20, 9)),  # it costs half
        ((1, 0b100, 20, 9), (2, 0b1, 20, 9)),  # it is worth twice as much
        ((1, 0b1, 3600, 9e8), (2, 0b1, 20, 1)),  # the idle one has waited for so long
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_first_comes_what_loses_most_for_each_second_of_encoding(
    better: tuple[int, int, float, float], worse: tuple[int, int, float, float], turned: bool
) -> None:
    """Of two pairs with time for one, in either order and in either partition."""
    schedule = _schedule(1.0, 0.5, 1.0, c=SegmentOptions(worth=2.0))
    first, second = (worse, better) if turned else (better, worse)
    chosen = schedule.choose({0: _waiting(first), 1: _waiting(second)}, 1.2)
    assert _pairs(chosen) == {(int(turned), 1, better[1].bit_length() - 1)}


def test_the_age_of_a_pair_is_its_own() -> None:
    """A row that has waited long for one segment is not in a hurry for another."""
    pending = Pending(np.array([1, 2]), np.array([0b11, 0b1]))
    age_ms = np.array([[5_000, 90_000], [8_000, 0]])
    waiting = Waiting(pending, age_ms, np.zeros(2, np.int64), np.zeros(2, np.bool_))
    assert _pairs(_schedule(1.0, 1.0).choose({0: waiting}, 2.2)) == {(0, 1, 1), (0, 2, 0)}


def test_a_segment_takes_no_more_than_its_quota_where_others_wait() -> None:
    """It is worth a thousand times as much, and has a third of the time."""
    rows = [(n, 0b11, 1.0, 1.0) for n in range(20)]
    schedule = _schedule(1.0, 1.0, a=SegmentOptions(worth=1000, quota=0.3))
    chosen = _pairs(schedule.choose({0: _waiting(*rows)}, 10.0))
    assert [sum(s == place for _, _, s in chosen) for place in range(2)] == [3, 7]


def test_one_pair_is_encoded_however_short_the_time_is() -> None:
    """Else the work would never end."""
    chosen = _schedule(1.0).choose({0: _waiting((1, 1, 1, 1), (2, 1, 2, 1)), 1: _waiting((1, 1, 0, 0))}, 0.0)
    assert _pairs(chosen) == {(0, 2, 0)}


def test_every_pair_comes_to_its_turn() -> None:
    """Busy entities wait for minutes in each round, more than there is time for, and an idle one waits among them: it
    is never taken to be so idle that its age counts for nothing."""
    schedule, age = _schedule(1.0), 0.0
    for _ in range(1000):
        age += 60
        busy = [(n, 1, 240.0, 0.0) for n in range(1, 6)]
        if (0, 0, 0) in _pairs(schedule.choose({0: _waiting((0, 1, age, age), *busy)}, 2.0)):
            break
    assert age == pytest.approx(240 * (RECENT_MS + IDLE_MS) / RECENT_MS, rel=0.1)


def test_what_a_pair_costs_is_learnt() -> None:
    """From what was measured, the last the most; nothing is learnt of nothing."""
    schedule = _schedule(1.0, 1.0)
    for _ in range(30):
        schedule.measured(0, 100, 300.0)
    schedule.measured(1, 0, 5.0)
    assert schedule.cost_s.tolist() == pytest.approx([3.0, 1.0], rel=0.01)


def test_as_much_time_is_encoded_as_the_choice_took() -> None:
    """Else a worker with millions of rows waiting would do nothing but choose."""
    schedule, waiting = _schedule(1.0), {0: _waiting(*((n, 1, 1.0, 1.0) for n in range(9)))}
    schedule.chose(5.0)
    assert len(_pairs(schedule.choose(waiting, 2.0))) == 5
    schedule.chose(0.1)
    assert len(_pairs(schedule.choose(waiting, 2.0))) == 2


def test_pairs_of_a_row_go_together_where_its_record_costs_more() -> None:
    """The cheap one alone gives more for a second than both do; with a record for each, both together give more."""
    rows = [(n, 0b11, 1.0, 1.0) for n in range(100)]
    schedule = _schedule(1.0, 2.0)
    assert {s for _, _, s in _pairs(schedule.choose({0: _waiting(*rows)}, 30.0))} == {0}
    schedule.row_s = 3.0
    assert _pairs(schedule.choose({0: _waiting(*rows)}, 30.0)) == {(0, row, s) for row in range(5) for s in range(2)}


def test_a_dear_segment_does_not_keep_back_the_others_of_its_row() -> None:
    """It costs a hundred times as much as the record."""
    rows = [(n, 0b111, 1.0, 1.0) for n in range(100)]
    schedule = _schedule(1.0, 100.0, 0.5)
    schedule.row_s = 1.0
    chosen = _pairs(schedule.choose({0: _waiting(*rows)}, 25.0))
    assert chosen == {(0, row, s) for row in range(10) for s in (0, 2)}


def test_what_a_record_costs_is_learnt() -> None:
    """As what a pair costs is."""
    schedule = _schedule(1.0)
    for _ in range(30):
        schedule.told(100, 200.0)
    schedule.told(0, 7.0)
    assert schedule.row_s == pytest.approx(2.0, rel=0.01)


rows = st.lists(st.tuples(st.integers(1, 7), st.integers(0, 3600), st.integers(0, 9000)), min_size=1, max_size=40)


@given(
    st.lists(rows, min_size=1, max_size=3),
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.25, 1.0]), min_size=3, max_size=3),
    st.floats(0, 60),
    st.sampled_from([0.0, 0.0, 1.0]),
)
def test_the_choice_is_the_plain_one(
    partitions: list[list[tuple[int, int, int]]], costs: list[float], quotas: list[float], budget: float, row_s: float
) -> None:
    """Nothing is left out that is more urgent than what is chosen, while its segment may take more."""
    schedule = _schedule(*costs, **{n: SegmentOptions(quota=q) for n, q in zip(NAMES, quotas, strict=True)})
    schedule.row_s = row_s
    waiting = {
        number: _waiting(*((row, mask, age, idle) for row, (mask, age, idle) in enumerate(part)))
        for number, part in enumerate(partitions)
    }
    urgency, cost = {}, {}
    for number, part in enumerate(partitions):
        for row, (mask, age, idle) in enumerate(part):
            for group in _plain_groups([s for s in range(3) if mask >> s & 1], costs, row_s):
                took = sum(costs[s] for s in group) + row_s
                for s in group:
                    a_second = len(group) / took
                    urgency[number, row, s] = (age * 1000 + 1) / (RECENT_MS + min(idle * 1000, IDLE_MS)) * a_second
                    cost[number, row, s] = costs[s] + row_s / len(group)
    chosen = _pairs(schedule.choose(waiting, budget))
    assert chosen <= urgency.keys()
    if sum(costs[s] for _, _, s in urgency) + row_s * sum(map(len, partitions)) <= budget:
        assert chosen == urgency.keys()
        return
    by = [sum(s == place for _, _, s in chosen) for place in range(3)]
    most = [int(q * budget / c) if q < 1 else len(urgency) for q, c in zip(quotas, costs, strict=True)]
    left = budget - sum(cost[pair] for pair in chosen)
    if len(chosen) == 1:
        return  # there may be time for none
    assert left >= -1e-6 * budget
    assert all(n <= m for n, m in zip(by, most, strict=True))
    if may := {pair for pair in urgency.keys() - chosen if by[pair[2]] < most[pair[2]]}:
        assert left <= 3 * (max(costs) + row_s)  # one of each segment at most
        assert max(urgency[pair] for pair in may) <= min(urgency[pair] for pair in chosen) * (1 + 1 / 32)


def _plain_groups(left: list[int], costs: list[float], row_s: float) -> Iterator[list[int]]:
    """Of all choices the one that gives most for a second, and so on; of equal ones the smaller."""
    while left:
        choices = [list(c) for size in range(1, len(left) + 1) for c in combinations(left, size)]
        best = max(
            choices, key=lambda c: (round(len(c) / (sum(costs[s] for s in c) + row_s), 9), -len(c), [-s for s in c])
        )
        yield best
        left = [s for s in left if s not in best]
