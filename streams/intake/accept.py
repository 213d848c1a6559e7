"""Raw records into accepted events, or dead letters: read, complete, judge the time, drop duplicates.

Everything but duplicates is decided from the records alone, so that a record gets the same verdict whenever it is read:
but for events from a time whose identities were forgotten, which are late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.clock import DAY_MS, MINUTE_MS
from forebay.errors import EventError, UsageError
from forebay.events import Behaviour, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.hashing import hashes_of
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.assemble import assemble
from forebay.streams.intake.duplicates import HourSets, Identities, identities_of
from forebay.streams.intake.fields import ABSENT, ID, ITEM, USER, Fields, fields_of, with_rows
from forebay.streams.intake.plain import read_one
from forebay.streams.intake.reader import read
from forebay.streams.origin import Origin
from forebay.streams.routing import partitions_at
from forebay.streams.sources.translator import Translator
from forebay.streams.worker.batch import PartitionBatch


@dataclass(frozen=True)
class Rules:
    """What is refused for its time: a behaviour more than `late_after_ms` behind the log, any event more than
    `future_after_ms` ahead of it, and, where `needs_time`, an event that has none: no log tells when it came."""

    late_after_ms: int = DAY_MS
    future_after_ms: int = 5 * MINUTE_MS
    needs_time: bool = False


class Known(Protocol):
    """What was accepted before. Of events before `since` (ms) nothing is known any more."""

    since: int

    def add(self, times: Ints, identities: Identities) -> Bools:
        """bool [n]: whether each was not there before, nor earlier in this very batch; all are there after it."""


@dataclass(frozen=True)
class Accepted:
    """What became of n records. `fields` has them all; those at `rows` int64, ascending, are accepted events, each with
    an id and a time. `appends` (ms), `offsets` and `sources` int64 [n] say where each comes from. `letters` are of the
    refused ones, and `duplicates` were neither accepted nor refused; what a foreign record that says nothing became is
    nowhere."""

    fields: Fields
    rows: Ints
    appends: Ints
    offsets: Ints
    sources: Ints
    letters: Sequence[DeadLetter]
    duplicates: int


class Acceptor:
    """Accepts the records of an installation's sources."""

    def __init__(
        self, sources: tuple[str, ...], rules: Rules = Rules(), translators: Mapping[int, Translator] = {}
    ) -> None:
        """`sources` are "topic/partition", by number; the records of those in `translators` are translated before they
        are read."""
        self._sources, self._rules, self._translators = sources, rules, translators

    def warm(self) -> None:
        """Compile what `accept` and `blocks` run."""
        event = Behaviour("u", "i", "a", 1.0, 1, "e", {"a": ["b"]}, {"n": 1.0})
        batch = PartitionBatch(0, [b"u"], [encode(event)], [0], [1])
        for side in SIDES:
            self.blocks(self.accept([batch], {0: HourSets()}), side, 1)

    def accept(self, batches: Sequence[PartitionBatch], sets: Mapping[int, Known]) -> Accepted:
        """The events in records; a batch's `partition` is the number of its source, and `sets` has an entry for each.

        What is accepted is in `sets` after it: if anything fails before it is in the log, drop them and load them
        again. No Translator waits for anything that `batches` need.
        """
        values = [value for batch in batches for value in batch.values]
        appends = np.array([a for batch in batches for a in batch.append_times], np.int64)
        offsets = np.array([o for batch in batches for o in batch.offsets], np.int64)
        sources = np.repeat(
            np.array([b.partition for b in batches], np.int64), [len(batch.offsets) for batch in batches]
        )
        fields, refused = read_all(*self._canonical(batches, values))
        timed = self._timed(fields, refused)
        fields = self._completed(fields, *self._first_copies(fields, batches, appends, offsets, sources), sources)
        since = np.zeros(len(self._sources), np.int64)
        for source, known in sets.items():
            since[source] = known.since
        good = timed & self._in_time(fields, appends, since[sources], refused)
        new = good & self._new(fields, good, sources, sets)
        letters = self._letters(refused, batches)
        duplicates = int(good.sum() - new.sum())
        return Accepted(fields, np.flatnonzero(new), appends, offsets, sources, letters, duplicates)

    def blocks(self, accepted: Accepted, side: Side, partitions: int) -> dict[int, list[Block]]:
        """The events of one side's clean log, in Blocks by partition: behaviours are in both, profiles and updates in
        their own."""
        fields, rows = accepted.fields, accepted.rows
        rows = rows[fields.kind[rows] != ITEM_UPDATE] if side == "user" else rows[_has_item(fields, rows)]
        keys = fields.texts[rows, USER if side == "user" else ITEM]
        homes = partitions_at(fields.data, keys[:, 0], keys[:, 1], partitions)
        order = np.argsort(homes, kind="stable")
        found: dict[int, list[Block]] = {}
        # One block of all, cut at the homes: a block for each by itself would sort the attributes anew each time.
        for block, start in self._assembled(accepted, rows[order]):
            inside = homes[order[start : start + len(block)]]
            edges = [0, *(np.flatnonzero(inside[1:] != inside[:-1]) + 1).tolist(), len(inside)]
            for first, last in pairwise(edges):
                found.setdefault(int(inside[first]), []).append(block.slice(first, last))
        return found

    def whole(self, accepted: Accepted) -> Iterator[Block]:
        """All events in their order, each once: as few blocks as the number of their attributes allows."""
        return (block for block, _ in self._assembled(accepted, accepted.rows))

    def _assembled(self, accepted: Accepted, rows: Ints, start: int = 0) -> Iterator[tuple[Block, int]]:
        """As few blocks as the number of their attributes allows, and the place of each one's first event in `rows`."""
        if not len(rows):
            return
        try:
            places = (accepted.appends, accepted.offsets, accepted.sources)
            yield assemble(accepted.fields, rows, *places, self._sources), start
        except UsageError:
            middle = len(rows) // 2
            yield from self._assembled(accepted, rows[:middle], start)
            yield from self._assembled(accepted, rows[middle:], start + middle)

    def _canonical(
        self, batches: Sequence[PartitionBatch], values: list[bytes | None]
    ) -> tuple[list[bytes | None], dict[int, EventError | None]]:
        """The values of all batches as a publisher would have written them, and by place what is none: why, or None
        where a record says nothing."""
        if not any(batch.partition in self._translators for batch in batches):
            return values, {}
        found, none, start = list(values), dict[int, EventError | None](), 0
        for batch in batches:
            if (translator := self._translators.get(batch.partition)) is not None:
                for row, told in enumerate(translator.translated(batch), start):
                    found[row] = told if isinstance(told, bytes) else None
                    if not isinstance(told, bytes):
                        none[row] = told
            start += len(batch.offsets)
        return found, none

    def _timed(self, fields: Fields, refused: dict[int, EventError]) -> Bools:
        """Those that were read and have a time, or get one from the log."""
        if not self._rules.needs_time:
            return fields.read
        absent = fields.read & (fields.time == ABSENT)
        for row in np.flatnonzero(absent).tolist():
            refused[row] = EventError("no_time", "an event of a history without a time: no log tells when it was")
        return fields.read & ~absent

    def _first_copies(
        self, fields: Fields, batches: Sequence[PartitionBatch], appends: Ints, offsets: Ints, sources: Ints
    ) -> tuple[Ints, Ints]:
        """Append time (ms) and offset of each record, int64 [n]; of one that lacks a time or an id, and says that it is
        a copy of an earlier record of its source, those of that one."""
        lacking = fields.read & ((fields.time == ABSENT) | (fields.texts[:, ID, 0] == fields.texts[:, ID, 1]))
        if not lacking.any() or not any(any(batch.headers) for batch in batches):
            return appends, offsets
        heads = [batch.headers_at(place) for batch in batches for place in range(len(batch.offsets))]
        appends, offsets = appends.copy(), offsets.copy()
        for row in np.flatnonzero(lacking).tolist():
            first = Origin.of(heads[row]) if heads[row] else None
            if first is not None and first.source == self._sources[sources[row]]:
                appends[row], offsets[row] = first.append_time, first.offset
        return appends, offsets

    def _completed(self, fields: Fields, appends: Ints, offsets: Ints, sources: Ints) -> Fields:
        """With a time and an id for each. A foreign producer's event without them: the log's time is its time, and its
        place identifies it, so that a re-send is another event, and a copy that is driven again is not."""
        time = np.where(fields.time == ABSENT, appends, fields.time)
        unnamed = np.flatnonzero(fields.read & (fields.texts[:, ID, 0] == fields.texts[:, ID, 1]))
        if not len(unnamed):
            return replace(fields, time=time)
        names = [
            f"{self._sources[source].replace('/', '-')}-{offset}".encode()
            for source, offset in zip(sources[unnamed].tolist(), offsets[unnamed].tolist(), strict=True)
        ]
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        ends = len(fields.data) + np.cumsum(lengths)
        texts = fields.texts.copy()
        texts[unnamed, ID, 0], texts[unnamed, ID, 1] = ends - lengths, ends
        data = np.concatenate([fields.data, np.frombuffer(b"".join(names), np.uint8)])
        return replace(fields, data=data, time=time, texts=texts)

    def _in_time(self, fields: Fields, appends: Ints, since: Ints, refused: dict[int, EventError]) -> Bools:
        age = appends - fields.time
        acted = fields.read & (fields.kind == BEHAVIOUR)
        late = acted & ((age > self._rules.late_after_ms) | (fields.time < since))
        future = fields.read & (-age > self._rules.future_after_ms)
        rows = np.flatnonzero(late)
        bounds = np.minimum(self._rules.late_after_ms, np.maximum(0, appends[rows] - since[rows]))
        for row, old, bound in zip(rows.tolist(), age[rows].tolist(), bounds.tolist(), strict=True):
            refused[row] = EventError("late", f"{old} ms behind the log, past {bound}")
        rows = np.flatnonzero(future)
        for row, ahead in zip(rows.tolist(), (-age[rows]).tolist(), strict=True):
            refused[row] = EventError("future", f"{ahead} ms ahead of the log")
        return ~(late | future)

    def _new(self, fields: Fields, good: Bools, sources: Ints, sets: Mapping[int, Known]) -> Bools:
        """Of behaviours the first with its identity; an update that comes twice changes nothing the second time."""
        new = np.ones(len(good), np.bool_)
        acted = good & (fields.kind == BEHAVIOUR)
        users, ids = (hashes_of(fields.data, *fields.texts[:, place].T) for place in (USER, ID))
        identities = identities_of(users, fields.time, ids)
        for source in np.unique(sources[acted]).tolist():
            at = np.flatnonzero(acted & (sources == source))
            new[at] = sets[source].add(fields.time[at], identities[at])
        return new

    def _letters(self, refused: Mapping[int, EventError], batches: Sequence[PartitionBatch]) -> list[DeadLetter]:
        """Those of the refused among all records, in their order."""
        found, rows, first = [], iter(sorted(refused)), 0
        row = next(rows, None)
        for batch in batches:
            topic, _, partition = self._sources[batch.partition].rpartition("/")
            while row is not None and (place := row - first) < len(batch.offsets):
                letter = DeadLetter.of(
                    refused[row], key=batch.keys[place], value=batch.values[place], topic=topic,
                    partition=int(partition), offset=int(batch.offsets[place]),
                    append_time=int(batch.append_times[place]), processor="intake", headers=batch.headers_at(place),
                )  # fmt: skip
                found.append(letter)
                row = next(rows, None)
            first += len(batch.offsets)
        return found


def read_all(
    values: Sequence[bytes | None], none: Mapping[int, EventError | None] = {}
) -> tuple[Fields, dict[int, EventError]]:
    """Fields of n records, and for each that could not be read the reason. Those of `none` are no events, for a reason
    or for none."""
    fields, refused = read([value or b"" for value in values]), dict[int, EventError]()
    refused.update((row, error) for row, error in none.items() if error is not None)
    rows, events = [], []
    for row in np.flatnonzero(~fields.read).tolist():
        if row in none:
            continue
        try:
            events.append(read_one(values[row]))
            rows.append(row)
        except EventError as error:
            refused[row] = error
    return with_rows(fields, np.array(rows, np.int64), fields_of(events)), refused


def _has_item(fields: Fields, rows: Ints) -> Bools:
    kinds = fields.kind[rows]
    found: Bools = (kinds == BEHAVIOUR) | (kinds == ITEM_UPDATE)
    return found
