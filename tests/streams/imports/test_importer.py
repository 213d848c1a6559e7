"""An import takes what an Intake would take, once, and says of every other row why not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from forebay.clock import HOUR_MS, now_ms
from forebay.errors import ArchiveError, StoreLocked, UsageError
from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, encode
from forebay.segments.blocks.build import events_of
from forebay.segments.history import archive as module
from forebay.segments.history.archive import Archive, Place
from forebay.streams.imports import rows
from forebay.streams.imports.importer import Counts, Importer
from forebay.streams.imports.rawfile import found
from forebay.streams.imports.refusals import MAX_ROW, Refusals
from forebay.streams.sources.mapping import Shape

PLAIN = Shape.of((), (), (), (), "ms")


class Imports:
    """Imports into one archive, and what it holds."""

    def __init__(self, folder: Path) -> None:
        self.url, self.refused_file = str(folder / "archive"), folder / "out" / "refused.jsonl"
        self.told: list[tuple[int, int]] = []
        self.max_bytes = 1 << 30

    def __call__(self, *paths: Path, shape: Shape = PLAIN, dry: bool = False) -> Counts:
        with Refusals(str(self.refused_file)) as refusals:
            importer = Importer(
                Place.of(self.url), shape, refusals, future_after_ms=5 * 60_000, max_bytes=self.max_bytes
            )
            return importer.run(found(list(map(str, paths)), None), lambda *t: self.told.append(t), dry=dry)

    def refused(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.refused_file.read_text().splitlines()]

    def events(self) -> list[Event]:
        return [event for block in Archive.open(self.url).brought() for event in events_of(block)]

    def files(self) -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in Path(self.url).rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def imports(tmp_path: Path) -> Imports:
    """Into a new archive."""
    return Imports(tmp_path)


def _file(path: Path, events: Sequence[Event | bytes]) -> Path:
    path.write_bytes(b"".join((e if isinstance(e, bytes) else encode(e)) + b"\n" for e in events))
    return path


def _mixed(count: int, seed: int = 0) -> list[Event]:
    pick = random.Random(seed)
    made: list[Event] = []
    for n in range(count):
        user, item, time = f"u{pick.randrange(9)}", f"i{pick.randrange(9)}", pick.randrange(1, 1 << 40)
        match pick.randrange(4):
            case 0:
                made.append(UserProfile(user, {"age": float(n)}, time, f"e{seed}-{n}"))
            case 1:
                made.append(ItemUpdate(item, {"genres": ["a"]}, time, f"e{seed}-{n}"))
            case _:
                made.append(Behaviour(user, item, "view", 1.0, time, f"e{seed}-{n}", {}, {"n": float(n % 3)}))
    return made


def test_events_of_all_kinds_are_brought_in_once(imports: Imports, tmp_path: Path) -> None:
    """In their order, however old; each with its line for a place, and its own time for that of a log."""
    events = _mixed(500)
    counts = imports(_file(tmp_path / "h.jsonl", [*events, *events[::3]]))
    assert imports.events() == events
    assert (counts.accepted, counts.duplicates) == (500, len(events[::3])) and not imports.refused_file.exists()
    assert counts.kinds.total() == 500 and set(counts.kinds) == {"behaviours", "profiles", "item_updates"}
    times = [e.time or 0 for e in events]
    assert (counts.first, counts.last) == (min(times), max(times))
    blocks = list(Archive.open(imports.url).brought())
    assert {b.sources[s] for b in blocks for s in b.numbers("source").tolist()} == {"h.jsonl/0"}
    assert [o for b in blocks for o in b.numbers("offset").tolist()] == list(range(1, 501))
    assert [a for b in blocks for a in b.numbers("append").tolist()] == times
    assert imports.told[-1][0] == imports.told[-1][1] == (tmp_path / "h.jsonl").stat().st_size


def test_an_import_that_is_run_again_changes_nothing(imports: Imports, tmp_path: Path) -> None:
    """Not a file is written: by a second run, nor of another file with the same events in another order."""
    events = _mixed(300)
    imports(_file(tmp_path / "h.jsonl", events))
    before = imports.files()
    assert imports(tmp_path / "h.jsonl").duplicates == 300
    other = _file(tmp_path / "other.jsonl", random.Random(1).sample(events, 300))
    assert imports(other).duplicates == 300
    assert imports.files() == before
    assert imports(_file(tmp_path / "more.jsonl", [*events, *_mixed(10, 1)])).accepted == 10
    assert imports.events() == [*events, *_mixed(10, 1)]


def test_an_import_that_was_ended_goes_on(imports: Imports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had written stays, and the rest comes in the next run: each event once."""
    monkeypatch.setattr(module, "ROWS_PER_FILE", 100)
    monkeypatch.setattr(rows, "READ_BYTES", 3000)
    events = _mixed(500)
    _file(tmp_path / "h.jsonl", events)
    written, real = 0, module.Writer.write

    def some(self: module.Writer, part: module.Part, name: str | None = None) -> str:
        nonlocal written
        written += 1
        if written > 2:
            raise KeyboardInterrupt
        return real(self, part, name)

    with monkeypatch.context() as patch:
        patch.setattr(module.Writer, "write", some)
        with pytest.raises(KeyboardInterrupt):
            imports(tmp_path / "h.jsonl")
    held = len(imports.events())
    assert 0 < held < 500
    counts = imports(tmp_path / "h.jsonl")
    assert (counts.accepted, counts.duplicates) == (500 - held, held)
    assert imports.events() == events
    assert max(len(list(Archive(Place.of(imports.url), {}, [n]).brought())) for n in Archive.open(imports.url).imported)


def test_an_event_without_an_id_is_its_place(imports: Imports, tmp_path: Path) -> None:
    """The same wherever its folder lies; two of one file are two, and so are those of two files."""
    same = Behaviour("u", "i", "view", 1.0, 5)
    folders = [tmp_path / "a" / "log", tmp_path / "b" / "log"]
    for folder in folders:
        folder.mkdir(parents=True)
        _file(folder / "1.jsonl", [same, same])
        _file(folder / "2.jsonl", [same])
    assert imports(folders[0]).accepted == 3
    assert imports(folders[1]).duplicates == 3
    assert [e.id for e in imports.events() if isinstance(e, Behaviour)] == [
        "log-1.jsonl-0-1", "log-1.jsonl-0-2", "log-2.jsonl-0-1"
    ]  # fmt: skip


def test_one_entity_time_and_id_are_three_events(imports: Imports, tmp_path: Path) -> None:
    """A profile, an update and a behaviour; again, also after they were read back."""
    events: list[Event] = [
        Behaviour("x", "x", "a", 0.0, 5, "e"),
        UserProfile("x", {}, 5, "e"),
        ItemUpdate("x", {}, 5, "e"),
    ]
    assert imports(_file(tmp_path / "h.jsonl", events)).accepted == 3
    assert imports(_file(tmp_path / "h.jsonl", events[::-1])).duplicates == 3


def test_rows_that_are_no_events_are_told(imports: Imports, tmp_path: Path) -> None:
    """Each with its place, the reason of its dead letter, and what stands there; the good ones come in."""
    lines: list[Event | bytes] = [
        _mixed(1)[0], b"{", Behaviour("", "i", "a", time=5), Behaviour("u", "i", "a"),
        UserProfile("u", {}, now_ms() + HOUR_MS, "ahead"), b'{"type":"tick","time":3600000}', b"\xff" * 100_000,
    ]  # fmt: skip
    counts = imports(_file(tmp_path / "h.jsonl", lines))
    assert counts.accepted == 1
    found = imports.refused()
    assert [(r["place"], r["reason"]) for r in found] == [
        ("h.jsonl:2", "undecodable"), ("h.jsonl:3", "bad_id"), ("h.jsonl:4", "no_time"), ("h.jsonl:5", "future"),
        ("h.jsonl:6", "wrong_topic"), ("h.jsonl:7", "too_large"),
    ]  # fmt: skip
    assert found[0]["row"] == "{" and json.loads(found[2]["row"])["user"] == "u" and all(r["what"] for r in found)
    assert len(found[-1]["row"]) <= MAX_ROW


def test_rows_of_a_table_are_told_as_they_stand(imports: Imports, tmp_path: Path) -> None:
    """By their columns, whether the mapping or the Intake refuses them."""
    (tmp_path / "h.csv").write_text("who,item,time\nu,i,5\nu,i,soon\n,i,7\n" + "x" * 300 + ",i,8\n")
    shape = Shape.of(["user=who"], ["action=view"], (), (), "s")
    assert imports(tmp_path / "h.csv", shape=shape).accepted == 1
    assert [(r["place"], r["reason"], r["row"]["time"]) for r in imports.refused()] == [
        ("h.csv:3", "bad_time", "soon"), ("h.csv:4", "undecodable", "7"), ("h.csv:5", "bad_id", "8")
    ]  # fmt: skip
    assert imports.events() == [Behaviour("u", "i", "view", 0.0, 5000, "h.csv-0-2")]


def test_a_dry_run_writes_no_events(imports: Imports, tmp_path: Path) -> None:
    """It counts, and refuses."""
    counts = imports(_file(tmp_path / "h.jsonl", [*_mixed(20), b"{"]), dry=True)
    assert counts.accepted == 20 and [r["place"] for r in imports.refused()] == ["h.jsonl:21"]
    assert not Path(imports.url).exists()
    imports(tmp_path / "h.jsonl")
    assert imports(tmp_path / "h.jsonl", dry=True).duplicates == 20


def test_memory_for_identities_has_a_bound(imports: Imports, tmp_path: Path) -> None:
    """It is named, and nothing of what was written is lost or doubled when it is raised."""
    imports.max_bytes = 1024 * 16
    imports(_file(tmp_path / "h.jsonl", _mixed(300)))
    with pytest.raises(UsageError, match="the identities of 300 events take more than 0 MB") as raised:
        imports(_file(tmp_path / "more.jsonl", _mixed(600, 1)))
    assert "intake_memory_mb" in raised.value.do
    imports.max_bytes = 1 << 20
    assert imports(tmp_path / "more.jsonl").accepted == 600 and len(imports.events()) == 900


@pytest.fixture
def held(imports: Imports) -> Iterator[None]:
    """Somebody else writes to the archive."""
    with Place.of(imports.url).locked():
        yield


@pytest.mark.usefixtures("held")
def test_two_imports_do_not_write_at_once(imports: Imports, tmp_path: Path) -> None:
    """Each would not know what the other accepts."""
    with pytest.raises(StoreLocked):
        imports(_file(tmp_path / "h.jsonl", _mixed(3)))


def test_a_strangers_file_among_the_imported_ends_it(imports: Imports, tmp_path: Path) -> None:
    """What it holds is not known."""
    folder = Path(imports.url) / "imported"
    folder.mkdir(parents=True)
    (folder / "x.parquet").write_bytes(b"x")
    with pytest.raises(ArchiveError, match="is no file of an archive"):
        imports(_file(tmp_path / "h.jsonl", _mixed(3)))
