"""How often readiness is looked at."""

from __future__ import annotations

from forebay.cli.processes import LOOK_S, seldom


def test_an_answer_stands_for_a_moment_and_no_longer() -> None:
    asked, now = [], [100.0]

    def ask() -> int:
        asked.append(now[0])
        return len(asked)

    answer = seldom(ask, lambda: now[0])
    assert [answer(), answer()] == [1, 1]
    now[0] += LOOK_S / 2
    assert answer() == 1
    now[0] += LOOK_S
    assert [answer(), answer()] == [2, 2] and asked == [100.0, now[0]]
