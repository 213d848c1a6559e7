"""The stages of a training run: which weights each one touches, how it is interrupted, and what its options do."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from forebay.errors import UsageError
from forebay.events import Behaviour
from forebay.segments.bundle import Bundle
from forebay.segments.evaluation.replayed import Replayed, Served
from forebay.segments.growth import Growth
from forebay.segments.history import History
from forebay.segments.spec import Spec, parse_spec
from forebay.segments.training import TrainingOptions, add_segment, train, train_segment
from forebay.segments.training.log import TrainingLog
from forebay.segments.training.material import Material
from forebay.segments.training.metrics import logloss
from forebay.segments.training.network import Network
from forebay.segments.training.objectives import Ranking, sampling_shift
from forebay.segments.training.sweep import sweep

from ..worlds import OPTIONS, SPEC, SPEC_TABLES, liked_genres


@pytest.fixture(scope="module")
def history() -> History:
    return liked_genres()


@pytest.fixture(scope="module")
def bundle(history: History) -> Bundle:
    return train(SPEC, history, OPTIONS)


def _changed(before: Bundle, after: Bundle) -> set[str]:
    """Names of segments and fusions with a tensor that is not the same to the bit."""
    return {
        ".".join(name.split(".")[:2])
        for name, tensor in before.tensors.items()
        if after.tensors[name].tobytes() != tensor.tobytes()
    }


def test_both_uses_find_the_evident_answer(bundle: Bundle) -> None:
    """The label is the user's genre, and so is what is liked next: far more of it is among the first 50 than the
    sixth that chance has."""
    assert bundle.record["validation_auc"] > 0.95
    assert bundle.record["validation_recall@50"] > 0.28


def test_the_stage_that_retrieves_leaves_what_ranks_alone(bundle: Bundle, history: History) -> None:
    """Another training for retrieval: not one bit of a segment that `rank` reads is another one."""
    other = train(SPEC, history, replace(OPTIONS, retrieve=replace(OPTIONS.retrieve, epochs=2)))
    assert _changed(bundle, other) == {"user.next", "item.next", "fusion.retrieve", "default.user", "default.item"}


def test_one_segment_is_trained_through_the_frozen_fusion(bundle: Bundle, history: History) -> None:
    """Only its own weights and defaults change, it learns as well as it did, and its rows alone get another tag."""
    again = train_segment(bundle, history, "user.taste", replace(OPTIONS, seed=5))
    assert _changed(bundle, again) == {"user.taste", "default.user"}
    assert again.record["validation_auc"] > 0.95 and again.record["from"] == bundle.name
    tags = {s.title: bundle.encoder_tag(s) == again.encoder_tag(s) for s in SPEC.segments}
    assert [title for title, same in tags.items() if not same] == ["user.taste"]
    retrieving = train_segment(bundle, history, "item.next", replace(OPTIONS, seed=5))
    assert _changed(bundle, retrieving) == {"item.next", "default.item"}
    assert retrieving.record["validation_recall@50"] > 0.35


def test_a_segment_that_is_not_there_cannot_be_trained(bundle: Bundle, history: History) -> None:
    """The error lists those that are."""
    with pytest.raises(UsageError, match=r"no segment user\.tastes") as caught:
        train_segment(bundle, history, "user.tastes", OPTIONS)
    assert "user.taste, user.recent" in caught.value.do


def _more() -> Spec:
    """SPEC with a segment `user.mood` and an attribute that it alone reads."""
    tables = deepcopy(SPEC_TABLES)
    tables["attributes"]["user"] = {"town": {"category": ["x", "y"]}}
    tables["user"]["mood"] = {
        "features": [{"mean": "value", "by": "genre"}, {"latest": ["town"]}],
        "encoder": {"kind": "mlp", "hidden": [8]}, "dim": 8,
    }  # fmt: skip
    tables["fusion"]["rank"]["user"] = ["mood", "taste", "recent"]
    return parse_spec(tables)


def test_one_more_segment_is_trained_beside_those_that_are_there(bundle: Bundle, history: History) -> None:
    """With a fusion that reads it. Not one bit of another segment, nor of a fusion that does not read it, is another
    one, so that all other vectors are valid; and the answer is found."""
    more = add_segment(bundle, _more(), history, "user.mood", replace(OPTIONS, seed=5))
    same = {n: t for n, t in bundle.tensors.items() if not n.startswith(("fusion.rank.", "default.user"))}
    assert all(more.tensors[name].tobytes() == tensor.tobytes() for name, tensor in same.items())
    growth = Growth.between(bundle, more)
    assert [s.title for s in growth.added] == ["user.mood"] and not growth.changed
    assert more.record["validation_auc"] > 0.95 and more.record["added"] == "user.mood"
    fresh = Network(more.spec, more.vocabulary).named_tensors()
    assert any((more.tensors[n] != fresh[n].numpy()).any() for n in more.tensors if n.startswith("user.mood.layers"))


def test_one_more_segment_and_nothing_else(bundle: Bundle, history: History) -> None:
    """What is not new, not in the spec, not alone, not read, or beside others that are changed is refused by name."""
    with pytest.raises(UsageError, match=r"user\.taste is not new"):
        add_segment(bundle, _more(), history, "user.taste", OPTIONS)
    with pytest.raises(UsageError, match=r"no segment user\.moods in the spec"):
        add_segment(bundle, _more(), history, "user.moods", OPTIONS)
    tables = deepcopy(SPEC_TABLES)
    tables["user"]["mood"] = tables["user"]["taste"]
    with pytest.raises(UsageError, match=r"no fusion reads user\.mood"):
        add_segment(bundle, parse_spec(tables), history, "user.mood", OPTIONS)
    tables["user"]["other"] = tables["user"]["taste"]
    tables["user"]["recent"] = {**tables["user"]["recent"], "dim": 16}
    tables["fusion"]["rank"]["user"] = ["mood", "taste"]
    with pytest.raises(UsageError, match=r"the spec differs in user\.other, user\.recent, too"):
        add_segment(bundle, parse_spec(tables), history, "user.mood", OPTIONS)
    tables = deepcopy(SPEC_TABLES)
    tables["user"]["mood"] = tables["user"]["taste"]
    tables["attributes"]["item"]["genre"] = {"category": ["war", "love", "crime", "noir"]}
    tables["fusion"]["rank"]["user"] = ["mood", "taste", "recent"]
    with pytest.raises(UsageError, match=r"user\.taste reads other attributes or actions"):
        add_segment(bundle, parse_spec(tables), history, "user.mood", OPTIONS)


def test_segments_train_alone_then_fused_then_together(history: History) -> None:
    """Stages in their order; the fusion's stage leaves the encoders as they were trained, and the answer is found."""
    told: list[str] = []
    options = replace(OPTIONS, regime="independent")
    bundle = train(SPEC, history, options, lambda stage, *_: told.append(stage))
    assert list(dict.fromkeys(told)) == [
        "alone-user.taste", "alone-user.recent", "alone-item.content", "fusion", "fine-tune", "retrieve",
    ]  # fmt: skip
    assert bundle.record["validation_auc"] > 0.95


@pytest.mark.parametrize("regime", ["joint", "independent"])
def test_an_interrupted_run_ends_as_one_that_was_not(regime: str, history: History, tmp_path: Path) -> None:
    """Killed after each epoch in turn, gone on from its checkpoint each time: the same hash."""
    options = replace(OPTIONS, regime=regime, epochs=2, retrieve=replace(OPTIONS.retrieve, epochs=2))  # type: ignore[arg-type]
    expected, runs, reached = train(SPEC, history, options).hash, 0, []
    while True:
        runs += 1

        def stop(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            reached.append((stage, figures["epoch"]))
            raise KeyboardInterrupt

        try:
            bundle = train(SPEC, history, options, stop, tmp_path / "run")
        except KeyboardInterrupt:
            continue
        break
    assert bundle.hash == expected
    assert runs == len(reached) + 1 and len(set(reached)) == len(reached)  # no epoch was done twice
    assert runs > 4


def test_a_checkpoint_of_another_run_is_refused(history: History, tmp_path: Path) -> None:
    """Going on with other options, another spec or other data would be a run that nobody asked for."""
    short = replace(OPTIONS, epochs=1, retrieve=replace(OPTIONS.retrieve, epochs=1))
    train(SPEC, history, short, checkpoint=tmp_path)
    with pytest.raises(UsageError, match="differs in options"):
        train(SPEC, history, replace(short, seed=2), checkpoint=tmp_path)
    fewer = History.of([*history.behaviours[:-400], *history.items])
    with pytest.raises(UsageError, match="differs in data"):
        train(SPEC, fewer, short, checkpoint=tmp_path)


def test_a_damaged_checkpoint_is_not_gone_on_from(history: History, tmp_path: Path) -> None:
    """A flipped bit: that stage starts again, and ends the same."""
    short = replace(OPTIONS, epochs=2, retrieve=replace(OPTIONS.retrieve, epochs=1))
    expected = train(SPEC, history, short, checkpoint=tmp_path).hash
    path = tmp_path / "rank.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    told: list[str] = []
    again = train(SPEC, history, short, lambda stage, *_: told.append(stage), tmp_path)
    assert again.hash == expected and told.count("rank") == 2


def test_sampling_evens_the_labels_out(history: History) -> None:
    """A third of the impressions is positive: all are read once, positives twice, or negatives half."""
    random = np.random.default_rng(0)
    material = Material.of(SPEC, history, OPTIONS)
    labels = material.train.labels
    found = {}
    for sampling in ("none", "over", "under"):
        options = replace(OPTIONS, sampling=sampling)  # type: ignore[arg-type]
        epoch = Ranking(material, options, SPEC.fusions["rank"]).epoch(random)
        found[sampling] = (int(labels[epoch].sum()), int((~labels[epoch]).sum()))
        assert not np.array_equal(epoch, np.sort(epoch))
    positive, negative = int(labels.sum()), int((~labels).sum())
    assert found == {"none": (positive, negative), "over": (negative,) * 2, "under": (positive,) * 2}


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_sampling_leaves_probabilities_as_they_are(distill: float) -> None:
    """One impression in twelve is positive, and by chance: however the labels are evened out, the mean prediction is
    that share, and logloss is far below what the evened scores would have. A teacher, who saw the labels as they are,
    changes nothing of it."""
    random = np.random.default_rng(3)
    history = liked_genres()
    acted = [replace_value(b, 5.0 if b.value > 4 and random.random() < 0.25 else 1.0) for b in history.behaviours]
    rare = History.of([*acted, *history.items])
    material = Material.of(SPEC, rare, OPTIONS)
    if distill:  # a teacher that knows the share of positives, and nothing else
        share = material.train.labels.mean()
        material = replace(material, teacher=np.full(len(material.train), share, dtype=np.float32))
    cut, end = material.cut_ms, material.end_ms
    for sampling in ("over", "under"):
        options = replace(OPTIONS, sampling=sampling, distill=distill, learning_rate=0.003)
        served = Served(train(SPEC, material, options, uses=("rank",)), Replayed.of(SPEC, rare, cut, end))
        scores, labels = served.scores(), served.replayed.part.labels
        evened = scores + sampling_shift(material.train.labels, sampling)
        assert labels.mean() < 0.12 and sampling_shift(material.train.labels, sampling) > 2
        assert abs((1 / (1 + np.exp(-scores))).mean() - labels.mean()) < 0.04
        assert logloss(scores, labels) < logloss(evened, labels) - 0.1
        # Through the frozen fusion, whose bias is corrected already, no further correction is made.
        again = train_segment(served.bundle, rare, "user.taste", replace(options, distill=0.0))
        renewed = Served(again, served.replayed).scores()
        assert abs((1 / (1 + np.exp(-renewed))).mean() - labels.mean()) < 0.04


def replace_value(event: Behaviour, value: float) -> Behaviour:
    return Behaviour(event.user, event.item, event.action, value, event.time, event.id, event.item_attributes)


def test_weighing_positives_raises_the_scores(history: History) -> None:
    """Positives ten times as heavy: the mean predicted probability is above the share of positives."""
    material = Material.of(SPEC, history, OPTIONS)
    figures = [
        train(SPEC, material, replace(OPTIONS, epochs=1, positive_weight=w)).record["validation_logloss"]
        for w in (1.0, 10.0)
    ]
    assert figures[1] > figures[0]


def test_dropped_segments_are_the_default_vector(history: History) -> None:
    """With a dropout of nearly one a user's vector is that of an empty state, in the columns of the segments that are
    read."""
    from forebay.segments.training.network import Network

    material = Material.of(SPEC, history, OPTIONS)
    network = Network(SPEC, material.vocabulary).eval()
    inputs = material.train.take(SPEC.side("user")[:1], np.arange(50))
    vectors = network.vectors("user", inputs, dropout=1 - 1e-9).detach().numpy()
    default = network.bundle({}).defaults("user")
    assert np.allclose(vectors[:, :8], default[:8], atol=1e-6)
    assert (vectors[:, 8:] == 0).all()
    kept = network.vectors("user", inputs).detach().numpy()
    assert np.abs(kept[:, :8] - default[:8]).max() > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_share": 0.0}, {"train_share": 0.9, "validation_share": 0.2}, {"segment_dropout": 1.0}, {"epochs": 0},
        {"learning_rate": -1.0}, {"positive_weight": 0.0}, {"stale_share": 1.5}, {"weight_decay": float("nan")},
    ],
)  # fmt: skip
def test_options_that_cannot_be_trained_with_are_refused(wrong: dict[str, float]) -> None:
    """Before any event is read."""
    with pytest.raises(UsageError):
        TrainingOptions(**wrong)  # type: ignore[arg-type]


def test_options_survive_their_record() -> None:
    """What a bundle says of its training can be used to train again."""
    options = replace(OPTIONS, sampling="over", regime="independent")
    assert TrainingOptions.of_record(options.as_record()) == options
    assert TrainingOptions.of_record({**options.as_record(), "of_a_later_version": 1}) == options


def test_a_sweep_compares_on_the_validation_part(history: History) -> None:
    """Every fusion, dimension, segment and rate once, best first."""
    short = replace(OPTIONS, epochs=1)
    done: list[tuple[int, int]] = []
    found = sweep(SPEC, history, short, lambda *step: done.append(step))
    names = [t.name for t in found]
    assert len(names) == len(set(names)) == done[-1][0] == done[-1][1] and "as it is" in names
    assert {"fusion maxsim", "fusion attention", "16 dimensions", "without user.recent", "weight decay 1"} <= set(names)
    assert "without item.content" not in names  # the only one of its side
    figures = [t.figures["validation_auc"] for t in found]
    assert figures == sorted(figures, reverse=True) and figures[0] > 0.8


def test_a_log_has_every_figure_by_epoch(history: History, tmp_path: Path) -> None:
    """Read back from the event file: each stage's curve, a point for each epoch."""
    short = replace(OPTIONS, epochs=2, retrieve=replace(OPTIONS.retrieve, epochs=1))
    with TrainingLog(tmp_path) as log:
        train(SPEC, history, short, log)
    (file,) = tmp_path.iterdir()
    tags = [v.tag for event in _events(file.read_bytes()) for v in event.summary.value]
    assert sorted(tags) == sorted(
        ["rank/validation_auc", "rank/validation_logloss"] * 2 + ["retrieve/validation_recall_50"]
    )


def _events(data: bytes) -> list[event_pb2.Event]:
    """TensorBoard's records: length, its checksum, an event, its checksum."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
        at += 16 + size
    return found
