"""An archive gives back what was written to it, and names what it lacks or what does not belong in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import ArchiveError, StoreLocked
from forebay.events import Behaviour, Event, ItemUpdate, Tick, UserProfile
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of, events_of
from forebay.segments.blocks.schema import MAX_ATTRIBUTES
from forebay.segments.history import archive as module
from forebay.segments.history.archive import Archive, Part, Place, Writer, write_imported
from forebay.segments.spec import Side

TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
VALUES = st.one_of(TEXTS, st.floats(allow_nan=False, allow_infinity=False), st.lists(TEXTS, max_size=3))
NAMES = st.one_of(st.sampled_from(["a", "a.b", "a:text", "a:texts", ":", ".", "", "item.a:number", "source"]), TEXTS)
OWN = st.dictionaries(NAMES, VALUES, max_size=3)
TIMES = st.integers(1, 1 << 52)
THOUSANDTHS = st.integers(-999_999_999, 999_999_999).map(lambda n: n / 1000)
EVENTS = st.one_of(
    st.builds(Behaviour, IDS, IDS, TEXTS, THOUSANDTHS, TIMES, IDS, OWN, OWN),
    st.builds(UserProfile, IDS, OWN, TIMES, IDS),
    st.builds(ItemUpdate, IDS, OWN, TIMES, IDS),
    st.builds(Tick, TIMES),
)
ARRIVALS = st.tuples(EVENTS, st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 3))
BLOCKS = st.lists(st.lists(ARRIVALS, min_size=1, max_size=6), max_size=5)
_folders = count()


def _block(arrivals: Sequence[tuple[Event, int, int, int]], names: tuple[str, ...]) -> Block:
    events, appends, offsets, sources = zip(*arrivals, strict=True)
    return block_of(events, appends, offsets, sources, names)


def _of(*events: Event) -> Block:
    return _block([(event, 7, n, 0) for n, event in enumerate(events)], ("behaviour/0",))


def _seen(blocks: Iterator[Block]) -> list[tuple[Event, int, int, str]]:
    """Each event with its append time, offset and source."""
    return [
        (event, append, offset, block.sources[source])
        for block in blocks
        for event, append, offset, source in zip(
            events_of(block), block.numbers("append").tolist(), block.numbers("offset").tolist(),
            block.numbers("source").tolist(), strict=True,
        )
    ]  # fmt: skip


def _part(side: Side, partition: int, first: int, behind: int, topic_id: str = "t") -> Part:
    return Part(side=side, partition=partition, count=2, topic_id=topic_id, first=first, next=behind)


def _write(url: str, part: Part, *blocks: Block) -> str:
    writer = Writer(Place.of(url))
    for block in blocks:
        writer.add(block)
    return writer.write(part)


def _acted(user: str, number: int) -> Behaviour:
    return Behaviour(user, "i", "view", 1.0, number + 1, f"e{number}")


@given(BLOCKS)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back(found: list[list[tuple[Event, int, int, int]]]) -> None:
    """Every event with its append time, offset and source: names of attributes with any sign in them, one name with
    several kinds, nulls, empty lists, and sources whose numbers differ from Block to Block."""
    url = f"memory://archive{next(_folders)}"
    names = [tuple(f"{letter}/{n}" for letter in "abcd") for n in range(len(found))]
    blocks = [_block(arrivals, own) for arrivals, own in zip(found, names, strict=True)]
    _write(url, _part("user", 1, 3, 99), *blocks)
    archive = Archive.open(url)
    assert _seen(archive.log("user")) == _seen(iter(blocks))
    assert archive.next("user") == {1: 99} and archive.next("item") == {}
    assert list(archive.log("user", 0)) == []


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new archive in a folder of this machine, and in what fsspec knows."""
    return str(tmp_path / "deep" / "archive") if request.param == "folder" else f"memory://archive{next(_folders)}"


def test_a_log_is_read_by_partition_and_offset(url: str) -> None:
    """Whatever order the files were written in; behaviours count once, though both logs have them."""
    update, profile = ItemUpdate("i", {"year": 1944.0}, 5, "up"), UserProfile("u", {"age": 4.0}, 6, "p")
    _write(url, _part("user", 1, 0, 5), _of(_acted("v", 3)))
    _write(url, _part("user", 0, 10, 12), _of(_acted("u", 2)), _of(Tick(9)))
    _write(url, _part("user", 0, 4, 10), _of(_acted("u", 1), profile))
    _write(url, _part("item", 0, 0, 7), _of(_acted("u", 1), update, _acted("u", 2), _acted("v", 3)), _of(Tick(9)))
    write_imported(Place.of(url), "old", [_of(_acted("w", 0))])
    archive = Archive.open(url)
    assert [event for event, *_ in _seen(archive.log("user"))] == [
        _acted("u", 1), profile, _acted("u", 2), Tick(9), _acted("v", 3)
    ]  # fmt: skip
    assert [event for event, *_ in _seen(archive.log("user", 1))] == [_acted("v", 3)]
    assert archive.next("user") == {0: 12, 1: 5} and archive.next("item") == {0: 7}
    assert [part.first for part in archive.parts("user")] == [4, 10, 0]
    every = [_acted("w", 0), _acted("u", 1), profile, _acted("u", 2), Tick(9), _acted("v", 3), update]
    assert [event for event, *_ in _seen(iter(archive))] == every
    assert [event for event, *_ in _seen(iter(archive))] == every, "an archive can be read again"


def test_names_of_sources_survive_several_row_groups(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many Blocks, each with a numbering of its own, in row groups that begin in the middle of one."""
    monkeypatch.setattr(module, "ROWS", 7)
    blocks = [
        _block([(_acted("u", 10 * n + k), n, k, k % 2) for k in range(10)], (f"s/{n % 3}", f"s/{n % 5}"))
        for n in range(20)
    ]
    name = _write(url, _part("user", 0, 0, 20), *blocks)
    place = Place.of(url)
    assert pq.read_metadata(place.join(name), filesystem=place.files).num_row_groups > 20
    assert _seen(Archive.open(url).log("user")) == _seen(iter(blocks))


def test_thousands_of_small_blocks_are_one_file(url: str) -> None:
    """As a quiet log has them: an event in each, and each with an attribute of its own among a few."""
    blocks = [_of(Behaviour("u", "i", "a", 0.0, n + 1, f"e{n}", {f"a{n % 5}": float(n)})) for n in range(1500)]
    _write(url, _part("user", 0, 0, 1500), *blocks)
    assert _seen(Archive.open(url).log("user")) == _seen(iter(blocks))


def test_a_block_that_is_read_has_no_more_attributes_than_a_block_can(url: str) -> None:
    """A file may have thousands of columns; each Block has those of its events, and can be a record again."""
    events = [Behaviour("u", "i", "a", 0.0, n + 1, f"e{n}", {f"a{n}-{k}": 1.0 for k in range(50)}) for n in range(30)]
    _write(url, _part("user", 0, 0, 30), *[_of(event) for event in events])
    found = list(Archive.open(url).log("user"))
    assert [event for block in found for event in events_of(block)] == events
    assert all(0 < len(block.attributes) <= MAX_ATTRIBUTES for block in found)
    assert [e for b in found for h, v in b.encode() for e in events_of(Block.decode(h, v))] == events


def test_an_import_is_cut_into_files(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them longer than it may be, and another import's stay."""
    monkeypatch.setattr(module, "ROWS_PER_FILE", 25)
    blocks = [_of(*[_acted(f"u{n}", k) for k in range(10)]) for n in range(7)]
    place = Place.of(url)
    assert write_imported(place, "one", blocks) == 70 and write_imported(place, "two", []) == 0
    assert write_imported(place, "two", blocks[:1]) == 10
    archive = Archive.open(url)
    assert archive.imported == tuple(
        f"imported/{n}.parquet" for n in ("one-00000", "one-00001", "one-00002", "one-00003", "two-00000")
    )
    rows = [pq.read_metadata(place.join(n), filesystem=place.files).num_rows for n in archive.imported]
    assert rows == [20, 20, 20, 10, 10]
    assert _seen(archive.brought()) == _seen(iter([*blocks, *blocks[:1]]))


@pytest.mark.parametrize("bound", ["ROWS_PER_FILE", "BYTES_PER_FILE", "CELLS_PER_FILE"])
def test_a_writer_says_when_a_file_is_full(bound: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each of its bounds; and one block is always taken, so that a file is never empty for its size."""
    monkeypatch.setattr(module, bound, 1)
    writer = Writer(Place.of(url))
    block = _of(_acted("u", 1), _acted("u", 2))
    assert writer.takes(block)
    writer.add(block)
    assert not writer.takes(block)
    writer.write(Part(), "imported/x.parquet")
    assert writer.takes(block) and writer.rows == 0
    monkeypatch.undo()
    writer.add(block)
    assert writer.takes(block)


def test_a_part_may_have_no_events(url: str) -> None:
    """A partition that nothing came to is known to be archived to its end."""
    _write(url, _part("item", 1, 0, 0))
    _write(url, _part("item", 1, 0, 3), _of(_acted("u", 1)))
    archive = Archive.open(url)
    assert archive.next("item") == {1: 3} and len(_seen(archive.log("item"))) == 1


def test_where_there_is_no_archive_it_is_said(url: str) -> None:
    """Of a folder that is not there, and of one with nothing in it; who writes gets an empty one."""
    with pytest.raises(ArchiveError, match="no events") as raised:
        Archive.open(url)
    assert raised.value.where == url and "forebay import" in raised.value.do
    assert Archive.at(Place.of(url)).is_empty
    _write(url, _part("user", 0, 0, 1), _of(_acted("u", 1)))
    assert not Archive.at(Place.of(url)).is_empty


def test_a_gap_between_two_files_is_refused(url: str) -> None:
    """The two are named: a record between them is missing, or is there twice."""
    first, third = _part("user", 1, 0, 10), _part("user", 1, 20, 30)
    for part in (first, third):
        _write(url, part, _of(_acted("u", part.first)))
    with pytest.raises(ArchiveError) as raised:
        Archive.open(url)
    assert raised.value.what == f"{third.name} does not go on where {first.name} ends" and raised.value.where == url
    _write(url, _part("user", 1, 10, 20), _of(_acted("u", 10)))
    assert Archive.open(url).next("user") == {1: 30}
    _write(url, _part("user", 1, 19, 30), _of(_acted("u", 19)))
    with pytest.raises(ArchiveError, match="does not go on"):
        Archive.open(url)


@pytest.mark.parametrize("partition", [0, 1])
def test_files_of_two_logs_are_refused(partition: int, url: str) -> None:
    """A topic that was made anew has the same names and offsets, and is another one."""
    _write(url, _part("user", 0, 0, 10), _of(_acted("u", 1)))
    _write(url, _part("user", partition, 10, 20, "another"), _of(_acted("u", 2)))
    with pytest.raises(ArchiveError, match="is of another log than"):
        Archive.open(url)


def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    """In a log's folder when the archive is opened, among the imported ones when it is read; no Parquet, or another
    table."""
    table = pa.table({"user": ["u"]})
    for folder in ("user", "imported"):
        for number, write in enumerate((lambda p: p.write_bytes(b"PAR1"), lambda p: pq.write_table(table, p))):
            root = tmp_path / f"{folder}{number}"
            (root / folder).mkdir(parents=True)
            write(root / folder / "x.parquet")
            with pytest.raises(ArchiveError, match="is no file of an archive") as raised:
                list(Archive.open(str(root)))
            assert raised.value.where == f"{root}/{folder}/x.parquet"


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    """Somebody changed it and left its metadata."""
    name = _write(str(tmp_path), _part("user", 0, 0, 1), _of(_acted("u", 1)))
    table = pq.read_table(tmp_path / name)
    for odd in (table.drop_columns(["user"]), table.append_column("more", [["x"]])):
        pq.write_table(odd, tmp_path / name)
        with pytest.raises(ArchiveError, match="cannot be read"):
            list(Archive.open(str(tmp_path)).log("user"))


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    """Its name orders it, so that a wrong one would hide a gap."""
    name = _write(str(tmp_path), _part("user", 0, 0, 10), _of(_acted("u", 1)))
    (tmp_path / name).rename(tmp_path / _part("user", 0, 0, 11).name)
    with pytest.raises(ArchiveError, match=f"was written as {name}"):
        Archive.open(str(tmp_path))


@pytest.mark.parametrize("imported", [False, True])
def test_a_newer_version_is_refused(imported: bool, url: str) -> None:
    """By who opens it, or reads it."""
    part = msgspec.structs.replace(_part("user", 0, 0, 1), version=module.VERSION + 1)
    writer = Writer(Place.of(url))
    writer.add(_of(_acted("u", 1)))
    writer.write(part, "imported/x.parquet" if imported else None)
    with pytest.raises(ArchiveError, match="is of version 2, and 1 is known here"):
        list(Archive.open(url))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Whichever byte of its columns was turned round: they have checksums."""
    name = _write(str(tmp_path), _part("user", 0, 0, 1), _of(*[_acted(f"u{n}", n) for n in range(3000)]))
    whole = (tmp_path / name).read_bytes()
    first = pq.read_metadata(tmp_path / name).row_group(0).column(6)
    for place in (first.dictionary_page_offset or first.data_page_offset, first.data_page_offset):
        for step in (60, 200, 500):
            damaged = bytearray(whole)
            damaged[place + step] ^= 0x40
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(ArchiveError, match="cannot be read"):
                list(Archive.open(str(tmp_path)).log("user"))
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveError, match="is no file of an archive"):
        Archive.open(str(tmp_path))


def test_what_a_crash_left_is_not_read(tmp_path: Path) -> None:
    """A part of a file, under its own name: the next run writes over it."""
    name = _write(str(tmp_path), _part("user", 0, 0, 1), _of(_acted("u", 1)))
    beside = tmp_path / _part("user", 0, 1, 2).name
    beside.with_name(f"{beside.name}.part").write_bytes(b"half")
    assert Archive.open(str(tmp_path)).next("user") == {0: 1}
    _write(str(tmp_path), _part("user", 0, 1, 2), _of(_acted("u", 2)))
    assert sorted(p.name for p in (tmp_path / "user").iterdir()) == [Path(name).name, beside.name]


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that ends before its last step leaves the archive as it was."""

    def ended(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_synced", ended)
    with pytest.raises(KeyboardInterrupt):
        _write(str(tmp_path), _part("user", 0, 0, 1), _of(_acted("u", 1)))
    assert Archive.at(Place.of(str(tmp_path))).is_empty


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    """Two that read one log at once would write the same records under two names."""
    place = Place.of(str(tmp_path / "archive"))
    with place.locked(), pytest.raises(StoreLocked, match="another process writes"), place.locked():
        pass
    with place.locked():
        pass
    assert Archive.at(place).is_empty
    shutil.rmtree(place.path)


def test_a_url_that_nobody_knows_is_refused() -> None:
    """With what would know it, where that is a package."""
    with pytest.raises(ArchiveError, match="cannot be reached") as raised:
        Archive.open("nothing://x/y")
    assert raised.value.where == "nothing://x/y"
