"""The smaller tables of an evaluation: what one change costs, everything else as it was."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from forebay.arrays import Bools, Doubles, Floats
from forebay.segments.evaluation import experiment, extremes
from forebay.segments.evaluation.compression.encoders import int8_weights, parameters, pruned
from forebay.segments.evaluation.compression.vectors import VectorCodec, codecs
from forebay.segments.evaluation.replayed import NIGHTLY, Served
from forebay.segments.evaluation.results import Figure, Figures, RowResult, Section
from forebay.segments.spec import SIDES, SegmentSpec, Side, Spec
from forebay.segments.training import RANK_ONLY, TrainingOptions, train
from forebay.segments.training.material import Material, Parts
from forebay.segments.training.objectives import sampling_shift
from forebay.segments.training.options import Sampling

Note = Callable[[str], None]

KEPT = ("auc", "gauc", "request_gauc", "logloss")


def slices(found: Mapping[str, Mapping[str, list[float]]], sizes: Mapping[str, int]) -> Section:
    """AUC of each model within groups of impressions; `found[group][model]` by seed."""
    rows = [
        RowResult(
            group,
            {},
            {"impressions": f"{sizes[group]:,}"}
            | {f"AUC {model}": _plain(Figure(tuple(values)).mean) for model, values in models.items()},
        )
        for group, models in found.items()
    ]
    return Section("slices", "Who gains", "AUC within groups of the test impressions.", rows)


def _plain(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "–"


def of_served(served: Sequence[Served], against: Figures, quick: bool) -> list[Section]:
    """What needs no training: one segment stale, one missing, stored otherwise, encoded by less, features at their
    extremes."""
    segments = served[0].bundle.spec.fusions["rank"].segments
    # One seed after another, so that one seed's vectors are in memory.
    tries: dict[str, Callable[[Served], Floats]] = {f"stale {s.title}": _stale(s) for s in segments}
    tries |= {f"missing {s.title}": _missing(s) for s in segments}
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in tries}
    for one in served:
        for name, scores in tries.items():
            _add(found[name], one, scores(one))
        one.forget()
    stale, missing = (
        [RowResult(s.title, _figures(found[f"{what} {s.title}"])) for s in segments] for what in ("stale", "missing")
    )
    worst = min(stale, key=lambda r: r.figures["auc"].mean)
    sections = [
        Section(
            "stale", "One segment stale at a time",
            "Each segment's vectors as of the last midnight, all others fresh: what must be kept up per event, and "
            "what need not.",
            stale, against, f"{worst.name} must be fresh; a segment near zero may be refreshed nightly.",
        ),
        Section(
            "worth", "The worth of each segment",
            "Each segment in turn replaced by its default vector, as a lookup does with one that is missing or "
            "expired; no retraining.",
            missing, against,
        ),
        _stored(served), experiments(served[0]), extremes.section(served[0]),
    ]  # fmt: skip
    served[0].forget()
    return sections if quick else [*sections, _encoders(served[0])]


def experiments(one: Served) -> Section:
    """Fresh vectors (B) against last night's (A), as an experiment on the test part's users would have shown it."""
    replayed = one.replayed
    part, names = replayed.part, replayed.everything.logs["user"].entities
    loss = {lag: _losses(one.scores(one.vectors("user", lag)), part.labels) for lag in (0.0, NIGHTLY)}
    fresh, users = experiment.by_user(loss[0.0], part.users)
    nightly, _ = experiment.by_user(loss[NIGHTLY], part.users)
    ids = [names[u] for u in users.tolist()]
    arm_b = experiment.in_arm_b(ids, "fresh against nightly")
    found = experiment.compare(np.where(arm_b, fresh, nightly), arm_b)
    choices = replayed.choices
    lists = [choices.ranked(one.choice_scores(lag), 40) for lag in (NIGHTLY, 0.0)]
    mixed = experiment.interleaved(lists[0], lists[1], choices.targets)
    rows = [
        RowResult(
            "A/B: logloss of a user, fresh less nightly",
            {},
            {
                "users": f"{found.users_b:,} / {found.users_a:,}",
                "difference": f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})",
                "p": f"{found.p:.2g}",
            },
        ),
        RowResult(
            "A/A: equal arms called different at .05",
            {},
            {
                "users": f"{len(ids):,}",
                "difference": f"{experiment.aa_share(nightly, ids):.1%} of 500 splits",
                "p": "–",
            },
        ),
        RowResult(
            "interleaving: choices that fresh, and nightly, had put among 20",
            {},
            {
                "users": f"{len(choices):,} choices",
                "difference": f"{mixed.wins_b:,} to {mixed.wins_a:,}",
                "p": f"{mixed.p:.2g}",
            },
        ),
    ]
    return Section(
        "experiments", "As an experiment would show it",
        "Users of the test part split by a hash, one arm scored with fresh vectors, one with last night's; and both "
        "retrievals interleaved by team draft before each choice. One seed.",
        rows,
    )  # fmt: skip


def _losses(scores: Floats, labels: Bools) -> Doubles:
    return np.logaddexp(0.0, np.where(labels, -scores, scores).astype(np.float64))


def _add(found: dict[str, list[float]], one: Served, scores: Floats) -> None:
    for key, value in one.replayed.ranking(scores).items():
        if key in KEPT:
            found[key].append(value)


def _figures(found: Mapping[str, list[float]]) -> Figures:
    return {key: Figure(tuple(values)) for key, values in found.items()}


def _of(one: Served, scores: Floats) -> Figures:
    found: dict[str, list[float]] = defaultdict(list)
    _add(found, one, scores)
    return _figures(found)


def _stale(segment: SegmentSpec) -> Callable[[Served], Floats]:
    return lambda one: _with(one, segment, one.vectors(segment.side, NIGHTLY)[:, one.columns(segment.title)])


def _missing(segment: SegmentSpec) -> Callable[[Served], Floats]:
    return lambda one: _with(one, segment, one.bundle.defaults(segment.side)[one.columns(segment.title)])


def _with(one: Served, segment: SegmentSpec, columns: Floats) -> Floats:
    """Scores with other numbers in the columns of one segment."""
    vectors = one.vectors(segment.side).copy()
    vectors[:, one.columns(segment.title)] = columns
    return one.scores(users=vectors) if segment.side == "user" else one.scores(items=vectors)


def _stored(served: Sequence[Served]) -> Section:
    names = [codec.name for codec in codecs()]
    unchanged: dict[str, list[float]] = defaultdict(list)
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    read = served[0].bundle.spec.fusions["rank"].segments
    size = {codec.name: sum(codec.bytes_of(s.dim) for s in read) for codec in codecs()}
    for other in served:
        one = Served(other.bundle, other.replayed, exact=True)
        _add(unchanged, one, one.scores())
        for codec in codecs():
            vectors = {side: _restored(one, side, codec) for side in SIDES}
            _add(found[codec.name], one, one.scores(vectors["user"], vectors["item"]))
    whole = _figures(unchanged)
    rows = [RowResult(name, _figures(found[name]), {"bytes, both sides": f"{size[name]:,.0f}"}) for name in names]
    text = "Both sides' vectors stored in fewer bytes, scored as they come back. int8 is what is served."
    lost = {r.name: whole["auc"].mean - r.figures["auc"].mean for r in rows}
    dear = [name for name in names if lost[name] > 0.0005]
    verdict = f"int8 costs {lost['int8']:+.5f} AUC. " + (
        f"Do not pay: {', '.join(dear)}." if dear else "None costs .0005 AUC."
    )
    return Section("vectors", "Smaller vectors", text, rows, whole, verdict)


def _restored(one: Served, side: Side, codec: VectorCodec) -> Floats:
    vectors = one.vectors(side)
    restored = vectors.copy()
    for segment in one.bundle.spec.fusions["rank"].segments:
        if segment.side == side:
            part = vectors[:, one.columns(segment.title)]
            codec.fit(
                part[:4096]
            )  # of the first of the part, without labels: a codebook knows no more than the vectors
            restored[:, one.columns(segment.title)] = codec.restored(part)
    return restored


def _encoders(one: Served) -> Section:
    small, before, after = int8_weights(one.bundle)
    tries = {
        "int8 weights": small,
        **{f"{s:.0%} of hidden units out": pruned(one.bundle, s) for s in (0.25, 0.5, 0.75)},
    }
    base_ms = _encode_ms(one)
    rows = []
    for name, bundle in tries.items():
        other = Served(bundle, one.replayed)  # neither changes a feature: the states are the same
        size = after if bundle is small else 4 * parameters(bundle)
        extra = {"encoder KiB": f"{size / 1024:,.0f} of {before / 1024:,.0f}"}
        extra["ms for 128 users"] = f"{_encode_ms(other):.2f} of {base_ms:.2f}"
        rows.append(RowResult(name, _of(other, other.scores()), extra))
    text = (
        "Encoders with their matrices on an int8 grid (stored small, run in float32), and with hidden units taken out "
        "for good, no retraining; of one seed."
    )
    against = _of(one, one.scores())
    return Section(
        "encoders", "Smaller encoders", text, rows, against,
        "An encode is call overhead at these widths: neither pays in time below 64-wide layers, int8 weights pay in "
        "bytes.",
    )  # fmt: skip


def _encode_ms(one: Served) -> float:
    rows, hashes = one.replayed.states("user", 0.0)[:128], one.replayed.part.hashes("user")[:128]
    encoders, taken = one.encoders("user"), []
    for _ in range(9):
        started = time.perf_counter()
        encoders.encode_exact(rows, hashes)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken) * 1000)


def of_training(
    spec: Spec, material: Material, parts: Parts, served: Served, options: TrainingOptions, note: Note
) -> list[Section]:
    """What is trained otherwise, one seed each: imbalance, regimes, noise, less data. `material` has the teacher of
    `options`, if any, was read from `parts`, and is what `served` was trained on."""
    replayed = served.replayed

    def fit(name: str, given: Material, told: TrainingOptions) -> Served:
        note(name)
        return Served(train(spec, given, told, uses=RANK_ONLY), replayed)

    def row(name: str, one: Served, **extra: str) -> RowResult:
        figures = {k: Figure((v,)) for k, v in replayed.ranking(one.scores()).items()}
        return RowResult(name, figures, extra)

    def rank(name: str, given: Material, told: TrainingOptions) -> RowResult:
        return row(name, fit(name, given, told))

    def late(name: str, one: Served) -> RowResult:
        nightly = replayed.ranking(one.scores(one.vectors("user", NIGHTLY)))["auc"]
        return row(name, one, **{"AUC, nightly": f"{nightly:.4f}"})

    plain = replace(options, distill=0.0)
    bare = replace(material, teacher=None)
    always_fresh = replace(plain, stale_share=0.0)
    recipes = [late("as configured", served)]
    if options.distill:  # else it is as configured
        recipes.append(late("on the label alone, no teacher", fit("on the label alone, no teacher", bare, plain)))
    alone = recipes[-1].figures
    recipes += [
        late(
            "no teacher, never stale in training",
            fit("no teacher, never stale in training", bare.with_staleness(parts, always_fresh), always_fresh),
        ),
        late("segment dropout .1", fit("segment dropout .1", material, replace(options, segment_dropout=0.1))),
        late(
            "independent, then fused, then together",
            fit("independent, then fused, then together", material, replace(options, regime="independent")),
        ),
    ]
    imbalance = [rank("positives x 2", bare, replace(plain, positive_weight=2.0))]
    samplings: tuple[tuple[str, Sampling], ...] = (("over-sampled", "over"), ("under-sampled", "under"))
    for name, sampling in samplings:
        one = fit(name, bare, replace(plain, sampling=sampling))
        imbalance.append(row(f"{name}, logit corrected", one))
        evened = one.scores() + np.float32(sampling_shift(material.train.labels, sampling))
        figures = {k: Figure((v,)) for k, v in replayed.ranking(evened).items()}
        imbalance.append(RowResult(f"{name}, as the evened labels have it", figures))
    random = np.random.default_rng(0)
    robust = []
    for share in (0.1, 0.2):
        flipped = material.train.labels ^ (random.random(len(material.train)) < share)
        robust.append(
            rank(f"{share:.0%} of labels wrong", replace(bare, train=replace(material.train, labels=flipped)), plain)
        )
    for share in (0.3, 0.1):
        kept = np.sort(random.permutation(len(material.train))[: int(len(material.train) * share)])
        robust.append(
            rank(f"{share:.0%} of the training part", replace(bare, train=material.train.subset(kept)), plain)
        )
    return [
        Section(
            "recipes", "Ways to train",
            "One seed; differences to the recipe as configured. Staleness in training is for vectors that are late "
            "when they serve: its worth is in the column of last night's.",
            recipes, recipes[0].figures,
        ),
        Section(
            "imbalance", "Imbalance",
            "One seed, no teacher; differences to plain training on the label. Labels here are "
            f"{material.train.labels.mean():.0%} positive. Sampling evens them out, and the logit is corrected by its "
            f"rate.",
            imbalance, alone,
            "Re-weighting moves the scores away from probabilities: read logloss and calibration.",
        ),
        Section(
            "robustness", "Noise and little data", "One seed, no teacher; differences to clean labels, all of them.",
                robust,
            alone,
        ),
    ]  # fmt: skip
