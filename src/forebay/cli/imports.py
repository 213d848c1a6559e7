"""`forebay import`: files of somebody's history into the archive."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from forebay.cli.console import out, print_json, progress
from forebay.config import Settings
from forebay.segments.history.archive import Place
from forebay.streams.imports.importer import Importer
from forebay.streams.imports.rawfile import found
from forebay.streams.imports.refusals import Refusals
from forebay.streams.intake.bounds import Bounds
from forebay.streams.sources.mapping import Shape


@dataclass(frozen=True)
class ImportFlags:
    """What the command line says besides the files."""

    format: str | None = None
    maps: Sequence[str] = ()
    constants: Sequence[str] = ()
    splits: Sequence[str] = ()
    texts: Sequence[str] = ()
    time_unit: str = "ms"
    refused: str | None = None
    dry_run: bool = False


def bring(settings: Settings, urls: Sequence[str], flags: ImportFlags, as_json: bool) -> int:
    """Import what `urls` name. Returns 0, or 3 when rows were refused."""
    started = time.monotonic()
    shape = Shape.of(flags.maps, flags.constants, flags.splits, flags.texts, flags.time_unit)
    files, into = found(urls, flags.format), settings.archive_url
    with (
        Refusals(flags.refused or posixpath.join(into, "refused.jsonl")) as refusals,
        progress("importing", "bytes") as bar,
    ):
        importer = Importer(
            Place.of(into), shape, refusals,
            future_after_ms=Bounds.of(settings).future_after_ms, max_bytes=settings.intake_memory_mb << 20,
        )  # fmt: skip
        counts = importer.run(files, bar, dry=flags.dry_run)
    took, refused = time.monotonic() - started, refusals.reasons.total()
    if as_json:
        print_json(
            {
                "archive": into, "files": len(files), "accepted": counts.accepted, **counts.kinds,
                "duplicates": counts.duplicates, "refused": dict(refusals.reasons.most_common()),
                "refused_file": refusals.url if refused else None, "first_ms": counts.first or None,
                "last_ms": counts.last or None, "dry_run": flags.dry_run, "seconds": took,
            }
        )  # fmt: skip
        return 3 if refused else 0
    what = "would be imported into" if flags.dry_run else "imported into"
    rate = f", {counts.accepted / took:,.0f} a second" if took > 1 else ""
    out.print(f"{counts.accepted:,} events {what} {into} in {took:.1f} s{rate}", markup=False)
    if counts.accepted:
        kinds = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.kinds.items())
        out.print(f"  {kinds}, of {_day(counts.first)} to {_day(counts.last)}", markup=False)
    if counts.duplicates:
        out.print(f"  {counts.duplicates:,} were there before, or come twice", markup=False)
    if refused:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in refusals.reasons.most_common())
        out.print(f"  {refused:,} rows refused: {reasons}. They are in {refusals.url}", markup=False)
    return 3 if refused else 0


def _day(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):  # past the year 9999
        return f"{ms} ms since 1970"
