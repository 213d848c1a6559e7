"""`forebay publish`: a file or standard input onto the topics."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from forebay.cli.console import err, out, print_json, progress
from forebay.config import Settings
from forebay.errors import EventError, UsageError
from forebay.events import Interaction, Tick, check, decode
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

MAX_SHOWN = 5


def publish(settings: Settings, source: str, as_json: bool) -> int:
    """Send every line; refused ones are named and skipped. Returns 0, or 3 when some were refused."""
    path = Path(source)
    if source != "-" and not path.is_file():
        raise UsageError("there is no such file", where=source, do="Name a JSON-lines file, or - for standard input")
    total = path.stat().st_size if source != "-" else 0
    refused, read, started = 0, 0, time.monotonic()
    lines = sys.stdin.buffer if source == "-" else path.open("rb")
    topics = Topics(settings.topic_prefix)
    with lines, EventPublisher(settings.bootstrap, topics=topics) as publisher, progress("publishing", "bytes") as bar:
        for number, line in enumerate(lines, start=1):
            read += len(line)
            try:
                event = decode(line)
                check(event)
                if isinstance(event, Interaction | Tick):
                    raise EventError("wrong_type", "ticks and interactions are sent by workers")
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
    if as_json:
        print_json({"acknowledged": sent, "refused": refused, "seconds": took})
    else:
        out.print(f"{sent:,} events acknowledged in {took:.1f} s, {refused:,} lines refused")
    return 3 if refused else 0
