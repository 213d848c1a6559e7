"""A small search: other fusions, dimensions and segments, one training of each, compared on the validation part alone.

Its outcome is configuration: what wins is written into the spec, by hand and with thought. The test part is never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from forebay.segments.history import History
from forebay.segments.spec import Spec, parse_spec
from forebay.segments.training.material import Material
from forebay.segments.training.options import TrainingOptions
from forebay.segments.training.recipe import RANK_ONLY, train, with_teacher
from forebay.segments.training.variants import with_fusion, with_kind

DIMS = (16, 48, 64)
KINDS = ("weighted_sum", "gated_sum", "maxsim", "affinity", "concat_fc", "concat_conv", "attention")
DECAYS = (0.02, 0.1, 1.0)
RATES = (5e-4, 1e-3, 2e-3)


@dataclass(frozen=True)
class Try:
    """One training: what it changes, and its figures on the validation part."""

    name: str
    figures: Mapping[str, float]


def sweep(
    spec: Spec, history: History, options: TrainingOptions, told: Callable[[int, int], None] = lambda *_: None
) -> list[Try]:
    """Every try, best first by validation AUC. `told(done, total)` after each. Raises UsageError."""
    plans = list(_plans(spec, options))
    shared = with_teacher(Material.of(spec, history, options), options)
    found = []
    for number, (name, other, changed) in enumerate(plans):
        same = [(s.title, s.features) for s in other.segments] == [(s.title, s.features) for s in spec.segments]
        material = shared if same else replace(Material.of(other, history, options), teacher=shared.teacher)
        record = train(other, material, changed, uses=RANK_ONLY).record
        figures = {k: float(record[k]) for k in ("validation_auc", "validation_logloss", "rank_epochs")}
        found.append(Try(name, figures))
        told(number + 1, len(plans))
    return sorted(found, key=lambda t: -t.figures["validation_auc"])


def _plans(spec: Spec, options: TrainingOptions) -> Iterator[tuple[str, Spec, TrainingOptions]]:
    rank = spec.fusions["rank"]
    yield "as it is", spec, options
    for kind in KINDS:
        if kind != rank.kind:
            yield f"fusion {kind}", with_kind(spec, kind), options
    for dim in DIMS:
        yield f"{dim} dimensions", _with_dim(spec, dim), options
    for left_out in rank.segments:
        names: dict[str, Any] = {
            side: [s.name for s in rank.segments if s.side == side and s is not left_out] for side in ("user", "item")
        }
        if left_out.encoder.kind == "affinity":  # it has one partner: both go
            names = {
                side: [s.name for s in rank.segments if s.side == side and s.encoder.kind != "affinity"]
                for side in names
            }
        if all(names.values()):
            table = {"kind": rank.kind, **dict(rank.options), **names}
            yield f"without {left_out.title}", with_fusion(spec, "rank", table), options
    for decay in DECAYS:
        if decay != options.weight_decay:
            yield f"weight decay {decay:g}", spec, replace(options, weight_decay=decay)
    for rate in RATES:
        if rate != options.learning_rate:
            yield f"learning rate {rate:g}", spec, replace(options, learning_rate=rate)


def _with_dim(spec: Spec, dim: int) -> Spec:
    """Every segment of the commonest dimension at another one; raw affinities have the dimension that they have."""
    dims = [s.dim for s in spec.segments if s.encoder.kind != "affinity"]
    common = max(set(dims), key=dims.count)
    tables = json.loads(spec.canonical)
    for segment in spec.segments:
        if segment.dim == common and segment.encoder.kind != "affinity":
            tables[segment.side][segment.name]["dim"] = dim
    return parse_spec(tables)
