"""The memory transport keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forebay.clock import now_ms
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions

from .contract import PARTITIONS, TransportContract


class MemoryPlace:
    """A log in memory."""

    def __init__(self) -> None:
        self.topics, self.moment, self._log = Topics("t."), 0, MemoryLog(now_ms)
        self._sources = {self.topics.behaviour: PARTITIONS, self.topics.item_updates: 1}
        for topic, count in {
            **self._sources,
            self.topics.vectors("g1", "user"): 2,
            self.topics.dead_letters: 1,
        }.items():
            self._log.create(topic, count)
        self._numbered = [(topic, p) for topic, count in self._sources.items() for p in range(count)]

    def transport(self, slot: str = "0") -> MemoryTransport:
        options = WorkerOptions(slot=slot)
        return MemoryTransport(self._log, list(self._sources), "group", options, moment=lambda: self.moment)

    def append(self, partition: int, values: Sequence[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        for value in values:
            self._log.append(Sent(*self._numbered[partition], b"u1", value, headers))

    def committed(self, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
        partitions = range(self._log.partitions(topic))
        return [(p, r.key, r.value) for p in partitions for r in self._log.records(topic, p)]

    def notes(self) -> dict[int, str | None]:
        return dict(self._log.group("group", len(self._numbered)).notes)

    def delete_before(self, partition: int, offset: int) -> None:
        self._log.delete_before(*self._numbered[partition], offset)


class TestMemory(TransportContract):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        """An empty log."""
        return MemoryPlace()
