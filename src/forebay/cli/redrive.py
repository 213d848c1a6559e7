"""`forebay deadletters redrive`: letters back to their sources, or into a file that `forebay import` reads."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from confluent_kafka import KafkaException

from forebay.cli.cluster import cluster
from forebay.cli.console import err, out, print_json, print_table, progress
from forebay.cli.deadletters import line, own
from forebay.cli.letterflags import LetterFlags
from forebay.config import Settings
from forebay.errors import BrokerUnavailable, UsageError
from forebay.streams.cluster import Cluster
from forebay.streams.deadletters import opened as letters_of
from forebay.streams.installation import foreign_of, topics_of
from forebay.streams.intake.accept import Rules
from forebay.streams.intake.bounds import Bounds
from forebay.streams.letterfilter import Placed
from forebay.streams.redrive import judge as why
from forebay.streams.redrive.drive import Driven, drive
from forebay.streams.redrive.judge import Judge, Verdict
from forebay.streams.redrive.originals import opened as originals_of
from forebay.streams.redrive.sender import Delivery
from forebay.streams.redrive.sender import opened as sender_to
from forebay.streams.topics import Topics, describe, describe_foreign
from forebay.streams.transports.librdkafka.notes import Notes

ASK_ABOVE = 100
SHOWN = 10  # failures, where people read them
NEVER_LATE_MS = 1 << 62
AGAIN = "would be refused again as it is"
WHAT_TO_DO = {
    "late": "older than late_after by now. History enters by a file: --to FILE.jsonl, then forebay import FILE.jsonl",
    "future": "ahead of the clock still: drive it again when its time has come",
    why.TWICE: "another letter of the same record was taken",
    why.REFUSED: "raise max.message.bytes on the topics, then name it: --reason refused",
    why.WAITS: "its registry does not answer: forebay source check says how. Drive it again when it does",
    why.NOTHING: "it says nothing by now: a deleted row, where deletes are skipped",
    why.GONE: "the letter holds a part of it, and the whole is no longer in its source topic",
    why.ELSEWHERE: "its topic or partition is no source of this installation",
    why.NO_ORIGIN: "the letter does not say which record it is of",
}


@dataclass(frozen=True)
class RedriveFlags:
    """What the command line says besides the choice of letters."""

    to: Path | None = None
    dry_run: bool = False
    yes: bool = False


def redrive(settings: Settings, letters: LetterFlags, flags: RedriveFlags, as_json: bool) -> int:
    """Returns 0 when every letter that was chosen was delivered, else 3."""
    started, kafka, topics = time.monotonic(), cluster(settings), topics_of(settings)
    wanted = letters.filter()
    if flags.to is not None and flags.to.exists():
        raise UsageError("there is such a file", where=str(flags.to), do="Name another one: it would be overwritten")
    with letters_of(kafka, topics, wanted) as found, originals_of(kafka) as originals:

        def run(deliver: Callable[[Sequence[Verdict]], Delivery], doing: str) -> Driven:
            judge = _judge(settings, kafka, topics, insist="refused" in letters.reasons, to_file=flags.to is not None)
            with progress(doing, "offsets") as bar:
                return drive(found, judge, originals.find, deliver, bar, events=flags.to is not None)

        asks = flags.to is None and not flags.dry_run and not flags.yes and sys.stdin.isatty()
        if asks and not _agreed(run(_nothing, "looking through")):
            out.print("Nothing was sent.")
            return 1
        with _delivery(kafka, flags) as deliver:
            driven = run(deliver, "driving")
    _tell(driven, flags, time.monotonic() - started, as_json)
    open_ends = {reason: n for reason, n in driven.left.items() if reason not in (why.TWICE, why.NOTHING)}
    return 3 if open_ends or driven.failures or driven.stopped else 0


def _judge(settings: Settings, kafka: Cluster, topics: Topics, *, insist: bool, to_file: bool) -> Judge:
    """By the rules that the settings give the Intake, and what it notes of its memory. An import takes any age."""
    bounds = Bounds.of(settings)
    info = describe(kafka, topics.own_sources) | describe_foreign(kafka, topics.foreign)
    partitions, foreign = {name: one.partitions for name, one in info.items()}, foreign_of(settings)
    if to_file:
        return Judge(partitions, Rules(NEVER_LATE_MS, bounds.future_after_ms), insist=True, foreign=foreign)
    asked = Notes(kafka, topics)
    try:
        since = {name: note.since for name, note in asked.read().items() if note is not None}
    except KafkaException as error:
        said = error.args[0].str()
        raise BrokerUnavailable(
            f"no answer about offsets: {said}", where=str(kafka), do="Run: forebay doctor"
        ) from None
    finally:
        asked.close()
    return Judge(partitions, Rules(bounds.late_after_ms, bounds.future_after_ms), since, insist, foreign)


@contextmanager
def _delivery(kafka: Cluster, flags: RedriveFlags) -> Iterator[Callable[[Sequence[Verdict]], Delivery]]:
    if flags.dry_run:
        yield _nothing
    elif flags.to is not None:
        with _file(flags.to) as write:
            yield write
    else:
        with sender_to(kafka) as sender:
            yield sender.send


def _nothing(verdicts: Sequence[Verdict]) -> Delivery:
    return Delivery()


@contextmanager
def _file(path: Path) -> Iterator[Callable[[Sequence[Verdict]], Delivery]]:
    """Lines into a file beside `path`, which has its name when all are on the disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:

        def write(verdicts: Sequence[Verdict]) -> Delivery:
            file.writelines(verdict.event + b"\n" for verdict in verdicts)
            return Delivery()

        try:
            yield write
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            beside.unlink()
            raise
    os.replace(beside, path)


def _agreed(would: Driven) -> bool:
    if would.delivered <= ASK_ABOVE:
        return True
    return typer.confirm(f"Send {would.delivered:,} records to their source topics again?", err=True)


def _tell(driven: Driven, flags: RedriveFlags, seconds: float, as_json: bool) -> None:
    if as_json:
        failed = [{"letter": own(f.placed), "record": _record(f.placed), "said": f.said} for f in driven.failed]
        told: dict[str, Any] = {
            "letters": driven.letters, "delivered": driven.delivered, "left": driven.left, "failures": driven.failures,
            "failed": failed, "stopped": driven.stopped, "dry_run": flags.dry_run,
            "to": None if flags.to is None else str(flags.to), "seconds": seconds,
        }  # fmt: skip
        print_json(told)
        return
    what = f"written to {flags.to}" if flags.to is not None else "sent to their source topics"
    would = "would be " if flags.dry_run else ""
    out.print(f"{driven.delivered:,} of {driven.letters:,} letters {would}{what}, {seconds:.1f} s", markup=False)
    if driven.left:
        rows = [(line(reason), f"{n:,}", WHAT_TO_DO.get(reason, AGAIN)) for reason, n in driven.left.items()]
        print_table(("left", "letters", "why, and what to do"), rows, right=("letters",))
    if flags.to is not None and driven.delivered and not flags.dry_run:
        out.print(f"Into the archive: forebay import {flags.to} --format json", markup=False)
    for failure in driven.failed[:SHOWN]:
        err.print(
            f"not sent: letter {own(failure.placed)} of {_record(failure.placed)}: {line(failure.said)}", markup=False
        )
    if driven.failures > SHOWN:
        err.print(f"not sent: {driven.failures - SHOWN:,} more, which --json names", markup=False)
    if driven.stopped:
        err.print(
            f"stopped: {line(driven.stopped)}. Letters behind these were not looked at. Run it again: what was sent "
            "counts once",
            markup=False,
        )


def _record(placed: Placed) -> str:
    letter = placed.letter
    return line(f"{letter.topic}-{letter.partition}-{letter.offset}")
