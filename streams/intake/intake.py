"""The Intake: raw records in, the clean log out. The one speaker of both clean logs, the catalogue and the dead
letters.

A Worker calls it as it calls a Processor, with these numbers in metrics, tests and logs:

    1 accept     `apply`: records are read, completed, judged and told apart from what came before (accept.py)
    2 assemble   `apply`: behaviours without item attributes get those of the catalogue; events become Blocks, bad
                 records dead letters
    4 transact   the Worker: Blocks, the newest updates for the catalogue, dead letters, ticks and source offsets with
                 their notes in one commit
    5 store      `flush`, after the commit: identities and the offset; the store may lag the group, never lead it

A crash before the commit of 4 leaves nothing; between 4 and 5 the next owner reads the gap silently, which only makes
the identities known again: what was told has its item attributes in its Block.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from forebay.clock import HOUR_MS, MINUTE_MS, now_ms
from forebay.errors import EventError
from forebay.events import Behaviour, ItemUpdate, Tick, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER, ITEM_UPDATE
from forebay.segments.spec import SIDES, Side
from forebay.store.sourcestore import SourceMeta
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.accept import Accepted, Acceptor, Rules, read_all
from forebay.streams.intake.breaker import BreakerOptions
from forebay.streams.intake.catalogue import CATALOGUE_BYTES, Catalogue
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.intake.fields import ABSENT, updates_of
from forebay.streams.intake.guard import SourceGuard
from forebay.streams.intake.note import Note
from forebay.streams.intake.ownedsource import OwnedSource
from forebay.streams.intake.traced import traced
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.translator import Translator
from forebay.streams.sources.waiting import waiting
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome, PartitionBatch, Record
from forebay.streams.worker.source import Source
from forebay.streams.worker.stage import Stage
from forebay.telemetry import News, emit, later

DUPLICATE_MARGIN_MS = 5 * MINUTE_MS  # clocks differ, and the bound of lateness is the record's own
MEMORY_BYTES = 2 << 30
log = logging.getLogger("forebay.intake")


class Intake:
    """Accepts the records of an installation's sources, for the partitions it was given. One thread at a time."""

    name = title = "intake"
    scope = "@intake"  # no generation can be called so
    needs_all = False  # only the identities of the last day matter

    def __init__(
        self,
        topics: Topics,
        sources: Sequence[Source],
        partitions: Mapping[Side, int],
        folder: Path,
        rules: Rules = Rules(),
        memory_bytes: int = MEMORY_BYTES,
        catalogue_bytes: int = CATALOGUE_BYTES,
        breaker: BreakerOptions | None = None,
        *,
        foreign: Sequence[Foreign] = (),
        stamped_elsewhere: Collection[str] = (),
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`sources` by number, those of `foreign` topics among them; each side's clean log has so many `partitions`.
        Stores live in `folder`, one directory for each source partition. Identities take `memory_bytes` at most: past
        it the oldest hours are forgotten, and what comes of them is late from then on. Past `catalogue_bytes` the
        catalogue takes no item more. With `breaker` a source stands still where too many of its records are no events.

        The records of topics `stamped_elsewhere` have their producers' times instead of the log's: those ahead of
        `wall_ms` count as of now, and nothing is claimed by them. Raises MissingExtra for a foreign format whose
        libraries are not installed.
        """
        self.folder, self.partitions = folder, dict[int, OwnedSource]()
        self._topics, self._sources, self._counts = topics, tuple(sources), dict(partitions)
        self.names = tuple(f"{s.topic}-{s.partition}" for s in sources)
        self._names = tuple(f"{s.topic}/{s.partition}" for s in sources)
        self._rules, self._memory_bytes = rules, memory_bytes
        translators = {one.topic: Translator(one) for one in foreign}
        self._translators = {n: translators[s.topic] for n, s in enumerate(sources) if s.topic in translators}
        self._stamped = frozenset(n for n, s in enumerate(sources) if s.topic in stamped_elsewhere)
        self._wall_ms = wall_ms
        self._acceptor = Acceptor(self._names, rules, self._translators)
        self.catalogue = Catalogue(catalogue_bytes)
        self.guard = None if breaker is None else SourceGuard(self._sources, self._acceptor, breaker)
        self._counts_of = {topics.events(side): (side, partitions[side]) for side in SIDES}
        self._ticked, self._full = 0, False

    @property
    def follows(self) -> str:
        """See Stage."""
        return self._topics.catalogue

    def warm(self) -> None:
        """See Stage."""
        self._acceptor.warm()
        values = [encode(ItemUpdate("i", {"a": "b"}, 1, "e")), encode(Behaviour("u", "i", "a", 1.0, 1, "e"))]
        batch = PartitionBatch(0, [b"k"] * 2, values, [0, 1], [1, 1])
        accepted, catalogue = self._acceptor.accept([batch], {0: HourSets()}), Catalogue()
        catalogue.learn(accepted.fields, catalogue.take(accepted.fields, accepted.rows))
        filled = replace(accepted, fields=catalogue.fill(accepted.fields, accepted.rows))
        for side in SIDES:
            self._acceptor.blocks(filled, side, 1)

    def memory(self) -> dict[str, int]:
        """See Stage."""
        return {"catalogue": self.catalogue.nbytes}

    def open(
        self, partition: int, source: Source, offset: int, *, create: bool = True, folder: Path | None = None
    ) -> OwnedSource:
        """See Stage. Errors as in OwnedSource.open."""
        fresh = SourceMeta(source.topic, source.partition, source.topic_id, offset)
        path = folder or self.folder / self.names[partition]
        self.partitions[partition] = OwnedSource.open(path, fresh, create=create)
        return self.partitions[partition]

    def close(self, partition: int) -> None:
        """See Stage."""
        if (owned := self.partitions.pop(partition, None)) is not None:
            owned.close()
        if not self.partitions:  # as after a commit that failed
            self.catalogue.drop()
        self._ticked = 0  # whether the tick under way was committed is not known: it is told again

    def twin(self) -> None:
        """See Stage: identities of a day take gigabytes where there are a thousand behaviours a second."""
        return

    def adopt(self, partition: int, twin: Stage) -> OwnedSource:
        """See Stage. There is none."""
        raise NotImplementedError

    def flush(self) -> None:
        """See Stage: step 5."""
        for owned in self.partitions.values():
            owned.flush(self._rules.late_after_ms + DUPLICATE_MARGIN_MS)

    def apply(
        self,
        batches: Sequence[PartitionBatch],
        as_of: Mapping[int, int] = {},
        *,
        aloud: bool = True,
        encode_s: float = math.inf,
    ) -> Outcome:
        """See Stage: steps 1 and 2."""
        started = time.perf_counter()
        batches = [self._in_our_time(batch) for batch in batches] if self._stamped else batches
        accepted = self._accept(batches)
        for batch in batches:
            claims = batch.partition not in self._stamped
            self.partitions[batch.partition].took(batch.offsets[-1] + 1, max(batch.append_times), claims=claims)
        for partition, moment in as_of.items():
            owned = self.partitions[partition]
            owned.advance(owned.meta.offset, moment)
        self._bound_memory()
        offsets = {batch.partition: batch.offsets[-1] + 1 for batch in batches}
        taken = sum(len(batch.offsets) for batch in batches)
        if not aloud or accepted is None:
            return Outcome(offsets=offsets, taken=taken, events=taken)
        read = time.perf_counter()
        if self.guard is not None:
            self.guard.took(batches, accepted.letters)
        records = self._newest(accepted)  # first: behaviours of the batch get them, too
        accepted = replace(accepted, fields=self.catalogue.fill(accepted.fields, accepted.rows))
        blocks = [record for side in SIDES for record in self._told(accepted, side)]
        spans, blocks = traced(batches, accepted, blocks, self._sources, self._counts_of)
        records += blocks
        records += [Record(self._topics.dead_letters, -1, *letter.to_record()) for letter in accepted.letters]
        assembled = time.perf_counter()
        news = [self._refused(letter) for letter in accepted.letters]
        news.append(later("accepted", stage=self.name, events=len(accepted.rows), duplicates=accepted.duplicates))
        emit("step", number=1, name="accept", stage=self.name, seconds=read - started, events=taken)
        emit("step", number=2, name="assemble", stage=self.name, seconds=assembled - read, events=taken)
        return Outcome(records, offsets, (), taken, taken, spans, news)

    def waits(self, batches: Sequence[PartitionBatch]) -> dict[int, str]:
        """See Stage: foreign records whose schemas are not there yet."""
        return {batches[place].partition: reason for place, reason in waiting(batches, self._translators).items()}

    def learn(self, batches: Sequence[PartitionBatch]) -> None:
        """See Stage: the newest updates of items. A record without a value says that its item is gone; what is no
        update is told of and stepped over."""
        for batch in batches:
            kept = [n for n, value in enumerate(batch.values) if value is not None]
            fields, _ = read_all([batch.values[n] for n in kept])
            good = fields.read & (fields.kind == ITEM_UPDATE) & (fields.time != ABSENT)
            for place in np.flatnonzero(~good).tolist():
                log.warning(
                    "%s[%d], offset %d is no item update and is stepped over",
                    self.follows, batch.partition, batch.offsets[kept[place]],
                )  # fmt: skip
                emit("stranger", stage=self.name, partition=batch.partition)
            if left_out := self.catalogue.learn(fields, np.flatnonzero(good)):
                self._tell_full(left_out)
            if len(kept) < len(batch.values):
                last = dict(zip(batch.keys, batch.values, strict=True))
                self.catalogue.forget([key for key, value in last.items() if key and value is None])

    def withheld(self, batch: PartitionBatch) -> Outcome:
        """See Stage: a dead letter with the record's place, length and hash, and none of its content."""
        source, offset, batch = self._sources[batch.partition], batch.offsets[0], self._in_our_time(batch)
        # Without a trace in the identities: it is not in the log, and may be sent again.
        accepted = self._acceptor.accept([batch], {batch.partition: HourSets()})
        refused = DeadLetter.of(
            EventError("refused", "the broker refuses what this record becomes"), key=batch.keys[0],
            value=batch.values[0], topic=source.topic, partition=source.partition, offset=offset,
            append_time=batch.append_times[0], processor=self.name, headers=batch.headers_at(0),
        )  # fmt: skip
        letter = accepted.letters[0] if accepted.letters else refused
        key, value, headers = letter.without_content().to_record()
        claims = batch.partition not in self._stamped
        self.partitions[batch.partition].took(offset + 1, batch.append_times[0], claims=claims)
        record = Record(self._topics.dead_letters, -1, key, value, headers)
        return Outcome([record], {batch.partition: offset + 1}, (), 1, 1, news=[self._refused(letter)])

    def beat(self, now_ms: int) -> list[Record]:
        """See Stage: a tick for every partition of both clean logs when an hour has begun. The owner of the first
        source partition tells it; told twice it changes nothing."""
        hour = now_ms // HOUR_MS * HOUR_MS
        if 0 not in self.partitions or hour <= self._ticked:
            return []
        self._ticked = hour
        block = block_of([Tick(hour)], [now_ms], [0], [0], (f"{self.name}/0",))
        logs = [(self._topics.events(side), p) for side in SIDES for p in range(self._counts[side])]
        return [record for topic, p in logs for record in _records(block, topic, p)]

    def note(self, partition: int) -> str:
        """See Stage."""
        owned = self.partitions[partition]
        paused = 0 if self.guard is None else self.guard.since_ms(self._sources[partition].topic)
        return Note(owned.meta.as_of, owned.sets.nbytes, owned.sets.since, self.catalogue.nbytes, paused).encode()

    def _in_our_time(self, batch: PartitionBatch) -> PartitionBatch:
        """No record is from later than now: a producer with a wrong clock would have all identities forgotten."""
        if batch.partition not in self._stamped:
            return batch
        now = self._wall_ms()
        return replace(batch, append_times=[min(stamp, now) for stamp in batch.append_times])

    def _accept(self, batches: Sequence[PartitionBatch]) -> Accepted | None:
        if not batches:
            return None
        return self._acceptor.accept(batches, {b.partition: self.partitions[b.partition].sets for b in batches})

    def _newest(self, accepted: Accepted) -> list[Record]:
        """Updates that the catalogue is to have: as a publisher would write them, and keyed by their items."""
        rows = self.catalogue.take(accepted.fields, accepted.rows)
        topic = self._topics.catalogue
        return [Record(topic, -1, e.item.encode(), encode(e)) for e in updates_of(accepted.fields, rows)]

    def _told(self, accepted: Accepted, side: Side) -> list[Record]:
        topic, found = self._topics.events(side), self._acceptor.blocks(accepted, side, self._counts[side])
        return [record for p, blocks in found.items() for block in blocks for record in _records(block, topic, p)]

    def _refused(self, letter: DeadLetter) -> News:
        return later("dead_letter", stage=self.name, reason=letter.reason)

    def _tell_full(self, left_out: int) -> None:
        emit("catalogue_full", stage=self.name, items=left_out, memory=self.catalogue.nbytes)
        if not self._full:
            log.warning(
                "the catalogue has %d items in %d MB and takes no more: behaviours of others get no item attributes",
                len(self.catalogue), self.catalogue.nbytes >> 20,
            )  # fmt: skip
        self._full = True

    def _bound_memory(self) -> None:
        """Forget the hour that is oldest by its own source's log: one that lags has younger ones than it seems."""
        while sum(owned.sets.nbytes for owned in self.partitions.values()) > self._memory_bytes:
            partition, age = max(
                ((p, _age_h(owned)) for p, owned in self.partitions.items()), key=lambda found: found[1]
            )
            if age < 1:
                return  # this very hour: without it every event would be late
            sets = self.partitions[partition].sets
            since = ((sets.oldest or 0) + 1) * HOUR_MS
            sets.forget(since)
            log.warning(
                "identities take more than %d MB: events of %s from before %d (ms) are late from now on",
                self._memory_bytes >> 20, self._names[partition], since,
            )  # fmt: skip
            emit("forgotten", stage=self.name, partition=partition, since=since)


def _age_h(owned: OwnedSource) -> int:
    """How many hours before the newest record the oldest identity is; -1 without one."""
    oldest = owned.sets.oldest
    return -1 if oldest is None else owned.meta.newest_append // HOUR_MS - oldest


def _records(block: Block, topic: str, partition: int) -> list[Record]:
    return [Record(topic, partition, None, value, ((HEADER, header),)) for header, value in block.encode()]
