"""What the benchmarks make of what they measured."""

from __future__ import annotations

import argparse
import json

import pytest

from figures import Figure, Goal, Seen, rate_of, slope, tell, words_of


def test_a_rate_is_between_two_commits_and_neither_a_start_nor_an_idle_end_counts() -> None:
    """Five seconds of start, commits each 5 s, and looks in between and after that saw nothing new."""
    looks = [(0.0, 0), (5.0, 1_000), (7.0, 1_000), (10.0, 51_000), (15.0, 101_000), (60.0, 101_000)]
    rate = rate_of([Seen(at, events, at / 2, at / 10) for at, events in looks])
    assert (rate.events, rate.seconds, rate.per_s) == (100_000, 10.0, 10_000.0)
    assert rate.cpu_us == pytest.approx(5 / 100_000 * 1e6)
    assert rate.broker_us == pytest.approx(1 / 100_000 * 1e6)


def test_one_commit_says_nothing_of_a_rate() -> None:
    """However many events it brought."""
    with pytest.raises(ValueError, match="1 commits say nothing"):
        rate_of([Seen(0.0, 0), Seen(5.0, 200_000), Seen(6.0, 200_000)])


def test_a_slope_is_of_a_minute() -> None:
    """Two megabytes in ten seconds are twelve in a minute, whatever the level."""
    assert slope([0, 10, 20, 30], [100, 102, 104, 106]) == pytest.approx(12.0)


def test_what_is_printed_has_median_spread_and_whether_the_goal_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    """The same for people and for programs; a bound from above is met from below."""
    figures = [
        Figure("one", [3.0, 1.0, 2.0], "s", Goal(2.5, at_most=True)), Figure("two", [1.0], "x", Goal(2.0)),
        Figure("three", [7.0], "x"),
    ]  # fmt: skip
    tell(figures, as_json=True, more={"events": 5})
    told = json.loads(capsys.readouterr().out)
    assert told["events"] == 5
    assert [line["met"] for line in told["lines"]] == [True, False, None]
    one = told["lines"][0]
    assert (one["median"], one["low"], one["high"], one["n"]) == (2.0, 1.0, 3.0, 3)
    tell(figures, as_json=False)
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert lines["one"] == ["one", "2", "1", "–", "3", "s", "≤", "2.5", "met"]
    assert lines["two"][-1] == "missed"
    assert lines["three"] == ["three", "7", "7", "–", "7", "x"]


@pytest.mark.parametrize("text", ["0", "-1", "two"])
def test_repeats_are_one_or_more(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error, before a broker is started."""
    words: argparse.ArgumentParser = words_of("What it measures.")
    with pytest.raises(SystemExit) as ended:
        words.parse_args(["--repeats", text])
    assert ended.value.code == 2
    assert f"{text} is no count of 1 or more" in capsys.readouterr().err
