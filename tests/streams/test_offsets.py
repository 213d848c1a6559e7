"""Where a partition begins and ends, asked of a real broker."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from forebay.errors import BrokerUnavailable
from forebay.streams.clients import asking_consumer
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics

pytestmark = pytest.mark.broker


def test_a_partition_that_came_after_the_first_question_is_found(kafka: DevKafka, topics: Topics) -> None:
    """Without it a client believes for minutes what it was told first, and a worker stood still for as long."""
    admin, topic = AdminClient({"bootstrap.servers": kafka.bootstrap}), f"{topics.prefix}grows"
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
    consumer = Consumer(asking_consumer(kafka.bootstrap, committed=False))
    try:
        assert bounds(consumer, topic, 0) == (0, 0)
        with pytest.raises(BrokerUnavailable, match="Unknown partition"):
            bounds(consumer, topic, 1, 0.5)
        admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
        assert bounds(consumer, topic, 1) == (0, 0)
    finally:
        consumer.close()
