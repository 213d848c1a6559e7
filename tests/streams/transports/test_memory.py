"""The memory transport keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forebay.clock import now_ms
from forebay.segments.spec import SIDES
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions

from .contract import PARTITIONS, TransportContract


class MemoryPlace:
    """A log in memory."""

    def __init__(self) -> None:
        self.topics, self._log = Topics("t."), MemoryLog(now_ms)
        vectors = [self.topics.vectors("g1", side) for side in SIDES]
        for topic in (self.topics.behaviour, self.topics.item_updates, *vectors):
            self._log.create(topic, PARTITIONS)
        self._log.create(self.topics.dead_letters, 1)

    def transport(self, slot: str = "0") -> MemoryTransport:
        return MemoryTransport(self._log, self.topics, "g1", "user", WorkerOptions(slot=slot), wall_ms=now_ms)

    def append(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self._log.append(Sent(self.topics.behaviour, partition, b"u1", value))

    def committed(self, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
        partitions = range(self._log.partitions(topic))
        return [(p, r.key, r.value) for p in partitions for r in self._log.records(topic, p)]

    def delete_before(self, partition: int, offset: int) -> None:
        self._log.delete_before(self.topics.behaviour, partition, offset)


class TestMemory(TransportContract):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        """An empty log."""
        return MemoryPlace()
