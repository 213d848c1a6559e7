"""What a run leaves behind, held against the naive fold of what was sent."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, decode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER, TICK
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_id
from forebay.store.codec import HEARTBEAT_KEY, HELD, codec_of, unpack_heartbeat
from forebay.store.partitionstore import PartitionStore
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.note import note_of
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import Group, MemoryLog, Stored, Write
from forebay.streams.worker.standing import Report

from ..segments import naive
from .joins import Name

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True)
class Remains:
    """A log, the store of each (side, partition) as its last owner left it and how far each side has come in its clean
    log; and what they must hold: `sent` events, each once, and a letter for each place in `refused`."""

    log: MemoryLog
    topics: Topics
    generation: str
    owners: Mapping[tuple[Side, int], Path]
    done: Mapping[Side, Mapping[int, int]]
    sent: Collection[Event]
    refused: Collection[Place]

    def check(self, bundle: Bundle, encoders: Mapping[Side, SideEncoders]) -> None:
        """Raise AssertionError for the first thing that was lost, doubled or is not what the naive fold gives."""
        acted = {(e.user, e.time, e.id): e for e in self.sent if isinstance(e, Behaviour)}
        told: dict[Side, list[Event]] = {
            "user": [e for e in self.sent if isinstance(e, UserProfile)],
            "item": [e for e in self.sent if isinstance(e, ItemUpdate)],
        }
        letters = [
            DeadLetter.from_record(r.key, r.value, r.headers) for r in self.log.records(self.topics.dead_letters, 0)
        ]
        _same("dead letters", Counter((d.topic, d.partition, d.offset) for d in letters), Counter(self.refused))
        joined: dict[Name, Behaviour] = {}  # with the item attributes that the Intake wrote
        for side in SIDES:
            clean = [e for block in self._blocks(side) for e in events_of(block)]
            counted = Counter((e.user, e.time, e.id) for e in clean if isinstance(e, Behaviour))
            _same(f"behaviours in the clean log of {side}", counted, Counter(acted.keys()))
            for event in clean:
                if isinstance(event, Behaviour):
                    name = (event.user, event.time, event.id)
                    assert _without(event, acted[name]) == acted[name], f"{event} is not what was sent"
                    assert joined.setdefault(name, event) == event, f"{event} is another one in the other clean log"
            updates = {e.id for e in clean if isinstance(e, UserProfile | ItemUpdate)}
            assert updates == {e.id for e in told[side]}, f"updates in the clean log of {side}"  # type: ignore[union-attr]
            self._check_side(bundle, encoders[side], side, list(joined.values()), told[side])  # type: ignore[arg-type]
        self._check_catalogue([e for e in self.sent if isinstance(e, ItemUpdate)])

    def _check_catalogue(self, updates: list[ItemUpdate]) -> None:
        """The last record of each item is its newest update."""
        topic, kept = self.topics.catalogue, {}
        for partition in range(self.log.partitions(topic)):
            for record in self.log.records(topic, partition):
                assert record.key is not None and record.value is not None
                kept[record.key.decode()] = decode(record.value)
        newest = {e.item: e for e in sorted(updates, key=naive.order_of)}
        assert kept == newest, f"the catalogue has {kept}, and not {newest}"

    def _check_side(
        self,
        bundle: Bundle,
        encoders: SideEncoders,
        side: Side,
        acted: list[Behaviour],
        told: list[naive.Updating],
    ) -> None:
        layout, codec, emitted, seen = bundle.layouts[side], codec_of(bundle, side), self._emitted(side), set()
        for partition in range(self.log.partitions(self.topics.events(side))):
            clock = max(self._ticks(side, partition), default=0)
            with PartitionStore.open(self.owners[side, partition], create=False) as store:
                meta, kept = store.meta(), dict(store.scan())
            assert meta is not None and meta.clock == clock, f"the clock of {side} {partition}"
            for name, stored in kept.items():
                entity = name.decode()
                seen.add(entity)
                row = naive.row(
                    bundle.spec, layout, [e for e in acted if getattr(e, side) == entity],
                    [e for e in told if getattr(e, side) == entity], clock,
                )  # fmt: skip
                assert (layout.unpack(stored.state) == row).all(), f"the state of {entity}"
                sent, _ = codec.unpack([emitted[entity]])
                for place, segment in enumerate(codec.segments):
                    made = encoders.encode(place, row[None], np.array([hash_id(entity)]))
                    for where, rows in (("stored", np.frombuffer(stored.vectors, codec.dtype)), ("sent", sent)):
                        part = rows["segments"][segment.name]
                        assert not part["flags"][0] & HELD
                        assert (part["vector"][0] == made.vectors[0]).all(), f"{segment.name} of {entity}, as {where}"
        _same(f"{side}s", Counter(seen), Counter({getattr(e, side) for e in [*acted, *told]}))
        _same(f"{side}s with vectors", Counter(emitted.keys()), Counter(seen))

    def _emitted(self, side: Side) -> dict[str, bytes]:
        """The newest record of each entity."""
        topic, found = self.topics.vectors(self.generation, side), {}
        for partition in range(self.log.partitions(topic)):
            for record in self.log.records(topic, partition):
                if record.key != HEARTBEAT_KEY:
                    assert record.key is not None and record.value is not None
                    found[record.key.decode()] = record.value
        return found

    def _ticks(self, side: Side, partition: int) -> list[int]:
        topic, done = self.topics.events(side), self.done[side].get(partition, 0)
        # To there: the last commit of an Intake may have brought another one.
        blocks = [_block(r) for r in self.log.records(topic, partition, end=done)]
        return [int(t) for b in blocks for t in b.numbers("time")[b.numbers("kind") == TICK]]

    def _blocks(self, side: Side) -> list[Block]:
        topic = self.topics.events(side)
        return [_block(r) for p in range(self.log.partitions(topic)) for r in self.log.records(topic, p)]


def check_claims(log: MemoryLog, topics: Topics, generation: str, intake: Group, write: Write) -> None:
    """Raise AssertionError where `write`, which has just landed, claims more than what is committed.

    A note of the Intake claims that all that its source took before a moment is accepted or refused. A heartbeat claims
    the same of every source, and that no event of it is left in the clean log.
    """
    sources = [(topic, p) for topic in topics.sources for p in range(log.partitions(topic))]
    if write.member.group is intake:
        for number, text in write.notes.items():
            note = note_of(text)
            assert note is not None
            _nothing_before(note.as_of, log, sources[number], write.offsets[number], "its note")
    sides = {topics.vectors(generation, side): side for side in SIDES}
    for sent in write.records:
        if sent.key != HEARTBEAT_KEY:
            continue
        assert sent.value is not None
        as_of, side = unpack_heartbeat(sent.value), sides[sent.topic]
        what = f"a heartbeat of {side}[{sent.partition}]"
        for number, source in enumerate(sources):
            _nothing_before(as_of, log, source, intake.offsets.get(number, 0), what)
        done = write.member.group.offsets.get(sent.partition, 0)
        for record in log.records(topics.events(side), sent.partition, done):
            block = _block(record)
            events = block.numbers("append")[block.numbers("kind") != TICK]
            assert (events >= as_of).all(), f"{what} says {as_of}, and {record.offset} is not folded"


def check_ages(log: MemoryLog, report: Report) -> None:
    """Raise AssertionError where a worker says that what waits is younger than it is."""
    for standing in report.partitions.values():
        source, what = standing.source[:2], f"the {report.stage} worker"
        _nothing_before(standing.since, log, source, standing.progress.committed, what)


def _nothing_before(as_of: int, log: MemoryLog, source: tuple[str, int], done: int, what: str) -> None:
    left = [r.offset for r in log.records(*source, done) if r.append_time < as_of]
    assert not left, f"{what} says {as_of}, and {left} of {source} are not accepted"


def _without(event: Behaviour, sent: Behaviour) -> Behaviour:
    """`event` without item attributes, where it was sent without any."""
    return event if sent.item_attributes else msgspec.structs.replace(event, item_attributes={})


def _block(record: Stored) -> Block:
    return Block.decode(dict(record.headers)[HEADER], record.value or b"")


def digest(log: MemoryLog, topics: Collection[str]) -> str:
    """A hash over topics."""
    found = hashlib.sha256()
    for topic in topics:
        for partition in range(log.partitions(topic)):
            found.update(repr(log.records(topic, partition)).encode())
    return found.hexdigest()


def _same(what: str, have: Counter[Any], wanted: Counter[Any]) -> None:
    assert have == wanted, (
        f"{what}: {(have - wanted).total()} too many, {(wanted - have).total()} missing"  # a difference of bags
    )
