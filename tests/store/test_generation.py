"""The manifest: whole or absent, and never another generation's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
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


def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path: Path) -> None:
    """An offset with one digit changed is a valid manifest of another cut: a third of all flips were loaded."""
    _new().save(tmp_path)
    whole = (tmp_path / MANIFEST).read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / MANIFEST).write_bytes(flipped)
        with pytest.raises(StoreCorrupt, match="backfill --generation") as caught:
            Generation.load(tmp_path, name="g1")
        assert caught.value.where == str(tmp_path / MANIFEST), bit


def test_a_manifest_of_an_older_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    """Nothing says that it is damaged, and building its generation anew takes hours. No flip makes a new one look like
    it."""
    (tmp_path / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(_new()), indent=2) + b"\n")
    assert Generation.load(tmp_path, name="g1").cut == {"behaviour": {0: 10, 7: 3}}


def test_fields_of_a_later_version_do_not_keep_a_manifest_from_being_read(tmp_path: Path) -> None:
    """The checksum is over the bytes as they lie there, not over what this version knows of them."""
    _new().save(tmp_path)
    file = msgspec.json.decode((tmp_path / MANIFEST).read_bytes())
    later = msgspec.json.encode({**file["generation"], "index": "ivf"})
    sealed = {"sha256": hashlib.sha256(later).hexdigest(), "generation": msgspec.Raw(later), "signed_by": "nobody"}
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(sealed))
    assert Generation.load(tmp_path, name="g1").cut == {"behaviour": {0: 10, 7: 3}}


def test_the_platform_names_what_numbers_depend_on() -> None:
    """Processor, libraries and device, without importing any of them."""
    text = numeric_platform("cuda:0")
    assert all(word in text for word in ("torch ", "numpy ", "numba ", "encoders ", "cuda:0"))


def test_a_manifest_without_since_is_of_segments_that_know_everything(tmp_path: Path) -> None:
    """Those of before have no such field; what it says is kept."""
    told = Generation.new("g2", "ab12", {"user": 8, "item": 4}, {}, since={"user.late": 12})
    told.save(tmp_path)
    assert Generation.load(tmp_path).since == {"user.late": 12}
    inner = msgspec.to_builtins(told)
    del inner["since"]
    data = msgspec.json.encode(inner)
    sealed = {"sha256": hashlib.sha256(data).hexdigest(), "generation": msgspec.Raw(data)}
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(sealed))
    assert Generation.load(tmp_path) == msgspec.structs.replace(told, since={})
