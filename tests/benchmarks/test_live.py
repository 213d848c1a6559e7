"""What `forebay bench stream` offers, and what it makes of commits."""

from __future__ import annotations

import itertools

import pytest

from forebay.cli.benchlive import ITEMS, Offer, _others
from forebay.cli.benchstream import _rate_in
from forebay.events import Behaviour, decode


@pytest.mark.parametrize(("rate", "probes"), [(1_000, 1_000), (28_347, 200), (201, 200), (50, 50)])
def test_probes_are_spread_evenly_over_an_offer(rate: int, probes: int) -> None:
    """As many in each second as were asked for, and never two where one is due."""
    offer = Offer(rate, 3.0, probes)
    places = [n for n in range(offer.events) if offer.is_probe(n)]
    assert len(places) == 3 * probes
    gaps = {later - before for before, later in itertools.pairwise(places)}
    assert max(gaps) - min(gaps) <= 1
    assert rate // probes in gaps


def test_what_is_no_probe_has_users_by_zipf_and_items_of_no_probe() -> None:
    """A vector that a probe waits for is then the probe's own."""
    others = _others(Offer(5_000, 1.0, 200))
    events = [decode(value) for _, value in others]
    assert len(events) == 5_000
    for (key, _), event in zip(others, events, strict=True):
        assert isinstance(event, Behaviour)
        assert key.decode() == event.user
        assert int(event.item[1:]) < ITEMS // 2
        assert not event.user.startswith("live")
    assert len({event.id for event in events}) == 5_000
    assert _others(Offer(1_000, 8.0, 1_000)) == ()


def test_a_saturation_leaves_out_the_first_seconds_and_what_came_after_the_offer() -> None:
    """Two seconds warm up, and what is drained when nobody sends any more is another matter."""
    commits = [(100.0 + s / 2, 10 if s < 4 else 500) for s in range(17)] + [(108.5, 90_000)]
    assert _rate_in(commits, 8.0) == pytest.approx(1_000.0)
    with pytest.raises(ValueError, match="1 commits say nothing of a rate"):
        _rate_in([(0.0, 5), (3.0, 5)], 8.0)
    with pytest.raises(ValueError, match="0 commits"):
        _rate_in([], 8.0)
