"""The main job as its three users meet it: publish, and the ranking moves; nothing else moves it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from forebay.errors import GenerationUnavailable
from forebay.events import Behaviour
from forebay.streams import deadletters
from forebay.streams.connection import connected
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

from .conftest import Installation

ITEMS = [f"i{n}" for n in range(60)]


def _now() -> int:
    return time.time_ns() // 1_000_000


def _scores(installation: Installation, user: str) -> dict[str, float]:
    return {hit.item: hit.score for hit in installation.client.rank(user, ITEMS, k=60)}


def test_the_ranking_changes_after_the_events_and_only_then(installation: Installation) -> None:
    """Scores stand still while nothing is published, and move once five ratings of the user went through Kafka and the
    worker."""
    before, others = _scores(installation, "u1"), _scores(installation, "u2")
    beat = installation.client.entity("user", "u1").segments["recent"].freshness.as_of or 0
    # Two heartbeats later the worker and the server were at work all the while, and nothing moved.
    installation.until(
        lambda: (installation.client.entity("user", "u1").segments["recent"].freshness.as_of or 0) > beat + 1500
    )
    assert _scores(installation, "u1") == before

    newest = _now()
    with EventPublisher(installation.kafka.bootstrap, topics=Topics(installation.prefix)) as events:
        for n in range(5):
            events.send(Behaviour("u1", f"i{n * 4}", "rate", 5.0, newest + n, None, {"genres": ["Action"]}))
    installation.until(lambda: installation.saw("u1", newest + 4))
    after = _scores(installation, "u1")
    assert after != before
    # Another user's scores stand still, but for the items that were rated: theirs follow at a time of their own.
    rated = {f"i{n * 4}" for n in range(5)}
    assert {i: s for i, s in _scores(installation, "u2").items() if i not in rated} == {
        i: s for i, s in others.items() if i not in rated
    }


def test_answers_tell_how_current_each_segment_is(installation: Installation) -> None:
    """Both times of every segment of both sides, and the generation, are in the answer."""
    top = installation.client.rank("u3", ITEMS, k=5)
    assert top.generation == "g1" and top.user_known
    assert list(top.segments) == ["profile", "recent", "taste", "affinity", "next"]
    assert list(top.item_segments) == ["id", "content", "stats", "affinity", "key", "pull"]
    recent = top.segments["recent"]
    assert recent.state == "fresh"
    assert recent.as_of is not None and recent.last_event is not None
    assert recent.last_event < recent.as_of <= _now()


def test_unknown_ids_take_the_default_vectors_and_say_so(installation: Installation) -> None:
    """A user and an item that nobody has heard of are ranked, and flagged."""
    top = installation.client.rank("stranger", ["i1", "no such film"], k=2)
    assert not top.user_known
    assert {s.state for s in top.segments.values()} == {"missing"}
    assert {hit.item: hit.known for hit in top} == {"i1": True, "no such film": False}


def test_a_generation_that_is_not_served_is_an_error(installation: Installation) -> None:
    """Never another one in its place."""
    with pytest.raises(GenerationUnavailable, match="g2"):
        installation.client.rank("u1", ITEMS, generation="g2")


def test_bad_records_become_dead_letters_and_the_worker_goes_on(installation: Installation) -> None:
    """Bytes that are no event are kept as they were, with the reason, and the next good event is served."""
    topics = Topics(installation.prefix)
    with connected("KafkaProducer", installation.kafka.bootstrap) as producer:
        for value in (b"{", b'{"type":"behaviour","user":"u4"}', b'{"type":"nonsense"}', b'"' + b"x" * 70_000 + b'"'):
            producer.send(topics.behaviour, key=b"u4", value=value)
        late = b'{"type":"behaviour","user":"u4","item":"i1","action":"rate","value":5,"time":1000,"id":"x"}'
        producer.send(topics.behaviour, key=b"u4", value=late)
        producer.flush()
    newest = _now()
    with EventPublisher(installation.kafka.bootstrap, topics=topics) as events:
        events.send(Behaviour("u4", "i1", "rate", 5.0, newest))
    installation.until(lambda: installation.saw("u4", newest))
    letters = deadletters.read(installation.kafka.bootstrap, topics)
    assert [le.reason for le in letters] == ["undecodable", "undecodable", "undecodable", "too_large", "late"]
    assert letters[0].value == b"{" and letters[-1].value == late
    assert all(le.key == b"u4" and le.topic == topics.behaviour for le in letters)
    # The first refusals are told of with the worker's next step, those of a later batch a minute after.
    installation.until(
        lambda: re.search(r"records refused: \d[^.]* undecodable", installation.said("work")) is not None
    )
    told = json.loads(installation.forebay("deadletters", "list", "--json"))
    assert {r["reason"]: r["count"] for r in told} == {"undecodable": 3, "too_large": 1, "late": 1}
    assert late.decode() in installation.forebay(
        "deadletters", "show", f"{topics.behaviour}-{letters[-1].partition}-{letters[-1].offset}"
    )


def test_a_killed_server_answers_the_same_from_its_own_copy(installation: Installation) -> None:
    """kill -9 and a new start: the store and the topic's tail give the tables again."""
    before = _scores(installation, "u5")
    installation.kill("serve")
    installation.start("serve")
    installation.until(installation.is_ready)
    assert _scores(installation, "u5") == before


def test_a_killed_worker_goes_on_where_it_was(installation: Installation) -> None:
    """kill -9 and a new start: the next event is served, and nothing else changed but the item that it was of."""
    before = _scores(installation, "u6")
    installation.kill("work")
    installation.start("work")
    newest = _now()
    with EventPublisher(installation.kafka.bootstrap, topics=Topics(installation.prefix)) as events:
        events.send(Behaviour("u7", "i1", "rate", 5.0, newest))
    installation.until(lambda: installation.saw("u7", newest))
    after = _scores(installation, "u6")
    assert {i: s for i, s in after.items() if i != "i1"} == {i: s for i, s in before.items() if i != "i1"}


def test_lookup_shows_an_entity_to_people_and_to_programs(installation: Installation) -> None:
    """A table with each segment's state, and the same as JSON."""
    installation.until(installation.is_current)
    shown = installation.forebay("lookup", "user:u8", "-k", "3")
    assert "recent" in shown and "fresh" in shown
    data = json.loads(installation.forebay("lookup", "user:u8", "-k", "3", "--json"))
    assert data["entity"]["known"] and len(data["ranking"]["hits"]) == 3


def test_doctor_finds_nothing_wrong_but_the_dead_letters(installation: Installation) -> None:
    """Every check runs against the living installation."""
    installation.until(installation.is_current)
    checks = {c["name"]: c for c in json.loads(installation.forebay("doctor", "--json", code=1))}
    assert {name for name, c in checks.items() if not c["ok"]} == {"dead letters"}
    assert checks["dead letters"]["remedy"]


def test_a_worker_on_an_empty_machine_goes_on_from_checkpoints(installation: Installation, tmp_path: Path) -> None:
    """The history behind a generation is not in the log: without checkpoints a worker says so, and folds nothing."""
    installation.kill("work")
    nowhere = ("--state", str(tmp_path / "empty"), "--checkpoints", str(tmp_path / "none"))
    said = installation.forebay("work", *nowhere, code=1)
    assert "neither here nor among the checkpoints" in said and "forebay backfill" in said
    starts = installation.said("work").count("ready: generation g1")
    installation.start("work", "--state", str(tmp_path / "empty"))
    installation.until(lambda: installation.said("work").count("ready: generation g1") > starts)
    installation.until(installation.is_current)
    installation.kill("work")
    starts += 1
    installation.start("work")
    installation.until(lambda: installation.said("work").count("ready: generation g1") > starts)
    installation.until(installation.is_current)


def test_publish_refuses_bad_lines_by_number(installation: Installation, tmp_path: Path) -> None:
    """Exit code 3: the good lines are in the log, the bad ones are named."""
    good = b'{"type":"behaviour","user":"u9","item":"i1","action":"rate","value":5}'
    (tmp_path / "events.jsonl").write_bytes(good + b"\n{broken\n" + good + b"\n")
    said = installation.forebay("publish", str(tmp_path / "events.jsonl"), code=3)
    assert "line 2" in said and "2 events acknowledged" in said
