"""Hour sets know what was added, as a set of Python's does, through flushes, closed hours and restarts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.arrays import Bools, Ints
from forebay.clock import HOUR_MS
from forebay.segments.state.ids import hash_ids
from forebay.streams.intake.duplicates import HourSets, IdentitySet, identities_of

Event = tuple[int, int, int]  # entity, time, id
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6 * HOUR_MS - 1), st.integers(2, 5)), max_size=12)


def _add(sets: HourSets | IdentitySet, events: list[Event]) -> Bools:
    columns: list[Ints] = [np.array([e[n] for e in events], np.int64) for n in range(3)]
    return sets.add(columns[1], identities_of(*columns))


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=8), st.data())
def test_an_event_is_new_once(batches: list[list[Event]], data: st.DataObject) -> None:
    """Whatever the batches; after a restart from what was handed out; hours that are forgotten are new again."""
    sets, seen, kept, since = HourSets(), set[Event](), list[tuple[int, bytes]](), 0
    for batch in batches:
        expected = []
        for event in batch:
            expected.append(event not in seen)
            seen.add(event)
        assert _add(sets, batch).tolist() == expected
        assert len(sets) == len(seen) and sets.oldest == min((e[1] // HOUR_MS for e in seen), default=None)
        match data.draw(st.sampled_from(["flush", "restart", "forget", "go on"])):
            case "flush":
                kept += sets.taken()
            case "restart":
                kept += sets.taken()
                sets, since = HourSets(), 0
                sets.load(kept)
                assert sets.taken() == []
            case "forget":
                kept += sets.taken()
                before = data.draw(st.integers(0, 7 * HOUR_MS))
                sets.forget(before)
                kept = [(hour, blob) for hour, blob in kept if (hour + 1) * HOUR_MS > before]
                seen = {e for e in seen if (e[1] // HOUR_MS + 1) * HOUR_MS > before}
                since = max(since, before)
        assert sets.since == since


def test_from_since_on_every_event_is_known() -> None:
    """Before it some are: the hour in which it lies stays whole. It never goes back, and the oldest hour that has an
    event in it is the next to go."""
    sets = HourSets()

    def state() -> tuple[int, int | None, int]:
        return sets.since, sets.oldest, len(sets)

    assert state() == (0, None, 0)
    events = [(1, hour * HOUR_MS + minute * 60_000, 1) for hour in (5, 3, 9) for minute in (0, 29, 30, 59)]
    assert _add(sets, events).all() and state() == (0, 3, 12)
    moment = 5 * HOUR_MS + 30 * 60_000
    sets.forget(moment)
    assert state() == (moment, 5, 8)
    assert not _add(sets, [e for e in events if e[1] >= moment]).any()
    sets.forget(moment - HOUR_MS)
    assert state() == (moment, 5, 8)
    sets.forget(6 * HOUR_MS)
    assert state() == (6 * HOUR_MS, 9, 4)
    sets.forget(10 * HOUR_MS)
    assert state() == (10 * HOUR_MS, None, 0) and sets.nbytes == 0
    assert sets.taken() == []


def test_what_was_not_handed_out_is_forgotten_by_a_crash() -> None:
    """The log is read again for it: the offset that lies beside the blobs is of before."""
    sets, again = HourSets(), HourSets()
    _add(sets, [(1, 5, 1)])
    kept = sets.taken()
    _add(sets, [(2, 5, 1)])
    again.load(kept)
    assert _add(again, [(1, 5, 1), (2, 5, 1)]).tolist() == [False, True]


def test_many_events_of_some_hours() -> None:
    """Tables grow, older hours are closed, late events go to closed hours; memory stays near 16 bytes an event."""
    random_ = np.random.default_rng(1)
    sets, count = HourSets(), 200_000
    times = np.sort(random_.integers(0, 10 * HOUR_MS, count))
    identities = random_.integers(1, 1 << 63, (count, 2)).astype(np.uint64)
    late = random_.permutation(count)
    for part in np.array_split(np.arange(count), 40):
        assert sets.add(times[part], identities[part]).all()
    assert len(sets) == count and sets.nbytes < 16 * count * 1.6
    assert not sets.add(times[late], identities[late]).any()
    others = identities ^ np.uint64(1 << 40)
    for part in np.array_split(late, 40):
        assert sets.add(times[part], others[part]).all()
    assert len(sets) == 2 * count and not sets.add(times, others).any()


def test_the_same_id_at_another_time_or_of_another_entity_is_another_event() -> None:
    """And an identity of zeros is one as well."""
    pick = random.Random(1)
    names = hash_ids([pick.randbytes(8).hex() for _ in range(50)])
    columns = [np.repeat(names, 50), np.tile(np.arange(1, 51) * 1000, 50), np.zeros(2500, np.int64)]
    found = identities_of(*columns)
    assert len(np.unique(found, axis=0)) == 2500
    nothing = np.zeros(1, np.int64)
    sets = HourSets()
    assert sets.add(nothing, identities_of(nothing, nothing, nothing)).all()
    assert not sets.add(nothing, identities_of(nothing, nothing, nothing)).any()


def test_half_an_identity_is_refused() -> None:
    """A blob that was cut off is not taken for another one."""
    with pytest.raises(ValueError, match="24 bytes"):
        HourSets().load([(1, bytes(24))])


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=8))
def test_a_set_of_a_whole_history_knows_all_of_it(batches: list[list[Event]]) -> None:
    """Whatever the hours."""
    found, seen = IdentitySet(1 << 20), set[Event]()
    for batch in batches:
        expected = []
        for event in batch:
            expected.append(event not in seen)
            seen.add(event)
        assert _add(found, batch).tolist() == expected and len(found) == len(seen)


def test_a_set_of_a_whole_history_does_not_grow_past_its_bound() -> None:
    """It says how much it holds, and still holds it."""
    found = IdentitySet(4096 * 16)
    many = [(n, 1, 1) for n in range(2048)]
    assert _add(found, many).all()
    with pytest.raises(MemoryError, match="2,048 events take more than 0 MB"):
        _add(found, [(9999, 1, 1)])
    assert len(found) == 2048 and not _add(IdentitySet(1 << 20), []).any()
