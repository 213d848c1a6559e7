"""`forebay extend`: a generation with one more segment, out of one that runs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from forebay.cli.cluster import cluster
from forebay.cli.console import err, out, print_json, print_table, progress
from forebay.clock import now_ms
from forebay.config import Settings
from forebay.errors import UsageError
from forebay.segments.bundle import Bundle
from forebay.segments.growth import Growth
from forebay.segments.history.archive import Archive
from forebay.store.checkpoints import Checkpoints
from forebay.store.generation import Generation
from forebay.streams.extend import Extended, ExtendOptions, Report
from forebay.streams.extend import extend as build
from forebay.streams.installation import topics_of
from forebay.streams.intake.bounds import Bounds
from forebay.streams.topics import ensure

NICER = 10  # whatever else runs on this machine goes before it


def extend(
    settings: Settings, bundle_path: Path, of: str, rate: float, as_json: bool, archive: str | None = None
) -> None:
    """Make the generation that the settings name out of generation `of`, with the bundle at `bundle_path`, which has
    the segments of its own and more. `rate` is in events or rows a second, 0 is no bound. `archive` is where one of
    the clean logs is."""
    started, name = time.monotonic(), settings.generation
    if name == of:
        raise UsageError(f"--of {of} is the generation that is to be made", do="Name another one: --generation NEW")
    running = Generation.load(replace(settings, generation=of).generation_dir, name=of)
    growth = Growth.between(Bundle.load(settings.bundles / running.bundle_hash[:12]), Bundle.load(bundle_path))
    _tell_what_changes(growth)
    kafka, topics = cluster(settings), topics_of(settings)
    ensure(kafka, topics, generation=name, partitions=running.partitions["user"])
    if bundle_path.resolve().parent != settings.bundles.resolve():
        Bundle.load(growth.new.save(settings.bundles))  # what lay under the name already may be damaged
    with progress("reading the log", "records") as bar:
        made = build(
            growth,
            running,
            name=name,
            bootstrap=kafka,
            topics=topics,
            folder=settings.generation_dir,
            state_folder=settings.state,
            checkpoints=Checkpoints(settings.checkpoints_url),
            now_ms=now_ms(),
            options=ExtendOptions(rate, Bounds.of(settings).future_after_ms),
            archive=None if archive is None else Archive.open(archive),
            told=_tell,
            progress=bar,
        )
    took = time.monotonic() - started
    if as_json:
        print_json(
            {
                "generation": name, "of": of, "bundle": growth.new.name, "added": [s.title for s in growth.added],
                "encoded_anew": dict(growth.changed), "cut": made.generation.cut, "since": made.generation.since,
                "partitions": [msgspec.to_builtins(report) for report in made.reports], "seconds": took,
            }
        )  # fmt: skip
        return
    print_table(
        ("partition", "offset", "entities", "complete", "log from"),
        [
            (f"{r.side}-{r.partition}", f"{r.offset:,}", f"{r.entities:,}", f"{r.whole:,}", _moment(r.since_ms))
            for r in made.reports
        ],
        right=("offset", "entities", "complete"),
    )
    for line in _history(growth, made):
        out.print(line, markup=False)
    out.print(
        f"generation {name} of bundle {growth.new.name} in {took:.1f} s. Next: forebay work --generation {name} --slot "
        f"{name}, and when forebay doctor --generation {name} sees no lag, forebay serve --generation {name}",
        markup=False,
    )


def step_back() -> None:
    """Let whatever else runs on this machine go first, for as long as this process lives."""
    os.nice(NICER)


def _tell_what_changes(growth: Growth) -> None:
    added = ", ".join(s.title for s in growth.added)
    err.print(f"      new: {added}", markup=False)
    for title, what in growth.changed.items():
        err.print(f"      encoded anew over the same state: {title}, for {what} changed", markup=False)


def _tell(report: Report) -> None:
    err.print(f"      {report.side}-{report.partition}: {report.entities:,} carried over", markup=False)


def _history(growth: Growth, made: Extended) -> Sequence[str]:
    """From when on each new segment knows everything."""
    found = []
    for segment in growth.added:
        reports = [r for r in made.reports if r.side == segment.side]
        entities, whole = sum(r.entities for r in reports), sum(r.whole for r in reports)
        if segment.title in made.generation.since:
            since = _moment(made.generation.since[segment.title])
            found.append(
                f"{segment.title} is complete for {whole:,} of {entities:,} {segment.side}s; of the others it has what "
                f"the log took since {since}"
            )
        else:
            found.append(f"{segment.title} is complete: it knows all that the other segments know")
    return found


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else "–"
