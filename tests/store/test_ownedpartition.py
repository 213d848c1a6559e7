"""One owned partition in memory and its store: rows come in as they went out, and a store of something else is
refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.arrays import Ints
from forebay.clock import HOUR_MS
from forebay.errors import StoreError, StoreLocked, StoreMissing, TopicMismatch
from forebay.events import Behaviour, Event, Tick
from forebay.segments.bundle import Bundle
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.spec import parse_spec
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import ACCEPTED
from forebay.segments.training import untrained
from forebay.store.codec import codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta

from ..segments.played import stretches

NOW = 1_790_000_000_000


@pytest.fixture
def meta(bundle: Bundle) -> PartitionMeta:
    """What an empty store of the user side would start from."""
    return PartitionMeta("behaviour", 3, "topic-1", 4, bundle.layouts["user"].digest, 7)


YEAR_MS = 365 * 24 * HOUR_MS


def _open(
    bundle: Bundle, path: Path, meta: PartitionMeta, *, whole: bool = False, create: bool = True
) -> OwnedPartition:
    """With `whole`, users retire after a year: such a partition is held whole."""
    retire = YEAR_MS if whole else 0
    fold, codec = Fold(bundle.layouts["user"]), codec_of(bundle, "user")
    return OwnedPartition.open(path, fold, codec, codec.empty(1), meta, create=create, retire_after_ms=retire)


def _rows(partition: OwnedPartition, *entities: str) -> Ints:
    return partition.rows_of(Ids.of(entities))


def _fold(bundle: Bundle, partition: OwnedPartition, *events: Event, encode: bool = True) -> list[str]:
    """Fold events and, with `encode`, put zero vectors where some wait; returns the ids that a tick retired."""
    folded = [partition.fold(stretch) for stretch in stretches(ColumnCoder(bundle.spec, "user"), events)]
    if encode:
        _encode(partition)
    return [name.decode() for retired in folded for name in retired]


def _encode(partition: OwnedPartition) -> list[str]:
    """Put zero vectors where some wait; returns the ids that go into the log."""
    waits, found = partition.waiting(), {}
    for place, segment in enumerate(partition.codec.segments):
        count = len(waits.of(place))
        zeros = np.zeros((count, segment.dim), np.int8)
        ones = np.ones(count)
        found[place] = SegmentVectors(
            zeros, ones.astype(np.float32), ones.astype(np.int64), ones.astype(np.bool_), True
        )
    return [name.decode() for name, _ in partition.put(waits, found)]


def _clicks(user: str, count: int = 1, at: int = NOW) -> list[Event]:
    return [Behaviour(user, "i", "view", 1.0, at + n, f"{user} {n}") for n in range(count)]


def _counted(partition: OwnedPartition, *entities: str) -> list[int]:
    counted: list[int] = partition.rows[_rows(partition, *entities), ACCEPTED].tolist()
    return counted


@pytest.mark.parametrize("whole", [False, True])
def test_rows_are_the_same_after_a_flush_and_a_reopening(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta, whole: bool
) -> None:
    """Past the first 1,024 rows too, read one by one or all at once; what is stored needs no encoding."""
    names = [f"ü{n}" for n in range(1500)]
    partition = _open(bundle, tmp_path, meta, whole=whole)
    assert partition.meta.offset == 7
    _fold(bundle, partition, *(e for n, name in enumerate(names) for e in _clicks(name, 1 + n % 3)))
    expected = partition.rows[_rows(partition, *names)].copy()
    assert expected[:, ACCEPTED].tolist() == [1 + n % 3 for n in range(1500)]
    partition.advance(2000, NOW)
    partition.flush()
    partition.close()
    partition = _open(bundle, tmp_path, meta, whole=whole)
    assert (partition.meta.offset, partition.meta.as_of) == (2000, NOW)
    assert len(partition) == (1500 if whole else 0)
    at = _rows(partition, *names[::-1], "new")
    assert (partition.rows[at[:-1]] == expected[::-1]).all() and not partition.rows[at[-1]].any()
    assert partition.waiting().rows.tolist() == [at[-1]]
    partition.close()


def test_a_census_counts_what_is_in_memory_and_what_waits(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """By segment; and says up to where the store is, which a fold does not move."""
    partition = _open(bundle, tmp_path, meta)
    names = [segment.name for segment in partition.codec.segments]
    assert (partition.census().stored, partition.census().held) == (7, {"entities": 0})
    empty = sum(partition.census().memory.values())
    _fold(bundle, partition, *(e for n in range(1500) for e in _clicks(f"u{n}")), encode=False)
    partition.advance(1507, NOW)
    census = partition.census()
    assert (census.stored, census.held) == (7, {"entities": 1500})
    assert census.pending == dict.fromkeys(names, 1500)  # new rows wait in every segment
    assert sum(census.memory.values()) > empty + 476 * partition.rows.itemsize * partition.layout.width
    _encode(partition)
    assert partition.census().pending == dict.fromkeys(names, 0)
    _fold(bundle, partition, *_clicks("u3", at=NOW + 5000), encode=False)
    waits = partition.census().pending
    assert waits["recent"] == 1 and waits["profile"] == 0  # a click is none of its features
    partition.flush()
    assert partition.census().stored == 1507
    partition.close()
    partition = _open(bundle, tmp_path, meta)
    census = partition.census()
    assert (census.stored, census.pending["recent"], census.held["entities"]) == (1507, 1, 1)
    partition.close()


def test_what_was_not_flushed_is_gone_after_a_reopening(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """The store is whole flushes: rows, deletions, what waits, the clock and the offset move together."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _fold(bundle, partition, *_clicks("a"), *_clicks("b", at=NOW - YEAR_MS))
    partition.advance(8, NOW)
    partition.flush()
    assert _fold(bundle, partition, *_clicks("a", 3, at=NOW + 1), Tick(NOW + HOUR_MS)) == ["b"]
    _fold(bundle, partition, *_clicks("c"), encode=False)
    partition.advance(9, NOW + HOUR_MS)
    partition.close()
    partition = _open(bundle, tmp_path, meta)
    assert (partition.meta.offset, partition.meta.as_of, partition.meta.clock) == (8, NOW, 0)
    assert len(partition.waiting()) == 0
    assert _counted(partition, "a", "b", "c") == [1, 1, 0]
    partition.close()


def test_each_pair_waits_since_its_own_moment(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """What was encoded begins anew with the next event; what was not has waited all the while; what does not wait is of
    now."""
    partition = _open(bundle, tmp_path, meta)
    _fold(bundle, partition, Behaviour("u1", "i1", "rate", 3.0, NOW, "e1"), encode=False)
    waits = partition.waiting()
    assert (partition.waits_since(waits, 1_600) == 1_600).all()
    done, places = waits.only(np.array([0b10])), np.arange(len(partition.codec.segments))
    zeros = np.zeros((1, partition.codec.segments[1].dim), np.int8)
    one = SegmentVectors(zeros, np.ones(1, np.float32), np.ones(1, np.int64), np.ones(1, np.bool_), True)
    partition.put(done, {1: one}, waits.without(done))
    assert partition.waits_since(partition.waiting(), 3_200).tolist() == [[3_200 if p == 1 else 1_600 for p in places]]
    _fold(bundle, partition, Behaviour("u1", "i2", "rate", 3.0, NOW + 1, "e2"), encode=False)
    again = partition.waits_since(partition.waiting(), 4_800).tolist()
    assert again == [[4_800 if p == 1 else 1_600 for p in places]]
    assert partition.waits_since(partition.waiting(), 6_400).tolist() == again
    partition.close()


def test_what_waits_is_flushed_and_encoded_by_the_next_owner(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """A flush never waits for the encoders, and no event need touch what waits; once encoded it waits no more."""
    partition = _open(bundle, tmp_path, meta)
    _fold(bundle, partition, *_clicks("idle"))
    _fold(bundle, partition, *_clicks("a"), *_clicks("b"), encode=False)
    partition.advance(9, NOW)
    partition.flush()
    _fold(bundle, partition, *_clicks("a", at=NOW + 1), encode=False)
    partition.flush()
    partition.close()
    partition = _open(bundle, tmp_path, meta)
    assert partition.meta.offset == 9
    waits = partition.waiting()
    assert sorted(partition.index.names(waits.rows)) == [b"a", b"b"] and waits.masks.tolist() == [0b111] * 2
    assert sorted(_encode(partition)) == ["a", "b"]
    partition.flush()
    partition.close()
    partition = _open(bundle, tmp_path, meta)
    assert len(partition.waiting()) == 0
    assert _counted(partition, "a", "b", "idle") == [2, 1, 1]
    partition.close()


def test_what_a_tick_changes_in_a_row_that_waits_is_flushed(
    spec_tables: dict[str, Any], tmp_path: Path, meta: PartitionMeta
) -> None:
    """The row was flushed while it waited: its mark says nothing of what the store knows."""
    tables = json.loads(json.dumps(spec_tables))
    tables["user"]["taste"]["features"].append({"count": "events", "bucket": "1h", "over": "2h"})
    bundle = untrained(parse_spec(tables), np.arange(5), seed=1)
    meta = msgspec.structs.replace(meta, layout=bundle.layouts["user"].digest)
    partition = _open(bundle, tmp_path, meta)
    _fold(bundle, partition, *_clicks("a"), encode=False)
    partition.flush()
    before = partition.rows[_rows(partition, "a")].copy()
    _fold(bundle, partition, Tick(NOW + 5 * HOUR_MS), encode=False)
    moved = partition.rows[_rows(partition, "a")].copy()
    assert (moved != before).any()
    partition.flush()
    partition.close()
    partition = _open(bundle, tmp_path, meta)
    assert (partition.rows[_rows(partition, "a")] == moved).all()
    partition.close()


def test_a_retired_entitys_row_is_used_again_and_its_record_leaves_the_store(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """Nothing of the old entity is left for the new one, whether it waited or not."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _fold(bundle, partition, *_clicks("b"))
    _fold(bundle, partition, *_clicks("a", at=NOW - YEAR_MS), encode=False)
    row = _rows(partition, "a")
    partition.flush()
    assert _fold(bundle, partition, Tick(NOW + HOUR_MS), encode=False) == ["a"]
    assert partition.index.find(Ids.of(["a"])).tolist() == [-1]
    assert _rows(partition, "c").tolist() == row.tolist()
    assert not partition.rows[row].any() and partition.waiting().rows.tolist() == row.tolist()
    _encode(partition)
    partition.flush()
    assert [e for e, _ in partition.store.scan()] == [b"b", b"c"]
    assert partition.store.pending() == []
    partition.close()


def test_an_entity_that_left_and_came_back_is_in_the_store(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """Both between two flushes: the last word counts, also of whether it waits."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _fold(bundle, partition, *_clicks("a", at=NOW - YEAR_MS), encode=False)
    partition.flush()
    assert partition.store.pending() == [(b"a", 0b111)]
    assert _fold(bundle, partition, Tick(NOW + HOUR_MS), *_clicks("a", 3)) == ["a"]
    partition.flush()
    assert partition.store.pending() == []
    partition.close()
    partition = _open(bundle, tmp_path, meta, whole=True)
    assert _counted(partition, "a") == [3] and len(partition.waiting()) == 0
    partition.close()


def test_settling_leaves_deleted_rows_alone(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """A backfill's last tick may retire users: no row without an entity reaches the store."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _fold(bundle, partition, *_clicks("a", at=NOW - YEAR_MS), *_clicks("b"), Tick(NOW + HOUR_MS))
    partition.settle(40, NOW)
    partition.flush()
    assert [e for e, _ in partition.store.scan()] == [b"b"]
    row = int(_rows(partition, "c")[0])
    assert all(partition.vectors["segments"][s.name]["as_of"][row] == 0 for s in partition.codec.segments)
    partition.close()


def test_what_it_is_as_of_moves_forward_only(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """A record that claims nothing new moves the offset alone, and no vector grows older."""
    partition = _open(bundle, tmp_path, meta)
    for offset, as_of in ((8, NOW), (9, 0), (10, NOW - HOUR_MS)):
        partition.advance(offset, as_of)
        assert (partition.meta.offset, partition.meta.as_of) == (offset, NOW)
    _fold(bundle, partition, *_clicks("a"))
    row = int(_rows(partition, "a")[0])
    assert {int(partition.vectors["segments"][s.name]["as_of"][row]) for s in partition.codec.segments} == {NOW}
    partition.close()


def test_rows_of_other_encoders_wait_to_be_encoded_again(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """The state of a bundle with the same features is taken over; its vectors are not."""
    partition = _open(bundle, tmp_path, meta)
    _fold(bundle, partition, *_clicks("a", 5))
    partition.flush()
    partition.close()
    name = "user.taste.layers.0.weight"
    other = Bundle(bundle.spec, {**bundle.tensors, name: bundle.tensors[name] * np.float32(2)})
    partition = _open(other, tmp_path, meta)
    at = _rows(partition, "a")
    assert _counted(partition, "a") == [5] and partition.pending[at].tolist() == [0b111]
    partition.close()


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("retires", [False, True])
def test_rows_that_leave_memory_come_back_with_the_same_bytes(
    windows: bool, retires: bool, spec_tables: dict[str, Any], tmp_path: Path, meta: PartitionMeta
) -> None:
    """A partition that holds ten rows, and one that holds all: the same entities retire with the same ticks, and the
    same bytes are stored, through flushes, crashes and reopenings."""
    tables = json.loads(json.dumps(spec_tables))
    if windows:
        tables["user"]["taste"]["features"].append({"count": "events", "bucket": "1h", "over": "2h"})
    bundle = untrained(parse_spec(tables), np.arange(5), seed=1)
    meta = msgspec.structs.replace(meta, layout=bundle.layouts["user"].digest)
    fold, codec, retire = Fold(bundle.layouts["user"]), codec_of(bundle, "user"), 9 * HOUR_MS if retires else 0
    left = most = 0

    def opened(name: str, most_rows: int) -> OwnedPartition:
        more = {"retire_after_ms": retire, "most_rows": most_rows}
        return OwnedPartition.open(tmp_path / name, fold, codec, codec.empty(1), meta, create=True, **more)

    pick, bounded, whole = random.Random(7), opened("bounded", 10), opened("whole", 1 << 62)
    gone = 0
    for step in range(150):
        time = NOW + step * HOUR_MS // 3
        users = [f"u{int(80 * pick.random() ** 2)}" for _ in range(pick.randrange(8))]
        events: list[Event] = [
            Behaviour(user, "i", "view", 1.0, time - pick.randrange(4) * HOUR_MS, f"{step} {n}")
            for n, user in enumerate(users)
        ]
        if pick.random() < 0.3:
            events.append(Tick(time // HOUR_MS * HOUR_MS))
        encode = pick.random() < 0.8
        retired = _fold(bundle, bounded, *events, encode=encode)
        assert sorted(retired) == sorted(_fold(bundle, whole, *events, encode=encode))
        gone += len(retired)
        if pick.random() < 0.6:
            for partition in (bounded, whole):
                partition.flush()
            left += bounded.shrink(10)
            most = max(most, len(bounded))
            if pick.random() < 0.2:
                for partition in (bounded, whole):
                    partition.close()
                bounded, whole = opened("bounded", 10), opened("whole", 1 << 62)
    for partition in (bounded, whole):
        _encode(partition)
        partition.flush()
    assert left > 100 and most < 60 and (gone > 20) == retires
    assert dict(bounded.store.scan()) == dict(whole.store.scan())
    assert bounded.store.digest() == whole.store.digest()
    if retires:  # and once more, without an event
        end = Tick(NOW + 1000 * HOUR_MS)
        assert sorted(_fold(bundle, bounded, end)) == sorted(_fold(bundle, whole, end)) != []
        bounded.flush()
        assert list(bounded.store.scan()) == list(bounded.store.idle(1 << 62)) == []
    for partition in (bounded, whole):
        partition.close()


def test_what_waits_and_what_was_touched_stays(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """The rows that leave are those without an event for longest."""
    partition = _open(bundle, tmp_path, meta)
    for name in ("a", "b", "c", "d"):
        _fold(bundle, partition, *_clicks(name))
        partition.flush()
    _fold(bundle, partition, *_clicks("a", at=NOW + 1))
    _fold(bundle, partition, *_clicks("b", at=NOW + 1), encode=False)
    partition.flush()
    assert partition.shrink(4) == 0
    assert partition.shrink(2) == 2
    assert (partition.index.find(Ids.of(["a", "b", "c", "d"])) >= 0).tolist() == [True, True, False, False]
    assert partition.shrink(0) == 1  # b waits
    assert _counted(partition, "a", "b", "c", "d") == [2, 2, 1, 1]
    partition.close()


def test_a_tick_moves_the_clock_forward_only(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """A clock that steps back changes nothing."""
    partition = _open(bundle, tmp_path, meta)
    _fold(bundle, partition, Tick(NOW), Tick(NOW - HOUR_MS))
    assert partition.meta.clock == NOW
    partition.close()


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"topic_id": "topic-2"}, TopicMismatch, "deleted and created again.*backfill --generation NEW"),
        ({"partitions": 8}, TopicMismatch, "has 8 partitions, and had 4"),
        ({"layout": "other"}, StoreError, "of another spec"),
        ({"partition": 2}, StoreError, r"holds behaviour\[3\], not behaviour\[2\]"),
        ({"topic": "other"}, StoreError, r"holds behaviour\[3\], not other\[3\]"),
    ],
)
def test_a_store_of_something_else_is_refused_and_let_go(
    changed: dict[str, object], error: type[Exception], words: str, bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """By name, with what to do; the directory is free again and as it was."""
    partition = _open(bundle, tmp_path, meta)
    partition.flush()
    partition.close()
    with pytest.raises(error, match=words):
        _open(bundle, tmp_path, msgspec.structs.replace(meta, **changed))
    partition = _open(bundle, tmp_path, meta)
    assert partition.meta == meta
    partition.close()


def test_a_store_that_is_not_there_is_refused_where_none_may_be_made(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """Nothing is created by looking; one that is there is opened."""
    with pytest.raises(StoreMissing):
        _open(bundle, tmp_path / "store", meta, create=False)
    assert not (tmp_path / "store").exists()
    _open(bundle, tmp_path / "store", meta).close()
    _open(bundle, tmp_path / "store", meta, create=False).close()


def test_a_store_that_is_open_elsewhere_is_refused(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """One owner at a time."""
    partition = _open(bundle, tmp_path, meta)
    with pytest.raises(StoreLocked):
        _open(bundle, tmp_path, meta)
    partition.close()
