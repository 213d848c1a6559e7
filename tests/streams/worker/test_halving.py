"""Halving: the record that a broker refuses is found, and every other one goes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import RecordRefused, TopicMismatch
from forebay.streams.deadletters import DeadLetter
from forebay.streams.worker.batch import Outcome
from forebay.streams.worker.halving import Halving

REFUSED = RecordRefused("too large")


def _outcome(first: int, end: int, bad: frozenset[int]) -> Outcome:
    letters = [
        DeadLetter(b"k", b"large", "undecodable", "", "t", 0, o, 1, "user") for o in range(first, end) if o in bad
    ]
    kept = [(b"i", b"%d" % o) for o in range(first, end) if o not in bad]
    return Outcome(interactions=kept, dead_letters=letters, offsets={0: end}, events=end - first)


@given(st.integers(1, 300), st.frozensets(st.integers(0, 299), max_size=5), st.integers(1, 64))
def test_exactly_the_culprits_lose_their_content(records: int, bad: frozenset[int], most: int) -> None:
    """However many there are in a batch; in the end batches are whole again, and nothing is left out or written
    twice."""
    halving, at, tries = Halving(most), 0, 0
    written: list[Outcome] = []
    while at < records:
        end = min(records, at + halving.limit)
        outcome = _outcome(at, end, bad)
        prepared = halving.prepared(outcome, "t", "user")
        tries += 1
        if any(letter.value is not None for letter in prepared.dead_letters):
            halving.refused(outcome, REFUSED)
            continue
        halving.committed(outcome.offsets)
        written.append(prepared)
        at = end
    there = bad & set(range(records))
    assert {letter.offset for o in written for letter in o.dead_letters} == there
    assert [int(v) for o in written for _, v in o.interactions] == [n for n in range(records) if n not in there]
    assert halving.limit == most and not halving._bare
    # Each culprit costs at most the halvings down to it and the singles of what was refused with it.
    assert tries <= -(-records // most) + (2 * most + 16) * len(there)


def test_an_accepted_event_whose_interaction_is_refused_leaves_a_letter_that_says_so() -> None:
    """Its state and vectors stay: what is folded must not depend on what a broker takes."""
    halving = Halving(8)
    outcome = Outcome(
        vectors=[(0, b"u", b"row")], interactions=[(b"i", b"long")], watermarks={0: 77}, offsets={0: 5}, events=1
    )
    halving.refused(outcome, REFUSED)
    bare = halving.prepared(outcome, "behaviour", "user")
    (letter,) = bare.dead_letters
    assert (letter.reason, letter.topic, letter.partition, letter.offset) == ("refused", "behaviour", 0, 4)
    assert bare.vectors == outcome.vectors and bare.offsets == outcome.offsets and not bare.interactions
    with pytest.raises(TopicMismatch, match=r"too large.*max\.message\.bytes"):
        halving.refused(outcome, REFUSED)


def test_what_is_ours_is_not_a_record_s_fault() -> None:
    """Heartbeats and ticks alone: a broker that refuses those is not to be got round."""
    with pytest.raises(TopicMismatch, match=r"max\.message\.bytes"):
        Halving(8).refused(Outcome(watermarks={0: 1}), REFUSED)


def test_a_partition_that_goes_takes_its_limit_with_it() -> None:
    """Another worker finds the culprit again by itself."""
    halving = Halving(8)
    halving.refused(_outcome(0, 8, frozenset()), REFUSED)
    assert halving.limit == 4
    halving.forget(0)
    assert halving.limit == 8
