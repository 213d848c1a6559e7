"""A whole evaluation: models and baselines over seeds, on the part of the log that no choice was made on.

The split is by time (70 / 10 / 20 unless the training options say otherwise), features are of strictly earlier events,
every user of the test part counts, new ones too. What is chosen (epochs, regularisations) is chosen on the validation
part.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from forebay.arrays import Bools, Floats
from forebay.segments.evaluation import bench, counting, sections
from forebay.segments.evaluation.machine import machine
from forebay.segments.evaluation.replayed import NIGHTLY, Replayed, Served, as_of
from forebay.segments.evaluation.results import CalibrationBin, Figure, ModelResult, Section, StalenessResult, Study
from forebay.segments.history import History
from forebay.segments.history.choices import Choices
from forebay.segments.spec import Spec
from forebay.segments.state.kept import Kept
from forebay.segments.state.layout import ACCEPTED
from forebay.segments.training import RANK_ONLY, TrainingOptions, early, metrics, train, with_teacher
from forebay.segments.training.material import Material, Parts
from forebay.segments.training.network import Network
from forebay.segments.training.variants import two_tower, with_kind

Note = Callable[[str], None]

LAGS: tuple[tuple[str, float], ...] = (
    ("0 s", 0.0), ("1 min", 60.0), ("10 min", 600.0), ("1 h", 3600.0), ("1 day", 86_400.0), ("nightly", NIGHTLY),
)  # fmt: skip
QUICK_LAGS = ("0 s", "10 min", "nightly")
OTHER_FUSIONS = ("gated_sum", "maxsim", "concat_fc", "concat_conv", "attention")


@dataclass(frozen=True)
class StudyOptions:
    """`other_seeds` is for the fusions that are options, and for the smaller tables; `early` is the tuned ranker's."""

    seeds: int = 5
    other_seeds: int = 2
    questions: int = 2000
    quick: bool = False
    training: TrainingOptions = field(default_factory=TrainingOptions)
    early: early.EarlyOptions = field(default_factory=early.EarlyOptions)


class _Lines:
    """Figures of each model, seed by seed, and what its requests cost."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.cost: dict[str, list[float]] = defaultdict(list)
        self.size: dict[str, tuple[int, int]] = {}
        self.family: dict[str, str] = {}
        self.note: dict[str, str] = {}

    def add(self, name: str, family: str, figures: dict[str, float], note: str = "") -> None:
        for key, value in figures.items():
            self.figures[name][key].append(value)
        self.family[name], self.note[name] = family, note

    def results(self) -> list[ModelResult]:
        return [
            ModelResult(
                name,
                self.family[name],
                {k: Figure(tuple(v)) for k, v in figures.items()},
                Figure(tuple(self.cost[name])) if name in self.cost else None,
                *self.size.get(name, (0, 0)),
                note=self.note[name],
            )
            for name, figures in self.figures.items()
        ]


def study(
    spec: Spec, history: History, title: str, command: str, options: StudyOptions, note: Note = lambda _: None
) -> Study:
    """Train, score and compare. `note` is told what is being done. Raises UsageError for a history that is too
    short."""
    started = time.monotonic()
    split = options.training
    until, end = history.moment(split.train_share), history.moment(split.train_share + split.validation_share)
    if options.quick:
        split = replace(split, teachers=1)
    seeds = range(1 if options.quick else options.seeds)
    others = range(0 if options.quick else options.other_seeds)
    note("replaying the test part")
    replayed = Replayed.of(spec, history, end, 1 << 62, options.questions)
    lines = _Lines()
    towers = two_tower(spec)
    plain = replayed.of_spec(towers)
    lags = [lag for lag in LAGS if not options.quick or lag[0] in QUICK_LAGS]
    curve: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name, _ in lags}
    served: list[Served] = []
    name = spec.fusions["rank"].kind
    main = f"forebay {name}"
    slices: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    scored: dict[str, Floats] = {}
    _count(lines, replayed, until, end)
    parts = Parts.of(spec, history, split)
    trained: list[Section] = []
    for seed in seeds:
        training = replace(split, seed=seed)
        note(f"seed {seed}: reading the training part")
        material = Material.of(spec, parts, training)
        note(f"seed {seed}: early-interaction ranker")
        ranker, _ = early.fit(material, options.early, seed)
        scored["early ranker"] = _early(lines, ranker, material, replayed)
        if training.distill:
            note(f"seed {seed}: teachers")
            material = with_teacher(material, training, first=ranker)
        note(f"seed {seed}: {main}")
        one = Served(train(spec, material, training), replayed)
        served.append(one)
        scored[main] = one.scores()
        ranked = replayed.ranking(scored[main])
        lines.add(main, "forebay", ranked | replayed.retrieval(one.choice_scores()), "what the spec serves")
        _price(lines, main, one)
        for label, lag in lags:
            _lag(curve[label], one, lag)
        one.forget(0.0, NIGHTLY)
        if name != "weighted_sum":
            note(f"seed {seed}: forebay weighted_sum")
            scored["forebay weighted_sum"] = _kind(lines, spec, "weighted_sum", material, training, replayed)
        note(f"seed {seed}: two towers")
        both = Material.of(towers, parts, training)
        tower = Served(train(towers, both, replace(training, distill=0.0, weight_decay=1.0, learning_rate=1e-3)), plain)
        scored["two-tower"] = tower.scores()
        lines.add(
            "two-tower", "baseline", plain.ranking(scored["two-tower"]) | plain.retrieval(tower.choice_scores()),
            "the same features in one vector for each side",
        )  # fmt: skip
        _price(lines, "two-tower", tower)
        if material.teacher is not None and not options.quick:
            taught = Served(train(towers, replace(both, teacher=material.teacher), training, uses=RANK_ONLY), plain)
            lines.add("two-tower, distilled", "baseline", plain.ranking(taught.scores()), "by the same teachers")
            _price(lines, "two-tower, distilled", taught)
        for group, mask in _slices(replayed).items():
            for model, values in scored.items():
                slices[group][model].append(metrics.auc(values[mask], replayed.part.labels[mask]))
        del both, tower
        for kind in OTHER_FUSIONS if seed in others else ():
            note(f"seed {seed}: forebay {kind}")
            _kind(lines, spec, kind, material, training, replayed)
        if seed == 0 and not options.quick:
            trained = sections.of_training(spec, material, parts, one, training, note)
        del material  # one seed's is in memory at a time
        one.forget()
    note("the smaller tables")
    models = lines.results()
    against = next(m.figures for m in models if m.name == main)
    told = [sections.slices(slices, {g: int(m.sum()) for g, m in _slices(replayed).items()})]
    told += sections.of_served(served, against, options.quick)
    return Study(
        title=title,
        command=command,
        seeds=list(seeds),
        took_s=time.monotonic() - started,
        served=main,
        data=_data(history, replayed, until, end),
        machine=machine(),
        models=models,
        staleness=[
            StalenessResult(
                label, None if lag == NIGHTLY else lag, {k: Figure(tuple(v)) for k, v in curve[label].items()}
            )
            for label, lag in lags
        ],
        calibration=[CalibrationBin(*b) for b in metrics.calibration(served[0].scores(), replayed.part.labels)],
        sections=[*told, *trained],
        quick=options.quick,
    )


def _count(lines: _Lines, replayed: Replayed, until: int, end: int) -> None:
    """The baselines without a seed."""
    examples, choices = replayed.everything, replayed.choices
    items, users = counting.running_means(examples, replayed.part)
    lines.add("item mean + user mean", "baseline", replayed.ranking(items + users), "running, shrunk")
    validation = Choices.of(examples, until, end, len(choices), 0)
    days = max(
        (1.0, 7.0, 30.0, 1e4),
        key=lambda d: metrics.recall(validation.ranks(counting.popularity(examples, validation, d)), 50),
    )
    scores = counting.popularity(examples, choices, days)
    lines.add(
        "popularity", "baseline", replayed.retrieval(scores), "of all time" if days > 999 else f"of {days:.0f} days"
    )
    regularisation, liked, _ = counting.tune_ease(examples, until, validation)
    ease = counting.Ease(examples, end, regularisation, liked)
    found = replayed.retrieval(ease.scores(choices, choices.times))
    lines.add("EASE, folded in", "baseline", found, f"L2 {regularisation:.0f}, of {'likes' if liked else 'ratings'}")
    stale = ease.scores(choices, as_of(choices.times, NIGHTLY))
    lines.add("EASE, nightly", "baseline", replayed.retrieval(stale), "the same with last night's histories")


def _kind(
    lines: _Lines, spec: Spec, kind: str, material: Material, training: TrainingOptions, replayed: Replayed
) -> Floats:
    """Train the spec with another `rank` fusion; its scores."""
    bundle = train(with_kind(spec, kind), material, training, uses=RANK_ONLY)
    one = Served(bundle, replayed)
    scores = one.scores()
    lines.add(f"forebay {kind}", "forebay", replayed.ranking(scores))
    _price(lines, f"forebay {kind}", one)
    return scores


def _price(lines: _Lines, name: str, one: Served) -> None:
    fusion = one.bundle.fusions["rank"]
    items = np.resize(one.vectors("item"), (bench.CANDIDATES, fusion.shape.item_dim))
    lines.cost[name].append(bench.fusion_ms(fusion, one.vectors("user")[0], items))
    lines.size[name] = bench.vector_bytes(one.bundle, fusion)


def _early(lines: _Lines, model: early.Early, material: Material, replayed: Replayed) -> Floats:
    inputs = rank_inputs(material, replayed)
    scores = early.scores(model, inputs)
    lines.add("early ranker", "early", replayed.ranking(scores), "DIN + DCNv2 + crosses, tuned")
    lines.cost["early ranker"].append(bench.early_ms(model, inputs))
    sizes = {
        side: sum(_row_bytes(i) for t, i in inputs.items() if t.startswith(f"{side}.")) for side in ("user", "item")
    }
    lines.size["early ranker"] = (sizes["user"], sizes["item"])
    return scores


def _row_bytes(kept: Kept) -> int:
    inputs = kept.take(slice(0, 1))
    return sum(a.nbytes for a in (inputs.dense, inputs.sequence, inputs.items, inputs.length, inputs.own))


def rank_inputs(material: Material, replayed: Replayed, lag_s: float = 0.0) -> dict[str, Kept]:
    """What the segments of the `rank` fusion read for the impressions of the replayed part."""
    readers = Network(material.spec, material.vocabulary).readers
    states = {"user": replayed.states("user", lag_s), "item": replayed.states("item", 0.0)}
    return {
        s.title: Kept.read(readers[s.title], states[s.side], replayed.part.hashes(s.side))
        for s in material.spec.fusions["rank"].segments
    }


def _lag(curve: dict[str, list[float]], one: Served, lag: float) -> None:
    replayed = one.replayed
    scores = one.scores(one.vectors("user", lag))
    found = replayed.ranking(scores) | replayed.retrieval(one.choice_scores(lag))
    users = replayed.everything.users[replayed.everything.times < replayed.part.times.min()]
    old = np.isin(replayed.part.users, users)
    found["known_auc"] = metrics.auc(scores[old], replayed.part.labels[old])
    accepted = replayed.states("user", lag)[:, ACCEPTED]
    found["without_history"] = float((accepted == 0).mean())
    for key, value in found.items():
        curve[key].append(value)


def _slices(replayed: Replayed) -> dict[str, Bools]:
    """Users by what is known of them at the moment, items by how often they were rated before."""
    users, items = replayed.earlier["user"], replayed.earlier["item"]
    middle = np.median(items)
    return {
        "cold users (no event)": users == 0,
        "young users (1 to 9 events)": (users > 0) & (users < 10),
        "warm users (10 and more)": users >= 10,
        "new items (under 5 ratings)": items < 5,
        f"tail items (5 to {middle:.0f})": (items >= 5) & (items <= middle),
        f"head items (over {middle:.0f})": items > middle,
    }


def _data(history: History, replayed: Replayed, until: int, end: int) -> dict[str, str]:
    part, everything = replayed.part, replayed.everything
    known = np.unique(everything.users[everything.times < end])
    day = "%Y-%m-%d"
    return {
        "behaviours": f"{len(history.times):,}",
        "users": f"{len(everything.logs['user'].entities):,}",
        "items": f"{len(everything.logs['item'].entities):,}",
        "trained until": time.strftime(day, time.gmtime(until / 1000)),
        "validated until": time.strftime(day, time.gmtime(end / 1000)),
        "test impressions": f"{len(part):,}, {part.labels.mean():.0%} positive",
        "of users not seen before": f"{1 - np.isin(part.users, known).mean():.0%}",
        "test choices": f"{len(replayed.choices):,} of {replayed.choices.items:,} items",
    }
