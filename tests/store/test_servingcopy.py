"""A copy shows what was written to it, after a restart too, and never what is another generation's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.arrays import Floats
from forebay.errors import GenerationMismatch
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import codec_of
from forebay.store.generation import Generation
from forebay.store.servingcopy import ServingCopy

NOW = 1_790_000_000_000
NOBODY = np.empty(0, np.int64)


@pytest.fixture
def opened(bundle: Bundle, tmp_path: Path) -> Callable[..., ServingCopy]:
    """`opened("g1")`: the copy of a generation, over the same folder each time."""

    def start(name: str = "g1", bundle: Bundle = bundle, folder: str = "") -> ServingCopy:
        generation = Generation.new(name, bundle.hash, dict.fromkeys(SIDES, 2), {})
        return ServingCopy.open(bundle, generation, tmp_path / (folder or name))

    return start


def _puts(
    bundle: Bundle, side: Side, ids: Sequence[str], seed: int, partition: int = 0
) -> list[tuple[str, int, bytes]]:
    codec, random = codec_of(bundle, side), np.random.default_rng(seed)
    rows = codec.empty(len(ids))
    for slot in codec.segments:
        part = rows["segments"][slot.name]
        part["vector"] = random.integers(-127, 128, (len(ids), slot.dim))
        part["scale"], part["as_of"], part["last_event"] = random.random(len(ids), np.float32), NOW, NOW - 5
    return [(entity, partition, value) for entity, value in zip(ids, codec.pack(rows, ids), strict=True)]


def _vectors(copy: ServingCopy, side: Side, ids: Sequence[str]) -> Floats:
    with copy.read(side, hash_ids(ids)) as rows:
        assert rows.names(np.flatnonzero(rows.found)) == [ids[i] for i in np.flatnonzero(rows.found)]
        return rows.vectors(np.arange(len(ids)), NOW)


def _search(copy: ServingCopy, query: Floats, k: int) -> list[str | None]:
    hashes = copy.search(query, k, NOBODY)
    with copy.read("item", hashes) as rows:
        return rows.names(np.arange(len(hashes)))


def test_what_is_written_is_read_and_found(opened: Callable[..., ServingCopy], bundle: Bundle) -> None:
    """On both sides, by name and by vector; what is gone is default, and in no search."""
    copy, ids = opened(), [f"i{n}" for n in range(20)]
    copy.write("item", _puts(bundle, "item", ids, 1), [], {0: NOW, 1: NOW}, {("v", 0): 20})
    copy.write("user", _puts(bundle, "user", ["u"], 2), [], {0: NOW, 1: NOW - 7}, {})
    assert copy.rows() == {"user": 1, "item": 20} and copy.as_of() == NOW - 7
    vectors = _vectors(copy, "item", ids)
    best = ids[int(np.argmax(vectors @ vectors[3]))]
    assert _search(copy, vectors[3], 1) == [best]
    assert hash_ids([best])[0] not in copy.search(vectors[3], 20, hash_ids([best]))
    copy.write("item", [], [best], {}, {("v", 0): 21})
    assert (_vectors(copy, "item", [best, "nobody"]) == copy.default("item")).all()
    assert best not in _search(copy, vectors[3], 20)
    copy.close()


def test_a_restart_shows_what_was_written(opened: Callable[..., ServingCopy], bundle: Bundle) -> None:
    """Rows, watermarks and the offsets to go on from."""
    ids = [f"i{n}" for n in range(50)]
    copy = opened()
    copy.write("item", _puts(bundle, "item", ids, 1), [], {0: NOW, 1: NOW}, {("v", 0): 50})
    copy.write("item", _puts(bundle, "item", ids[:3], 2), ids[10:12], {}, {("v", 0): 55})
    copy.write("user", [], [], {0: NOW, 1: NOW}, {("w", 1): 7})
    before = _vectors(copy, "item", ids)
    copy.close()
    copy = opened()
    assert len(copy) == 0 and copy.load() == 48
    assert (_vectors(copy, "item", ids) == before).all()
    assert copy.offsets() == {("v", 0): 55, ("w", 1): 7} and copy.as_of() == NOW
    assert len(copy.search(before[0], 100, NOBODY)) == 48
    copy.close()


def test_rows_of_another_bundle_are_refused_before_anything_is_kept(
    opened: Callable[..., ServingCopy], bundle: Bundle, other: Bundle
) -> None:
    """Law 4: neither a record nor a folder of another generation's gets in."""
    copy = opened()
    with pytest.raises(GenerationMismatch):
        copy.write("item", _puts(other, "item", ["i1"], 1), [], {0: NOW}, {("v", 0): 9})
    assert copy.rows()["item"] == 0 and copy.offsets() == {} and copy.as_of() == 0
    copy.close()
    with pytest.raises(GenerationMismatch):
        opened("g2", folder="g1")
    with pytest.raises(GenerationMismatch):
        opened("g1", bundle=other)
    opened().close()  # each refusal has let the folder go


def test_two_copies_in_one_process_know_nothing_of_each_other(
    opened: Callable[..., ServingCopy], bundle: Bundle, other: Bundle
) -> None:
    """One generation is served while another is fed: the same ids, and each its own vectors."""
    first, second = opened("g1"), opened("g2", bundle=other)
    first.write("item", _puts(bundle, "item", ["a", "b"], 1), [], {}, {})
    second.write("item", _puts(other, "item", ["b", "c"], 2), [], {}, {})
    mine, theirs = (_vectors(copy, "item", ["a", "b", "c"]) for copy in (first, second))
    assert (mine[2] == first.default("item")).all() and (theirs[0] == second.default("item")).all()
    assert (mine[1] != theirs[1]).any()
    first.write("item", [], ["a", "b"], {}, {})
    assert (_vectors(second, "item", ["a", "b", "c"]) == theirs).all()
    first.close()
    second.close()


@pytest.fixture
def other(bundle: Bundle) -> Any:
    """A bundle with other weights."""
    names = ("user.taste.layers.0.weight", "item.stats.layers.0.weight")
    changed = {name: bundle.tensors[name] * np.float32(2) for name in names}
    return Bundle(bundle.spec, {**bundle.tensors, **changed}, bundle.record)
