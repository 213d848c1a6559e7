"""Where the tests' folders are: see scratch.py."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from . import scratch


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in the place of memory that has room enough; TMPDIR is not set."""
    monkeypatch.setenv("TMPDIR", "")  # so that what is set here is taken away again
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    monkeypatch.setattr(scratch, "MEMORY", str(tmp_path))
    monkeypatch.setattr(scratch, "ROOM_BYTES", 1)
    return str(tmp_path)


def test_folders_are_in_memory_where_there_is_room(memory: str) -> None:
    """Those of this process, and those of the ones that it starts."""
    scratch.choose()
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == memory


def test_a_place_that_is_named_stays(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever starts the tests."""
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    scratch.choose()
    assert os.environ["TMPDIR"] == "/elsewhere"


@pytest.mark.parametrize(("name", "value"), [("ROOM_BYTES", 1 << 62), ("MEMORY", "/nowhere")])
def test_a_small_memory_and_none_are_left_alone(
    name: str, value: object, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has 64 MiB of it unless it was asked for more."""
    monkeypatch.setattr(scratch, name, value)
    scratch.choose()
    assert "TMPDIR" not in os.environ
