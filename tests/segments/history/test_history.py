"""A history from a file: what is read, and that the first bad line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.errors import UsageError
from forebay.events import Behaviour, Event, ItemUpdate, Tick, UserProfile, encode
from forebay.segments.history import History

GOOD: list[Behaviour | UserProfile | ItemUpdate] = [
    Behaviour("u", "i", "view", 1.0, 30, "c"),
    UserProfile("u", {"age": 3.0}, 5, "p"),
    Behaviour("u", "i", "view", 1.0, 10, "b"),
    ItemUpdate("i", {"genres": ["war"]}, 7, "p"),
    Behaviour("u", "i", "view", 1.0, 10, "a"),
]


def _file(folder: Path, *lines: bytes) -> Path:
    path = folder / "events.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_a_file_is_read_in_order_of_time(tmp_path: Path) -> None:
    """Behaviours by (time, id), beside profiles and items; the same as from memory."""
    read = History.read(_file(tmp_path, *map(encode, GOOD)))
    assert [b.id for b in read.behaviours] == ["a", "b", "c"]
    assert read.profiles == [GOOD[1]] and read.items == [GOOD[3]]
    assert list(read.events()) == list(History.of(GOOD).events())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"", "not an event"),
        (b"not json", "not an event"),
        (b'{"type":"purchase","user":"u"}', "not an event"),
        (b'{"type":"behaviour","user":"u"}', "not an event"),
        (encode(Behaviour("", "i", "view", 1.0, 1, "e")), "not an event"),
        (encode(Behaviour("u", "i", "view", 1e6, 1, "e")), "not an event"),
        (encode(Behaviour("u", "i", "view", 1.0, None, "e")), "without a time or an id"),
        (encode(Behaviour("u", "i", "view", 1.0, 1, None)), "without a time or an id"),
        (encode(Tick(1)), "ticks are the Intake's"),
        (b'{"type":"interaction","item":"i","user":"u","action":"view","time":1,"id":"e"}', "not an event"),
    ],
)
def test_the_first_bad_line_is_named(line: bytes, what: str, tmp_path: Path) -> None:
    """The path and the number of the line, from one, with what to do."""
    good: Event = GOOD[0]
    path = _file(tmp_path, encode(good), encode(good), line, b"worse")
    with pytest.raises(UsageError, match=what) as caught:
        History.read(path)
    assert caught.value.where == f"{path}, line 3" and caught.value.do


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(UsageError, match="no such file") as caught:
        History.read(tmp_path / "none.jsonl")
    assert caught.value.where == str(tmp_path / "none.jsonl")


def test_before_is_strict() -> None:
    """Behaviours of the moment itself are not before it; attributes stay."""
    history = History.of(GOOD)
    assert [b.id for b in history.before(30).behaviours] == ["a", "b"]
    assert history.before(10).behaviours == [] and history.before(10).items == history.items


def test_a_moment_is_the_time_of_the_behaviour_at_that_share() -> None:
    """0 is the first one's, 1 the last one's."""
    history = History.of(GOOD)
    assert [history.moment(share) for share in (0.0, 0.5, 0.7, 1.0)] == [10, 10, 30, 30]
    with pytest.raises(UsageError, match="no behaviour"):
        History.of([]).moment(0.5)


def test_a_behaviour_that_comes_twice_is_taken_once() -> None:
    """One of the same user, time and id, as the Intake would tell; nobody behind it looks again."""
    other = [
        Behaviour("v", "i", "view", 1.0, 10, "a"),
        Behaviour("u", "i", "view", 1.0, 11, "a"),
        Behaviour("u", "i", "view", 1.0, 10, "aa"),
    ]
    again = [Behaviour("u", "j", "buy", 2.0, 10, "a"), *other, GOOD[0]]
    found = History.of([*GOOD, *again]).behaviours
    assert len(found) == 6 and all(b in found for b in other) and found[0] == GOOD[4]
