"""The manifest: whole or absent, and never another generation's."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.errors import GenerationMismatch, GenerationUnavailable, StoreCorrupt
from forebay.store.generation import MANIFEST, Generation, numeric_platform


def _new() -> Generation:
    return Generation.new("g1", "ab12", {"user": 8, "item": 4}, {"behaviour": {0: 10, 7: 3}})


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Offsets keep their integer partitions, and nothing else is left in the folder."""
    _new().save(tmp_path / "g1")
    replaced = _new()
    replaced.save(tmp_path / "g1")
    assert Generation.load(tmp_path / "g1", name="g1", bundle_hash="ab12") == replaced
    assert [path.name for path in (tmp_path / "g1").iterdir()] == [MANIFEST]


def test_another_generation_is_a_mismatch(tmp_path: Path) -> None:
    """Law 4, at the door."""
    _new().save(tmp_path)
    with pytest.raises(GenerationMismatch, match="bundle"):
        Generation.load(tmp_path, bundle_hash="other")
    with pytest.raises(GenerationMismatch, match="name"):
        Generation.load(tmp_path, name="g2")


def test_no_manifest_and_half_a_manifest_are_told_apart(tmp_path: Path) -> None:
    """The first asks for a backfill, the second says that bytes are damaged."""
    with pytest.raises(GenerationUnavailable):
        Generation.load(tmp_path)
    _new().save(tmp_path)
    data = (tmp_path / MANIFEST).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"{}", b"\xff\xfe"):
        (tmp_path / MANIFEST).write_bytes(damaged)
        with pytest.raises(StoreCorrupt):
            Generation.load(tmp_path)


def test_the_platform_names_what_numbers_depend_on() -> None:
    """Processor, libraries and device, without importing any of them."""
    text = numeric_platform("cuda:0")
    assert all(word in text for word in ("torch ", "numpy ", "numba ", "cuda:0"))
