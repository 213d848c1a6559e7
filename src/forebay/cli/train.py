"""`forebay train` and `forebay backfill`: history into a bundle, and into a generation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forebay.cli import source
from forebay.cli.console import out, print_json, progress
from forebay.config import Settings


def train(
    settings: Settings, events: str, spec: Path | None, folder: Path | None, options: Mapping[str, Any], as_json: bool
) -> None:
    """Train on `events` and save the bundle under its hash."""
    from forebay.segments.training import TrainingOptions
    from forebay.segments.training import train as fit

    started = time.monotonic()
    model = source.spec(spec, events)
    with progress("training", "epochs") as bar:
        bundle = fit(
            model, source.history(events), TrainingOptions(**options), lambda _, done, total, __: bar(done, total)
        )
    path = bundle.save(folder or settings.bundles)
    took = time.monotonic() - started
    if as_json:
        print_json({"bundle": bundle.name, "hash": bundle.hash, "path": str(path), "seconds": took, **bundle.record})
        return
    record = bundle.record
    out.print(
        f"bundle {bundle.name} in {path}: {record['examples']['train']:,} examples, {took:.0f} s, "
        f"validation AUC {record['validation_auc']:.4f}, logloss {record['validation_logloss']:.4f}"
    )


def backfill(settings: Settings, bundle_path: Path, events: str, as_json: bool) -> None:
    """Fold `events` with the bundle into the generation that the settings name."""
    from forebay.segments.bundle import Bundle
    from forebay.streams.backfill import backfill as build
    from forebay.streams.topics import Topics, ensure

    started = time.monotonic()
    bundle, topics = Bundle.load(bundle_path), Topics(settings.topic_prefix)
    ensure(settings.bootstrap, topics, generation=settings.generation, partitions=settings.partitions)
    if bundle_path.resolve().parent != settings.bundles.resolve():
        shutil.copytree(bundle_path, settings.bundles / bundle.name, dirs_exist_ok=True)
    with progress("folding", "events") as bar:
        generation = build(
            bundle,
            source.history(events),
            name=settings.generation,
            bootstrap=settings.bootstrap,
            topics=topics,
            folder=settings.generation_dir,
            state_folder=settings.state,
            now_ms=time.time_ns() // 1_000_000,
            progress=bar,
        )
    took = time.monotonic() - started
    if as_json:
        print_json({"generation": generation.name, "bundle": bundle.name, "cut": generation.cut, "seconds": took})
    else:
        out.print(
            f"generation {generation.name} of bundle {bundle.name} in {took:.1f} s. Next: forebay work, forebay serve"
        )
