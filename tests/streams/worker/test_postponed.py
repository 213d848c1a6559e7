"""What a partition may claim later."""

from __future__ import annotations

from forebay.streams.worker.postponed import MOST, Postponed


def test_a_moment_is_claimed_when_nothing_waits_from_before_it() -> None:
    """Pairs that began to wait with a batch are as old as its moment: that one is not claimed yet."""
    postponed = Postponed()
    for at, moment in ((10, 100), (20, 200), (30, 300)):
        postponed.add(at, moment)
    assert postponed.due(10) == 0
    assert postponed.due(21) == 200
    assert postponed.due(30) == 0
    assert postponed.due(None) == 300
    assert postponed.due(None) == 0


def test_a_moment_that_is_not_new_is_none() -> None:
    """A batch without a moment has 0."""
    postponed = Postponed()
    for at, moment in ((10, 100), (20, 0), (30, 100), (40, 90)):
        postponed.add(at, moment)
    assert postponed.due(11) == 100
    assert postponed.due(None) == 0


def test_past_the_bound_less_is_claimed_and_never_more() -> None:
    """The earliest moments go."""
    postponed = Postponed()
    for n in range(1, MOST + 10):
        postponed.add(n, n)
    assert postponed.due(10) == 0
    assert postponed.due(11) == 10
    assert postponed.due(None) == MOST + 9
