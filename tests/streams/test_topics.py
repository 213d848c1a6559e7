"""Topics: what is created has the settings that the guarantees rest on, and what has others is refused by name."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from forebay.errors import BrokerError, BrokerUnavailable, TopicMismatch, TopicMissing, UsageError
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, describe, ensure


def _create(kafka: DevKafka, name: str, partitions: int, **configs: Any) -> None:
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1, "configs": settings}})


def test_names_carry_the_prefix_the_generation_and_the_side() -> None:
    """One installation's names, as they are on the cluster."""
    names = Topics("shop.")
    assert (names.behaviour, names.item_updates, names.dead_letters) == (
        "shop.behaviour",
        "shop.item-updates",
        "shop.dead-letters",
    )
    assert names.catalogue == "shop.catalogue"
    assert names.vectors("g1", "user") == "shop.vectors.g1.user"
    assert names.sources == (names.behaviour, names.item_updates)
    assert (names.events("user"), names.events("item")) == ("shop.events.user", "shop.events.item")


@pytest.mark.parametrize("prefix", ["a b", "ü", "x" * 250, "a/"])
def test_a_prefix_that_kafka_refuses_is_a_usage_error(prefix: str) -> None:
    """Said before a broker is asked."""
    with pytest.raises(UsageError, match="cannot be the name of a topic"):
        Topics(prefix)


def test_a_side_is_user_or_item() -> None:
    """Anything else is a slip of the caller."""
    with pytest.raises(UsageError, match="'users' is no side"):
        Topics().vectors("g1", "users")


@pytest.mark.broker
def test_missing_topics_are_created_with_their_settings_once(kafka: DevKafka, topics: Topics) -> None:
    """Append times everywhere, equal partition counts, vectors and the catalogue compacted; the second call changes
    nothing."""
    first = ensure(kafka.bootstrap, topics, generation="g1", partitions=3)
    assert all(status.created for status in first)
    found = {status.info.name: status.info for status in first}
    assert {info.timestamp_type for info in found.values()} == {"LogAppendTime"}
    partitions = {name.removeprefix(topics.prefix): info.partitions for name, info in found.items()}
    assert partitions == {
        "behaviour": 3,
        "item-updates": 3,
        "events.user": 3,
        "events.item": 3,
        "catalogue": 3,
        "dead-letters": 1,
        "vectors.g1.user": 3,
        "vectors.g1.item": 3,
    }
    compacted = {name for name, info in found.items() if info.cleanup_policy == "compact"}
    assert compacted == {topics.catalogue, *(topics.vectors("g1", side) for side in ("user", "item"))}
    assert found[topics.behaviour].retention_ms == 7 * 86_400_000
    assert found[topics.dead_letters].retention_ms == 14 * 86_400_000
    second = ensure(kafka.bootstrap, topics, generation="g1", partitions=3)
    assert [status.info for status in second] == [status.info for status in first]
    assert not any(status.created for status in second)


@pytest.mark.broker
def test_only_what_is_missing_is_created(kafka: DevKafka, topics: Topics) -> None:
    """A later generation adds its two topics."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=2)
    second = ensure(kafka.bootstrap, topics, generation="g2", partitions=2)
    assert [status.info.name for status in second if status.created] == [
        topics.vectors("g2", "user"),
        topics.vectors("g2", "item"),
    ]


@pytest.mark.broker
def test_another_partition_count_is_refused_and_nothing_is_created(kafka: DevKafka, topics: Topics) -> None:
    """The error names the topic, both counts and the command."""
    _create(kafka, topics.events("item"), 5, message_timestamp_type="LogAppendTime")
    with pytest.raises(TopicMismatch, match=r"5 partitions, and 4 .*events.item.*forebay topics create --partitions 5"):
        ensure(kafka.bootstrap, topics, generation=None, partitions=4)
    with pytest.raises(TopicMissing, match=r"forebay topics create.* --prefix and --generation"):
        describe(kafka.bootstrap, [topics.events("user")])


@pytest.mark.broker
def test_a_source_may_have_any_number_of_partitions(kafka: DevKafka, topics: Topics) -> None:
    """The Intake partitions anew: what producers chose, or widened since, is as good as any other count."""
    _create(kafka, topics.behaviour, 5, message_timestamp_type="LogAppendTime")
    found = {status.info.name: status.info for status in ensure(kafka.bootstrap, topics, generation=None, partitions=2)}
    assert found[topics.behaviour].partitions == 5 and found[topics.events("user")].partitions == 2


@pytest.mark.broker
def test_a_producers_clock_is_refused_with_a_command_that_mends_it(kafka: DevKafka, topics: Topics) -> None:
    """CreateTime would make lateness a matter of each producer's clock; the named command works as it is printed."""
    _create(kafka, topics.behaviour, 2, message_timestamp_type="CreateTime")
    with pytest.raises(TopicMismatch, match=r"message\.timestamp\.type is CreateTime") as refused:
        ensure(kafka.bootstrap, topics, generation=None, partitions=2)
    command = refused.value.do.removeprefix("Run: python ").split()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    ensure(kafka.bootstrap, topics, generation=None, partitions=2)


@pytest.mark.broker
def test_a_recreated_topic_has_another_id(kafka: DevKafka, topics: Topics) -> None:
    """State built from the first one can tell."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=1)
    before = describe(kafka.bootstrap, [topics.behaviour])[topics.behaviour].topic_id
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.delete_topics([topics.behaviour])
    deadline = time.monotonic() + 10
    while True:  # the deletion is asynchronous: until it is through, the name is taken
        try:
            ensure(kafka.bootstrap, topics, generation=None, partitions=1)
            after = describe(kafka.bootstrap, [topics.behaviour])[topics.behaviour].topic_id
            if after != before:
                break
        except BrokerError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(before) == len(after) == 36


@pytest.mark.broker
def test_more_replicas_than_brokers_are_refused_in_the_brokers_words(kafka: DevKafka, topics: Topics) -> None:
    """One broker cannot keep three copies."""
    with pytest.raises(BrokerError, match=r"was not created: .*replication"):
        ensure(kafka.bootstrap, topics, generation=None, partitions=1, replication=3)


def test_an_unreachable_broker_is_said_at_once() -> None:
    """What, where and what to do, in one line."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as refused:
            describe(address, ["behaviour"])
        assert time.monotonic() - began < 1
    assert str(refused.value) == (
        f"no Kafka broker answers: Connection refused ({address}). "
        "Run: forebay kafka (or name your broker's address: --bootstrap)"
    )


def test_something_else_on_the_port_is_told_from_a_broker() -> None:
    """A listener that never answers costs five seconds, no thread and no socket."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="does not answer as Kafka does"):
            describe(f"127.0.0.1:{silent.getsockname()[1]}", ["behaviour"])
        assert time.monotonic() - began < 7
