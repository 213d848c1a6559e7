"""The Processor without Kafka: the same clean log always gives the same bytes, and nothing in it ends a worker."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.clock import HOUR_MS
from forebay.errors import BlockTooNew
from forebay.events import Behaviour, Event, Tick, UserProfile
from forebay.segments.blocks.schema import VERSION
from forebay.segments.bundle import Bundle
from forebay.segments.evaluation.freshness import final_vectors
from forebay.segments.history import History
from forebay.segments.history.replay import snapshots
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import Side, parse_spec
from forebay.segments.training import TrainingOptions, train
from forebay.store.codec import DEFAULT, HEARTBEAT_KEY, HELD, codec_of, unpack_heartbeat
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source
from forebay.telemetry import add_hook

from .cleanlog import COUNT, NOW, Rec, batches_of, log_of

MakeHistory = Callable[..., History]
Arrivals = Callable[..., list[Event]]
Stored = Callable[..., dict[str, tuple[bytes, bytes]]]


def _open(bundle: Bundle, side: Side, folder: Path, *, count: int = COUNT) -> Processor:
    processor = Processor(bundle, side, Topics(), "g1", count, folder)
    for partition in range(count):
        processor.open(partition, Source(processor.topic, partition, "topic-1"), 0)
    return processor


def _close(processor: Processor) -> None:
    for partition in list(processor.partitions):
        processor.close(partition)


def _told(outcome: Outcome) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of what an outcome says."""
    return [(r.key, r.value) for r in outcome.records]


def _apply(processor: Processor, records: Sequence[Rec], cuts: Iterable[int] = (1 << 30,)) -> Outcome:
    """Everything in batches of `cuts` records, the last size again and again; all outcomes in one."""
    found: list[Outcome] = []
    at, size = 0, 1
    sizes = iter(cuts)
    while at < len(records):
        size = next(sizes, size)
        found.append(processor.apply(batches_of(records[at : at + size])))
        at += size
    return Outcome(
        records=[record for o in found for record in o.records],
        offsets={p: m for o in found for p, m in o.offsets.items()},
        taken=sum(o.taken for o in found),
        events=sum(o.events for o in found),
    )


def _run(bundle: Bundle, side: Side, folder: Path, records: Sequence[Rec], cuts: Iterable[int] = (1 << 30,)) -> Outcome:
    """One processor over the whole of `records`, written and closed."""
    processor = _open(bundle, side, folder)
    outcome = _apply(processor, records, cuts)
    processor.flush()
    _close(processor)
    return outcome


def _click(user: str = "u1", *, id: str = "e1", time: int = NOW - 1000, **fields: Any) -> Behaviour:
    return Behaviour(user, fields.pop("item", "i1"), fields.pop("action", "rate"), fields.pop("value", 3.0), time, id)


# -- what is no Block


def _strange(name: str) -> Rec:
    (good,) = log_of([_click(id="b")])
    assert good.value is not None
    return {
        "no header": replace(good, header=b""),
        "no value": replace(good, value=None),
        "another header": replace(good, header=b"[1]"),
        "other bytes": replace(good, value=good.value[:-1] + b"x"),
        "cut short": replace(good, value=good.value[:20]),
        "empty": replace(good, value=b""),
    }[name]


@pytest.mark.parametrize("name", ["no header", "no value", "another header", "other bytes", "cut short", "empty"])
def test_what_is_no_block_is_told_of_and_stepped_over(
    name: str, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger's record between two Blocks of one user: both of those count, and the log says where it is."""
    (home,) = partitions_of([b"u1"], COUNT).tolist()
    before, after = log_of([_click(id="a")])[0], log_of([_click(id="c", time=NOW)])[0]
    records = [before, replace(_strange(name), offset=1), replace(after, offset=2)]
    strangers: list[Any] = []
    remove = add_hook(lambda name, details: strangers.append(details["partition"]) if name == "stranger" else None)
    try:
        with caplog.at_level(logging.WARNING):
            outcome = _run(bundle, "user", tmp_path, records)
    finally:
        remove()
    assert (outcome.taken, outcome.events, outcome.offsets) == (3, 2, {home: 3})
    assert strangers == [home] and f"events.user[{home}], offset 1 is no block" in caplog.text
    assert [key for key, _ in _told(outcome)] == [b"u1"]


def test_a_block_of_a_later_version_stops_the_worker(bundle: Bundle, tmp_path: Path) -> None:
    """Stepped over, its events would be lost: whoever started it is told to upgrade, and where it stands."""
    (good,) = log_of([_click()])
    later = replace(good, header=good.header.replace(b"[%d," % VERSION, b"[%d," % (VERSION + 1), 1))
    assert later.header != good.header
    processor = _open(bundle, "user", tmp_path)
    with pytest.raises(
        BlockTooNew, match=rf"version {VERSION + 1}.*events\.user\[{good.partition}\], offset 0.*Upgrade"
    ):
        processor.apply(batches_of([later]))
    _close(processor)


def test_blocks_as_large_as_they_may_be_leave_only_their_row_in_memory(bundle: Bundle, tmp_path: Path) -> None:
    """What grows with a producer's bytes would end the worker: 3,000 valid events of one user had cost 3 GB."""
    processor, pick = _open(bundle, "user", tmp_path), random.Random(1)

    def apply(first: int, count: int) -> int:
        genres = [[f"{pick.getrandbits(32):08x}" for _ in range(5800)] for _ in range(count)]
        events = [
            Behaviour("u1", "i1", "rate", 3.0, NOW - n, f"e{first + n}", {"genres": g}) for n, g in enumerate(genres)
        ]
        counted = processor.apply(batches_of([replace(r, offset=first + r.offset) for r in log_of(events)])).events
        processor.flush()
        return counted

    apply(0, 10)
    tracemalloc.start()
    try:
        assert sum(apply(10 + 20 * turn, 20) for turn in range(10)) == 200
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1 << 20, f"{kept >> 20} MiB are kept"
    _close(processor)


def test_two_users_events_of_one_id_both_reach_the_item_however_the_batches_are_cut(
    bundle: Bundle, tmp_path: Path, stored: Stored
) -> None:
    """A foreign producer may number each user's events from 1: on the item side they share (item, time, id)."""
    events = [Behaviour(f"u{n}", "i1", "rate", 2.0, NOW - 1000, "1") for n in range(5)]
    _run(bundle, "item", tmp_path / "whole", log_of(events, "item", size=9))
    _run(bundle, "item", tmp_path / "single", log_of(events, "item"), cuts=(1,))
    whole, single = (stored(bundle, tmp_path / name, "item") for name in ("whole", "single"))
    assert whole == single
    assert np.frombuffer(whole["i1"][0][:16], np.int64)[1] == 5


def test_ten_events_of_one_user_are_one_vectors_record(bundle: Bundle, tmp_path: Path) -> None:
    """Coalescing: the batch is folded, then what changed is encoded once."""
    events = [_click(id=f"e{n}", time=NOW - n * 1000) for n in range(10)]
    outcome = _run(bundle, "user", tmp_path, log_of([*events, _click("u2")]))
    assert Counter(key for key, _ in _told(outcome)) == {b"u1": 1, b"u2": 1}
    assert (outcome.taken, outcome.events) == (11, 11)


# -- law 3: the same log gives the same bytes


def _sidelog_of(history: History, arrivals: Arrivals, side: Side, seed: int = 0) -> list[Event]:
    """A side's whole log, with hourly ticks in it, the last of them NOW's."""
    seen: set[tuple[str, int | None, str | None]] = set()
    events: list[Event] = []
    for e in arrivals(history, seed):
        if not isinstance(e, Behaviour):
            events += [e] if side == "user" else []
        elif (e.user, e.time, e.id) not in seen:
            seen.add((e.user, e.time, e.id))
            events.append(e)
    if side == "item":
        events = [*history.items, *events]
    hours = range(NOW // HOUR_MS * HOUR_MS - 9 * HOUR_MS, NOW + 1, HOUR_MS)
    step = len(events) // len(hours)
    with_ticks: list[Event] = []
    for n, hour in enumerate(hours):
        with_ticks += events[n * step : (n + 1) * step] if n + 1 < len(hours) else events[n * step :]
        with_ticks.append(Tick(hour))
    return with_ticks


@pytest.mark.parametrize("side", ["user", "item"])
def test_states_and_vectors_do_not_depend_on_batch_cuts_neighbours_or_reopenings(
    side: Side, bundle: Bundle, tmp_path: Path, make_history: MakeHistory, arrivals: Arrivals, stored: Stored
) -> None:
    """Byte-equal: one batch; random cuts; blocks of many events; only some entities; a flush and a reopening now and
    then; a crash and a second fold."""
    pick = random.Random(4)
    log = _sidelog_of(make_history(1200), arrivals, side)
    records = log_of(log, side)
    _run(bundle, side, tmp_path / "whole", records)
    expected = stored(bundle, tmp_path / "whole", side)
    assert len(expected) > 20

    _run(bundle, side, tmp_path / "cuts", records, cuts=[pick.choice([1, 3, 50, 130, 400]) for _ in range(400)])
    assert stored(bundle, tmp_path / "cuts", side) == expected

    _run(bundle, side, tmp_path / "blocks", log_of(log, side, size=170), cuts=[1, 2, 5])
    assert stored(bundle, tmp_path / "blocks", side) == expected

    chosen = set(pick.sample(sorted(expected), 5))
    alone = [r for r in records if not r.keys or {k.decode() for k in r.keys} <= chosen]
    _run(bundle, side, tmp_path / "alone", alone, cuts=[17])
    assert stored(bundle, tmp_path / "alone", side) == {e: v for e, v in expected.items() if e in chosen}

    _run_with_crashes(bundle, side, tmp_path / "crashes", records, pick)
    assert stored(bundle, tmp_path / "crashes", side) == expected


def _run_with_crashes(bundle: Bundle, side: Side, folder: Path, records: list[Rec], pick: random.Random) -> None:
    """As a worker does: batches are committed, the store lags, crashes drop what is in memory, the gap is folded
    silently."""
    committed = 0
    while committed < len(records):
        processor = _open(bundle, side, folder)
        behind = [r for r in records[:committed] if r.offset >= processor.partitions[r.partition].meta.offset]
        if behind:
            assert not processor.apply(batches_of(behind), aloud=False).records
        for _ in range(pick.randint(1, 6)):
            processor.apply(batches_of(records[committed : (committed := committed + pick.randint(1, 120))]))
            if pick.random() < 0.3:
                processor.flush()
        _close(processor)
    processor = _open(bundle, side, folder)
    behind = [r for r in records if r.offset >= processor.partitions[r.partition].meta.offset]
    processor.apply(batches_of(behind), aloud=False)
    processor.apply([])
    processor.flush()
    _close(processor)


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_stream_ends_where_the_replay_of_the_same_history_ends(
    side: Side, bundle: Bundle, tmp_path: Path, make_history: MakeHistory, arrivals: Arrivals, stored: Stored
) -> None:
    """State and vectors, to the bit: what evaluation and training see is what is served."""
    history = make_history(1200, seed=2)
    _run(bundle, side, tmp_path, log_of(_sidelog_of(history, arrivals, side, seed=9), side, size=3), cuts=[111])
    found = stored(bundle, tmp_path, side)

    clock = NOW // HOUR_MS * HOUR_MS
    log = SideLog.of(bundle.spec, side, history)
    count = len(log.entities)
    layout, codec = bundle.layouts[side], codec_of(bundle, side)
    rows = snapshots(layout, log, np.arange(count), np.full(count, 1 << 62), np.full(count, clock, dtype=np.int64))
    assert {e: layout.pack(rows[n]) for n, e in enumerate(log.entities)} == {
        e: state for e, (state, _) in found.items()
    }
    entities, encoded = final_vectors(bundle, history, side, clock)
    for n, entity in enumerate(entities):
        (row,) = np.frombuffer(found[entity][1], codec.dtype)
        for slot, segment in zip(codec.segments, encoded, strict=True):
            mine = row["segments"][slot.name]
            assert mine["vector"].tolist() == segment.vectors[n].tolist()
            assert mine["scale"] == segment.scale[n]
            assert mine["last_event"] == segment.newest[n]
            assert mine["encoder"] == slot.encoder


OTHER_PROCESS = """
import sys
from pathlib import Path
import msgspec
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source
bundle_folder, side, count, log, folder, cut = sys.argv[1:]
records = msgspec.msgpack.decode(Path(log).read_bytes())
processor = Processor(Bundle.load(Path(bundle_folder)), side, Topics(), "g1", int(count), Path(folder))
for partition in range(int(count)):
    processor.open(partition, Source(processor.topic, partition, "topic-1"), 0)
for start in range(0, len(records), int(cut)):
    part = {}
    for partition, header, *fields in records[start : start + int(cut)]:
        part.setdefault(partition, []).append((None, *fields, 1, [(HEADER, header)]))
    processor.apply([PartitionBatch(p, *map(list, zip(*rows))) for p, rows in part.items()])
processor.flush()
for partition in list(processor.partitions):
    processor.close(partition)
"""


def test_another_process_gives_the_same_bytes(
    bundle: Bundle, tmp_path: Path, make_history: MakeHistory, arrivals: Arrivals, stored: Stored
) -> None:
    """Hash seeds, threads and whatever was computed before leave no trace in state or vectors."""
    records = log_of(_sidelog_of(make_history(600), arrivals, "user"), size=2)
    _run(bundle, "user", tmp_path / "here", records, cuts=[250])
    log = tmp_path / "log"
    log.write_bytes(msgspec.msgpack.encode([(r.partition, r.header, r.value, r.offset) for r in records]))
    saved = bundle.save(tmp_path / "bundles")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "11"}
    subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, saved, "user", str(COUNT), log, tmp_path / "there", "97"],
        check=True,
        env=environment,
        timeout=120,
    )
    assert stored(bundle, tmp_path / "there", "user") == stored(bundle, tmp_path / "here", "user")


# -- ticks: windows and retirement


def test_a_tick_that_ends_a_window_emits_the_items_that_it_changed(bundle: Bundle, tmp_path: Path) -> None:
    """Six hours after its event an item's window is empty; an item whose window did not move is left alone."""
    old, young = _acted("i1", NOW - 5 * HOUR_MS), _acted("i2", NOW)
    processor = _open(bundle, "item", tmp_path)

    def step(*events: Event) -> list[tuple[bytes | None, bytes | None]]:
        return _told(processor.apply(batches_of(log_of(events, "item"))))

    before = dict(step(old, young))
    assert step(Tick(NOW)) == []
    ((key, value),) = step(Tick(NOW + 2 * HOUR_MS))
    assert key == b"i1"
    changed, was = (_row(bundle, "item", v)["stats"] for v in (value, before[b"i1"]))
    assert changed["vector"].tolist() != was["vector"].tolist()
    assert changed["last_event"] == was["last_event"]
    assert step(Tick(NOW + HOUR_MS)) == []  # a step back
    _close(processor)


def _acted(item: str, time: int) -> Behaviour:
    return Behaviour("u1", item, "rate", 4.0, time, f"{item}-{time}")


def _row(bundle: Bundle, side: Side, value: bytes | None) -> Any:
    assert value is not None
    rows, _ = codec_of(bundle, side).unpack([value])
    return rows[0]["segments"]


@pytest.fixture(scope="module")
def retiring(spec_tables: dict[str, Any], make_history: MakeHistory) -> Bundle:
    """The small model, whose users retire after thirty hours."""
    tables = {**spec_tables, "events": {**spec_tables["events"], "retire_users_after": "30h"}}
    return train(parse_spec(tables), make_history(600), TrainingOptions(epochs=1, seed=1))


def test_retirement_is_the_same_for_any_cut_of_thelog_of(retiring: Bundle, tmp_path: Path, stored: Stored) -> None:
    """Idle users go at the tick after their time, those who come back begin anew, and a tombstone follows each that
    left."""
    pick = random.Random(2)
    events: list[Event] = []
    for hour in range(120):
        now = NOW + hour * HOUR_MS
        awake = [f"u{n}" for n in range(12) if hour // 36 % 3 != n % 3]
        events += [_click(pick.choice(awake), id=f"{hour}-{n}", time=now + n) for n in range(6)]
        events.append(Tick(now))
    outcomes = [
        _run(retiring, "user", tmp_path / str(n), log_of(events, size=size), cuts)
        for n, (size, cuts) in enumerate(
            [(1, [1 << 30]), (1, [1]), (1, [pick.randint(1, 90) for _ in range(300)]), (50, [2])]
        )
    ]
    gone = [sorted((r.partition, r.key) for r in o.records if r.value is None) for o in outcomes]
    assert len(gone[0]) > 5 and gone == [gone[0]] * 4
    first, *others = (stored(retiring, tmp_path / str(n), "user") for n in range(4))
    assert first and all(other == first for other in others)
    for n, outcome in enumerate(outcomes):
        last = dict(_told(outcome))
        assert {k.decode() for k, v in last.items() if k is not None and v is not None} == set(first), n


# -- law 5: stale is never served as fresh


@pytest.fixture(scope="module")
def overflowing(bundle: Bundle) -> Bundle:
    """The small model with profile weights so large that an age of 1e14 is past float32, and common ones are not; of
    before there were bounds, which would not let such an age in."""
    name = "user.profile.layers.0.weight"
    tensors = {n: t for n, t in bundle.tensors.items() if not n.startswith("user.profile.bounds.")}
    return Bundle(bundle.spec, {**tensors, name: tensors[name] * np.float32(1e28)}, bundle.record)


def test_an_encoder_that_overflows_keeps_the_last_good_vector_held_at_its_time(
    overflowing: Bundle, tmp_path: Path
) -> None:
    """The segment stays where it was, says so, and is fresh again with the next state that can be encoded."""
    processor = _open(overflowing, "user", tmp_path)
    held: list[dict[str, Any]] = []
    remove = add_hook(lambda name, details: held.append(dict(details)) if name == "held" else None)

    (home,) = partitions_of([b"u1"], COUNT).tolist()

    def step(n: int, *events: Event) -> Any:
        records = [replace(r, offset=n) for r in log_of(events)]
        ((_, value),) = _told(processor.apply(batches_of(records), {home: NOW + n}))
        processor.flush()
        return _row(overflowing, "user", value)

    try:
        good = step(1, UserProfile("u1", {"age": 30.0}, NOW, "a"))["profile"]
        assert (good["as_of"], good["flags"]) == (NOW + 1, 0) and good["vector"].any()

        row = step(2, UserProfile("u1", {"age": 1e14}, NOW + 1, "b"), _click())
        assert row["profile"]["vector"].tolist() == good["vector"].tolist()
        assert (row["profile"]["as_of"], row["profile"]["flags"]) == (NOW + 1, HELD)
        assert (row["recent"]["as_of"], row["recent"]["flags"]) == (NOW + 2, 0)
        assert held == [{"side": "user", "segment": "profile", "rows": 1}]

        row = step(3, _click(id="e2"))  # other segments go on, this one stays where it was
        assert (row["profile"]["as_of"], row["profile"]["flags"]) == (NOW + 1, HELD)
        assert row["recent"]["as_of"] == NOW + 3

        _close(processor)
        processor = _open(overflowing, "user", tmp_path)
        row = step(4, _click(id="e3"))
        assert (row["profile"]["as_of"], row["profile"]["flags"]) == (NOW + 1, HELD)

        row = step(5, UserProfile("u1", {"age": 31.0}, NOW + 2, "c"))
        assert (row["profile"]["as_of"], row["profile"]["flags"]) == (NOW + 5, 0)
    finally:
        remove()
        _close(processor)


def test_a_first_vector_that_is_not_finite_is_the_default_one_held_at_no_time(
    overflowing: Bundle, tmp_path: Path
) -> None:
    """Nothing good ever was: the default stands in, marked as such, and is never as of now."""
    processor = _open(overflowing, "user", tmp_path)
    as_of = dict.fromkeys(range(COUNT), NOW)
    ((_, value),) = _told(processor.apply(batches_of(log_of([UserProfile("u1", {"age": 1e14}, NOW, "b")])), as_of))
    profile = _row(overflowing, "user", value)["profile"]
    assert (profile["flags"], profile["as_of"]) == (HELD | DEFAULT, 0)
    ((_, empty),) = _told(processor.apply(batches_of(log_of([_click("u2")]))))
    assert profile["vector"].tolist() == _row(overflowing, "user", empty)["profile"]["vector"].tolist()
    _close(processor)


def test_every_segment_is_as_of_what_the_partition_may_claim(bundle: Bundle, tmp_path: Path) -> None:
    """Whether it changed or not; never of what the events say, and never of less than before."""
    processor = _open(bundle, "user", tmp_path)
    (home,) = partitions_of([b"u1"], COUNT).tolist()

    def as_of(claimed: dict[int, int], *events: Event) -> set[int]:
        ((_, value),) = _told(processor.apply(batches_of(log_of(events)), claimed))
        row = _row(bundle, "user", value)
        return {int(row[name]["as_of"]) for name in row.dtype.names}

    assert as_of({}, UserProfile("u1", {"age": 30.0}, NOW, "a")) == {0}
    assert as_of({home: NOW - 77}, _click(id="e2")) == {NOW - 77}
    assert as_of({}, _click(id="e3")) == {NOW - 77}
    assert as_of({home: NOW - 99}, _click(id="e4")) == {NOW - 77}
    beats = {r.partition: (r.key, r.value) for r in processor.beat(NOW)}
    assert set(beats) == {home}
    assert (beats[home][0], unpack_heartbeat(beats[home][1] or b"")) == (HEARTBEAT_KEY, NOW - 77)
    _close(processor)


def test_a_segment_without_events_is_marked_as_the_default(bundle: Bundle, tmp_path: Path) -> None:
    """A reader can tell a vector of knowledge from one of its absence; an item's id waits for nothing."""
    outcome = _run(bundle, "user", tmp_path / "u", log_of([_click()]))
    row = _row(bundle, "user", _told(outcome)[0][1])
    assert {n: int(row[n]["flags"]) for n in row.dtype.names} == {"profile": DEFAULT, "recent": 0, "taste": 0}
    outcome = _run(bundle, "item", tmp_path / "i", log_of([_acted("i1", NOW)], "item"))
    row = _row(bundle, "item", _told(outcome)[0][1])
    assert {n: int(row[n]["flags"]) for n in row.dtype.names} == {"id": 0, "content": DEFAULT, "stats": 0}


# -- the store lags, never leads


def test_what_was_folded_silently_is_emitted_by_whoever_owns_it_next(bundle: Bundle, tmp_path: Path) -> None:
    """A crash between the silent fold and the next aloud batch, after a flush: what waits is written with the state."""
    processor = _open(bundle, "user", tmp_path)
    silent = processor.apply(batches_of(log_of([_click()])), aloud=False)
    assert not silent.records and silent.events == 1
    home = int(partitions_of([b"u1"], COUNT)[0])
    processor.flush()
    _close(processor)
    processor = _open(bundle, "user", tmp_path)
    assert processor.partitions[home].meta.offset == 1
    late = processor.apply([])
    assert [k for k, _ in _told(late)] == [b"u1"]
    assert (late.offsets, set(late.told)) == ({}, {home})  # where it stands goes with it, though nothing was read
    processor.flush()
    _close(processor)
    processor = _open(bundle, "user", tmp_path)
    assert processor.partitions[home].meta.offset == 1
    assert not processor.apply([]).records
    _close(processor)
