"""The dense rows: found by id, never half written, never another entity's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forebay.arrays import Int8s, Ints
from forebay.errors import HashCollision
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import HELD, RowCodec, Rows, SlotSpec
from forebay.store.table import SegmentTable

CODEC = RowCodec("user", (SlotSpec("s", 4, 1),))


def _rows(values: Sequence[int]) -> Rows:
    rows = CODEC.empty(len(values))
    rows["segments"]["s"]["vector"] = np.array(values)[:, None]
    rows["segments"]["s"]["as_of"] = values
    return rows


class TableMachine(RuleBasedStateMachine):
    """A table against a dict, through inserts, updates, deletes and growth from the smallest size."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SegmentTable(CODEC, 16, partitions=3)
        self.model: dict[str, tuple[int, int]] = {}

    @rule(batch=st.lists(st.tuples(st.integers(0, 80), st.integers(1, 100), st.integers(0, 2)), max_size=40))
    def upsert(self, batch: list[tuple[int, int, int]]) -> None:
        ids = [f"e{number}" for number, _, _ in batch]
        self.table.upsert(ids, _rows([value for _, value, _ in batch]), [partition for _, _, partition in batch])
        self.model.update({name: (value, part) for name, (_, value, part) in zip(ids, batch, strict=True)})

    @rule(numbers=st.sets(st.integers(0, 80), max_size=40), value=st.integers(1, 100), partition=st.integers(0, 2))
    def fill(self, numbers: set[int], value: int, partition: int) -> None:
        ids = [f"e{number}" for number in numbers]
        places, left = self.table.fill(ids, _rows([value] * len(ids)), np.full(len(ids), partition))
        assert [ids[i] for i in left.tolist()] == [name for name in ids if name in self.model]
        assert len(places) + len(left) == len(ids)
        self.model = {name: (value, partition) for name in ids} | self.model

    @rule(numbers=st.lists(st.integers(0, 80), max_size=30))
    def delete(self, numbers: list[int]) -> None:
        ids = [f"e{number}" for number in numbers]
        freed = self.table.delete(ids)
        assert [row >= 0 for row in freed.tolist()] == [name in self.model for name in ids]
        for name in ids:
            self.model.pop(name, None)

    @invariant()
    def same_as_the_dict(self) -> None:
        names = [f"e{number}" for number in range(81)]
        rows = self.table.find(names)
        assert len(self.table) == len(self.model)
        for name, row in zip(names, rows.tolist(), strict=True):
            assert (row >= 0) == (name in self.model)
            if row >= 0:
                found = (int(self.table.vectors[row, 0]), int(self.table.partitions[row]))
                assert found == self.model[name]
                assert self.table.as_of[row, 0] == self.model[name][0]
                assert self.table.ids[row] == name


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_a_table_that_is_much_deleted_from_does_not_fill_up() -> None:
    """Dead cells are cleared: ten thousand entities pass through sixteen rows."""
    table = SegmentTable(CODEC, 16, partitions=1)
    for i in range(10_000):
        table.upsert([f"e{i}"], _rows([i % 100]), [0])
        table.delete([f"e{i}"])
    assert table.capacity == 16 and len(table) == 0


def test_deleted_rows_hold_nothing() -> None:
    """Law 7: a freed row is overwritten, not only forgotten."""
    table = SegmentTable(CODEC, 16, partitions=1)
    (row,) = table.upsert(["a"], _rows([77]), [0])
    table.delete(["a"])
    assert not table.vectors[row].any() and not table.as_of[row].any() and table.ids[row] == ""


def _collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that begin with the same two letters share a hash."""
    monkeypatch.setattr("forebay.store.table.hash_ids", lambda ids: hash_ids([name[:2] for name in ids]))


def test_the_second_id_of_a_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one goes on being served with its own vector, the others of the batch are written."""
    _collide(monkeypatch)
    table = SegmentTable(CODEC, 16, partitions=1)
    table.upsert(["aa1"], _rows([1]), [0])
    assert table.colliding(["aa2", "bb1", "aa1"]) == {"aa2"}
    with pytest.raises(HashCollision, match="aa2"):
        table.upsert(["bb1", "aa2", "aa1"], _rows([5, 6, 7]), [0, 0, 0])
    first, second, other = table.find(["aa1", "aa2", "bb1"]).tolist()
    assert second == -1
    assert (table.vectors[first, 0], table.vectors[other, 0]) == (7, 5)


def test_two_new_ids_of_one_hash_in_a_batch_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier one is kept."""
    _collide(monkeypatch)
    table = SegmentTable(CODEC, 16, partitions=1)
    with pytest.raises(HashCollision):
        table.upsert(["aa1", "aa2"], _rows([1, 2]), [0, 0])
    assert table.vectors[table.find(["aa1"])[0], 0] == 1
    assert table.find(["aa2"])[0] == -1


def test_an_unknown_id_is_not_answered_with_its_hash_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can it delete it."""
    _collide(monkeypatch)
    table = SegmentTable(CODEC, 16, partitions=1)
    table.upsert(["aa1"], _rows([1]), [0])
    assert table.find(["aa2"])[0] == -1
    assert table.delete(["aa2"])[0] == -1
    assert len(table) == 1


def test_a_watermark_carries_as_of_on_unless_held() -> None:
    """Law 5: an idle entity is not old, and one whose segment waits to be encoded is not made fresh."""
    codec = RowCodec("user", (SlotSpec("s", 4, 1), SlotSpec("t", 4, 2)))
    table = SegmentTable(codec, 16, partitions=2)
    rows = codec.empty(2)
    for segment in codec.segments:
        rows["segments"][segment.name]["as_of"] = 100
    rows["segments"]["t"]["flags"] = HELD
    found = table.upsert(["a", "b"], rows, [0, 1])
    table.advance(0, 500)
    table.advance(0, 400)  # never goes back
    table.advance(1, 50)  # older than the rows themselves
    with table.lock:
        assert table.as_of_locked(np.append(found, -1)).tolist() == [[500, 100], [100, 100], [0, 0]]


def test_a_partition_that_does_not_exist_is_refused() -> None:
    """Its watermark would be read from beyond the end of the array."""
    table = SegmentTable(CODEC, 16, partitions=2)
    for partition in (-1, 2):
        with pytest.raises(ValueError, match="partition"):
            table.upsert(["a"], _rows([1]), [partition])


def test_no_row_is_torn_or_misattributed() -> None:
    """Under the lock a reader sees whole rows of the entity that it asked for, while rows are updated, freed and
    reused."""
    codec = RowCodec("user", (SlotSpec("s", 256, 1), SlotSpec("t", 256, 2)))
    table = SegmentTable(codec, 16, partitions=1)
    ids = [f"e{i}" for i in range(64)]
    stop = threading.Event()
    wrong: list[str] = []

    def write() -> None:
        rng = np.random.default_rng(0)
        rows = codec.empty(16)
        for step in range(10**9):
            if stop.is_set():
                return
            chosen = rng.choice(64, 16, replace=False)
            for segment in codec.segments:
                part = rows["segments"][segment.name]
                part["vector"] = (chosen % 64)[:, None]
                part["as_of"] = step * 64 + chosen
                part["last_event"] = step * 64 + chosen
            table.upsert([ids[i] for i in chosen], rows, np.zeros(16, np.int32))
            table.delete([ids[i] for i in chosen[:8]])

    def check(entity: int, row: int, vector: Int8s, times: Ints) -> None:
        if (vector != entity).any() or len(set(times.tolist())) != 1 or times[0] % 64 != entity:
            wrong.append(f"e{entity} row {row}: {vector.tolist()} {times.tolist()}")

    writer = threading.Thread(target=write)
    writer.start()
    wanted, seen = hash_ids(ids), 0
    for _ in range(1500):
        with table.lock:
            rows = table.find_locked(ids, wanted)
            vectors, times = table.vectors[rows], np.hstack([table.as_of[rows], table.last_event[rows]])
        for entity, row in enumerate(rows.tolist()):
            if row >= 0:
                seen += 1
                check(entity, row, vectors[entity], times[entity])
    stop.set()
    writer.join()
    assert seen > 1000 and not wrong, wrong[:3]


def test_growth_keeps_every_row(codec: RowCodec, filled: Callable[..., Rows]) -> None:
    """A table filled past its capacity in one batch holds what was written."""
    table = SegmentTable(codec, 16, partitions=1)
    rows, ids = filled(1000), [f"i{n}" for n in range(1000)]
    table.upsert(ids[:10], rows[:10], np.zeros(10, np.int32))
    table.upsert(ids[10:], rows[10:], np.zeros(990, np.int32))
    places = table.find(ids)
    assert (table.vectors[places] == codec.vectors(rows)).all()
    assert (table.scales[places] == codec.column(rows, "scale")).all()
    assert (table.flags[places] == codec.column(rows, "flags")).all()


def test_a_row_that_is_written_as_it_was_keeps_its_version() -> None:
    """What was computed from its vectors is still valid; another vector, scale, first time or owner gives it another
    one."""
    codec = RowCodec("item", (SlotSpec("a", 4, 1),))
    table = SegmentTable(codec, 16, partitions=1)
    rows = codec.empty(2)
    rows["segments"]["a"]["vector"], rows["segments"]["a"]["scale"] = 3, 0.5
    rows["segments"]["a"]["as_of"] = 10
    places = table.upsert(["x", "y"], rows, [0, 0])
    seen = {tuple(table.versions[places].tolist())}
    assert 0 not in table.versions[places]
    rows["segments"]["a"]["as_of"] = 20
    table.upsert(["x", "y"], rows, [0, 0])
    assert {tuple(table.versions[places].tolist())} == seen
    for field, value in (("vector", 4), ("scale", 0.25), ("as_of", 0)):
        rows["segments"]["a"][field][0] = value
        before = table.versions[places].copy()
        table.upsert(["x", "y"], rows, [0, 0])
        assert (table.versions[places] != before).tolist() == [True, False], field
    table.delete(["x"])
    (again,) = table.upsert(["z"], rows[:1], [0])
    assert again == places[0] and table.versions[again] not in {v for pair in seen for v in pair}
