"""`forebay deadletters`: what was refused, by reason, and one letter with its bytes, safe to look at in a terminal."""

from __future__ import annotations

import base64
import codecs
import re
import sys
from datetime import UTC, datetime

import msgspec
from rich.markup import escape

from forebay.cli.cluster import cluster
from forebay.cli.console import err, out, print_json, print_table, progress
from forebay.cli.letterflags import LetterFlags
from forebay.config import Settings
from forebay.errors import ForebayError, UsageError
from forebay.streams.deadletter import DeadLetter
from forebay.streams.deadletters import at, find, newest, reasons
from forebay.streams.letterfilter import Placed
from forebay.streams.topics import Topics

SHOWN_BYTES = 4096
_OWN = re.compile(r"(?:(\d{1,9}):)?(\d{1,18})")
_SOURCE = re.compile(r"(.+)-(\d{1,9})-(\d{1,18})")


def list_reasons(settings: Settings, flags: LetterFlags, as_json: bool) -> None:
    """A line for each reason: how many, the newest, and that one's coordinates for `show`."""
    topics, wanted = Topics(settings.topic_prefix), flags.filter()
    with progress("reading", "offsets") as bar:
        found = reasons(cluster(settings), topics, wanted, bar)
    if as_json:
        print_json(
            [
                {
                    "reason": r.reason,
                    "count": r.count,
                    "newest_ms": r.newest.appended,
                    "example": _source(r.newest.letter),
                    "letter": own(r.newest),
                }
                for r in found
            ]
        )
    elif not found:
        out.print(f"No dead letters {_looked_through(topics, flags)}.", markup=False)
    else:
        rows = [
            (escape(line(r.reason)), f"{r.count:,}", _moment(r.newest.appended),
             escape(line(_source(r.newest.letter))), own(r.newest))
            for r in found
        ]  # fmt: skip
        print_table(("reason", "count", "newest", "example", "letter"), rows, right=("count",))
        out.print("One with its bytes: forebay deadletters show EXAMPLE", markup=False)


def show(settings: Settings, place: str | None, flags: LetterFlags, raw: bool, as_json: bool) -> None:
    """One letter, by its record's TOPIC-PARTITION-OFFSET or its own OFFSET (PARTITION:OFFSET where there are
    several); without a place the newest one."""
    placed = _look_up(settings, place, flags)
    letter = placed.letter
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        sys.stdout.buffer.flush()
        if not letter.is_whole:
            err.print(f"warning: {_whole(letter)}", markup=False)
    elif as_json:
        fields = msgspec.structs.asdict(letter) | {
            "letter": own(placed), "appended_ms": placed.appended, "is_whole": letter.is_whole,
        }  # fmt: skip
        fields["headers"] = {name: data.decode("utf-8", "replace") for name, data in letter.headers}
        for name, data in (("key", letter.key), ("value", letter.value)):
            fields[name] = None
            fields[f"{name}_base64"] = None if data is None else base64.b64encode(data).decode()
            if data is not None and (text := _text(data)) is not None:
                fields[name] = text
        print_json(fields)
    else:
        sys.stdout.write(_page(placed))


def _look_up(settings: Settings, place: str | None, flags: LetterFlags) -> Placed:
    topics, kafka, wanted = Topics(settings.topic_prefix), cluster(settings), flags.filter()
    with progress("reading", "offsets") as bar:
        if place is None:
            found = newest(kafka, topics, wanted, bar)
        elif (number := _OWN.fullmatch(place)) is not None:
            found = at(kafka, topics, int(number[1] or 0), int(number[2]), wanted)
        elif (source := _SOURCE.fullmatch(place)) is not None:
            found = find(kafka, topics, source[1], int(source[2]), int(source[3]), wanted, bar)
        else:
            raise UsageError(
                f"{place!r} is no place", do="Write TOPIC-PARTITION-OFFSET of the record, or the letter's own offset"
            )
    if found is None:
        named = f" {place}" if place is not None else ""
        raise ForebayError(
            f"no dead letter{named} {_looked_through(topics, flags)}", where=topics.dead_letters,
            do="Run: forebay deadletters list",
        )  # fmt: skip
    return found


def _looked_through(topics: Topics, flags: LetterFlags) -> str:
    where = f"among the newest {flags.last:,} offsets of {topics.dead_letters}" if flags.last else "there"
    return f"{where} ({flags})" if str(flags) else where


def _page(placed: Placed) -> str:
    letter = placed.letter
    lines = [
        f"reason      {line(letter.reason)}",
        f"message     {line(letter.message)}",
        f"record      {line(_source(letter))}, appended {_moment(letter.append_time)}",
        f"refused by  the {line(letter.processor)}, forebay {line(letter.version)}",
        f"letter      {own(placed)}, appended {_moment(placed.appended)}",
    ]
    for name, data, length, digest in (
        ("key", letter.key, letter.key_length, letter.key_sha256),
        ("value", letter.value, letter.length, letter.sha256),
    ):
        if data is None:
            lines.append(f"{name:11} none")
            continue
        lines.append(f"{name:11} {length:,} bytes, SHA-256 {line(digest)}")
        lines += [f"    {part}" for part in _readable(data[:SHOWN_BYTES])]
        if len(data) > SHOWN_BYTES:
            lines.append(f"    … {len(data) - SHOWN_BYTES:,} bytes more: --raw")
    lines += [f"header      {line(name)}: {line(data.decode('utf-8', 'replace'))}" for name, data in letter.headers]
    if not letter.is_whole:
        lines.append(_whole(letter))
    return "\n".join(lines) + "\n"


def _whole(letter: DeadLetter) -> str:
    return (
        f"the letter holds the first {len(letter.value or b''):,} of {letter.length:,} bytes; "
        f"the whole is in {line(_source(letter))} as long as its topic keeps it"
    )


def _readable(data: bytes) -> list[str]:
    """Lines of text where the bytes are text, else a hex dump: nothing in them reaches the terminal as a command to
    it."""
    text = _text(data)
    if text is not None:
        return [line(part) for part in text.split("\n")]
    return [_dumped(start, data[start : start + 16]) for start in range(0, len(data), 16)]


def _dumped(start: int, row: bytes) -> str:
    plain = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
    return f"{start:08x}  {row.hex(' '):47}  {plain}"


def _text(data: bytes) -> str | None:
    """`data` as UTF-8, its last character perhaps cut; None when it is none or has other control characters than tab
    and line end."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
    return None if any(ord(c) < 32 and c not in "\t\r\n" for c in text) else text


def line(text: str) -> str:
    """`text` on one line, with what a terminal would obey or not show written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _source(letter: DeadLetter) -> str:
    return f"{letter.topic}-{letter.partition}-{letter.offset}"


def own(placed: Placed) -> str:
    return f"{placed.partition}:{placed.offset}"


def _moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms since 1970"
