"""The synthetic world: the same for one seed, as it says it is, and a world in which freshness is worth something."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from forebay.clock import DAY_MS
from forebay.errors import UsageError
from forebay.events import Behaviour, ItemUpdate, UserProfile
from forebay.segments.datasets.planted import Planted
from forebay.segments.datasets.synthetic import stream
from forebay.segments.datasets.world import World
from forebay.segments.datasets.worldoptions import WorldOptions
from forebay.segments.evaluation.counting import running_means
from forebay.segments.evaluation.freshness import worth
from forebay.segments.history import History
from forebay.segments.history.examples import Examples
from forebay.segments.spec import load_spec
from forebay.segments.training import RANK_ONLY, TrainingOptions, train
from forebay.segments.training.metrics import auc

SPEC = load_spec(Path(__file__).parents[3] / "segments" / "synthetic.toml")
OPTIONS = WorldOptions.sized(40_000, seed=1)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(OPTIONS)


def test_a_seed_makes_one_world(planted: Planted) -> None:
    """To the last event; another seed makes another one of the same size."""
    again, other = Planted(OPTIONS), Planted(replace(OPTIONS, seed=2))
    assert list(again.history.events()) == list(planted.history.events())
    assert np.array_equal(again.probability, planted.probability)
    assert other.history.behaviours != planted.history.behaviours
    assert len(other.history.behaviours) == len(planted.history.behaviours) == 40_000


def test_the_size_of_a_block_changes_nothing() -> None:
    """Blocks of 7, of 5,000 and whole chunks are the same log: it is made up as it is read."""
    world = World(replace(OPTIONS, events=20_000))
    logs = [np.concatenate([b.times for b in world.blocks(size)]) for size in (7, 5_000)]
    chunks = np.concatenate([s.times for s in world.chunks()])
    assert all(np.array_equal(log, chunks) for log in logs)
    first = list(islice(World(replace(OPTIONS, events=50_000_000)).blocks(100), 3))
    assert [len(b) for b in first] == [100] * 3  # the first of fifty million, without the others


def test_events_are_in_order_of_time_within_the_window(planted: Planted) -> None:
    """Sorted, unique ids, between the start and the end."""
    times = np.array([b.time or 0 for b in planted.history.behaviours])
    assert (np.diff(times) >= 0).all()
    assert OPTIONS.start_ms <= times[0] and times[-1] < OPTIONS.start_ms + OPTIONS.days * DAY_MS
    assert len({b.id for b in planted.history.behaviours}) == len(times)


def test_nobody_acts_before_birth(planted: Planted) -> None:
    """Users and items have their first event after they were born; the planted shares of them are born inside the
    window."""
    born = {("u", p.user): p.time for p in planted.history.profiles} | {
        ("i", i.item): i.time for i in planted.history.items
    }
    for b in planted.history.behaviours:
        assert born["u", b.user] <= b.time and born["i", b.item] <= b.time  # type: ignore[operator]
    for side, share in (("u", 0.4), ("i", 0.3)):
        inside = [time > OPTIONS.start_ms for (s, _), time in born.items() if s == side]  # type: ignore[operator]
        assert np.mean(inside) == pytest.approx(share, abs=0.02)


def test_clicks_follow_the_planted_probability(planted: Planted) -> None:
    """Calibrated in tenths, and far more telling than what an item's clicks alone tell."""
    clicked = np.array([b.action == "click" for b in planted.history.behaviours])
    for part in np.array_split(np.argsort(planted.probability), 10):
        assert clicked[part].mean() == pytest.approx(planted.probability[part].mean(), abs=0.03)
    examples = Examples.of(SPEC, planted.history)
    test = examples.between(planted.history.moment(0.8), 1 << 62)
    items, _ = running_means(examples, test)
    assert auc(planted.probability[-len(test) :], test.labels) > auc(items, test.labels) + 0.2


def test_the_stream_is_the_log_as_it_arrives(planted: Planted) -> None:
    """In order of arrival, some of it twice, some late, everything of the log in it; births come first."""
    arrivals = list(stream(OPTIONS))
    assert all(a.time_ms <= b.time_ms for a, b in pairwise(arrivals))
    acted = [a for a in arrivals if isinstance(a.event, Behaviour)]
    times = Counter(a.event.id for a in acted)
    copies = sum(n - 1 for n in times.values())
    assert copies / 40_000 == pytest.approx(0.01, abs=0.003)
    late = [a.time_ms - (a.event.time or 0) for a in acted]
    assert np.mean([d > 60_000 for d in late]) == pytest.approx(0.01, abs=0.004)
    assert np.mean([0 < d <= 60_000 for d in late]) == pytest.approx(0.055, abs=0.01)
    kept = History.of([a.event for a in arrivals])
    assert kept.behaviours == planted.history.behaviours
    seen: set[str] = set()
    for a in arrivals:
        match a.event:
            case UserProfile(user=name) | ItemUpdate(item=name):
                seen.add(name)
            case Behaviour():
                assert a.event.user in seen and a.event.item in seen


def test_bursts_are_planted() -> None:
    """Once a day the rate is several times that of the other hours."""
    world = World(OPTIONS)
    times = np.concatenate([s.times for s in world.chunks()])
    inside = world.in_burst(times)
    share_of_time = OPTIONS.burst_minutes / (24 * 60)
    assert inside.mean() > 3 * share_of_time


@pytest.mark.parametrize("seed", [0, 1])
def test_fresh_vectors_beat_last_nights(seed: int) -> None:
    """A world where they cannot is a broken world: sessions have an intent that only the last minutes tell."""
    world = Planted(WorldOptions.sized(20_000, seed=seed))
    options = TrainingOptions.of(SPEC, epochs=3, patience_epochs=3)
    bundle = train(SPEC, world.history, options, uses=RANK_ONLY)
    found = worth(bundle, world.history, world.history.moment(0.8))
    assert found.fresh_auc > found.nightly_auc + 0.05


@pytest.mark.parametrize(
    "wrong", [{"events": 0}, {"items": 3}, {"late_share": 1.5}, {"random_share": 0.9}, {"days": 0.001}, {"seed": -1}]
)
def test_a_world_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    """By name, with what helps."""
    with pytest.raises(UsageError) as caught:
        WorldOptions(**wrong)  # type: ignore[arg-type]
    assert caught.value.do
