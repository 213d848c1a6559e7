"""Topics of other people through an Intake on a real broker: into the clean log once, or a dead letter."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.clock import DAY_MS, now_ms
from forebay.errors import TopicMissing
from forebay.events import Behaviour, encode
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.librdkafka.notes import Notes

from .conftest import Taken, foreign

pytestmark = pytest.mark.broker
MAP = {"user": "who", "item": "what", "action": "did", "time": "ts"}


def _click(number: int, **more: Any) -> dict[str, Any]:
    return {"who": f"u{number}", "what": "i1", "did": "click", "ts": now_ms()} | more


def test_several_topics_become_events_beside_our_own(
    their_topic: Callable[..., str], taken: Callable[..., Taken], publish: Callable[..., None], topics: Topics,
    kafka: DevKafka,
) -> None:  # fmt: skip
    """Each in its format; what is none is a dead letter with its own bytes, and a tombstone is one, too."""
    clicks, likes = their_topic("shop.clicks"), their_topic("likes", 1)
    ensure(kafka.bootstrap, topics, generation=None, partitions=2)
    ours, now = Behaviour("u0", "i1", "view", 1.0, now_ms(), "e0"), now_ms()
    publish(topics.behaviour, [(b"u0", encode(ours))])
    for name, write in ((clicks, msgspec.json.encode), (likes, msgspec.msgpack.encode)):
        publish(name, [(None, write(_click(n, ts=now))) for n in range(1, 4)], 0)
        publish(name, [(b"k", b"\xc1 no event"), (b"k", None)], 0)
    found = taken(foreign(clicks, format="json", map=MAP), foreign(likes, format="msgpack", map=MAP))
    expected = {f"{name}-0-{n - 1}": f"u{n}" for name in (clicks, likes) for n in range(1, 4)} | {"e0": "u0"}
    for side in (found.users, found.items):
        assert {e.id: e.user for e in side if isinstance(e, Behaviour)} == expected and len(side) == 7
    letters = {(d.topic, d.offset): (d.reason, d.value, d.key) for d in found.letters}
    assert letters == {
        (name, offset): (reason, value, b"k")
        for name in (clicks, likes)
        for offset, reason, value in ((3, "undecodable", b"\xc1 no event"), (4, "empty", None))
    }


def test_a_source_that_is_named_later_is_read_from_its_beginning(
    their_topic: Callable[..., str], taken: Callable[..., Taken], publish: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    """A running installation needs a restart for it, and nothing else; what was read before is not read again."""
    first, second = their_topic("first"), their_topic("second", 3)
    publish(first, [(None, msgspec.json.encode(_click(1, id="e1")))])
    publish(second, [(None, msgspec.json.encode(_click(n))) for n in range(2, 30)])
    one = foreign(first, format="json", map=MAP | {"id": "id"})
    assert [e.id for e in taken(one).users] == ["e1"]
    publish(first, [(None, msgspec.json.encode(_click(99)))])
    found = taken(foreign(second, format="json", map=MAP), one)
    assert {e.user for e in found.users if isinstance(e, Behaviour)} == {f"u{n}" for n in (*range(1, 30), 99)}
    assert len(found.users) == 30 and not found.letters
    stores = {path.name for path in (tmp_path / "intake").iterdir()}
    assert {f"{second}-0", f"{second}-1", f"{second}-2", f"{first}-0"} <= stores


def test_a_producers_clock_decides_no_more_than_its_own_record(
    their_topic: Callable[..., str], taken: Callable[..., Taken], topics: Topics, kafka: DevKafka
) -> None:
    """Its topic has the producers' times, as Kafka's are by default. One that is far ahead makes nobody else's event
    late, and claims nothing for the time to come."""
    from confluent_kafka import Producer

    name = their_topic("clicks", 1, **{"message.timestamp.after.max.ms": str(1 << 60)})
    producer, now = Producer({"bootstrap.servers": kafka.bootstrap}), now_ms()
    stamps = [now, now + 300 * DAY_MS, now]
    for number, stamp in enumerate(stamps):
        producer.produce(name, msgspec.json.encode(_click(number, ts=now - 1000)), timestamp=stamp)
    producer.flush(30)
    found = taken(foreign(name, format="json", map=MAP))
    assert [e.user for e in found.users if isinstance(e, Behaviour)] == ["u0", "u1", "u2"] and not found.letters
    notes = Notes(kafka.bootstrap, Topics(topics.prefix, (name,)))
    try:
        note = notes.read()[f"{name}/0"]
    finally:
        notes.close()
    assert note is not None and note.as_of <= time.time() * 1000


def test_a_topic_that_is_not_there_is_not_ours_to_make(
    taken: Callable[..., Taken], topics: Topics, kafka: DevKafka
) -> None:
    """The error says so, and nothing is joined."""
    with pytest.raises(TopicMissing, match=r"no topic .*nobodys") as raised:
        taken(foreign(f"{topics.prefix}nobodys", format="json", map=MAP))
    assert "topics create" not in raised.value.do and "[[source]]" in raised.value.do
