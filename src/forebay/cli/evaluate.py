"""`forebay evaluate`: models and baselines over seeds, as a report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from forebay.cli import source
from forebay.cli.console import budget, err, out, print_json, print_table


def evaluate(events: str, spec: Path | None, report: Path, seeds: int, quick: bool, as_json: bool) -> None:
    """Write `report`, and print the table of models."""
    from forebay.segments.evaluation.goals import goals
    from forebay.segments.evaluation.page import page
    from forebay.segments.evaluation.results import METRICS
    from forebay.segments.evaluation.study import StudyOptions, study
    from forebay.segments.training import TrainingOptions

    started = time.monotonic()

    def note(text: str) -> None:
        err.print(f"      {time.monotonic() - started:5.0f} s  {text}", highlight=False, markup=False)

    model = source.spec(spec, events)
    options = StudyOptions(seeds=seeds, quick=quick, training=TrainingOptions.of(model))
    title = "MovieLens-100K" if events == "movielens" else Path(events).stem
    command = " ".join(["forebay", *sys.argv[1:]])
    found = study(model, source.history(events), title, command, options, note)
    report.write_text(page(found), encoding="utf-8")
    # What freshness is worth is the data's, too: its goals are those of the built-in data.
    held = goals(found, freshness=events == "movielens")
    budgets = [budget(g.name, g.target, g.measured, g.unit, at_most=g.at_most) for g in held]
    if as_json:
        print_json({**found.as_json(), "report": str(report), "budgets": budgets})
        return
    keys = ("auc", "gauc", "request_gauc", "logloss", "recall@50", "ndcg@10")
    rows = [
        (
            m.name,
            *(f"{m.figures[k].mean:.4f}" if k in m.figures else "–" for k in keys),
            f"{m.ms_per_1000.mean:.3f}" if m.ms_per_1000 else "–",
        )
        for m in found.models
    ]
    columns = ("model", *(METRICS[k][0] for k in keys), "ms / 1,000")
    print_table(columns, rows, right=columns[1:])
    lines = [
        (g.name, f"{g.measured:+.4f}" if not g.unit else f"{g.measured:,.3g}", g.unit,
         f"{'≤' if g.at_most else '≥'} {g.target:,.4g}", "met" if b["met"] else "missed")
        for g, b in zip(held, budgets, strict=True)
    ]  # fmt: skip
    out.print()
    print_table(("goal", "measured", "unit", "budget", ""), lines, right=("measured", "budget"))
    out.print(f"The whole of it, with intervals and pictures: {report}", highlight=False)
