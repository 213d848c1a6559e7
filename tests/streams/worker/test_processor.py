"""The Processor without Kafka: what it refuses, what it counts once, and that the same log always gives the same
bytes."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.clock import HOUR_MS
from forebay.events import (
    MAX_RECORD_BYTES,
    Behaviour,
    Event,
    Interaction,
    ItemUpdate,
    Tick,
    UserProfile,
    decode,
    encode,
    entity_of,
)
from forebay.segments.bundle import Bundle
from forebay.segments.evaluation.freshness import final_vectors
from forebay.segments.history import History
from forebay.segments.history.replay import SideLog, snapshots
from forebay.segments.spec import Side, parse_spec
from forebay.segments.state.ids import Ids
from forebay.segments.training import TrainingOptions, train
from forebay.store.codec import DEFAULT, HELD, codec_of
from forebay.streams.deadletters import MAX_VALUE_BYTES
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.processor import Processor
from forebay.telemetry import add_hook

NOW = 1_790_000_000_000
COUNT = 4  # partitions
MakeHistory = Callable[..., History]
Arrivals = Callable[..., list[Event]]
Stored = Callable[..., dict[str, tuple[bytes, bytes]]]


@dataclass(frozen=True)
class Record:
    """One record of a source topic."""

    partition: int
    key: bytes | None
    value: bytes | None
    offset: int
    append: int


def _log(events: Iterable[Event], *, append: int = NOW, count: int = COUNT) -> list[Record]:
    """Events as a well-behaved producer writes them; a tick goes to every partition."""
    ends: Counter[int] = Counter()
    found: list[Record] = []
    for event in events:
        if isinstance(event, Tick):
            places, key = list(range(count)), b"\0tick"
        else:
            key = entity_of(event).encode()
            places = partitions_of([key], count).tolist()
        for partition in places:
            found.append(Record(partition, key, encode(event), ends[partition], append))
            ends[partition] += 1
    return found


def _batches(records: Sequence[Record]) -> list[PartitionBatch]:
    by_partition: dict[int, list[Record]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    return [
        PartitionBatch(p, [r.key for r in part], [r.value for r in part], [r.offset for r in part],
            [r.append for r in part])
        for p, part in by_partition.items()
    ]  # fmt: skip


def _open(bundle: Bundle, side: Side, folder: Path, *, count: int = COUNT) -> Processor:
    processor = Processor(bundle, side, Topics().source(side), count, folder)
    for partition in range(count):
        processor.open(partition, "topic-1", 0)
    return processor


def _close(processor: Processor) -> None:
    for partition in list(processor.partitions):
        processor.close(partition)


def _apply(processor: Processor, records: Sequence[Record], cuts: Iterable[int] = (1 << 30,)) -> Outcome:
    """Everything in batches of `cuts` records, the last size again and again; all outcomes in one."""
    found: list[Outcome] = []
    at, size = 0, 1
    sizes = iter(cuts)
    while at < len(records):
        size = next(sizes, size)
        found.append(processor.apply(_batches(records[at : at + size])))
        at += size
    return Outcome(
        vectors=[v for o in found for v in o.vectors],
        interactions=[i for o in found for i in o.interactions],
        dead_letters=[d for o in found for d in o.dead_letters],
        watermarks={p: m for o in found for p, m in o.watermarks.items()},
        offsets={p: m for o in found for p, m in o.offsets.items()},
        events=sum(o.events for o in found),
        accepted=sum(o.accepted for o in found),
    )


def _run(
    bundle: Bundle, side: Side, folder: Path, records: Sequence[Record], cuts: Iterable[int] = (1 << 30,)
) -> Outcome:
    """One processor over the whole of `records`, written and closed."""
    processor = _open(bundle, side, folder)
    outcome = _apply(processor, records, cuts)
    processor.flush()
    _close(processor)
    return outcome


def _click(user: str = "u1", *, id: str | None = "e1", time: int | None = NOW - 1000, **fields: Any) -> Behaviour:
    return Behaviour(user, fields.pop("item", "i1"), fields.pop("action", "rate"), fields.pop("value", 3.0), time, id)


def _bad_user_records() -> dict[str, tuple[bytes | None, bytes | None]]:
    """What must not be folded: name, which starts with the reason, -> key and value."""

    def keyed(event: Event) -> tuple[bytes, bytes]:
        return entity_of(event).encode(), encode(event)

    return {
        "undecodable: no JSON": (b"u1", b"{"),
        "undecodable: nothing": (b"u1", b""),
        "undecodable: not UTF-8": (b"u1", b'{"type":"behaviour","user":"\xff"}'),
        "undecodable: deep": (b"u1", b"[" * 60_000),
        "undecodable: a missing field": (b"u1", b'{"type":"behaviour","user":"u1","action":"rate"}'),
        "undecodable: a field of another type": (b"u1", b'{"type":"behaviour","user":"u1","item":7,"action":"rate"}'),
        "undecodable: an unknown type": (b"u1", b'{"type":"purchase","user":"u1"}'),
        "undecodable: a lone surrogate": (b"u1", b'{"type":"behaviour","user":"\\ud800","item":"i","action":"rate"}'),
        "too_large": (b"u1", encode(_click(action="x" * MAX_RECORD_BYTES))),
        "late": keyed(_click(time=NOW - 24 * HOUR_MS - 1)),
        "future": keyed(_click(time=NOW + 5 * 60_000 + 2)),
        "future: a tick": (b"\0tick", encode(Tick(NOW + 5 * 60_000 + 2))),
        "future: a profile": keyed(UserProfile("u1", {}, NOW + HOUR_MS, "p")),
        "misrouted: another's key": (b"u2", encode(_click("u1"))),
        "misrouted: no key": (None, encode(_click("u1"))),
        "empty": (b"u1", None),
        "wrong_topic: an interaction": (b"i1", encode(Interaction("i1", "u1", "rate", 1.0, NOW, "e", NOW))),
        "wrong_topic: an item's update": (b"i1", encode(ItemUpdate("i1", {}, NOW, "up"))),
        "bad_id: empty": keyed(_click("")),
        "bad_id: a control character": keyed(_click("u\n1")),
        "bad_id: long": keyed(_click("u" * 257)),
        "bad_id: the event's own": keyed(_click(id="")),
        "bad_id: the item's": keyed(_click(item="\0")),
        "bad_value": keyed(_click(value=1e6)),
        "undecodable: past any float": (b"u1",
            b'{"type":"behaviour","user":"u1","item":"i","action":"rate","value":1e999}'),
        "bad_time: zero": keyed(_click(time=0)),
        "bad_time: a tick's": (b"\0tick", b'{"type":"tick","time":-5}'),
        "bad_time: past 64 bits": (b"u1",
            b'{"type":"behaviour","user":"u1","item":"i","action":"a","time":' + b"9" * 30 + b"}"),
    }  # fmt: skip


@pytest.mark.parametrize("name", _bad_user_records())
def test_a_bad_record_is_a_dead_letter_with_its_bytes_and_the_worker_goes_on(
    name: str, bundle: Bundle, tmp_path: Path
) -> None:
    """One bad record between two good ones of the same user: both count, and the letter is as the record was."""
    key, value = _bad_user_records()[name]
    home = int(partitions_of([b"u1"], COUNT)[0])
    at = home if key is None or not key else int(partitions_of([key], COUNT)[0])
    records = [
        Record(home, b"u1", encode(_click(id="a")), 0, NOW),
        Record(at, key, value, 1, NOW + 1),
        Record(home, b"u1", encode(_click(id="b")), 2, NOW + 2),
    ]
    processor = _open(bundle, "user", tmp_path)
    outcome = processor.apply(_batches(records))
    (letter,) = outcome.dead_letters
    assert letter.reason == name.partition(":")[0]
    assert (letter.key, letter.value) == (key, None if value is None else value[:MAX_VALUE_BYTES])
    assert letter.length == len(value or b"")
    assert (letter.topic, letter.partition, letter.offset, letter.append_time) == ("behaviour", at, 1, NOW + 1)
    assert letter.processor == "user"
    assert (outcome.events, outcome.accepted) == (3, 2)
    assert [decode(v).id for _, v in outcome.interactions] == ["a", "b"]  # type: ignore[union-attr]
    assert outcome.offsets == ({home: 3} if at == home else {home: 3, at: 2})
    _close(processor)


def test_the_letter_of_the_largest_record_that_a_broker_takes_is_small(bundle: Bundle, tmp_path: Path) -> None:
    """A letter adds headers: it would not fit the topic that the record itself just fitted, and stop the partition for
    good."""
    value = b'"' + b"x" * 999_998 + b'"'
    processor = _open(bundle, "user", tmp_path)
    home = int(partitions_of([b"u1"], COUNT)[0])
    outcome = processor.apply(_batches([Record(home, b"u1", value, 0, NOW)]))
    (letter,) = outcome.dead_letters
    key, kept, headers = letter.to_record()
    assert key is not None and kept is not None
    assert len(key) + len(kept) + sum(len(name) + len(text) for name, text in headers) < 72_000
    assert (letter.reason, letter.length, letter.sha256) == ("too_large", 1_000_000, hashlib.sha256(value).hexdigest())
    assert outcome.offsets == {home: 1}
    _close(processor)


def test_events_as_large_as_they_may_be_leave_only_their_row_in_memory(bundle: Bundle, tmp_path: Path) -> None:
    """What grows with a producer's bytes would end the worker: 3,000 valid events of one user had cost 3 GB."""
    processor, pick = _open(bundle, "user", tmp_path), random.Random(1)
    home = int(partitions_of([b"u1"], COUNT)[0])

    def apply(first: int, count: int) -> int:
        genres = [[f"{pick.getrandbits(32):08x}" for _ in range(5800)] for _ in range(count)]
        events = [
            Behaviour("u1", "i1", "rate", 3.0, NOW - n, f"e{first + n}", {"genres": g}) for n, g in enumerate(genres)
        ]
        values = [encode(event) for event in events]
        assert 60_000 < len(values[0]) < MAX_RECORD_BYTES
        batch = PartitionBatch(home, [b"u1"] * count, values, range(first, first + count), [NOW] * count)
        accepted = processor.apply([batch]).accepted
        processor.flush()
        return accepted

    apply(0, 10)
    tracemalloc.start()
    try:
        assert sum(apply(10 + 20 * turn, 20) for turn in range(10)) == 200
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1 << 20, f"{kept >> 20} MiB are kept"
    _close(processor)


def test_a_record_on_another_partition_than_its_keys_is_a_dead_letter(bundle: Bundle, tmp_path: Path) -> None:
    """CRC32 producers: their entity's state would lie in two places."""
    home = int(partitions_of([b"u1"], COUNT)[0])
    processor = _open(bundle, "user", tmp_path)
    for partition in range(COUNT):
        outcome = processor.apply(_batches([Record(partition, b"u1", encode(_click()), 0, NOW)]))
        assert [d.reason for d in outcome.dead_letters] == ([] if partition == home else ["misrouted"])
    _close(processor)


def test_the_bounds_of_lateness_and_future_are_accepted(bundle: Bundle, tmp_path: Path) -> None:
    """Exactly H old and exactly five minutes ahead still count; profiles of any age do."""
    events: list[Event] = [
        _click(id="old", time=NOW - 24 * HOUR_MS),
        _click(id="new", time=NOW + 5 * 60_000),
        UserProfile("u1", {"age": 30.0}, 1, "p"),
        Tick(NOW + 5 * 60_000),
    ]
    outcome = _run(bundle, "user", tmp_path, _log(events))
    assert outcome.dead_letters == [] and outcome.accepted == 3


def test_an_interaction_is_not_judged_late_again(bundle: Bundle, tmp_path: Path) -> None:
    """The verdict was taken on the behaviour record: a slow user side loses nothing on the item side."""
    slow = Interaction("i1", "u1", "rate", 3.0, NOW - 30 * 24 * HOUR_MS, "e", NOW - 30 * 24 * HOUR_MS)
    outcome = _run(bundle, "item", tmp_path, _log([slow]))
    assert (outcome.accepted, outcome.dead_letters, outcome.interactions) == (1, [], [])


def test_the_item_side_refuses_what_belongs_to_the_user_side(bundle: Bundle, tmp_path: Path) -> None:
    """Behaviour and profiles on item-updates are dead letters with that reason."""
    records = [
        replace(r, key=b"u1", partition=int(partitions_of([b"u1"], COUNT)[0]))
        for r in _log([_click(), UserProfile("u1", {})])
    ]
    outcome = _run(bundle, "item", tmp_path, records)
    assert [d.reason for d in outcome.dead_letters] == ["wrong_topic"] * 2


def test_accepted_duplicate_and_dead_make_up_the_input_under_ten_percent_poison(
    bundle: Bundle, tmp_path: Path, make_history: MakeHistory, arrivals: Arrivals
) -> None:
    """Mutated bytes among good events, in batches of any size: nothing is lost and nothing stops the worker."""
    pick = random.Random(7)
    history = make_history(1500)
    records, poisoned = [], 0
    for record in _log(arrivals(history)):
        assert record.value is not None
        value = bytearray(record.value)
        if pick.random() < 0.1:
            poisoned += 1
            for _ in range(pick.randint(1, 4)):
                value[pick.randrange(len(value))] = pick.randrange(256)
        records.append(replace(record, value=bytes(value)))
    outcome = _run(bundle, "user", tmp_path, records, cuts=(1, 7, 300))
    letters = {(d.partition, d.offset): d for d in outcome.dead_letters}
    for record in records:
        if (record.partition, record.offset) in letters:
            assert letters[record.partition, record.offset].value == record.value
    assert 0 < len(letters) <= poisoned
    twice = outcome.events - outcome.accepted - len(letters)
    assert outcome.events == len(records)
    assert (
        0 < twice < 0.1 * len(records)
    )  # the 5 % of `arrivals`; a mutation may have made one of two into another event


# -- law 1: once


def _count(bundle: Bundle, processor: Processor, user: str) -> int:
    """Behaviours of `user` that state has counted."""
    partition = processor.partitions[int(partitions_of([user.encode()], COUNT)[0])]
    row = partition.rows_of(Ids.of([user]))[0]
    return int(partition.rows[row, 1])


def test_a_duplicate_counts_once_however_deep_and_whenever_it_comes(bundle: Bundle, tmp_path: Path) -> None:
    """Fifty events past a list of six, each again: at once, in a later batch, after a flush, after a reopening."""
    events = [_click(id=f"e{n}", time=NOW - 100_000 + n * 500) for n in range(50)]
    records = _log([*events, *events])
    again = [replace(r, offset=r.offset + 100) for r in _log(events)]
    processor = _open(bundle, "user", tmp_path)
    first = processor.apply(_batches(records))
    assert first.accepted == len(first.interactions) == 50
    assert processor.apply(_batches(again)).accepted == 0  # spilled, in memory
    processor.flush()
    assert processor.apply(_batches(again)).accepted == 0  # spilled, in the store
    _close(processor)
    processor = _open(bundle, "user", tmp_path)
    for record in random.Random(1).sample(again, 50):
        assert processor.apply(_batches([record])).accepted == 0
    assert _count(bundle, processor, "u1") == 50
    _close(processor)


def test_an_event_older_than_the_list_counts_once(bundle: Bundle, tmp_path: Path) -> None:
    """It never enters the list, and its second coming is recognised all the same."""
    events = [_click(id=f"e{n}", time=NOW - 100_000 + n * 500) for n in range(10)]
    old = _click(id="old", time=NOW - 20 * HOUR_MS)
    outcome = _run(bundle, "user", tmp_path, _log([*events, old, old, *events[:3], old]), cuts=(10, 1, 2, 2))
    assert outcome.accepted == 11


def test_the_same_id_at_another_time_or_of_another_user_is_another_event(bundle: Bundle, tmp_path: Path) -> None:
    """An event's identity is (entity, time, id)."""
    events = [_click(id="1"), _click(id="1", time=NOW - 2000), _click("u2", id="1")]
    assert _run(bundle, "user", tmp_path, _log([*events, *events])).accepted == 3


def test_two_users_events_of_one_id_both_reach_the_item_however_the_batches_are_cut(
    bundle: Bundle, tmp_path: Path, stored: Stored
) -> None:
    """A foreign producer may number each user's events from 1: on the item side they share (item, time, id)."""
    events = [Interaction("i1", f"u{n}", "rate", 2.0, NOW - 1000, "1", NOW) for n in range(5)]
    _run(bundle, "item", tmp_path / "whole", _log(events))
    _run(bundle, "item", tmp_path / "single", _log(events), cuts=(1,))
    whole, single = (stored(bundle, tmp_path / name, "item") for name in ("whole", "single"))
    assert whole == single
    assert np.frombuffer(whole["i1"][0][:16], np.int64)[1] == 5


def test_an_event_without_an_id_takes_its_place_in_the_log(bundle: Bundle, tmp_path: Path) -> None:
    """Read again it is the same event; sent again it is another one."""
    records = _log([_click(id=None, time=None), _click(id=None, time=None)])
    processor = _open(bundle, "user", tmp_path)
    outcome = processor.apply(_batches(records))
    assert outcome.accepted == 2
    ids = [decode(v).id for _, v in outcome.interactions]  # type: ignore[union-attr]
    assert ids == [f"behaviour-{r.partition}-{r.offset}" for r in records]
    assert processor.apply(_batches(records)).accepted == 0
    _close(processor)


def test_interactions_are_in_order_of_arrival_and_carry_the_behaviours_append_time(
    bundle: Bundle, tmp_path: Path
) -> None:
    """However a batch was sorted for the fold."""
    events = [_click(f"u{n % 3}", id=f"e{n}", time=NOW - 1000 * (n * 7 % 10)) for n in range(10)]
    records = [replace(r, append=NOW + n) for n, r in enumerate(_log(events, count=COUNT))]
    one = [r for r in records if r.partition == int(partitions_of([b"u1"], COUNT)[0])]
    outcome = _run(bundle, "user", tmp_path, one)
    sent = [decode(v) for _, v in outcome.interactions]
    assert [(e.id, e.append_time) for e in sent if isinstance(e, Interaction)] == [
        (decode(r.value or b"").id, r.append) for r in one  # type: ignore[union-attr]
    ]  # fmt: skip


def test_ten_events_of_one_user_are_one_vectors_record(bundle: Bundle, tmp_path: Path) -> None:
    """Coalescing: the batch is folded, then what changed is encoded once."""
    events = [_click(id=f"e{n}", time=NOW - n * 1000) for n in range(10)]
    outcome = _run(bundle, "user", tmp_path, _log([*events, _click("u2")]))
    assert Counter(key for _, key, _ in outcome.vectors) == {b"u1": 1, b"u2": 1}
    assert outcome.accepted == 11


# -- law 3: the same log gives the same bytes


def _side_log(history: History, arrivals: Arrivals, side: Side, seed: int = 0) -> list[Event]:
    """A side's whole log, with hourly ticks in it, the last of them NOW's."""
    events = arrivals(history, seed)
    if side == "item":
        seen: set[tuple[str, int | None, str | None]] = set()
        acted = []
        for e in events:
            if isinstance(e, Behaviour) and (e.user, e.time, e.id) not in seen:
                seen.add((e.user, e.time, e.id))
                acted.append(Interaction(e.item, e.user, e.action, e.value, e.time or 0, e.id or "", NOW))
        events = [*history.items, *acted]
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
    """Byte-equal: one batch; random cuts; only some entities; a flush and a reopening now and then; a crash and a
    second fold."""
    pick = random.Random(4)
    records = _log(_side_log(make_history(1200), arrivals, side))
    _run(bundle, side, tmp_path / "whole", records)
    expected = stored(bundle, tmp_path / "whole", side)
    assert len(expected) > 20

    _run(bundle, side, tmp_path / "cuts", records, cuts=[pick.choice([1, 3, 50, 130, 400]) for _ in range(400)])
    assert stored(bundle, tmp_path / "cuts", side) == expected

    chosen = set(pick.sample(sorted(expected), 5))
    alone = [r for r in records if r.key == b"\0tick" or (r.key or b"").decode() in chosen]
    _run(bundle, side, tmp_path / "alone", alone, cuts=[17])
    assert stored(bundle, tmp_path / "alone", side) == {e: v for e, v in expected.items() if e in chosen}

    _run_with_crashes(bundle, side, tmp_path / "crashes", records, pick)
    assert stored(bundle, tmp_path / "crashes", side) == expected


def _run_with_crashes(bundle: Bundle, side: Side, folder: Path, records: list[Record], pick: random.Random) -> None:
    """As a worker does: batches are committed, the store lags, crashes drop what is in memory, the gap is folded
    silently."""
    committed = 0
    while committed < len(records):
        processor = _open(bundle, side, folder)
        behind = [r for r in records[:committed] if r.offset >= processor.partitions[r.partition].meta.offset]
        if behind:
            assert not processor.apply(_batches(behind), aloud=False).interactions
        for _ in range(pick.randint(1, 6)):
            processor.apply(_batches(records[committed : (committed := committed + pick.randint(1, 120))]))
            if pick.random() < 0.3:
                processor.flush()
        _close(processor)
    processor = _open(bundle, side, folder)
    behind = [r for r in records if r.offset >= processor.partitions[r.partition].meta.offset]
    processor.apply(_batches(behind), aloud=False)
    processor.apply([])
    processor.flush()
    _close(processor)


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_stream_ends_where_the_replay_of_the_same_history_ends(
    side: Side, bundle: Bundle, tmp_path: Path, make_history: MakeHistory, arrivals: Arrivals, stored: Stored
) -> None:
    """State and vectors, to the bit: what evaluation and training see is what is served."""
    history = make_history(1200, seed=2)
    _run(bundle, side, tmp_path, _log(_side_log(history, arrivals, side, seed=9)), cuts=[111])
    found = stored(bundle, tmp_path, side)

    clock = NOW // HOUR_MS * HOUR_MS
    if side == "user":
        log = SideLog.of(bundle.spec, side, history.behaviours, history.profiles)
    else:
        log = SideLog.of(bundle.spec, side, history.interactions(), history.items)
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
from forebay.segments.bundle import Bundle
from forebay.streams.worker.processor import PartitionBatch, Processor
bundle_folder, side, topic, count, log, folder, cut = sys.argv[1:]
records = msgspec.msgpack.decode(Path(log).read_bytes())
processor = Processor(Bundle.load(Path(bundle_folder)), side, topic, int(count), Path(folder))
for partition in range(int(count)):
    processor.open(partition, "topic-1", 0)
for start in range(0, len(records), int(cut)):
    part = {}
    for partition, *fields in records[start : start + int(cut)]:
        part.setdefault(partition, []).append(fields)
    processor.apply([PartitionBatch(p, *map(list, zip(*rows))) for p, rows in part.items()])
processor.flush()
for partition in list(processor.partitions):
    processor.close(partition)
"""


def test_another_process_gives_the_same_bytes(
    bundle: Bundle, tmp_path: Path, make_history: MakeHistory, arrivals: Arrivals, stored: Stored
) -> None:
    """Hash seeds, threads and whatever was computed before leave no trace in state or vectors."""
    records = _log(_side_log(make_history(600), arrivals, "user"))
    _run(bundle, "user", tmp_path / "here", records, cuts=[250])
    log = tmp_path / "log"
    log.write_bytes(msgspec.msgpack.encode([(r.partition, r.key, r.value, r.offset, r.append) for r in records]))
    saved = bundle.save(tmp_path / "bundles")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "11"}
    subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, saved, "user", "behaviour", str(COUNT), log, tmp_path / "there", "97"],
        check=True,
        env=environment,
        timeout=120,
    )
    assert stored(bundle, tmp_path / "there", "user") == stored(bundle, tmp_path / "here", "user")


# -- ticks: windows and retirement


def test_a_tick_that_ends_a_window_emits_the_items_that_it_changed(bundle: Bundle, tmp_path: Path) -> None:
    """Six hours after its event an item's window is empty; an item whose window did not move is left alone."""
    old, young = _interaction("i1", NOW - 5 * HOUR_MS), _interaction("i2", NOW)
    processor = _open(bundle, "item", tmp_path)
    before = {k: v for _, k, v in processor.apply(_batches(_log([old, young]))).vectors}
    assert processor.apply(_batches(_log([Tick(NOW)], append=NOW + 1))).vectors == []
    outcome = processor.apply(_batches(_log([Tick(NOW + 2 * HOUR_MS)], append=NOW + 2 * HOUR_MS)))
    assert [k for _, k, _ in outcome.vectors] == [b"i1"]
    changed, was = (_row(bundle, "item", v)["stats"] for v in (outcome.vectors[0][2], before[b"i1"]))
    assert changed["vector"].tolist() != was["vector"].tolist()
    assert changed["last_event"] == was["last_event"]
    assert processor.apply(_batches(_log([Tick(NOW + HOUR_MS)], append=NOW + 2 * HOUR_MS))).vectors == []  # a step back
    _close(processor)


def _interaction(item: str, time: int) -> Interaction:
    return Interaction(item, "u1", "rate", 4.0, time, f"{item}-{time}", time)


def _row(bundle: Bundle, side: Side, value: bytes | None) -> Any:
    assert value is not None
    rows, _ = codec_of(bundle, side).unpack([value])
    return rows[0]["segments"]


@pytest.fixture(scope="module")
def retiring(spec_tables: dict[str, Any], make_history: MakeHistory) -> Bundle:
    """The small model, whose users retire after thirty hours."""
    tables = {**spec_tables, "events": {**spec_tables["events"], "retire_users_after": "30h"}}
    return train(parse_spec(tables), make_history(600), TrainingOptions(epochs=1, seed=1))


def test_retirement_is_the_same_for_any_cut_of_the_log(retiring: Bundle, tmp_path: Path, stored: Stored) -> None:
    """Idle users go at the tick after their time, those who come back begin anew, and a tombstone follows each that
    left."""
    pick = random.Random(2)
    events: list[tuple[int, Event]] = []
    for hour in range(120):
        now = NOW + hour * HOUR_MS
        awake = [f"u{n}" for n in range(12) if hour // 36 % 3 != n % 3]
        events += [(now, _click(pick.choice(awake), id=f"{hour}-{n}", time=now + n)) for n in range(6)]
        events.append((now, Tick(now)))
    ends: Counter[int] = Counter()
    records = []
    for append, event in events:
        for record in _log([event], append=append + 60_000):
            records.append(replace(record, offset=ends[record.partition]))
            ends[record.partition] += 1
    outcomes = [
        _run(retiring, "user", tmp_path / str(n), records, cuts)
        for n, cuts in enumerate([(1 << 30,), (1,), [pick.randint(1, 90) for _ in range(300)]])
    ]
    assert all(o.dead_letters == [] for o in outcomes)
    gone = [[(p, k) for p, k, v in o.vectors if v is None] for o in outcomes]
    assert len(gone[0]) > 5 and [sorted(g) for g in gone] == [sorted(gone[0])] * 3
    first, *others = (stored(retiring, tmp_path / str(n), "user") for n in range(3))
    assert first and all(other == first for other in others)
    for n, outcome in enumerate(outcomes):
        last = {k: v for _, k, v in outcome.vectors}
        assert {k.decode() for k, v in last.items() if v is not None} == set(first), n


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

    def step(n: int, *events: Event) -> Any:
        records = [replace(r, offset=n) for r in _log(events, append=NOW + n)]
        ((_, _, value),) = processor.apply(_batches(records)).vectors
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
    ((_, _, value),) = processor.apply(_batches(_log([UserProfile("u1", {"age": 1e14}, NOW, "b")]))).vectors
    profile = _row(overflowing, "user", value)["profile"]
    assert (profile["flags"], profile["as_of"]) == (HELD | DEFAULT, 0)
    ((_, _, empty),) = processor.apply(_batches(_log([_click("u2")]))).vectors
    assert profile["vector"].tolist() == _row(overflowing, "user", empty)["profile"]["vector"].tolist()
    _close(processor)


def test_segments_that_did_not_change_are_as_of_the_batch_too(bundle: Bundle, tmp_path: Path) -> None:
    """Up to that append time they have been applied: nothing in the log is newer."""
    processor = _open(bundle, "user", tmp_path)
    processor.apply(_batches(_log([UserProfile("u1", {"age": 30.0}, NOW, "a"), _click()])))
    ((_, _, value),) = processor.apply(_batches(_log([_click(id="e2")], append=NOW + 77))).vectors
    row = _row(bundle, "user", value)
    assert {name: int(row[name]["as_of"]) for name in row.dtype.names} == dict.fromkeys(row.dtype.names, NOW + 77)
    assert row["profile"]["last_event"] == NOW and row["recent"]["last_event"] == NOW - 1000
    _close(processor)


def test_a_segment_without_events_is_marked_as_the_default(bundle: Bundle, tmp_path: Path) -> None:
    """A reader can tell a vector of knowledge from one of its absence; an item's id waits for nothing."""
    outcome = _run(bundle, "user", tmp_path / "u", _log([_click()]))
    row = _row(bundle, "user", outcome.vectors[0][2])
    assert {n: int(row[n]["flags"]) for n in row.dtype.names} == {"profile": DEFAULT, "recent": 0, "taste": 0}
    outcome = _run(bundle, "item", tmp_path / "i", _log([_interaction("i1", NOW)]))
    row = _row(bundle, "item", outcome.vectors[0][2])
    assert {n: int(row[n]["flags"]) for n in row.dtype.names} == {"id": 0, "content": DEFAULT, "stats": 0}


# -- the store lags, never leads


def test_what_was_folded_silently_is_emitted_by_whoever_owns_it_next(bundle: Bundle, tmp_path: Path) -> None:
    """A crash between the silent fold and the next aloud batch, after a flush: what waits is written with the state."""
    processor = _open(bundle, "user", tmp_path)
    silent = processor.apply(_batches(_log([_click()])), aloud=False)
    assert not (silent.vectors or silent.interactions or silent.dead_letters)
    home = int(partitions_of([b"u1"], COUNT)[0])
    processor.flush()
    _close(processor)
    processor = _open(bundle, "user", tmp_path)
    assert processor.partitions[home].meta.offset == 1
    assert [k for _, k, _ in processor.apply([]).vectors] == [b"u1"]
    processor.flush()
    _close(processor)
    processor = _open(bundle, "user", tmp_path)
    assert processor.partitions[home].meta.offset == 1
    assert processor.apply([]).vectors == []
    _close(processor)


def test_a_silent_fold_sends_no_interactions_and_no_dead_letters(bundle: Bundle, tmp_path: Path) -> None:
    """The log has them already: they were in the transaction that carried the offsets."""
    home = int(partitions_of([b"u1"], COUNT)[0])
    records = [*_log([_click()]), Record(home, b"u1", b"{", 1, NOW)]
    processor = _open(bundle, "user", tmp_path)
    silent = processor.apply(_batches(records), aloud=False)
    assert not silent.interactions and not silent.dead_letters and silent.offsets == {home: 2}
    aloud = processor.apply([])
    assert (aloud.interactions, aloud.dead_letters) == ([], [])
    _close(processor)
