"""`forebay publish`: a file, standard input, or a synthetic world onto the topics."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from forebay.cli.cluster import cluster
from forebay.cli.console import err, out, print_json, progress
from forebay.cli.lateness import Lateness
from forebay.clock import DAY_MS, now_ms
from forebay.config import Settings
from forebay.errors import EventError, UsageError
from forebay.events import MAX_RECORD_BYTES, Published, Tick, check, decode, encode
from forebay.streams.intake.bounds import Bounds
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

MAX_SHOWN = 5
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class SyntheticFlags:
    """`--synthetic` and what belongs to it. `rate` is events a second; `to` a file to write instead of a broker."""

    events: int
    users: int | None = None
    items: int | None = None
    seed: int = 0
    rate: float = 0.0
    to: Path | None = None


def publish(settings: Settings, source: str, as_json: bool) -> int:
    """Send every line; refused ones are named and skipped. Returns 0, or 3 when some were refused.

    What the Intake will refuse for its time is said on standard error: of a file before anything is sent, of standard
    input at the first such event and in sum at the end.
    """
    path = Path(source)
    if source != "-" and not path.is_file():
        raise UsageError("there is no such file", where=source, do="Name a JSON-lines file, or - for standard input")
    total = path.stat().st_size if source != "-" else 0
    lateness = Lateness(Bounds.of(settings))
    if source != "-":
        _look_through(path, lateness)
        lateness.warn()
    refused, read, started = 0, 0, time.monotonic()
    file = sys.stdin.buffer if source == "-" else path.open("rb")
    topics = Topics(settings.topic_prefix)
    with file, EventPublisher(cluster(settings), topics=topics) as publisher, progress("publishing", "bytes") as bar:
        for number, line in enumerate(_lines(file), start=1):
            read += len(line)
            try:
                event = _published(line)
                if source == "-":
                    lateness.warn_first(event)
                publisher.send(event)
            except EventError as error:
                refused += 1
                if refused <= MAX_SHOWN:
                    err.print(f"      line {number} refused: {error.what}", markup=False)
            if number % 1000 == 0:
                bar(read, total or read)
        publisher.flush()
        sent = publisher.acknowledged
    took = time.monotonic() - started
    if source == "-":
        lateness.warn()
    if as_json:
        print_json({"acknowledged": sent, "refused": refused, "seconds": took, **lateness.told()})
    else:
        out.print(f"{sent:,} events acknowledged in {took:.1f} s, {refused:,} lines refused")
    return 3 if refused else 0


def _published(line: bytes) -> Published:
    """The event in a line. Raises EventError for what is none, or not one to publish."""
    event = decode(line)
    check(event)
    if isinstance(event, Tick):
        raise EventError("wrong_type", "ticks are the Intake's to send")
    return event


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of `file`. One that is too long for any event is cut behind the bound at which `decode` refuses it."""
    most = MAX_RECORD_BYTES + 2
    while line := file.readline(most):
        rest = line
        while len(rest) == most and not rest.endswith(b"\n"):
            rest = file.readline(most)
        yield line


def _look_through(path: Path, lateness: Lateness) -> None:
    """Count in `lateness` what is in the file: 2.2 µs an event, where sending it takes 32."""
    with path.open("rb") as file, progress("looking at times", "events") as bar:
        for line in _lines(file):
            try:
                lateness.note(_published(line))
            except EventError:
                continue  # named when its turn comes
            if lateness.seen % 1000 == 0:
                bar(lateness.seen, lateness.seen)


def synthesise(settings: Settings, flags: SyntheticFlags, as_json: bool) -> int:
    """Publish a synthetic world whose last event is now, in its order of arrival, or write it to a file."""
    if flags.to is not None and flags.rate:
        raise UsageError("--rate with --to", do="A file has no rate: leave it out")
    if flags.rate < 0:
        raise UsageError(f"--rate {flags.rate}", do="Use events a second, more than 0")
    if flags.to is not None and flags.to.exists():
        raise UsageError("there is such a file", where=str(flags.to), do="Name another one: it would be overwritten")
    started = time.monotonic()
    with progress("publishing", "events") as bar:
        events = _told(_world(flags), flags.events, bar)
        if flags.to is not None:
            sent = _write(events, flags.to)
        else:
            topics, lateness = Topics(settings.topic_prefix), Lateness(Bounds.of(settings))
            with EventPublisher(cluster(settings), topics=topics) as publisher:
                for event in _paced(events, flags.rate):
                    lateness.warn_first(event)
                    publisher.send(event)
                publisher.flush()
                sent = publisher.acknowledged
            lateness.warn()
    took = time.monotonic() - started
    if as_json:
        print_json({"events": sent, "seconds": took, "to": str(flags.to) if flags.to else None})
    else:
        out.print(f"{sent:,} events {f'in {flags.to}' if flags.to else 'acknowledged'}, {took:.1f} s")
    return 0


def _world(flags: SyntheticFlags) -> Iterator[Published]:
    from forebay.segments.datasets.synthetic import stream
    from forebay.segments.datasets.worldoptions import WorldOptions

    sized = WorldOptions.sized(flags.events, flags.users, flags.items, seed=flags.seed)
    # Its clock ends now: a stream refuses what is from the future, and what is too old.
    start_ms = now_ms() - int(sized.days * DAY_MS)
    options = WorldOptions.sized(flags.events, flags.users, flags.items, seed=flags.seed, start_ms=start_ms)
    return (arrival.event for arrival in stream(options))


def _told(events: Iterator[Published], total: int, bar: Advance) -> Iterator[Published]:
    for number, event in enumerate(events, start=1):
        yield event
        if number % 1000 == 0:
            bar(number, max(total, number))


def _paced(events: Iterator[Published], rate: float) -> Iterator[Published]:
    """At `rate` events a second, in steps of a tenth of a second; 0 is as fast as it goes."""
    if not rate:
        yield from events
        return
    started, sent, step = time.monotonic(), 0, max(1, int(rate / 10))
    while batch := list(itertools.islice(events, step)):
        yield from batch
        sent += len(batch)
        time.sleep(max(0.0, started + sent / rate - time.monotonic()))


def _write(events: Iterator[Published], path: Path) -> int:
    written = 0
    with path.open("wb") as file:
        for event in events:
            file.write(encode(event) + b"\n")
            written += 1
    return written
