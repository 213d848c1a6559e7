"""How long a broker is waited for, and how often it is asked."""

from __future__ import annotations

import pytest

from forebay.errors import BrokerUnavailable, TransactionLost
from forebay.streams.worker.absence import LONGEST_PAUSE_S, Absence


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


LOST = TransactionLost("no answer")


def test_nothing_is_waited_for_at_first(clock: Clock) -> None:
    """And a success says that nobody was away."""
    absence = Absence(60, clock)
    assert absence.over(0) and not absence and absence.reason == "" and absence.ended() is None


def test_the_next_try_waits_for_an_answer_to_somebody_and_for_a_pause(clock: Clock) -> None:
    """A broker that came back is asked at once; one that is frozen now and then, since whoever asks may hang as
    well."""
    absence = Absence(60, clock)
    clock.now = 10
    absence.failed(LOST)
    assert absence and "waiting for the broker: no answer" in absence.reason
    clock.now = 11
    assert not absence.over(answered_at=9.9)
    assert absence.over(answered_at=10.5)
    clock.now = 10.4
    assert not absence.over(answered_at=10.3)
    clock.now = 41
    assert absence.over(answered_at=9.9)
    assert absence.ended() == 31 and not absence and absence.reason == ""


def test_pauses_grow_to_a_bound_and_begin_anew(clock: Clock) -> None:
    """A broker that answers and takes nothing is not hammered."""
    absence, pauses = Absence(1e9, clock), []
    for _ in range(10):
        absence.failed(LOST)
        failed = clock.now
        while not absence.over(answered_at=clock.now):
            clock.now += 0.25
        pauses.append(clock.now - failed)
    assert pauses[:4] == [0.5, 1, 2, 4] and max(pauses) == LONGEST_PAUSE_S
    absence.ended()
    absence.failed(LOST)
    clock.now += 0.5
    assert absence.over(answered_at=clock.now)


def test_it_ends_by_name_after_the_longest_absence(clock: Clock) -> None:
    """Counted from the first failure, however many follow."""
    absence = Absence(60, clock)
    absence.failed(LOST)
    clock.now = 59
    absence.failed(LOST)
    clock.now = 61
    with pytest.raises(BrokerUnavailable, match=r"no work could be committed for 61 s .*no answer"):
        absence.over(answered_at=60.5)
    with pytest.raises(BrokerUnavailable):
        absence.failed(LOST)
