"""What is printed at a terminal of 80 columns: tables wrap or become blocks, and no name is cut."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from rich.cells import cell_len

from forebay.cli import console, demo_story, lookup
from forebay.retrieval.messages import EntityResponse, Hit, RankResponse, SegmentEntry, SegmentFreshness
from forebay.segments.spec import load_spec

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "segments" / "movielens.toml"
WIDTH = 80
Print = Callable[[Callable[[], None]], str]


@pytest.fixture(scope="module")
def narrow() -> Iterator[Print]:
    """`narrow(call)`: what the call prints on a console of 80 columns."""
    kept = console.out.width
    console.out.width = WIDTH

    def text(call: Callable[[], None]) -> str:
        with console.out.capture() as said:
            call()
        return str(said.get())

    yield text
    console.out.width = kept


WORDS = some.text("abcdefghij-_.:/é漢", min_size=1, max_size=24)
ROWS = some.integers(1, 9).flatmap(
    lambda width: some.tuples(
        some.lists(WORDS, min_size=width, max_size=width, unique=True),
        some.lists(some.lists(some.lists(WORDS, max_size=6).map(" ".join), min_size=width, max_size=width), max_size=4),
    )
)


@settings(max_examples=100, deadline=None)
@given(ROWS, some.integers(0, 9))
def test_a_table_loses_no_word_and_no_line_is_too_long(
    narrow: Print, table: tuple[list[str], list[list[str]]], numbers: int
) -> None:
    """Whatever is in it: each word of each cell stands whole on one line, and no line is wider than the terminal."""
    columns, rows = table
    said = narrow(lambda: console.print_table(columns, rows, right=columns[len(columns) - numbers :]))
    for line in said.splitlines():
        assert cell_len(line) <= WIDTH
    for cell in [c for row in rows for c in row]:
        for word in cell.split():
            assert word in said, said


def test_every_verb_prints_its_tables_this_way() -> None:
    """Nothing but the console makes a table of its own."""
    for path in (ROOT / "src" / "forebay" / "cli").glob("*.py"):
        assert path.name == "console.py" or "rich.table" not in path.read_text(), path


NAMES = ["a_rather_long_name_of_a_segment_of_the_spec", "another_long_name_of_a_segment", "short", "affinity", "next"]
ITEM = "catalogue:department/shelf/0000000000000000000000000000000000000000000001"


def _ranking(item: str) -> RankResponse:
    segments = {name: SegmentFreshness(1, 1, "fresh") for name in NAMES}
    return RankResponse([Hit(item, 1.25, True, dict.fromkeys(NAMES, 0.5))], "g1", "b" * 64, True, segments, {})


def test_lookups_keep_the_names_of_segments_and_items(narrow: Print) -> None:
    """Five segments, two of them with long names, and an item's whole id."""
    known = {name: SegmentEntry(SegmentFreshness(1, 1, "fresh")) for name in NAMES}
    said = narrow(lambda: lookup._show_entity(EntityResponse("user", "u1", True, "g1", "b" * 64, 0, known)))
    assert all(name in said for name in NAMES)
    for use in ("rank", "retrieve"):
        said = narrow(lambda use=use: lookup._show_ranking(_ranking(ITEM), use, 200))  # type: ignore[misc]
        assert ITEM in said and all(name in said for name in NAMES)


def test_the_demo_tells_whole_titles(narrow: Print, monkeypatch: pytest.MonkeyPatch) -> None:
    """A title of 54 letters, twice in a row of the two rankings: wrapped between words, and whole."""
    monkeypatch.setattr(demo_story, "SHOWN", 1)
    title = "Wallace & Gromit: The Best of Aardman Animation (1996)"
    story = demo_story.Story("u", "Drama", [], ["i"], {"i": {"genres": ["Drama"]}}, {"i": title})
    said = narrow(lambda: demo_story.show(story, _ranking("i"), _ranking("i")))
    assert all(cell_len(line) <= WIDTH for line in said.split("moved most")[0].splitlines())
    table = said.split("moved most")[0].split()
    assert all(table.count(word) == 2 for word in title.split())


def _at_a_terminal(*words: str, folder: Path) -> str:
    """What a verb prints on a pseudo-terminal of 80 columns."""
    main, other = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": str(WIDTH), "TERM": "dumb"}
    command = [sys.executable, "-m", "forebay.cli", *words]
    child = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, cwd=folder, env=environment)
    os.close(other)
    said = b""
    try:
        while part := os.read(main, 65536):
            said += part
    except OSError:  # the other end was closed: how a terminal ends on Linux
        pass
    os.close(main)
    child.wait(60)
    return said.decode().replace("\r\n", "\n")


def test_a_spec_is_shown_with_whole_names(tmp_path: Path) -> None:
    """Segments, encoders and features of `spec check`; no line is wider than the terminal."""
    said = _at_a_terminal("spec", "check", str(SPEC), folder=tmp_path)
    for segment in load_spec(SPEC).segments:
        assert segment.title in said and segment.encoder.kind in said
    table = said.partition("state of one entity")[0]
    assert "…" not in table and max(map(cell_len, table.splitlines())) <= WIDTH


def test_the_doctor_and_the_settings_keep_their_addresses(tmp_path: Path) -> None:
    """A broker's name of 120 letters is there whole."""
    broker = "a-broker-with-a-long-name." * 4 + "example:9092"
    (tmp_path / "forebay.toml").write_text(f'bootstrap = "{broker}"\n')
    assert broker in _at_a_terminal("config", folder=tmp_path)
    assert broker in _at_a_terminal("doctor", folder=tmp_path)
