"""`forebay checkpoints list|show|prune`, as people and programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.cli.app import app
from forebay.store.checkpoints import Checkpoints, about
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow

Verb = Callable[..., tuple[int, str]]


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Three Checkpoints of a user partition, one of an item partition."""
    kept = Checkpoints(str(tmp_path / "kept"))
    for of, offsets in (("g1/user-0", (100, 200, 300)), ("g1/item-0", (50,))):
        with PartitionStore.open(tmp_path / of, create=True) as store:
            for offset in offsets:
                meta = PartitionMeta("events.user", 0, "topic-1", 1, "layout", offset, as_of=1_790_000_000_000)
                store.write(meta=meta, puts=[(b"u%d" % offset, StoredRow(b"state", b"v"))])
                store.snapshot(tmp_path / f"copy-{offset}")
                kept.save(tmp_path / f"copy-{offset}", about(of, meta, 1_790_000_001_000))
    return kept.url


@pytest.fixture
def verb(place: str) -> Verb:
    """`verb("list", "--json")`: the exit code, and what is printed."""

    def run(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["checkpoints", *words, "--checkpoints", place], standalone_mode=False)
        if found.exception is not None:
            raise found.exception
        return int(found.return_value or 0), found.stdout

    return run


def test_the_newest_of_each_store_is_listed_first(verb: Verb) -> None:
    """A table for people, and the same for programs."""
    code, shown = verb("list")
    found = json.loads(verb("list", "--json")[1])
    assert code == 0
    assert [(one["of"], one["offset"]) for one in found] == [
        ("g1/item-0", 50), ("g1/user-0", 300), ("g1/user-0", 200), ("g1/user-0", 100),
    ]  # fmt: skip
    assert all(one["checkpoint"] in shown for one in found) and "g1/user-0" in shown


def test_one_is_shown_with_its_files(verb: Verb) -> None:
    """The newest of a store, or one by its name."""
    newest = json.loads(verb("show", "g1/user-0", "--json")[1])
    assert newest["offset"] == 300 and sum(file["bytes"] for file in newest["files"]) == newest["bytes"]
    older = json.loads(verb("list", "--json")[1])[2]
    _, shown = verb("show", f"g1/user-0/{older['checkpoint']}")
    assert "200" in shown and "2026-09-21T14:13:20+00:00" in shown and "CURRENT" in shown


@pytest.mark.parametrize("of", ["g1", "g1/user-7", "g1/user-0/none", "nonsense"])
def test_one_that_is_not_there_is_a_usage_error(of: str, verb: Verb) -> None:
    """With the command that says which are."""
    with pytest.raises(Exception, match="Run: forebay checkpoints list"):
        verb("show", of)


def test_prune_counts_first_and_removes_then(verb: Verb) -> None:
    """The newest stay."""
    assert json.loads(verb("prune", "--keep", "1", "--dry-run", "--json")[1])["checkpoints"] == 2
    assert len(json.loads(verb("list", "--json")[1])) == 4
    code, shown = verb("prune", "--keep", "1")
    assert code == 0 and "removed 2 checkpoints" in shown
    assert [one["offset"] for one in json.loads(verb("list", "--json")[1])] == [50, 300]


def test_a_manifest_that_cannot_be_read_is_told_and_the_others_are_listed(verb: Verb, place: str) -> None:
    """Exit code 3."""
    manifest = min((Path(place) / "g1/user-0").glob("*.json"))
    manifest.write_bytes(b"not this")
    code, shown = verb("list", "--json")
    assert code == 3 and [one["offset"] for one in json.loads(shown)] == [50, 300, 200]


def test_an_empty_place_says_so(tmp_path: Path) -> None:
    """And what makes one."""
    found = CliRunner().invoke(app, ["checkpoints", "list", "--checkpoints", str(tmp_path)], standalone_mode=False)
    assert "a worker makes one of each partition" in found.stdout
