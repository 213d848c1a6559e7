"""The publisher: what it takes arrives once, in its place and in order, or comes back."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import BrokerUnavailable, ConfigError, EventError, PublishError, TopicMissing, UsageError
from forebay.events import Behaviour, Event, ItemUpdate, Tick, UserProfile, decode, encode, stamped
from forebay.streams.connection import connected, kafka_python
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics, ensure

PARTITIONS = 4
pytestmark = pytest.mark.broker


@pytest.fixture
def there(kafka: DevKafka, topics: Topics) -> Topics:
    """Topics that exist."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=PARTITIONS)
    return topics


def _records(bootstrap: str, topic: str) -> list[Any]:
    """Everything in a topic, by partition and offset."""
    kafka = kafka_python()
    consumer = connected("KafkaConsumer", bootstrap, group_id=None, enable_auto_commit=False)
    try:
        places = [kafka.TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        end = consumer.end_offsets(places)
        found: list[Any] = []
        while any(consumer.position(place) < end[place] for place in places):
            for records in consumer.poll(timeout_ms=500).values():
                found.extend(records)
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def _events(bootstrap: str, topic: str) -> list[Event]:
    return [decode(record.value) for record in _records(bootstrap, topic)]


def _clicks(count: int) -> list[Behaviour]:
    return [stamped(Behaviour(user=f"u{number % 97}", item=f"i{number}", action="click")) for number in range(count)]


def test_each_kind_of_event_goes_to_its_topic_under_its_entitys_key(kafka: DevKafka, there: Topics) -> None:
    """Behaviour and profiles by user, item updates by item; absent ids and times are filled."""
    with EventPublisher(kafka.bootstrap, topics=there) as events:
        events.send(Behaviour(user="ü1", item="i1", action="play"))
        events.send(UserProfile(user="ü1", attributes={"age": 33.0}))
        events.send(ItemUpdate(item="i1", attributes={"genres": ["noir"]}))
    behaviour, items = (_records(kafka.bootstrap, topic) for topic in (there.behaviour, there.item_updates))
    assert [record.key for record in behaviour] == ["ü1".encode()] * 2
    assert [record.key for record in items] == [b"i1"]
    first = decode(behaviour[0].value)
    assert isinstance(first, Behaviour) and first.id and first.time
    assert isinstance(decode(behaviour[1].value), UserProfile)


def test_leaving_the_block_flushes(kafka: DevKafka, there: Topics) -> None:
    """With a linger of a minute nothing would have left by itself."""
    sent = _clicks(10)
    with EventPublisher(kafka.bootstrap, topics=there, linger_ms=60_000, timeout_s=150) as events:
        for event in sent:
            events.send(event)
        assert (events.sent, events.acknowledged) == (10, 0)
    assert events.acknowledged == 10
    arrived = _events(kafka.bootstrap, there.behaviour)
    assert sorted(map(encode, arrived)) == sorted(map(encode, sent))


def test_an_error_in_the_block_still_flushes_what_was_sent(kafka: DevKafka, there: Topics) -> None:
    """send() took the event: an error of the caller's does not take it back."""
    with (
        pytest.raises(KeyError),
        EventPublisher(kafka.bootstrap, topics=there, linger_ms=60_000, timeout_s=150) as events,
    ):
        events.send(Behaviour(user="u", item="i", action="click"))
        raise KeyError
    assert len(_events(kafka.bootstrap, there.behaviour)) == 1


def test_keys_are_placed_by_murmur2_exactly_as_kafka_python_does_by_default(kafka: DevKafka, there: Topics) -> None:
    """The cached partitioner and the library's own put every key on the same partition."""
    users = [f"u{number}" for number in range(300)] + ["ü", "日本", "x" * 256, "🎬7", "a", "ab", "abc"]
    with EventPublisher(kafka.bootstrap, topics=there) as events:
        for user in users:
            events.send(Behaviour(user=user, item="i", action="click"))
    ours = {record.key: record.partition for record in _records(kafka.bootstrap, there.behaviour)}
    default = connected("KafkaProducer", kafka.bootstrap)
    futures = {user.encode(): default.send(there.item_updates, key=user.encode(), value=b"") for user in users}
    default.flush()
    theirs = {key: future.get().partition for key, future in futures.items()}
    default.close()
    assert ours == theirs
    assert set(ours.values()) == set(range(PARTITIONS))


def test_one_users_events_keep_their_order(kafka: DevKafka, there: Topics) -> None:
    """Sending order within a key is the order in the log."""
    with EventPublisher(kafka.bootstrap, topics=there, linger_ms=0) as events:
        for number in range(2000):
            events.send(Behaviour(user=f"u{number % 3}", item=f"i{number}", action="click"))
    seen: dict[str, list[int]] = {}
    for event in _events(kafka.bootstrap, there.behaviour):
        assert isinstance(event, Behaviour)
        seen.setdefault(event.user, []).append(int(event.item[1:]))
    assert seen == {f"u{user}": list(range(user, 2000, 3)) for user in range(3)}


def test_enrich_fills_only_absent_item_attributes(kafka: DevKafka, there: Topics) -> None:
    """Attributes that the event brings are the item's as they were then."""
    catalogue = {"i1": {"genre": "noir"}}
    with EventPublisher(kafka.bootstrap, topics=there, enrich=catalogue) as events:  # type: ignore[arg-type]
        events.send(Behaviour(user="u", item="i1", action="play"))
        events.send(Behaviour(user="u", item="i1", action="play", item_attributes={"genre": "crime"}))
        events.send(Behaviour(user="u", item="i2", action="play"))
    arrived = [event.item_attributes for event in _events(kafka.bootstrap, there.behaviour)]  # type: ignore[union-attr]
    assert arrived == [{"genre": "noir"}, {"genre": "crime"}, {}]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Behaviour(user="", item="i", action="play"), "bad_id"),
        (Behaviour(user="u", item="i\n", action="play"), "bad_id"),
        (Behaviour(user="u", item="\ud800", action="play"), "bad_id"),
        (Behaviour(user="u", item="i", action="play", value=float("nan")), "bad_value"),
        (Behaviour(user="u", item="i", action="play", time=-1), "bad_time"),
        (Behaviour(user=5, item="i", action="play"), "undecodable"),  # type: ignore[arg-type]
        (Behaviour(user="u", item="i", action=None), "undecodable"),  # type: ignore[arg-type]
        (Behaviour(user="u", item="i", action="\ud800"), "undecodable"),
        (ItemUpdate(item="i", attributes={"price": float("nan")}), "undecodable"),
        (ItemUpdate(item="i", attributes={"text": "x" * 70_000}), "too_large"),
    ],
)
def test_what_no_worker_could_take_is_refused_before_it_is_sent(
    kafka: DevKafka, there: Topics, event: Any, reason: str
) -> None:
    """An EventError with the reason that its dead letter would carry; the publisher goes on."""
    with EventPublisher(kafka.bootstrap, topics=there) as events:
        with pytest.raises(EventError) as refused:
            events.send(event)
        assert refused.value.reason == reason
        assert events.sent == 0
        events.send(Behaviour(user="u", item="i", action="play"))
    assert events.acknowledged == 1


def test_what_is_no_event_to_publish_is_a_usage_error(kafka: DevKafka, there: Topics) -> None:
    """Ticks are the Intake's to send."""
    with EventPublisher(kafka.bootstrap, topics=there) as events:
        wrong: Any = Tick(3_600_000)
        with pytest.raises(UsageError, match="Tick is not an event to publish"):
            events.send(wrong)
    with pytest.raises(UsageError, match="closed"):
        events.send(Behaviour(user="u", item="i", action="play"))


def test_a_missing_topic_is_said_by_name(kafka: DevKafka, topics: Topics) -> None:
    """Topics are never created by sending to them."""
    with (
        EventPublisher(kafka.bootstrap, topics=topics, timeout_s=1) as events,
        pytest.raises(TopicMissing, match=f'no topic "{topics.behaviour}" .*Run: forebay topics create'),
    ):
        events.send(Behaviour(user="u", item="i", action="play"))


def test_memory_is_bounded_by_waiting_for_acknowledgements(kafka: DevKafka, there: Topics) -> None:
    """What is acknowledged is released; what is not never exceeds the limit."""
    limit = 50_000
    with EventPublisher(kafka.bootstrap, topics=there, max_memory_bytes=limit) as events:
        for event in _clicks(2000):
            events.send(event)
            assert events._pending_bytes <= limit
        events.flush()
        assert not events._pending and events._pending_bytes == 0
        assert events.acknowledged == 2000


def test_threads_may_share_one_publisher(kafka: DevKafka, there: Topics) -> None:
    """Four threads that send and flush as they like: everything arrives once."""
    with EventPublisher(kafka.bootstrap, topics=there) as events:

        def work(name: int) -> None:
            for number in range(500):
                events.send(Behaviour(user=f"u{name}", item=f"i{number}", action="click"))
                if number % 100 == 0:
                    events.flush()

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert events.sent == events.acknowledged == 2000
    assert len({event.id for event in _events(kafka.bootstrap, there.behaviour)}) == 2000  # type: ignore[union-attr]


@pytest.fixture
def mortal(tmp_path: Path, topics: Topics) -> Iterator[DevKafka]:
    """A broker that a test may kill, with topics."""
    with DevKafka(tmp_path) as broker:
        ensure(broker.bootstrap, topics, generation=None, partitions=PARTITIONS)
        yield broker


def test_a_broker_killed_while_sending_leaves_exactly_the_unacknowledged_events(
    mortal: DevKafka, topics: Topics
) -> None:
    """Acknowledged and handed back are disjoint, together all that was sent, in sending order; none acknowledged is
    lost."""
    sent = _clicks(3000)
    publisher = EventPublisher(mortal.bootstrap, topics=topics, timeout_s=2)
    for event in sent[:2000]:
        publisher.send(event)
    publisher.flush()
    for event in sent[2000:2500]:
        publisher.send(event)
    mortal.kill()
    with pytest.raises(PublishError) as lost:
        for event in sent[2500:]:
            publisher.send(event)
        publisher.close()
    handed_back = lost.value.events
    assert _in_order(handed_back, sent)
    assert publisher.acknowledged + len(handed_back) == publisher.sent == 3000
    assert len(handed_back) >= 500  # those after the kill cannot have arrived
    assert str(lost.value).startswith(f"{len(handed_back)} events were not acknowledged")
    publisher.close()
    mortal.start()
    arrived = {event.id for event in _events(mortal.bootstrap, topics.behaviour)}  # type: ignore[union-attr]
    kept = {event.id for event in sent} - {event.id for event in handed_back}  # type: ignore[attr-defined]
    assert kept <= arrived


def _in_order(part: list[Any], whole: list[Any]) -> bool:
    rest = iter(whole)
    return all(any(event == other for other in rest) for event in part)


def test_a_send_after_a_loss_hands_everything_back_with_its_own_event_last(mortal: DevKafka, topics: Topics) -> None:
    """Nothing is handed back twice, and the publisher can be used again when the broker is back."""
    sent = _clicks(20)
    with EventPublisher(mortal.bootstrap, topics=topics, timeout_s=1) as publisher:
        publisher.send(sent[0])
        publisher.flush()
        mortal.kill()
        for event in sent[1:10]:
            publisher.send(event)
        while not publisher._failed:
            publisher._settle()
        with pytest.raises(PublishError) as lost:
            publisher.send(sent[10])
        assert lost.value.events == sent[1:11]
        assert publisher._producer is None  # else it would go on trying to send what it handed back
        mortal.start()
        for event in lost.value.events:
            publisher.send(event)  # type: ignore[arg-type]
        publisher.flush()
        assert publisher.acknowledged == 11
    arrived = [event.id for event in _events(mortal.bootstrap, topics.behaviour)]  # type: ignore[union-attr]
    assert sorted(map(str, arrived)) == sorted(str(event.id) for event in sent[:11])


def test_a_broker_that_comes_back_in_time_loses_and_doubles_nothing(mortal: DevKafka, topics: Topics) -> None:
    """kill -9 and a restart in the middle: idempotent retries, no error, each event once."""
    sent = _clicks(3000)
    with EventPublisher(mortal.bootstrap, topics=topics, timeout_s=40) as publisher:
        for event in sent[:1500]:
            publisher.send(event)
        mortal.kill()
        mortal.start()
        for event in sent[1500:]:
            publisher.send(event)
    assert publisher.acknowledged == 3000
    arrived = [event.id for event in _events(mortal.bootstrap, topics.behaviour)]  # type: ignore[union-attr]
    assert sorted(map(str, arrived)) == sorted(str(event.id) for event in sent)


def test_an_unreachable_broker_is_said_at_once_in_one_line() -> None:
    """In the constructor, without a log line from the library."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(
            BrokerUnavailable, match=r"^no Kafka broker answers: Connection refused .* Run: forebay kafka"
        ):
            EventPublisher(f"127.0.0.1:{unused.getsockname()[1]}")


def test_settings_that_break_the_promise_are_refused(kafka: DevKafka) -> None:
    """acks=1 and idempotence do not go together, and a slip in a name is not ignored."""
    with pytest.raises(ConfigError, match="see enable_idempotence, acks"):
        EventPublisher(kafka.bootstrap, acks=1)
    with pytest.raises(ConfigError, match="lingerms"):
        EventPublisher(kafka.bootstrap, lingerms=1)
    with pytest.raises(UsageError, match=r"timeout_s 0\.5"):
        EventPublisher(kafka.bootstrap, timeout_s=0.5)


def test_a_producer_needs_kafka_python_and_msgspec_only() -> None:
    """Importing and making a publisher loads no numpy, torch, confluent-kafka, segments or store."""
    program = (
        "import sys; from forebay import EventPublisher\n"
        "from forebay.streams.connection import kafka_python; kafka_python()\n"
        "heavy = {'numpy', 'torch', 'numba', 'confluent_kafka', 'rocksdict', 'forebay.segments', 'forebay.store'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    path = next(entry for entry in sys.path if entry.endswith("src"))
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": path}, check=False
    )
    assert said.stdout.strip() == "[]", said.stderr


def test_random_sizes_and_users_arrive_byte_for_byte(kafka: DevKafka, there: Topics) -> None:
    """From a few bytes to near the limit, mixed: what was encoded is what is read."""
    dice = random.Random(7)
    sent = [
        stamped(
            UserProfile(user=f"u{dice.randrange(50)}", attributes={"bio": "é" * dice.choice([0, 10, 1000, 25_000])})
        )
        for _ in range(300)
    ]
    with EventPublisher(kafka.bootstrap, topics=there) as events:
        for event in sent:
            events.send(event)
    arrived = [record.value for record in _records(kafka.bootstrap, there.behaviour)]
    assert sorted(arrived) == sorted(map(encode, sent))
