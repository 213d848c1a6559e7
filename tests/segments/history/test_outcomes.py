"""Labels whose outcome is an event of its own: a click makes the view before it positive, and training waits for it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from forebay.events import Attribute, Behaviour, ItemUpdate, UserProfile
from forebay.segments.evaluation.counting import running_means
from forebay.segments.evaluation.replayed import Replayed
from forebay.segments.history import History
from forebay.segments.history.examples import Examples
from forebay.segments.spec import Spec, parse_spec
from forebay.segments.state.ids import hash_id
from forebay.segments.state.layout import ACCEPTED, Layout
from forebay.segments.training.material import Material

from ..worlds import GENRES, ITEMS, OPTIONS

# Features see views alone, so that a log with clicks in it and one without give the same ones.
TEXT = """
[events]
actions = ["view", "click"]
[label]
impression = "action == 'view'"
positive = "action == 'click' or value >= 1"
within = "30m"
[attributes.item]
genre = { category = ["war", "love", "crime"] }
[user.taste]
features = [{ count = "genre", where = "action == 'view'" }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[user.recent]
features = [{ last = 5, of = ["item", "genre", "age"], where = "action == 'view'" }]
encoder = { kind = "attention_pool", queries = 2, hidden = 16 }
dim = 8
[item.stats]
features = [{ latest = ["genre"] }, { count = "events", where = "action == 'view'" }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
"""
MINUTE = 60_000
START = 1_700_000_000_000


def _spec(**label: str) -> Spec:
    """The spec above with another label."""
    data = tomllib.loads(TEXT)
    if label:
        data["label"] = label
    return parse_spec(data)


CLICKS = _spec(impression="action == 'view'", positive="action == 'click'", within="30m")


def _log(*events: tuple[str, str, str, float], end: float = 1000) -> History:
    """Behaviours (user, item, action, minute), and a view of somebody else at minute `end`."""
    behaviours = [Behaviour(u, i, a, 0.0, START + round(m * MINUTE), f"e{n}") for n, (u, i, a, m) in enumerate(events)]
    return History.of([*behaviours, Behaviour("last", "last", "view", 0.0, START + round(end * MINUTE), "last")])


def _labels(history: History, spec: Spec = CLICKS) -> list[tuple[float, bool]]:
    """(minute, label) of each example."""
    found = Examples.of(spec, history)
    return [((t - START) / MINUTE, label) for t, label in zip(found.times.tolist(), found.labels.tolist(), strict=True)]


def test_a_click_makes_the_view_before_it_positive() -> None:
    """Of the same user and the same item; a view without a click is negative, and a click is no example."""
    history = _log(
        ("u", "i", "view", 0), ("u", "j", "view", 1), ("v", "i", "view", 2), ("u", "i", "click", 3),
         ("v", "j", "click", 4)
    )  # fmt: skip
    assert _labels(history) == [(0, True), (1, False), (2, False)]


@pytest.mark.parametrize(("minute", "positive"), [(0, True), (1, True), (30, True), (30.001, False), (-1, False)])
def test_an_outcome_counts_from_the_impression_s_own_millisecond_to_within_after_it(
    minute: float, positive: bool
) -> None:
    """Both ends belong to it: logs in whole seconds write a view and its click at one time."""
    assert _labels(_log(("u", "i", "view", 0), ("u", "i", "click", minute))) == [(0, positive)]


def test_an_outcome_is_credited_to_the_latest_impression_before_it() -> None:
    """The first view was passed by: one click makes one example positive. Two clicks on one view do no more."""
    history = _log(
        ("u", "i", "view", 0), ("u", "i", "view", 10), ("u", "i", "click", 12), ("u", "i", "click", 13),
        ("u", "i", "view", 14),
    )  # fmt: skip
    assert _labels(history) == [(0, False), (10, True), (14, False)]


JOINED = _spec(impression="action == 'view'", positive="action == 'click'", within="30m", join="requestId")


def _in_requests(*events: tuple[str, float, Attribute | None]) -> History:
    """Behaviours (action, minute, request) of one user with one item, and a view long after them."""
    own = [{} if r is None else {"requestId": r, "seat": 1.0} for *_, r in events]
    behaviours = [
        Behaviour("u", "i", action, 0.0, START + round(minute * MINUTE), f"e{n}", {}, own[n])
        for n, (action, minute, _) in enumerate(events)
    ]
    return History.of([*behaviours, Behaviour("last", "last", "view", 0.0, START + 1000 * MINUTE, "last")])


def test_a_join_credits_the_impression_of_the_same_request() -> None:
    """Not the latest one, which was shown in another tab; within the time all the same, and by user and item as
    ever."""
    history = _in_requests(
        ("view", 0, "r1"), ("view", 1, "r2"), ("view", 2, 3.0), ("click", 5, "r1"), ("click", 31.5, "r2")
    )
    assert _labels(history, JOINED) == [(0, True), (1, False), (2, False)]
    assert _labels(history, CLICKS) == [(0, False), (1, False), (2, True)]
    assert _labels(_in_requests(("view", 0, 3.0), ("view", 1, "3"), ("click", 5, 3.0)), JOINED) == [
        (0, True),
        (1, False),
    ]


def test_without_the_attribute_nothing_is_joined() -> None:
    """An outcome or an impression that has no request, or a list for one, belongs to none."""
    for view, click in ((None, None), ("r", None), (None, "r"), (["r"], ["r"]), ("", "r")):
        assert _labels(_in_requests(("view", 0, view), ("click", 1, click)), JOINED) == [(0, False)], (view, click)


def test_labels_may_ask_event_attributes() -> None:
    """A view in the first seat is an impression, the others are not."""
    data = tomllib.loads(TEXT)
    data["attributes"]["event"] = {"seat": {"number": True}}
    data["label"] = {"impression": "action == 'view' and seat <= 1", "positive": "action == 'click'", "within": "30m"}
    history = _in_requests(("view", 0, "r"), ("view", 1, None), ("click", 2, None))
    assert _labels(history, parse_spec(data)) == [(0, True)]


def test_training_waits_for_the_outcome() -> None:
    """An impression younger than `within` at the end of the log has no label yet, whether a click has come or not."""
    history = _log(
        ("u", "i", "view", 0), ("u", "i", "click", 1), ("u", "j", "view", 10), ("u", "j", "click", 11), end=35
    )
    assert _labels(history) == [(0, True)]
    assert _labels(_log(("u", "i", "view", 0), end=30)) == [(0, False)]


def test_the_outcome_is_never_in_the_features_of_its_own_impression() -> None:
    """A view and its click in one millisecond: the state before the view holds neither of them, nor does the item's."""
    history = _log(("u", "i", "view", 0), ("u", "i", "click", 1), ("u", "i", "view", 40), ("u", "i", "click", 40))
    examples = Examples.of(CLICKS, history)
    assert examples.labels.tolist() == [True, True]
    for side in ("user", "item"):
        states = examples.states(Layout.of(CLICKS, side), examples.times)
        assert states[:, ACCEPTED].tolist() == [0, 2]


def test_a_part_of_the_log_knows_no_outcome_from_after_its_cut() -> None:
    """Views just before the cut are left out of both parts: what is before it is what a log that ends there would
    give."""
    history = _random_log(7, 400)
    everything = Examples.of(CLICKS, history)
    for share in (0.3, 0.5, 0.8):
        cut = history.moment(share)
        before, alone = everything.between(0, cut), Examples.of(CLICKS, history.before(cut))
        assert before.times.max() + 30 * MINUTE < cut
        assert before.times.tolist() == alone.times.tolist() and before.labels.tolist() == alone.labels.tolist()
        assert set(before.labels.tolist()) == {True, False}
        assert everything.between(cut, 1 << 62).times.min() >= cut


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_the_naive_ones(seed: int) -> None:
    """Crowded logs: few users and items, equal times, views and clicks by chance."""
    history = _random_log(seed, 120)
    events = sorted(history.behaviours, key=lambda e: (e.time or 0, hash_id(e.id or "")))  # as examples are
    for spec in (CLICKS, _spec()):
        assert Examples.of(spec, history).labels.tolist() == _naive(events, 30 * MINUTE, spec is not CLICKS)


def test_one_log_written_both_ways_trains_on_the_same_examples() -> None:
    """A view of value 1, or a view and a click after it: times, labels, users, items and inputs of every part are
    equal."""
    one, two = (Material.of(_spec(), _world(clicks), OPTIONS) for clicks in (False, True))
    assert (one.cut_ms, one.end_ms) == (two.cut_ms, two.end_ms)
    assert one.digest() == two.digest()
    assert 0.24 < one.train.labels.mean() < 0.26 and len(one.train) > 300 and len(one.validation) > 100
    for part, other in ((one.train, two.train), (one.fresh, two.fresh), (one.validation, two.validation)):
        for title, inputs in part.inputs.items():
            for name in ("dense", "sequence", "items", "length", "own"):
                read, again = (kept.take(slice(None)) for kept in (inputs, other.inputs[title]))
                assert np.array_equal(getattr(read, name), getattr(again, name)), (title, name)
    assert np.array_equal(one.asked.choices.places, two.asked.choices.places)
    assert np.array_equal(one.item_log_share, two.item_log_share)


def test_the_label_of_one_event_is_what_it_is_without_waiting() -> None:
    """The same log under the older label, which asks the view itself: equal, but for the last half hour."""
    history = _world(False)
    waited = Examples.of(_spec(), history)
    plain = Examples.of(_spec(impression="action == 'view'", positive="value >= 1"), history)
    assert 0 < len(plain) - len(waited) <= 30
    assert waited.labels.tolist() == plain.labels[: len(waited)].tolist()


def test_evaluation_reads_the_same_labels() -> None:
    """Ranking and choices of the test part, of a log with clicks in it."""
    history = _world(True)
    since, until = history.moment(0.5), history.moment(0.75)
    one, two = (Replayed.of(_spec(), _world(clicks), since, until, 50) for clicks in (False, True))
    assert (one.part.times + 30 * MINUTE < until).all() and (one.choices.times + 30 * MINUTE < until).all()
    for name in ("times", "labels", "users", "items"):
        assert np.array_equal(getattr(one.part, name), getattr(two.part, name))
    assert one.part.labels.any() and not one.part.labels.all()
    assert np.array_equal(one.choices.places, two.choices.places) and len(one.choices) > 30
    assert one.everything.labels[one.choices.places].all()


def test_baselines_know_a_label_only_when_its_time_is_over() -> None:
    """Ten minutes after a clicked view of the item its running mean is the overall share; after forty it is above
    it."""
    history = _log(
        ("a", "i", "view", 0), ("a", "i", "click", 1), ("a", "j", "view", 0), ("u", "i", "view", 100),
         ("u", "i", "click", 101),
        ("v", "i", "view", 110), ("w", "i", "view", 140),
    )  # fmt: skip
    examples = Examples.of(CLICKS, history)
    of_items, _ = running_means(examples, examples.between(START + 90 * MINUTE, 1 << 62))
    assert of_items[0] == of_items[1] < of_items[2]


def _world(clicks: bool) -> History:
    """Blocks of four views a minute apart, the first of each liked: with value 1, or with a click ten seconds later. A
    share of the log is then the same block either way."""
    random = np.random.default_rng(3)
    events: list[Behaviour | UserProfile | ItemUpdate] = [
        ItemUpdate(f"i{n}", {"genre": GENRES[n % 3]}, START - 1, "new") for n in range(ITEMS)
    ]
    for number in range(800):
        user, item, time = f"u{number % 24}", int(random.integers(ITEMS)), START + number * MINUTE
        genre: dict[str, str | float | list[str]] = {"genre": GENRES[item % 3]}
        liked = number % 4 == 0
        value = float(liked and not clicks)
        events.append(Behaviour(user, f"i{item}", "view", value, time, f"e{number}", genre))
        if liked and clicks:
            events.append(Behaviour(user, f"i{item}", "click", 0.0, time + 10_000, f"c{number}", genre))
    return History.of(events)


def _random_log(seed: int, size: int) -> History:
    random, events = Random(seed), []
    for number in range(size):
        action = random.choice(["view", "view", "click", "other"])
        time = START + random.randrange(0, size * MINUTE, random.choice([1, 10 * MINUTE]))
        value = random.choice([0.0, 0.0, 1.0])
        user, item = f"u{random.randrange(3)}", f"i{random.randrange(3)}"
        events.append(Behaviour(user, item, action, value, time, f"e{number}"))
    return History.of([*events, Behaviour("last", "last", "view", 0.0, START + (size + 40) * MINUTE, "last")])


def _naive(events: Sequence[Behaviour], within: int, by_value: bool) -> list[bool]:
    """Labels of the impressions that are old enough, by looking at every pair of events; `by_value`, of the spec
    above."""

    def time(event: Behaviour) -> int:
        assert event.time is not None
        return event.time

    liked = [e for e in events if e.action == "click" or (by_value and e.value >= 1)]
    credited = set()
    for outcome in liked:
        if outcome.action == "view":
            credited.add(outcome.id)
            continue
        shown = [
            (time(e), hash_id(e.id or ""), e.id)
            for e in events
            if e.action == "view"
            and (e.user, e.item) == (outcome.user, outcome.item)
            and 0 <= time(outcome) - time(e) <= within
        ]
        if shown:
            credited.add(max(shown)[2])
    end = max(map(time, events))
    return [e.id in credited for e in events if e.action == "view" and time(e) + within <= end]
