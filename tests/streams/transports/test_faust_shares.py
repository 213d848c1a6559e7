"""Partitions change hands only when who had them has let go, whatever the group looks like."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.streams.transports.faust.shares import Place, shares

MEMBERS = st.sets(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1)
PLACES = st.sets(st.tuples(st.sampled_from(["clicks", "items"]), st.integers(0, 6)))


@given(places=PLACES, members=MEMBERS, pick=st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_nobody_is_given_what_another_still_has(places: set[Place], members: set[str], pick: object) -> None:
    """And it ends: all are given, evenly, and nothing moved that could stay."""
    order = sorted(members)
    owner = {place: pick.choice([*order, None]) for place in sorted(places)}  # type: ignore[attr-defined]
    has = {m: [p for p, o in owner.items() if o == m] for m in order}
    before = {m: list(found) for m, found in has.items()}
    for _ in range(3):
        given_now = shares(places, has)
        got = [place for found in given_now.values() for place in found]
        assert len(got) == len(set(got)) and set(got) <= places
        for member, found in given_now.items():
            for other in order:
                assert other == member or not set(found) & set(has[other])
        has = given_now
    assert {place for found in has.values() for place in found} == places
    sizes = [len(found) for found in has.values()]
    assert max(sizes) - min(sizes) <= 1
    # A member lost something only where it had more than its even share.
    most = -(-len(places) // len(order))
    assert all(set(before[m]) <= set(has[m]) or len(has[m]) >= len(places) // len(order) for m in order)
    assert all(len(set(before[m]) - set(has[m])) <= max(0, len(before[m]) - most + 1) for m in order)


def test_a_member_that_joins_gets_its_share_in_two_rounds() -> None:
    """First it is taken from who has it, then it is given."""
    places = {("clicks", n) for n in range(3)}
    has = {"old": [("clicks", n) for n in range(3)], "new": []}
    first = shares(places, has)
    assert first == {"old": [("clicks", 0), ("clicks", 1)], "new": []}
    assert shares(places, first) == {"old": [("clicks", 0), ("clicks", 1)], "new": [("clicks", 2)]}


def test_what_a_member_has_of_a_topic_that_nobody_reads_is_no_share() -> None:
    """Nor is a topic without partitions."""
    assert shares(set(), {"a": [("gone", 0)], "b": []}) == {"a": [], "b": []}
