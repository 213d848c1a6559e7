"""Rows that other processes read: found by id, as they were written, and gone when they are deleted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forebay.errors import GenerationMismatch, HashCollision, StoreError, StoreLocked, TableFull
from forebay.segments.state import ids as ids_module
from forebay.segments.state.ids import hash_ids
from forebay.store import mappedtable, tablefiles
from forebay.store.codec import RowCodec, Rows, SlotSpec
from forebay.store.rowlayout import LINE, RowLayout
from forebay.store.sharedtable import SharedTable
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader

from .tablechild import CODEC, IDENTITY, content, torn

TINY = TableLimits(reserve_rows=1 << 16, reserve_name_bytes=1 << 24, least_extent_bytes=4096)


def _put(table: SharedTable, pairs: list[tuple[str, int]], partition: int = 0) -> None:
    """Rows of (id, version)."""
    numbers = np.array([len(entity) for entity, _ in pairs], np.int64)
    rows, halves = content(numbers, np.array([version for _, version in pairs], np.int64))
    table.upsert([entity for entity, _ in pairs], rows, [partition] * len(pairs), halves)


def _versions(reader: TableReader, ids: list[str]) -> list[int | None]:
    """What is read of `ids`, None for those that are not there. Rows and ids are checked."""
    hashes = hash_ids(ids)
    images, _, found, rows = reader.read(hashes)
    assert not torn(images[found]).any()
    assert reader.names(rows[found], hashes[found]) == [ids[i] for i in np.flatnonzero(found).tolist()]
    return [int(image["as_of"][0]) if there else None for image, there in zip(images, found.tolist(), strict=True)]


class TableMachine(RuleBasedStateMachine):
    """A table against a dict, through inserts, updates, deletes, growth from the smallest size, and new writers."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.table = SharedTable(self.folder, IDENTITY, TINY)
        self.reader = TableReader(self.folder, IDENTITY, TINY)
        self.model: dict[str, int] = {}

    @rule(numbers=st.sets(st.integers(0, 90), max_size=60), version=st.integers(1, 100), alone=st.booleans())
    def fill(self, numbers: set[int], version: int, alone: bool) -> None:
        ids = [f"e{number}" + "é" * (number % 30) for number in numbers]
        lengths = np.array([len(name) for name in ids], np.int64)
        rows, halves = content(lengths, np.full(len(ids), version, np.int64))
        places = self.table.fill(ids, rows, np.zeros(len(ids), np.int64), halves)
        assert (places >= 0).all() and len(set(places.tolist())) == len(ids)
        self.model |= dict.fromkeys(ids, version)
        if alone:
            self.table.retain(places)
            self.model = dict.fromkeys(ids, version)

    @rule(batch=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 100)), max_size=40))
    def upsert(self, batch: list[tuple[int, int]]) -> None:
        pairs = [(f"e{number}" + "é" * (number % 30), version) for number, version in batch]
        _put(self.table, pairs)
        self.model.update(pairs)

    @rule(numbers=st.lists(st.integers(0, 90), max_size=30))
    def delete(self, numbers: list[int]) -> None:
        ids = [f"e{number}" + "é" * (number % 30) for number in numbers]
        freed = self.table.delete(ids)
        assert [row >= 0 for row in freed.tolist()] == [name in self.model for name in ids]
        for name in ids:
            self.model.pop(name, None)

    @rule()
    def another_writer(self) -> None:
        self.table.close()
        self.table = SharedTable(self.folder, IDENTITY, TINY)
        assert self.table.mended == 0

    @invariant()
    def same_as_the_dict(self) -> None:
        names = [f"e{number}" + "é" * (number % 30) for number in range(91)]
        assert _versions(self.reader, names) == [self.model.get(name) for name in names]
        assert len(self.table) == len(self.reader) == len(self.model) and set(self.table.ids()) == set(self.model)

    def teardown(self) -> None:
        self.table.close()
        shutil.rmtree(self.folder)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@pytest.fixture
def table(tmp_path: Path) -> SharedTable:
    return SharedTable(tmp_path / "item", IDENTITY, TINY)


def test_every_field_is_read_as_it_was_written(tmp_path: Path, codec: RowCodec, filled: Callable[..., Rows]) -> None:
    """Codes, scales, times, flags, halves as float16, and the partition."""
    layout = RowLayout(codec, 5)
    identity = Identity("g1", "c" * 64, layout, 3)
    table = SharedTable(tmp_path / "t", identity, TINY)
    rows, ids, halves = filled(20), [f"i{n}" for n in range(20)], np.random.default_rng(1).normal(size=(20, 5))
    table.upsert(ids, rows, np.arange(20) % 3, halves.astype(np.float32))
    images, _, found, _ = TableReader(tmp_path / "t", identity, TINY).read(hash_ids(ids))
    assert found.all() and layout.dtype.itemsize % LINE == 0
    for field in ("scale", "as_of", "last_event", "flags"):
        assert (images[field] == codec.column(rows, field)).all()
    assert (images["codes"] == codec.vectors(rows)).all() and (images["partition"] == np.arange(20) % 3).all()
    assert (images["half"] == halves.astype(np.float32).astype(np.float16)).all()
    table.close()


def test_a_half_that_float16_cannot_hold_is_its_largest(table: SharedTable, tmp_path: Path) -> None:
    """And not infinity, which makes every score of it a NaN."""
    rows, halves = content(np.zeros(1, np.int64), np.ones(1, np.int64))
    halves[0, :2] = 1e9, -1e9
    table.upsert(["i"], rows, [0], halves)
    read = TableReader(tmp_path / "item", IDENTITY, TINY).halves(hash_ids(["i"]))[0]
    assert read[0, :2].tolist() == [65504.0, -65504.0]
    table.close()


def test_deleted_rows_and_ids_hold_nothing(table: SharedTable, tmp_path: Path) -> None:
    """Law 7: bytes are overwritten, not only forgotten."""
    secret = "a-name-that-nobody-else-has"
    _put(table, [("kept", 3), (secret, 77)])
    files = [path for path in (tmp_path / "item").iterdir() if path.name != "lock"]
    assert any(secret.encode() in path.read_bytes() for path in files)
    pattern = bytes([(77 * 7 + len(secret)) % 127]) * 300
    assert any(pattern in path.read_bytes() for path in files)
    table.delete([secret])
    assert not any(secret.encode() in path.read_bytes() or pattern in path.read_bytes() for path in files)
    assert _versions(TableReader(tmp_path / "item", IDENTITY, TINY), ["kept", secret]) == [3, None]
    table.close()


def test_a_table_that_is_much_deleted_from_does_not_fill_up(table: SharedTable, tmp_path: Path) -> None:
    """Thousands of entities pass through the same rows, cells and places of names."""
    reader, before = TableReader(tmp_path / "item", IDENTITY, TINY), None
    for i in range(3000):
        _put(table, [(f"e{i}", 5)])
        if i % 500 == 0:
            assert _versions(reader, [f"e{i}"]) == [5]
        table.delete([f"e{i}"])
        sizes = {path.name.split(".")[0]: path.stat().st_size for path in (tmp_path / "item").iterdir()}
        before = before or sizes
    assert sizes == before and len(table) == 0 and len(list((tmp_path / "item").glob("cells.*"))) == 1
    table.close()


def test_an_id_whose_hash_is_anothers_is_refused(
    table: SharedTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one goes on being served and updated; the second can neither replace nor delete it."""
    monkeypatch.setattr(ids_module, "hashes_of", lambda data, starts, ends: data[starts].astype(np.int64))
    _put(table, [("aa1", 1)])
    assert table.colliding(["aa2", "aa1", "bb1", "bb2"]) == {"aa2", "bb2"}
    with pytest.raises(HashCollision, match="aa2"):
        _put(table, [("bb1", 5), ("aa2", 6), ("aa1", 7)])
    assert table.delete(["aa2"]).tolist() == [-1] and sorted(table.ids()) == ["aa1", "bb1"]
    assert _versions(TableReader(tmp_path / "item", IDENTITY, TINY), ["aa1", "bb1"]) == [7, 5]
    table.close()


def test_an_id_that_comes_twice_ends_with_its_last_row(table: SharedTable, tmp_path: Path) -> None:
    _put(table, [("new", 1), ("b", 2), ("new", 3)])
    _put(table, [("b", 8), ("b", 9)])
    assert _versions(TableReader(tmp_path / "item", IDENTITY, TINY), ["new", "b"]) == [3, 9] and len(table) == 2
    table.close()


def test_more_rows_than_are_reserved_are_refused_by_name(tmp_path: Path) -> None:
    """Those that there is room for are there, and go on being updated."""
    limits = TableLimits(reserve_rows=100, reserve_name_bytes=1 << 20, least_extent_bytes=4096)
    table = SharedTable(tmp_path / "item", IDENTITY, limits)
    with pytest.raises(TableFull, match=r"50 new ids of 150 are not served \('e100' …\): 100 rows are all"):
        _put(table, [(f"e{n}", 1) for n in range(150)])
    _put(table, [(f"e{n}", 2) for n in range(100)])
    reader = TableReader(tmp_path / "item", IDENTITY, limits)
    assert _versions(reader, [f"e{n}" for n in range(150)]) == [2] * 100 + [None] * 50
    table.delete(["e0"])
    _put(table, [("e149", 4)])
    assert _versions(reader, ["e0", "e149"]) == [None, 4]
    table.close()


def test_one_process_writes(table: SharedTable, tmp_path: Path) -> None:
    """Another one is refused by name, and may once the first has let go."""
    with pytest.raises(StoreLocked):
        SharedTable(tmp_path / "item", IDENTITY, TINY)
    table.close()
    SharedTable(tmp_path / "item", IDENTITY, TINY).close()


def test_a_writer_finds_what_the_one_before_it_wrote(table: SharedTable, tmp_path: Path) -> None:
    """Rows and watermarks; readers need not open it again."""
    _put(table, [("a", 1), ("b", 2)], partition=1)
    table.advance(1, 50)
    table.advance(1, 40)
    reader = TableReader(tmp_path / "item", IDENTITY, TINY)
    table.close()
    table = SharedTable(tmp_path / "item", IDENTITY, TINY)
    assert table.ids() == ["a", "b"] and table.watermarks.tolist() == reader.watermarks.tolist() == [0, 50]
    _put(table, [("a", 3), ("c", 4)])
    assert _versions(reader, ["a", "b", "c"]) == [3, 2, 4] and not reader.retired
    table.close()


def test_rows_of_another_generation_or_layout_are_never_read(table: SharedTable, tmp_path: Path) -> None:
    """Law 4: a reader of another one is refused, and a writer of another one makes the table anew."""
    _put(table, [("a", 1)])
    reader = TableReader(tmp_path / "item", IDENTITY, TINY)
    table.close()
    encoders = RowCodec("item", (SlotSpec("a", 300, 1), SlotSpec("b", 84, 3)))
    for other in (
        Identity("g2", "b" * 64, IDENTITY.layout, 2),
        Identity("g1", "c" * 64, IDENTITY.layout, 2),
        Identity("g1", "b" * 64, RowLayout(CODEC, 127), 2),
        Identity("g1", "b" * 64, RowLayout(encoders, 128), 2),
    ):
        with pytest.raises(
            GenerationMismatch, match="it holds item rows of generation g1, bundle bbbbbbbbbbbb, and not"
        ):
            TableReader(tmp_path / "item", other, TINY)
    other = Identity("g2", "c" * 64, IDENTITY.layout, 2)
    table = SharedTable(tmp_path / "item", other, TINY)
    assert len(table) == 0 and reader.retired
    assert _versions(TableReader(tmp_path / "item", other, TINY), ["a"]) == [None]
    assert _versions(reader, ["a"]) == [1]  # what is mapped stays
    table.close()


def test_a_table_from_before_the_machine_started_is_made_anew(
    table: SharedTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages may have reached the disk in any order."""
    _put(table, [("a", 1)])
    table.close()
    for module in (tablefiles, mappedtable):
        monkeypatch.setattr(module, "boot_id", lambda: 7)
    table = SharedTable(tmp_path / "item", IDENTITY, TINY)
    assert len(table) == 0
    table.close()


def test_a_reader_without_a_table_says_so(tmp_path: Path) -> None:
    """And so where it is something else."""
    with pytest.raises(StoreError, match="there is no table"):
        TableReader(tmp_path, IDENTITY, TINY)
    (tmp_path / "rows").write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="this is no table"):
        TableReader(tmp_path, IDENTITY, TINY)


def test_a_crash_between_a_row_and_its_cell_leaves_nothing_wrong(
    table: SharedTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the table until the next writer, and then once; a deletion that got as far as the cell is undone."""
    _put(table, [("a", 1), ("b", 2)])
    reader = TableReader(tmp_path / "item", IDENTITY, TINY)
    cells = table._cells.copy()
    _put(table, [("c", 3)])
    table._cells[:] = cells
    table._cells[table._cells == cells[cells != 0][0]] = 0xFFFFFFFF
    assert sum(version is None for version in _versions(reader, ["a", "b", "c"])) == 2
    table.close()
    table = SharedTable(tmp_path / "item", IDENTITY, TINY)
    assert _versions(reader, ["a", "b", "c"]) == [1, 2, 3] and sorted(table.ids()) == ["a", "b", "c"]
    table.close()


def test_what_a_fill_cannot_place_is_left_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id whose hash another one has, in the table or in the batch, and one that there is no room for."""
    digest = ids_module.hashes_of

    def clashing(data: Any, starts: Any, ends: Any) -> Any:
        return digest(data, starts, np.where(data[ends - 1] == ord("'"), ends - 1, ends))  # a' has the hash of a

    monkeypatch.setattr(ids_module, "hashes_of", clashing)
    table = SharedTable(
        tmp_path, IDENTITY, TableLimits(reserve_rows=3, reserve_name_bytes=1 << 20, least_extent_bytes=1)
    )

    def fill(ids: list[str]) -> list[int]:
        numbers = np.array([len(name) for name in ids], np.int64)
        rows, halves = content(numbers, numbers)
        return table.fill(ids, rows, np.zeros(len(ids), np.int64), halves).tolist()

    assert fill(["a", "b"]) == [0, 1]
    assert fill(["a'", "b", "c", "c'", "d", "e"]) == [-1, 1, 2, -1, -1, -1]
    assert sorted(table.ids()) == ["a", "b", "c"]
    table.close()
