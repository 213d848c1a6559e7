"""What one more event would do, on a real broker: what a worker makes of it, before anybody sends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.cli.inspecting import Beside
from forebay.cli.questions import command
from forebay.config import Settings
from forebay.errors import BrokerUnavailable, EventError, ForebayError, ServerUnavailable, StoreMissing
from forebay.events import Behaviour, ItemUpdate
from forebay.retrieval.inspect.supposed import Supposition
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.quantize import dequantize
from forebay.segments.spec import SIDES
from forebay.store.checkpoints import Checkpoints
from forebay.store.codec import codec_of
from forebay.streams.backfill import backfill
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.suppose.suppose import Suppose
from forebay.streams.topics import Topics, ensure

PARTITIONS = 2
NOW = 1_790_000_000_000


@dataclass(frozen=True)
class Place:
    """A generation g1 that was built of a history, its checkpoints, and workers to come."""

    kafka: DevKafka
    topics: Topics
    folder: Path
    bundle: Bundle

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(str(self.folder / "checkpoints"))

    @property
    def state(self) -> Path:
        return self.folder / "state" / "g1"

    def suppose(self, now_ms: int = NOW + 1000) -> Suppose:
        return Suppose(
            self.bundle, "g1", bootstrap=self.kafka.bootstrap, topics=self.topics, checkpoints=self.checkpoints,
            clock=lambda: now_ms,
        )  # fmt: skip


@pytest.fixture
def place(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, make_history: Callable[..., History]
) -> Place:
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    made = Place(kafka, topics, tmp_path, bundle)
    bundle.save(tmp_path / "bundles")
    backfill(
        bundle, make_history(400), name="g1", bootstrap=kafka.bootstrap, topics=topics,
        folder=tmp_path / "generations" / "g1",
        state_folder=made.state, now_ms=NOW, checkpoints=made.checkpoints,
    )  # fmt: skip
    return made


@pytest.fixture
def suppose(place: Place) -> Iterator[Suppose]:
    made = place.suppose()
    yield made
    made.close()


@pytest.fixture
def served(place: Place, newest: Callable[..., Any]) -> Callable[[str], Any]:
    """The vectors of a user as the vectors topic has them, float32 [dims]."""

    def read(user: str) -> Any:
        codec = codec_of(place.bundle, "user")
        rows, _ = codec.unpack([newest(place.topics.vectors("g1", "user"), PARTITIONS)[user]])
        parts = [rows["segments"][s.name] for s in codec.segments]
        return np.concatenate([dequantize(p["vector"], p["scale"])[0] for p in parts])

    return read


@pytest.mark.broker
def test_what_is_supposed_is_what_a_worker_makes_of_it(
    place: Place, suppose: Suppose, served: Callable[[str], Any], work: Callable[..., Any], feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """To the bit, attributes of the item included: out of the checkpoint, and again past events that came since."""
    attributes = place.bundle.spec.attributes["item"]
    assert attributes, "the small model has item attributes"
    before = served("u1")
    first = suppose.move("u1", "i3", "rate", 5.0)
    assert np.array_equal(first.before, before) and not np.array_equal(first.after, before) and first.events == 0
    known = {"genres": ["a", "c"], "year": 1999.0}
    feed(place.topics, "item", [ItemUpdate("i3", known, NOW + 500, "newer")], size=1)
    sent = [Behaviour("u1", "i4", "view", 2.0, NOW + 600, "e1"), Behaviour("u2", "i3", "rate", 1.0, NOW + 700, "e2")]
    feed(place.topics, "user", sent, size=1)
    second = suppose.move("u1", "i3", "rate", 5.0)
    assert second.events >= 1 and second.remarks == ()
    real = Behaviour("u1", "i3", "rate", 5.0, NOW + 1000, "supposed", known)
    with work(place.topics, "user", place.state, bundle=place.bundle) as running:
        done = lambda: lag(place.topics.events("user"), running.group, PARTITIONS) == 0 or running.ended
        wait_for(done, "the events")
        wait_for(lambda: np.array_equal(served("u1"), second.before) or running.ended, "the vectors before")
        feed(place.topics, "user", [real], size=1)
        wait_for(done, "the event")
        wait_for(lambda: np.array_equal(served("u1"), second.after) or running.ended, "the vectors after")
    assert not np.array_equal(second.before, second.after)


@pytest.mark.broker
def test_nothing_is_left_of_a_supposition(
    place: Place, suppose: Suppose, read: Callable[..., Any], stored: Callable[..., Any]
) -> None:
    """No record, no checkpoint, no state, no folder."""

    def everything() -> Any:
        logs = [*(place.topics.events(s) for s in SIDES), *(place.topics.vectors("g1", s) for s in SIDES)]
        records = {t: len(read(t, dict.fromkeys(range(PARTITIONS), 0))) for t in [*logs, *place.topics.own_sources]}
        files = sorted(str(p) for p in (place.folder / "checkpoints").rglob("*"))
        return records, files, {side: stored(place.bundle, place.state, side) for side in SIDES}

    before = everything()
    first = suppose.move("u1", "i3", "rate", 5.0)
    again = suppose.move("u1", "i3", "rate", 5.0)
    assert np.array_equal(first.after, again.after) and np.array_equal(first.before, again.before)
    nobody = suppose.move("nobody at all", "no item at all", "unheard of", 1.0)
    assert not np.array_equal(nobody.before, nobody.after) and "does not list this action" in nobody.remarks[-1]
    assert everything() == before
    folder = suppose._folder
    assert folder.is_dir()
    suppose.close()
    assert not folder.exists()


@pytest.mark.broker
def test_what_cannot_be_supposed_is_told(place: Place, suppose: Suppose) -> None:
    """An event that no Intake accepts, a place without checkpoints, a log that is not read to its end in time."""
    for user, item, value in (("", "i", 1.0), ("u", "\n", 1.0), ("u", "i", float("nan")), ("u", "i", 1e9)):
        with pytest.raises(EventError):
            suppose.move(user, item, "rate", value)
    elsewhere = Suppose(
        place.bundle, "g1", bootstrap=place.kafka.bootstrap, topics=place.topics,
        checkpoints=Checkpoints(str(place.folder / "none")),
    )  # fmt: skip
    with pytest.raises(StoreMissing, match="no checkpoint of g1/user") as raised:
        elsewhere.move("u1", "i3", "rate", 5.0)
    assert "checkpoints" in raised.value.do
    elsewhere.close()


@pytest.mark.broker
def test_a_log_that_is_long_is_not_waited_for(
    place: Place, suppose: Suppose, feed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time there is bounds it, and the next question begins anew."""
    feed(place.topics, "user", [Behaviour("u1", "i4", "view", 2.0, NOW + n, f"e{n}") for n in range(50)], size=1)
    monkeypatch.setattr("forebay.streams.suppose.suppose.PATIENCE_S", 0.0)
    with pytest.raises(BrokerUnavailable, match="in the time there was"):
        suppose.move("u1", "i3", "rate", 5.0)
    monkeypatch.undo()
    assert suppose.move("u1", "i3", "rate", 5.0).events == 50


@pytest.mark.broker
def test_a_process_beside_a_server_says_the_same(place: Place) -> None:
    """It runs the encoders, so that a server need not; it is started again when it was killed, and ends with its
    server."""
    settings = Settings(
        bootstrap=place.kafka.bootstrap, topic_prefix=place.topics.prefix, data_dir=place.folder, generation="g1"
    )
    beside = Beside(command(settings), ["rate", "view"], load_s=60.0)
    try:
        found = beside.suppose(Supposition("u1", "i3", "rate", 5.0))
        same_time = place.suppose(found.read_ms)
        expected = same_time.move("u1", "i3", "rate", 5.0)
        same_time.close()
        assert np.array_equal(found.before, expected.before) and found.events == expected.events
        assert np.array_equal(found.after, expected.after) and not np.array_equal(found.before, found.after)
        with pytest.raises(ForebayError, match="not a finite number"):
            beside.suppose(Supposition("u1", "i3", "rate", 1e9))
        process = beside._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        again = beside.suppose(Supposition("u1", "i3", "rate", 5.0))
        assert np.array_equal(again.before, expected.before)
        process = beside._process
    finally:
        beside.close()
    assert process is not None and process.poll() is not None
    with pytest.raises(ServerUnavailable):
        beside.suppose(Supposition("u1", "i3", "rate", 5.0))
