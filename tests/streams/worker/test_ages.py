"""A lag in seconds: never less than the age of the oldest record that waits, and none where nothing waits."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from forebay.streams.worker.ages import Ages
from forebay.streams.worker.source import Source
from forebay.streams.worker.standing import Standing
from forebay.streams.worker.watchdog import Progress

NOW = 1_790_000_000_000
AT_END = Standing(Source("events.user", 0, "t"), Progress(10, 10, 10), 10, NOW - 9_000, 0, None)


def test_nothing_waits_at_an_end_that_was_met_and_committed() -> None:
    """However long ago the last record came."""
    assert (AT_END.lag_s(NOW), AT_END.waiting) == (0.0, 0)


def test_what_is_read_and_not_committed_waits() -> None:
    """A batch that is applied again and again gets nowhere, and its age grows."""
    applied = replace(AT_END, progress=Progress(5, 10, 10))
    assert [applied.lag_s(NOW + ms) for ms in (0, 1000)] == [9.0, 10.0]
    assert applied.waiting == 5
    assert replace(applied, end=5).lag_s(NOW) == 9.0  # the broker was asked before they came


def test_records_behind_the_met_end_wait_although_nobody_has_read_them() -> None:
    """A loop that stands still does not hear of them; the broker tells."""
    told = replace(AT_END, end=17)
    assert (told.lag_s(NOW), told.waiting) == (9.0, 7)


def test_a_reader_that_has_not_met_the_end_may_be_behind() -> None:
    """The end that was told is some seconds old."""
    assert replace(AT_END, progress=Progress(10, 10, -1)).lag_s(NOW) == 9.0
    assert replace(AT_END, progress=Progress(10, 10, 8)).lag_s(NOW) == 9.0


def test_a_lag_of_which_nothing_is_known_is_none_and_no_zero() -> None:
    """A new partition with a backlog, before its first commit."""
    assert replace(AT_END, progress=Progress(0, 0), since=0).lag_s(NOW) is None


def test_a_clock_behind_the_broker_s_makes_no_negative_lag() -> None:
    assert replace(AT_END, progress=Progress(5, 10, 10), since=NOW + 500).lag_s(NOW) == 0.0


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.lists(st.one_of(st.just("ask"), st.integers(1, 5)), max_size=60),
)
def test_no_record_that_waits_is_older_than_it_is_said(gaps: list[int], acts: list[str | int]) -> None:
    """A log whose records come by and by; commits of some of them and questions about its end, in any order."""
    log, clock, committed, ages = list[int](), 1, 0, Ages()
    for gap, act in zip(gaps * 3, acts, strict=False):
        clock += gap
        if gap % 3:
            log.append(clock)
        clock += 1  # a question is after what was appended by then
        if act == "ask":
            if len(log) <= committed:
                ages.nothing_before(0, clock)
        elif log[committed : committed + int(act)]:
            committed = min(len(log), committed + int(act))
            ages.committed({0: log[committed - 1]})
        if committed < len(log):
            assert log[committed] >= ages.since(0)


def test_another_worker_s_partition_is_forgotten() -> None:
    """What it did meanwhile is not known here; the others' stay."""
    ages = Ages()
    ages.committed({0: 7, 1: 8})
    ages.forget(0)
    assert (ages.since(0), ages.since(1)) == (0, 8)
