"""What a replica's process writes is what others read, after its end and its restart too."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.errors import GenerationMismatch, StoreLocked
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.store.codec import codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.indexkeeper import IndexOptions
from forebay.store.servingcopy import ServingCopy
from forebay.store.sharedcopy import SharedCopy
from forebay.store.tablefiles import TableLimits
from forebay.store.vectors import VectorStore

NOW = 1_790_000_000_000


@pytest.fixture
def generation(bundle: Bundle) -> Generation:
    return Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, 2), {})


@pytest.fixture
def feed(bundle: Bundle, generation: Generation, tmp_path: Path) -> Callable[[], FeedingCopy]:
    return lambda: FeedingCopy.open(bundle, generation, tmp_path / "vectors", tmp_path / "tables")


def _puts(bundle: Bundle, side: Side, ids: Sequence[str], seed: int) -> list[tuple[str, int, bytes]]:
    codec, random = codec_of(bundle, side), np.random.default_rng(seed)
    rows = codec.empty(len(ids))
    for slot in codec.segments:
        part = rows["segments"][slot.name]
        part["vector"] = random.integers(-127, 128, (len(ids), slot.dim))
        part["scale"], part["as_of"], part["last_event"] = random.random(len(ids), np.float32), NOW, NOW - 5
    return [(entity, 0, value) for entity, value in zip(ids, codec.pack(rows, ids), strict=True)]


def _known(copy: SharedCopy, side: Side, ids: Sequence[str]) -> list[str]:
    with copy.read(side, hash_ids(ids)) as rows:
        return [name for name in rows.names(np.arange(len(ids))) if name is not None]


def test_a_restart_makes_the_tables_equal_to_the_store(
    feed: Callable[[], FeedingCopy], bundle: Bundle, generation: Generation, tmp_path: Path
) -> None:
    """Rows that a killed replica wrote to its store alone are shown, and those that it deleted there are gone; a
    reader sees both without opening anything again."""
    ids = [f"i{n}" for n in range(40)]
    copy = feed()
    assert copy.load() == 0
    copy.write("item", _puts(bundle, "item", ids, 1), [], {0: NOW, 1: NOW}, {("v", 0): 40})
    copy.write("user", _puts(bundle, "user", ["u"], 2), [], {0: NOW, 1: NOW - 7}, {})
    shared = SharedCopy.open(bundle, generation, tmp_path / "tables")
    assert shared.rows() == copy.rows() == {"user": 1, "item": 40} and shared.as_of() == NOW - 7
    assert copy.store is not None
    copy.store.write("item", _puts(bundle, "item", ["i3", "new"], 9), ["i5"], {0: NOW + 9}, {("v", 0): 44})
    copy.close()
    assert _known(shared, "item", [*ids, "new"]) == ids  # nobody writes: what there was is answered
    copy = feed()
    assert copy.load() == 2 and copy.offsets() == {("v", 0): 44}
    assert _known(shared, "item", [*ids, "new"]) == [*(i for i in ids if i != "i5"), "new"] and not shared.retired
    with shared.read("item", hash_ids(["i3"])) as row:
        codes = b"".join(part.codes for part in row.stored(0))
    stored = codec_of(bundle, "item").unpack([_puts(bundle, "item", ["i3", "new"], 9)[0][2]])[0]
    assert codes == codec_of(bundle, "item").vectors(stored).tobytes()
    copy.close()


def test_one_process_feeds(feed: Callable[[], FeedingCopy]) -> None:
    copy = feed()
    with pytest.raises(StoreLocked):
        feed()
    copy.close()
    feed().close()


def test_a_record_of_another_bundle_is_refused_before_anything_is_kept(
    feed: Callable[[], FeedingCopy], bundle: Bundle
) -> None:
    """Law 4."""
    names = ("user.taste.layers.0.weight", "item.stats.layers.0.weight")
    changed = {name: bundle.tensors[name] * np.float32(2) for name in names}
    other = Bundle(bundle.spec, {**bundle.tensors, **changed}, bundle.record)
    copy = feed()
    with pytest.raises(GenerationMismatch):
        copy.write("item", _puts(other, "item", ["i1"], 1), [], {0: NOW}, {("v", 0): 9})
    assert copy.rows()["item"] == 0 and copy.offsets() == {} and copy.as_of() == 0
    copy.close()


def test_entities_that_there_is_no_room_for_are_told_of(bundle: Bundle, tmp_path: Path) -> None:
    """The others are written, in the same batch too, and watermarks go on."""
    codecs = {side: codec_of(bundle, side) for side in SIDES}
    limits = TableLimits(reserve_rows=10, reserve_name_bytes=1 << 20, least_extent_bytes=1)
    parts = (bundle, "g1", codecs, dict.fromkeys(SIDES, 1), tmp_path)
    copy = FeedingCopy(*parts, limits=limits)
    ids = [f"i{n}" for n in range(15)]
    copy.write("item", _puts(bundle, "item", ids, 1), [], {0: NOW}, {})
    shared = SharedCopy(*parts, limits=limits)
    assert "5 new ids of 15 are not served" in copy.full
    assert _known(shared, "item", ids) == ids[:10] and shared.as_of() == 0 and copy.rows()["item"] == 10
    copy.write("item", _puts(bundle, "item", ids[10:12], 1), ids[:2], {}, {})
    assert _known(shared, "item", ids) == ids[2:12]
    copy.close()


def test_tables_that_have_what_the_store_has_are_not_read_again(
    feed: Callable[[], FeedingCopy], bundle: Bundle, generation: Generation, tmp_path: Path
) -> None:
    """A restart reads nothing then; of a store that is one batch further it reads that batch, deletions among it."""
    copy = feed()
    copy.load()
    copy.write("item", _puts(bundle, "item", ["i1", "i2", "i3"], 1), [], {}, {("v", 0): 3})
    copy.close()
    copy = feed()
    assert copy.load() == 0 and copy.rows()["item"] == 3
    shared = SharedCopy.open(bundle, generation, tmp_path / "tables")
    assert copy.store is not None
    copy.store.write("item", _puts(bundle, "item", ["i2", "i9"], 5), ["i1"], {0: NOW, 1: NOW}, {("v", 0): 6})
    copy.close()  # as if it was killed before the tables had it
    copy = feed()
    assert copy.load() == 2 and _known(shared, "item", ["i1", "i2", "i3", "i9"]) == ["i2", "i3", "i9"]
    with shared.read("item", hash_ids(["i2"])) as row:
        codes = b"".join(part.codes for part in row.stored(0))
    rows = codec_of(bundle, "item").unpack([_puts(bundle, "item", ["i2", "i9"], 5)[0][2]])[0]
    assert codes == codec_of(bundle, "item").vectors(rows).tobytes()
    copy.close()
    copy = feed()
    assert copy.load() == 0
    copy.close()


def test_tables_that_another_store_filled_are_read_anew(
    feed: Callable[[], FeedingCopy], bundle: Bundle, generation: Generation, tmp_path: Path
) -> None:
    """A store that was deleted and filled again may be as long as the one before it, and hold other rows."""
    for seed in (1, 2):
        copy = feed()
        assert copy.load() == 0
        copy.write("item", _puts(bundle, "item", [f"i{seed}", "i9"], seed), [], {}, {("v", 0): 2})
        copy.close()
        if seed == 1:
            shutil.rmtree(tmp_path / "vectors")
    shared = SharedCopy.open(bundle, generation, tmp_path / "tables")
    assert _known(shared, "item", ["i1", "i2", "i9"]) == ["i2", "i9"]


@pytest.mark.parametrize("ahead", [2, 5])
def test_a_store_that_is_further_by_more_than_a_batch_is_read_whole(
    feed: Callable[[], FeedingCopy], bundle: Bundle, generation: Generation, tmp_path: Path, ahead: int
) -> None:
    copy = feed()
    copy.load()
    copy.write("item", _puts(bundle, "item", ["a", "b"], 1), [], {}, {})
    copy.close()
    with VectorStore.open(tmp_path / "vectors", create=False, generation="g1", bundle_hash=bundle.hash) as store:
        for n in range(ahead):
            store.write("item", _puts(bundle, "item", [f"n{n}"], 2), ["a"], {}, {})
    copy = feed()
    assert copy.load() == 1 + ahead
    shared = SharedCopy.open(bundle, generation, tmp_path / "tables")
    ids = ["a", "b", *(f"n{n}" for n in range(ahead))]
    assert _known(shared, "item", ids) == ids[1:]
    copy.close()


def test_both_copies_gather_items_by_what_retrieve_reads(spec_tables: dict[str, Any], tmp_path: Path) -> None:
    """A segment that it does not read has no part in the lists."""
    tables = deepcopy(spec_tables)
    tables["fusion"] = {"retrieve": {"kind": "weighted_sum", "user": ["recent"], "item": ["content"]}}
    model = untrained(parse_spec(tables), hash_ids(["i1"]))
    parts = (model, "g1", {side: codec_of(model, side) for side in SIDES}, dict.fromkeys(SIDES, 1))
    lists, ids = IndexOptions(flat_rows=50), [f"i{n}" for n in range(300)]
    feeding, own = FeedingCopy(*parts, tmp_path, index=lists), ServingCopy(*parts, index=lists)
    read = np.zeros(model.fusions["retrieve"].shape.item_dim, bool)
    read[model.fusions["retrieve"].shape.item_columns] = True
    assert 0 < read.sum() < len(read)
    for copy in feeding, own:
        rows = parts[2]["item"].empty(len(ids))
        for slot in parts[2]["item"].segments:
            part = rows["segments"][slot.name]
            part["vector"] = np.random.default_rng(1).integers(-127, 128, (len(ids), slot.dim))
            part["scale"], part["as_of"] = 0.01, NOW
        copy.show("item", ids, rows, [0] * len(ids))
        copy._index.settle()
        frozen = copy._index.keeper.frozen
        assert frozen is not None and frozen.ivf.centroids[:, read].any() and not frozen.ivf.centroids[:, ~read].any()
    feeding.close()
