"""An evaluation on a world whose answer is evident: what is measured, against what, and that none of it looks ahead."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from forebay.clock import DAY_MS
from forebay.events import Behaviour
from forebay.segments.bundle import Bundle
from forebay.segments.evaluation import bench
from forebay.segments.evaluation.counting import Ease, popularity, running_means, tune_ease
from forebay.segments.evaluation.goals import goals
from forebay.segments.evaluation.page import page
from forebay.segments.evaluation.replayed import NIGHTLY, Replayed, Served, as_of
from forebay.segments.evaluation.results import METRICS, Figure, Study
from forebay.segments.evaluation.study import StudyOptions, study
from forebay.segments.history import History
from forebay.segments.history.choices import Choices
from forebay.segments.history.examples import Examples
from forebay.segments.training import early, train
from forebay.segments.training.material import Material
from forebay.segments.training.variants import two_tower, with_kind

from ..worlds import OPTIONS, SPEC, START, STEP, liked_genres

END = 1 << 62


@pytest.fixture(scope="module")
def history() -> History:
    return liked_genres()


@pytest.fixture(scope="module")
def bundle(history: History) -> Bundle:
    return train(SPEC, history, OPTIONS)


@pytest.fixture(scope="module")
def replayed(history: History) -> Replayed:
    return Replayed.of(SPEC, history, history.moment(0.75), END, questions=100)


@pytest.fixture(scope="module")
def examples(history: History) -> Examples:
    return Examples.of(SPEC, history)


# -- choices


def test_choices_are_liked_and_not_had_before(examples: Examples) -> None:
    """Against the log itself: targets are liked, what was rated strictly before is no candidate, the target always
    is."""
    choices = Choices.of(examples, START + 500 * STEP, END, 60, seed=3)
    assert len(choices) == 60 and (np.diff(choices.times) >= 0).all()
    assert examples.labels[choices.places].all() and (choices.times >= START + 500 * STEP).all()
    for row in range(60):
        before = (examples.users == choices.users[row]) & (examples.times < choices.times[row])
        had = set(examples.items[before].tolist()) - {int(choices.targets[row])}
        assert set(np.flatnonzero(choices.seen[row]).tolist()) == had
    midnights = choices.midnights[choices.day]
    assert (midnights <= choices.times).all() and (choices.times - midnights < DAY_MS).all()


def test_a_rank_counts_better_candidates_and_ties_against_the_model(examples: Examples) -> None:
    """A model that gives every item one score finds nothing; what was had before does not stand in the way."""
    choices = Choices.of(examples, START, END, 20, seed=0)
    flat = np.zeros((20, choices.items), np.float32)
    assert (choices.ranks(flat) == choices.items - choices.seen.sum(axis=1)).all()
    rows = np.arange(20)
    sure = np.where(choices.seen, 9.0, 0.0).astype(np.float32)
    sure[rows, choices.targets] = 1.0
    assert (choices.ranks(sure) == 1).all()
    shown = choices.best(sure, 5)
    assert shown.shape == (20, 5) and not choices.seen[rows[:, None], shown].any()


# -- baselines


def test_running_means_are_of_strictly_earlier_impressions(examples: Examples) -> None:
    """Against a loop; a user's events of one moment do not see one another."""
    part = examples.between(START + 600 * STEP, END)
    items, users = running_means(examples, part)
    overall = examples.labels[examples.times < part.times.min()].mean()
    for row in range(0, len(part), 17):
        for of, asked, found in ((examples.items, part.items, items), (examples.users, part.users, users)):
            before = (of == asked[row]) & (examples.times < part.times[row])
            share = (examples.labels[before].sum() + 10 * overall) / (before.sum() + 10)
            assert found[row] == pytest.approx(math.log(share / (1 - share)), rel=1e-4, abs=1e-5)


def test_popularity_counts_a_window_before_midnight(examples: Examples) -> None:
    """Likes only, of the days before the last midnight only."""
    shifted = replace(examples, times=examples.times + np.arange(len(examples)) // 200 * DAY_MS)
    choices = Choices.of(shifted, int(shifted.times[-300]), END, 10, seed=1)
    for days in (1.0, 3.0):
        scores = popularity(shifted, choices, days)
        for row in range(10):
            midnight = choices.midnights[choices.day[row]]
            counted = shifted.labels & (shifted.times < midnight) & (shifted.times >= midnight - days * DAY_MS)
            expected = np.bincount(shifted.items[counted], minlength=choices.items)
            assert np.abs(scores[row] - expected).max() < 1e-3


def test_ease_is_its_closed_form(examples: Examples) -> None:
    """Each column minimises |X - XB|² + L2 |B|² with a zero diagonal: checked by its gradient; new users fold in."""
    until = START + 600 * STEP
    ease = Ease(examples, until, 20.0, liked=True)
    known = (examples.times < until) & examples.labels
    matrix = np.zeros((24, 300))
    matrix[examples.users[known], examples.items[known]] = 1
    weights = ease.weights.astype(np.float64)
    gradient = matrix.T @ (matrix @ weights - matrix) + 20.0 * weights
    np.fill_diagonal(gradient, 0)
    assert np.abs(np.diag(weights)).max() == 0 and np.abs(gradient).max() < 1e-3
    choices = Choices.of(examples, until, END, 80, seed=0)
    fresh = ease.scores(choices, choices.times)
    row = 5
    had = (examples.users == choices.users[row]) & (examples.times < choices.times[row]) & examples.labels
    history = np.bincount(examples.items[had], minlength=300) > 0
    assert np.allclose(fresh[row], history @ weights, atol=1e-3)
    blind = ease.scores(choices, np.zeros(80, np.int64))
    assert np.allclose(blind, matrix.sum(axis=0) * 1e-6, atol=1e-9)
    l2, liked, found = tune_ease(examples, until, choices)
    assert l2 in (30.0, 100.0, 300.0, 1000.0, 3000.0) and 0 < found <= 1 and isinstance(liked, bool)


def test_the_early_ranker_finds_the_evident_answer(history: History) -> None:
    """And the same one for the same seed; without a list or an id among its segments it is smaller, and works."""
    material = Material.of(SPEC, history, OPTIONS)
    options = replace(early.EarlyOptions(), epochs=8, learning_rate=0.01, weight_decay=0.01, batch_size=64)
    model, found = early.fit(material, options, seed=0)
    again, same = early.fit(material, options, seed=0)
    assert found > 0.95 and found == same
    scores = early.scores(model, material.validation.inputs)
    assert np.array_equal(scores, early.scores(again, material.validation.inputs))
    assert bench.early_ms(model, dict(material.validation.inputs), repeats=2) > 0
    ((best, _), (worse, _)) = early.tune(material, [options, replace(options, learning_rate=0.0)])
    assert best == found > worse


def test_a_teacher_is_learned_from(history: History) -> None:
    """The student's target is between the label and what the teachers say of it; the same seed gives the same
    bundle."""
    taught = replace(OPTIONS, distill=0.5, teachers=1, epochs=1, retrieve=replace(OPTIONS.retrieve, epochs=1))
    told: list[str] = []
    bundle = train(SPEC, history, taught, lambda stage, *_: told.append(stage))
    assert list(dict.fromkeys(told)) == ["teacher-1", "rank", "retrieve"]
    assert train(SPEC, history, taught).hash == bundle.hash
    assert train(SPEC, history, replace(taught, distill=0.0)).hash != bundle.hash


# -- a bundle as it is served


def test_scores_see_strictly_earlier_events_only(bundle: Bundle, history: History) -> None:
    """The last tenth of the log says the opposite of everything: scores before it are what they were, and those in it
    are not."""
    turn = START + 864 * STEP
    turned = [
        Behaviour(b.user, b.item, b.action, 6.0 - b.value, b.time, b.id, b.item_attributes)
        if (b.time or 0) >= turn
        else b
        for b in history.behaviours
    ]
    since = history.moment(0.75)
    before, after = (
        Served(bundle, Replayed.of(SPEC, h, since, END)).scores()
        for h in (history, History.of([*turned, *history.items]))
    )
    first = int((Examples.of(SPEC, history).between(since, END).times < turn).sum())
    assert np.array_equal(before[: first + 1], after[: first + 1])
    assert not np.array_equal(before[first + 1 :], after[first + 1 :])


def test_stale_users_score_worse(bundle: Bundle, replayed: Replayed) -> None:
    """With vectors of before the first event nothing is known of a user: here that is everything."""
    one = Served(bundle, replayed)
    fresh = replayed.ranking(one.scores())
    blind = replayed.ranking(one.scores(one.vectors("user", 10.0 * 86_400)))
    assert fresh["auc"] > 0.95 and 0.35 < blind["auc"] < 0.65 and blind["logloss"] > fresh["logloss"]
    assert (
        replayed.retrieval(one.choice_scores())["recall@50"]
        > replayed.retrieval(one.choice_scores(10.0 * 86_400))["recall@50"]
    )


def test_earlier_impressions_are_counted(replayed: Replayed) -> None:
    """Of this user and of this item, strictly before; against a loop."""
    everything, part = replayed.everything, replayed.part
    for row in range(0, len(part), 29):
        before = everything.times < part.times[row]
        assert replayed.earlier["user"][row] == (before & (everything.users == part.users[row])).sum()
        assert replayed.earlier["item"][row] == (before & (everything.items == part.items[row])).sum()


def test_nightly_is_the_last_midnight() -> None:
    """UTC; any other lag counts back from the moment."""
    times = np.array([3 * DAY_MS + 5, 4 * DAY_MS])
    assert as_of(times, NIGHTLY).tolist() == [3 * DAY_MS, 4 * DAY_MS]
    assert as_of(times, 60.0).tolist() == [3 * DAY_MS - 59_995, 4 * DAY_MS - 60_000]


def test_int8_is_near_the_exact_vectors(bundle: Bundle, replayed: Replayed) -> None:
    """Scores move by hundredths, not by more."""
    exact, served = Served(bundle, replayed, exact=True).scores(), Served(bundle, replayed).scores()
    assert 0 < np.abs(exact - served).max() < 0.05 * np.abs(exact).max()


def test_variants_keep_the_spec(bundle: Bundle) -> None:
    """Another kind over the same segments; two towers over the same features, with their own pair for retrieval."""
    assert with_kind(SPEC, "maxsim").fusions["rank"].segments == SPEC.fusions["rank"].segments
    assert with_kind(SPEC, "affinity").fusions["rank"] == SPEC.fusions["rank"]
    towers = two_tower(SPEC)
    assert [s.title for s in towers.segments] == ["user.tower", "user.reach", "item.tower", "item.reach"]
    features = {f for s in SPEC.fusions["rank"].user for f in s.features}
    assert set(towers.side("user")[0].features) == features


# -- the whole


@pytest.fixture(scope="module")
def found(history: History) -> Study:
    quick = replace(OPTIONS, epochs=2, retrieve=replace(OPTIONS.retrieve, epochs=2))
    told: list[str] = []
    options = StudyOptions(seeds=2, other_seeds=1, questions=60, training=quick)
    result = study(SPEC, history, "<b>A world</b>", "forebay evaluate --from 'x&y'", options, told.append)
    assert any("two towers" in t for t in told)
    return result


def test_a_study_has_every_model_and_figure(found: Study) -> None:
    """Models with a figure for each seed, a curve over all lags, every section; and it is JSON."""
    names = {m.name for m in found.models}
    assert {
        "forebay affinity",
        "forebay weighted_sum",
        "two-tower",
        "early ranker",
        "EASE, folded in",
        "popularity",
    } <= names
    served = next(m for m in found.models if m.name == found.served)
    assert all(len(f.values) == 2 for f in served.figures.values())
    # Nobody was shown two items in one second: there is no request to look within.
    assert [k for k, f in served.figures.items() if not math.isfinite(f.mean)] == ["request_gauc"]
    assert set(served.figures) <= set(METRICS) and served.figures["auc"].mean > 0.8
    assert [s.name for s in found.staleness] == ["0 s", "1 min", "10 min", "1 h", "1 day", "nightly"]
    assert {s.key for s in found.sections} == {
        "slices", "stale", "worth", "vectors", "experiments", "extremes", "encoders", "recipes", "imbalance",
            "robustness",
    }  # fmt: skip
    assert sum(b.count for b in found.calibration) == 240
    again = json.loads(json.dumps(found.as_json()))
    assert again["models"][0]["figures"]


def test_every_line_of_the_recipes_is_another_training(found: Study) -> None:
    """What is called never stale is trained on other read-outs: no line equals another to the last digit."""
    recipes = next(s for s in found.sections if s.key == "recipes")
    figures = {r.name: (r.figures["auc"].mean, r.figures["logloss"].mean) for r in recipes.rows}
    assert "no teacher, never stale in training" in figures and "as configured" in figures
    assert len(set(figures.values())) == len(figures)
    assert all(0 < float(r.extra["AUC, nightly"]) <= 1 for r in recipes.rows)


def test_the_report_tells_corrected_sampling_from_uncorrected(found: Study) -> None:
    """Beside one another; the order of the scores is the same, their odds are not: labels are a third positive here."""
    rows = {r.name: r.figures for r in next(s for s in found.sections if s.key == "imbalance").rows}
    for sampling in ("over-sampled", "under-sampled"):
        corrected, evened = rows[f"{sampling}, logit corrected"], rows[f"{sampling}, as the evened labels have it"]
        assert corrected["auc"].mean == pytest.approx(evened["auc"].mean, abs=1e-3)
        assert corrected["logloss"].mean != evened["logloss"].mean


def test_the_report_bounds_the_largest_logit(found: Study) -> None:
    """At counts, values, numbers and ages of nobody the bounded model stays near its own largest score; the same
    without bounds does not."""
    section = next(s for s in found.sections if s.key == "extremes")
    bounded, loose = ({k: float(v.replace(",", "")) for k, v in r.extra.items()} for r in section.rows)
    own = bounded["|logit| test part"]
    assert own > 0 and all(v <= 4 * own for v in bounded.values())
    assert loose["|logit| all"] > 10 * bounded["|logit| all"]


def test_goals_are_held_against_what_was_measured(found: Study) -> None:
    """Differences of the lines that they name; one whose figures are missing is left out; freshness on its own data
    alone."""
    held = {g.name: g for g in goals(found, freshness=False)}
    models = {m.name: m.figures for m in found.models}
    goal = held[f"AUC, {found.served} less early ranker"]
    assert goal.measured == models[found.served]["auc"].mean - models["early ranker"]["auc"].mean
    assert goal.target == -0.002 and not goal.at_most
    assert {"AUC that int8 costs", "recall@50, forebay affinity less EASE, folded in"} <= set(held)
    assert held["largest |logit| at extremes over the test part's"].measured > 0
    assert not any("request" in name and "GAUC" in name for name in held)  # there is no request to look within
    assert {g.name for g in goals(found, freshness=True)} - set(held) == {
        "AUC, fresh less nightly", "recall@50, fresh over nightly",
    }  # fmt: skip
    assert goals(replace(found, models=[], sections=[], staleness=[]), freshness=True) == []


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        assert tag != "script"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "polygon", "polyline")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_asks_nobody(found: Study) -> None:
    """Tags closed in order, no script and no address in it, every model and section named, names escaped."""
    html, parser = page(found), _Page()
    parser.feed(html)
    assert parser.open == [] and parser.addresses == [] and "http" not in html
    assert "<b>A world</b>" in parser.text and "x&y" in parser.text
    for name in [*(m.name for m in found.models), *(s.title for s in found.sections)]:
        assert name in parser.text
    assert html.count("<svg") == 4 and ">nan" not in html and "nan," not in html


def test_a_page_of_nothing_is_a_page(found: Study) -> None:
    """A study without curve, models or sections; and figures that are missing or not numbers are a dash."""
    bare = replace(found, models=[], staleness=[], sections=[], calibration=[])
    parser = _Page()
    parser.feed(page(bare))
    assert parser.open == []
    odd = replace(found.models[0], figures={"auc": Figure((float("nan"),))}, ms_per_1000=None)
    text = page(replace(found, models=[odd]))
    assert ">–<" in text and ">nan" not in text


def test_an_interval_is_students(found: Study) -> None:
    """Five seeds: 2.776 standard errors to either side; differences are taken seed by seed."""
    figure = Figure((1.0, 2.0, 3.0, 4.0, 5.0))
    assert figure.mean == 3 and figure.margin == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert figure.minus(Figure((0.0, 1.0, 2.0, 3.0, 4.0))).margin == 0
    assert Figure((2.0,)).margin == 0 and Figure((2.0,)).low == 2.0
