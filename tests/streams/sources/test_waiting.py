"""A source whose registry is away stands still alone: the others go on, nothing is claimed for it, nothing is lost."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import fastavro
import pytest

from forebay.clock import now_ms
from forebay.events import Behaviour, Event, Tick, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER
from forebay.streams.intake.intake import Intake
from forebay.streams.intake.note import note_of
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import MemoryLog, Sent
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source
from forebay.streams.worker.waits import LONGEST_PAUSE_S, Waits

from .apicurio import Apicurio, _free_port
from .conftest import foreign

TOPICS = Topics("t.", ("clicks",))
SCHEMA = {
    "type": "record",
    "name": "S",
    "fields": [{"name": "who", "type": "string"}, {"name": "id", "type": "string"}],
}
CLICKS = 2  # the number of its partition


def _click(who: str, name: str) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(SCHEMA), {"who": who, "id": name})
    return struct.pack(">bI", 0, 1) + stream.getvalue()


class Installation:
    """A log in memory, and one Intake over it after the other, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.log = folder, _free_port(), MemoryLog(now_ms)
        for topic in (
            *TOPICS.sources,
            TOPICS.events("user"),
            TOPICS.events("item"),
            TOPICS.catalogue,
            TOPICS.dead_letters,
        ):
            self.log.create(topic, 1)
        self.worker: Worker | None = None

    def start(self) -> Worker:
        """An Intake."""
        table = {"map": {"user": "who", "id": "id"}, "set": {"item": "i", "action": "a"}, "no_time": "append"}
        clicks = foreign("clicks", format="avro", registry=f"http://127.0.0.1:{self.port}/apis/ccompat/v7", **table)
        sources = [Source(topic, 0, topic) for topic in TOPICS.sources]
        intake = Intake(
            TOPICS, sources, {"user": 1, "item": 1}, self.folder, foreign=[clicks], stamped_elsewhere=["clicks"]
        )
        options = WorkerOptions(heartbeat_interval_s=0.1, flush_batches=10_000, flush_interval_s=10_000.0)
        transport = MemoryTransport(
            self.log, list(TOPICS.sources), "group", options, moment=now_ms, follows=TOPICS.catalogue
        )
        worker = Worker(intake, transport, options)
        worker.join(threading.Event())
        return worker

    def turned(self, worker: Worker, until: Callable[[], bool]) -> None:
        """Turn until a condition holds."""
        deadline = time.monotonic() + 60
        while not until():
            assert time.monotonic() < deadline, worker.not_ready()
            worker.turn()
            time.sleep(0.01)

    def put(self, topic: str, value: bytes) -> None:
        """A producer's record."""
        self.log.append(Sent(topic, 0, b"k", value, ()))

    def ours(self, name: str) -> None:
        """A publisher's event."""
        self.put(TOPICS.behaviour, encode(Behaviour(f"u-{name}", "i", "a", 1.0, now_ms(), name)))

    @property
    def clean(self) -> list[str | None]:
        """Ids of the users' clean log."""
        found: list[Event] = []
        for record in self.log.records(TOPICS.events("user"), 0):
            found += events_of(Block.decode(dict(record.headers)[HEADER], record.value or b""))
        return [event.id for event in found if not isinstance(event, Tick)]

    @property
    def done(self) -> int | None:
        """The group's offset in the foreign topic."""
        return self.log.group("group", 3).offsets.get(CLICKS)


@pytest.mark.registry
def test_a_source_waits_alone_for_its_registry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours goes on meanwhile; what waited is accepted once when the registry is there; then, killed and started without
    one, it waits with its state half restored, and knows its duplicates after it."""
    place = Installation(tmp_path / "intake")
    worker = place.start()
    place.put("clicks", _click("u1", "c1"))
    place.put("clicks", b"no mark")
    place.ours("e1")
    place.turned(worker, lambda: place.clean == ["e1"] and worker.not_ready().startswith("clicks[0] waits: "))
    assert "gives no answer" in worker.not_ready() and any("clicks[0] waits" in r.message for r in caplog.records)
    for number in range(3):  # past some more tries, and heartbeats
        place.ours(f"more{number}")
        place.turned(worker, lambda: f"more{number}" in place.clean)  # noqa: B023
        until = time.monotonic() + 0.7
        place.turned(worker, lambda: time.monotonic() > until)  # noqa: B023
    assert not place.done and CLICKS not in worker.progress() and not place.log.records(TOPICS.dead_letters, 0)
    note = note_of(place.log.group("group", 3).notes.get(CLICKS))
    assert note is None or note.as_of == 0

    (tmp_path / "first").mkdir()
    with Apicurio(tmp_path / "first", place.port) as registry:
        assert registry.register("s", SCHEMA) == 1
        place.turned(worker, lambda: place.done == 2)
        assert sorted(map(str, place.clean)) == ["c1", "e1", "more0", "more1", "more2"] and worker.not_ready() == ""
        place.turned(
            worker, lambda: (n := note_of(place.log.group("group", 3).notes[CLICKS])) is not None and n.as_of > 0
        )
    worker.leave()  # without a flush: the store lags

    second = place.start()
    place.put("clicks", _click("u1", "c2"))
    place.ours("e2")
    place.turned(second, lambda: "e2" in place.clean and second.not_ready().startswith("clicks[0] waits: "))
    assert place.done == 2
    (tmp_path / "second").mkdir()
    with Apicurio(tmp_path / "second", place.port) as registry:
        assert registry.register("s", SCHEMA) == 1
        place.turned(second, lambda: place.done == 3)
    second.finish()
    second.leave()
    assert sorted(map(str, place.clean)) == ["c1", "c2", "e1", "e2", "more0", "more1", "more2"]
    assert len(place.log.records(TOPICS.dead_letters, 0)) == 1


def test_pauses_grow_to_a_bound_and_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A registry that is away for a day makes no day's log."""
    now, waits, tried = 0.0, Waits(lambda: now), list[float]()
    waits.put(3, "clicks[0]", "why")
    assert 3 in waits and waits.reason == "clicks[0] waits: why"
    while now < 119:
        now += 0.25
        if waits.due():
            assert 3 not in waits
            tried.append(now)
            waits.put(3, "clicks[0]", "why")
    pauses = [after - before for before, after in pairwise(tried)]
    assert tried[0] == 0.5 and pauses[0] == 1.0 and max(pauses) == LONGEST_PAUSE_S == pauses[-1]
    assert len(caplog.records) == 2
    waits.went_on(3, "clicks[0]")
    assert 3 not in waits and waits.reason == "" and not waits.due()
