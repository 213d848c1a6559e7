"""How long something usually takes."""

from __future__ import annotations

from forebay.streams.worker.typical import LAST, Typical


def test_the_median_of_the_last_few_passes_over_an_odd_one_and_follows_a_change() -> None:
    """Nothing is known before the first."""
    usual = Typical()
    assert usual.seconds == 0.0
    for seconds in (0.02, 0.02, 30.0, 0.02):
        usual.add(seconds)
    assert usual.seconds == 0.02
    for _ in range(LAST // 2 + 1):
        usual.add(0.05)
    assert usual.seconds == 0.05
