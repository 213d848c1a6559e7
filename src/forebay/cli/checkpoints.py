"""`forebay checkpoints list|show|prune`: the copies of the workers' state."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec

from forebay.cli.console import out, print_error, print_json, print_table, seconds
from forebay.clock import now_ms
from forebay.config import Settings
from forebay.errors import CheckpointError, UsageError
from forebay.store.checkpoints import Checkpoint, Checkpoints, Pruned

PARTIAL = 3


def list_all(settings: Settings, as_json: bool) -> int:
    """Every Checkpoint, the newest of a store first. Returns 3 where a manifest cannot be read, else 0."""
    kept, now, partial = Checkpoints(settings.checkpoints_url), now_ms(), 0
    found: list[Checkpoint] = []
    for store in kept.stores():
        for name in kept.names(store):
            try:
                found.append(kept.load(store, name))
            except CheckpointError as error:
                print_error(error)
                partial = PARTIAL
    if as_json:
        print_json([_summary(one) for one in found])
    elif found:
        rows = [
            (one.of, one.name, f"{one.offset:,}", seconds(one.created, now), len(one.files), f"{one.bytes / 1e6:,.1f}")
            for one in found
        ]
        columns = ("of", "checkpoint", "offset", "made", "files", "MB")
        print_table(columns, rows, right=("offset", "made", "files", "MB"))
    else:
        out.print(f"there are none at {kept.url}: a worker makes one of each partition", markup=False)
    return partial


def show(settings: Settings, of: str, as_json: bool) -> None:
    """One Checkpoint and its files: `g1/user-3` for the newest of a store, `g1/user-3/NAME` for one of its others.
    Raises UsageError where there is none."""
    kept = Checkpoints(settings.checkpoints_url)
    scope, _, rest = of.partition("/")
    store, _, name = rest.partition("/")
    names = kept.names(f"{scope}/{store}") if store else []
    if not names or (name and name not in names):
        raise UsageError(f"no checkpoint {of!r}", where=kept.url, do="Run: forebay checkpoints list")
    one = kept.load(f"{scope}/{store}", name or names[0])
    if as_json:
        print_json(_summary(one) | {"files": msgspec.to_builtins(one.files)})
        return
    for word, value in (
        ("of", one.of), ("checkpoint", one.name), ("topic", f"{one.topic} ({one.topic_id})"),
        ("offset", f"{one.offset:,}"), ("as of", _moment(one.as_of)), ("made", _moment(one.created)),
    ):  # fmt: skip
        out.print(f"{word:<12}{value}", markup=False)
    rows = [(file.name, f"{file.bytes:,}", file.sha256) for file in one.files]
    print_table(("file", "bytes", "sha256"), rows, right=("bytes",))


def prune(settings: Settings, keep: int | None, dry_run: bool, as_json: bool) -> int:
    """Remove all but the newest Checkpoints of each store, and files that none names. Returns 3 where one could not be
    looked through, else 0."""
    kept, done, partial = Checkpoints(settings.checkpoints_url), Pruned(0, 0, 0), 0
    for store in kept.stores():
        try:
            gone = kept.prune(store, keep or settings.checkpoints_kept, dry_run=dry_run)
        except CheckpointError as error:
            print_error(error)
            partial = PARTIAL
            continue
        done = Pruned(done.checkpoints + gone.checkpoints, done.files + gone.files, done.bytes + gone.bytes)
    if as_json:
        print_json(asdict(done) | {"dry_run": dry_run})
    else:
        said = "would remove" if dry_run else "removed"
        out.print(f"{said} {done.checkpoints:,} checkpoints and {done.files:,} files, {done.bytes / 1e6:,.1f} MB")
    return partial


def _summary(one: Checkpoint) -> dict[str, Any]:
    return {
        "of": one.of, "checkpoint": one.name, "topic": one.topic, "topic_id": one.topic_id, "offset": one.offset,
        "as_of": one.as_of, "created": one.created, "files": len(one.files), "bytes": one.bytes,
    }  # fmt: skip


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else "–"
