"""The librdkafka transport keeps the contract, on a real broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions

from .contract import PARTITIONS, TransportContract

pytestmark = pytest.mark.broker


class KafkaPlace:
    """Topics of their own on the run's broker."""

    def __init__(
        self, kafka: DevKafka, topics: Topics, publish: Callable[..., None], read: Callable[..., list[Any]]
    ) -> None:
        self.topics, self._kafka, self._publish, self._read = topics, kafka, publish, read
        ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)

    def transport(self, slot: str = "0") -> LibrdkafkaTransport:
        options = WorkerOptions(slot=slot, heartbeat_interval_s=0.2, session_timeout_ms=3000)
        return LibrdkafkaTransport(self._kafka.bootstrap, self.topics, "g1", "user", PARTITIONS, options)

    def append(self, partition: int, values: Sequence[bytes]) -> None:
        self._publish(self.topics.behaviour, [(b"u1", value) for value in values], partition)

    def committed(self, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
        partitions = range(1 if topic == self.topics.dead_letters else PARTITIONS)
        return [(m.partition(), m.key(), m.value()) for m in self._read(topic, dict.fromkeys(partitions, 0))]

    def delete_before(self, partition: int, offset: int) -> None:
        from kafka import TopicPartition

        with connected("KafkaAdminClient", self._kafka.bootstrap) as admin:
            admin.delete_records({TopicPartition(self.topics.behaviour, partition): offset})


class TestLibrdkafka(TransportContract):
    @pytest.fixture
    def place(
        self, kafka: DevKafka, topics: Topics, publish: Callable[..., None], read: Callable[..., list[Any]]
    ) -> KafkaPlace:
        """Empty topics."""
        return KafkaPlace(kafka, topics, publish, read)
