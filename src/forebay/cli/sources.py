"""`forebay source`: the topics that the Intake reads, and what their newest records become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaException, Message
from rich.markup import escape

from forebay.cli.cluster import cluster
from forebay.cli.console import out, print_json, print_table
from forebay.config import Settings
from forebay.errors import BrokerUnavailable, ForebayError, UsageError
from forebay.streams import tail
from forebay.streams.cluster import Cluster
from forebay.streams.installation import foreign_of, topics_of
from forebay.streams.intake.accept import Rules
from forebay.streams.intake.bounds import Bounds
from forebay.streams.intake.trial import Tried, tried
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.translator import Translator
from forebay.streams.topics import TopicInfo, describe, describe_foreign
from forebay.streams.transports.librdkafka.messages import batch_of
from forebay.streams.worker.batch import PartitionBatch

RECORDS = 100  # the newest of each source
READ_S, WAIT_S = 10.0, 5.0
EXAMPLES = 2  # of each outcome
SHOWN = 160  # characters of a record, and bytes of one that is no text


def list_sources(settings: Settings, as_json: bool) -> None:
    """A line for each source: its format, partitions, and whose times its records have."""
    foreigners = {one.topic: one for one in foreign_of(settings)}
    rows = []
    for info in _infos(settings, topics_of(settings).sources):
        one = foreigners.get(info.name)
        kept = "for ever" if info.retention_ms < 0 else f"{info.retention_ms / 3_600_000:.0f} h"
        whose = "the log's" if info.timestamp_type == "LogAppendTime" else "the producers'"
        rows.append((info.name, _format(one), info.partitions, whose, kept))
    columns = ("topic", "format", "partitions", "times", "keeps")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows, right=("partitions",))


def check(settings: Settings, topic: str | None, as_json: bool) -> int:
    """What the newest records of each source, or of `topic` alone, become. Joins no group and commits nothing.

    Returns 0; 3 when some were refused; 1 when some could not be decoded for want of a schema.
    """
    known, foreigners = topics_of(settings), {one.topic: one for one in foreign_of(settings)}
    if topic is not None and topic not in known.sources:
        raise UsageError(
            f"{topic!r} is no source",
            do=f"Sources are: {', '.join(known.sources)}. A [[source]] in forebay.toml adds one",
        )
    bounds = Bounds.of(settings)
    rules, reports = Rules(bounds.late_after_ms, bounds.future_after_ms), list[dict[str, Any]]()
    outcomes: Counter[str] = Counter()
    for info in _infos(settings, known.sources if topic is None else (topic,)):
        one = foreigners.get(info.name)
        found = _tried(cluster(settings), info, None if one is None else Translator(one), rules)
        outcomes.update(each.outcome for each in found)
        if as_json:
            reports.append(_report(info.name, one, found))
        else:
            _show(info.name, one, found)
    if as_json:
        print_json(reports)
    return 1 if outcomes["waits"] else 3 if outcomes["refused"] else 0


def _infos(settings: Settings, names: Sequence[str]) -> list[TopicInfo]:
    kafka, known = cluster(settings), topics_of(settings)
    own = [name for name in names if name not in known.foreign]
    found = (describe(kafka, own) if own else {}) | describe_foreign(
        kafka, [name for name in names if name in known.foreign]
    )
    return [found[name] for name in names]


def _tried(kafka: Cluster, info: TopicInfo, translator: Translator | None, rules: Rules) -> list[Tried]:
    return tried(info.name, newest(kafka, info, RECORDS), translator, rules, patience_s=WAIT_S)


def newest(kafka: Cluster, info: TopicInfo, limit: int) -> list[PartitionBatch]:
    """The newest `limit` committed records of a topic, about, by partition. Raises BrokerUnavailable."""
    try:  # at least one of each partition is looked at
        messages = list(tail.newest(kafka, info.name, info.partitions, max(limit, info.partitions), READ_S))
    except KafkaException as error:
        said = error.args[0].str()
        raise BrokerUnavailable(f"the newest records cannot be read: {said}", where=info.name) from None
    by_partition: dict[int, list[Message]] = {}
    for message in sorted(messages, key=lambda message: message.timestamp()[1])[-limit:]:
        by_partition.setdefault(message.partition(), []).append(message)
    return [
        batch_of(partition, sorted(found, key=lambda message: message.offset()))
        for partition, found in sorted(by_partition.items())
    ]


def _report(topic: str, one: Foreign | None, found: Sequence[Tried]) -> dict[str, Any]:
    return {
        "topic": topic, "format": _format(one), "records": len(found),
        "outcomes": dict(Counter(_outcome(each) for each in found).most_common()),
        "examples": [
            {
                "place": f"{topic}-{each.partition}-{each.offset}", "outcome": each.outcome, "reason": each.reason,
                "message": each.message, "record": _short(each.value),
                "event": None if each.event is None else msgspec.to_builtins(each.event),
            }
            for each in _examples(found)
        ],
    }  # fmt: skip


def _show(topic: str, one: Foreign | None, found: Sequence[Tried]) -> None:
    out.print(f"[bold]{escape(topic)}[/]  {_format(one)}, the newest {len(found)} records")
    if not found:
        out.print("  Nothing is in it.")
        return
    for outcome, count in Counter(_outcome(each) for each in found).most_common():
        out.print(f"  {count:>5,}  {_line(outcome)}", markup=False)
    for each in _examples(found):
        out.print(f"\n  {_outcome(each)}: {topic}-{each.partition}-{each.offset}", markup=False)
        out.print(f"    {_short(each.value)}", markup=False)
        if each.event is not None:
            out.print(f"    → {_line(msgspec.json.encode(each.event).decode())}", markup=False)
        elif each.message:
            out.print(f"    → {_line(each.message)}", markup=False)
    out.print("")


def _examples(found: Sequence[Tried]) -> list[Tried]:
    """A few of each outcome, the newest ones."""
    seen: Counter[str] = Counter()
    chosen = []
    for each in reversed(found):
        seen[_outcome(each)] += 1
        if seen[_outcome(each)] <= EXAMPLES:
            chosen.append(each)
    return sorted(chosen, key=_outcome)


def _outcome(each: Tried) -> str:
    if each.event is not None:
        return str(each.event.__struct_config__.tag)
    names = {"refused": f"refused, {each.reason}", "duplicate": "a duplicate of another of these",
             "nothing": "says nothing", "waits": "not decoded yet"}  # fmt: skip
    return names[each.outcome]


def _format(one: Foreign | None) -> str:
    if one is None:
        return "ours"
    return f"{one.format} of {one.encoding}" if one.format != one.encoding else one.format


def _short(value: bytes | None) -> str:
    """A record's beginning on one line: as text where it is text, else in hex. Nothing in it reaches the terminal as a
    command to it."""
    if value is None:
        return "(no value)"
    try:
        text = value[: 4 * SHOWN].decode("utf-8", "strict" if len(value) <= 4 * SHOWN else "ignore")
        whole = len(text) <= SHOWN and len(value) <= 4 * SHOWN
        is_text = sum(c.isprintable() or c in "\t\r\n" for c in text) >= len(text) - 1
    except UnicodeDecodeError:
        is_text = False
    if is_text:
        return _line(text[:SHOWN]) + ("" if whole else " …")
    return value[: SHOWN // 3].hex(" ") + (" …" if len(value) > SHOWN // 3 else "")


def _line(text: str) -> str:
    """`text` with what a terminal would obey or not show written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def outcome_of(settings: Settings, one: Foreign) -> tuple[bool, str]:
    """For a check of one foreign source: whether all of its newest records can be taken, and what was found."""
    try:
        (info,) = _infos(settings, (one.topic,))
        bounds = Bounds.of(settings)
        rules = Rules(bounds.late_after_ms, bounds.future_after_ms)
        found = _tried(cluster(settings), info, Translator(one), rules)
    except ForebayError as error:
        return False, error.what
    counts = Counter(each.outcome for each in found)
    if waiting := next((each.message for each in found if each.outcome == "waits"), ""):
        return False, waiting
    said = (
        f"{_format(one)}, {info.partitions} partitions, of the newest {len(found)} records {counts['refused']} refused"
    )
    return not counts["refused"], said
