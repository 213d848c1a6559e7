"""What training never saw moves a vector, but not without bound: counts, values, numbers and ages at their extremes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from forebay.arrays import Floats, Ints
from forebay.events import Behaviour, ItemUpdate, UserProfile
from forebay.segments.bundle import Bundle
from forebay.segments.encoders.bounds import MARGIN, Bounds
from forebay.segments.evaluation.extremes import extremes, unbounded
from forebay.segments.history import History
from forebay.segments.history.examples import Examples
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.state.layout import Layout
from forebay.segments.training import RetrieveOptions, TrainingOptions, train, train_segment

from .. import models

SPEC = parse_spec(
    tomllib.loads("""
[events]
actions = ["view", "click"]
[label]
positive = "value >= 4"
[attributes.item]
genre = { category = ["war", "love", "crime"] }
price = { number = true }
[attributes.user]
born = { number = true }
[user.who]
features = [{ latest = ["born"] }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[user.taste]
features = [
    { count = "events" },
    { count = "genre", where = "value >= 4" },
    { count = "genre", where = "action == 'click'" },
    { count = "genre", half_life = "2h" },
    { mean = "value", by = "genre" },
    { count = "events", bucket = "1h", over = "6h" },
]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[user.recent]
features = [{ last = 5, of = ["item", "genre", "price", "value", "age", "action"] }]
encoder = { kind = "attention_pool", queries = 2, hidden = 16 }
dim = 8
[user.order]
features = [{ last = 5, of = ["item", "price", "value", "age"] }]
encoder = { kind = "gru", hidden = 16 }
dim = 8
[user.affinity]
features = [{ mean = "value" }, { mean = "value", by = "genre" }, { count = "genre" }]
encoder = { kind = "affinity" }
dim = 8
[item.content]
features = [{ latest = ["genre", "price"] }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[item.stats]
features = [{ count = "events" }, { mean = "value" }, { id = 4 }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[item.affinity]
features = [{ latest = ["genre"] }]
encoder = { kind = "affinity" }
dim = 4
[fusion]
rank = { kind = "affinity", hidden = 16 }
retrieve = { kind = "weighted_sum", user = ["taste"], item = ["stats"] }
""")
)
GENRES = ("war", "love", "crime")
USERS, ROUNDS, ITEMS = 24, 40, 60
START, STEP = 1_700_000_000_000, 60_000
OPTIONS = TrainingOptions(
    train_share=0.5, validation_share=0.25, epochs=4, stale_share=0.0, batch_size=64, learning_rate=0.01,
    weight_decay=0.01, seed=1,
    retrieve=RetrieveOptions(epochs=1, batch_size=64),
)  # fmt: skip
LARGEST = 20.0  # logits: what no extreme may pass; those of the training part go to 7.3


def _history() -> History:
    """A user likes one genre; prices, years of birth and single clicks mean nothing."""
    random = np.random.default_rng(0)
    events: list[Behaviour | UserProfile | ItemUpdate] = [
        ItemUpdate(f"i{n}", {"genre": GENRES[n % 3], "price": float(5 + n)}, START - 1, "new") for n in range(ITEMS)
    ]
    events += [UserProfile(f"u{n}", {"born": float(1950 + n)}, START - 1, "new") for n in range(USERS)]
    for number in range(USERS * ROUNDS):
        user, item, time = number % USERS, int(random.integers(ITEMS)), START + number * STEP
        attributes = {"genre": GENRES[item % 3], "price": float(5 + item)}
        value, action = (5.0 if user % 3 == item % 3 else 1.0), "click" if random.random() < 0.02 else "view"
        events.append(Behaviour(f"u{user}", f"i{item}", action, value, time, f"e{number}", attributes))
    return History.of(events)


@pytest.fixture(scope="module")
def history() -> History:
    return _history()


@pytest.fixture(scope="module")
def bundle(history: History) -> Bundle:
    return train(SPEC, history, OPTIONS)


@pytest.fixture(scope="module")
def states(history: History) -> dict[Side, tuple[Ints, Ints]]:
    """Rows and hashed ids of the training part, of each side."""
    part = Examples.of(SPEC, history).between(0, history.moment(OPTIONS.train_share))
    return {s: (part.states(Layout.of(SPEC, s), part.times), part.hashes(s)) for s in SIDES}


def _vectors(bundle: Bundle, side: Side, rows: Ints, hashes: Ints) -> Floats:
    with SideEncoders(bundle, side) as encoders:
        return encoders.encode_exact(rows, hashes)


def _largest(bundle: Bundle, states: dict[Side, tuple[Ints, Ints]]) -> Iterator[tuple[str, float]]:
    """The largest |logit| of ten users and ten items, each feature of either side in turn at each of its extremes."""
    few = {s: (rows[-10:], hashes[-10:]) for s, (rows, hashes) in states.items()}
    for side in SIDES:
        for _, name, rows in extremes(SPEC, bundle.layouts[side], few[side][0]):
            moved = {**few, side: (rows, few[side][1])}
            users, items = (_vectors(bundle, s, *moved[s]) for s in SIDES)
            fusion = bundle.fusions["rank"]
            yield f"{side} {name}", max(float(np.abs(fusion.scores(u, items)).max()) for u in users)


def test_no_feature_at_its_extreme_moves_the_score_beyond_a_bound(
    bundle: Bundle, states: dict[Side, tuple[Ints, Ints]]
) -> None:
    """Counts of a billion, values of a million to either side, numbers of 1e15, ages of fifty years, alone and all at
    once; without bounds the same model goes far beyond."""
    assert bundle.record["validation_auc"] > 0.9
    found = dict(_largest(bundle, states))
    listed = "user last 5 of item, genre, price, value, age, action"
    assert {
        "user count events", "user latest born: born -1e+15", f"{listed}: value +1e+06", f"{listed}: price +1e+15",
        f"{listed}: fifty years", "item mean value, 1 of +1e+06", "item everything up",
    } <= set(found)  # fmt: skip
    assert {n: v for n, v in found.items() if not v <= LARGEST} == {}
    loose = dict(_largest(unbounded(bundle), states))
    assert max(loose.values()) > 100 * LARGEST


def test_attributes_of_events_in_lists_have_extremes_too() -> None:
    """A number that a list keeps of the events themselves, not of their items."""
    spec = models.spec("own")
    layout = Layout.of(spec, "user")
    moved = {name for _, name, _ in extremes(spec, layout, np.zeros((1, layout.width), dtype=np.int64))}
    assert {n for n in moved if "position +1e+15" in n}


def test_five_clicks_of_a_new_user_do_not_move_him_out_of_the_world(bundle: Bundle) -> None:
    """A click in fifty views, in training: whoever clicks on all that he sees is somebody new, not somebody who hates
    it all."""
    clicks = [
        Behaviour("new", "i0", "click", 5.0, START + 10**9 + n * 1000, f"c{n}", {"genre": "war", "price": 5.0})
        for n in range(6)
    ]
    history = History.of([*_history().behaviours, *clicks, *_history().items])
    part = Examples.of(SPEC, history).between(START + 10**9, 1 << 62)
    vectors = [_vectors(bundle, s, part.states(bundle.layouts[s], part.times), part.hashes(s)) for s in SIDES]
    scores = np.array([bundle.fusions["rank"].scores(u, v[None])[0] for u, v in zip(*vectors, strict=True)])
    assert np.abs(scores).max() < LARGEST


def test_what_training_saw_is_left_as_it_is(bundle: Bundle, states: dict[Side, tuple[Ints, Ints]]) -> None:
    """Every row of the training part has the vector that it would have without bounds, to the bit."""
    for side, (rows, hashes) in states.items():
        bounded, loose = (_vectors(b, side, rows, hashes) for b in (bundle, unbounded(bundle)))
        assert bounded.tobytes() == loose.tobytes()


def test_bounds_are_monotone_and_smooth() -> None:
    """Identity up to the greatest value seen, then less and less, at most the margin beyond it; the same below."""
    bounds = Bounds(2)
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
    bounds.fit([values])
    given = torch.tensor([-1e30, -100.0, 0.99, 1.0, 2.0, 5.0, 5.01, 6.0, 100.0, 1e30, 3.4e38])
    found = bounds(torch.stack([given, given], 1))
    first, second = found[:, 0], found[:, 1]
    assert (first[1:] >= first[:-1]).all()
    assert torch.equal(first[3:6], given[3:6]) and abs(float(first[6]) - 5.01) < 1e-4
    margin = MARGIN * (5 - 1)
    assert 5 + 0.9 * margin < float(first[-1]) <= 5 + margin
    assert 1 - margin <= float(first[0]) < 1 - 0.9 * margin
    # A column that never varied has nothing to say, whatever it holds later.
    assert float(second.abs().max()) <= 1.1e-6


def test_an_extreme_neighbour_changes_no_bit(bundle: Bundle, states: dict[Side, tuple[Ints, Ints]]) -> None:
    """One row of a batch at its extreme, at any place: all others are as they were."""
    for side, (rows, hashes) in states.items():
        calm = _vectors(bundle, side, rows[:128], hashes[:128])
        for _, name, moved in extremes(SPEC, bundle.layouts[side], rows[:128]):
            for place in (0, 77, 127):
                mixed = rows[:128].copy()
                mixed[place] = moved[place]
                found = _vectors(bundle, side, mixed, hashes[:128])
                others = np.arange(128) != place
                assert found[others].tobytes() == calm[others].tobytes(), name


def test_a_bundle_without_bounds_is_read_as_it_was(bundle: Bundle, history: History) -> None:
    """No bound is made up for it: its tags and its hash are its own, and one segment trained anew brings its own
    bounds."""
    old = unbounded(bundle)
    assert old.hash != bundle.hash
    for segment in SPEC.segments:
        bounded = any(".bounds." in n for n in bundle.tensors if n.startswith(f"{segment.title}."))
        assert (old.encoder_tag(segment) != bundle.encoder_tag(segment)) == bounded
    again = train_segment(old, history, "user.taste", replace(OPTIONS, epochs=1))
    of = {n.split(".bounds.")[0] for n in again.tensors if ".bounds." in n}
    assert of == {"user.taste"}
