"""Partitions change hands only when who had them has let go, whatever the group looks like."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from aiokafka.consumer.subscription_state import SubscriptionState
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.streams.transports.faust.shares import Place, Shares, shares, shares_by_topic

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


@given(places=PLACES, members=MEMBERS, pick=st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_nobody_is_given_what_it_does_not_read(places: set[Place], members: set[str], pick: object) -> None:
    """Whoever reads what: each topic that anybody reads is given whole, and evenly among its readers."""
    order = sorted(members)
    reads = {m: pick.choice([["clicks"], ["items"], ["clicks", "items"]]) for m in order}  # type: ignore[attr-defined]
    owner = {p: pick.choice([*(m for m in order if p[0] in reads[m]), None]) for p in sorted(places)}  # type: ignore[attr-defined]
    has = {m: [p for p, o in owner.items() if o == m] for m in order}
    for _ in range(3):
        given_now = shares_by_topic(places, has, reads)
        assert given_now == shares_by_topic(sorted(places, reverse=True), dict(reversed(has.items())), reads)
        got = [place for found in given_now.values() for place in found]
        assert len(got) == len(set(got)) and set(got) <= places
        for member, found in given_now.items():
            assert {topic for topic, _ in found} <= set(reads[member])
            for other in order:
                assert other == member or not set(found) & set(has[other])
        has = given_now
    assert set(got) == {place for place in places if any(place[0] in topics for topics in reads.values())}
    for topic in ("clicks", "items"):
        readers = [m for m in order if topic in reads[m]]
        same = {t for t in ("clicks", "items") if [m for m in order if t in reads[m]] == readers}
        sizes = [sum(t in same for t, _ in has[m]) for m in readers]
        assert not sizes or max(sizes) - min(sizes) <= 1
    if all(reads[m] == ["clicks", "items"] for m in order):
        assert given_now == shares(places, has)


def test_an_older_worker_is_given_nothing_of_a_source_that_it_does_not_know() -> None:
    """As in a rolling restart that adds a source: aiokafka takes no partition of a topic that was not subscribed to."""
    count = {"behaviour": 2, "partner.x": 4}
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(count[topic])))
    old, new = Shares(lambda: [("behaviour", 0), ("behaviour", 1)]), Shares(list)
    members = {"old": old.metadata(["behaviour"]), "new": new.metadata(["behaviour", "partner.x"])}
    given_now = new.assign(cluster, members)

    async def taken(member: str) -> set[Place]:
        state = SubscriptionState()
        state.subscribe(set(members[member].subscription))
        state.assign_from_subscribed(given_now[member].partitions())
        return {(tp.topic, tp.partition) for tp in state.assigned_partitions()}

    assert asyncio.run(taken("old")) == {("behaviour", 0)}
    assert asyncio.run(taken("new")) == {("partner.x", n) for n in range(4)}


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
