"""Training on a history whose answer is evident: every user likes the films of one genre, and no others."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from forebay.errors import UsageError
from forebay.events import Behaviour, ItemUpdate, UserProfile
from forebay.segments.bundle import Bundle
from forebay.segments.encoders import encode
from forebay.segments.history import History
from forebay.segments.history.examples import Examples
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Label, parse_spec
from forebay.segments.spec.expression import Condition
from forebay.segments.state.ids import hash_id
from forebay.segments.training import TrainingOptions, train
from forebay.segments.training.metrics import auc
from forebay.segments.training.remarks import remarks

SPEC = parse_spec(
    tomllib.loads("""
[events]
actions = ["rate"]
[label]
positive = "value >= 4"
[attributes.item]
genre = { category = ["war", "love", "crime"] }
[user.taste]
features = [{ count = "genre", where = "value >= 4" }, { count = "genre" }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[user.recent]
features = [{ last = 5, of = ["item", "genre", "value", "age"] }]
encoder = { kind = "attention_pool", queries = 2, hidden = 16 }
dim = 8
[item.content]
features = [{ latest = ["genre"] }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[item.id]
features = [{ id = 4 }]
encoder = { kind = "mlp", hidden = [] }
dim = 8
""")
)
GENRES = ("war", "love", "crime")
OPTIONS = TrainingOptions(
    train_share=0.5, validation_share=0.25, epochs=10, patience_epochs=10, batch_size=64, learning_rate=0.01,
    weight_decay=0.01, seed=1,
)  # fmt: skip
USERS, ROUNDS, ITEMS = 24, 40, 12
START, STEP = 1_700_000_000_000, 60_000


def _genre(number: int) -> str:
    return GENRES[number % 3]


def _history(flip_after: int = 1 << 62) -> History:
    """User u and item i have genre number u and i (mod 3); a rating is 5 where they agree, else 1, and the other way
    round after `flip_after`."""
    random = np.random.default_rng(0)
    events: list[Behaviour | UserProfile | ItemUpdate] = [
        ItemUpdate(f"i{n}", {"genre": _genre(n)}, START - 1, "new") for n in range(ITEMS)
    ]
    for number in range(USERS * ROUNDS):
        user, item, time = number % USERS, int(random.integers(ITEMS)), START + number * STEP
        agrees = (user % 3 == item % 3) != (time >= flip_after)
        value = 5.0 if agrees else 1.0
        events.append(Behaviour(f"u{user}", f"i{item}", "rate", value, time, f"e{number}", {"genre": _genre(item)}))
    return History.of(events)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(SPEC, _history(), OPTIONS)


def test_training_finds_the_evident_answer(bundle: Bundle) -> None:
    """AUC on what came after the training part is far above chance, and the record says so."""
    assert bundle.record["validation_auc"] > 0.95
    assert bundle.record["examples"] == {"train": 480, "validation": 240}
    assert bundle.record["options"]["seed"] == 1


def test_what_was_trained_is_what_is_served(bundle: Bundle) -> None:
    """Ratings that training never saw, scored through the int8 vectors and the fusion that serve."""
    end = bundle.record["validation_until_ms"]
    unseen = Examples.of(SPEC, _history()).between(end, 1 << 62)
    assert len(unseen) == 240
    vectors = [
        SideEncoders(bundle, side).encode_all(unseen.states(bundle.layouts[side], unseen.times), unseen.hashes(side))
        for side in SIDES
    ]
    scores = [bundle.fusions["rank"].scores(u, v[None])[0] for u, v in zip(*vectors, strict=True)]
    assert auc(np.array(scores), unseen.labels) > 0.95


def test_the_same_seed_gives_the_same_bundle() -> None:
    """To the last bit of its hash; another seed gives another one."""
    short = replace(OPTIONS, epochs=2)
    first = train(SPEC, _history(), short)
    assert train(SPEC, _history(), short).hash == first.hash
    assert train(SPEC, _history(), replace(short, seed=2)).hash != first.hash


def test_what_comes_after_the_validation_part_is_not_read() -> None:
    """The last quarter of the log says the opposite: the bundle is the same. One event earlier it is seen in the
    figures."""
    short = replace(OPTIONS, epochs=2)
    end = START + USERS * ROUNDS * 3 // 4 * STEP
    before = train(SPEC, _history(), short)
    assert train(SPEC, _history(flip_after=end), short).hash == before.hash
    assert train(SPEC, _history(flip_after=end - STEP), short).record != before.record


def test_the_default_vectors_are_those_of_an_empty_state(bundle: Bundle) -> None:
    """Finite, of the declared shape, and what the trained encoders give for nothing."""
    for side in SIDES:
        rows = np.zeros((1, bundle.layouts[side].width), dtype=np.int64)
        encoders = SideEncoders(bundle, side)
        assert bundle.defaults(side).shape == (16,)
        for place, segment in enumerate(encoders.segments):
            again = encode(encoders._encoders[place], bundle.reader(segment).read(rows, np.zeros(1, dtype=np.int64)))
            assert again[0].tobytes() == bundle.defaults(side)[place * 8 : place * 8 + 8].tobytes()


def test_the_vocabulary_is_of_items_in_the_training_part() -> None:
    """An item that first shows up later is unknown, as any new item will be when the model serves."""
    history = _history()
    late = Behaviour("u0", "new", "rate", 5.0, START + 950 * STEP, "late", {})
    bundle = train(SPEC, History.of([*history.behaviours, late, *history.items]), replace(OPTIONS, epochs=1))
    places = bundle.vocabulary.places(np.array([hash_id("i0"), hash_id("new")]))
    assert places[0] > 0 and places[1] == 0 and len(bundle.vocabulary) == ITEMS


def test_progress_is_told_after_each_epoch() -> None:
    """Epochs rise within a stage to the most that it may take, which early stopping makes the last one."""
    told: list[tuple[str, int, int, Mapping[str, float]]] = []
    options = replace(OPTIONS, epochs=8, patience_epochs=1, learning_rate=0.0)
    train(SPEC, _history(), options, lambda *figures: told.append(figures))
    rank = [(done, total) for stage, done, total, _ in told if stage == "rank"]
    assert rank == [(1, 8), (8, 8)]
    assert {stage for stage, *_ in told} == {"rank", "retrieve"}
    assert set(told[0][3]) == {"validation_auc", "validation_logloss", "epoch"}
    assert set(told[-1][3]) == {"validation_recall@50", "epoch"}


@pytest.mark.parametrize("part", ["train", "validation"])
def test_both_labels_are_needed(part: str) -> None:
    """In the part that fits and in the part that stops: the error says which, the condition, what it matched, and what
    helps."""
    history = _history()
    cut = history.moment(OPTIONS.train_share)
    same = [
        Behaviour(b.user, b.item, b.action, 5.0, b.time, b.id, b.item_attributes)
        if ((b.time or 0) < cut) == (part == "train")
        else b
        for b in history.behaviours
    ]
    with pytest.raises(UsageError, match=f"the {part} part") as caught:
        train(SPEC, History.of([*same, *history.items]), OPTIONS)
    size = 480 if part == "train" else 240
    assert f"all {size} impressions meet positive = 'value >= 4'" in caught.value.what
    assert caught.value.where == "[label]" and "longer history" in caught.value.do


def test_a_part_without_positives_says_how_many_events_met_the_condition_elsewhere() -> None:
    """Views are the impressions, clicks the outcomes: no event is both, and the error shows the counts of each."""
    label = Label(
        Condition("action == 'click'", ("view", "click"), ""), Condition("action == 'view'", ("view", "click"), "")
    )
    spec = replace(SPEC, label=label, events=replace(SPEC.events, actions=("view", "click")))
    history = _history()
    acted = [
        Behaviour(b.user, b.item, "click" if n % 10 == 0 else "view", 1.0, b.time, b.id, b.item_attributes)
        for n, b in enumerate(history.behaviours)
    ]
    with pytest.raises(UsageError, match="the train part") as caught:
        train(spec, History.of([*acted, *history.items]), OPTIONS)
    assert "none of 432 impressions (action == 'view') meets positive = \"action == 'click'\"" in caught.value.what
    assert "48 events that are no impression do" in caught.value.what


def test_a_record_counts_positives_and_the_catalogue(bundle: Bundle) -> None:
    """Of both parts: what an AUC was measured on."""
    labels = Examples.of(SPEC, _history()).labels
    assert bundle.record["positives"] == {"train": int(labels[:480].sum()), "validation": int(labels[480:720].sum())}
    assert bundle.record["items"] == ITEMS


def test_a_training_that_learned_nothing_is_remarked(bundle: Bundle) -> None:
    """An AUC under .52, and a recall@k that chance passes easily; a training without either is not."""
    record = {"validation_auc": 0.61, "validation_recall@50": 0.2, "items": 500, "examples": {}, "positives": {}}
    assert remarks(record) == []
    (told,) = remarks({**record, "validation_auc": 0.478})
    assert "0.478" in told and "chance" in told
    (told,) = remarks({**record, "items": 499})
    assert "recall@50" in told and "499 items" in told
    (told,) = remarks({**bundle.record, "validation_auc": 0.9})
    assert "recall@50" in told and f"{ITEMS} items" in told


def test_a_history_without_behaviour_is_refused() -> None:
    """There is nothing to learn from a catalogue."""
    with pytest.raises(UsageError, match="no behaviour"):
        train(SPEC, History.of(_history().items), OPTIONS)
