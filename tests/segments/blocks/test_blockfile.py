"""Blocks come out of a file as they went in, and a file that ends too early says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.errors import BlockError
from forebay.events import Behaviour
from forebay.segments.blocks import blockfile
from forebay.segments.blocks.build import block_of, events_of


def _events(first: int, count: int) -> list[Behaviour]:
    return [Behaviour(f"u{n}", "i", "view", 1.0, n + 1, f"e{n}", {"a": ["b"]}) for n in range(first, first + count)]


def test_blocks_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """However often the file was opened; one that was never written is empty."""
    path = tmp_path / "file"
    assert list(blockfile.read(path)) == []
    for first in (0, 3, 9):
        events = _events(first, first + 1)
        none = [0] * len(events)
        blockfile.append(path, block_of(events, none, none, none, ("s/0",)))
    assert [e for b in blockfile.read(path) for e in events_of(b)] == [*_events(0, 1), *_events(3, 4), *_events(9, 10)]


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_a_file_that_ends_too_early_is_refused(cut: int, tmp_path: Path) -> None:
    """In the lengths as well as in a block: what is there before it is read, and no more."""
    path = tmp_path / "file"
    for first in (0, 1):
        blockfile.append(path, block_of(_events(first, 1), [0], [0], [0], ("s/0",)))
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[: half + cut])
    found = blockfile.read(path)
    assert events_of(next(found)) == _events(0, 1)
    with pytest.raises(BlockError):
        next(found)
