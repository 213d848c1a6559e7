"""Replayed experiments: arms that mean nothing until they should, and an interleaving that favours nobody."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from forebay.segments.evaluation.experiment import (
    aa_share,
    by_user,
    compare,
    in_arm_b,
    interleave,
    interleaved,
)

IDS = [f"u{n}" for n in range(2000)]


def test_an_arm_is_a_function_of_user_and_salt() -> None:
    """In any order and any process; half of the users, or the share that is asked for; another salt is another
    split."""
    arms = in_arm_b(IDS, "test")
    assert np.array_equal(in_arm_b(IDS[::-1], "test"), arms[::-1])
    code = "from forebay.segments.evaluation.experiment import in_arm_b; "
    code += "print(in_arm_b(['u7','u8','u9','u10'], 'test').tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(arms[7:11].tolist())
    assert arms.mean() == pytest.approx(0.5, abs=0.05)
    assert in_arm_b(IDS, "test", 0.1).mean() == pytest.approx(0.1, abs=0.03)
    assert (arms == in_arm_b(IDS, "other")).mean() == pytest.approx(0.5, abs=0.05)
    assert not in_arm_b(IDS, "test", 0.0).any() and in_arm_b(IDS, "test", 1.0).all()


def test_a_larger_share_keeps_who_was_in() -> None:
    """An experiment that is widened moves nobody back."""
    small, large = in_arm_b(IDS, "x", 0.1), in_arm_b(IDS, "x", 0.4)
    assert (large | ~small).all()


def test_equal_arms_are_called_different_as_often_as_promised() -> None:
    """Five times in a hundred, within what 500 splits can show, on outcomes that are far from normal."""
    outcomes = np.random.default_rng(0).exponential(size=2000) ** 2
    assert aa_share(outcomes, IDS) == pytest.approx(0.05, abs=0.03)


def test_a_planted_effect_is_found_and_bounded() -> None:
    """Half of a standard deviation, a hundred times: always found, and within its 95 % bounds nearly as often as they
    say."""
    arms, within = in_arm_b(IDS, "effect"), 0
    for seed in range(100):
        outcomes = np.random.default_rng(seed).normal(size=2000) + arms * 0.5
        found = compare(outcomes, arms)
        assert found.p < 1e-6 and found.users_a + found.users_b == 2000
        within += found.low < 0.5 < found.high
    assert within >= 88
    swapped = compare(outcomes, ~arms)
    assert swapped.difference == pytest.approx(-found.difference) and swapped.p == pytest.approx(found.p)
    assert math.isnan(compare(outcomes[:1], arms[:1]).p)


def test_users_count_once() -> None:
    """However many impressions each has."""
    means, users = by_user(np.array([1.0, 3.0, 5.0]), np.array([4, 4, 9]))
    assert means.tolist() == [2.0, 5.0] and users.tolist() == [4, 9]


def test_team_draft_shows_both_and_nothing_twice() -> None:
    """k items, each side's best first, as many picks for either side within one; equal rankings give that ranking."""
    random = np.random.default_rng(0)
    a, b = list(range(10)), list(range(9, -1, -1))
    for _ in range(50):
        shown, of_b = interleave(a, b, 6, random)
        assert len(set(shown)) == 6 and sum(of_b) == 3
        assert {shown[0], shown[1]} == {0, 9}
    shown, of_b = interleave(a, a, 4, random)
    assert shown == [0, 1, 2, 3] and sum(of_b) == 2
    assert interleave([1], [1], 5, random)[0] == [1]


def test_the_better_ranking_wins_and_equal_ones_draw() -> None:
    """B puts what is chosen at its head, A anywhere: B wins nearly always. Swapped, A does. Equal ones cannot be told
    apart."""
    random = np.random.default_rng(3)
    targets = random.integers(0, 50, 400)
    chance = np.stack([random.permutation(50) for _ in range(400)])
    good = np.stack([np.r_[t, [i for i in row if i != t]] for t, row in zip(targets, chance[::-1], strict=True)])
    found = interleaved(chance, good, targets)
    assert found.wins_b > 3 * found.wins_a and found.p < 1e-6
    mirrored = interleaved(good, chance, targets)
    assert mirrored.wins_a > 3 * mirrored.wins_b
    assert interleaved(good, good, targets).p > 0.001
