"""What a reader's kernels make of rows, against their plain twins over copies of the rows."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.arrays import Bools, Doubles, Floats, Ints
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import HELD, RowCodec, SlotSpec
from forebay.store.rowlayout import RowLayout
from forebay.store.sharedtable import SharedTable
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader

LIMITS = TableLimits(reserve_rows=1 << 12, reserve_name_bytes=1 << 20, least_extent_bytes=4096)


def _carried(images: npt.NDArray[np.void], found: Bools, marks: Ints) -> Ints:
    held = images["flags"] & HELD != 0
    mark = np.where(held, 0, marks[images["partition"]][:, None])
    return np.where(found[:, None], np.maximum(images["as_of"], mark), 0)


def _dots(
    images: npt.NDArray[np.void],
    found: Bools,
    carried: Ints,
    query: Floats,
    bounds: Ints,
    default: Floats,
    oldest: Ints,
) -> Doubles:
    scores = []
    for image, there, times in zip(images, found.tolist(), carried, strict=True):
        parts = [
            default[s]
            if not there or times[s] < oldest[s]
            else image["scale"][s] * (image["codes"][a:b].astype(np.float64) @ query[a:b])
            for s, (a, b) in enumerate(itertools.pairwise(bounds))
        ]
        scores.append(sum(parts))
    return np.array(scores, np.float64)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), dims=st.lists(st.integers(1, 40), min_size=1, max_size=5), width=st.integers(0, 70)
)
def test_fused_reads_equal_plain_ones(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dims: list[int], width: int
) -> None:
    """Scores to 1e-5 of the sum's size; halves and times to the bit. Some rows are unknown, expired, or held."""
    random, codec = (
        np.random.default_rng(seed),
        RowCodec("item", tuple(SlotSpec(f"s{d}", n, d) for d, n in enumerate(dims))),
    )
    identity = Identity("g1", "b" * 64, RowLayout(codec, width), 3)
    folder: Path = tmp_path_factory.mktemp("table")
    table = SharedTable(folder, identity, LIMITS)
    rows = codec.empty(60)
    for segment in codec.segments:
        part = rows["segments"][segment.name]
        part["vector"] = random.integers(-127, 128, (60, segment.dim))
        part["scale"], part["flags"] = random.random(60), random.integers(0, 4, 60)
        part["as_of"], part["last_event"] = random.integers(0, 1000, 60), random.integers(0, 1000, 60)
    table.upsert(
        [f"i{n}" for n in range(60)], rows, random.integers(0, 3, 60), random.normal(size=(60, width)).astype("f4")
    )
    for partition in range(3):
        table.advance(partition, int(random.integers(0, 1000)))
    reader = TableReader(folder, identity, LIMITS)
    hashes = hash_ids([f"i{n}" for n in random.integers(0, 80, 100)])
    query, default = random.normal(size=codec.dim).astype("f4"), random.normal(size=len(dims)).astype("f4")
    oldest = random.integers(1, 1000, len(dims))
    images, whole, found, places = reader.read(hashes)
    carried = _carried(images, found, reader.watermarks)
    scores, times, there, at = reader.dots(hashes, query, default, oldest)
    assert (there == found).all() and (at == places).all() and (places[~found] == -1).all()
    plain = _dots(images, found, carried, query, codec.bounds, default, oldest)
    np.testing.assert_allclose(scores, plain, rtol=0, atol=1e-5 * (1 + np.abs(plain).max()) * 10)
    halves, again, there, at = reader.halves(hashes)
    assert (there == found).all() and (at == places).all() and (halves == images["half"].astype(np.float32)).all()
    for each in (whole, times, again):
        assert (each.as_of == carried).all()
        assert (each.last_event == images["last_event"]).all() and (each.flags == images["flags"]).all()
    table.close()


def test_the_best_rows_are_the_best_of_all(tmp_path: Path) -> None:
    """Exactly those that a product over all rows has highest, without denied and deleted ones, in that order."""
    random, codec = np.random.default_rng(4), RowCodec("item", (SlotSpec("a", 24, 1), SlotSpec("b", 8, 2)))
    identity = Identity("g1", "b" * 64, RowLayout(codec), 1)
    table, ids = SharedTable(tmp_path, identity, LIMITS), [f"i{n}" for n in range(300)]
    rows = codec.empty(300)
    for segment in codec.segments:
        part = rows["segments"][segment.name]
        part["vector"], part["scale"] = random.integers(-127, 128, (300, segment.dim)), random.random(300)
    table.upsert(ids, rows, [0] * 300)
    table.delete(ids[50:90])
    reader, query = TableReader(tmp_path, identity, LIMITS), -np.ones(32, np.float32)
    vectors = codec.vectors(rows) * np.repeat(codec.column(rows, "scale"), [24, 8], axis=1)
    order = np.argsort(-(vectors.astype(np.float64) @ query), kind="stable").tolist()
    hashes = hash_ids(ids)
    deny = hashes[order[:40]]
    for denied in (deny[:0], deny):
        left = [n for n in order if not 50 <= n < 90 and hashes[n] not in denied]
        assert reader.best(query, 25, denied).tolist() == hashes[left[:25]].tolist()
        assert len(reader.best(query, 1000, denied)) == len(left)
    table.close()
