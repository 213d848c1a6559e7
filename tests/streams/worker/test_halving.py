"""Halving: the record that a broker refuses is found, and every other one goes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import RecordRefused, TopicMismatch
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.halving import Halving

REFUSED = RecordRefused("too large")


def _batch(first: int, end: int) -> PartitionBatch:
    count = end - first
    return PartitionBatch(0, [None] * count, [None] * count, range(first, end), [0] * count)


def _outcome(first: int, end: int) -> Outcome:
    return Outcome(offsets={0: end}, taken=end - first)


@given(st.integers(1, 300), st.frozensets(st.integers(0, 299), max_size=5), st.integers(1, 64))
def test_exactly_the_culprits_lose_their_content(records: int, bad: frozenset[int], most: int) -> None:
    """However many there are in a batch; in the end batches are whole again, and nothing is left out or written
    twice."""
    halving, at, tries = Halving(most), 0, 0
    written: list[int] = []
    withheld: set[int] = set()
    while at < records:
        end = min(records, at + halving.limit)
        bare = halving.is_bare([_batch(at, end)])
        tries += 1
        if not bare and bad & set(range(at, end)):
            halving.refused(_outcome(at, end), REFUSED)
            continue
        halving.committed({0: end})
        if bare:
            assert end == at + 1
            withheld.add(at)
        else:
            written += range(at, end)
        at = end
    there = bad & set(range(records))
    assert withheld == there
    assert written == [n for n in range(records) if n not in there]
    assert halving.limit == most and not halving._bare
    # Each culprit costs at most the halvings down to it and the singles of what was refused with it.
    assert tries <= -(-records // most) + (2 * most + 16) * len(there)


def test_a_record_that_is_refused_without_its_content_ends_the_worker() -> None:
    """Nothing is left to be cut: it is the topic that takes too little."""
    halving = Halving(8)
    halving.refused(_outcome(4, 5), REFUSED)
    assert halving.is_bare([_batch(4, 5)])
    assert not halving.is_bare([_batch(5, 6)]) and not halving.is_bare([_batch(4, 6)])
    with pytest.raises(TopicMismatch, match=r"too large.*max\.message\.bytes"):
        halving.refused(_outcome(4, 5), REFUSED)


def test_what_is_ours_is_not_a_record_s_fault() -> None:
    """Heartbeats and ticks alone: a broker that refuses those is not to be got round."""
    with pytest.raises(TopicMismatch, match=r"max\.message\.bytes"):
        Halving(8).refused(Outcome(told=[1]), REFUSED)


def test_a_partition_that_goes_takes_its_limit_with_it() -> None:
    """Another worker finds the culprit again by itself."""
    halving = Halving(8)
    halving.refused(_outcome(0, 8), REFUSED)
    assert halving.limit == 4
    halving.forget(0)
    assert halving.limit == 8
