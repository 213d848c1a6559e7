"""The memory transport keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forebay.clock import now_ms
from forebay.errors import BrokerUnavailable
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions

from .contract import PARTITIONS, Taking, TransportContract


class MemoryPlace:
    """A log in memory."""

    def __init__(self) -> None:
        self.topics, self.moment, self.log = Topics("t."), 0, MemoryLog(now_ms)
        self._sources = {self.topics.behaviour: PARTITIONS, self.topics.item_updates: 1}
        for topic, count in {
            **self._sources,
            self.topics.catalogue: 2,
            self.topics.vectors("g1", "user"): 2,
            self.topics.dead_letters: 1,
        }.items():
            self.log.create(topic, count)
        self._numbered = [(topic, p) for topic, count in self._sources.items() for p in range(count)]

    def transport(self, slot: str = "0", *, follows: bool = True) -> MemoryTransport:
        options, followed = WorkerOptions(slot=slot), self.topics.catalogue if follows else None
        return MemoryTransport(
            self.log, list(self._sources), "group", options, moment=lambda: self.moment, follows=followed
        )

    def append(self, partition: int, values: Sequence[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        for value in values:
            self.log.append(Sent(*self._numbered[partition], b"u1", value, headers))

    def committed(self, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
        partitions = range(self.log.partitions(topic))
        return [(p, r.key, r.value) for p in partitions for r in self.log.records(topic, p)]

    def notes(self) -> dict[int, str | None]:
        return dict(self.log.group("group", len(self._numbered)).notes)

    def delete_before(self, partition: int, offset: int) -> None:
        self.log.delete_before(*self._numbered[partition], offset)


class TestMemory(TransportContract):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        """An empty log."""
        return MemoryPlace()

    def test_a_broker_that_is_away_is_not_the_end_of_a_topic(self, place: MemoryPlace, taking: Taking) -> None:
        """Nobody goes on with half of what is known."""
        transport = taking.owning()
        place.log.up = False
        with pytest.raises(BrokerUnavailable):
            list(transport.catch_up(taking.stop))
