"""`forebay archive`: the clean logs into Parquet files, once or again and again."""

from __future__ import annotations

import logging
import threading
import time

from forebay.cli.cluster import cluster
from forebay.cli.console import out, print_json, progress
from forebay.cli.processes import stop_event
from forebay.config import Settings
from forebay.errors import BrokerUnavailable, SpecError, UsageError
from forebay.segments.history.archive import Place
from forebay.segments.spec.toml import duration_ms
from forebay.streams.archive import Archiver, Written
from forebay.streams.topics import Topics

log = logging.getLogger("forebay.archive")
FOLLOW_S = 3600.0  # a day is 24 files of each partition
INTERRUPTED = 130


def archive(settings: Settings, follow: bool, every: str | None, as_json: bool) -> int:
    """Archive up to now, and go on where that is asked for. Returns 0, or 130 when it was stopped before the end."""
    every_s = _seconds(every) if every is not None else FOLLOW_S
    stop = stop_event()
    into = settings.archive_url
    archiver = Archiver(cluster(settings), Topics(settings.topic_prefix), Place.of(into))
    if follow or every is not None:
        return _follow(archiver, stop, every_s, into)
    started = time.monotonic()
    with progress("archiving", "records") as bar:
        written = archiver.run(stop, bar)
    took, stopped = time.monotonic() - started, stop.is_set()
    if as_json:
        told = {"files": written.files, "events": written.events, "strangers": written.strangers, "next": written.next}
        print_json({"archive": into, **told, "stopped": stopped, "seconds": took})
    else:
        out.print(
            f"{_told(written)} in {into}, {took:.1f} s{', stopped before the end' if stopped else ''}", markup=False
        )
    return INTERRUPTED if stopped else 0


def _follow(archiver: Archiver, stop: threading.Event, every_s: float, into: str) -> int:
    """A run every so often until `stop` is set. A broker that is away is waited for; any other error ends it."""
    log.info("archiving into %s every %.0f s", into, every_s)
    while not stop.is_set():
        began = time.monotonic()
        try:
            log.info("%s", _told(archiver.run(stop, lambda done, total: None)))
        except BrokerUnavailable as error:
            log.warning("%s", error)
        stop.wait(max(0.0, began + every_s - time.monotonic()))
    return 0


def _told(written: Written) -> str:
    odd = f", {written.strangers:,} records that are no Blocks stepped over" if written.strangers else ""
    return f"{written.events:,} events in {written.files:,} new files{odd}"


def _seconds(text: str) -> float:
    try:
        return max(1.0, duration_ms(text, "--every") / 1000)
    except SpecError as error:
        raise UsageError(f"--every {text!r} is no duration", do=error.do) from None
