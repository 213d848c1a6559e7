"""A file is whole or absent: replaced at once, and left as it was when a write fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay import files


def test_a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """The new bytes, shorter ones too, and no draft."""
    path = tmp_path / "manifest.json"
    for data in (b"the first, longer one", b"second", b""):
        files.write(path, data)
        assert path.read_bytes() == data
        assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_what_was_there_stays_when_a_write_fails(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any step before the name is the new file's."""
    path = tmp_path / "manifest.json"
    files.write(path, b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fails)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_bytes_are_on_the_disk_before_they_have_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the name is, before the call returns: else a crash could leave an empty file under it."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("name"), replace(*names))[1])
    files.write(tmp_path / "a", b"bytes")
    assert done == ["sync", "name", "sync"]
