"""The item index of several processes: what the replica keeps is what servers search, and damage ends nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebay.arrays import Ints
from forebay.errors import IndexDamaged
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.indexkeeper import IndexOptions
from forebay.store.rowlayout import RowLayout
from forebay.store.sharedindex import FeedingIndex, MappedIndex
from forebay.store.sharedtable import SharedTable
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader

CODEC = RowCodec("item", (SlotSpec("a", 9, 0), SlotSpec("b", 16, 1)))
IDENTITY = Identity("g1", "b" * 64, RowLayout(CODEC), 1)
LIMITS = TableLimits(reserve_rows=1 << 16, reserve_name_bytes=1 << 24, least_extent_bytes=4096)
ALL = IndexOptions(flat_rows=50, recall=1.0, changed_rows=20, changed_part=1 << 30, pause_share=0)


class Written:
    """A replica's table with its index, and a server's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.random = folder, np.random.default_rng(4)
        self.begin()
        self.reader = TableReader(folder, IDENTITY, LIMITS)
        self.server = MappedIndex(self.reader)

    def begin(self) -> None:
        self.table = SharedTable(self.folder, IDENTITY, LIMITS)
        self.index = FeedingIndex(self.table, ALL)

    def end(self) -> None:
        self.index.close()
        self.table.close()

    def put(self, numbers: Ints, seed: int | None = None) -> None:
        random = self.random if seed is None else np.random.default_rng(seed)
        rows = CODEC.empty(len(numbers))
        for slot in CODEC.segments:
            part = rows["segments"][slot.name]
            part["vector"], part["scale"] = random.integers(-127, 128, (len(numbers), slot.dim)), 0.01
        self.table.upsert([f"i{n}" for n in numbers.tolist()], rows, [0] * len(numbers))

    def agree(self) -> None:
        """The server's lists, of which all are probed, find what a scan of all rows finds."""
        for _ in range(5):
            query, deny = self.random.standard_normal(25).astype(np.float32), hash_ids(["i3", "i40", "nobody"])
            found = self.server.search(query, 30, deny)
            assert found is not None
            assert found.tolist() == self.reader.best(query, 30, deny).tolist()

    @property
    def lists(self) -> Path:
        (path,) = (self.folder / "index").glob("ivf.*")
        return path


@pytest.fixture
def written(tmp_path: Path) -> Written:
    made = Written(tmp_path)
    made.put(np.arange(300))
    made.index.settle()
    return made


def test_servers_search_what_the_replica_writes(written: Written) -> None:
    """Changed, new and removed rows; a table that grows; lists that are made anew."""
    frozen = written.server.frozen
    assert frozen is not None and len(frozen.ivf) == 300 and frozen.ivf.lists > 4
    written.agree()
    for step in range(6):
        written.put(written.random.choice(300 + 400 * step, 15, replace=False))
        written.table.delete([f"i{7 * step}", f"i{7 * step + 1}"])
        written.agree()
        if step % 2:
            written.index.settle()
            written.agree()
    assert written.server.frozen is not frozen and written.index.keeper.made > 1
    assert len(list((written.folder / "index").iterdir())) == 3  # the head, one file of lists and one of changes
    written.end()


def test_a_row_beyond_the_allowed_ones_is_not_found(written: Written) -> None:
    """The bitmap is by row number: what lies behind its end is not allowed."""
    rows = written.reader.rows_of(hash_ids([f"i{n}" for n in range(300)]))
    bits = np.packbits(np.isin(np.arange(128), rows[::3]), bitorder="little")
    found = written.server.search(np.ones(25, np.float32), 300, np.empty(0, np.int64), bits)
    assert found is not None
    assert set(written.reader.rows_of(found).tolist()) == {row for row in rows[::3].tolist() if row < 128}
    written.end()


def test_no_lists_are_searched_while_there_are_few_rows(tmp_path: Path) -> None:
    made = Written(tmp_path)
    made.put(np.arange(40))
    made.index.settle()
    assert made.server.search(np.ones(25, np.float32), 3, np.empty(0, np.int64)) is None
    made.end()


def test_a_restart_goes_on_with_the_lists_that_are_there(written: Written) -> None:
    """Its load writes every row again; those that stay what they are have not changed for the index."""
    written.put(np.arange(300), seed=1)
    written.index.settle()
    written.put(np.array([5]))
    written.end()
    before = written.server.frozen
    written.begin()
    written.put(np.arange(300), seed=1)
    assert written.server.frozen is before and before is not None and len(before.changes) == 1
    written.agree()
    written.index.settle()
    assert written.server.frozen is before and written.index.keeper.made == 0
    written.end()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3000] ^= 4
    path.write_bytes(data)


def _lie(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:24] = (1 << 60).to_bytes(8, "little")  # lists
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [_cut, _flip, _lie, _empty])
def test_damaged_lists_are_not_searched_and_made_anew(written: Written, harm: Callable[[Path], None]) -> None:
    """By a server that maps them, which the replica hears of; and by a replica that starts with them."""
    copy = written.lists.with_name("copy")
    copy.write_bytes(written.lists.read_bytes())
    harm(copy)
    path = written.lists
    path.unlink()  # else the bytes would change under who has mapped them
    copy.rename(path)
    late = MappedIndex(TableReader(written.folder, IDENTITY, LIMITS))
    query, none = np.ones(25, np.float32), np.empty(0, np.int64)
    assert late.search(query, 3, none) is None
    written.index.look()
    written.index.close()
    found = late.search(query, 3, none)
    assert found is not None and found.tolist() == written.reader.best(query, 3, none).tolist()
    written.agree()
    written.table.close()
    path = written.lists
    copy.write_bytes(path.read_bytes())
    harm(copy)
    path.unlink()
    copy.rename(path)
    written.begin()
    assert late.search(query, 3, none) is None  # nothing is noted for them: they must not be gone on with
    written.index.settle()
    written.agree()
    written.end()


def test_damage_has_a_name(written: Written) -> None:
    from forebay.store import ivf

    digest = written.lists.name.removeprefix("ivf.")
    with pytest.raises(IndexDamaged, match="dimensions"):
        ivf.read(written.folder / "index", digest, 26, 2)
    written.end()
