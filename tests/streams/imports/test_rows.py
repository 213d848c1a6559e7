"""Files of every form become the same records, each with its place, in chunks of bounded size."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebay.errors import ForebayError, UsageError
from forebay.events import MAX_RECORD_BYTES, Behaviour, Event, decode, encode
from forebay.streams.imports import rows as module
from forebay.streams.imports.rawfile import MAX_NAME, RawFile, found
from forebay.streams.imports.rows import Chunk, Reader
from forebay.streams.sources.mapping import Shape

PLAIN = Shape.of((), (), (), (), "ms")
EVENTS = [Behaviour(f"u{n}", "é, i", "view", n / 2, n + 1, f"e{n}", {"genres": ["a"]}, {"n": 1.0}) for n in range(50)]


def _chunks(path: Path, shape: Shape = PLAIN) -> list[Chunk]:
    (file,) = found([str(path)], None)
    return list(Reader(shape).chunks(file))


def _read(path: Path, shape: Shape = PLAIN) -> list[tuple[int, Event]]:
    return [
        (place, decode(value)) for c in _chunks(path, shape) for place, value in zip(c.places, c.values, strict=True)
    ]


def _flat(event: Behaviour) -> dict[str, Any]:
    row = json.loads(encode(event))
    genres = row.pop("item_attributes")["genres"][0]
    return row | {"item_attributes.genres": genres, "attributes.n": row.pop("attributes")["n"]}


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 1 << 20])
@pytest.mark.parametrize("name", ["h.jsonl", "h.json.gz"])
def test_lines_are_read_whatever_the_size_of_a_read(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank ones are counted and left out, the last may have no end, and a mark of byte order is none of the first."""
    monkeypatch.setattr(module, "READ_BYTES", size)
    lines = [encode(e) for e in EVENTS]
    data = b"\xef\xbb\xbf" + b"\n".join([*lines[:20], b"", b" \r", *[line + b"\r" for line in lines[20:]]])
    data = data if size > 1 else data[3:]  # a mark is looked for in the first read
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert _read(tmp_path / name) == [(n + 1 if n < 20 else n + 3, e) for n, e in enumerate(EVENTS)]
    chunks = _chunks(tmp_path / name)
    assert chunks[-1].done == (tmp_path / name).stat().st_size
    assert size >= 1000 or max(sum(map(len, c.values)) for c in chunks) < size + 200


@pytest.mark.parametrize("size", [100, 70_000, 1 << 20])
def test_a_line_that_is_too_long_is_not_held(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of it is enough to be refused by."""
    monkeypatch.setattr(module, "READ_BYTES", size)
    lines = [encode(EVENTS[0]), b"x" * 300_000, encode(EVENTS[1]), b"y" * 300_000]
    (tmp_path / "h.jsonl").write_bytes(b"\n".join(lines))
    chunks = _chunks(tmp_path / "h.jsonl")
    values = [v for c in chunks for v in c.values]
    assert [p for c in chunks for p in c.places] == [1, 2, 3, 4]
    assert values[::2] == lines[::2] and all(len(v) > MAX_RECORD_BYTES for v in values[1::2])
    if size < MAX_RECORD_BYTES:
        assert max(map(len, values)) == MAX_RECORD_BYTES + 1


def test_lines_are_mapped_where_somebody_asks_for_it(tmp_path: Path) -> None:
    """Objects in objects by their path; what is no object is refused with its line."""
    (tmp_path / "h.jsonl").write_text('{"who":{"id":1},"sku":2,"ts":3,"action":"x"}\n[1]\n{"who":\n{"sku":2,"ts":3}\n')
    shape = Shape.of(["user=who.id", "item=sku", "time=ts"], (), (), (), "s")
    (chunk,) = _chunks(tmp_path / "h.jsonl", shape)
    assert decode(chunk.values[0]) == Behaviour("1", "2", "x", time=3000)
    assert list(chunk.places) == [1, 4] and b'"user"' not in chunk.values[1]
    assert [(r.place, r.error.reason, r.row) for r in chunk.refused] == [
        (2, "undecodable", b"[1]"), (3, "undecodable", b'{"who":')
    ]  # fmt: skip


def test_a_table_in_text_is_read_as_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By line, with quotes and line ends in them; what an attribute is, its first rows say for all."""
    monkeypatch.setattr(module, "ROWS", 20)
    rows = [_flat(e) for e in EVENTS]
    with (tmp_path / "h.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    expected = [Behaviour(e.user, e.item, e.action, e.value, e.time, e.id, {"genres": "a"}, {"n": 1.0}) for e in EVENTS]
    assert _read(tmp_path / "h.csv") == [(n + 2, e) for n, e in enumerate(expected)]
    assert len(_chunks(tmp_path / "h.csv")) == 3


def test_rows_of_a_table_in_text_are_refused_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another length, one that is not UTF-8, and one whose attribute is not what those of the first rows are."""
    monkeypatch.setattr(module, "ROWS", 3)
    text = "user,item,action,time,attributes.n,attributes.code\nu,i,a,1,,007\nu,i,a,2,5,1\nu,i\n\nu,i,\xff,3,,1\n"
    text += 'u,"i\nj",a,4,6,2\nu,i,a,5,x,3\n'
    (tmp_path / "h.csv").write_bytes(text.encode("latin-1"))
    chunks = _chunks(tmp_path / "h.csv")
    events: list[Any] = [decode(v) for c in chunks for v in c.values]
    places, refused = [p for c in chunks for p in c.places], [r for c in chunks for r in c.refused]
    assert places == [2, 3, 8] and [e.attributes.get("code") for e in events] == ["007", "1", "2"]
    assert events[2].item == "i\nj" and events[1].attributes["n"] == 5.0
    assert [(r.place, r.error.reason) for r in refused] == [
        (4, "undecodable"), (6, "undecodable"), (9, "bad_attribute")
    ]  # fmt: skip
    assert "--text attributes.n" in refused[2].error.do
    (chunk,) = _chunks(tmp_path / "h.csv", Shape.of((), (), (), ["attributes.n"], "ms"))[2:]
    assert [decode(v).attributes for v in chunk.values] == [{"n": "x", "code": "3"}]  # type: ignore[union-attr]


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    """It would hold all that follows: no field is longer than 128 KiB."""
    rest = "u,i,a,1\n" * 20_000
    (tmp_path / "h.csv").write_text('user,item,action,time\nu,i,a,1\nu,"i,a,1\n' + rest)
    chunks = _chunks(tmp_path / "h.csv")
    refused = [r for c in chunks for r in c.refused]
    assert refused[0].error.reason == "undecodable" and len(refused) < 5
    assert 1000 < sum(len(c.values) for c in chunks) < 20_000


def test_a_parquet_file_is_read_with_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Structures, maps, lists, moments finer than Python's, columns of codes; a chunk at a time."""
    monkeypatch.setattr(module, "ROWS", 20)
    count = 50
    table = pa.table(
        {
            "customer": pa.array([{"id": n, "more": "x"} for n in range(count)]),
            "item": pa.array(["i"] * count).dictionary_encode(),
            "action": ["view"] * count,
            "ts": pa.array([1_700_000_000_000_000_001 + n * 10**6 for n in range(count)], pa.timestamp("ns", "UTC")),
            "value": pa.array([None if n % 2 else 2.5 for n in range(count)]),
            "item_attributes": pa.array([[("year", 1944.0)]] * count, pa.map_(pa.string(), pa.float64())),
            "attributes.tags": [["a", "b"]] * count,
            "unused": pa.array([datetime(1, 1, 1, tzinfo=UTC)] * count, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "h.parquet")
    shape = Shape.of(["user=customer.id", "time=ts"], (), (), (), "ms")
    expected = [
        Behaviour(str(n), "i", "view", 0.0 if n % 2 else 2.5, 1_700_000_000_000 + n, None, {"year": 1944.0},
                  {"tags": ["a", "b"]})
        for n in range(count)
    ]  # fmt: skip
    assert _read(tmp_path / "h.parquet", shape) == [(n + 1, e) for n, e in enumerate(expected)]
    chunks = _chunks(tmp_path / "h.parquet", shape)
    assert [len(c.values) for c in chunks] == [20, 20, 10]
    assert chunks[-1].done == (tmp_path / "h.parquet").stat().st_size


def test_a_column_that_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    """With its file."""
    (tmp_path / "h.csv").write_text("user,item\nu,i\n")
    pq.write_table(pa.table({"user": ["u"]}), tmp_path / "h.parquet")
    for name in ("h.csv", "h.parquet"):
        with pytest.raises(UsageError, match="there is no column 'sku'") as raised:
            _chunks(tmp_path / name, Shape.of(["item=sku"], (), (), (), "ms"))
        assert raised.value.where == str(tmp_path / name)


@pytest.mark.parametrize("name", ["h.parquet", "h.jsonl.gz"])
def test_a_file_that_is_not_what_its_name_says_is_told(name: str, tmp_path: Path) -> None:
    """With its path."""
    (tmp_path / name).write_bytes(b"no such thing, and more than a few bytes of it")
    with pytest.raises(ForebayError, match="cannot be read") as raised:
        _chunks(tmp_path / name)
    assert raised.value.where == str(tmp_path / name)


def _names(urls: list[str], form: str | None = None) -> list[tuple[str, str]]:
    return [(file.name, file.format) for file in found(urls, form)]


def test_a_folder_is_read_whole_and_in_order(tmp_path: Path) -> None:
    """Names are from the folder on, wherever it lies; what is hidden or of another kind is left out."""
    for name in ("day=2/b.jsonl", "day=1/b.csv.gz", "day=1/a.parquet", "x.tsv", "_SUCCESS", ".h.jsonl", "_t/a.jsonl",
                 "notes.txt"):  # fmt: skip
        (tmp_path / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "log" / name).write_text("x")
    expected = [("log/day=1/a.parquet", "parquet"), ("log/day=1/b.csv.gz", "csv"), ("log/day=2/b.jsonl", "json"),
                ("log/x.tsv", "csv")]  # fmt: skip
    assert _names([str(tmp_path / "log")]) == expected == _names([f"file://{tmp_path}/log/"])
    assert _names([str(tmp_path / "log" / "notes.txt")], "json") == [("notes.txt", "json")]
    assert [f.separator for f in found([str(tmp_path / "log")], None)] == [",", ",", ",", "\t"]


def test_a_long_name_is_cut_and_stays_one_of_its_own(tmp_path: Path) -> None:
    """An id is made of it."""
    for folder in ("a", "b"):
        path = tmp_path / "log" / (folder * 120) / ("x" * 100 + ".jsonl")
        path.parent.mkdir(parents=True)
        path.write_text("")
    names = [name for name, _ in _names([str(tmp_path / "log")])]
    assert len(set(names)) == 2 and all(len(n.encode()) <= MAX_NAME and n.endswith(".jsonl") for n in names)


def test_files_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """And what is not there, what does not say its form, and a folder with nothing in it."""
    for folder in ("a", "b", "empty"):
        (tmp_path / folder).mkdir()
    for path in (tmp_path / "a" / "h.jsonl", tmp_path / "b" / "h.jsonl", tmp_path / "h.dat"):
        path.write_text("")
    for urls, form, says in (
        (["a/h.jsonl", "b/h.jsonl"], None, "two files are called h.jsonl"),
        (["c"], None, "there is no such file"),
        (["h.dat"], None, "its name does not say what it is"),
        (["empty"], None, "no file of a history is in it"),
        (["h.dat"], "avro", "'avro' is no format"),
    ):
        with pytest.raises(UsageError, match=says) as raised:
            found([str(tmp_path / url) for url in urls], form)
        assert raised.value.do
    assert isinstance(found([str(tmp_path / "h.dat")], "csv")[0], RawFile)
