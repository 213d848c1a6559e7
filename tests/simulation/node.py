"""A serving node in the simulated world: it follows the vectors topics into a ServingCopy, crashes and comes back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import HEARTBEAT_KEY, unpack_heartbeat
from forebay.store.generation import Generation
from forebay.store.servingcopy import ServingCopy
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog


class Lost(Exception):
    """The node's process is gone, between its store and its tables."""


class Node:
    """What a replica does, without Kafka."""

    def __init__(self, bundle: Bundle, generation: Generation, topics: Topics, log: MemoryLog, folder: Path) -> None:
        self._bundle, self._generation, self._topics, self._log = bundle, generation, topics, log
        self._folder = folder
        self.copy = self._opened()

    def turn(self, pick: random.Random, most: int) -> bool:
        """Read up to so many records of each partition; whether there were any. Sometimes the process ends in the
        middle of it, and another one begins."""
        found, offsets = False, self.copy.offsets()
        for side in SIDES:
            for partition in range(self._generation.partitions[side]):
                start = offsets.get((self._topic(side), partition), 0)
                found |= self._read(side, partition, start, most, lost=pick.random() < 0.05)
        return found

    def lose(self) -> None:
        """kill -9."""
        self.copy.close()
        self.copy = self._opened()

    def check(self) -> None:
        """Raise AssertionError unless readers see the newest record of every entity, and nothing of any other."""
        for side in SIDES:
            newest = {}
            for partition in range(self._generation.partitions[side]):
                for record in self._log.records(self._topic(side), partition):
                    if record.key != HEARTBEAT_KEY:
                        assert record.key is not None
                        newest[record.key.decode()] = record.value
            newest = {entity: value for entity, value in newest.items() if value is not None}
            ids, codec = sorted(newest), self.copy.codecs[side]
            assert self.copy.rows()[side] == len(ids), f"{side}s in the copy"
            if not ids:
                continue
            rows, _ = codec.unpack([newest[entity] for entity in ids])
            with self.copy.read(side, hash_ids(ids)) as reading:
                assert reading.names(np.arange(len(ids))) == ids, f"{side}s that the copy does not know"
                for place, entity in enumerate(ids):
                    codes = b"".join(part.codes for part in reading.stored(place))
                    row = rows[ids.index(entity)][None]
                    assert codes == codec.vectors(row).tobytes(), f"the vectors of {entity}, as they are served"
            if side == "item":
                assert len(
                    self.copy.search(np.zeros(codec.dim, np.float32), len(ids) + 5, np.empty(0, np.int64))
                ) == len(ids)

    def _read(self, side: Side, partition: int, start: int, most: int, *, lost: bool) -> bool:
        topic = self._topic(side)
        records = self._log.records(topic, partition, start)[:most]
        if not records:
            return False
        puts: dict[str, tuple[str, int, bytes]] = {}
        gone: dict[str, None] = {}
        marks: dict[int, int] = {}
        for record in records:
            assert record.key is not None
            entity = record.key.decode("utf-8", "replace")
            if record.key == HEARTBEAT_KEY:
                marks[partition] = unpack_heartbeat(record.value or b"")
            elif record.value is None:
                puts.pop(entity, None)
                gone[entity] = None
            else:
                gone.pop(entity, None)
                puts[entity] = (entity, partition, record.value)
        if lost:
            self.copy.show = self._ends  # type: ignore[method-assign]
        try:
            offsets = {(topic, partition): records[-1].offset + 1}
            self.copy.write(side, list(puts.values()), list(gone), marks, offsets)
        except Lost:
            self.lose()
        return True

    def _ends(self, *rest: object) -> None:
        raise Lost

    def _topic(self, side: Side) -> str:
        return self._topics.vectors(self._generation.name, side)

    def _opened(self) -> ServingCopy:
        copy = ServingCopy.open(self._bundle, self._generation, self._folder)
        copy.load()
        return copy
