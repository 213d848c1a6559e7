"""What an evaluation is held against: the project's goals, each with what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from forebay.segments.evaluation.results import Study


@dataclass(frozen=True)
class Goal:
    """`target` is the most that `measured` may be, or the least where not `at_most`."""

    name: str
    target: float
    measured: float
    unit: str
    at_most: bool


def goals(study: Study, *, freshness: bool) -> list[Goal]:
    """Those whose figures are there. What freshness is worth is a property of the data, too: its two goals were set for
    MovieLens, and are among them with `freshness` alone."""
    found = [*_quality(study), *_cost(study), *(_freshness(study) if freshness else ()), *_bounds(study)]
    return [g for g in found if math.isfinite(g.measured)]


def _quality(study: Study) -> Iterator[Goal]:
    served, sums = study.served, "forebay weighted_sum"
    for name, other, key, target in (
        (served, "early ranker", "auc", -0.002),
        (served, "early ranker", "gauc", -0.003),
        (served, "early ranker", "request_gauc", -0.003),
        (sums, "two-tower", "auc", -0.002),
        (served, "EASE, folded in", "recall@50", -0.01),
    ):
        words = {"auc": "AUC", "gauc": "GAUC by user", "request_gauc": "GAUC by request", "recall@50": "recall@50"}[key]
        yield Goal(
            f"{words}, {name} less {other}", target, _model(study, name, key) - _model(study, other, key), "", False
        )
    for key, target in (("auc", 0.0005), ("logloss", 0.001)):
        sign = 1 if key == "logloss" else -1
        change = _row(study, "vectors", "int8", key) - _row(study, "vectors", "f32", key)
        yield Goal(f"{key.replace('auc', 'AUC')} that int8 costs", target, sign * change, "", True)


def _cost(study: Study) -> Iterator[Goal]:
    served, sums, early = (_ms(study, n) for n in (study.served, "forebay weighted_sum", "early ranker"))
    yield Goal(f"1,000 candidates, {study.served}", 0.5, served, "ms", True)
    yield Goal("1,000 candidates, forebay weighted_sum", 0.05, sums, "ms", True)
    yield Goal(f"request time, early ranker over {study.served}", 20.0, early / served, "x", False)


def _freshness(study: Study) -> Iterator[Goal]:
    points = {s.lag_s: s.figures for s in study.staleness}
    if 0.0 in points and None in points:
        fresh, nightly = points[0.0], points[None]
        yield Goal("AUC, fresh less nightly", 0.04, fresh["auc"].mean - nightly["auc"].mean, "", False)
        least = max(nightly["recall@50"].mean, 1e-9)
        yield Goal("recall@50, fresh over nightly", 1.7, fresh["recall@50"].mean / least, "x", False)


def _bounds(study: Study) -> Iterator[Goal]:
    row = next((s.rows[0] for s in study.sections if s.key == "extremes"), None)
    if row is not None:
        logits = [float(v.replace(",", "")) for v in row.extra.values()]
        yield Goal("largest |logit| at extremes over the test part's", 4.0, max(logits[1:]) / logits[0], "x", True)


def _model(study: Study, name: str, key: str) -> float:
    figures = next((m.figures for m in study.models if m.name == name), {})
    return figures[key].mean if key in figures else math.nan


def _ms(study: Study, name: str) -> float:
    model = next((m for m in study.models if m.name == name), None)
    return math.nan if model is None or model.ms_per_1000 is None else model.ms_per_1000.mean


def _row(study: Study, section: str, name: str, key: str) -> float:
    rows = next((s.rows for s in study.sections if s.key == section), ())
    figures = next((r.figures for r in rows if r.name == name), {})
    return figures[key].mean if key in figures else math.nan
