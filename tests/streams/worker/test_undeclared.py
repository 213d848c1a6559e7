"""What events carry and a spec does not know: counted by a Processor, and shown by the doctor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.cli.doctor import doctor
from forebay.config import Settings
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, UserProfile
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.history.replay import snapshots
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.training import untrained
from forebay.store.generation import Generation
from forebay.streams import tail
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source
from forebay.streams.worker.undeclared import MAX_NAMES, OTHER, Undeclared
from forebay.telemetry import News

NOW = 1_790_000_000_000
COUNT = 2  # partitions
MakeHistory = Callable[..., History]
OWN: Attributes = {"device": "phone", "position": 3.0, "request_id": "r1"}


@pytest.fixture(scope="module")
def own(spec_tables: dict[str, Any]) -> Bundle:
    """The small model with attributes of events, read on both sides; labels join requests."""
    tables = json.loads(json.dumps(spec_tables))
    tables["attributes"]["event"] = {"device": {"category": ["phone", "desk"]}, "position": {"number": True}}
    tables["label"] = {
        "impression": "action == 'view'",
        "positive": "value >= 4",
        "within": "30m",
        "join": "request_id",
    }
    tables["user"]["taste"]["features"].append({"count": "device"})
    tables["user"]["recent"]["features"][0]["of"] += ["position", "device"]
    tables["item"]["stats"]["features"].append({"mean": "value", "by": "device", "where": "position <= 3"})
    return untrained(parse_spec(tables), np.arange(5), seed=1)


def _block(events: Sequence[Event]) -> Block:
    none = [0] * len(events)
    return block_of(events, none, none, none, ("s/0",))


def _applied(bundle: Bundle, side: Side, folder: Path, events: Sequence[Event], *, aloud: bool = True) -> Outcome:
    """The outcome of one batch of all events, with the news of all; state is written to `folder`."""
    processor = Processor(bundle, side, Topics(), "g1", COUNT, folder)
    for partition in range(COUNT):
        processor.open(partition, Source(processor.topic, partition, "topic-1"), 0)
    places = partitions_of([str(getattr(e, side)).encode() for e in events], COUNT)
    batches = []
    for partition in range(COUNT):
        mine = [events[n] for n in np.flatnonzero(places == partition).tolist()]
        for start in range(0, len(mine), 50):  # attributes are a hundred and more: a block has 256 of them at most
            ((header, value),) = _block(mine[start : start + 50]).encode()
            batches.append(PartitionBatch(partition, [None], [value], [start], [NOW], [[(HEADER, header)]]))
    outcome, news = Outcome(), list[News]()
    for batch in batches:
        outcome = processor.apply([batch], aloud=aloud)
        news += outcome.news
    processor.flush()
    for partition in range(COUNT):
        processor.close(partition)
    return replace(outcome, news=news)


def _click(user: str = "u1", action: str = "rate", own: Attributes | None = None, **fields: Any) -> Behaviour:
    of_item = fields.pop("item_attributes", {})
    return Behaviour(
        user, "i1", action, 3.0, fields.pop("time", NOW - 1000), fields.pop("id", "e1"), of_item, own or {}
    )


@pytest.mark.parametrize("side", SIDES)
def test_the_stream_ends_where_the_replay_ends_with_attributes(
    side: Side, own: Bundle, tmp_path: Path, make_history: MakeHistory, stored: Callable[..., Any]
) -> None:
    """State of both sides, to the bit."""
    plain = make_history(400)
    behaviours = [
        replace_attributes(
            b, {"device": ("phone", "desk", "tv")[n % 3], "position": float(n % 7), "request_id": f"r{n}"}
        )
        if n % 5
        else b
        for n, b in enumerate(plain.behaviours)
    ]
    history = History.of([*behaviours, *plain.profiles, *plain.items])
    updates: Sequence[UserProfile | ItemUpdate] = history.profiles if side == "user" else history.items
    _applied(own, side, tmp_path, [*updates, *history.behaviours])
    layout, log = own.layouts[side], SideLog.of(own.spec, side, history)
    count = len(log.entities)
    rows = snapshots(layout, log, np.arange(count), np.full(count, 1 << 62), np.zeros(count, dtype=np.int64))
    found = {entity: state for entity, (state, _) in stored(own, tmp_path, side).items()}
    assert found == {e: layout.pack(rows[n]) for n, e in enumerate(log.entities)}
    block = next(b for b in layout.blocks if b.feature.key == "device")
    assert rows[:, block.offset + 2 : block.offset + 4].all(axis=1).any()  # phone and desk were counted


def replace_attributes(event: Behaviour, own: Attributes) -> Behaviour:
    return Behaviour(
        event.user, event.item, event.action, event.value, event.time, event.id, event.item_attributes, own
    )


def test_what_the_spec_does_not_know_is_counted_once_an_event(own: Bundle, tmp_path: Path) -> None:
    """Actions and attributes of events, items and users; a folded gap is silent."""
    events: list[Event] = [
        _click(own=OWN, item_attributes={"year": 1990.0, "colour": "red"}),
        _click(action="share", id="e2", own={"mood": "good"}),
        _click("u2", action="share", id="e3", own={"mood": "bad"}),
        UserProfile("u1", {"age": 3.0, "height": 180.0}, NOW - 5, "p"),
    ]
    assert _counted(own, "user", tmp_path / "user", events) == {
        ("user", "action", "share"): 2,
        ("user", "event attribute", "mood"): 2,
        ("user", "item attribute", "colour"): 1,
        ("user", "user attribute", "height"): 1,
    }
    assert not _counted(own, "user", tmp_path / "silent", events, aloud=False)
    # Of a behaviour the user side has told.
    seen: list[Event] = [
        _click(action="share", own={"mood": "good"}),
        ItemUpdate("i1", {"colour": "red", "genres": []}, NOW - 1, "e"),
    ]
    assert _counted(own, "item", tmp_path / "item", seen) == {("item", "item attribute", "colour"): 1}


def _counted(
    bundle: Bundle, side: Side, folder: Path, events: Sequence[Event], *, aloud: bool = True
) -> Counter[tuple[Any, ...]]:
    """What hooks are to be told when a batch is committed."""
    found: Counter[tuple[Any, ...]] = Counter()
    for name, details in _applied(bundle, side, folder, events, aloud=aloud).news:
        assert name == "undeclared"
        found[(details["stage"], details["kind"], details["name"])] += int(details["events"])
    return found


def test_names_that_are_counted_are_bounded(own: Bundle) -> None:
    """A producer that makes up names fills neither memory nor a metric: after the first hundred they are one, and each
    is short."""
    counter, many = Undeclared(own.spec, "user"), Counter[tuple[str, str]]()
    for start in range(0, 1000, 100):
        names = [f"{n:04}{'x' * 300}" for n in range(start, start + 100)]
        many += counter.count(_block([_click(own={name: 1.0}) for name in names]))
    assert len(many) == MAX_NAMES + 1 and many["event attribute", OTHER] == 1000 - MAX_NAMES
    assert all(len(name) <= 40 for _, name in many)
    again = counter.count(_block([_click(own={"new": 1.0}), _click(own={f"0000{'x' * 300}": 1.0})]))
    assert again["event attribute", OTHER] == 1 and sum(again.values()) == 2


def test_a_spec_without_actions_finds_none_undeclared(own: Bundle) -> None:
    """It does not tell actions apart, and so none is unknown."""
    assert Undeclared(own.spec, "user").count(_block([_click(action="share")]))
    bare = replace(own.spec, events=replace(own.spec.events, actions=()))
    assert not Undeclared(bare, "user").count(_block([_click(action="share")]))


@pytest.mark.broker
def test_the_doctor_shows_what_the_spec_does_not_know(
    own: Bundle, kafka: DevKafka, topics: Topics, feed: Callable[..., None], tmp_path: Path, capsys: Any
) -> None:
    """Of the newest Blocks of each clean log, with counts; it is no fault."""
    settings = Settings(kafka.bootstrap, topics.prefix, tmp_path, partitions=COUNT)
    ensure(kafka.bootstrap, topics, generation="g1", partitions=COUNT)
    own.save(settings.bundles)
    Generation.new("g1", own.hash, dict.fromkeys(SIDES, COUNT), {}).save(settings.generation_dir)
    feed(topics, "user", [_click(f"u{n}", "unheard", id=f"old{n}") for n in range(300)], size=1)
    assert _doctor(settings, capsys)["found"].startswith("action 'unheard' (")
    feed(topics, "user", [_click(f"u{n}", id=f"e{n}", own=OWN) for n in range(500)], size=1)
    check = _doctor(settings, capsys)
    assert check["ok"] and check["found"].startswith("nothing in the newest 2")
    feed(topics, "user", [_click(f"u{n}", "share", id=f"s{n}", own={"mood": "x"}) for n in range(7)])
    feed(topics, "item", [_click(f"u{n}", "share", id=f"s{n}", own={"mood": "x"}) for n in range(7)])
    feed(topics, "item", [ItemUpdate("i1", {"colour": "red"}, NOW, "a")])
    check = _doctor(settings, capsys)
    assert check["ok"] and check["remedy"]
    assert check["found"].startswith("action 'share' (7), event attribute 'mood' (7), item attribute 'colour' (1) of ")


@pytest.mark.broker
def test_the_newest_records_are_bounded_in_number_and_time(
    kafka: DevKafka, topics: Topics, publish: Callable[..., None]
) -> None:
    """A share of each partition; none when there is no time."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=COUNT)
    assert not list(tail.newest(kafka.bootstrap, topics.behaviour, COUNT, 100, 10.0))
    publish(topics.behaviour, [_click(f"u{n}", id=f"e{n}") for n in range(500)])
    found = list(tail.newest(kafka.bootstrap, topics.behaviour, COUNT, 100, 10.0))
    assert len(found) == 100 and Counter(m.partition() for m in found) == {0: 50, 1: 50}
    ends = {p: max(m.offset() for m in found if m.partition() == p) for p in range(COUNT)}
    assert sum(ends.values()) == 500 - COUNT
    assert not list(tail.newest(kafka.bootstrap, topics.behaviour, COUNT, 100, 0.0))


def _doctor(settings: Settings, capsys: Any) -> dict[str, Any]:
    doctor(settings, as_json=True)
    checks: Iterable[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return next(c for c in checks if c["name"] == "undeclared")
