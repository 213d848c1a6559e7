"""What the benchmark of two processes makes of their commits, and what it sends."""

from __future__ import annotations

import pytest

from figures import Seen
from processes import BLOCK, _between, _blocks


def test_a_rate_of_two_is_from_the_first_commit_of_any_to_the_last_of_all() -> None:
    """What either did before its own first commit does not count, nor does its CPU time."""
    one = [Seen(10.0, 1_000, 5.0), Seen(12.0, 41_000, 6.0)]
    two = [Seen(11.0, 2_000, 7.0), Seen(14.0, 62_000, 9.0)]
    found = _between([one, two], broker_s=0.206)
    assert found.per_s == pytest.approx(100_000 / 4.0)
    assert found.cpu_us == pytest.approx(3.0 / 100_000 * 1e6)
    assert found.broker_us == pytest.approx(2.0)
    assert _between([one], broker_s=0.0).per_s == pytest.approx(20_000.0)


@pytest.mark.parametrize("fresh", [True, False])
def test_every_partition_gets_blocks(fresh: bool) -> None:
    """Full ones first, and what is left of each partition behind them."""
    sent = list(_blocks(0, 5 * BLOCK, ["Drama", "Comedy"], fresh=fresh))
    assert {one.partition for one in sent} == {0, 1, 2, 3}
    assert len(sent) >= 5
