"""What may be claimed: the moment of an end that was reached, and never one of an end that was not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.streams.worker.claims import KEPT, Claims
from forebay.streams.worker.transport import End


def _end(offset: int, moment: int) -> End:
    return End(offset, offset, moment)


def test_a_moment_is_claimed_once_its_end_is_reached() -> None:
    """Not before, and each only once."""
    claims = Claims()
    claims.hear(0, _end(10, 1000))
    claims.hear(0, _end(20, 2000))
    assert [claims.reached(0, offset) for offset in (9, 10, 19, 20, 20)] == [0, 1000, 0, 2000, 0]
    claims.hear(1, _end(5, 500))
    assert (claims.reached(0, 99), claims.reached(1, 5)) == (0, 500)


def test_an_end_that_covers_nothing_is_not_heard() -> None:
    """Nobody can tell what the sources had taken by then."""
    claims = Claims()
    claims.hear(0, _end(10, 0))
    claims.hear(0, None)
    assert claims.reached(0, 99) == 0


def test_what_is_forgotten_is_not_claimed() -> None:
    """The partition is read again from an earlier offset."""
    claims = Claims()
    claims.hear(0, _end(10, 1000))
    claims.forget(0)
    assert claims.reached(0, 99) == 0


def test_a_long_backlog_keeps_its_oldest_ends() -> None:
    """They are the next to be reached: with the newest kept instead, nothing would be claimed until the very end."""
    claims = Claims()
    for n in range(1, 1000):
        claims.hear(0, _end(n, n * 1000))
    assert len(claims._heard[0]) == KEPT
    assert claims.reached(0, 1) == 1000
    assert claims.reached(0, 10) == 10_000
    assert claims.reached(0, 999) == 999_000


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), max_size=200))
def test_no_claim_is_of_more_than_was_applied(steps: list[tuple[int, int, int]]) -> None:
    """A log grows, is applied and asked for its end in any order: what is claimed was below what is applied."""
    claims, end, applied, now = Claims(), 0, 0, 1
    appended: list[int] = []
    for grows, applies, passes in steps:
        now += passes
        claims.hear(0, _end(end, now))
        for _ in range(grows):
            appended.append(now)
            end += 1
        applied = min(end, applied + applies)
        claimed = claims.reached(0, applied)
        assert all(moment >= claimed for moment in appended[applied:])
