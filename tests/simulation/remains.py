"""What a run leaves behind, held against the naive fold of what was sent."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forebay.errors import EventError
from forebay.events import Behaviour, Event, Interaction, ItemUpdate, Tick, UserProfile, decode
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_id
from forebay.store.codec import HEARTBEAT_KEY, HELD, codec_of, unpack_heartbeat
from forebay.store.partitionstore import PartitionStore
from forebay.streams.deadletters import DeadLetter
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Write

from ..segments import naive

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True)
class Remains:
    """A log and the state folder of each (side, partition)'s last owner, and what they must hold: `sent` events, each
    once, and a letter for each place in `refused`."""

    log: MemoryLog
    topics: Topics
    generation: str
    owners: Mapping[tuple[Side, int], Path]
    sent: Collection[Event]
    refused: Collection[Place]

    def check(self, bundle: Bundle, encoders: Mapping[Side, SideEncoders]) -> None:
        """Raise AssertionError for the first thing that was lost, doubled or is not what the naive fold gives."""
        acted = {(e.user, e.time, e.id): e for e in self.sent if isinstance(e, Behaviour)}
        told = [e for e in self._decoded(self.topics.item_updates) if isinstance(e, Interaction)]
        _same("interactions", Counter((e.user, e.time, e.id) for e in told), Counter(acted.keys()))
        letters = [
            DeadLetter.from_record(r.key, r.value, r.headers) for r in self.log.records(self.topics.dead_letters, 0)
        ]
        _same("dead letters", Counter((d.topic, d.partition, d.offset) for d in letters), Counter(self.refused))
        events: dict[Side, tuple[list[naive.Behaving], list[naive.Updating]]] = {
            "user": (list(acted.values()), [e for e in self.sent if isinstance(e, UserProfile)]),
            "item": (list(told), [e for e in self.sent if isinstance(e, ItemUpdate)]),
        }
        for side in SIDES:
            self._check_side(bundle, encoders[side], side, *events[side])

    def _check_side(
        self,
        bundle: Bundle,
        encoders: SideEncoders,
        side: Side,
        acted: list[naive.Behaving],
        told: list[naive.Updating],
    ) -> None:
        layout, codec, emitted, seen = bundle.layouts[side], codec_of(bundle, side), self._emitted(side), set()
        for partition in range(self.log.partitions(self.topics.source(side))):
            clock = max(self._ticks(side, partition), default=0)
            with PartitionStore.open(self.owners[side, partition] / f"{side}-{partition}", create=False) as store:
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
        source = self.topics.source(side)
        done = self.log.group(self.topics.group(self.generation, side), source).offsets.get(partition, 0)
        found = []
        for record in self.log.records(source, partition, end=done):  # the last commit may have brought another one
            try:
                event = decode(record.value or b"")
            except EventError:
                continue
            if isinstance(event, Tick):
                found.append(event.time)
        return found

    def _decoded(self, topic: str) -> list[Event]:
        records = [r for p in range(self.log.partitions(topic)) for r in self.log.records(topic, p)]
        return [decode(record.value or b"") for record in records]


def check_claims(log: MemoryLog, write: Write) -> None:
    """Raise AssertionError where a heartbeat of `write`, which has just landed, claims more than what is committed: all
    that was appended before its moment."""
    for sent in write.records:
        if sent.key != HEARTBEAT_KEY:
            continue
        assert sent.value is not None
        source, as_of = write.member.group.topic, unpack_heartbeat(sent.value)
        done = write.member.group.offsets.get(sent.partition, 0)
        left = [r.offset for r in log.records(source, sent.partition, done) if r.append_time < as_of]
        assert not left, f"{source}[{sent.partition}] says {as_of}, and {left} are not applied"


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
