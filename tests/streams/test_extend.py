"""A generation with one more segment, out of a running one's checkpoints and the clean logs, on a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from forebay.cli.extend import extend as verb
from forebay.config import Settings
from forebay.errors import CheckpointError, GenerationError, LogGap, StoreMissing, TopicMismatch, UsageError
from forebay.events import ItemUpdate
from forebay.segments.bundle import Bundle
from forebay.segments.growth import Growth
from forebay.segments.history import History
from forebay.segments.history.archive import Archive
from forebay.segments.history.place import Place as ArchivePlace
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.training import untrained
from forebay.store.checkpoints import Checkpoints
from forebay.store.codec import codec_of
from forebay.store.generation import MANIFEST, Generation
from forebay.streams.archive import Archiver
from forebay.streams.backfill import backfill
from forebay.streams.clients import asking_consumer
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.extend import Extended, ExtendOptions, extend
from forebay.streams.offsets import bounds
from forebay.streams.pace import Pace
from forebay.streams.tell import keep_checkpoint
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.options import WorkerOptions

PARTITIONS = 2
ROWS = 3  # that a command which is to be killed writes at a time
NOW = 1_790_000_000_000
ROOT = Path(__file__).parents[2]
LATE = {
    "features": [{"last": 4, "of": ["item", "action", "year"]}, {"mean": "value", "bucket": "1h", "over": "9h"}],
    "encoder": {"kind": "attention_pool", "queries": 1, "hidden": 8},
    "dim": 8,
}
CHILD = """
import os, signal
from pathlib import Path
from forebay.cli.extend import extend
from forebay.config import Settings
from forebay.streams import carry
from forebay.telemetry import add_hook
carry.ROWS = {rows}
times = 0
def kill(name, details):
    global times
    if name == "extended" and (details["step"], details.get("stage"), details.get("partition")) == {step}:
        times += 1
        if times == {nth}:
            os.kill(os.getpid(), signal.SIGKILL)
add_hook(kill)
extend(Settings({settings}), Path({bundle!r}), "g1", 0, False)
"""


@pytest.fixture(scope="module")
def grown(bundle: Bundle, spec_tables: dict[str, Any]) -> Bundle:
    """The small model with a segment `late` of the users; all weights of the others are its own."""
    tables = deepcopy(spec_tables)
    tables["user"]["late"] = LATE
    fresh = untrained(parse_spec(tables), bundle.vocabulary.hashes, seed=7)
    kept = {n: t for n, t in bundle.tensors.items() if not n.startswith(("fusion.", "default."))}
    return Bundle(fresh.spec, {**fresh.tensors, **kept})


@dataclass(frozen=True)
class Place:
    """An installation with a generation g1 that was built of nothing, and the bundle of g2."""

    kafka: DevKafka
    topics: Topics
    folder: Path
    old: Bundle
    new: Bundle

    def settings(self, generation: str = "g2") -> Settings:
        return Settings(
            bootstrap=self.kafka.bootstrap, topic_prefix=self.topics.prefix, data_dir=self.folder,
            generation=generation, partitions=PARTITIONS,
        )  # fmt: skip

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.settings().checkpoints_url)

    def build(self, name: str, bundle: Bundle, history: History | None = None) -> Generation:
        """A generation of what the logs have now, and of `history`."""
        settings = self.settings(name)
        ensure(self.kafka.bootstrap, self.topics, generation=name, partitions=PARTITIONS)
        bundle.save(settings.bundles)
        return backfill(
            bundle, history or History.of([]), name=name, bootstrap=self.kafka.bootstrap, topics=self.topics,
            folder=settings.generation_dir, state_folder=settings.state, now_ms=NOW, checkpoints=self.checkpoints,
        )  # fmt: skip

    def keep(self) -> None:
        """A checkpoint of each partition of g1, whose workers have ended."""
        for side in SIDES:
            for partition in range(PARTITIONS):
                store = f"{side}-{partition}"
                keep_checkpoint(self.checkpoints, f"g1/{store}", self.settings("g1").state / store, NOW)

    def extend(self, name: str = "g2", **more: Any) -> Extended:
        settings = self.settings(name)
        ensure(self.kafka.bootstrap, self.topics, generation=name, partitions=PARTITIONS)
        options = {"of": Generation.load(self.settings("g1").generation_dir), "options": ExtendOptions(0), **more}
        return extend(
            Growth.between(self.old, self.new), name=name, bootstrap=self.kafka.bootstrap, topics=self.topics,
            folder=settings.generation_dir, state_folder=settings.state, checkpoints=self.checkpoints, now_ms=NOW,
            **options,
        )  # fmt: skip

    def killed_at(self, step: str, side: Side | None = None, partition: int | None = None, nth: int = 1) -> None:
        """Run the command, and kill it the nth time that it is past a step; it writes a few rows at a time."""
        s = self.settings()
        words = f"bootstrap={s.bootstrap!r}, topic_prefix={s.topic_prefix!r}, data_dir=Path({str(s.data_dir)!r}), "
        words += f"generation='g2', partitions={PARTITIONS}"
        path, place = str(self.new.save(self.folder / "new")), (step, side, partition)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        child = subprocess.run(
            [sys.executable, "-c", CHILD.format(step=place, nth=nth, rows=ROWS, settings=words, bundle=path)],
            check=False, capture_output=True, text=True, timeout=300, env=environment,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.fixture
def place(kafka: DevKafka, topics: Topics, bundle: Bundle, grown: Bundle, tmp_path: Path) -> Place:
    found = Place(kafka, topics, tmp_path, bundle, grown)
    found.build("g1", bundle)
    return found


@pytest.fixture
def drain(place: Place, work: Callable[..., Any], lag: Callable[..., int], wait_for: Callable[..., None]) -> Any:
    """`drain(generation, bundle)`: its workers take all that is in the clean logs, and end."""

    def run(generation: str, bundle: Bundle) -> None:
        for side in SIDES:
            state = place.settings(generation).state
            with work(place.topics, side, state, generation=generation, bundle=bundle) as worker:
                done = lambda: lag(place.topics.events(side), worker.group, PARTITIONS) == 0 or worker.ended  # noqa: B023
                wait_for(done, side)

    return run


def _fill(feed: Callable[..., None], place: Place, events: list[Any]) -> None:
    for side in SIDES:
        feed(place.topics, side, [e for e in events if not isinstance(e, ItemUpdate) or side == "item"], size=20)


@pytest.mark.broker
def test_a_new_generation_is_built_beside_workers_that_notice_nothing(
    place: Place, work: Callable[..., Any], feed: Callable[..., None], make_history: Callable[..., History],
    wait_for: Callable[..., None], lag: Callable[..., int], newest: Callable[..., Any], stored: Callable[..., Any],
    drain: Any,
) -> None:  # fmt: skip
    """g1 works on through all of it. Later g2 has, of what came before and what comes after, the state and the vectors
    of a generation that was built of the whole log; and of the segments that both have, those of g1 to the bit."""
    events = make_history(600).behaviours
    _fill(feed, place, events[:400])
    options = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2, checkpoint_every_s=0.5)
    drain("g1", place.old)
    place.keep()
    topics, state = place.topics, place.settings("g1").state
    with work(topics, "user", state, options=options, checkpoints=place.folder / "checkpoints") as running:
        _fill(feed, place, events[400:500])
        wait_for(lambda: lag(topics.events("user"), running.group, PARTITIONS) == 0 or running.ended, "g1")
        seen: list[tuple[int, int]] = []
        made = place.extend(progress=lambda done, total: seen.append((done, total)))
        assert seen and seen[-1][0] == seen[-1][1]
        _fill(feed, place, events[500:])
        wait_for(lambda: lag(topics.events("user"), running.group, PARTITIONS) == 0 or running.ended, "g1")
        assert not running.ended
    drain("g1", place.old)
    assert Generation.load(place.settings().generation_dir, name="g2", bundle_hash=place.new.hash) == made.generation
    assert made.generation.since == {} and all(r.whole == r.entities for r in made.reports)
    drain("g2", place.new)
    place.build("g3", place.new)
    _holds_what_g3_holds(place, newest, stored)


def _holds_what_g3_holds(place: Place, newest: Callable[..., Any], stored: Callable[..., Any]) -> None:
    """g2 has the state and the vectors of g3, which was built of the whole log; and of the segments that both have,
    what g1 has told, to the bit."""
    for side in SIDES:
        assert stored(place.new, place.settings("g2").state, side) == stored(
            place.new, place.settings("g3").state, side
        )
        old, new = codec_of(place.old, side), codec_of(place.new, side)
        before, after = (newest(place.topics.vectors(g, side), PARTITIONS) for g in ("g1", "g2"))
        assert before.keys() == after.keys() and len(after) > 15
        for entity in before:
            theirs, ours = old.unpack([before[entity]])[0], new.unpack([after[entity]])[0]
            for segment in old.segments:
                for field in ("vector", "scale", "last_event", "flags"):
                    a, b = (rows["segments"][segment.name][field].tobytes() for rows in (theirs, ours))
                    assert a == b, (entity, segment.name, field)


@pytest.mark.broker
def test_killed_after_any_step_it_is_finished_by_the_next_run(
    place: Place, feed: Callable[..., None], make_history: Callable[..., History], newest: Callable[..., Any],
    stored: Callable[..., Any], drain: Any,
) -> None:  # fmt: skip
    """kill -9, five times. Nothing is a generation before the last step, stores that are whole are kept, and the end is
    what one run would have made."""
    _fill(feed, place, make_history(300).behaviours)
    drain("g1", place.old)
    place.keep()
    manifest = place.settings().generation_dir / MANIFEST
    state, whole = place.settings().state, dict[str, int]()
    steps: list[tuple[Any, ...]] = [
        ("fetch", "user", 0),
        ("fold", "user", 0),
        ("write", "item", 0),
        ("keep",),
        ("tell",),
    ]
    for step in steps:
        place.killed_at(*step)
        assert not manifest.exists()
        now = {path.name: path.stat().st_ino for path in state.glob("*-*") if not path.name.startswith(".")}
        assert whole.items() <= now.items()
        whole = now
    assert len(whole) == 2 * PARTITIONS
    made = place.extend()
    assert {name: (state / name).stat().st_ino for name in whole} == whole
    assert not [p for p in state.iterdir() if p.is_dir() and p.name.startswith(".")]
    place.build("g3", place.new)
    for side in SIDES:
        assert stored(place.new, state, side) == stored(place.new, place.settings("g3").state, side)
        assert newest(place.topics.vectors("g2", side), PARTITIONS).keys() == stored(place.new, state, side).keys()
    assert sorted(place.checkpoints.of_scope("g2")) == sorted(f"g2/{name}" for name in whole)
    assert made.generation.cut.keys() == {place.topics.events(side) for side in SIDES}


@pytest.mark.broker
def test_killed_inside_step_3_it_leaves_no_half_store_and_the_running_generation_as_it_was(
    place: Place, work: Callable[..., Any], feed: Callable[..., None], make_history: Callable[..., History],
    wait_for: Callable[..., None], lag: Callable[..., int], newest: Callable[..., Any], stored: Callable[..., Any],
    drain: Any,
) -> None:  # fmt: skip
    """kill -9 behind the first rows, in the middle of them, when all are written, when the report is, and when the
    store has its name. A store has a name when it is whole and not before; g1 works on through all of it, and has what
    a generation has that was built at once. So has g2, in the end: no event is lost, doubled or folded wrong."""
    events = make_history(500).behaviours
    _fill(feed, place, events[:250])
    drain("g1", place.old)
    place.keep()
    manifest, state = place.settings().generation_dir / MANIFEST, place.settings().state
    options = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2)
    with work(place.topics, "user", place.settings("g1").state, options=options) as running:
        kills = [("rows", 1), ("rows", 3), ("whole", 1), ("report", 1), ("write", 1)]
        for number, (step, nth) in enumerate(kills):
            _fill(feed, place, events[250 + 50 * number : 300 + 50 * number])
            place.killed_at(step, "user", 0, nth)
            assert not manifest.exists()
            assert (state / "user-0").exists() == (step == "write")
            assert (state / ".new-user-0").exists() == (step != "write")
            assert (state / ".report-user-0.json").exists() == (step in ("report", "write"))
        kept = (state / "user-0").stat().st_ino
        wait_for(lambda: lag(place.topics.events("user"), running.group, PARTITIONS) == 0 or running.ended, "g1")
        assert not running.ended
    made = place.extend()
    assert (state / "user-0").stat().st_ino == kept
    assert made.generation.since == {} and all(r.whole == r.entities for r in made.reports)
    assert not [p for p in state.iterdir() if p.name.startswith(".")]
    drain("g1", place.old)
    drain("g2", place.new)
    place.build("g3", place.new)
    _holds_what_g3_holds(place, newest, stored)
    place.build("g4", place.old)
    for side in SIDES:
        whole = stored(place.old, place.settings("g4").state, side)
        assert stored(place.old, place.settings("g1").state, side) == whole


@pytest.mark.broker
def test_a_log_that_begins_behind_the_newest_checkpoint_is_refused(
    place: Place, feed: Callable[..., None], make_history: Callable[..., History]
) -> None:
    """A worker of the new generation could not go on."""
    _fill(feed, place, make_history(200).behaviours)
    log, admin = place.topics.events("user"), AdminClient({"bootstrap.servers": place.kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(log, p, -1) for p in range(PARTITIONS)]).values():
        future.result()
    with pytest.raises(LogGap, match="the newest checkpoint of g1/user-0 ends at offset 0, and the log begins at"):
        place.extend()
    assert not (place.settings().generation_dir / MANIFEST).exists() and not place.settings().state.exists()


@pytest.mark.broker
def test_what_the_log_forgot_is_said_by_the_command_and_the_manifest(
    place: Place, feed: Callable[..., None], make_history: Callable[..., History], drain: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """For how many users the new segment knows everything, and since when of the others; and nothing of a segment that
    was there."""
    events = make_history(300, users=90).behaviours
    _fill(feed, place, events[:200])
    drain("g1", place.old)
    log, admin = place.topics.events("user"), AdminClient({"bootstrap.servers": place.kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(log, p, -1) for p in range(PARTITIONS)]).values():
        future.result()
    _fill(feed, place, events[200:])
    drain("g1", place.old)
    place.keep()
    path = place.new.save(place.folder / "new")
    verb(place.settings(), path, "g1", 0, False)
    said = capsys.readouterr()
    made = Generation.load(place.settings().generation_dir, name="g2")
    users = {b.user for b in events}
    whole = users - {b.user for b in events[:200]}
    assert list(made.since) == ["user.late"] and made.since["user.late"] > NOW - 10**12
    assert 0 < len(whole) < len(users)
    assert (
        f"user.late is complete for {len(whole)} of {len(users)} users; of the others it has what the log" in said.out
    )
    assert "new: user.late" in said.err and "user-0: " in said.err
    assert "forebay work --generation g2 --slot g2" in said.out
    with pytest.raises(GenerationError, match="generation g2 exists"):
        verb(place.settings(), path, "g1", 0, False)


@pytest.mark.broker
def test_what_the_log_forgot_is_read_from_its_archive(
    place: Place, feed: Callable[..., None], make_history: Callable[..., History], drain: Any,
    stored: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    """The new segment is complete for everyone, and the stores are those of a backfill that reads the same archive. A
    file that goes on behind the checkpoint is of no use: where the log does not reach back to its beginning, a newer
    checkpoint is asked for."""
    events, url = make_history(400, users=90).behaviours, str(tmp_path / "archive")
    archiver = Archiver(place.kafka.bootstrap, place.topics, ArchivePlace.of(url))

    def archived() -> Archive:
        archiver.run(threading.Event(), lambda done, total: None)
        return Archive.open(url)

    _fill(feed, place, events[:150])
    archived()
    _fill(feed, place, events[150:200])
    begins = _ends(place)
    _fill(feed, place, events[200:250])
    drain("g1", place.old)
    place.keep()
    _fill(feed, place, events[250:300])
    archive = archived()
    admin = AdminClient({"bootstrap.servers": place.kafka.bootstrap})
    for future in admin.delete_records(begins).values():
        future.result()
    with pytest.raises(LogGap, match="in files that end before the checkpoint, and the log begins at"):
        place.extend(archive=archive)
    _fill(feed, place, events[300:])
    drain("g1", place.old)
    place.keep()
    assert "user.late" in place.extend("g0").generation.since  # without the archive
    made = place.extend(archive=archive)
    assert made.generation.since == {} and all(r.whole == r.entities for r in made.reports)
    place.build("g3", place.new, History(archive))
    for side in SIDES:
        whole = stored(place.new, place.settings("g3").state, side)
        assert stored(place.new, place.settings("g2").state, side) == whole


def _ends(place: Place) -> list[TopicPartition]:
    """Where both logs end now."""
    consumer = Consumer(asking_consumer(place.kafka.bootstrap, committed=True))
    topics = [place.topics.events(side) for side in SIDES]
    found = [TopicPartition(t, p, bounds(consumer, t, p)[1]) for t in topics for p in range(PARTITIONS)]
    consumer.close()
    return found


@pytest.mark.broker
def test_what_cannot_be_built_is_refused_before_anything_is_touched(place: Place, tmp_path: Path) -> None:
    """Each by its name, with what to do; the folder of a generation that is not there stays away."""
    g1 = Generation.load(place.settings("g1").generation_dir)
    with pytest.raises(UsageError, match="--of g1 is the generation that is to be made"):
        verb(place.settings("g1"), tmp_path, "g1", 0, False)
    with pytest.raises(TopicMismatch, match="it has 2 partitions, and generation g1 is of 3"):
        place.extend(of=Generation.new("g1", place.old.hash, {"user": 3, "item": 3}, {}))
    with pytest.raises(StoreMissing, match="there is no checkpoint of gone/user-0") as caught:
        place.extend(of=Generation.new("gone", place.old.hash, g1.partitions, {}))
    assert "forebay checkpoints list" in caught.value.do
    assert not place.settings().state.exists()
    manifests = sorted((place.folder / "checkpoints" / "g1" / "user-1").glob("*.json"))
    kept = {path: path.read_bytes() for path in manifests}
    for path in kept:
        path.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="a manifest is not what was written"):
        place.extend()
    for path, data in kept.items():
        path.write_bytes(data.replace(b'"topic_id":"', b'"topic_id":"x'))
    with pytest.raises(CheckpointError):  # a manifest has a checksum
        place.extend()
    for path, data in kept.items():
        path.write_bytes(data)
    place.settings().state.parent.mkdir(parents=True, exist_ok=True)
    running = threading.Event()

    def second(*_: Any) -> None:
        with pytest.raises(GenerationError, match="another process makes generation g2"):
            place.extend()
        running.set()

    place.extend(told=lambda report: None if running.is_set() else second())
    assert running.is_set()


def test_a_pace_is_kept_and_nothing_is_saved_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand in a second: five thousand take five, and an hour of rest buys one second."""
    now, waited = [100.0], list[float]()
    monkeypatch.setattr("forebay.streams.pace.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        assert seconds <= 1
        waited.append(seconds)
        now[0] += seconds

    pace = Pace(1000.0, wait)
    for _ in range(5):
        pace.spend(1000)
    assert sum(waited) == pytest.approx(5)
    now[0] += 3600
    waited.clear()
    pace.spend(3000)
    assert sum(waited) == pytest.approx(2)
    Pace(0.0, wait).spend(10**9)
    assert sum(waited) == pytest.approx(2)
