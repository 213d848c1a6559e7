"""Backfill against a real broker: a generation out of history is what the stream would have made of it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from forebay.cli.train import backfill as verb
from forebay.clock import HOUR_MS
from forebay.config import Settings
from forebay.errors import BlockError, BundleError, GenerationError, LogGap, StoreCorrupt, StoreMissing, UsageError
from forebay.events import Behaviour, Event, encode
from forebay.segments.blocks import blockfile
from forebay.segments.bundle import WEIGHTS, Bundle
from forebay.segments.history import History
from forebay.segments.history.archive import Archive, Place, write_imported
from forebay.segments.spec import SIDES, parse_spec
from forebay.segments.state.layout import ACCEPTED
from forebay.segments.training import TrainingOptions, train
from forebay.store.checkpoints import Checkpoints
from forebay.store.codec import codec_of
from forebay.store.generation import MANIFEST, Generation
from forebay.store.partitionstore import PartitionStore
from forebay.streams.archive import Archiver
from forebay.streams.backfill import backfill
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.offsets import committed
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.options import WorkerOptions

pytestmark = pytest.mark.broker
PARTITIONS = 2
NOW = 1_790_000_000_000


@pytest.fixture
def make(kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path) -> Callable[..., Generation]:
    """A backfill into generation `name`, its topics made if they are not there."""

    def run(history: History, name: str = "g2", now_ms: int = NOW, bundle: Bundle = bundle, **more: Any) -> Generation:
        ensure(kafka.bootstrap, topics, generation=name, partitions=PARTITIONS)
        return backfill(
            bundle, history, name=name, bootstrap=kafka.bootstrap, topics=topics, folder=tmp_path / name,
            state_folder=tmp_path / f"state-{name}", now_ms=now_ms, **more,
        )  # fmt: skip

    return run


def _comparable(bundle: Bundle, side: Any, emitted: dict[str, bytes]) -> dict[str, bytes]:
    """Vectors records without their as_of."""
    codec = codec_of(bundle, side)
    rows, ids = codec.unpack(list(emitted.values()))
    for slot in codec.segments:
        rows["segments"][slot.name]["as_of"] = 0
    return dict(zip(ids, codec.pack(rows, ids), strict=True))


def test_a_backfill_and_the_stream_after_it_are_what_the_stream_alone_would_be(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, make: Callable[..., Generation],
    make_history: Callable[..., History], arrivals: Callable[..., list[Event]], work: Callable[..., Any],
    publish: Callable[..., None], lag: Callable[..., int], wait_for: Callable[..., None], newest: Callable[..., Any],
    stored: Callable[..., Any],
) -> None:  # fmt: skip
    """Law 3: generation g1 streams everything; g2 takes the first part from a file and the rest from the same
    topics."""
    now = time.time_ns() // 1_000_000
    whole = make_history(1600, until_ms=now)
    part = History.of([*whole.behaviours[:1000], *whole.profiles, *whole.items])
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    publish(topics.item_updates, whole.items)
    publish(topics.behaviour, arrivals(part))

    def accept() -> None:
        with work(topics, "intake", tmp_path) as intake:
            for topic in topics.sources:
                wait_for(lambda: lag(topic, intake.group, PARTITIONS) == 0 or intake.ended, "the intake")  # noqa: B023

    def drain(generation: str, folder: Path) -> None:
        for side in SIDES:
            with work(topics, side, folder, generation=generation) as worker:
                wait_for(lambda: lag(topics.events(side), worker.group, PARTITIONS) == 0 or worker.ended, side)  # noqa: B023

    accept()
    drain("g1", tmp_path / "state-g1")
    counted: list[tuple[int, int]] = []
    generation = make(part, "g2", now, progress=lambda done, total: counted.append((done, total)))
    # Behaviours that are in the file and in the log count once; updates may be folded twice, and ticks are told.
    assert 2 * 1000 < counted[-1][0] == counted[-1][1] < 2 * 1000 + 200
    assert Generation.load(tmp_path / "g2", name="g2", bundle_hash=bundle.hash) == generation
    for side in SIDES:
        assert set(newest(topics.vectors("g2", side), PARTITIONS)) == set(
            newest(topics.vectors("g1", side), PARTITIONS)
        )

    publish(topics.behaviour, [*whole.behaviours[900:1000], *whole.behaviours[1000:]])  # some of the old ones again
    accept()
    drain("g1", tmp_path / "state-g1")
    drain("g2", tmp_path / "state-g2")
    for side in SIDES:
        first, second = (stored(bundle, tmp_path / f"state-{g}", side) for g in ("g1", "g2"))
        assert {e: v[0] for e, v in first.items()} == {e: v[0] for e, v in second.items()}
        emitted = [_comparable(bundle, side, newest(topics.vectors(g, side), PARTITIONS)) for g in ("g1", "g2")]
        assert emitted[0] == emitted[1] and len(emitted[0]) > 20


def test_events_between_the_file_and_the_cut_are_read_from_the_log(
    topics: Topics, bundle: Bundle, tmp_path: Path, make: Callable[..., Generation], kafka: DevKafka,
    make_history: Callable[..., History], feed: Callable[..., None], stored: Callable[..., Any],
) -> None:  # fmt: skip
    """The file ends before the log does, and some events are in both: each is folded once, and the Cut is the end of
    the log."""
    whole = make_history(600)
    part = History.of([*whole.behaviours[:400], *whole.profiles])
    ensure(kafka.bootstrap, topics, generation="g2", partitions=PARTITIONS)
    feed(topics, "user", whole.behaviours[300:])
    generation = make(part)
    found = stored(bundle, tmp_path / "state-g2", "user")
    counted = {
        user: int.from_bytes(state[8 * ACCEPTED : 8 * ACCEPTED + 8], "little") for user, (state, _) in found.items()
    }
    assert {user: count for user, count in counted.items() if count} == Counter(b.user for b in whole.behaviours)
    assert sum(generation.cut[topics.events("user")].values()) >= 300


def test_a_generation_is_built_from_an_archive_and_the_log_behind_it(
    topics: Topics, bundle: Bundle, tmp_path: Path, make: Callable[..., Generation], kafka: DevKafka,
    make_history: Callable[..., History], feed: Callable[..., None], stored: Callable[..., Any],
) -> None:  # fmt: skip
    """What was imported, what was archived, what came to the log later: each event once, the same bytes as of one
    file."""
    whole = make_history(700)
    ensure(kafka.bootstrap, topics, generation="g2", partitions=PARTITIONS)
    place = Place.of(str(tmp_path / "archive"))
    write_imported(place, "past", History.of([*whole.profiles, *whole.items, *whole.behaviours[:300]]))
    for side in SIDES:
        feed(topics, side, whole.behaviours[200:500])  # a hundred of them were imported, too
    Archiver(kafka.bootstrap, topics, place).run(threading.Event(), lambda done, total: None)
    for side in SIDES:
        feed(topics, side, whole.behaviours[500:])
    generation = make(History(Archive.open(place.url)))
    assert all(sum(generation.cut[topics.events(side)].values()) >= 500 for side in SIDES)
    other = Topics(f"{topics.prefix}other.")
    for name in ("g3", "g4"):
        ensure(kafka.bootstrap, other, generation=name, partitions=PARTITIONS)
    backfill(
        bundle, whole, name="g3", bootstrap=kafka.bootstrap, topics=other, folder=tmp_path / "g3",
        state_folder=tmp_path / "state-g3", now_ms=NOW,
    )  # fmt: skip
    for side in SIDES:
        assert stored(bundle, tmp_path / "state-g2", side) == stored(bundle, tmp_path / "state-g3", side)
    # The logs are lost, topics and all: the archive is the past of new ones.
    backfill(
        bundle, History(Archive.open(place.url)), name="g4", bootstrap=kafka.bootstrap, topics=other,
        folder=tmp_path / "g4", state_folder=tmp_path / "state-g4", now_ms=NOW,
    )  # fmt: skip
    for side in SIDES:
        counted = {
            entity: int.from_bytes(state[8 * ACCEPTED : 8 * ACCEPTED + 8], "little")
            for entity, (state, _) in stored(bundle, tmp_path / "state-g4", side).items()
        }
        wanted = Counter(getattr(b, side) for b in whole.behaviours[:500])
        assert {entity: count for entity, count in counted.items() if count} == wanted


def test_an_archive_that_ends_before_the_log_begins_is_refused(
    topics: Topics, tmp_path: Path, make: Callable[..., Generation], kafka: DevKafka,
    make_history: Callable[..., History], feed: Callable[..., None],
) -> None:  # fmt: skip
    """Events between the two are gone: no generation is built without a word."""
    ensure(kafka.bootstrap, topics, generation="g2", partitions=PARTITIONS)
    place = Place.of(str(tmp_path / "archive"))
    feed(topics, "user", make_history(100).behaviours)
    Archiver(kafka.bootstrap, topics, place).run(threading.Event(), lambda done, total: None)
    feed(topics, "user", make_history(100, seed=1).behaviours)
    log, admin = topics.events("user"), AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(log, p, -1) for p in range(PARTITIONS)]).values():
        future.result()
    with pytest.raises(LogGap, match="the archive ends at offset") as caught:
        make(History(Archive.open(place.url)))
    assert log in caught.value.where and not (tmp_path / "g2" / MANIFEST).exists()


def test_a_generation_that_exists_is_never_overwritten(
    make: Callable[..., Generation], make_history: Callable[..., History], tmp_path: Path
) -> None:
    """Neither its manifest nor its state is touched."""
    history = make_history(50)
    make(history)
    before = (tmp_path / "g2" / MANIFEST).read_bytes()
    with pytest.raises(GenerationError, match="generation g2 exists"):
        make(make_history(60, seed=1))
    assert (tmp_path / "g2" / MANIFEST).read_bytes() == before
    with PartitionStore.open(tmp_path / "state-g2" / "user-0", create=False) as store:
        assert any(True for _ in store.scan())


def test_a_backfill_that_was_cut_off_begins_anew(
    make: Callable[..., Generation], make_history: Callable[..., History], tmp_path: Path, bundle: Bundle,
    stored: Callable[..., Any], newest: Callable[..., Any], topics: Topics,
) -> None:  # fmt: skip
    """Without a manifest there is no generation: what the last one left is cleared, and the result is a whole one."""

    class CutOff(Exception):
        pass

    def cut(done: int, total: int) -> None:
        raise CutOff

    history = make_history(300)
    with pytest.raises(CutOff):
        make(make_history(200, seed=8, users=90), progress=cut)
    assert not (tmp_path / "g2").exists()
    make(history)
    users = {b.user for b in history.behaviours} | {p.user for p in history.profiles}
    assert set(stored(bundle, tmp_path / "state-g2", "user")) == users
    assert set(newest(topics.vectors("g2", "user"), PARTITIONS)) == users


def test_a_backfill_that_was_cut_off_while_it_told_leaves_nothing_behind(
    make: Callable[..., Generation], make_history: Callable[..., History], newest: Callable[..., Any], topics: Topics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its vectors are in the topic already: those of entities that the next run does not have come to an end."""

    class CutOff(Exception):
        pass

    def cut(*rest: Any) -> Generation:
        raise CutOff

    more = make_history(300, seed=8, users=90)
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "new", cut)
        with pytest.raises(CutOff):
            make(more)
    history = make_history(100)
    users = {b.user for b in history.behaviours} | {p.user for p in history.profiles}
    assert set(newest(topics.vectors("g2", "user"), PARTITIONS)) - users
    make(history)
    assert set(newest(topics.vectors("g2", "user"), PARTITIONS)) == users


def test_processes_side_by_side_build_the_same_bytes(
    make: Callable[..., Generation], make_history: Callable[..., History], tmp_path: Path, bundle: Bundle,
    stored: Callable[..., Any], newest: Callable[..., Any], topics: Topics,
) -> None:  # fmt: skip
    """As this process alone, in stores and topics; and every event is counted by the time it is over."""
    history, told = make_history(800), list[tuple[int, int]]()
    make(history, "g2", processes=1)
    make(history, "g3", processes=3, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == 2 * 800 + len(history.profiles) + len(history.items)
    for side in SIDES:
        assert stored(bundle, tmp_path / "state-g2", side) == stored(bundle, tmp_path / "state-g3", side)
        assert newest(topics.vectors("g2", side), PARTITIONS) == newest(topics.vectors("g3", side), PARTITIONS)
    assert not (tmp_path / "state-g3" / ".spool").exists()


def test_an_error_in_another_process_is_told_by_its_name(
    make: Callable[..., Generation], make_history: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, a file that is damaged: the words are those of the place where it happened."""
    append = blockfile.append

    def cut_short(path: Path, block: Any) -> None:
        append(path, block)
        if path.name == "user-1.past":
            path.write_bytes(path.read_bytes()[:-3])

    monkeypatch.setattr(blockfile, "append", cut_short)
    with pytest.raises(BlockError, match="its bytes are not what was written"):
        make(make_history(100), processes=2)


def test_a_bundle_that_was_copied_by_half_is_not_there(
    kafka: DevKafka, topics: Topics, bundle: Bundle, make_history: Callable[..., History], tmp_path: Path
) -> None:
    """The disk takes half of the weights: no folder has the bundle's name, and the next backfill makes a whole one."""
    path = bundle.save(tmp_path / "elsewhere")
    events = tmp_path / "history.jsonl"
    events.write_bytes(b"".join(encode(e) + b"\n" for e in make_history(50).behaviours))
    weights = (path / WEIGHTS).stat().st_size

    def backfill_with(most: int) -> subprocess.CompletedProcess[str]:
        words = ["backfill", "--bundle", path, "--from", events, "--generation", "g3", "--data", tmp_path / "data"]
        words += ["--bootstrap", kafka.bootstrap, "--prefix", topics.prefix]
        return subprocess.run(
            [sys.executable, "-m", "forebay.cli", *map(str, words)],
            check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)),
        )  # fmt: skip

    environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = backfill_with(weights // 2)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "bundles" / bundle.name).exists()
    done = backfill_with(resource.RLIM_INFINITY)
    assert done.returncode == 0, done.stderr
    assert Bundle.load(tmp_path / "data" / "bundles" / bundle.name).hash == bundle.hash


def test_a_damaged_bundle_under_the_name_is_found_before_the_fold(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path
) -> None:
    """It is not overwritten and not passed over: a worker would refuse it after hours of folding."""
    path = bundle.save(tmp_path / "elsewhere")
    there = bundle.save(tmp_path / "data" / "bundles")
    (there / WEIGHTS).write_bytes((there / WEIGHTS).read_bytes()[:1000])
    settings = Settings(bootstrap=kafka.bootstrap, topic_prefix=topics.prefix, data_dir=tmp_path / "data")
    with pytest.raises(BundleError) as caught:
        verb(settings, path, str(tmp_path / "never-read.jsonl"), as_json=True)
    assert str(there) in caught.value.where and "Delete the folder, then copy the bundle again" in caught.value.do
    shutil.rmtree(there)
    bundle.save(tmp_path / "data" / "bundles")
    with pytest.raises(UsageError, match="no such file"):
        verb(settings, path, str(tmp_path / "never-read.jsonl"), as_json=True)


def test_a_damaged_state_of_a_backfilled_generation_is_mended_as_the_error_says(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, make: Callable[..., Generation],
    make_history: Callable[..., History], work: Callable[..., Any], feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None],
    stored: Callable[..., Any],
) -> None:  # fmt: skip
    """Without a checkpoint, an earlier copy in its place and the log after it give the same state. Deleting it, as was
    once advised, is a dead end; another generation from a history that reaches to now is a way without a copy."""
    now = time.time_ns() // 1_000_000
    whole = make_history(400, until_ms=now)
    part = History.of([*whole.behaviours[:200], *whole.profiles, *whole.items])
    make(part, "g2", now)
    folder, log = tmp_path / "state-g2", topics.events("user")
    options = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2)

    def drain() -> None:
        with work(topics, "user", folder, generation="g2", options=options, checkpoints=tmp_path / "none") as user:
            group = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": user.group})

            def is_done() -> bool:
                """Nothing is left to read, the folder has caught up with its group, and what that changed has been
                emitted."""
                owned = user.stage.partitions
                return len(owned) == PARTITIONS and lag(log, user.group, PARTITIONS) == 0 and all(
                    p.meta.offset >= (committed(group, log, n) or 0) and not p.waiting() for n, p in owned.items()
                )  # fmt: skip

            wait_for(lambda: user.ended or is_done(), "the events")
            group.close()

    feed(topics, "user", whole.behaviours[200:300])
    drain()
    shutil.copytree(folder, tmp_path / "copy")
    feed(topics, "user", whole.behaviours[300:])
    drain()
    before = {e: v[0] for e, v in stored(bundle, folder, "user").items()}
    shutil.rmtree(tmp_path / "none")  # else a checkpoint would take its place
    for side in ("user-0", "user-1"):
        (folder / side / "CURRENT").write_bytes(b"not this")
    with pytest.raises(StoreCorrupt, match="earlier copy") as caught:
        drain()
    damaged = Path(caught.value.where)
    shutil.rmtree(damaged)
    with pytest.raises(StoreMissing):
        drain()
    for side in ("user-0", "user-1"):
        shutil.rmtree(folder / side, ignore_errors=True)
        shutil.copytree(tmp_path / "copy" / side, folder / side)
    drain()
    assert {e: v[0] for e, v in stored(bundle, folder, "user").items()} == before
    make(whole, "g3", now)
    assert {e: v[0] for e, v in stored(bundle, tmp_path / "state-g3", "user").items()} == before


def test_workers_of_other_machines_go_on_from_what_a_backfill_kept(
    topics: Topics, bundle: Bundle, tmp_path: Path, make: Callable[..., Generation],
    make_history: Callable[..., History], work: Callable[..., Any], feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], stored: Callable[..., Any],
) -> None:  # fmt: skip
    """An empty folder and the Checkpoints, and the folder that the backfill built: the same bytes after the same
    events. Building it once more leaves none of the first one's."""
    now = time.time_ns() // 1_000_000
    whole = make_history(400, until_ms=now)
    checkpoints = Checkpoints(str(tmp_path / "kept"))
    make(History.of([*whole.behaviours[:50], *whole.items]), "g2", now, checkpoints=checkpoints)
    shutil.rmtree(tmp_path / "g2")
    make(History.of([*whole.behaviours[:200], *whole.profiles, *whole.items]), "g2", now, checkpoints=checkpoints)
    assert all(len(checkpoints.names(f"g2/{side}-{p}")) == 1 for side in SIDES for p in range(PARTITIONS))
    shutil.copytree(tmp_path / "state-g2", tmp_path / "there")
    feed(topics, "user", whole.behaviours[200:])
    found = []
    for folder, slot in ((tmp_path / "there", "0"), (tmp_path / "empty", "1")):  # the second one finds all read
        options = WorkerOptions(slot=slot, heartbeat_interval_s=0.2, flush_interval_s=0.2, checkpoint_every_s=3600)
        with work(topics, "user", folder, generation="g2", options=options, checkpoints=tmp_path / "kept") as user:
            wait_for(
                lambda user=user: user.ended or (
                    len(user.stage.partitions) == PARTITIONS and not user.worker.not_ready()
                    and lag(topics.events("user"), user.group, PARTITIONS) == 0
                ),
                "the events",
            )  # fmt: skip
        found.append({entity: state for entity, (state, _) in stored(bundle, folder, "user").items()})
    assert found[0] == found[1] and len(found[0]) > 20


def test_rows_of_a_backfill_are_as_of_its_moment(
    make: Callable[..., Generation], make_history: Callable[..., History], newest: Callable[..., Any], topics: Topics,
    bundle: Bundle,
) -> None:  # fmt: skip
    """Old events, fresh vectors: everything up to now has been applied."""
    make(make_history(100, until_ms=NOW - 200 * 24 * HOUR_MS), now_ms=NOW)
    codec = codec_of(bundle, "user")
    rows, _ = codec.unpack(list(newest(topics.vectors("g2", "user"), PARTITIONS).values()))
    assert set(codec.column(rows, "as_of").ravel().tolist()) == {NOW}
    assert 0 < codec.column(rows, "last_event").max() < NOW - 100 * 24 * HOUR_MS


def test_an_event_that_no_worker_could_take_is_refused_by_name(
    make: Callable[..., Generation], make_history: Callable[..., History], tmp_path: Path
) -> None:
    """A backfill has no dead letters: the file is mended, and there is no half generation."""
    history = make_history(20)
    bad = msgspec.structs.replace(history.behaviours[3], value=1e9)
    with pytest.raises(UsageError, match="bad_value"):
        make(History.of([*history.behaviours, bad]))
    assert not (tmp_path / "g2" / MANIFEST).exists()


def test_users_who_are_idle_at_its_moment_are_not_part_of_it(
    make: Callable[..., Generation], make_history: Callable[..., History], spec_tables: dict[str, Any], tmp_path: Path,
    newest: Callable[..., Any], topics: Topics, stored: Callable[..., Any],
) -> None:  # fmt: skip
    """Its last tick retires them: they are in no store and no topic, and neither is an empty id."""
    tables = {**spec_tables, "events": {**spec_tables["events"], "retire_users_after": "30h"}}
    retiring = train(parse_spec(tables), make_history(600), TrainingOptions(epochs=1, seed=1))
    history = make_history(100, until_ms=NOW)
    old = [Behaviour(f"idle{n}", "i1", "rate", 3.0, NOW - 31 * HOUR_MS, f"old{n}") for n in range(20)]
    make(History.of([*old, *history.events()]), bundle=retiring)
    users = {b.user for b in history.behaviours} | {p.user for p in history.profiles}
    assert set(stored(retiring, tmp_path / "state-g2", "user")) == users
    assert set(newest(topics.vectors("g2", "user"), PARTITIONS)) == users
