"""What records would become, without an Intake: for people who try a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from forebay.events import Event
from forebay.segments.blocks.build import events_of
from forebay.streams.intake.accept import Acceptor, Rules
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.sources.translator import Translator
from forebay.streams.sources.waiting import waiting
from forebay.streams.worker.batch import PartitionBatch


@dataclass(frozen=True)
class Tried:
    """One record: `accepted` with its event, `refused` with a dead letter's reason and message, a `duplicate` of
    another one of the same trial, `nothing` (it says nothing), or it `waits`, and the message says for what."""

    partition: int
    offset: int
    value: bytes | None
    outcome: str
    event: Event | None = None
    reason: str = ""
    message: str = ""


def tried(
    topic: str,
    batches: Sequence[PartitionBatch],
    translator: Translator | None,
    rules: Rules = Rules(),
    *,
    patience_s: float = 0.0,
) -> list[Tried]:
    """What becomes of records of one topic; each batch's `partition` is the topic's own. What they need, but for the
    records themselves, is waited for so long."""
    sources = tuple(f"{topic}/{batch.partition}" for batch in batches)
    translators: Mapping[int, Translator] = {}
    if translator is not None:
        translators = dict.fromkeys(range(len(batches)), translator)
    acceptor, found = Acceptor(sources, rules, translators), list[Tried]()
    numbers = [replace(batch, partition=number) for number, batch in enumerate(batches)]
    waits = waiting(numbers, translators, patience_s)
    for number, (batch, numbered) in enumerate(zip(batches, numbers, strict=True)):
        if number in waits:
            places = zip(batch.offsets, batch.values, strict=True)
            found += [Tried(batch.partition, offset, value, "waits", message=waits[number]) for offset, value in places]
            continue
        nothing = {
            offset
            for offset, told in zip(batch.offsets, translator.translated(numbered), strict=True)
            if told is None
        } if translator is not None else set()  # fmt: skip
        accepted = acceptor.accept([numbered], {number: HourSets()})
        events = [event for block in acceptor.whole(accepted) for event in events_of(block)]
        by_offset = dict(zip(accepted.offsets[accepted.rows].tolist(), events, strict=True))
        letters = {letter.offset: letter for letter in accepted.letters}
        for offset, value in zip(batch.offsets, batch.values, strict=True):
            if (event := by_offset.get(offset)) is not None:
                found.append(Tried(batch.partition, offset, value, "accepted", event))
            elif (letter := letters.get(offset)) is not None:
                told = letter.reason, letter.message
                found.append(Tried(batch.partition, offset, value, "refused", None, *told))
            else:
                outcome = "nothing" if offset in nothing else "duplicate"
                found.append(Tried(batch.partition, offset, value, outcome))
    return found
