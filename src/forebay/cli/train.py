"""`forebay train` and `forebay backfill`: history into a bundle, and into a generation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.cli import source
from forebay.cli.console import out, print_json, print_table, progress, warn
from forebay.clock import now_ms
from forebay.config import Settings
from forebay.errors import UsageError
from forebay.segments.bundle import Bundle


@dataclass(frozen=True)
class TrainFlags:
    """What the command line says besides events and spec; None is "as the spec's [training] table has it"."""

    seed: int = 0
    epochs: int | None = None
    weight_decay: float | None = None
    distill: float | None = None
    regime: str | None = None
    sampling: str | None = None
    checkpoint: Path | None = None
    log: Path | None = None
    bundle: Path | None = None
    segment: str | None = None

    def given(self) -> dict[str, Any]:
        names = ("seed", "epochs", "weight_decay", "distill", "regime", "sampling")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}


def train(
    settings: Settings, events: str, spec: Path | None, folder: Path | None, flags: TrainFlags, as_json: bool
) -> None:
    """Train on `events` and save the bundle under its hash; or one segment of a bundle that is there, or, with a spec
    too, one more."""
    from forebay.segments.training import TrainingOptions, add_segment, train_segment
    from forebay.segments.training import train as fit
    from forebay.segments.training.remarks import remarks

    if (flags.segment is None) != (flags.bundle is None):
        raise UsageError("--segment and --bundle belong together", do="Name the bundle whose segment is trained anew")
    started = time.monotonic()
    known = Bundle.load(flags.bundle) if flags.bundle else None
    model = known.spec if known and spec is None else source.spec(spec, events)
    options = TrainingOptions.of(model, **flags.given())
    history = source.history(events)
    with ExitStack() as stack:
        log = stack.enter_context(_log(flags.log)) if flags.log else None
        bar = stack.enter_context(progress("training", "epochs"))

        def told(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            bar(done, total)
            if log is not None:
                log(stage, done, total, figures)

        if known is not None and flags.segment is not None and spec is not None:
            bundle = add_segment(known, model, history, flags.segment, options, told)
        elif known is not None and flags.segment is not None:
            bundle = train_segment(known, history, flags.segment, options, told)
        else:
            bundle = fit(model, history, options, told, flags.checkpoint)
    path = bundle.save(folder or settings.bundles)
    took = time.monotonic() - started
    record = bundle.record
    found = remarks(record)
    warn(found)
    if as_json:
        stated = {"bundle": bundle.name, "hash": bundle.hash, "path": str(path), "seconds": took}
        print_json({**stated, **record, "warnings": found})
        return
    names = {"validation_auc": "AUC", "validation_logloss": "logloss", "validation_recall@50": "recall@50"}
    figures = ", ".join(f"{name} {record[key]:.4f}" for key, name in names.items() if key in record)
    counts = [
        f"{part} {positive:,} positive and {record['examples'][part] - positive:,} negative"
        for part, positive in record["positives"].items()
    ]
    out.print(f"bundle {bundle.name} in {path}, {took:.0f} s")
    out.print(f"  impressions: {', '.join(counts)}")
    out.print(f"  on the validation part: {figures}")


def sweep(events: str, spec: Path | None, flags: TrainFlags, as_json: bool) -> None:
    """Compare trainings on the validation part; nothing is saved."""
    from forebay.segments.training import TrainingOptions
    from forebay.segments.training.sweep import sweep as search

    model = source.spec(spec, events)
    with progress("sweeping", "trainings") as bar:
        found = search(model, source.history(events), TrainingOptions.of(model, **flags.given()), bar)
    if as_json:
        print_json([{"try": t.name, **t.figures} for t in found])
        return
    rows = [
        (
            t.name,
            f"{t.figures['validation_auc']:.4f}",
            f"{t.figures['validation_logloss']:.4f}",
            int(t.figures["rank_epochs"]),
        )
        for t in found
    ]
    print_table(("try", "validation AUC", "logloss", "epochs"), rows, right=("validation AUC", "logloss", "epochs"))
    out.print("One seed each: differences below .002 are noise. What wins goes into the spec: [training], [fusion].")


def _log(folder: Path):  # type: ignore[no-untyped-def]
    from forebay.segments.training.log import TrainingLog  # tensorboardX, which a worker's installation does not have

    return TrainingLog(folder)


def backfill(settings: Settings, bundle_path: Path, events: str, as_json: bool, processes: int | None = None) -> None:
    """Fold `events` with the bundle into the generation that the settings name."""
    from forebay.cli.cluster import cluster
    from forebay.store.checkpoints import Checkpoints
    from forebay.streams.backfill import backfill as build
    from forebay.streams.installation import topics_of as installed
    from forebay.streams.topics import ensure

    started = time.monotonic()
    bundle, topics, kafka = Bundle.load(bundle_path), installed(settings), cluster(settings)
    ensure(kafka, topics, generation=settings.generation, partitions=settings.partitions)
    if bundle_path.resolve().parent != settings.bundles.resolve():
        Bundle.load(bundle.save(settings.bundles))  # what lay under the name already may be damaged
    with progress("folding", "events") as bar:
        generation = build(
            bundle,
            source.history(events),
            name=settings.generation,
            bootstrap=kafka,
            topics=topics,
            folder=settings.generation_dir,
            state_folder=settings.state,
            now_ms=now_ms(),
            progress=bar,
            processes=processes,
            checkpoints=Checkpoints(settings.checkpoints_url),
        )
    took = time.monotonic() - started
    if as_json:
        print_json({"generation": generation.name, "bundle": bundle.name, "cut": generation.cut, "seconds": took})
    else:
        out.print(
            f"generation {generation.name} of bundle {bundle.name} in {took:.1f} s. Next: forebay work, forebay serve"
        )
