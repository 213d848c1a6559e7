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


@pytest.mark.parametrize("unread", [0, 1, 2], ids=["the first", "one between", "the last"])
def test_segments_that_a_query_has_zeros_for_are_not_read(tmp_path: Path, unread: int) -> None:
    """What is there may be anything: the three ways over rows find what they find of the other segments alone. One that
    has expired is the default one still."""
    random, dims = np.random.default_rng(5), [70, 9, 130]  # lines apart, or in one
    codec = RowCodec("item", tuple(SlotSpec(f"s{d}", n, d) for d, n in enumerate(dims)))
    identity, ids = Identity("g1", "b" * 64, RowLayout(codec), 1), [f"i{n}" for n in range(200)]
    rows = codec.empty(200)
    for number, segment in enumerate(codec.segments):
        part = rows["segments"][segment.name]
        part["vector"], part["as_of"] = random.integers(-127, 128, (200, segment.dim)), random.integers(5, 9, 200)
        part["scale"] = np.nan if number == unread else random.random(200)
    table = SharedTable(tmp_path, identity, LIMITS)
    table.upsert(ids, rows, [0] * 200)
    reader, hashes, default = TableReader(tmp_path, identity, LIMITS), hash_ids(ids), np.zeros(3, np.float32)
    bounds, query = codec.bounds, random.normal(size=codec.dim).astype("f4")
    query[bounds[unread] : bounds[unread + 1]] = 0
    codes, scales = codec.vectors(rows).astype(np.float64), codec.column(rows, "scale")
    parts = [
        np.zeros(200) if s == unread else codes[:, a:b] @ query[a:b] * scales[:, s]
        for s, (a, b) in enumerate(itertools.pairwise(bounds))
    ]
    whole, none, fresh = np.sum(parts, axis=0), np.zeros(0, np.float32), np.ones(3, np.int64)
    order, near = np.argsort(-whole, kind="stable"), 1e-5 * 127 * float(np.abs(query).sum())
    np.testing.assert_allclose(reader.dots(hashes, query, default, fresh)[0], whole, rtol=0, atol=near)
    assert reader.best(query, 20, hashes[:0]).tolist() == hashes[order[:20]].tolist()
    passed = reader.best_by_dots(hashes, np.zeros(200, np.bool_), none, 20, fresh, query, default, np.float32(0.5))
    assert passed is not None and passed.best.tolist() == order[:20].tolist()
    np.testing.assert_allclose(passed.scores[passed.best], whole[order[:20]] + 0.5, rtol=0, atol=near)
    old, stand_in = np.where(np.arange(3) == (unread + 1) % 3, 7, 1), np.array([1, 2, 4], np.float32)
    expired = codec.column(rows, "as_of")[:, (unread + 1) % 3] < 7
    replaced = whole + np.where(expired, stand_in[(unread + 1) % 3] - parts[(unread + 1) % 3], 0)
    np.testing.assert_allclose(reader.dots(hashes, query, stand_in, old)[0], replaced, rtol=0, atol=near)
    table.close()


def test_a_query_of_zeros_reads_no_codes(tmp_path: Path) -> None:
    """All rows score alike, and the first of them are the best."""
    codec = RowCodec("item", (SlotSpec("a", 24, 1),))
    identity, ids = Identity("g1", "b" * 64, RowLayout(codec), 1), [f"i{n}" for n in range(30)]
    rows = codec.empty(30)
    rows["segments"]["a"]["scale"] = np.nan
    table = SharedTable(tmp_path, identity, LIMITS)
    table.upsert(ids, rows, [0] * 30)
    reader, hashes, query = TableReader(tmp_path, identity, LIMITS), hash_ids(ids), np.zeros(24, np.float32)
    assert (reader.dots(hashes, query, np.zeros(1, np.float32), np.zeros(1, np.int64))[0] == 0).all()
    assert reader.best(query, 5, hashes[:0]).tolist() == hashes[:5].tolist()
    table.close()
